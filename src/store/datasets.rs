//! The rows of datasets: versions of a name, frozen once they are built, and what their lines are
//! made of. The lines themselves lie in the object store.

use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use thiserror::Error;
use uuid::Uuid;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::interaction::Kind;
use super::ledger::BadParameter;
use super::objects::Objects;
use super::strip::delete_objects;

/// Datasets of one page when nobody says how many, and the most that anybody gets.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 100;
/// Items of one statement.
const ITEMS: usize = 5000;

/// A dataset that is to be built.
#[derive(Clone, Debug)]
pub struct NewDataset<'a> {
    /// Its id.
    pub id: Uuid,
    /// In milliseconds since 1970. Only calls from before are read.
    pub created_at: i64,
    /// Whose it is.
    pub team: Option<&'a str>,
    /// Builds of one name are its versions.
    pub name: &'a str,
    /// `supervised` or `dpo`.
    pub method: &'a str,
    /// The whole recipe.
    pub recipe: &'a Value,
    /// Tells recipes apart.
    pub recipe_hash: &'a str,
}

/// One side of the split, as it lies in the object store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFile {
    /// Its key; none of a side without lines.
    pub key: Option<String>,
    /// 64 hex digits.
    pub sha256: String,
    /// Lines.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// As the model to be trained counts them.
    pub tokens: u64,
}

/// One line of a dataset, without its words.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetItem {
    /// The call that it was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interaction_id: Option<Uuid>,
    /// 16 hex digits.
    pub conversation_id: String,
    /// `train` or `valid`.
    pub split: &'static str,
    /// `captured`, `import` or `relabelled_human`.
    pub origin: &'static str,
    /// Tells lines apart: 32 hex digits.
    pub content_hash: String,
    /// As the model to be trained counts them.
    pub tokens: u64,
    /// Its place among all lines.
    pub ordinal: u64,
}

/// A dataset as its row tells.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetRow {
    object: &'static str,
    /// Its id.
    pub id: Uuid,
    /// In RFC 3339.
    pub created_at: String,
    /// Whose it is.
    pub team: Option<String>,
    /// Its name.
    pub name: String,
    /// Which build of this name.
    pub version: i64,
    /// `supervised` or `dpo`.
    pub method: String,
    /// What its lines are.
    pub format: String,
    /// `building`, `ready`, `failed` or `archived`.
    pub status: String,
    /// What it is made of.
    pub recipe: Value,
    /// Tells recipes apart.
    pub recipe_hash: String,
    /// The manifest: counts by reason, tokens, models, sides.
    pub stats: Value,
    /// What is learned.
    pub train: Option<SplitFile>,
    /// What is kept for validation.
    pub validation: Option<SplitFile>,
    /// Why it failed, or was archived.
    pub error: Option<DatasetError>,
    /// When it was built, in RFC 3339.
    pub frozen_at: Option<String>,
}

/// Why a dataset cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatasetError {
    /// For programs, such as `too_few_rows`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Which datasets are wanted.
#[derive(Clone, Debug, Default)]
pub struct DatasetQuery {
    after: Option<Uuid>,
    limit: Option<u32>,
    ascending: bool,
    name: Option<String>,
    status: Option<String>,
}

/// One page.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetPage {
    object: &'static str,
    /// The datasets, the newest first unless asked otherwise.
    pub data: Vec<DatasetRow>,
    first_id: Option<String>,
    /// Where the next page begins.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Why a dataset was not deleted.
#[derive(Debug, Error)]
pub enum NotDeleted {
    /// There is none.
    #[error("there is no such dataset")]
    Missing,
    /// It is being built, or a job was made with it.
    #[error("{0}")]
    InUse(&'static str),
    /// The store does not do it now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DatasetQuery {
    /// Reads parameters by their names.
    ///
    /// # Errors
    /// The first parameter that cannot be used.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BadParameter> {
        let mut query = Self::default();
        for (name, value) in parameters {
            query
                .set(name, value)
                .map_err(|message| BadParameter { name: name.to_owned(), message })?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "after" => {
                let id = Uuid::try_parse(value);
                self.after = Some(id.map_err(|_| format!("`{value}` is no dataset's id"))?);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                let wrong = || format!("`{value}` is not between 1 and {LARGEST_PAGE}");
                self.limit = Some(limit.ok_or_else(wrong)?);
            }
            "order" => {
                self.ascending = match value {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(format!("`{value}` is neither asc nor desc")),
                }
            }
            "name" => self.name = Some(value.to_owned()),
            "status" => self.status = Some(value.to_owned()),
            _ => {
                let known = "is no parameter; there are name, status, after, limit and order";
                return Err(known.to_owned());
            }
        }
        Ok(())
    }
}

/// Reads and writes datasets.
#[derive(Clone, Debug)]
pub struct Datasets {
    database: Database,
    pool: AnyPool,
}

impl Datasets {
    /// Those of this store, whose schema is brought up to date where it is not.
    ///
    /// # Errors
    /// The store is away.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        database.migrate().await?;
        Self::of(database)
    }

    /// Those of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.readers()?, database: database.clone() })
    }

    /// Where they are.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Where the files of datasets lie.
    pub fn objects(&self) -> Option<&Objects> {
        self.database.objects.as_ref()
    }

    /// Adds one that is to be built, as the next version of its name.
    ///
    /// # Errors
    /// The store is away.
    pub async fn create(&self, new: &NewDataset<'_>) -> Result<DatasetRow, StoreError> {
        self.database.within(self.insert(new)).await?;
        let row = self.find(&new.id.to_string()).await?;
        row.ok_or_else(|| self.database.gave_up(super::database::STATEMENT))
    }

    async fn insert(&self, new: &NewDataset<'_>) -> sqlx::Result<()> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        if self.database.engine == Engine::Postgres {
            // Two builds of one name are two versions.
            let lock = "lock table datasets in share row exclusive mode";
            sqlx::raw_sql(lock).execute(&mut *transaction).await?;
        }
        let sql = format!(
            "insert into datasets \
               (id, created_at, team, name, version, method, status, recipe, recipe_hash) \
             select {}, {}, $3, $4, coalesce(max(version), 0) + 1, $5, 'building', {}, $7 \
             from datasets where name = $4 and coalesce(team, '') = coalesce($3, '')",
            self.database.id(1),
            self.database.instant(2),
            self.json(6),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(new.id.to_string());
        let statement = statement.bind(new.created_at).bind(new.team).bind(new.name);
        let statement =
            statement.bind(new.method).bind(new.recipe.to_string()).bind(new.recipe_hash);
        statement.execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// One by its id, or the last version of a name, or a version as `name@3`.
    ///
    /// # Errors
    /// The store is away.
    pub async fn find(&self, named: &str) -> Result<Option<DatasetRow>, StoreError> {
        let (name, version) = match named.rsplit_once('@') {
            Some((name, version)) => (name, version.parse::<i64>().ok()),
            None => (named, None),
        };
        let (holds, bind) = match (Uuid::try_parse(named), version) {
            (Ok(id), _) => (format!("d.id = {}", self.database.id(1)), id.to_string()),
            (Err(_), Some(version)) => {
                (format!("d.name = $1 and d.version = {version}"), name.to_owned())
            }
            (Err(_), None) => ("d.name = $1".to_owned(), named.to_owned()),
        };
        let sql = format!(
            "select {} from datasets as d where {holds} order by d.version desc, d.id desc limit 1",
            self.object()
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(bind).fetch_optional(&self.pool).await;
        match row.and_then(|row| row.as_ref().map(read).transpose()) {
            Ok(row) => Ok(row),
            Err(error) => none_without_ledger(self.database.unreadable(&error), None),
        }
    }

    /// One page.
    ///
    /// # Errors
    /// The store is away.
    pub async fn page(&self, query: &DatasetQuery) -> Result<DatasetPage, StoreError> {
        match self.rows(query).await {
            Ok(rows) => Ok(page(rows, query.limit.unwrap_or(PAGE))),
            Err(error) => {
                none_without_ledger(self.database.unreadable(&error), page(Vec::new(), PAGE))
            }
        }
    }

    async fn rows(&self, query: &DatasetQuery) -> sqlx::Result<Vec<DatasetRow>> {
        let (beyond, order) = if query.ascending { (">", "asc") } else { ("<", "desc") };
        let mut binds = Vec::new();
        let mut holds = vec!["true".to_owned()];
        if let Some(after) = query.after {
            binds.push(after.to_string());
            holds.push(format!("d.id {beyond} {}", self.database.id(binds.len())));
        }
        for (column, value) in [("name", &query.name), ("status", &query.status)] {
            if let Some(value) = value {
                binds.push(value.clone());
                holds.push(format!("d.{column} = ${}", binds.len()));
            }
        }
        let sql = format!(
            "select {} from datasets as d where {} order by d.id {order} limit {}",
            self.object(),
            holds.join(" and "),
            query.limit.unwrap_or(PAGE) + 1,
        );
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        for bind in binds {
            statement = statement.bind(bind);
        }
        statement.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Says that a build goes on, in its n-th attempt: how many rows it has read, at a time in
    /// milliseconds since 1970. False where it is no longer wanted.
    ///
    /// # Errors
    /// The store is away.
    pub async fn beat(
        &self,
        id: Uuid,
        attempt: u64,
        rows: u64,
        now: i64,
    ) -> Result<bool, StoreError> {
        let set = format!("stats = {}", self.json(2));
        self.change(id, &set, &[progress(attempt, rows, now)]).await
    }

    /// The oldest dataset whose build gave no sign of life since a time in milliseconds since 1970;
    /// from now on it is the caller's.
    ///
    /// # Errors
    /// The store is away.
    pub async fn adopt(&self, before: i64, now: i64) -> Result<Option<DatasetRow>, StoreError> {
        match self.adopt_row(before, now).await {
            Ok(Some(id)) => self.find(&id).await,
            Ok(None) => Ok(None),
            Err(error) => none_without_ledger(self.database.unreadable(&error), None),
        }
    }

    async fn adopt_row(&self, before: i64, now: i64) -> sqlx::Result<Option<String>> {
        let silent = match self.database.engine {
            Engine::Sqlite => "coalesce(stats ->> 'at', created_at) < $1".to_owned(),
            Engine::Postgres => {
                let created = self.database.millis("created_at");
                format!("coalesce(cast(stats ->> 'at' as bigint), {created}) < $1")
            }
        };
        let sql = format!(
            "select cast(id as text), cast(stats as text) from datasets \
             where status = 'building' and {silent} order by id limit 1"
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(before).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (id, stats): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let stats: Value = serde_json::from_str(&stats).unwrap_or_default();
        let attempt = stats.get("attempt").and_then(Value::as_u64).unwrap_or(1) + 1;
        // Of two who see the same one, the second finds a sign of life.
        let sql = format!(
            "update datasets set stats = {} where id = {} and status = 'building' and {silent}",
            self.json(2),
            self.database.id(3)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(before);
        let statement = statement.bind(progress(attempt, 0, now)).bind(&id);
        let adopted = statement.execute(&self.pool).await?.rows_affected() > 0;
        Ok(adopted.then_some(id))
    }

    /// Forgets the items that an earlier try has written.
    ///
    /// # Errors
    /// The store is away.
    pub async fn forget_items(&self, id: Uuid) -> Result<(), StoreError> {
        let sql = format!("delete from dataset_items where dataset_id = {}", self.database.id(1));
        let done = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).execute(&self.pool).await;
        done.map(drop).map_err(|error| self.database.unavailable(&error))
    }

    /// Writes what lines are made of, some thousand at a time.
    ///
    /// # Errors
    /// The store is away.
    pub async fn add_items(&self, id: Uuid, items: &[DatasetItem]) -> Result<(), StoreError> {
        let columns = [
            ("interaction_id", Kind::Id),
            ("conversation_id", Kind::Text),
            ("split", Kind::Text),
            ("origin", Kind::Text),
            ("content_hash", Kind::Text),
            ("tokens", Kind::Number),
            ("ordinal", Kind::Number),
        ];
        let names = columns.map(|(name, _)| name).join(", ");
        let values = columns.map(|(name, kind)| self.database.value(name, kind)).join(", ");
        let sql = format!(
            "insert into dataset_items (dataset_id, {names}) select {}, {values} from {} where true",
            self.database.id(2),
            self.database.records(&columns)
        );
        for items in items.chunks(ITEMS) {
            let batch = serde_json::to_string(items).unwrap_or_default();
            let statement = sqlx::query(AssertSqlSafe(sql.clone())).bind(batch);
            let statement = statement.bind(id.to_string());
            self.database.within(statement.execute(&self.pool)).await?;
        }
        Ok(())
    }

    /// Freezes a dataset that is built: nothing of it changes from now on. False where it is not
    /// building any more, or words in it were erased meanwhile: then it is archived.
    ///
    /// # Errors
    /// The store is away.
    pub async fn freeze(
        &self,
        id: Uuid,
        since: i64,
        now: i64,
        stats: &Value,
        [train, validation]: [&SplitFile; 2],
    ) -> Result<bool, StoreError> {
        self.database.within(self.freeze_row(id, since, now, stats, [train, validation])).await
    }

    async fn freeze_row(
        &self,
        id: Uuid,
        since: i64,
        now: i64,
        stats: &Value,
        files: [&SplitFile; 2],
    ) -> sqlx::Result<bool> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        self.database.keep_apart(&mut transaction, false).await?;
        if self.lost_words(&mut transaction, id, since).await? {
            let sql = format!(
                "update datasets set status = 'archived', error = 'words in it were erased' \
                 where id = {} and status = 'building'",
                self.database.id(1)
            );
            let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
            statement.execute(&mut *transaction).await?;
            transaction.commit().await?;
            return Ok(false);
        }
        let sql = format!(
            "update datasets set status = 'ready', frozen_at = {}, stats = {}, \
             train_key = $4, train_sha256 = $5, train_rows = $6, train_bytes = $7, train_tokens = $8, \
             valid_key = $9, valid_sha256 = $10, valid_rows = $11, valid_bytes = $12, valid_tokens = $13 \
             where id = {} and status = 'building'",
            self.database.instant(2),
            self.json(3),
            self.database.id(1),
        );
        let mut statement =
            sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(now).bind(stats.to_string());
        for file in files {
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            statement = statement.bind(&file.key).bind(&file.sha256).bind(number(file.rows));
            statement = statement.bind(number(file.bytes)).bind(number(file.tokens));
        }
        let done = statement.execute(&mut *transaction).await?.rows_affected();
        // Here goes the event dataset.ready, once there is an outbox.
        transaction.commit().await?;
        Ok(done > 0)
    }

    /// Whether somebody had words erased, since the build began, that it had read before. What only
    /// expired meanwhile was there to be read.
    async fn lost_words(
        &self,
        connection: &mut AnyConnection,
        id: Uuid,
        since: i64,
    ) -> sqlx::Result<bool> {
        let sql = format!(
            "select 1 from dataset_items as d join interactions as i on i.id = d.interaction_id \
             where d.dataset_id = {} and i.erased_at is not null and exists \
               (select 1 from erasures as e where e.requested_at >= {}) limit 1",
            self.database.id(1),
            self.database.instant(2)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(since);
        Ok(statement.fetch_optional(connection).await?.is_some())
    }

    /// Says why a dataset could not be built. `code` is for programs.
    ///
    /// # Errors
    /// The store is away.
    pub async fn fail(
        &self,
        id: Uuid,
        code: &str,
        message: &str,
        stats: &Value,
    ) -> Result<(), StoreError> {
        let set = format!("status = 'failed', error = $2, stats = {}", self.json(3));
        let error = format!("{code}: {message}");
        self.change(id, &set, &[error, stats.to_string()]).await?;
        self.forget_items(id).await
    }

    /// Writes down where copies of a dataset lie.
    ///
    /// # Errors
    /// The store is away.
    pub async fn set_published(&self, id: Uuid, stats: &Value) -> Result<(), StoreError> {
        let sql = format!(
            "update datasets set stats = {} where id = {} and status = 'ready'",
            self.json(2),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        self.database.within(statement.bind(stats.to_string()).execute(&self.pool)).await?;
        Ok(())
    }

    /// Changes a dataset that is building; `binds` come from `$2` on.
    async fn change(&self, id: Uuid, set: &str, binds: &[String]) -> Result<bool, StoreError> {
        let sql = format!(
            "update datasets set {set} where id = {} and status = 'building'",
            self.database.id(1)
        );
        let mut statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        for bind in binds {
            statement = statement.bind(bind);
        }
        let done = self.database.within(statement.execute(&self.pool)).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Deletes a dataset with its items and its files, but for files that others have, too.
    ///
    /// # Errors
    /// There is none, it is in use, or the store is away.
    pub async fn delete(&self, id: Uuid) -> Result<(), NotDeleted> {
        let Some(row) = self.find(&id.to_string()).await? else { return Err(NotDeleted::Missing) };
        if row.status == "building" {
            return Err(NotDeleted::InUse("it is being built; wait until it is ready or failed"));
        }
        match self.delete_row(&row).await {
            Ok(()) => Ok(()),
            Err(error) if is_referenced(&error) => {
                Err(NotDeleted::InUse("a fine-tune job was made with it"))
            }
            Err(error) => Err(self.database.unavailable(&error).into()),
        }
    }

    async fn delete_row(&self, row: &DatasetRow) -> sqlx::Result<()> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        let sql = format!("delete from datasets where id = {}", self.database.id(1));
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(row.id.to_string());
        statement.execute(&mut *transaction).await?;
        for file in [&row.train, &row.validation].into_iter().flatten() {
            if let Some(key) = &file.key {
                self.drop_unused(&mut transaction, key).await?;
            }
        }
        transaction.commit().await
    }

    /// Deletes a file that no dataset has any more, or had ever.
    ///
    /// # Errors
    /// The store or the object store is away.
    pub async fn drop_file(&self, key: &str) -> Result<(), StoreError> {
        let dropped = async {
            let mut connection = self.pool.acquire().await?;
            self.drop_unused(&mut connection, key).await
        };
        self.database.within(dropped).await
    }

    async fn drop_unused(&self, connection: &mut AnyConnection, key: &str) -> sqlx::Result<()> {
        let used = "select 1 from datasets where train_key = $1 or valid_key = $1 limit 1";
        let used = sqlx::query(used).bind(key).fetch_optional(connection).await?;
        if used.is_some() {
            return Ok(());
        }
        delete_objects(&self.database, vec![key.to_owned()]).await
    }

    fn json(&self, n: usize) -> String {
        match self.database.engine {
            Engine::Sqlite => format!("${n}"),
            Engine::Postgres => format!("cast(${n} as jsonb)"),
        }
    }

    /// A row as one JSON object.
    fn object(&self) -> String {
        let plain =
            ["id", "team", "name", "version", "method", "format", "status", "recipe_hash", "error"];
        let plain = plain.map(|name| (name, format!("d.{name}")));
        let json = ["recipe", "stats"].map(|name| match self.database.engine {
            Engine::Sqlite => (name, format!("json(d.{name})")),
            Engine::Postgres => (name, format!("d.{name}")),
        });
        let times = ["created_at", "frozen_at"]
            .map(|name| (name, self.database.millis(&format!("d.{name}"))));
        let files = ["train", "valid"].map(|side| {
            let fields = ["key", "sha256", "rows", "bytes", "tokens"];
            let fields = fields.map(|field| (field, format!("d.{side}_{field}")));
            let object = self.database.json_object(fields.into_iter());
            match self.database.engine {
                Engine::Sqlite => (side, object),
                Engine::Postgres => (side, format!("cast({object} as json)")),
            }
        });
        let all = plain.into_iter().chain(json).chain(times).chain(files);
        self.database.json_object(all)
    }
}

#[derive(Deserialize)]
struct Stored {
    id: Uuid,
    created_at: i64,
    team: Option<String>,
    name: String,
    version: i64,
    method: String,
    format: String,
    status: String,
    recipe: Value,
    recipe_hash: String,
    stats: Value,
    train: Value,
    valid: Value,
    error: Option<String>,
    frozen_at: Option<i64>,
}

fn read(row: &AnyRow) -> sqlx::Result<DatasetRow> {
    let text: String = row.try_get(0)?;
    let stored: Stored =
        serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    // A side without a key is none.
    let file = |side: Value| serde_json::from_value::<SplitFile>(side).ok();
    Ok(DatasetRow {
        object: "dataset",
        id: stored.id,
        created_at: time(stored.created_at),
        team: stored.team,
        name: stored.name,
        version: stored.version,
        method: stored.method,
        format: stored.format,
        error: stored.error.map(|error| reason(&stored.status, &error)),
        status: stored.status,
        recipe: stored.recipe,
        recipe_hash: stored.recipe_hash,
        stats: stored.stats,
        train: file(stored.train),
        validation: file(stored.valid),
        frozen_at: stored.frozen_at.map(time),
    })
}

/// The column says `code: message`; one that was archived says the message alone.
fn reason(status: &str, error: &str) -> DatasetError {
    let (code, message) = match (status, error.split_once(": ")) {
        ("failed", Some(parts)) => parts,
        (status, _) => (status, error),
    };
    DatasetError { code: code.to_owned(), message: message.to_owned() }
}

fn progress(attempt: u64, rows: u64, now: i64) -> String {
    json!({ "attempt": attempt, "rows_read": rows, "at": now }).to_string()
}

fn time(millis: i64) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn page(mut data: Vec<DatasetRow>, limit: u32) -> DatasetPage {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let id = |row: Option<&DatasetRow>| row.map(|row| row.id.to_string());
    DatasetPage {
        object: "list",
        first_id: id(data.first()),
        last_id: id(data.last()),
        has_more,
        data,
    }
}

/// A store without a ledger has no datasets.
fn none_without_ledger<T>(error: StoreError, none: T) -> Result<T, StoreError> {
    match error {
        StoreError::NoLedger { .. } => Ok(none),
        error => Err(error),
    }
}

fn is_referenced(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_foreign_key_violation())
}
