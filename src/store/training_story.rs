//! What a provider tells of a fine-tune job while it runs: events and checkpoints.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use uuid::Uuid;

use super::database::Engine;
use super::database::StoreError;
use super::datasets::none_without_ledger;
use super::interaction::Kind;
use super::training::TrainingQueue;

/// One thing that happened, as the provider told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// The provider's id.
    #[serde(rename = "event_id")]
    pub id: String,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// info, warn or error.
    pub level: String,
    /// message or metrics.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
    /// Figures.
    pub data: Option<Value>,
}

/// A model on the way, as the provider told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The provider's id.
    #[serde(rename = "checkpoint_id")]
    pub id: String,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// After how many steps.
    pub step: i64,
    /// The model's name.
    pub model: String,
    /// Losses and accuracies.
    pub metrics: Value,
}

const EVENT: [(&str, Kind); 6] = [
    ("event_id", Kind::Text),
    ("created_at", Kind::Time),
    ("level", Kind::Text),
    ("type", Kind::Text),
    ("message", Kind::Text),
    ("data", Kind::Json),
];
const CHECKPOINT: [(&str, Kind); 5] = [
    ("checkpoint_id", Kind::Text),
    ("created_at", Kind::Time),
    ("step", Kind::Number),
    ("model", Kind::Text),
    ("metrics", Kind::Json),
];

impl TrainingQueue {
    /// Adds what happened, the oldest first; what is known already stays as it is.
    ///
    /// # Errors
    /// The store is away.
    pub async fn add_events(&self, job: Uuid, events: &[JobEvent]) -> Result<(), StoreError> {
        for event in events {
            let names = EVENT.map(|(name, _)| name).join(", ");
            let values = EVENT.map(|(name, kind)| self.database.value(name, kind)).join(", ");
            let sql = format!(
                "insert into training_events (job_id, seq, {names}) select {id}, \
                   (select coalesce(max(seq), 0) + 1 from training_events where job_id = {id}), \
                   {values} from {} where true on conflict (job_id, event_id) do nothing",
                self.database.records(&EVENT),
                id = self.database.id(2),
            );
            self.add(&sql, event, job).await?;
        }
        Ok(())
    }

    /// Adds checkpoints; what is known already stays as it is.
    ///
    /// # Errors
    /// The store is away.
    pub async fn add_checkpoints(&self, job: Uuid, all: &[Checkpoint]) -> Result<(), StoreError> {
        for one in all {
            let names = CHECKPOINT.map(|(name, _)| name).join(", ");
            let values = CHECKPOINT.map(|(name, kind)| self.database.value(name, kind)).join(", ");
            let sql = format!(
                "insert into training_checkpoints (job_id, {names}) select {}, {values} from {} \
                 where true on conflict (job_id, checkpoint_id) do nothing",
                self.database.id(2),
                self.database.records(&CHECKPOINT),
            );
            self.add(&sql, one, job).await?;
        }
        Ok(())
    }

    async fn add<T: Serialize>(&self, sql: &str, one: &T, job: Uuid) -> Result<(), StoreError> {
        let record = serde_json::to_string(&[one]).unwrap_or_default();
        let statement = sqlx::query(AssertSqlSafe(sql.to_owned())).bind(record);
        let statement = statement.bind(job.to_string());
        self.database.within(statement.execute(&self.pool)).await?;
        Ok(())
    }

    /// Takes note of a webhook that came in; false where it came before.
    ///
    /// # Errors
    /// The store is away.
    pub async fn receive(&self, id: &str, kind: &str, now: i64) -> Result<bool, StoreError> {
        let sql = format!(
            "insert into webhook_inbox (source, message_id, type, received_at) \
             values ('openai', $1, $2, {}) on conflict (source, message_id) do nothing",
            self.database.instant(3)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(kind).bind(now);
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// What happened before the event `after`, the newest first.
    ///
    /// # Errors
    /// The store is away.
    pub async fn events(
        &self,
        job: Uuid,
        (after, ascending): (Option<&str>, bool),
        limit: u32,
    ) -> Result<Vec<JobEvent>, StoreError> {
        let place = ("training_events", "seq", "event_id");
        let order = beyond(place, after.is_some(), ascending, limit);
        self.told("training_events", &EVENT, &order, (job, after)).await
    }

    /// The checkpoints after `after`, the last one first.
    ///
    /// # Errors
    /// The store is away.
    pub async fn checkpoints(
        &self,
        job: Uuid,
        (after, ascending): (Option<&str>, bool),
        limit: u32,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let place = ("training_checkpoints", "step", "checkpoint_id");
        let order = beyond(place, after.is_some(), ascending, limit);
        self.told("training_checkpoints", &CHECKPOINT, &order, (job, after)).await
    }

    async fn told<T: for<'a> Deserialize<'a>>(
        &self,
        table: &str,
        columns: &[(&str, Kind)],
        rest: &str,
        (job, after): (Uuid, Option<&str>),
    ) -> Result<Vec<T>, StoreError> {
        let fields = columns.iter().map(|(name, kind)| match (kind, self.database.engine) {
            (Kind::Time, _) => (*name, self.database.millis(name)),
            (Kind::Json, Engine::Sqlite) => (*name, format!("json({name})")),
            _ => (*name, (*name).to_owned()),
        });
        let object = self.database.json_object(fields);
        let rest = rest.replace("$2", "cast($2 as text)");
        let sql =
            format!("select {object} from {table} where job_id = {} {rest}", self.database.id(1));
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(job.to_string()).bind(after);
        let rows = statement.fetch_all(&self.pool).await;
        let read = |row: &sqlx::any::AnyRow| {
            let text: String = row.try_get(0)?;
            serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
        };
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }
}

/// The rows after the one that `$2` names, or all, in an order.
fn beyond(
    (table, column, id): (&str, &str, &str),
    after: bool,
    ascending: bool,
    limit: u32,
) -> String {
    let (beyond, order) = if ascending { (">", "asc") } else { ("<", "desc") };
    let holds = match after {
        true => format!(
            "and {column} {beyond} (select {column} from {table} as e where e.job_id = \
             {table}.job_id and e.{id} = $2)"
        ),
        false => "and $2 is null".to_owned(),
    };
    format!("{holds} order by {column} {order} limit {limit}")
}
