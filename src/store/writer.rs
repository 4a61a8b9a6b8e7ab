//! The thread that appends records to the spool's files, and seals these.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::desk::Papers;
use super::folder::Folder;
use super::folder::Segment;
use super::frame;
use super::packing::Packing;
use super::spool::BATCH;
use super::spool::Full;
use super::spool::MAX_QUEUED;
use super::spool::Queue;
use super::spool::Saved;
use super::spool::Spool;
use super::spool::bytes_of;
use super::spool::lock;

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
/// How often is looked around where there is nothing to do, and how long the end waits for what the
/// quiet thread has in hand.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// With more of what may wait to be packed than this the writer packs, too: the machine is busy, and
/// the quiet thread gets nowhere.
const LATE_EIGHTHS: usize = 2;
/// It does so for this long, and then rests several times as long: on a busy machine requests go
/// first, and bodies that find no room are lost.
const BURST: Duration = Duration::from_micros(500);
const REST: u32 = 3;
/// Longest packing between two appends, and the pause before the next.
const TURN: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(1);

/// The thread that appends. What it could not write it keeps and tries again, and the queue fills.
pub(super) struct Writer {
    spool: Arc<Spool>,
    packing: Packing,
    /// Records that are to be laid on the desk.
    todo: Vec<Full>,
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
    pub(super) fn new(spool: Arc<Spool>, packing: Packing) -> Self {
        Self {
            spool,
            packing,
            todo: Vec::new(),
            batch: Vec::new(),
            batched: 0,
            saved: Vec::new(),
            open: None,
            number: 0,
            last_append: None,
            last_told: None,
        }
    }

    /// Works until [`Spool::close`].
    pub(super) fn run(mut self) {
        loop {
            let end = self.take();
            self.append();
            if end {
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
            let mut awaited = std::mem::take(&mut queue.awaited);
            awaited.iter_mut().for_each(|full| full.saved = None);
            queue.full.append(&mut awaited);
            return false;
        }
        if self.batch.is_empty() {
            std::mem::swap(&mut self.batch, &mut queue.frames);
        } else {
            // What the disk refused before and what came since get their last chance together.
            self.batch.append(&mut queue.frames);
        }
        self.batched += std::mem::take(&mut queue.records);
        self.todo.append(&mut queue.full);
        let awaited = std::mem::take(&mut queue.awaited);
        let closing = queue.closing;
        drop(queue);
        for full in awaited {
            self.pack(full);
        }
        if closing {
            // What the quiet thread has in hand is the last that it brings.
            let missing = spool.desk.close(LOOK_AFTER);
            spool.lost(missing);
            return self.finish_desk();
        }
        self.visit_desk();
        false
    }

    /// Lays out what is to be packed, takes what is packed, and helps where the quiet thread gets
    /// nowhere. Where that thread is at the desk just now, the next time will do.
    fn visit_desk(&mut self) {
        let spool = Arc::clone(&self.spool);
        let Some(mut papers) = spool.desk.try_open() else { return };
        self.exchange(&mut papers);
        let until = Instant::now() + TURN;
        let mut began = Instant::now();
        while papers.is_late(spool.unpacked_over(LATE_EIGHTHS)) && Instant::now() < until {
            let Some(full) = papers.pop() else { break };
            drop(papers);
            self.pack(full);
            if began.elapsed() >= BURST {
                let calm = |queue: &Queue| !queue.closing && queue.awaited.is_empty();
                let queue = lock(&spool.queue);
                let queue = spool.wait_while(queue, began.elapsed() * REST, |queue| calm(queue));
                if !calm(&queue) {
                    // Somebody waits for the disk.
                    return;
                }
                began = Instant::now();
            }
            let Some(again) = spool.desk.try_open() else { return };
            papers = again;
        }
        spool.desk.go_on(papers);
    }

    /// Packs what is left for some time, once the quiet thread is gone. Returns whether that was all.
    fn finish_desk(&mut self) -> bool {
        let spool = Arc::clone(&self.spool);
        let mut papers = spool.desk.open();
        self.exchange(&mut papers);
        let until = Instant::now() + TURN;
        while Instant::now() < until {
            let Some(full) = papers.pop() else { return true };
            self.pack(full);
        }
        false
    }

    fn exchange(&mut self, papers: &mut Papers) {
        let (records, freed) = papers.exchange(&mut self.todo, &mut self.batch);
        self.batched += records;
        self.spool.packed(freed);
    }

    fn pack(&mut self, mut full: Full) {
        self.saved.extend(full.saved.take());
        self.packing.frame(&self.spool, &full, &mut self.batch);
        self.spool.packed(full.memory());
        self.batched += 1;
    }

    /// Returns when records are there and others have had the time to follow, when it may be time
    /// to seal, to look at the desk or to try the disk again, or at the end.
    fn wait<'a>(&self, spool: &'a Spool) -> MutexGuard<'a, Queue> {
        let stuck = self.batched > 0;
        let late = spool.unpacked_over(LATE_EIGHTHS);
        let wait = match &self.open {
            _ if stuck => RETRY,
            _ if late => PAUSE,
            _ if spool.unpacked_over(0) => BATCH,
            // While the store is away it may be back sooner than it is time.
            Some(_) => self.until_seal().min(SEAL_AFTER),
            None => LOOK_AFTER,
        };
        let idle = |queue: &mut Queue| !queue.closing && (stuck || !queue.has_some());
        let queue = spool.wait_while(lock(&spool.queue), wait, idle);
        if stuck || late || !queue.has_some() {
            return queue;
        }
        let early = self.last_append.map(|last| BATCH.saturating_sub(last.elapsed()));
        let others = |queue: &mut Queue| !queue.closing && queue.awaited.is_empty();
        spool.wait_while(queue, early.unwrap_or_default(), others)
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
            let too_many = bytes_of(self.batch.get(bytes..).unwrap_or_default());
            self.spool.unwritten.fetch_sub(too_many, Ordering::Relaxed);
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
        self.spool.unwritten.fetch_sub(written, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::store::conversations::Redactor;
    use crate::store::frame::Frames;
    use crate::store::pair::Pair;
    use crate::store::pair::split;
    use crate::telemetry::metrics::Metrics;

    fn full(number: usize, said: &Bytes) -> Full {
        Full {
            id: Uuid::now_v7(),
            record: format!("{{\"number\":{number}}}").into_bytes(),
            pair: Some(Pair { request: said.clone(), response: said.clone(), ..Pair::default() }),
            saved: None,
        }
    }

    /// A writer at work, and how it is ended.
    fn start(folder: &std::path::Path) -> (Arc<Spool>, impl FnOnce()) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let spool = Arc::new(Spool::new(folder.to_owned(), 1 << 30, metrics));
        let packing = Packing::new(&Arc::new(Redactor::new())).unwrap();
        let writer = Writer::new(Arc::clone(&spool), packing);
        let thread = std::thread::spawn(move || writer.run());
        let closed = Arc::clone(&spool);
        (spool, move || {
            closed.close();
            thread.join().unwrap();
        })
    }

    /// The numbers of the records in the spool's files, and how many of them have bodies.
    fn written(spool: &Spool) -> (Vec<usize>, usize) {
        let (mut numbers, mut whole) = (Vec::new(), 0);
        for segment in lock(&spool.sealed).iter() {
            for record in Frames::of(&fs::read(&segment.path).unwrap()) {
                let (json, bodies) = split(record);
                let record: serde_json::Value = serde_json::from_slice(json).unwrap();
                numbers.push(usize::try_from(record["number"].as_u64().unwrap()).unwrap());
                assert_eq!(record["capture"] == "full", bodies.is_some());
                whole += usize::from(bodies.is_some());
            }
        }
        numbers.sort_unstable();
        (numbers, whole)
    }

    #[test]
    fn where_the_quiet_thread_gets_nowhere_bodies_may_be_lost_and_records_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, end) = start(folder.path());
        let said = Bytes::from(vec![b'x'; 2000]);
        spool.offer_full(full(0, &said));
        // What the thread has in its hand it never brings back, as if it had died.
        while spool.desk.next().is_none() {}
        for number in 1..50_000 {
            spool.offer_full(full(number, &said));
        }
        end();
        let (numbers, whole) = written(&spool);
        assert_eq!(numbers, (1..50_000).collect::<Vec<_>>());
        // 16 MiB of them had room at once.
        assert!(whole > 3_500 && whole < 50_000, "{whole}");
        assert_eq!(spool.untold.load(Ordering::Relaxed), 0, "told");
        let metrics = spool.metrics.render();
        let count = |outcome: &str| {
            let name = format!("weir_capture_records_total{{outcome=\"{outcome}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&*name)).unwrap();
            line.parse::<usize>().unwrap()
        };
        assert_eq!(count("appended"), 49_999);
        assert_eq!((count("dropped"), count("body_dropped")), (1, 49_999 - whole));
    }

    #[test]
    fn a_long_pair_is_kept_beside_others_and_one_that_is_too_long_goes_without() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, end) = start(folder.path());
        let [short, long, too_long] =
            [1 << 20, 15 << 20, 17 << 20].map(|length| Bytes::from(vec![b'x'; length]));
        for (number, said) in [short, long, too_long].iter().enumerate() {
            spool.offer_full(full(number, said));
        }
        end();
        assert_eq!(written(&spool), (vec![0, 1, 2], 2));
    }

    #[test]
    fn who_waits_for_the_disk_does_not_wait_for_the_quiet_thread() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, end) = start(folder.path());
        let said = Bytes::from_static(b"{}");
        (0..100).for_each(|number| spool.offer_full(full(number, &said)));
        let (saved, safe) = tokio::sync::oneshot::channel();
        spool.offer_full(Full { saved: Some(saved), ..full(100, &said) });
        safe.blocking_recv().unwrap();
        end();
        assert_eq!(written(&spool), ((0..=100).collect(), 101));
    }
}
