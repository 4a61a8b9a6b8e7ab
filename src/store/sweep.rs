//! The sweep: what is kept no longer goes, and erasures that were interrupted come to their end.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;

use super::database::Database;
use super::database::Engine;
use super::erase::Work;
use super::strip::Doomed;
use super::strip::ROWS;
use super::strip::Strip;
use super::strip::Stripped;

/// How often is looked for what has expired.
const EVERY: Duration = Duration::from_secs(60);
/// An erasure that has not ended after so many milliseconds has perhaps lost its process.
const TAKE_OVER: i64 = 300_000;

/// What a step has done.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// Rows that were kept no longer.
    pub(super) expired: u64,
    /// Whether there may be more.
    pub(super) more: bool,
}

/// Sweeps from time to time, some hundred rows a step.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// When it last found nothing, or failed.
    rested: Option<Instant>,
}

impl Sweeper {
    /// One step; nothing while it rests. A step that fails is tried again after a rest.
    pub(super) async fn step(
        &mut self,
        database: &Database,
        connection: &mut AnyConnection,
    ) -> sqlx::Result<Swept> {
        if self.rested.is_some_and(|rested| rested.elapsed() < EVERY) {
            return Ok(Swept::default());
        }
        let before = self.rested.replace(Instant::now());
        let work = Work { database, now: now() };
        let expired = expire(work, connection).await?.rows;
        let more = expired > 0 || go_on(work, connection).await?;
        if more {
            self.rested = before;
        }
        Ok(Swept { expired, more })
    }
}

/// Strips rows whose time is over.
async fn expire(work: Work<'_>, connection: &mut AnyConnection) -> sqlx::Result<Stripped> {
    let database = work.database;
    let mut transaction = database.begin(connection).await?;
    // Gateways that share a store do not wait for each other's sweeps.
    let lock = if database.engine == Engine::Postgres { "for update skip locked" } else { "" };
    let sql = format!(
        "select {} from interactions as i where i.expires_at <= {} and i.erased_at is null \
         order by i.expires_at limit {ROWS} {lock}",
        Doomed::COLUMNS,
        database.instant(1)
    );
    let statement = sqlx::query(AssertSqlSafe(sql)).bind(work.now);
    let rows = statement.fetch_all(&mut *transaction).await?;
    let rows = rows.iter().map(Doomed::read).collect::<sqlx::Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Ok(Stripped::default());
    }
    let strip = Strip::new(database, &mut transaction, &rows, work.now);
    let stripped = strip.expire().await?;
    transaction.commit().await?;
    Ok(stripped)
}

/// Goes on with an erasure that others have begun; false when there is none.
async fn go_on(work: Work<'_>, connection: &mut AnyConnection) -> sqlx::Result<bool> {
    let asked = work.now.saturating_sub(TAKE_OVER);
    let Some(tombstone) = work.unfinished(connection, asked).await? else { return Ok(false) };
    if work.step(connection, &tombstone).await?.is_finished() {
        work.clean(connection).await;
    }
    Ok(true)
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
