//! What has happened, for automation to hear of: written down beside the change that it tells of,
//! so that neither is there without the other.

use serde_json::Value;
use sqlx::AnyConnection;
use uuid::Uuid;

use super::database::Database;
use super::database::StoreError;

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
    let id = format!("msg_{}", Uuid::now_v7().simple());
    let sql = "insert into outbox (id, kind, subject, data) values ($1, $2, $3, $4)";
    let statement = sqlx::query(sql).bind(id).bind(&event.kind);
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
