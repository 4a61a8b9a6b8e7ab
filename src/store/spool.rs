//! The spool: records wait in memory for a moment, then in files until they are in the database.
//!
//! The request's thread copies a record into the queue and goes on. A thread appends what is there to
//! the current segment every few milliseconds (`writer`): a write per request costs more than the
//! record. A quiet one redacts and compresses the bodies before that (`packing`). Once a segment is
//! old or large enough it is sealed, and the shipper takes it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::telemetry::metrics::Metrics;

use super::desk::Desk;
use super::folder::Folder;
use super::folder::Segment;
use super::pair::Pair;

/// Least time between two appends: records that come within it are written together, and bodies that
/// come within it are packed together.
pub(super) const BATCH: Duration = Duration::from_millis(25);
/// Most bytes of records that wait in memory. They only pile up while the disk refuses to take them.
pub(super) const MAX_QUEUED: usize = 16 << 20;
/// Memory of records with bodies that wait to be packed, from which on others go without theirs.
const MAX_UNPACKED: usize = 16 << 20;
/// Most memory of one of them.
const LARGEST: usize = 32 << 20;
/// Of the spool, the part that is kept free of bodies: records are worth more.
const FOR_RECORDS: u64 = 8;

/// What the threads of the spool share.
pub(super) struct Spool {
    pub(super) dir: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) metrics: Arc<Metrics>,
    pub(super) queue: Mutex<Queue>,
    /// Rung for the writer.
    pub(super) some: Condvar,
    /// What is to be packed, and what is.
    pub(super) desk: Desk,
    /// Memory of the records with bodies that are not packed yet.
    unpacked: AtomicUsize,
    /// Bytes of records that are framed and not yet in a file.
    pub(super) unwritten: AtomicU64,
    /// Whether the disk refused the last write.
    pub(super) refused: AtomicBool,
    /// Segments of this process that are ready to be shipped.
    pub(super) sealed: Mutex<VecDeque<Segment>>,
    /// Rung when there is something to ship, or the process ends.
    pub(super) bell: Notify,
    /// Bytes in all files of the spool that this process answers for.
    used: AtomicU64,
    /// Whether the store did not take the last batch.
    away: AtomicBool,
    /// Whether everything that will ever be written is sealed.
    pub(super) finished: AtomicBool,
    /// Lost records, and bodies, that the log does not know of yet.
    pub(super) untold: AtomicU64,
    pub(super) untold_bodies: AtomicU64,
    /// This process's own folder.
    pub(super) own: Mutex<Option<Folder>>,
}

/// What the threads of requests hand to the writer.
#[derive(Default)]
pub(super) struct Queue {
    /// Records that are ready to be appended, framed.
    pub(super) frames: Vec<u8>,
    pub(super) records: u64,
    /// Records whose bodies are to be packed first.
    pub(super) full: Vec<Full>,
    /// The same, where somebody waits for the record to be on disk.
    pub(super) awaited: Vec<Full>,
    pub(super) closing: bool,
}

impl Queue {
    /// Whether there is something to be packed or appended.
    pub(super) fn has_some(&self) -> bool {
        !(self.frames.is_empty() && self.full.is_empty() && self.awaited.is_empty())
    }
}

/// A record that is more than a row.
pub(super) struct Full {
    pub(super) id: Uuid,
    /// Its JSON object, which does not say yet how much is kept.
    pub(super) record: Vec<u8>,
    pub(super) pair: Option<Pair>,
    /// Told when the record is safe from a power cut; dropped when it is not.
    pub(super) saved: Option<Saved>,
}

impl Full {
    /// Memory that it takes, about: allocations and the place in a queue take some, too.
    pub(super) fn memory(&self) -> usize {
        512 + self.record.len() + self.pair.as_ref().map_or(0, Pair::len)
    }
}

/// Says that a record is on disk.
pub(super) type Saved = tokio::sync::oneshot::Sender<()>;

impl Spool {
    pub(super) fn new(dir: PathBuf, max_bytes: u64, metrics: Arc<Metrics>) -> Self {
        metrics.spool_limit().set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        Self {
            dir,
            max_bytes,
            metrics,
            queue: Mutex::default(),
            some: Condvar::new(),
            desk: Desk::default(),
            unpacked: AtomicUsize::new(0),
            unwritten: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            sealed: Mutex::default(),
            bell: Notify::new(),
            used: AtomicU64::new(0),
            away: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            untold: AtomicU64::new(0),
            untold_bodies: AtomicU64::new(0),
            own: Mutex::new(None),
        }
    }

    /// Takes a framed record. Never waits for more than another thread's copy.
    pub(super) fn offer(&self, frame: &[u8]) {
        let mut queue = lock(&self.queue);
        if queue.closing || queue.frames.len() + frame.len() > MAX_QUEUED {
            drop(queue);
            self.lost(1);
            return;
        }
        let first = !queue.has_some();
        queue.frames.extend_from_slice(frame);
        queue.records += 1;
        self.unwritten.fetch_add(bytes_of(frame), Ordering::Relaxed);
        drop(queue);
        if first {
            self.some.notify_one();
        }
    }

    /// Takes a record with its bodies. Where they have no room, the record goes without.
    pub(super) fn offer_full(&self, mut full: Full) {
        let memory = full.memory();
        let taken = self.unpacked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting <= MAX_UNPACKED && memory <= LARGEST).then(|| waiting + memory)
        });
        if taken.is_err() {
            self.lost_bodies(u64::from(full.pair.take().is_some()));
            if full.saved.is_none() {
                let mut frame = Vec::new();
                full.frame_bare(&mut frame);
                self.offer(&frame);
                return;
            }
            // Nobody waits for more records than there are requests.
            self.unpacked.fetch_add(full.memory(), Ordering::Relaxed);
        }
        let mut queue = lock(&self.queue);
        if queue.closing {
            drop(queue);
            self.lost(1);
            return;
        }
        let awaited = full.saved.is_some();
        let first = !queue.has_some() || awaited && queue.awaited.is_empty();
        if awaited {
            queue.awaited.push(full)
        } else {
            queue.full.push(full)
        }
        drop(queue);
        if first {
            self.some.notify_one();
        }
    }

    /// Whether more waits to be packed than the share `eighths` of what may.
    pub(super) fn unpacked_over(&self, eighths: usize) -> bool {
        self.unpacked.load(Ordering::Relaxed) > MAX_UNPACKED / 8 * eighths
    }

    /// Notes that a record does not wait to be packed any more.
    pub(super) fn packed(&self, memory: usize) {
        self.unpacked.fetch_sub(memory, Ordering::Relaxed);
    }

    /// Whether the spool has room for so many bytes of bodies, beside what is on its way there.
    pub(super) fn has_room_for_bodies(&self, bytes: &[u8]) -> bool {
        let max = self.max_bytes;
        let room = (max - max / FOR_RECORDS).saturating_sub(self.used());
        self.unwritten.load(Ordering::Relaxed) + bytes_of(bytes) <= room
    }

    /// Whether a record would reach the disk now.
    pub(super) fn takes_records(&self) -> bool {
        !self.refused.load(Ordering::Relaxed) && self.used() < self.max_bytes
    }

    pub(super) fn wait_while<'a>(
        &'a self,
        queue: MutexGuard<'a, Queue>,
        wait: Duration,
        condition: impl FnMut(&mut Queue) -> bool,
    ) -> MutexGuard<'a, Queue> {
        let waited = self.some.wait_timeout_while(queue, wait, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Lets the writer write what is there and end.
    pub(super) fn close(&self) {
        lock(&self.queue).closing = true;
        self.some.notify_one();
    }

    /// The next sealed segment; it stays the next until [`Self::shipped`].
    pub(super) fn next_sealed(&self) -> Option<Segment> {
        lock(&self.sealed).front().cloned()
    }

    /// Forgets the next sealed segment.
    pub(super) fn shipped(&self) {
        lock(&self.sealed).pop_front();
    }

    /// Notes whether the store takes records; returns what was so before.
    pub(super) fn set_away(&self, away: bool) -> bool {
        self.away.swap(away, Ordering::Relaxed)
    }

    /// Whether the store did not take the last batch.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Bytes were written to the spool's files, or found there.
    pub(super) fn grew(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.show_used();
    }

    /// How full the spool is, in eighths of its bound.
    pub(super) fn eighths_full(&self) -> u64 {
        self.used().saturating_mul(8) / self.max_bytes.max(1)
    }

    /// Files with that many bytes are gone.
    pub(super) fn shrank(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.show_used();
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn show_used(&self) {
        let used = self.used();
        self.metrics.spool_bytes().set(i64::try_from(used).unwrap_or(i64::MAX));
    }

    pub(super) fn lost(&self, records: u64) {
        self.metrics.capture_records("dropped", records);
        self.untold.fetch_add(records, Ordering::Relaxed);
    }

    /// Bodies are lost, and their records are not.
    pub(super) fn lost_bodies(&self, pairs: u64) {
        self.metrics.capture_records("body_dropped", pairs);
        self.untold_bodies.fetch_add(pairs, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn bytes_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
