//! How much of a scrape label values may take up: what does not fit is counted as `other`.
//!
//! Ten thousand keys times two hundred models are two million series. A scrape of them would be
//! larger than what it tells, so each group of series has room for so many bytes.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use prometheus::Histogram;
use prometheus::HistogramVec;

/// What is counted without a name of its own.
pub(super) const OTHER: &str = "other";

/// Bytes of a scrape.
#[derive(Debug, Default)]
pub(super) struct Room(AtomicUsize);

impl Room {
    /// Takes so many bytes, unless more than `most` would be taken then.
    pub(super) fn take(&self, bytes: usize, most: usize) -> bool {
        let more = |taken: usize| Some(taken + bytes).filter(|taken| *taken <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// Bytes that label values take in one line, with their names.
pub(super) fn width(names: &[&str], values: &[&str]) -> usize {
    // `name="value",`
    names.iter().zip(values).map(|(name, value)| name.len() + value.len() + 4).sum()
}

/// A histogram by labels, of which the second and the third are models.
pub(super) struct Histograms {
    vec: HistogramVec,
    name: &'static str,
    labels: &'static [&'static str],
    /// Its lines in a scrape.
    lines: usize,
    room: Arc<Room>,
    most: usize,
    known: DashMap<String, Histogram, RandomState>,
}

impl Histograms {
    /// For as many label values as fit into `most` bytes of the room that it shares.
    pub(super) fn new(
        vec: HistogramVec,
        (name, labels): (&'static str, &'static [&'static str]),
        buckets: usize,
        room: &Arc<Room>,
        most: usize,
    ) -> Self {
        // The buckets, that of everything, the sum and the count.
        let lines = buckets + 3;
        Self { vec, name, labels, lines, room: Arc::clone(room), most, known: DashMap::default() }
    }

    /// That of these label values; where there is no room for it, that of all other models.
    pub(super) fn of(&self, values: &[&str]) -> Histogram {
        let make = || {
            if self.room.take(self.bytes(values), self.most) {
                return self.vec.with_label_values(values);
            }
            let shared: Vec<&str> = values
                .iter()
                .enumerate()
                .map(|(at, value)| if matches!(at, 1 | 2) { OTHER } else { *value })
                .collect();
            self.vec.with_label_values(&shared)
        };
        self.known.entry(values.join("\0")).or_insert_with(make).clone()
    }

    fn bytes(&self, values: &[&str]) -> usize {
        // `_bucket{`, `le="0.075"} `, a number, and the line's end.
        const BESIDE: usize = 34;
        self.lines * (self.name.len() + width(self.labels, values) + BESIDE)
    }
}

/// A histogram that is in a scrape from its first observation on.
#[derive(Default)]
pub(super) struct Lazy(OnceLock<Histogram>);

impl Lazy {
    pub(super) fn observe(&self, value: f64, make: impl FnOnce() -> Histogram) {
        self.0.get_or_init(make).observe(value);
    }
}
