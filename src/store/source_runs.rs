//! The rows of a source's runs: put in line once, and taken by one gateway at a time.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::database::Engine;
use super::database::StoreError;
use super::database::is_refusal;
use super::interaction::Kind;
use super::sources::Sources;
use super::sources::record;

/// The columns, but for those that only a lease changes.
pub(super) const RUN: [(&str, Kind); 13] = [
    ("id", Kind::Id),
    ("source_id", Kind::Id),
    ("created_at", Kind::Time),
    ("updated_at", Kind::Time),
    ("trigger_kind", Kind::Text),
    ("is_full", Kind::Count),
    ("state", Kind::Text),
    ("started_at", Kind::Time),
    ("finished_at", Kind::Time),
    ("attempts", Kind::Count),
    ("jobs", Kind::List),
    ("counts", Kind::Json),
    ("error", Kind::Text),
];
/// What changes while it goes on.
const PROGRESS: [&str; 6] = ["updated_at", "state", "finished_at", "jobs", "counts", "error"];

/// A run as its row has it. Times are in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns of embedding_runs, where they are explained")]
pub struct SourceRun {
    pub id: Uuid,
    pub source_id: Uuid,
    pub created_at: i64,
    pub updated_at: i64,
    pub trigger_kind: String,
    pub is_full: u8,
    pub state: String,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub attempts: u32,
    pub jobs: Vec<String>,
    pub counts: Value,
    pub error: Option<String>,
}

impl SourceRun {
    /// One that waits to be taken up.
    pub fn queued(source: Uuid, trigger: &str, full: bool, now: i64) -> Self {
        Self {
            id: Uuid::now_v7(),
            source_id: source,
            created_at: now,
            updated_at: now,
            trigger_kind: trigger.to_owned(),
            is_full: full.into(),
            state: "queued".to_owned(),
            counts: Value::Object(serde_json::Map::new()),
            ..Self::default()
        }
    }

    /// Whether nothing changes it any more.
    pub fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running")
    }
}

impl Sources {
    /// Puts a run in line, unless its source has one that waits: then it is that one. Full it is
    /// when either asks for that.
    ///
    /// # Errors
    /// The store is away.
    pub async fn enqueue(&self, run: SourceRun) -> Result<SourceRun, StoreError> {
        let sql = format!(
            "{} on conflict (source_id) where state = 'queued' do update set is_full = \
               case when excluded.is_full > embedding_runs.is_full then excluded.is_full \
                 else embedding_runs.is_full end \
             returning {}",
            self.insertion(&RUN, "embedding_runs"),
            self.object_of("embedding_runs"),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(record(&run));
        let row = self.database.within(statement.fetch_optional(&self.pool)).await?;
        Ok(self.read_one(Ok(row))?.unwrap_or(run))
    }

    /// One by its id.
    ///
    /// # Errors
    /// The store is away.
    pub async fn run(&self, id: Uuid) -> Result<Option<SourceRun>, StoreError> {
        let sql = format!(
            "select {} from embedding_runs where id = {}",
            self.object(&RUN),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let row = statement.fetch_optional(&self.pool).await;
        self.read_one(row)
    }

    /// Some of a source's runs, the newest first; those before `after`.
    ///
    /// # Errors
    /// The store is away.
    pub async fn runs(
        &self,
        source: Uuid,
        (after, ascending): (Option<Uuid>, bool),
        limit: u32,
    ) -> Result<Vec<SourceRun>, StoreError> {
        let (beyond, order, start) = match ascending {
            true => (">", "asc", Uuid::nil()),
            false => ("<", "desc", Uuid::max()),
        };
        let sql = format!(
            "select {} from embedding_runs where source_id = {} and id {beyond} {} \
             order by id {order} limit {limit}",
            self.object(&RUN),
            self.database.id(1),
            self.database.id(2),
        );
        let after = after.unwrap_or(start);
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(source.to_string());
        let rows = statement.bind(after.to_string()).fetch_all(&self.pool).await;
        self.read_all(rows)
    }

    /// Whether one of a source's runs began this job at Firecrawl.
    ///
    /// # Errors
    /// The store is away.
    pub async fn began_job(&self, source: Uuid, job: &str) -> Result<bool, StoreError> {
        let jobs = match self.database.engine {
            Engine::Sqlite => "exists (select 1 from json_each(jobs) as j where j.value = $2)",
            Engine::Postgres => "jsonb_exists(jobs, $2)",
        };
        let sql = format!(
            "select 1 from embedding_runs where source_id = {} and {jobs} limit 1",
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(source.to_string()).bind(job);
        Ok(self.database.within(statement.fetch_optional(&self.pool)).await?.is_some())
    }

    /// Takes up the run that has waited longest, or one whose gateway fell silent. It is the
    /// owner's until `until`; times are in milliseconds since 1970.
    ///
    /// # Errors
    /// The store is away.
    pub async fn claim_run(
        &self,
        owner: &str,
        now: i64,
        until: i64,
    ) -> Result<Option<SourceRun>, StoreError> {
        // One run of a source at a time.
        let due = |now: &str| {
            format!(
                "state = 'running' and lease_until <= {now} or state = 'queued' and not exists \
                   (select 1 from embedding_runs as other where other.state = 'running' \
                    and other.source_id = embedding_runs.source_id)"
            )
        };
        // Most looks find nothing: they do not take SQLite's only place for a writer.
        let sql = format!(
            "select 1 from embedding_runs where {} limit 1",
            due(&self.database.instant(1))
        );
        let any = sqlx::query(AssertSqlSafe(sql)).bind(now).fetch_optional(&self.pool).await;
        match any {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(error) => return self.read_one(Err(error)),
        }
        let skip = match self.database.engine {
            Engine::Sqlite => "",
            Engine::Postgres => "for update skip locked",
        };
        let now_at = self.database.instant(3);
        let sql = format!(
            "update embedding_runs set state = 'running', lease_owner = $1, lease_until = {}, \
               updated_at = {now_at}, started_at = coalesce(started_at, {now_at}), \
               attempts = attempts + 1 \
             where id = (select id from embedding_runs where {} order by id limit 1 {skip}) \
             returning {}",
            self.database.instant(2),
            due(&now_at),
            self.object(&RUN),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(owner).bind(until).bind(now);
        match statement.fetch_optional(&self.pool).await {
            // Another run of the source was faster.
            Err(error) if is_refusal(&error) => Ok(None),
            row => self.read_one(row),
        }
    }

    /// Makes a lease longer; false where it is somebody else's now, or its source has gone.
    ///
    /// # Errors
    /// The store is away.
    pub async fn renew_run(&self, id: Uuid, owner: &str, until: i64) -> Result<bool, StoreError> {
        let sql = format!(
            "update embedding_runs set lease_until = {} where id = {} and lease_owner = $2 \
               and state = 'running'",
            self.database.instant(3),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let statement = statement.bind(owner).bind(until);
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Writes down how far a run is, as long as it is its owner's; false where it is not. What has
    /// ended belongs to nobody.
    ///
    /// # Errors
    /// The store is away.
    pub async fn save_run(&self, run: &SourceRun, owner: &str) -> Result<bool, StoreError> {
        let set = RUN.iter().filter(|(name, _)| PROGRESS.contains(name));
        let set: Vec<_> = set
            .map(|(name, kind)| format!("{name} = {}", self.database.value(name, *kind)))
            .collect();
        let lease = if run.has_ended() { ", lease_owner = null, lease_until = null" } else { "" };
        let sql = format!(
            "update embedding_runs set {}{lease} from {} where embedding_runs.id = {} \
               and embedding_runs.lease_owner = $2 and embedding_runs.state = 'running'",
            set.join(", "),
            self.database.records(&RUN),
            self.database.value("id", Kind::Id),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(record(run)).bind(owner);
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// The columns of a run where a statement knows more than one row of them.
    fn object_of(&self, table: &str) -> String {
        let fields = RUN.iter().map(|&(name, kind)| {
            let column = format!("{table}.{name}");
            match (kind, self.database.engine) {
                (Kind::Time, _) => (name, self.database.millis(&column)),
                (Kind::List | Kind::Json, Engine::Sqlite) => (name, format!("json({column})")),
                _ => (name, column),
            }
        });
        self.database.json_object(fields)
    }
}
