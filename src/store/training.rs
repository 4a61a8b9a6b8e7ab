//! The rows of fine-tune jobs: put in line, taken by one gateway at a time, and never back from
//! their end.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::metering::money::Usd;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::datasets::none_without_ledger;
use super::interaction::Kind;
use super::outbox;
use super::outbox::Event;

const ENDS: &str = "('succeeded', 'failed', 'cancelled')";

/// Since when a job has been in its status, as far as its row tells: a paused one since it began.
const ENTERED: &str = "case when status in ('awaiting_approval', 'pending', 'uploading') \
       then coalesce(approved_at, created_at) \
     when status in ('submitting', 'submit_unknown', 'validating_files', 'queued') \
       then coalesce(submitted_at, approved_at, created_at) \
     when status in ('running', 'paused') then coalesce(started_at, submitted_at, created_at) \
     else coalesce(finished_at, updated_at) end";

/// The columns, but for those that only a lease changes.
const COLUMNS: [(&str, Kind); 40] = [
    ("job_id", Kind::Id),
    ("created_at", Kind::Time),
    ("updated_at", Kind::Time),
    ("revision", Kind::Count),
    ("team", Kind::Text),
    ("dataset_id", Kind::Id),
    ("model", Kind::Text),
    ("method", Kind::Text),
    ("hyperparameters", Kind::Json),
    ("suffix", Kind::Text),
    ("seed", Kind::Number),
    ("status", Kind::Text),
    ("status_reason", Kind::Text),
    ("cost_estimate", Kind::Number),
    ("cost_actual", Kind::Number),
    ("max_cost", Kind::Number),
    ("estimate_basis", Kind::Json),
    ("provider", Kind::Text),
    ("provider_base_url", Kind::Text),
    ("provider_job_id", Kind::Text),
    ("provider_status", Kind::Text),
    ("training_file_id", Kind::Text),
    ("validation_file_id", Kind::Text),
    ("fine_tuned_model", Kind::Text),
    ("trained_tokens", Kind::Number),
    ("result_files", Kind::Json),
    ("error", Kind::Json),
    ("estimated_finish", Kind::Time),
    ("submitted_at", Kind::Time),
    ("started_at", Kind::Time),
    ("finished_at", Kind::Time),
    ("last_event_id", Kind::Text),
    ("completion_log", Kind::Text),
    ("attempts", Kind::Count),
    ("misses", Kind::Count),
    ("wish", Kind::Text),
    ("next_poll_at", Kind::Time),
    ("idempotency_key", Kind::Text),
    ("request_hash", Kind::Text),
    ("approved_at", Kind::Time),
];
/// What never changes, and what has rules of its own.
const FIXED: [&str; 8] = [
    "job_id",
    "created_at",
    "team",
    "dataset_id",
    "idempotency_key",
    "request_hash",
    "revision",
    "wish",
];

/// A job as its row has it. Times are in milliseconds since 1970, money is in micro-USD.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns of training_queue, where they are explained")]
pub struct TrainingJob {
    pub job_id: Uuid,
    pub created_at: i64,
    pub updated_at: i64,
    pub revision: i64,
    pub team: Option<String>,
    pub dataset_id: Uuid,
    pub model: String,
    pub method: String,
    pub hyperparameters: Value,
    pub suffix: Option<String>,
    pub seed: Option<i64>,
    pub status: String,
    pub status_reason: Option<String>,
    pub cost_estimate: Option<i64>,
    pub cost_actual: Option<i64>,
    pub max_cost: Option<i64>,
    pub estimate_basis: Value,
    pub provider: String,
    pub provider_base_url: String,
    pub provider_job_id: Option<String>,
    pub provider_status: Option<String>,
    pub training_file_id: Option<String>,
    pub validation_file_id: Option<String>,
    pub fine_tuned_model: Option<String>,
    pub trained_tokens: Option<i64>,
    pub result_files: BTreeMap<String, String>,
    pub error: Option<Value>,
    pub estimated_finish: Option<i64>,
    pub submitted_at: Option<i64>,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub last_event_id: Option<String>,
    pub completion_log: String,
    pub attempts: i64,
    pub misses: i64,
    pub wish: Option<String>,
    pub next_poll_at: Option<i64>,
    pub idempotency_key: String,
    pub request_hash: String,
    pub approved_at: Option<i64>,
}

impl TrainingJob {
    /// Whether nothing changes its status any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "cancelled")
    }
}

/// Which jobs are wanted.
#[derive(Clone, Debug, Default)]
pub struct JobQuery {
    /// Those that came before this one.
    pub after: Option<Uuid>,
    /// Only these.
    pub status: Option<String>,
    /// Only those trained on this dataset.
    pub dataset: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
    /// The oldest first; `after` is then the one that came before.
    pub ascending: bool,
}

/// Reads and writes jobs.
#[derive(Clone, Debug)]
pub struct TrainingQueue {
    pub(super) database: Database,
    pub(super) pool: AnyPool,
}

impl TrainingQueue {
    /// That of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// Puts a job in line; false where one has its idempotency key already.
    ///
    /// # Errors
    /// The store is away.
    pub async fn insert(&self, job: &TrainingJob) -> Result<bool, StoreError> {
        let names = COLUMNS.map(|(name, _)| name).join(", ");
        let values = COLUMNS.map(|(name, kind)| self.value(name, kind)).join(", ");
        let sql = format!(
            "insert into training_queue ({names}) select {values} from {} where true \
             on conflict (idempotency_key) do nothing",
            self.database.records(&COLUMNS)
        );
        let inserted = async {
            let mut connection = self.pool.acquire().await?;
            let mut transaction = self.database.begin(&mut connection).await?;
            let statement = sqlx::query(AssertSqlSafe(sql)).bind(record(job));
            let done = statement.execute(&mut *transaction).await?.rows_affected() > 0;
            if done {
                tell(&mut transaction, job, None).await?;
            }
            transaction.commit().await?;
            Ok(done)
        };
        self.database.within(inserted).await
    }

    /// One by its id.
    ///
    /// # Errors
    /// The store is away.
    pub async fn find(&self, id: Uuid) -> Result<Option<TrainingJob>, StoreError> {
        self.one(&format!("job_id = {}", self.database.id(1)), &id.to_string()).await
    }

    /// One by the idempotency key that it was asked for with.
    ///
    /// # Errors
    /// The store is away.
    pub async fn keyed(&self, key: &str) -> Result<Option<TrainingJob>, StoreError> {
        self.one("idempotency_key = $1", key).await
    }

    /// One by its id at its provider.
    ///
    /// # Errors
    /// The store is away.
    pub async fn at_provider(&self, id: &str) -> Result<Option<TrainingJob>, StoreError> {
        self.one("provider_job_id = $1", id).await
    }

    async fn one(&self, holds: &str, bind: &str) -> Result<Option<TrainingJob>, StoreError> {
        let sql = format!("select {} from training_queue where {holds}", self.object());
        let row = sqlx::query(AssertSqlSafe(sql)).bind(bind).fetch_optional(&self.pool).await;
        match row.and_then(|row| row.as_ref().map(read).transpose()) {
            Ok(row) => Ok(row),
            Err(error) => none_without_ledger(self.database.unreadable(&error), None),
        }
    }

    /// Some of them, the newest first.
    ///
    /// # Errors
    /// The store is away.
    pub async fn list(&self, query: &JobQuery) -> Result<Vec<TrainingJob>, StoreError> {
        let mut binds = Vec::new();
        let mut holds = vec!["true".to_owned()];
        let (beyond, order) =
            if query.ascending { ("job_id >", "asc") } else { ("job_id <", "desc") };
        for (id, compared) in [(query.after, beyond), (query.dataset, "dataset_id =")] {
            if let Some(id) = id {
                binds.push(id.to_string());
                holds.push(format!("{compared} {}", self.database.id(binds.len())));
            }
        }
        if let Some(status) = &query.status {
            binds.push(status.clone());
            holds.push(format!("status = ${}", binds.len()));
        }
        let sql = format!(
            "select {} from training_queue where {} order by job_id {order} limit {}",
            self.object(),
            holds.join(" and "),
            query.limit
        );
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        for bind in binds {
            statement = statement.bind(bind);
        }
        let rows = statement.fetch_all(&self.pool).await;
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// Those that changed since a time in milliseconds since 1970, in the order of their changes.
    ///
    /// # Errors
    /// The store is away.
    pub async fn changed(&self, since: i64, most: u32) -> Result<Vec<TrainingJob>, StoreError> {
        let sql = format!(
            "select {} from training_queue where updated_at >= {} order by updated_at, job_id limit {most}",
            self.object(),
            self.database.instant(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(since).fetch_all(&self.pool).await;
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// How many jobs there are by status, and for how many seconds the oldest of them has been in
    /// it. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// The store is away.
    pub async fn counts(&self, now: i64) -> Result<Vec<(String, i64, i64)>, StoreError> {
        let sql = format!(
            "select status, count(*), min({}) from training_queue group by status",
            self.database.millis(ENTERED)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
        let read = |row: &AnyRow| {
            let since: i64 = row.try_get(2)?;
            Ok((row.try_get(0)?, row.try_get(1)?, now.saturating_sub(since).max(0) / 1000))
        };
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// The job that is due the longest at a time in milliseconds since 1970. It is the owner's
    /// until `until`, or until it is saved or released.
    ///
    /// # Errors
    /// The store is away.
    pub async fn claim(
        &self,
        owner: &str,
        now: i64,
        until: i64,
    ) -> Result<Option<TrainingJob>, StoreError> {
        // Most looks find nothing: they do not take SQLite's only place for a writer.
        let due = "next_poll_at <= $1 and (lease_until is null or lease_until <= $1)";
        let due = due.replace("$1", &self.database.instant(1));
        let sql = format!("select 1 from training_queue where {due} limit 1");
        let any = sqlx::query(AssertSqlSafe(sql)).bind(now).fetch_optional(&self.pool).await;
        match any {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(error) => return none_without_ledger(self.database.unreadable(&error), None),
        }
        let skip = match self.database.engine {
            Engine::Sqlite => "",
            Engine::Postgres => "for update skip locked",
        };
        let sql = format!(
            "update training_queue set lease_owner = $1, lease_until = {until} where job_id = \
               (select job_id from training_queue where next_poll_at <= {now} \
                and (lease_until is null or lease_until <= {now}) \
                order by next_poll_at limit 1 {skip}) \
             returning {object}",
            until = self.database.instant(2),
            now = self.database.instant(3),
            object = self.object(),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(owner).bind(until).bind(now);
        match statement
            .fetch_optional(&self.pool)
            .await
            .and_then(|row| row.as_ref().map(read).transpose())
        {
            Ok(row) => Ok(row),
            Err(error) => none_without_ledger(self.database.unreadable(&error), None),
        }
    }

    /// Makes a lease longer; false where it is somebody else's now.
    ///
    /// # Errors
    /// The store is away.
    pub async fn renew(&self, id: Uuid, owner: &str, until: i64) -> Result<bool, StoreError> {
        let sql = format!(
            "update training_queue set lease_until = {} where job_id = {} and lease_owner = $2",
            self.database.instant(3),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let statement = statement.bind(owner).bind(until);
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Gives a job back as it is, to be looked at again at a time in milliseconds since 1970, or
    /// at once where something was asked for meanwhile.
    ///
    /// # Errors
    /// The store is away.
    pub async fn release(
        &self,
        job: &TrainingJob,
        owner: &str,
        next: Option<i64>,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "update training_queue set lease_owner = null, lease_until = null, \
               next_poll_at = case when coalesce(wish, '') = coalesce(cast($4 as text), '') then {} \
                 else next_poll_at end \
             where job_id = {} and lease_owner = $2",
            self.database.instant(3),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(job.job_id.to_string());
        let statement = statement.bind(owner).bind(next).bind(&job.wish);
        self.database.within(statement.execute(&self.pool)).await?;
        Ok(())
    }

    /// Writes a job down as it is now, and `handled` as the wish that was granted. False where
    /// somebody else has changed it meanwhile, or it would come back from its end. `keeps` the
    /// lease where the work goes on.
    ///
    /// # Errors
    /// The store is away.
    pub async fn save(
        &self,
        job: &mut TrainingJob,
        handled: Option<&str>,
        keeps: bool,
    ) -> Result<bool, StoreError> {
        let set = COLUMNS
            .iter()
            .filter(|(name, _)| !FIXED.contains(name) && *name != "next_poll_at")
            .map(|(name, kind)| format!("{name} = {}", self.value(name, *kind)));
        let set = set.collect::<Vec<_>>().join(", ");
        let lease = if keeps { "" } else { "lease_owner = null, lease_until = null," };
        let wish = self.value("wish", Kind::Text);
        let (next, now) =
            (self.value("next_poll_at", Kind::Time), self.value("updated_at", Kind::Time));
        // Whatever was asked for meanwhile is to be looked at now.
        let sql = format!(
            "update training_queue set {set}, {lease} revision = training_queue.revision + 1, \
               wish = case when training_queue.wish = cast($2 as text) then null else training_queue.wish end, \
               next_poll_at = case when coalesce(training_queue.wish, '') <> coalesce({wish}, '') then {now} else {next} end \
             from {} where training_queue.job_id = {} and training_queue.revision = {} \
               and (training_queue.status not in {ENDS} or training_queue.status = {})",
            self.database.records(&COLUMNS),
            self.value("job_id", Kind::Id),
            self.value("revision", Kind::Count),
            self.value("status", Kind::Text),
        );
        let saved = async {
            let mut connection = self.pool.acquire().await?;
            let mut transaction = self.database.begin(&mut connection).await?;
            let was = self.status(&mut transaction, job.job_id).await?;
            let statement = sqlx::query(AssertSqlSafe(sql)).bind(record(job)).bind(handled);
            let done = statement.execute(&mut *transaction).await?.rows_affected() > 0;
            if done && was.as_ref() != Some(&job.status) {
                tell(&mut transaction, job, was.as_deref()).await?;
            }
            transaction.commit().await?;
            Ok(done)
        };
        let done = self.database.within(saved).await?;
        if done {
            job.revision += 1;
        }
        Ok(done)
    }

    /// A job's status, which nobody else changes until the transaction ends.
    async fn status(
        &self,
        transaction: &mut AnyConnection,
        id: Uuid,
    ) -> sqlx::Result<Option<String>> {
        let lock = if self.database.engine == Engine::Postgres { "for update" } else { "" };
        let sql = format!(
            "select status from training_queue where job_id = {} {lock}",
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let row = statement.fetch_optional(transaction).await?;
        row.map(|row| row.try_get(0)).transpose()
    }

    /// Asks whoever polls to cancel, pause or resume a job, or (without a wish) to look at it now.
    /// False where it has ended or nobody polls it.
    ///
    /// # Errors
    /// The store is away.
    pub async fn ask(&self, id: Uuid, wish: Option<&str>, now: i64) -> Result<bool, StoreError> {
        let sql = format!(
            "update training_queue set wish = coalesce(cast($2 as text), wish), next_poll_at = {} \
             where job_id = {} and next_poll_at is not null and status not in {ENDS}",
            self.database.instant(3),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(wish).bind(now);
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// The first line of a dataset's training file that has more tokens than that, and how many.
    ///
    /// # Errors
    /// The store is away.
    pub async fn too_long(
        &self,
        dataset: Uuid,
        most: u64,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = format!(
            "select (select count(*) from dataset_items as b where b.dataset_id = a.dataset_id \
                and b.split = 'train' and b.ordinal <= a.ordinal), a.tokens \
             from dataset_items as a where a.dataset_id = {} and a.split = 'train' \
               and a.tokens > $2 order by a.ordinal limit 1",
            self.database.id(1)
        );
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(dataset.to_string()).bind(most);
        let row = self.database.within(statement.fetch_optional(&self.pool)).await?;
        let read = |row: AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
        row.map(read).transpose().map_err(|error: sqlx::Error| self.database.unavailable(&error))
    }

    /// A field of a record as its column wants it; no error is null.
    fn value(&self, name: &str, kind: Kind) -> String {
        let value = self.database.value(name, kind);
        if name == "error" { format!("nullif({value}, '{{}}')") } else { value }
    }

    /// A row as one JSON object.
    fn object(&self) -> String {
        let fields = COLUMNS.map(|(name, kind)| match (kind, self.database.engine) {
            (Kind::Time, _) => (name, self.database.millis(name)),
            (Kind::Json, Engine::Sqlite) => (name, format!("json({name})")),
            _ => (name, name.to_owned()),
        });
        self.database.json_object(fields.into_iter())
    }
}

/// Tells automation of a job's new status, and once more, by a name of its own, of how it ended.
async fn tell(
    transaction: &mut AnyConnection,
    job: &TrainingJob,
    was: Option<&str>,
) -> sqlx::Result<()> {
    let usd = |micro: i64| Usd::from_picodollars(i128::from(micro) * 1_000_000).to_string();
    let data = json!({
        "job_id": job.job_id, "status": job.status, "previous_status": was,
        "status_reason": job.status_reason, "team": job.team, "dataset_id": job.dataset_id,
        "model": job.model, "method": job.method, "suffix": job.suffix,
        "provider": job.provider, "provider_job_id": job.provider_job_id,
        "fine_tuned_model": job.fine_tuned_model, "trained_tokens": job.trained_tokens,
        "cost_estimate": job.cost_estimate.map(usd), "cost_actual": job.cost_actual.map(usd),
        "error": job.error,
    });
    let ended = matches!(job.status.as_str(), "succeeded" | "failed").then_some(&*job.status);
    for what in ["status_changed"].into_iter().chain(ended) {
        let kind = format!("fine_tune.{what}");
        let event = Event { kind, subject: job.job_id.to_string(), data: data.clone() };
        outbox::push(transaction, &event).await?;
    }
    Ok(())
}

fn record(job: &TrainingJob) -> String {
    serde_json::to_string(&[job]).unwrap_or_default()
}

fn read(row: &AnyRow) -> sqlx::Result<TrainingJob> {
    let text: String = row.try_get(0)?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
}
