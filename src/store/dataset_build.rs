//! The life of a dataset's row until it is frozen: made, kept alive by signs of life, taken up by
//! others when those end, filled with items, and then ready, failed, or archived.

use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use uuid::Uuid;

use super::database::Engine;
use super::database::STATEMENT;
use super::database::StoreError;
use super::datasets::DatasetRow;
use super::datasets::Datasets;
use super::datasets::SplitFile;
use super::datasets::none_without_ledger;
use super::interaction::Kind;
use super::outbox;
use super::outbox::Event;

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

impl Datasets {
    /// Adds one that is to be built, as the next version of its name.
    ///
    /// # Errors
    /// The store is away.
    pub async fn create(&self, new: &NewDataset<'_>) -> Result<DatasetRow, StoreError> {
        self.database.within(self.insert(new)).await?;
        let row = self.find(&new.id.to_string()).await?;
        row.ok_or_else(|| self.database.gave_up(STATEMENT))
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

    /// Says that the n-th attempt at a build goes on: how many rows it has read, at a time in
    /// milliseconds since 1970. False where it is no longer wanted, or another attempt has begun.
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
        self.change((id, attempt), &set, &[progress(attempt, rows, now)]).await
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

    /// Forgets the items that an earlier attempt has written.
    ///
    /// # Errors
    /// The store is away.
    pub async fn forget_items(&self, id: Uuid) -> Result<(), StoreError> {
        let sql = format!(
            "delete from dataset_items where dataset_id = (select id from datasets \
             where id = {} and status in ('building', 'failed'))",
            self.database.id(1)
        );
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
        attempt: (Uuid, u64),
        since: i64,
        now: i64,
        stats: &Value,
        train_and_validation: [&SplitFile; 2],
    ) -> Result<bool, StoreError> {
        let frozen = self.freeze_row(attempt, since, now, stats, train_and_validation);
        self.database.within(frozen).await
    }

    async fn freeze_row(
        &self,
        (id, attempt): (Uuid, u64),
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
             where id = {} and {}",
            self.database.instant(2),
            self.json(3),
            self.database.id(1),
            self.is_attempt(attempt),
        );
        let mut statement =
            sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(now).bind(stats.to_string());
        for file in files {
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            statement = statement.bind(&file.key).bind(&file.sha256).bind(number(file.rows));
            statement = statement.bind(number(file.bytes)).bind(number(file.tokens));
        }
        let done = statement.execute(&mut *transaction).await?.rows_affected() > 0;
        if done {
            let ready = self.ready(&mut transaction, id, files).await?;
            outbox::push(&mut transaction, &ready).await?;
        }
        transaction.commit().await?;
        Ok(done)
    }

    /// What is told of a dataset that was frozen just now.
    async fn ready(
        &self,
        connection: &mut AnyConnection,
        id: Uuid,
        [train, validation]: [&SplitFile; 2],
    ) -> sqlx::Result<Event> {
        let sql = format!(
            "select name, version, method, team from datasets where id = {}",
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let row = statement.fetch_one(connection).await?;
        let (name, version): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (method, team): (String, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
        let file = |file: &SplitFile| json!({"rows": file.rows, "tokens": file.tokens, "bytes": file.bytes, "sha256": file.sha256});
        let data = json!({
            "dataset_id": id, "name": name, "version": version, "method": method, "team": team,
            "train": file(train), "validation": file(validation),
        });
        Ok(Event { kind: "dataset.ready".to_owned(), subject: id.to_string(), data })
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
        (id, attempt): (Uuid, u64),
        code: &str,
        message: &str,
        stats: &Value,
    ) -> Result<(), StoreError> {
        let set = format!("status = 'failed', error = $2, stats = {}", self.json(3));
        let error = format!("{code}: {message}");
        if self.change((id, attempt), &set, &[error, stats.to_string()]).await? {
            self.forget_items(id).await?;
        }
        Ok(())
    }

    /// Changes a dataset that this attempt is building; `binds` come from `$2` on.
    async fn change(
        &self,
        (id, attempt): (Uuid, u64),
        set: &str,
        binds: &[String],
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "update datasets set {set} where id = {} and {}",
            self.database.id(1),
            self.is_attempt(attempt)
        );
        let mut statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        for bind in binds {
            statement = statement.bind(bind);
        }
        let done = self.database.within(statement.execute(&self.pool)).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Whether a dataset is being built, and by this attempt.
    fn is_attempt(&self, attempt: u64) -> String {
        let given = match self.database.engine {
            Engine::Sqlite => "stats ->> 'attempt'",
            Engine::Postgres => "cast(stats ->> 'attempt' as bigint)",
        };
        format!("status = 'building' and coalesce({given}, 1) = {attempt}")
    }
}

fn progress(attempt: u64, rows: u64, now: i64) -> String {
    json!({ "attempt": attempt, "rows_read": rows, "at": now }).to_string()
}
