//! The spool: records wait in memory for a moment, then in files until they are in the database.
//!
//! The request's thread copies a record into the queue and goes on. A quiet thread redacts and
//! compresses the bodies (`packing`); another one appends what is there to the current segment every
//! few milliseconds (`writer`): a write per request costs more than the record. Once a segment is old
//! or large enough it is sealed, and the shipper takes it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::telemetry::metrics::Metrics;

use super::folder::Folder;
use super::folder::Segment;
use super::pair::Pair;

/// Least time between two appends: records that come within it are written together, and bodies that
/// come within it are packed together.
pub(super) const BATCH: Duration = Duration::from_millis(25);
/// Most bytes of records that wait in memory. They only pile up while the disk refuses to take them.
pub(super) const MAX_QUEUED: usize = 16 << 20;
/// Most bytes of bodies that wait in memory.
const MAX_QUEUED_BODIES: usize = 32 << 20;
/// Of the spool, the part that is kept free of bodies: records are worth more.
const FOR_RECORDS: u64 = 8;
/// Bodies that wait for the quiet thread: with more bytes of them, or when they have waited this long,
/// the writer packs them itself. The machine is busy then, and the quiet thread gets nowhere.
const PACKED_LATE_BYTES: usize = 8 << 20;
const PACKED_LATE: Duration = Duration::from_secs(1);
/// Records that are packed and not yet appended; the quiet thread rests while there are more bytes of
/// them. They pile up while the disk refuses to take them, and bodies are to be given up first then.
const MAX_PACKED: usize = 4 << 20;

/// What the threads of the spool share.
pub(super) struct Spool {
    pub(super) dir: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) metrics: Arc<Metrics>,
    pub(super) queue: Mutex<Queue>,
    /// Rung for the writer.
    pub(super) some: Condvar,
    /// Rung for the quiet thread.
    to_pack: Condvar,
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

#[derive(Default)]
pub(super) struct Queue {
    /// Records that are ready to be appended, framed.
    pub(super) frames: Vec<u8>,
    pub(super) records: u64,
    /// Records whose bodies are to be packed first.
    pub(super) full: VecDeque<Full>,
    /// Bytes of the records in `full`, and of their bodies.
    full_records: usize,
    bodies: usize,
    /// Since when there is something in `full`.
    full_since: Option<Instant>,
    /// Records that the quiet thread has taken and not brought back.
    pub(super) packing: usize,
    /// Somebody waits for a record to be on disk.
    pub(super) urgent: bool,
    pub(super) closing: bool,
}

impl Queue {
    /// Bytes of all records.
    fn records_len(&self) -> usize {
        self.frames.len() + self.full_records
    }

    /// Whether the writer has to pack bodies itself.
    pub(super) fn is_late(&self) -> bool {
        let waited = self.full_since.is_some_and(|since| since.elapsed() >= PACKED_LATE);
        self.urgent || self.closing || waited || self.bodies >= PACKED_LATE_BYTES
    }

    fn push(&mut self, full: Full) {
        self.full_since.get_or_insert_with(Instant::now);
        self.full_records += full.record.len();
        self.bodies += full.pair.as_ref().map_or(0, Pair::len);
        self.urgent |= full.saved.is_some();
        self.full.push_back(full);
    }

    /// The record that has waited longest for its bodies to be packed.
    pub(super) fn pop(&mut self) -> Option<Full> {
        let full = self.full.pop_front()?;
        self.full_records -= full.record.len();
        self.bodies -= full.pair.as_ref().map_or(0, Pair::len);
        self.full_since = (!self.full.is_empty()).then(Instant::now);
        Some(full)
    }

    /// All of them.
    pub(super) fn take_full(&mut self) -> VecDeque<Full> {
        (self.full_records, self.bodies, self.full_since, self.urgent) = (0, 0, None, false);
        std::mem::take(&mut self.full)
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
            to_pack: Condvar::new(),
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
        let queue = lock(&self.queue);
        if queue.closing || queue.records_len() + frame.len() > MAX_QUEUED {
            drop(queue);
            self.lost(1);
            return;
        }
        self.push_frame(queue, frame);
    }

    /// Puts a framed record in line to be appended.
    fn push_frame(&self, mut queue: MutexGuard<'_, Queue>, frame: &[u8]) {
        let first = queue.frames.is_empty();
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
        let mut queue = lock(&self.queue);
        let bodies = full.pair.as_ref().map_or(0, Pair::len);
        if queue.bodies + bodies > MAX_QUEUED_BODIES {
            full.pair = None;
            self.lost_bodies(1);
        }
        if queue.closing || queue.records_len() + full.record.len() > MAX_QUEUED {
            drop(queue);
            self.lost(1);
            return;
        }
        let (first, was_late) =
            (queue.full.is_empty(), queue.urgent || queue.bodies >= PACKED_LATE_BYTES);
        queue.push(full);
        let late = queue.urgent || queue.bodies >= PACKED_LATE_BYTES;
        drop(queue);
        if late && !was_late {
            self.some.notify_one();
        } else if first {
            self.to_pack.notify_one();
        }
    }

    /// Waits until a record is to be packed by the quiet thread, others have had the time to follow,
    /// and there is room for what becomes of them; takes it. `None` is the end.
    pub(super) fn next_to_pack(&self) -> Option<Full> {
        let mut queue = lock(&self.queue);
        let rest = |queue: &mut Queue| {
            let nothing = queue.full.is_empty() || queue.urgent || queue.frames.len() > MAX_PACKED;
            !queue.closing && nothing
        };
        if rest(&mut queue) {
            queue = self.to_pack.wait_while(queue, rest).unwrap_or_else(PoisonError::into_inner);
            let early = self.to_pack.wait_timeout_while(queue, BATCH, |queue| !queue.closing);
            queue = early.unwrap_or_else(PoisonError::into_inner).0;
        }
        if queue.closing {
            return None;
        }
        let full = queue.pop();
        queue.packing += usize::from(full.is_some());
        full
    }

    /// Wakes the quiet thread where something may have kept it from what is left.
    pub(super) fn go_on_packing(&self, queue: &Queue) {
        if !queue.full.is_empty() {
            self.to_pack.notify_one();
        }
    }

    /// Puts a record in line that the quiet thread has packed.
    pub(super) fn packed(&self, frame: &[u8]) {
        let mut queue = lock(&self.queue);
        queue.packing -= 1;
        let closing = queue.closing;
        self.push_frame(queue, frame);
        if closing {
            self.some.notify_one();
        }
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
        self.to_pack.notify_one();
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
