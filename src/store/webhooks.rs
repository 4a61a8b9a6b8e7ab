//! Where users want events posted, and what became of each post.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::Serialize;
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

const COLUMNS: [(&str, Kind); 8] = [
    ("id", Kind::Id),
    ("created_at", Kind::Time),
    ("url", Kind::Text),
    ("secret", Kind::Text),
    ("headers", Kind::Json),
    ("events", Kind::List),
    ("enabled", Kind::Flag),
    ("disabled_reason", Kind::Text),
];

/// A receiver that somebody registered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// Where to post.
    pub url: String,
    /// Signs each post: `whsec_` and base64.
    pub secret: String,
    /// Fixed headers, for receivers that check no signature.
    pub headers: BTreeMap<String, String>,
    /// Names of events, or beginnings that end with `*`.
    pub events: Vec<String>,
    /// Whether it gets any.
    #[serde(deserialize_with = "flag")]
    pub enabled: bool,
    /// Why the gateway has switched it off.
    pub disabled_reason: Option<String>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither secret nor headers, nor the URL, which often is a secret itself.
        write!(f, "Endpoint({})", self.id)
    }
}

/// A delivery as people see it. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the columns of webhook_deliveries, where they are explained")]
pub struct DeliveryRow {
    pub id: Uuid,
    pub message: String,
    pub kind: String,
    pub subject: String,
    pub created_at: i64,
    pub state: String,
    pub attempts: i64,
    pub next_at: i64,
    pub last_status: Option<i64>,
    pub last_error: Option<String>,
    pub finished_at: Option<i64>,
}

/// Which deliveries are wanted, the newest first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryQuery {
    /// Only these: pending, delivered or dead.
    pub state: Option<String>,
    /// Those that came before this one.
    pub after: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
    /// The oldest first; `after` is then the one that came before.
    pub ascending: bool,
}

/// Reads and writes endpoints.
#[derive(Clone, Debug)]
pub struct Webhooks {
    database: Database,
    pool: AnyPool,
}

impl Webhooks {
    /// Those of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// Writes an endpoint down, in place of what was there under its id.
    ///
    /// # Errors
    /// The store is away.
    pub async fn put(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        // It may come before anything else that is written.
        self.database.migrate().await?;
        let names = COLUMNS.map(|(name, _)| name).join(", ");
        let values = COLUMNS.map(|(name, kind)| self.database.value(name, kind)).join(", ");
        let set = COLUMNS.iter().skip(2).map(|(name, _)| format!("{name} = excluded.{name}"));
        let sql = format!(
            "insert into webhook_endpoints ({names}) select {values} from {} where true \
             on conflict (id) do update set {}",
            self.database.records(&COLUMNS),
            set.collect::<Vec<_>>().join(", ")
        );
        let record = serde_json::to_string(&[endpoint]).unwrap_or_default();
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(record);
        self.database.within(statement.execute(&self.pool)).await.map(drop)
    }

    /// All of them, the newest first.
    ///
    /// # Errors
    /// The store is away.
    pub async fn list(&self) -> Result<Vec<Endpoint>, StoreError> {
        let read = async { select(&self.database, &mut *self.pool.acquire().await?, "true").await };
        match read.await {
            Ok(endpoints) => Ok(endpoints),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// One by its id.
    ///
    /// # Errors
    /// The store is away.
    pub async fn find(&self, id: Uuid) -> Result<Option<Endpoint>, StoreError> {
        let found = self.list().await?.into_iter().find(|endpoint| endpoint.id == id);
        Ok(found)
    }

    /// Forgets an endpoint and its deliveries; false where there is none.
    ///
    /// # Errors
    /// The store is away.
    pub async fn delete(&self, id: Uuid) -> Result<bool, StoreError> {
        let sql = format!("delete from webhook_endpoints where id = {}", self.database.id(1));
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Switches an endpoint off, and says why.
    ///
    /// # Errors
    /// The store is away.
    pub async fn disable(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        let off = match self.database.engine {
            Engine::Sqlite => "0",
            Engine::Postgres => "false",
        };
        let sql = format!(
            "update webhook_endpoints set enabled = {off}, disabled_reason = $2 where id = {}",
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(reason);
        self.database.within(statement.execute(&self.pool)).await.map(drop)
    }

    /// Some deliveries of a receiver.
    ///
    /// # Errors
    /// The store is away.
    pub async fn deliveries(
        &self,
        receiver: &str,
        query: &DeliveryQuery,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut binds = vec![receiver.to_owned()];
        let mut holds = vec!["d.receiver = $1".to_owned()];
        let (beyond, order) = if query.ascending { (">", "asc") } else { ("<", "desc") };
        if let Some(after) = query.after {
            binds.push(after.to_string());
            holds.push(format!("d.id {beyond} {}", self.database.id(binds.len())));
        }
        if let Some(state) = &query.state {
            binds.push(state.clone());
            holds.push(format!("d.state = ${}", binds.len()));
        }
        let sql = format!(
            "select {} from webhook_deliveries as d join outbox as o on o.seq = d.seq \
             where {} order by d.id {order} limit {}",
            self.delivery(),
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

    /// Sends a receiver again what was given up, and what waits at once: all of it, or one
    /// delivery. Returns how many.
    ///
    /// # Errors
    /// The store is away.
    pub async fn redeliver(
        &self,
        receiver: &str,
        delivery: Option<Uuid>,
        now: i64,
    ) -> Result<u64, StoreError> {
        let which = match delivery {
            Some(_) => format!("id = {}", self.database.id(3)),
            None => "state <> 'delivered' and cast($3 as text) is null".to_owned(),
        };
        let sql = format!(
            "update webhook_deliveries set state = 'pending', attempts = 0, next_at = {}, \
               finished_at = null \
             where receiver = $1 and lease_owner is null and {which}",
            self.database.instant(2)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(receiver).bind(now);
        let statement = statement.bind(delivery.map(|id| id.to_string()));
        Ok(self.database.within(statement.execute(&self.pool)).await?.rows_affected())
    }

    /// A delivery and its event as one JSON object.
    fn delivery(&self) -> String {
        let text = |column: &str| format!("cast({column} as text)");
        let fields = [
            ("id", text("d.id")),
            ("message", "o.id".to_owned()),
            ("kind", "o.kind".to_owned()),
            ("subject", "o.subject".to_owned()),
            ("created_at", self.database.millis("o.created_at")),
            ("state", "d.state".to_owned()),
            ("attempts", "d.attempts".to_owned()),
            ("next_at", self.database.millis("d.next_at")),
            ("last_status", "d.last_status".to_owned()),
            ("last_error", "d.last_error".to_owned()),
            ("finished_at", self.database.millis("d.finished_at")),
        ];
        self.database.json_object(fields.into_iter())
    }
}

/// The endpoints that get events.
pub(super) async fn enabled(
    database: &Database,
    connection: &mut AnyConnection,
) -> sqlx::Result<Vec<Endpoint>> {
    let enabled = match database.engine {
        Engine::Sqlite => "enabled = 1",
        Engine::Postgres => "enabled",
    };
    select(database, connection, enabled).await
}

async fn select(
    database: &Database,
    connection: &mut AnyConnection,
    holds: &str,
) -> sqlx::Result<Vec<Endpoint>> {
    let fields = COLUMNS.map(|(name, kind)| match (kind, database.engine) {
        (Kind::Time, _) => (name, database.millis(name)),
        (Kind::Json | Kind::List, Engine::Sqlite) => (name, format!("json({name})")),
        _ => (name, name.to_owned()),
    });
    let sql = format!(
        "select {} from webhook_endpoints where {holds} order by id desc",
        database.json_object(fields.into_iter())
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

fn read<T: serde::de::DeserializeOwned>(row: &AnyRow) -> sqlx::Result<T> {
    let text: String = row.try_get(0)?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// SQLite has no booleans.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(u8),
    }
    Ok(match Flag::deserialize(deserializer)? {
        Flag::Bool(flag) => flag,
        Flag::Number(number) => number != 0,
    })
}
