//! The spool: records wait in memory for a moment, then in files until they are in the database.
//!
//! The request's thread copies a record into the queue and goes on. One thread of its own redacts and
//! compresses the bodies and appends what is there to the current segment every few milliseconds: a
//! write per request costs more than the record. Once a segment is old or large enough it is sealed,
//! and the shipper takes it.

use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
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

use super::conversations::Redactor;
use super::folder::Folder;
use super::folder::Segment;
use super::frame;
use super::pair::Packer;
use super::pair::Pair;

/// Least time between two appends: records that come within it are written together.
const BATCH: Duration = Duration::from_millis(25);
/// Most bytes of records that wait in memory. They only pile up while the disk refuses to take them.
const MAX_QUEUED: usize = 16 << 20;
/// Most bytes of bodies that wait in memory.
const MAX_QUEUED_BODIES: usize = 32 << 20;
/// Of the spool, the part that is kept free of bodies: records are worth more.
const FOR_RECORDS: u64 = 8;
/// Memory that is kept between two batches.
const KEPT: usize = 1 << 20;
/// A segment is shipped when it is this old, or this large.
const SEAL_AFTER: Duration = Duration::from_millis(200);
const SEAL_BYTES: u64 = 8 << 20;
/// The same while the store is away: few large files instead of many small ones.
const SEAL_AFTER_AWAY: Duration = Duration::from_secs(10);
/// How long to wait before the disk is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Losses are logged at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What the threads of the spool share.
pub(super) struct Spool {
    pub(super) dir: PathBuf,
    max_bytes: u64,
    pub(super) metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    some: Condvar,
    /// Whether the disk refused the last write.
    refused: AtomicBool,
    /// Segments of this process that are ready to be shipped.
    sealed: Mutex<VecDeque<Segment>>,
    /// Rung when there is something to ship, or the process ends.
    pub(super) bell: Notify,
    /// Bytes in all files of the spool that this process answers for.
    used: AtomicU64,
    /// Whether the store did not take the last batch.
    away: AtomicBool,
    /// Whether everything that will ever be written is sealed.
    pub(super) finished: AtomicBool,
    /// Lost records, and bodies, that the log does not know of yet.
    untold: AtomicU64,
    untold_bodies: AtomicU64,
    /// This process's own folder.
    pub(super) own: Mutex<Option<Folder>>,
}

#[derive(Default)]
struct Queue {
    /// Records without bodies, framed.
    frames: Vec<u8>,
    records: u64,
    full: Vec<Full>,
    /// Bytes of the records in `full`, and of their bodies.
    full_records: usize,
    bodies: usize,
    /// Somebody waits for a record to be on disk.
    urgent: bool,
    closing: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.full.is_empty()
    }

    /// Bytes of all records.
    fn records_len(&self) -> usize {
        self.frames.len() + self.full_records
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
        if queue.closing || queue.records_len() + frame.len() > MAX_QUEUED {
            drop(queue);
            self.lost(1);
            return;
        }
        let was_empty = queue.is_empty();
        queue.frames.extend_from_slice(frame);
        queue.records += 1;
        drop(queue);
        if was_empty {
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
        queue.full_records += full.record.len();
        queue.bodies += full.pair.as_ref().map_or(0, Pair::len);
        let urgent = full.saved.is_some();
        let first = queue.is_empty() || urgent && !queue.urgent;
        queue.urgent |= urgent;
        queue.full.push(full);
        drop(queue);
        if first {
            self.some.notify_one();
        }
    }

    /// Whether a record would reach the disk now.
    pub(super) fn takes_records(&self) -> bool {
        !self.refused.load(Ordering::Relaxed) && self.used() < self.max_bytes
    }

    fn wait_while<'a>(
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

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn show_used(&self) {
        let used = self.used();
        self.metrics.spool_bytes().set(i64::try_from(used).unwrap_or(i64::MAX));
    }

    fn lost(&self, records: u64) {
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

/// The thread that appends. What it could not write it keeps and tries again, and the queue fills.
pub(super) struct Writer {
    spool: Arc<Spool>,
    redactor: Redactor,
    packer: Packer,
    batch: Vec<u8>,
    batched: u64,
    /// Those who wait for the batch to be on disk.
    saved: Vec<Saved>,
    open: Option<Open>,
    number: u64,
    last_append: Option<Instant>,
    last_told: Option<Instant>,
}

/// The segment that is being written.
struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    since: Instant,
    /// Whether its name would survive a power cut.
    named: bool,
}

impl Writer {
    pub(super) fn new(spool: Arc<Spool>) -> io::Result<Self> {
        Ok(Self {
            spool,
            redactor: Redactor::new(),
            packer: Packer::new()?,
            batch: Vec::new(),
            batched: 0,
            saved: Vec::new(),
            open: None,
            number: 0,
            last_append: None,
            last_told: None,
        })
    }

    /// Works until [`Spool::close`].
    pub(super) fn run(mut self) {
        loop {
            let closing = self.take();
            self.append();
            if closing {
                break;
            }
            self.seal_if_due();
            self.tell_losses(TELL_EVERY);
        }
        self.spool.lost(self.batched);
        self.seal();
        self.tell_losses(Duration::ZERO);
        self.spool.finished.store(true, Ordering::Release);
        self.spool.bell.notify_one();
    }

    /// Waits for something to do and takes what is queued. Returns whether it is the end.
    fn take(&mut self) -> bool {
        let spool = Arc::clone(&self.spool);
        let mut queue = self.wait(&spool);
        if self.batched > 0 && !queue.closing {
            // Who came since the disk refused must not wait for it.
            queue.full.iter_mut().for_each(|full| full.saved = None);
            queue.urgent = false;
            return false;
        }
        if self.batch.is_empty() {
            std::mem::swap(&mut self.batch, &mut queue.frames);
        } else {
            // What the disk refused before and what came since get their last chance together.
            self.batch.append(&mut queue.frames);
        }
        self.batched += std::mem::take(&mut queue.records);
        let full = std::mem::take(&mut queue.full);
        (queue.full_records, queue.bodies, queue.urgent) = (0, 0, false);
        let closing = queue.closing;
        drop(queue);
        for full in full {
            self.add(full);
            // On a busy core a request goes first.
            std::thread::yield_now();
        }
        closing
    }

    /// Returns when records are there and others have had the time to follow, when it may be time
    /// to seal or to try the disk again, or at the end.
    fn wait<'a>(&self, spool: &'a Spool) -> MutexGuard<'a, Queue> {
        let stuck = self.batched > 0;
        let wait = match &self.open {
            _ if stuck => RETRY,
            // While the store is away it may be back sooner than it is time.
            Some(_) => self.until_seal().min(SEAL_AFTER),
            None => TELL_EVERY,
        };
        let idle = |queue: &mut Queue| !queue.closing && (stuck || queue.is_empty());
        let queue = spool.wait_while(lock(&spool.queue), wait, idle);
        if stuck || queue.is_empty() {
            return queue;
        }
        let early = self.last_append.map(|last| BATCH.saturating_sub(last.elapsed()));
        spool.wait_while(queue, early.unwrap_or_default(), |queue| !queue.closing && !queue.urgent)
    }

    /// Adds a record to the batch, with its bodies where the spool has room for them.
    fn add(&mut self, full: Full) {
        let Full { id, mut record, mut pair, saved } = full;
        let replaced = pair.as_mut().and_then(|pair| self.redactor.redact(pair));
        let may_train = pair.as_ref().is_some_and(|pair| pair.may_train);
        let bodies = pair.and_then(|pair| self.pack(id, &pair));
        // The object goes on where it ended.
        record.pop();
        match &bodies {
            Some(_) if may_train => {
                record.extend_from_slice(b",\"capture\":\"full\",\"consent\":\"train\"");
            }
            Some(_) => record.extend_from_slice(b",\"capture\":\"full\""),
            None => record.extend_from_slice(b",\"capture\":\"metadata\""),
        }
        if let Some(replaced) = replaced.filter(|_| bodies.is_some()) {
            record.extend_from_slice(b",\"redaction\":");
            record.extend_from_slice(replaced.as_bytes());
        }
        record.push(b'}');
        record.extend_from_slice(&bodies.unwrap_or_default());
        frame::append(&mut self.batch, |out| out.extend_from_slice(&record));
        self.batched += 1;
        self.saved.extend(saved);
    }

    fn pack(&mut self, id: Uuid, pair: &Pair) -> Option<Vec<u8>> {
        let packed = self.packer.pack(id, pair).ok();
        let max = self.spool.max_bytes;
        let room = (max - max / FOR_RECORDS).saturating_sub(self.spool.used());
        let fits = |packed: &Vec<u8>| bytes_of(&self.batch) + bytes_of(packed) <= room;
        let packed = packed.filter(fits);
        if packed.is_none() {
            self.spool.lost_bodies(1);
        }
        packed
    }

    /// Appends the batch, as far as the spool has room; what has none is lost.
    fn append(&mut self) {
        if self.batched == 0 {
            return;
        }
        let room = self.spool.max_bytes.saturating_sub(self.spool.used());
        if bytes_of(&self.batch) > room {
            let (bytes, records) = frame::that_fit(&self.batch, room);
            self.spool.lost(self.batched - records);
            self.batch.truncate(bytes);
            self.batched = records;
            // Nobody knows whose records those were.
            self.saved.clear();
        }
        if let Err(error) = self.write() {
            // Known before anybody is told: who hears of it finds no way in.
            let known = self.spool.refused.swap(true, Ordering::SeqCst);
            self.saved.clear();
            if !known {
                let dir = self.spool.dir.display();
                tracing::error!(%dir, %error, "the spool cannot be written; records wait in memory and are dropped when {MAX_QUEUED} bytes wait");
            }
            return;
        }
        if self.spool.refused.swap(false, Ordering::Relaxed) {
            tracing::info!("the spool can be written again");
        }
        self.spool.metrics.capture_records("appended", self.batched);
        self.batched = 0;
        self.batch.clear();
        self.batch.shrink_to(KEPT);
        self.last_append = Some(Instant::now());
        self.save();
    }

    fn write(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::create(&self.spool, &mut self.number)?),
        };
        if let Err(error) = open.file.write_all(&self.batch) {
            // A part of it may be there. Where that cannot be cut off, no record may follow it.
            if open.file.set_len(open.bytes).is_err() {
                self.seal();
            }
            return Err(error);
        }
        let written = bytes_of(&self.batch);
        open.bytes += written;
        self.spool.grew(written);
        Ok(())
    }

    /// Makes the batch safe from a power cut for those who wait for that: once for all of them.
    fn save(&mut self) {
        if self.saved.is_empty() {
            return;
        }
        let synced = self.open.as_mut().map_or(Ok(()), Open::sync);
        if let Err(error) = synced {
            tracing::error!(%error, "records cannot be made safe from a power cut");
            self.saved.clear();
        }
        for saved in self.saved.drain(..) {
            // One that has gone does not want to know.
            let _ = saved.send(());
        }
    }

    /// How long the open segment has, if there is one.
    fn until_seal(&self) -> Duration {
        let Some(open) = &self.open else { return Duration::MAX };
        let age = if self.spool.is_away() { SEAL_AFTER_AWAY } else { SEAL_AFTER };
        match open.bytes {
            0..SEAL_BYTES => age.saturating_sub(open.since.elapsed()),
            _ => Duration::ZERO,
        }
    }

    fn seal_if_due(&mut self) {
        if self.until_seal().is_zero() {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        if self.spool.is_away()
            && let Err(error) = open.file.sync_data()
        {
            tracing::warn!(%error, "a spooled file is not safe from a power cut");
        }
        let segment = Segment { path: open.path, bytes: open.bytes };
        lock(&self.spool.sealed).push_back(segment);
        self.spool.bell.notify_one();
    }

    fn tell_losses(&mut self, every: Duration) {
        if self.last_told.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        let records = self.spool.untold.swap(0, Ordering::Relaxed);
        let bodies = self.spool.untold_bodies.swap(0, Ordering::Relaxed);
        if records + bodies > 0 {
            self.last_told = Some(Instant::now());
            let spool_bytes = self.spool.used();
            tracing::error!(
                records,
                bodies,
                spool_bytes,
                "records or their bodies were dropped: the spool is full or cannot be written"
            );
        }
    }
}

fn bytes_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Open {
    fn create(spool: &Spool, number: &mut u64) -> io::Result<Self> {
        let mut own = lock(&spool.own);
        let folder = match &mut *own {
            Some(folder) => folder,
            none => none.insert(Folder::create(&spool.dir)?),
        };
        *number += 1;
        let path = folder.segment(*number);
        let file = fs::OpenOptions::new().append(true).create_new(true).open(&path);
        if file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // Somebody removed it; the next try makes another.
            *own = None;
        }
        Ok(Self { file: file?, path, bytes: 0, since: Instant::now(), named: false })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.named {
            // The file's name is in its folder, and the folder's in the spool.
            for folder in self.path.ancestors().skip(1).take(2) {
                File::open(folder)?.sync_all()?;
            }
            self.named = true;
        }
        Ok(())
    }
}
