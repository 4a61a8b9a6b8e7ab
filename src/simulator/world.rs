//! What the stand-in remembers between requests: bounded, in memory, gone with the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::simulator::batches::Batch;
use crate::simulator::files::StoredFile;
use crate::simulator::jobs::Job;
use crate::simulator::knobs::Knobs;
use crate::simulator::responses::StoredResponse;
use crate::simulator::shelf::Shelf;
use crate::simulator::uploads::Upload;

/// Everything behind the routes. Each shelf has its own lock; none is held across an await.
#[derive(Default)]
pub(super) struct World {
    pub(super) knobs: Knobs,
    serial: AtomicU64,
    pub(super) files: Mutex<Shelf<StoredFile>>,
    pub(super) uploads: Mutex<Shelf<Upload>>,
    pub(super) jobs: Mutex<Shelf<Job>>,
    pub(super) batches: Mutex<Shelf<Batch>>,
    pub(super) responses: Mutex<Shelf<StoredResponse>>,
    /// Fine-tuned models, made by jobs.
    pub(super) tuned: Mutex<Shelf<Value>>,
    prompts: Mutex<Shelf<()>>,
    tallies: Mutex<Shelf<u64>>,
}

impl World {
    pub(super) fn new(knobs: Knobs) -> Self {
        Self { knobs, ..Self::default() }
    }

    /// A new id with OpenAI's prefix. The counter makes ids the same in every run.
    pub(super) fn id(&self, prefix: &str) -> String {
        let n = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}sim{n:021}")
    }

    /// True if a prompt with this hash was seen before; from now on it was.
    pub(super) fn seen_prompt(&self, hash: u64) -> bool {
        let mut prompts = locked(&self.prompts);
        let key = format!("{hash:016x}");
        let seen = prompts.find(&key).is_some();
        if !seen {
            prompts.put(key, 16, ());
        }
        seen
    }

    /// True if the knobs want this request refused. Counts it.
    pub(super) fn refuses(&self, knobs: &Knobs) -> bool {
        if knobs.status.is_none() {
            return false;
        }
        if knobs.fail_first.is_none() && knobs.every.is_none() {
            return true;
        }
        let count = self.tally(knobs.fail_key.as_deref().unwrap_or_default());
        knobs.fail_first.is_none_or(|first| count <= first)
            && knobs.every.is_none_or(|every| count.is_multiple_of(every))
    }

    fn tally(&self, key: &str) -> u64 {
        let mut tallies = locked(&self.tallies);
        if let Some(count) = tallies.find_mut(key) {
            *count += 1;
            return *count;
        }
        tallies.put(key, key.len(), 1);
        1
    }
}

/// The lock, also after a panic elsewhere: the shelves are whole between calls.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_first_counts_by_key() {
        let world = World::default();
        let knobs = Knobs::parse("status=500 fail_first=2 fail_key=a").unwrap();
        let other = Knobs::parse("status=500 fail_first=2 fail_key=b").unwrap();
        let refused: Vec<bool> = (0..4).map(|_| world.refuses(&knobs)).collect();
        assert_eq!(refused, [true, true, false, false]);
        assert!(world.refuses(&other));
    }

    #[test]
    fn every_third_request_is_refused() {
        let world = World::default();
        let knobs = Knobs::parse("status=429 every=3").unwrap();
        let refused: Vec<bool> = (0..6).map(|_| world.refuses(&knobs)).collect();
        assert_eq!(refused, [false, false, true, false, false, true]);
    }
}
