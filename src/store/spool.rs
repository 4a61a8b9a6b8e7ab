//! The spool: records wait in memory for a moment, then in files until they are in the database.
//!
//! The request's thread copies a record into the queue and goes on. One thread of its own appends
//! what is there to the current segment every few milliseconds: a write per request costs more than
//! the record. Once a segment is old or large enough it is sealed, and the shipper takes it.

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

use crate::telemetry::metrics::Metrics;

use super::folder::Folder;
use super::folder::Segment;
use super::frame;

/// Least time between two appends: records that come within it are written together.
const BATCH: Duration = Duration::from_millis(25);
/// Most bytes that wait in memory. They only pile up while the disk refuses to take them.
const MAX_QUEUED: usize = 16 << 20;
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
    /// Lost records that the log does not know of yet.
    untold: AtomicU64,
    /// This process's own folder.
    pub(super) own: Mutex<Option<Folder>>,
}

#[derive(Default)]
struct Queue {
    frames: Vec<u8>,
    records: u64,
    closing: bool,
}

impl Spool {
    pub(super) fn new(dir: PathBuf, max_bytes: u64, metrics: Arc<Metrics>) -> Self {
        Self {
            dir,
            max_bytes,
            metrics,
            queue: Mutex::default(),
            some: Condvar::new(),
            sealed: Mutex::default(),
            bell: Notify::new(),
            used: AtomicU64::new(0),
            away: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            untold: AtomicU64::new(0),
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
        let was_empty = queue.frames.is_empty();
        queue.frames.extend_from_slice(frame);
        queue.records += 1;
        drop(queue);
        if was_empty {
            self.some.notify_one();
        }
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
        self.used.load(Ordering::Relaxed).saturating_mul(8) / self.max_bytes.max(1)
    }

    /// Files with that many bytes are gone.
    pub(super) fn shrank(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.show_used();
    }

    fn show_used(&self) {
        let used = self.used.load(Ordering::Relaxed);
        self.metrics.spool_bytes().set(i64::try_from(used).unwrap_or(i64::MAX));
    }

    fn lost(&self, records: u64) {
        self.metrics.capture_records("dropped", records);
        self.untold.fetch_add(records, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that appends. What it could not write it keeps and tries again, and the queue fills.
pub(super) struct Writer {
    spool: Arc<Spool>,
    batch: Vec<u8>,
    batched: u64,
    open: Option<Open>,
    number: u64,
    last_append: Option<Instant>,
    last_told: Option<Instant>,
    /// Whether the disk refused the last write; said once.
    refused: bool,
}

/// The segment that is being written.
struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    since: Instant,
}

impl Writer {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        Self {
            spool,
            batch: Vec::new(),
            batched: 0,
            open: None,
            number: 0,
            last_append: None,
            last_told: None,
            refused: false,
        }
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
        if self.wait() {
            let early = self.last_append.map(|last| BATCH.saturating_sub(last.elapsed()));
            std::thread::sleep(early.unwrap_or_default());
        }
        let mut queue = lock(&self.spool.queue);
        if self.batched == 0 {
            std::mem::swap(&mut self.batch, &mut queue.frames);
            self.batched = std::mem::take(&mut queue.records);
        } else if queue.closing {
            // What the disk refused before and what came since get their last chance together.
            self.batch.append(&mut queue.frames);
            self.batched += std::mem::take(&mut queue.records);
        }
        queue.closing
    }

    /// Returns when records are there, when it may be time to seal or to try the disk again, or at
    /// the end; says whether others may follow soon.
    fn wait(&self) -> bool {
        let stuck = self.batched > 0;
        let wait = match &self.open {
            _ if stuck => RETRY,
            // While the store is away it may be back sooner than it is time.
            Some(_) => self.until_seal().min(SEAL_AFTER),
            None => TELL_EVERY,
        };
        let idle = |queue: &mut Queue| !queue.closing && (stuck || queue.frames.is_empty());
        let queue = lock(&self.spool.queue);
        let waited = self.spool.some.wait_timeout_while(queue, wait, idle);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !queue.closing && !stuck && !queue.frames.is_empty()
    }

    /// Appends the batch, as far as the spool has room; what has none is lost.
    fn append(&mut self) {
        if self.batched == 0 {
            return;
        }
        let room = self.spool.max_bytes.saturating_sub(self.spool.used.load(Ordering::Relaxed));
        if u64::try_from(self.batch.len()).unwrap_or(u64::MAX) > room {
            let (bytes, records) = frame::that_fit(&self.batch, room);
            self.spool.lost(self.batched - records);
            self.batch.truncate(bytes);
            self.batched = records;
        }
        if let Err(error) = self.write() {
            if !std::mem::replace(&mut self.refused, true) {
                let dir = self.spool.dir.display();
                tracing::error!(%dir, %error, "the spool cannot be written; records wait in memory and are dropped when {MAX_QUEUED} bytes wait");
            }
            return;
        }
        if std::mem::replace(&mut self.refused, false) {
            tracing::info!("the spool can be written again");
        }
        self.spool.metrics.capture_records("appended", self.batched);
        self.batched = 0;
        self.batch.clear();
        self.batch.shrink_to(KEPT);
        self.last_append = Some(Instant::now());
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
        let written = u64::try_from(self.batch.len()).unwrap_or(u64::MAX);
        open.bytes += written;
        self.spool.grew(written);
        Ok(())
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
        if records > 0 {
            self.last_told = Some(Instant::now());
            let spool_bytes = self.spool.used.load(Ordering::Relaxed);
            tracing::error!(
                records,
                spool_bytes,
                "records were dropped: the spool is full or cannot be written"
            );
        }
    }
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
        Ok(Self { file: file?, path, bytes: 0, since: Instant::now() })
    }
}
