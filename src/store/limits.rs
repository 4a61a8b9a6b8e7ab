//! What is used of limits, kept from one process to the next.

use serde::Serialize;
use serde::Serializer;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::database::Database;
use super::database::StoreError;
use super::interaction::Kind;
use super::sweep::now;

/// Rows of one statement.
const ROWS: usize = 1_000;

/// A counter as it outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitCounter {
    /// The limit's name.
    #[serde(rename = "limit_name")]
    pub limit: String,
    /// Whose.
    pub subject: String,
    /// requests, tokens or budget.
    pub kind: String,
    /// The process that counted; empty for this one.
    pub gateway: String,
    /// minute, hour, day, week or month.
    #[serde(rename = "window_name")]
    pub every: String,
    /// The window's beginning; of a minute, when it was written. Milliseconds since 1970.
    #[serde(rename = "starts_at")]
    pub start_ms: u64,
    /// The window's end.
    #[serde(rename = "ends_at")]
    pub end_ms: u64,
    /// What is used, calls that are running included; picodollars of a budget.
    #[serde(serialize_with = "decimal")]
    pub used: i128,
}

/// Beyond what JSON's numbers hold everywhere.
fn decimal<S: Serializer>(number: &i128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Writes what one process has counted.
#[derive(Debug)]
pub struct LimitCounters {
    database: Database,
    connection: Option<AnyConnection>,
}

impl LimitCounters {
    /// The counters of this store; it is not asked yet.
    pub fn of(database: Database) -> Self {
        Self { database, connection: None }
    }

    /// What all processes have counted in windows that are not over.
    ///
    /// # Errors
    /// The store is away.
    pub async fn read(&mut self) -> Result<Vec<LimitCounter>, StoreError> {
        self.database.migrate().await?;
        let database = self.database.clone();
        let connection = self.connection().await?;
        let sql = format!(
            "select limit_name, subject, kind, gateway, window_name, {}, {}, used \
             from limit_counters where ends_at > {}",
            database.millis("starts_at"),
            database.millis("ends_at"),
            database.instant(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(now());
        let rows = database.within(statement.fetch_all(connection)).await;
        let rows = self.keep(rows)?;
        // Whoever writes may do so on another runtime.
        self.connection = None;
        let counters: sqlx::Result<Vec<_>> = rows.iter().map(counter).collect();
        counters.map_err(|error| self.database.unavailable(&error))
    }

    /// Writes counters of the process `gateway`, in place of what it wrote of them before, and
    /// forgets windows that are over.
    ///
    /// # Errors
    /// The store is away; what was not written is to be given again.
    pub async fn write(
        &mut self,
        gateway: &str,
        counters: &mut [LimitCounter],
    ) -> Result<(), StoreError> {
        for counter in &mut *counters {
            gateway.clone_into(&mut counter.gateway);
        }
        let database = self.database.clone();
        let connection = self.connection().await?;
        let written = database.within(write(&database, connection, counters)).await;
        self.keep(written)
    }

    /// A connection that has failed is opened anew the next time.
    fn keep<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        done.inspect_err(|_| self.connection = None)
    }

    async fn connection(&mut self) -> Result<&mut AnyConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.connect().await?,
        };
        Ok(self.connection.insert(connection))
    }
}

async fn write(
    database: &Database,
    connection: &mut AnyConnection,
    counters: &[LimitCounter],
) -> sqlx::Result<()> {
    let columns = [
        ("limit_name", Kind::Text),
        ("subject", Kind::Text),
        ("kind", Kind::Text),
        ("gateway", Kind::Text),
        ("window_name", Kind::Text),
        ("starts_at", Kind::Time),
        ("ends_at", Kind::Time),
        ("used", Kind::Text),
    ];
    let names = columns.map(|(name, _)| name).join(", ");
    let values = columns.map(|(name, kind)| database.value(name, kind)).join(", ");
    let records = database.records(&columns);
    let insert = format!(
        "insert into limit_counters ({names}) select {values} from {records} where true \
         on conflict (limit_name, subject, kind, gateway) do update set \
           window_name = excluded.window_name, starts_at = excluded.starts_at, \
           ends_at = excluded.ends_at, used = excluded.used"
    );
    let mut transaction = database.begin(connection).await?;
    for rows in counters.chunks(ROWS) {
        let rows =
            serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let statement = sqlx::query(AssertSqlSafe(insert.clone())).bind(rows);
        statement.execute(&mut *transaction).await?;
    }
    let over = format!("delete from limit_counters where ends_at <= {}", database.instant(1));
    sqlx::query(AssertSqlSafe(over)).bind(now()).execute(&mut *transaction).await?;
    transaction.commit().await
}

fn counter(row: &AnyRow) -> sqlx::Result<LimitCounter> {
    let number = |place| row.try_get::<i64, _>(place).map(|n| u64::try_from(n).unwrap_or(0));
    let used: String = row.try_get(7)?;
    Ok(LimitCounter {
        limit: row.try_get(0)?,
        subject: row.try_get(1)?,
        kind: row.try_get(2)?,
        gateway: row.try_get(3)?,
        every: row.try_get(4)?,
        start_ms: number(5)?,
        end_ms: number(6)?,
        used: used.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
    })
}
