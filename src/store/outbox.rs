//! What has happened, for automation to hear of: written down beside the change that it tells of,
//! so that neither is there without the other, and then on its way to each receiver.

use serde::Serialize;
use serde_json::Value;
use sqlx::AnyConnection;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::datasets::none_without_ledger;
use super::interaction::Kind;
use super::webhooks;
use super::webhooks::Endpoint;

/// Events of one step of planning.
const EVENTS: usize = 200;
/// Any number will do, as long as nobody else takes it: the lock on Postgres of the one who plans.
const PLANNING_LOCK: i64 = 0x0077_6569_7200_0007;
/// Characters that are kept of what went wrong.
const LONGEST_ERROR: usize = 500;

/// Something that automation may want to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened, such as `fine_tune.succeeded`.
    pub kind: String,
    /// What it happened to, such as a job's id: events of one subject arrive in order.
    pub subject: String,
    /// What is told of it.
    pub data: Value,
}

/// Writes an event down, to be called in the transaction of the change that it tells of, after the
/// change: its lock keeps the events of one subject in order.
pub(super) async fn push(transaction: &mut AnyConnection, event: &Event) -> sqlx::Result<()> {
    let sql = "insert into outbox (id, kind, subject, data) values ($1, $2, $3, $4)";
    let statement = sqlx::query(sql).bind(message_id()).bind(&event.kind);
    let statement = statement.bind(&event.subject).bind(event.data.to_string());
    statement.execute(transaction).await.map(drop)
}

/// Writes an event down that tells of no change in the store.
///
/// # Errors
/// The store is away.
pub async fn tell(database: &Database, event: &Event) -> Result<(), StoreError> {
    let mut connection = database.connect().await?;
    database.migrate_by(&mut connection).await?;
    database.within(push(&mut connection, event)).await
}

/// A new event's id, as its receivers see it.
pub fn message_id() -> String {
    format!("msg_{}", Uuid::now_v7().simple())
}

/// An event that is to be posted to a receiver now.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its own id.
    pub id: Uuid,
    /// The event's, the same for every receiver and at every attempt.
    pub message: String,
    /// What happened.
    pub kind: String,
    /// When, in milliseconds since 1970.
    pub created_at: i64,
    /// What is told of it.
    pub data: Value,
    /// How often it was posted in vain.
    pub attempts: i64,
}

/// What came of an attempt. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It is to be tried again.
    PutOff {
        /// When.
        until: i64,
    },
    /// It is given up.
    Dead,
}

/// Deliveries of one receiver in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryCount {
    /// An endpoint's id, or what else the planner calls a receiver.
    pub receiver: String,
    /// pending or dead.
    pub state: String,
    /// How many.
    pub count: i64,
}

/// Events on their way, shared by all gateways of a store: each is taken by one at a time.
#[derive(Clone, Debug)]
pub struct Outbox {
    database: Database,
    pool: AnyPool,
}

impl Outbox {
    /// That of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// Decides for each new event who gets it: `receivers` names them, given its kind and the
    /// endpoints that are enabled. True where there may be more.
    ///
    /// # Errors
    /// The store is away.
    pub async fn plan(
        &self,
        now: i64,
        receivers: impl Fn(&str, &[Endpoint]) -> Vec<String>,
    ) -> Result<bool, StoreError> {
        // Most looks find nothing: they do not take SQLite's only place for a writer.
        let any = format!("select 1 from outbox where {} limit 1", self.unplanned());
        match sqlx::query(AssertSqlSafe(any)).fetch_optional(&self.pool).await {
            Ok(Some(_)) => self.database.within(self.plan_some(now, receivers)).await,
            Ok(None) => Ok(false),
            Err(error) => none_without_ledger(self.database.unreadable(&error), false),
        }
    }

    async fn plan_some(
        &self,
        now: i64,
        receivers: impl Fn(&str, &[Endpoint]) -> Vec<String>,
    ) -> sqlx::Result<bool> {
        #[derive(Serialize)]
        struct Row {
            id: Uuid,
            seq: i64,
            receiver: String,
            endpoint_id: Option<Uuid>,
            subject: String,
            next_at: i64,
        }
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        let events = self.new_events(&mut transaction).await?;
        let endpoints = webhooks::enabled(&self.database, &mut transaction).await?;
        let mut rows = Vec::new();
        for (seq, kind, subject) in &events {
            rows.extend(receivers(kind, &endpoints).into_iter().map(|receiver| Row {
                id: Uuid::now_v7(),
                seq: *seq,
                endpoint_id: Uuid::try_parse(&receiver).ok(),
                receiver,
                subject: subject.clone(),
                next_at: now,
            }));
        }
        if !rows.is_empty() {
            let rows =
                serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
            let insert = sqlx::query(AssertSqlSafe(self.insertion())).bind(rows);
            insert.execute(&mut *transaction).await?;
        }
        // Not all up to the last: what is committed just now may have a smaller number.
        let planned: Vec<_> = events.iter().map(|(seq, ..)| seq.to_string()).collect();
        if !planned.is_empty() {
            let planned = planned.join(", ");
            let done = format!("update outbox set planned = true where seq in ({planned})");
            sqlx::query(AssertSqlSafe(done)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(events.len() == EVENTS)
    }

    /// Sequence number, kind and subject of the oldest events that are not planned. Whoever plans
    /// next waits until this is done: one subject's events must not overtake each other.
    async fn new_events(
        &self,
        transaction: &mut AnyConnection,
    ) -> sqlx::Result<Vec<(i64, String, String)>> {
        if self.database.engine == Engine::Postgres {
            let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(PLANNING_LOCK);
            lock.execute(&mut *transaction).await?;
        }
        let sql = format!(
            "select seq, kind, subject from outbox where {} order by seq limit {EVENTS}",
            self.unplanned()
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(transaction).await?;
        let read = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        rows.iter().map(read).collect()
    }

    fn insertion(&self) -> String {
        let columns = [
            ("id", Kind::Id),
            ("seq", Kind::Number),
            ("receiver", Kind::Text),
            ("endpoint_id", Kind::Id),
            ("subject", Kind::Text),
            ("next_at", Kind::Time),
        ];
        let names = columns.map(|(name, _)| name).join(", ");
        let values = columns.map(|(name, kind)| self.database.value(name, kind)).join(", ");
        format!(
            "insert into webhook_deliveries ({names}) select {values} from {} where true \
             on conflict (seq, receiver) do nothing",
            self.database.records(&columns)
        )
    }

    /// The receivers for whom something is due at a time in milliseconds since 1970.
    ///
    /// # Errors
    /// The store is away.
    pub async fn due(&self, now: i64) -> Result<Vec<String>, StoreError> {
        let sql = format!(
            "select distinct d.receiver from webhook_deliveries as d where {}",
            self.is_due(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(now).fetch_all(&self.pool).await;
        match rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()) {
            Ok(receivers) => Ok(receivers),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// The receiver's oldest delivery that is due. It is the owner's until `until`, or until it is [finished](Self::finish).
    ///
    /// # Errors
    /// The store is away.
    pub async fn claim(
        &self,
        receiver: &str,
        owner: &str,
        now: i64,
        until: i64,
    ) -> Result<Option<Delivery>, StoreError> {
        let skip = match self.database.engine {
            Engine::Sqlite => "",
            Engine::Postgres => "for update skip locked",
        };
        let of_event = |column: &str| {
            format!("(select {column} from outbox as o where o.seq = webhook_deliveries.seq)")
        };
        let sql = format!(
            "update webhook_deliveries set lease_owner = $2, lease_until = {until} where id = \
               (select d.id from webhook_deliveries as d where d.receiver = $1 and {due} \
                order by d.seq limit 1 {skip}) \
             returning cast(id as text), attempts, {}, {}, {}, {}",
            of_event("o.id"),
            of_event("o.kind"),
            of_event(&self.database.millis("o.created_at")),
            of_event("o.data"),
            until = self.database.instant(4),
            due = self.is_due(3),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(receiver).bind(owner);
        let statement = statement.bind(now).bind(until);
        let row = self.database.within(statement.fetch_optional(&self.pool)).await?;
        row.as_ref().map(delivery).transpose().map_err(|error| self.database.unavailable(&error))
    }

    /// Writes down what came of an attempt, with the receiver's status and what went wrong. Nothing
    /// where the delivery is somebody else's by now.
    ///
    /// # Errors
    /// The store is away; the delivery is tried again once its lease is over.
    pub async fn finish(
        &self,
        (delivery, owner): (Uuid, &str),
        outcome: &Outcome,
        (status, error): (Option<u16>, Option<&str>),
        now: i64,
    ) -> Result<(), StoreError> {
        let (state, next) = match outcome {
            Outcome::Delivered => ("delivered", now),
            Outcome::PutOff { until } => ("pending", *until),
            Outcome::Dead => ("dead", now),
        };
        let ended = (!matches!(outcome, Outcome::PutOff { .. })).then_some(now);
        let error = error.map(|error| error.chars().take(LONGEST_ERROR).collect::<String>());
        let sql = format!(
            "update webhook_deliveries set state = $3, attempts = attempts + 1, next_at = {}, \
               finished_at = {}, last_status = $6, last_error = $7, \
               lease_owner = null, lease_until = null \
             where id = {} and lease_owner = $2 and state = 'pending'",
            self.database.instant(4),
            self.database.instant(5),
            self.database.id(1),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(delivery.to_string()).bind(owner);
        let statement = statement.bind(state).bind(next).bind(ended);
        let statement = statement.bind(status.map(i64::from)).bind(error);
        self.database.within(statement.execute(&self.pool)).await.map(drop)
    }

    /// Gives up what waits for a receiver since before `due`, in milliseconds since 1970, and why.
    ///
    /// # Errors
    /// The store is away.
    pub async fn bury(
        &self,
        receiver: &str,
        (due, now): (i64, i64),
        reason: &str,
    ) -> Result<u64, StoreError> {
        let sql = format!(
            "update webhook_deliveries set state = 'dead', last_error = $2, finished_at = {}, \
               lease_owner = null, lease_until = null \
             where receiver = $1 and state = 'pending' and next_at <= {}",
            self.database.instant(4),
            self.database.instant(3)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(receiver).bind(reason);
        let statement = statement.bind(due).bind(now);
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected())
    }

    /// How many deliveries wait or are given up, by receiver.
    ///
    /// # Errors
    /// The store is away.
    pub async fn counts(&self) -> Result<Vec<DeliveryCount>, StoreError> {
        let sql = "select receiver, state, count(*) from webhook_deliveries \
                   where state <> 'delivered' group by receiver, state";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await;
        let read = |row: &AnyRow| {
            let (receiver, state) = (row.try_get(0)?, row.try_get(1)?);
            Ok(DeliveryCount { receiver, state, count: row.try_get(2)? })
        };
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(counts) => Ok(counts),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// Forgets events from before a time in milliseconds since 1970, with their deliveries.
    ///
    /// # Errors
    /// The store is away.
    pub async fn sweep(&self, before: i64) -> Result<u64, StoreError> {
        let sql = format!(
            "delete from outbox where created_at < {} and planned = true",
            self.database.instant(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(before);
        match self.database.within(statement.execute(&self.pool)).await {
            Ok(swept) => Ok(swept.rows_affected()),
            Err(error) => none_without_ledger(error, 0),
        }
    }

    /// As the partial index has it.
    fn unplanned(&self) -> &'static str {
        match self.database.engine {
            Engine::Sqlite => "planned = 0",
            Engine::Postgres => "not planned",
        }
    }

    /// Whether the delivery `d` is due at the time of the parameter `$n`: nobody has it, and no
    /// earlier one of its subject waits.
    fn is_due(&self, n: usize) -> String {
        let now = self.database.instant(n);
        format!(
            "d.state = 'pending' and d.next_at <= {now} \
             and (d.lease_until is null or d.lease_until <= {now}) \
             and not exists (select 1 from webhook_deliveries as e where \
               e.receiver = d.receiver and e.subject = d.subject and e.state = 'pending' \
               and e.seq < d.seq)"
        )
    }
}

fn delivery(row: &AnyRow) -> sqlx::Result<Delivery> {
    let (id, data): (String, String) = (row.try_get(0)?, row.try_get(5)?);
    Ok(Delivery {
        id: Uuid::try_parse(&id).map_err(|error| sqlx::Error::Decode(error.into()))?,
        attempts: row.try_get(1)?,
        message: row.try_get(2)?,
        kind: row.try_get(3)?,
        created_at: row.try_get(4)?,
        data: serde_json::from_str(&data).map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}
