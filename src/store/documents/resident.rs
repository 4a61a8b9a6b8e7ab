//! The signs of indexes in memory, brought up to date before each search: whatever any process has
//! committed before is found.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use futures_util::TryStreamExt as _;
use sqlx::Row as _;

use crate::store::database::StoreError;

use super::Documents;
use super::Index;
use super::signs::Signs;

/// Bytes of signs in memory: about two and a half million chunks of 1536 numbers.
const MOST_BYTES: usize = 512 << 20;
/// Documents that are taken over at once.
const AT_ONCE: usize = 1024;

/// The indexes in memory. Those that were not searched for longest go first.
#[derive(Debug, Default)]
pub(super) struct Residents {
    held: Mutex<HashMap<String, Arc<Resident>>>,
    uses: AtomicU64,
}

/// An index in memory.
#[derive(Debug)]
pub(super) struct Resident {
    signs: RwLock<Signs>,
    size_bytes: AtomicUsize,
    last_use: AtomicU64,
    /// Up to which of the index's changes it goes. Who holds it brings it up to date.
    seen: tokio::sync::Mutex<i64>,
}

/// A document as it is now: its first chunk's id and the signs of all, or none where it has gone.
struct Changed {
    document: i64,
    signs: Option<(i64, Vec<u8>)>,
}

impl Residents {
    fn of(&self, index: &Index) -> Arc<Resident> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let dimensions = usize::try_from(index.shape.dimensions).unwrap_or(usize::MAX);
        let new = || Arc::new(Resident::of(dimensions));
        let resident = Arc::clone(held.entry(index.id.clone()).or_insert_with(new));
        let use_now = self.uses.fetch_add(1, Ordering::Relaxed);
        resident.last_use.store(use_now, Ordering::Relaxed);
        resident
    }

    /// Drops an index that has gone.
    pub(super) fn forget(&self, id: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Drops others than this one until there is room for all.
    fn make_room(&self, id: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let size = |resident: &Arc<Resident>| resident.size_bytes.load(Ordering::Relaxed);
        while held.values().map(size).sum::<usize>() > MOST_BYTES {
            let others = held.iter().filter(|(held, _)| held.as_str() != id);
            let oldest =
                others.min_by_key(|(_, resident)| resident.last_use.load(Ordering::Relaxed));
            let Some((oldest, _)) = oldest else { return };
            let oldest = oldest.clone();
            held.remove(&oldest);
        }
    }
}

impl Resident {
    fn of(dimensions: usize) -> Self {
        Self {
            signs: RwLock::new(Signs::new(dimensions)),
            size_bytes: AtomicUsize::new(0),
            last_use: AtomicU64::new(0),
            seen: tokio::sync::Mutex::new(-1),
        }
    }

    /// Chunks whose vectors may be among the nearest. Takes milliseconds.
    pub(super) fn nearest(
        &self,
        vector: &[f32],
        most: usize,
        documents: Option<&[i64]>,
    ) -> Vec<i64> {
        let signs = self.signs.read().unwrap_or_else(PoisonError::into_inner);
        signs.nearest(vector, most, documents)
    }

    /// Beside the reactor: it waits for searches that run.
    async fn apply(self: &Arc<Self>, changed: Vec<Changed>) -> sqlx::Result<()> {
        if changed.is_empty() {
            return Ok(());
        }
        let resident = Arc::clone(self);
        let work = move || {
            let mut all = resident.signs.write().unwrap_or_else(PoisonError::into_inner);
            for Changed { document, signs } in changed {
                match signs {
                    Some((first_chunk, signs)) => all.replace(document, first_chunk, &signs),
                    None => all.remove(document),
                }
            }
            resident.size_bytes.store(all.size_bytes(), Ordering::Relaxed);
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))
    }
}

impl Documents {
    /// An index in memory, with all that was committed before the call.
    pub(super) async fn resident(&self, index: &Index) -> Result<Arc<Resident>, StoreError> {
        let resident = self.residents.of(index);
        let caught_up = self.database.within(self.catch_up(index, &resident)).await;
        if caught_up.is_err() || resident.size_bytes.load(Ordering::Relaxed) > MOST_BYTES {
            self.residents.forget(&index.id);
        }
        if !caught_up? {
            return Err(StoreError::Refused(format!(
                "the index has more vectors than are searched in memory ({} MiB of signs); \
                 use Postgres",
                MOST_BYTES >> 20
            )));
        }
        self.residents.make_room(&index.id);
        Ok(resident)
    }

    /// False where it is too large.
    async fn catch_up(&self, index: &Index, resident: &Arc<Resident>) -> sqlx::Result<bool> {
        let mut seen = resident.seen.lock().await;
        let sql = "select d.no, d.change, s.first_chunk, s.signs from documents as d \
                   left join document_signs as s on s.document = d.no \
                   where d.index_id = $1 and d.change > $2";
        let mut rows = sqlx::query(sql).bind(&index.id).bind(*seen).fetch(&self.pool);
        let (mut newest, mut changed) = (*seen, Vec::new());
        while let Some(row) = rows.try_next().await? {
            let signs = match row.try_get::<Option<Vec<u8>>, _>(3)? {
                Some(signs) => Some((row.try_get(2)?, signs)),
                None => None,
            };
            changed.push(Changed { document: row.try_get(0)?, signs });
            newest = newest.max(row.try_get(1)?);
            if changed.len() == AT_ONCE {
                resident.apply(std::mem::take(&mut changed)).await?;
            }
            if resident.size_bytes.load(Ordering::Relaxed) > MOST_BYTES {
                return Ok(false);
            }
        }
        resident.apply(changed).await?;
        // Only now: who is interrupted on the way begins again.
        *seen = newest;
        Ok(true)
    }
}
