//! Where the writer lays out what the quiet thread packs, and picks up what is packed.
//!
//! The quiet thread may be stopped at any moment, and on a busy machine for seconds, with a lock in its
//! hand. So no request ever takes a lock that it takes, and the writer only tries this one.

use std::collections::VecDeque;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::time::Duration;
use std::time::Instant;

use super::spool::Full;
use super::spool::lock;

/// When what lies here has not been touched for so long, the quiet thread gets nowhere.
const LATE: Duration = Duration::from_secs(1);
/// When what the quiet thread has in hand has been there for so long, nobody waits for it any more.
const STUCK: Duration = Duration::from_secs(5);
/// Records that are packed and not yet appended; the quiet thread rests while there are more bytes of
/// them. They pile up while the disk refuses to take them, and bodies are to be given up first then.
const MAX_PACKED: usize = 4 << 20;

/// Shared by the writer and the quiet thread.
#[derive(Default)]
pub(super) struct Desk {
    papers: Mutex<Papers>,
    /// Rung for the quiet thread.
    some: Condvar,
    /// Rung for the writer at the end.
    brought: Condvar,
}

#[derive(Default)]
pub(super) struct Papers {
    todo: VecDeque<Full>,
    /// Since when the first of them is the first.
    since: Option<Instant>,
    /// Packed and framed records.
    packed: Vec<u8>,
    records: u64,
    /// What these were packed from. The memory is of requests' threads: to free it takes a lock of
    /// theirs, which the quiet thread must not have in its hand either.
    done: Vec<Full>,
    /// Records that the quiet thread has in hand.
    in_hand: u64,
    /// The writer packs, until nothing is left to do, and the quiet thread rests: what it remembers of
    /// a conversation is for one at a time.
    late: bool,
    closing: bool,
}

impl Papers {
    /// Lays out records, and takes what is packed: how many records these are, behind `batch`, and
    /// how much memory they no longer take.
    pub(super) fn exchange(&mut self, todo: &mut Vec<Full>, batch: &mut Vec<u8>) -> (u64, usize) {
        if self.todo.is_empty() && !todo.is_empty() {
            self.since = Some(Instant::now());
        }
        self.todo.extend(todo.drain(..));
        batch.append(&mut self.packed);
        let freed = self.done.drain(..).map(|full| full.memory()).sum();
        (std::mem::take(&mut self.records), freed)
    }

    /// Whether the writer has to pack now. `many`: whether more waits than the quiet thread may have.
    pub(super) fn is_late(&mut self, many: bool) -> bool {
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.late = !self.todo.is_empty() && (self.late || many || waited >= LATE);
        self.late && (self.in_hand == 0 || waited >= STUCK)
    }

    /// The record that has lain here longest.
    pub(super) fn pop(&mut self) -> Option<Full> {
        let full = self.todo.pop_front();
        self.since = (!self.todo.is_empty()).then(Instant::now);
        full
    }
}

impl Desk {
    /// What lies here, unless the quiet thread looks at it just now.
    pub(super) fn try_open(&self) -> Option<MutexGuard<'_, Papers>> {
        match self.papers.try_lock() {
            Ok(papers) => Some(papers),
            Err(TryLockError::Poisoned(papers)) => Some(papers.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The same, however long it takes.
    pub(super) fn open(&self) -> MutexGuard<'_, Papers> {
        lock(&self.papers)
    }

    /// Lets the quiet thread go on with what is left.
    pub(super) fn go_on(&self, papers: MutexGuard<'_, Papers>) {
        let some = !papers.todo.is_empty() && !papers.late;
        drop(papers);
        if some {
            self.some.notify_one();
        }
    }

    /// For the quiet thread: waits until there is something to pack, others have had the time to
    /// follow, and there is room for what becomes of it. `None` is the end.
    pub(super) fn next(&self) -> Option<Full> {
        let mut papers = lock(&self.papers);
        let rest = |papers: &mut Papers| {
            let nothing = papers.todo.is_empty() || papers.late;
            !papers.closing && (nothing || papers.packed.len() > MAX_PACKED)
        };
        if rest(&mut papers) {
            papers = self.some.wait_while(papers, rest).unwrap_or_else(PoisonError::into_inner);
        }
        if papers.closing {
            return None;
        }
        let full = papers.pop();
        papers.in_hand += u64::from(full.is_some());
        full
    }

    /// For the quiet thread: brings back what it had in hand, and what became of it.
    pub(super) fn bring(&self, frame: &[u8], full: Full) {
        let mut papers = lock(&self.papers);
        papers.done.push(full);
        papers.packed.extend_from_slice(frame);
        papers.records += 1;
        papers.in_hand = papers.in_hand.saturating_sub(1);
        let closing = papers.closing;
        drop(papers);
        if closing {
            self.brought.notify_one();
        }
    }

    /// Ends the quiet thread and waits at most `patience` for what it has in hand. Returns how many
    /// records it did not bring.
    pub(super) fn close(&self, patience: Duration) -> u64 {
        let mut papers = lock(&self.papers);
        papers.closing = true;
        self.some.notify_one();
        let in_hand = |papers: &mut Papers| papers.in_hand > 0;
        let waited = self.brought.wait_timeout_while(papers, patience, in_hand);
        let mut papers = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::take(&mut papers.in_hand)
    }
}
