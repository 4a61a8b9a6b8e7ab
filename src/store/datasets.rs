//! The rows of datasets: versions of a name, frozen once they are built, and what their lines are
//! made of. The lines themselves lie in the object store.

use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
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
use super::ledger::BadParameter;
use super::objects::Objects;
use super::strip::delete_objects;

/// Datasets of one page when nobody says how many, and the most that anybody gets.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 100;

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
    pub(super) database: Database,
    pub(super) pool: AnyPool,
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
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// How many there are by status.
    ///
    /// # Errors
    /// The store is away.
    pub async fn counts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = sqlx::query("select status, count(*) from datasets group by status");
        let rows = rows.fetch_all(&self.pool).await;
        let read = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// Where they are.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Where the files of datasets lie.
    pub fn objects(&self) -> Option<&Objects> {
        self.database.objects.as_ref()
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
        let manifest = row.stats.pointer("/published/manifest").and_then(Value::as_str);
        let manifest = manifest.map(str::to_owned).into_iter().collect();
        delete_objects(&self.database, manifest).await?;
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

    /// The JSON that the parameter `$n` says as text.
    pub(super) fn json(&self, n: usize) -> String {
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
pub(super) fn none_without_ledger<T>(error: StoreError, none: T) -> Result<T, StoreError> {
    match error {
        StoreError::NoLedger { .. } => Ok(none),
        error => Err(error),
    }
}

fn is_referenced(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_foreign_key_violation())
}
