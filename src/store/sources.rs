//! The rows of sources: where documents come from and when they are fetched again.

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::database::is_refusal;
use super::datasets::none_without_ledger;
use super::interaction::Kind;
use super::source_runs::RUN;
use super::source_runs::SourceRun;

const SOURCE: [(&str, Kind); 17] = [
    ("id", Kind::Id),
    ("created_at", Kind::Time),
    ("updated_at", Kind::Time),
    ("team", Kind::Text),
    ("name", Kind::Text),
    ("kind", Kind::Text),
    ("url", Kind::Text),
    ("include", Kind::List),
    ("exclude", Kind::List),
    ("page_limit", Kind::Number),
    ("schedule", Kind::Text),
    ("timezone", Kind::Text),
    ("model", Kind::Text),
    ("dimensions", Kind::Number),
    ("chunking", Kind::Json),
    ("deadline_s", Kind::Number),
    ("next_run_at", Kind::Time),
];
const FILE: [(&str, Kind); 5] = [
    ("source_id", Kind::Id),
    ("name", Kind::Text),
    ("updated_at", Kind::Time),
    ("title", Kind::Text),
    ("text", Kind::Text),
];

/// A source as its row has it. Times are in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns of embedding_sources, where they are explained")]
pub struct Source {
    pub id: Uuid,
    pub created_at: i64,
    pub updated_at: i64,
    pub team: Option<String>,
    pub name: String,
    pub kind: String,
    pub url: Option<String>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub page_limit: u64,
    pub schedule: Option<String>,
    pub timezone: Option<String>,
    pub model: String,
    pub dimensions: Option<u32>,
    pub chunking: Value,
    pub deadline_s: u64,
    pub next_run_at: Option<i64>,
}

/// An uploaded document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Unique within its source, such as `guide/install.md`.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Markdown.
    pub text: String,
}

/// Reads and writes sources, their runs and their files.
#[derive(Clone, Debug)]
pub struct Sources {
    pub(super) database: Database,
    pub(super) pool: AnyPool,
}

impl Sources {
    /// Those of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// Adds a source; false where another one has its name.
    ///
    /// # Errors
    /// The store is away.
    pub async fn insert(&self, source: &Source) -> Result<bool, StoreError> {
        let sql = format!(
            "{} on conflict (name) do nothing",
            self.insertion(&SOURCE, "embedding_sources")
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(record(source));
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Writes a source down as it is now; false where another one has its name, or it has gone.
    ///
    /// # Errors
    /// The store is away.
    pub async fn update(&self, source: &Source) -> Result<bool, StoreError> {
        let changes = SOURCE.iter().filter(|(name, _)| !matches!(*name, "id" | "created_at"));
        let set: Vec<_> = changes
            .map(|(name, kind)| format!("{name} = {}", self.database.value(name, *kind)))
            .collect();
        let sql = format!(
            "update embedding_sources set {} from {} where embedding_sources.id = {}",
            set.join(", "),
            self.database.records(&SOURCE),
            self.database.value("id", Kind::Id),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(record(source));
        let done = async {
            match statement.execute(&self.pool).await {
                Ok(done) => Ok(done.rows_affected() > 0),
                Err(error) if is_refusal(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.database.within(done).await
    }

    /// One by its id or its name.
    ///
    /// # Errors
    /// The store is away.
    pub async fn find(&self, named: &str) -> Result<Option<Source>, StoreError> {
        let holds = match Uuid::try_parse(named) {
            Ok(_) => format!("id = {}", self.database.id(1)),
            Err(_) => "name = $1".to_owned(),
        };
        let sql = format!("select {} from embedding_sources where {holds}", self.object(&SOURCE));
        let row = sqlx::query(AssertSqlSafe(sql)).bind(named).fetch_optional(&self.pool).await;
        self.read_one(row)
    }

    /// Some of them by name, those after `after`.
    ///
    /// # Errors
    /// The store is away.
    pub async fn list(&self, after: &str, limit: u32) -> Result<Vec<Source>, StoreError> {
        let sql = format!(
            "select {} from embedding_sources where name > $1 order by name limit {limit}",
            self.object(&SOURCE)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).fetch_all(&self.pool).await;
        self.read_all(rows)
    }

    /// Deletes a source with its runs and files; false where there is none.
    ///
    /// # Errors
    /// The store is away.
    pub async fn delete(&self, id: Uuid) -> Result<bool, StoreError> {
        let sql = format!("delete from embedding_sources where id = {}", self.database.id(1));
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Those whose time has come at a time in milliseconds since 1970.
    ///
    /// # Errors
    /// The store is away.
    pub async fn due(&self, now: i64) -> Result<Vec<Source>, StoreError> {
        let sql = format!(
            "select {} from embedding_sources where next_run_at <= {}",
            self.object(&SOURCE),
            self.database.instant(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(now).fetch_all(&self.pool).await;
        self.read_all(rows)
    }

    /// Puts the run that a schedule asks for in line, and notes when the next one is due; false where
    /// somebody else has done so. One that waits already is enough.
    ///
    /// # Errors
    /// The store is away.
    pub async fn on_schedule(
        &self,
        source: &Source,
        next: Option<i64>,
        run: &SourceRun,
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "update embedding_sources set next_run_at = {} where id = {} and next_run_at = {}",
            self.database.instant(2),
            self.database.id(1),
            self.database.instant(3),
        );
        let work = async {
            let mut connection = self.pool.acquire().await?;
            let mut transaction = self.database.begin(&mut connection).await?;
            let statement = sqlx::query(AssertSqlSafe(sql)).bind(source.id.to_string());
            let statement = statement.bind(next).bind(source.next_run_at);
            if statement.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
            let sql = format!("{} on conflict do nothing", self.insertion(&RUN, "embedding_runs"));
            sqlx::query(AssertSqlSafe(sql)).bind(record(run)).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(true)
        };
        self.database.within(work).await
    }

    /// Puts files in place of those of their names; with `replaces`, all others go. `now` is in
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// The store is away.
    pub async fn put_files(
        &self,
        source: Uuid,
        files: &[SourceFile],
        replaces: bool,
        now: i64,
    ) -> Result<(), StoreError> {
        let rows: Vec<_> = files
            .iter()
            .map(|SourceFile { name, title, text }| {
                serde_json::json!({
                    "source_id": source, "name": name, "updated_at": now, "title": title, "text": text,
                })
            })
            .collect();
        let insert = format!(
            "{} on conflict (source_id, name) do update set updated_at = excluded.updated_at, \
               title = excluded.title, text = excluded.text",
            self.insertion(&FILE, "embedding_files")
        );
        let work = async {
            let mut connection = self.pool.acquire().await?;
            let mut transaction = self.database.begin(&mut connection).await?;
            if replaces {
                let sql = format!(
                    "delete from embedding_files where source_id = {}",
                    self.database.id(1)
                );
                let statement = sqlx::query(AssertSqlSafe(sql)).bind(source.to_string());
                statement.execute(&mut *transaction).await?;
            }
            let rows = serde_json::to_string(&rows).unwrap_or_default();
            sqlx::query(AssertSqlSafe(insert)).bind(rows).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        self.database.within(work).await
    }

    /// Some of a source's files by name, those after `after`.
    ///
    /// # Errors
    /// The store is away.
    pub async fn files(
        &self,
        source: Uuid,
        after: &str,
        limit: u32,
    ) -> Result<Vec<SourceFile>, StoreError> {
        let sql = format!(
            "select {} from embedding_files where source_id = {} and name > $2 \
             order by name limit {limit}",
            self.object(&[("name", Kind::Text), ("title", Kind::Text), ("text", Kind::Text)]),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(source.to_string()).bind(after);
        let rows = statement.fetch_all(&self.pool).await;
        self.read_all(rows)
    }

    /// The statement that inserts a JSON array of records, bound as one text, without its end.
    pub(super) fn insertion(&self, columns: &[(&str, Kind)], table: &str) -> String {
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> =
            columns.iter().map(|(name, kind)| self.database.value(name, *kind)).collect();
        format!(
            "insert into {table} ({}) select {} from {} where true",
            names.join(", "),
            values.join(", "),
            self.database.records(columns)
        )
    }

    /// A row as one JSON object.
    pub(super) fn object(&self, columns: &[(&'static str, Kind)]) -> String {
        let fields = columns.iter().map(|&(name, kind)| match (kind, self.database.engine) {
            (Kind::Time, _) => (name, self.database.millis(name)),
            (Kind::Json | Kind::List, Engine::Sqlite) => (name, format!("json({name})")),
            _ => (name, name.to_owned()),
        });
        self.database.json_object(fields)
    }

    pub(super) fn read_one<T: DeserializeOwned>(
        &self,
        row: sqlx::Result<Option<AnyRow>>,
    ) -> Result<Option<T>, StoreError> {
        match row.and_then(|row| row.as_ref().map(read).transpose()) {
            Ok(row) => Ok(row),
            Err(error) => none_without_ledger(self.database.unreadable(&error), None),
        }
    }

    pub(super) fn read_all<T: DeserializeOwned>(
        &self,
        rows: sqlx::Result<Vec<AnyRow>>,
    ) -> Result<Vec<T>, StoreError> {
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }
}

pub(super) fn record(row: &impl Serialize) -> String {
    serde_json::to_string(&[row]).unwrap_or_default()
}

fn read<T: DeserializeOwned>(row: &AnyRow) -> sqlx::Result<T> {
    let text: String = row.try_get(0)?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
}
