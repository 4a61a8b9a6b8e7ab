//! The keys in memory: what a gateway asks for every request, without the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use subtle::ConstantTimeEq as _;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::background::note;
use crate::store::database::Database;
use crate::store::database::StoreError;
use crate::store::interaction::Kind;
use crate::telemetry::metrics::Metrics;

use super::Grant;
use super::Stored;
use super::secret;
use super::secret::Digest;
use super::select;

/// How often is looked for a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for one look; then the connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How exactly is known when a key was last used, in milliseconds.
const USE_GRAIN: i64 = 60_000;

/// Why a key opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no key of this kind: mistyped, cut, or another service's.
    Malformed,
    /// Nobody knows it.
    Unknown,
    /// Somebody ended it, or its grace is over.
    Revoked,
    /// It has ended by itself.
    Expired,
    /// The keys were not read yet.
    NotLoaded,
}

/// All keys, read from the store every second when they have changed. The last ones that were read
/// stay in force for as long as the store is away.
#[derive(Default)]
pub struct KeyRing {
    snapshot: ArcSwapOption<Snapshot>,
}

struct Snapshot {
    /// The store's count of changes when it was read.
    counter: i64,
    /// By the first half of the digest: which half a caller has hit, the look-up's time may tell.
    keys: HashMap<u128, Entry>,
}

struct Entry {
    id: Uuid,
    digest: Digest,
    grant: Arc<Grant>,
    expires_at: i64,
    /// When it was or will be revoked.
    ends_at: i64,
    used: Arc<Use>,
}

/// When a key was last used, in milliseconds since 1970; 0 for never.
#[derive(Default)]
struct Use {
    /// As far as this gateway knows.
    noted: AtomicI64,
    /// As far as it has written that down.
    written: AtomicI64,
}

impl KeyRing {
    /// Whose key this is. Takes the same time for whatever key that looks like one.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn open(&self, secret: &[u8], now: i64) -> Result<Arc<Grant>, Refused> {
        if !secret::is_well_formed(secret) {
            return Err(Refused::Malformed);
        }
        let snapshot = self.snapshot.load();
        let snapshot = snapshot.as_ref().ok_or(Refused::NotLoaded)?;
        let digest = Digest::of(secret);
        let entry = snapshot.keys.get(&half(digest)).ok_or(Refused::Unknown)?;
        if !bool::from(entry.digest.0.ct_eq(&digest.0)) {
            return Err(Refused::Unknown);
        }
        if entry.ends_at <= now {
            return Err(Refused::Revoked);
        }
        if entry.expires_at <= now {
            return Err(Refused::Expired);
        }
        let noted = &entry.used.noted;
        if now.saturating_sub(noted.load(Ordering::Relaxed)) >= USE_GRAIN {
            noted.store(now, Ordering::Relaxed);
        }
        Ok(Arc::clone(&entry.grant))
    }

    /// Whether the keys were ever read.
    pub fn is_loaded(&self) -> bool {
        self.snapshot.load().is_some()
    }

    /// Reads the keys for the first time.
    ///
    /// # Errors
    /// The store is away.
    pub async fn load(&self, database: &Database) -> Result<(), StoreError> {
        self.look(database, &mut None).await
    }

    /// Keeps the keys as the store has them, for ever.
    pub async fn keep_fresh(self: Arc<Self>, database: Database, metrics: Arc<Metrics>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut connection, mut away) = (None, false);
        loop {
            tick.tick().await;
            let mut looked = self.look(&database, &mut connection).await;
            if looked.is_ok() {
                looked = self.write_uses(&database, &mut connection).await;
            }
            metrics.keys_in_sync(looked.is_ok());
            let looked = note(looked);
            match &looked {
                Ok(()) if away => tracing::info!("the store is back: keys are as it has them"),
                Err(error) if !away => {
                    tracing::warn!(%error, "keys cannot be read: those that were read last stay in force");
                }
                _ => {}
            }
            away = looked.is_err();
        }
    }

    /// Reads the keys where they have changed. A connection that fails is given up.
    async fn look(
        &self,
        database: &Database,
        kept: &mut Option<AnyConnection>,
    ) -> Result<(), StoreError> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                let mut connection = database.connect().await?;
                database.migrate_by(&mut connection).await?;
                connection
            }
        };
        let known = self.snapshot.load().as_ref().map(|snapshot| snapshot.counter);
        let work = async {
            let sql = "select counter from virtual_key_changes";
            // The counter first: a change that comes between the two is read again.
            let counter: i64 = sqlx::query(sql).fetch_one(&mut connection).await?.try_get(0)?;
            let changed = known != Some(counter);
            let rows = if changed { Some(select(database, &mut connection).await?) } else { None };
            Ok::<_, sqlx::Error>(rows.map(|rows| (counter, rows)))
        };
        let changed = patiently(database, work).await?;
        if let Some((counter, rows)) = changed {
            self.put(counter, rows);
        }
        *kept = Some(connection);
        Ok(())
    }

    fn put(&self, counter: i64, rows: Vec<Stored>) {
        let before = self.snapshot.load();
        let used = |digest: Digest| {
            let known = before.as_ref().and_then(|before| before.keys.get(&half(digest)));
            known.map_or_else(Arc::default, |entry| Arc::clone(&entry.used))
        };
        let entry = |row: Stored| {
            let digest = row.digest?;
            let ends = [row.revoked_at, row.grace_until].into_iter().flatten().min();
            let entry = Entry {
                id: row.id,
                digest,
                used: used(digest),
                grant: Arc::new(row.grant),
                expires_at: row.expires_at.unwrap_or(i64::MAX),
                // A revocation holds whatever this machine's clock says.
                ends_at: if row.revoked_at.is_some() { i64::MIN } else { ends.unwrap_or(i64::MAX) },
            };
            Some((half(digest), entry))
        };
        let keys = rows.into_iter().filter_map(entry).collect();
        self.snapshot.store(Some(Arc::new(Snapshot { counter, keys })));
    }

    /// Writes down which keys were used. A connection that fails is given up.
    async fn write_uses(
        &self,
        database: &Database,
        kept: &mut Option<AnyConnection>,
    ) -> Result<(), StoreError> {
        let Some(snapshot) = self.snapshot.load_full() else { return Ok(()) };
        let noted = |entry: &Entry| entry.used.noted.load(Ordering::Relaxed);
        let entries = snapshot.keys.values();
        let new = entries.filter(|e| noted(e) > e.used.written.load(Ordering::Relaxed));
        let new: Vec<(&Entry, i64)> = new.map(|entry| (entry, noted(entry))).collect();
        let Some(mut connection) = kept.take_if(|_| !new.is_empty()) else { return Ok(()) };
        let records = new.iter().map(|(entry, used)| json!({ "id": entry.id, "used": used }));
        let records = Value::from_iter(records).to_string();
        let (id, used) = (database.value("id", Kind::Id), database.value("used", Kind::Time));
        // Another gateway may have seen it later.
        let sql = format!(
            "update virtual_keys set last_used_at = {used} from {} \
             where virtual_keys.id = {id} and (last_used_at is null or last_used_at < {used})",
            database.records(&[("id", Kind::Id), ("used", Kind::Time)])
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(records);
        patiently(database, statement.execute(&mut connection)).await?;
        new.iter().for_each(|(entry, used)| entry.used.written.store(*used, Ordering::Relaxed));
        *kept = Some(connection);
        Ok(())
    }
}

/// Waits for the database for a moment: the next look must not be late.
async fn patiently<T>(
    database: &Database,
    work: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, StoreError> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.map_err(|_| database.gave_up(PATIENCE))?.map_err(|error| database.unavailable(&error))
}

fn half(digest: Digest) -> u128 {
    let mut half = [0; 16];
    half.iter_mut().zip(digest.0).for_each(|(to, from)| *to = from);
    u128::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::drafted;

    const NOW: i64 = 1_795_392_000_000;

    fn ring(change: impl FnOnce(&mut Stored)) -> (KeyRing, String) {
        let grant = Grant { name: "app".to_owned(), ..Grant::default() };
        let (secret, mut row) = drafted(grant, None, NOW).unwrap();
        change(&mut row);
        let ring = KeyRing::default();
        ring.put(1, vec![row]);
        (ring, secret)
    }

    #[test]
    fn a_key_is_known_by_its_digest_alone() {
        let (ring, secret) = ring(|_| {});
        let cut = secret.strip_suffix(char::is_alphanumeric).unwrap();
        assert_eq!(ring.open(secret.as_bytes(), NOW).unwrap().name, "app");
        let other = secret::generate().unwrap();
        assert_eq!(ring.open(other.as_bytes(), NOW), Err(Refused::Unknown));
        for wrong in ["", "wk_", "sk-1", cut] {
            assert_eq!(ring.open(wrong.as_bytes(), NOW), Err(Refused::Malformed), "{wrong}");
        }
    }

    #[test]
    fn two_keys_with_the_same_first_half_of_the_digest_are_two() {
        let (ring, secret) = ring(|row| {
            let mut digest = row.digest.unwrap();
            digest.0[31] ^= 1;
            row.digest = Some(digest);
        });
        assert_eq!(ring.open(secret.as_bytes(), NOW), Err(Refused::Unknown));
    }

    #[test]
    fn a_key_ends_when_it_expires_is_revoked_or_its_grace_is_over() {
        let (expiring, secret) = ring(|row| row.expires_at = Some(NOW));
        assert!(expiring.open(secret.as_bytes(), NOW - 1).is_ok());
        assert_eq!(expiring.open(secret.as_bytes(), NOW), Err(Refused::Expired));
        let (replaced, secret) = ring(|row| row.grace_until = Some(NOW));
        assert!(replaced.open(secret.as_bytes(), NOW - 1).is_ok());
        assert_eq!(replaced.open(secret.as_bytes(), NOW), Err(Refused::Revoked));
        // By a machine whose clock goes before.
        let (revoked, secret) = ring(|row| row.revoked_at = Some(NOW));
        assert_eq!(revoked.open(secret.as_bytes(), NOW - 1), Err(Refused::Revoked));
    }

    #[test]
    fn before_the_first_look_nobody_can_tell() {
        let secret = secret::generate().unwrap();
        assert_eq!(KeyRing::default().open(secret.as_bytes(), NOW), Err(Refused::NotLoaded));
        assert_eq!(KeyRing::default().open(b"wk_", NOW), Err(Refused::Malformed));
    }

    #[test]
    fn a_use_is_noted_once_a_minute_and_outlives_a_reload() {
        let (ring, secret) = ring(|_| {});
        let used = |ring: &KeyRing| {
            let snapshot = ring.snapshot.load_full().unwrap();
            snapshot.keys.values().next().unwrap().used.noted.load(Ordering::Relaxed)
        };
        assert_eq!(used(&ring), 0);
        for (at, noted) in [(0, 0), (59_999, 0), (60_000, 60_000)] {
            ring.open(secret.as_bytes(), NOW + at).unwrap();
            assert_eq!(used(&ring), NOW + noted);
        }
        let (_, mut row) = drafted(Grant::default(), None, NOW).unwrap();
        row.digest = Some(Digest::of(secret.as_bytes()));
        ring.put(2, vec![row]);
        assert_eq!(used(&ring), NOW + 60_000);
    }
}
