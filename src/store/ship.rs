//! The shipper: moves sealed segments into the database, in batches, at least once.
//!
//! A segment is deleted after its last batch was committed, and a row that is there already stays
//! as it is: killed at any moment, nothing is lost and nothing is there twice.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::IgnoredAny;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::SqlSafeStr as _;
use sqlx::SqlStr;
use uuid::Uuid;

use super::database::Database;
use super::database::STATEMENT;
use super::database::StoreError;
use super::database::is_refusal;
use super::erase::Work;
use super::feedback;
use super::feedback::Verdict;
use super::folder::Folder;
use super::folder::Segment;
use super::folder::aside;
use super::frame::Frames;
use super::pair;
use super::pair::Bodies;
use super::spool::Spool;
use super::spool::lock;
use super::strip;
use super::sweep;
use super::sweep::Sweeper;

/// Most rows, and bytes, of one statement.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// How often the folders of processes that have died are looked for.
const ADOPT_EVERY: Duration = Duration::from_secs(5);
/// Most that the shipper rests between two batches.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Wait after a first failure; doubled after each further one.
const BACK_OFF: Duration = Duration::from_millis(250);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);

/// Moves the spool into the database.
pub(super) struct Shipper {
    spool: Arc<Spool>,
    database: Database,
    insert: SqlStr,
    insert_bodies: SqlStr,
    connection: Option<AnyConnection>,
    /// Folders of processes that are gone, and what is left in them.
    adopted: VecDeque<(Folder, VecDeque<Segment>)>,
    /// Adopted ones with files that cannot be read or removed: held, so that nobody tries forever.
    stuck: Vec<Folder>,
    looked: Option<Instant>,
    sweeper: Sweeper,
    failures: u32,
    /// Why the store is away, as it was told last.
    reason: String,
}

impl Shipper {
    pub(super) fn new(spool: Arc<Spool>, database: Database) -> Self {
        let insert = AssertSqlSafe(database.insert_batch()).into_sql_str();
        let insert_bodies = AssertSqlSafe(database.insert_bodies()).into_sql_str();
        let mut shipper = Self {
            spool,
            database,
            insert,
            insert_bodies,
            connection: None,
            adopted: VecDeque::new(),
            stuck: Vec::new(),
            looked: None,
            sweeper: Sweeper::default(),
            failures: 0,
            reason: String::new(),
        };
        // Before the first append, so that their bytes count from the start.
        shipper.adopt();
        shipper
    }

    /// Works until the spool is finished and empty, or the store fails after that.
    pub(super) async fn run(mut self) {
        loop {
            let finished = self.spool.finished.load(Ordering::Acquire);
            let shipped = self.ship_next().await;
            if shipped.is_ok() {
                // Not before: a store that can be read may still take no writes.
                self.works();
            }
            let swept = !finished && shipped.is_ok() && self.sweep().await;
            let wait = match shipped {
                Ok(shipped) if shipped || swept => continue,
                Ok(_) if finished => break,
                Ok(_) => ADOPT_EVERY,
                Err(_) if finished => break,
                Err(error) => self.failed(&error),
            };
            self.rest(wait).await;
            self.adopt();
        }
        // With files in it, it is left to the next process.
        drop(lock(&self.spool.own).take().and_then(Folder::remove_if_empty));
    }

    /// Waits for the bell; after a failure only for the process's end.
    async fn rest(&self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let rung = tokio::time::timeout_at(until, self.spool.bell.notified()).await.is_ok();
            let ends = self.spool.finished.load(Ordering::Acquire);
            if !rung || ends || self.failures == 0 {
                return;
            }
        }
    }

    /// Ships one segment; false when there is none. A first call only brings the schema up to date.
    async fn ship_next(&mut self) -> Result<bool, StoreError> {
        if self.connection.is_none() {
            self.connect().await?;
        }
        if let Some(segment) = self.spool.next_sealed() {
            self.ship(&segment).await?;
            self.spool.shipped();
            return Ok(true);
        }
        let Some((_, segments)) = self.adopted.front_mut() else { return Ok(false) };
        if let Some(segment) = segments.front().cloned() {
            self.ship(&segment).await?;
            if let Some((_, segments)) = self.adopted.front_mut() {
                segments.pop_front();
            }
        } else if let Some((folder, _)) = self.adopted.pop_front() {
            self.stuck.extend(folder.remove_if_empty());
        }
        Ok(true)
    }

    /// Sweeps for a moment; whether there may be more to do. A sweep that fails holds up no record.
    async fn sweep(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let began = Instant::now();
        let step = self.sweeper.step(&self.database, connection);
        match self.database.within(step).await {
            Ok(swept) => {
                self.spool.metrics.capture_records("expired", swept.expired);
                self.give_way(began).await;
                swept.more
            }
            Err(error) => {
                tracing::warn!(%error, "what is kept no longer cannot be erased yet");
                self.connection = None;
                false
            }
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        let mut connection = self.database.connect().await?;
        let steps = self.database.migrate_by(&mut connection).await?;
        if !steps.is_empty() {
            tracing::info!(store = %self.database, ?steps, "the store's schema is up to date");
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Ships a segment and removes its file.
    async fn ship(&mut self, segment: &Segment) -> Result<(), StoreError> {
        let bytes = match fs::read(&segment.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                // It stays where it is: the next process tries it again.
                tracing::error!(path = %segment.path.display(), %error, "a spooled file cannot be read");
                self.spool.metrics.capture_records("unreadable", 1);
                return Ok(());
            }
        };
        let mut frames = Frames::of(&bytes);
        let mut batch = Vec::new();
        let mut size = 0;
        for frame in frames.by_ref() {
            let unit = Unit::of(frame);
            if let Some(verdict) = feedback::spooled(unit.record) {
                self.insert_verdict(&verdict).await?;
                continue;
            }
            if !is_record(unit.record) {
                self.refuse(&unit);
                continue;
            }
            size += frame.len();
            batch.push(unit);
            if batch.len() >= BATCH_ROWS || size >= BATCH_BYTES {
                self.insert(std::mem::take(&mut batch)).await?;
                size = 0;
            }
        }
        self.insert(batch).await?;
        self.discard(segment, frames.corrupt, frames.torn);
        Ok(())
    }

    fn discard(&self, segment: &Segment, corrupt: u64, torn: bool) {
        self.spool.metrics.capture_records("torn", u64::from(torn));
        self.spool.metrics.capture_records("corrupt", corrupt);
        let gone = if corrupt > 0 {
            let kept = segment.keep_aside(&self.spool.dir);
            if let Ok(place) = &kept {
                tracing::error!(corrupt, place = %place.display(), "a spooled file is damaged; what could be read of it is in the store");
            }
            kept.map(drop)
        } else {
            fs::remove_file(&segment.path)
        };
        match gone {
            Err(error) => {
                tracing::warn!(path = %segment.path.display(), %error, "a shipped file cannot be removed");
            }
            Ok(()) => self.spool.shrank(segment.bytes),
        }
    }

    /// Inserts records, but for those that the database refuses: they are found by halves.
    async fn insert(&mut self, records: Vec<Unit<'_>>) -> Result<(), StoreError> {
        let mut left = vec![records];
        while let Some(mut records) = left.pop() {
            if records.is_empty() {
                continue;
            }
            let began = Instant::now();
            match self.insert_all(&records).await? {
                Some(stored) => {
                    let all = u64::try_from(records.len()).unwrap_or(u64::MAX);
                    self.spool.metrics.capture_records("stored", stored);
                    self.spool.metrics.capture_records("duplicate", all.saturating_sub(stored));
                    self.works();
                }
                None => match &*records {
                    [unit] => self.refuse(unit),
                    _ => {
                        left.push(records.split_off(records.len() / 2));
                        left.push(records);
                    }
                },
            }
            if !self.spool.finished.load(Ordering::Relaxed) {
                self.give_way(began).await;
            }
        }
        Ok(())
    }

    /// Rests after work that began at `began`, which may have been a wait for somebody's lock.
    async fn give_way(&self, began: Instant) {
        tokio::time::sleep((began.elapsed() * self.leisure()).min(LONGEST_REST)).await;
    }

    /// How many times as long as a batch took the shipper rests after it. While little waits,
    /// requests come first: a tenth of a core ships 1,000 to 3,000 rows a second. The more piles up,
    /// the larger its share becomes; beyond 64 MiB, or half of the spool, it does not rest.
    fn leisure(&self) -> u32 {
        let by_bytes = match self.spool.used() >> 20 {
            0..4 => 9,
            4..16 => 3,
            16..64 => 1,
            _ => 0,
        };
        let by_share = match self.spool.eighths_full() {
            0 => 9,
            1..4 => 1,
            _ => 0,
        };
        by_bytes.min(by_share)
    }

    /// One transaction. `None` when the database refuses a row of it.
    async fn insert_all(&mut self, units: &[Unit<'_>]) -> Result<Option<u64>, StoreError> {
        // It comes back unless the transaction failed: whatever state it is in then, a new one has
        // none.
        let Some(mut connection) = self.connection.take() else { return Ok(None) };
        self.put_large(&mut connection, units).await?;
        let stored = match tokio::time::timeout(STATEMENT, self.bring(&mut connection, units)).await
        {
            Ok(Ok(stored)) => Some(stored),
            Ok(Err(error)) if is_refusal(&error) => {
                tracing::warn!(store = %self.database, %error, "the store refuses a record");
                None
            }
            Ok(Err(error)) => return Err(self.database.unavailable(&error)),
            Err(_) => return Err(self.database.gave_up(STATEMENT)),
        };
        self.connection = Some(connection);
        Ok(stored)
    }

    /// Inserts records and bodies, and strips at once what was erased before it came.
    async fn bring(&self, connection: &mut AnyConnection, units: &[Unit<'_>]) -> sqlx::Result<u64> {
        let records = array(units.iter().map(|unit| String::from_utf8_lossy(unit.record)));
        let bodies: Vec<_> = units.iter().filter_map(|unit| unit.bodies).collect();
        let erasures = Work { database: &self.database, now: sweep::now() };
        let mut transaction = self.database.begin(connection).await?;
        self.database.keep_apart(&mut transaction, false).await?;
        let newest = erasures.newest(&mut transaction).await?;
        if !bodies.is_empty() {
            let objects = self.database.objects.is_some();
            let bodies = array(bodies.into_iter().map(|bodies| bodies.to_json(objects).into()));
            let statement = sqlx::query(self.insert_bodies.clone()).bind(bodies);
            statement.execute(&mut *transaction).await?;
        }
        let statement = sqlx::query(self.insert.clone()).bind(&records);
        let stored = statement.execute(&mut *transaction).await?.rows_affected();
        let mut erased = 0;
        if newest.is_some_and(|newest| units.iter().any(|unit| unit.is_from_before(newest))) {
            erased = erasures.cover(&mut transaction, &records).await?;
        }
        transaction.commit().await?;
        self.spool.metrics.capture_records("erased", erased);
        Ok(stored)
    }

    /// Puts what is too large for a row into the object store, before the row that names it.
    async fn put_large(
        &self,
        connection: &mut AnyConnection,
        units: &[Unit<'_>],
    ) -> Result<(), StoreError> {
        let Some(objects) = &self.database.objects else { return Ok(()) };
        for bodies in units.iter().filter_map(|unit| unit.bodies) {
            let mut large = bodies.large().peekable();
            // One that comes again may have been erased since: its object must not come back.
            if large.peek().is_none() || self.is_stored(connection, bodies.id).await? {
                continue;
            }
            for (key, body) in large {
                objects.put(&key, body.to_vec()).await?;
            }
        }
        Ok(())
    }

    async fn is_stored(
        &self,
        connection: &mut AnyConnection,
        id: Uuid,
    ) -> Result<bool, StoreError> {
        let sql = format!("select 1 from interactions where id = {}", self.database.id(1));
        let found = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let found = self.database.within(found.fetch_optional(connection)).await?;
        Ok(found.is_some())
    }

    /// Inserts a verdict, unless it only says once more what the last one of its name said, or is
    /// about what was erased.
    async fn insert_verdict(&mut self, verdict: &Verdict) -> Result<(), StoreError> {
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let work = self.bring_verdict(&mut connection, verdict);
        match tokio::time::timeout(STATEMENT, work).await {
            Ok(Ok(())) => self.works(),
            Ok(Err(error)) if is_refusal(&error) => {
                tracing::error!(%error, "the store refuses a verdict");
                self.spool.metrics.capture_records("refused", 1);
            }
            Ok(Err(error)) => return Err(self.database.unavailable(&error)),
            Err(_) => return Err(self.database.gave_up(STATEMENT)),
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn bring_verdict(
        &self,
        connection: &mut AnyConnection,
        verdict: &Verdict,
    ) -> sqlx::Result<()> {
        let mut transaction = self.database.begin(connection).await?;
        self.database.keep_apart(&mut transaction, false).await?;
        let statement = sqlx::query(AssertSqlSafe(self.database.insert_verdict()))
            .bind(verdict.id.to_string())
            .bind(i64::try_from(verdict.created_at).unwrap_or(i64::MAX))
            .bind(&verdict.target)
            .bind(&verdict.name)
            .bind(without_nul(verdict.value.to_string()))
            .bind(&verdict.key_name)
            .bind(Uuid::try_parse(&verdict.target).ok().map(|id| id.to_string()))
            .bind(strip::digest_of(&verdict.target));
        statement.execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// Keeps a record that the database does not take, for people to look at.
    fn refuse(&self, unit: &Unit<'_>) {
        self.spool.metrics.capture_records("refused", 1);
        let keep = || {
            let path = aside(&self.spool.dir)?.join("refused.jsonl");
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&path)?;
            let bodies = unit.bodies.map(|bodies| bodies.to_json(false)).unwrap_or_default();
            file.write_all(&[unit.record, b"\n", bodies.as_bytes()].concat())?;
            if !bodies.is_empty() {
                file.write_all(b"\n")?;
            }
            Ok::<_, std::io::Error>(path)
        };
        match keep() {
            Ok(path) => tracing::error!(path = %path.display(), "a refused record was set aside"),
            Err(error) => tracing::error!(%error, "a refused record is lost"),
        }
    }

    fn adopt(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < ADOPT_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        for folder in Folder::adopt_all(&self.spool.dir) {
            let segments = VecDeque::from(folder.segments());
            let bytes = segments.iter().map(|segment| segment.bytes).sum();
            if bytes > 0 {
                tracing::info!(
                    segments = segments.len(),
                    bytes,
                    "shipping what another process left"
                );
            }
            self.spool.grew(bytes);
            self.adopted.push_back((folder, segments));
        }
    }

    fn works(&mut self) {
        self.failures = 0;
        if self.spool.set_away(false) {
            tracing::info!(store = %self.database, "the store is available again");
        }
    }

    /// Notes a failure; returns how long to wait.
    fn failed(&mut self, error: &StoreError) -> Duration {
        let reason = error.to_string();
        if !self.spool.set_away(true) || reason != self.reason {
            tracing::warn!(%error, dir = %self.spool.dir.display(), "records wait in the spool until the store is available");
            self.reason = reason;
        }
        self.failures = self.failures.saturating_add(1);
        let wait = BACK_OFF * 2_u32.saturating_pow(self.failures.min(6) - 1);
        // Gateways that failed together do not come back together.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        wait.min(LONGEST_BACK_OFF) + Duration::from_millis(u64::from(now.subsec_micros() % 250))
    }
}

/// Whether bytes are what a record is: a JSON object.
fn is_record(bytes: &[u8]) -> bool {
    bytes.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// What is inserted as a whole: a record, and the bodies that go with it.
struct Unit<'a> {
    record: &'a [u8],
    bodies: Option<Bodies<'a>>,
}

impl<'a> Unit<'a> {
    fn of(frame: &'a [u8]) -> Self {
        let (record, bodies) = pair::split(frame);
        Self { record, bodies }
    }

    /// Whether it was not created after `time`, in milliseconds since 1970.
    fn is_from_before(&self, time: i64) -> bool {
        #[derive(Deserialize)]
        struct Dated {
            created_at: i64,
        }
        // Where it cannot be told, the database looks.
        serde_json::from_slice::<Dated>(self.record).map_or(true, |dated| dated.created_at <= time)
    }
}

/// JSON objects as one JSON array.
fn array<'a>(objects: impl Iterator<Item = Cow<'a, str>>) -> String {
    let mut text = String::from("[");
    for object in objects {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&object);
    }
    text.push(']');
    without_nul(text)
}

/// JSON with U+FFFD for every escaped NUL, which Postgres' text cannot hold.
fn without_nul(json: String) -> String {
    const NUL: &str = r"\u0000";
    if !json.contains(NUL) {
        return json;
    }
    let mut pieces = json.split(NUL);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // After an odd number of backslashes the one of the match is itself escaped.
        let before = text.len() - text.trim_end_matches('\\').len();
        text.push_str(if before.is_multiple_of(2) { r"\ufffd" } else { NUL });
        text.push_str(piece);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_escaped_nul_is_replaced() {
        let text = |json: &str| without_nul(json.to_owned());
        assert_eq!(text(r#"["a\u0000b\u0000","c"]"#), r#"["a\ufffdb\ufffd","c"]"#);
        assert_eq!(text(r#"["\\u0000"]"#), r#"["\\u0000"]"#);
        assert_eq!(text(r#"["\\\u0000"]"#), r#"["\\\ufffd"]"#);
    }
}
