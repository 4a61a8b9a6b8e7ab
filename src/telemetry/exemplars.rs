//! The last traced call in each bucket of a histogram: the way from a slow minute on a dashboard to
//! a call that made it slow.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use dashmap::DashMap;
use prometheus::proto::LabelPair;

use super::traces::TraceId;

/// One traced call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exemplar {
    pub(super) trace: TraceId,
    pub(super) value: f64,
    pub(super) at: SystemTime,
}

/// The last ones of one series, by bucket; a call's place is locked for as long as it is written.
#[derive(Debug)]
pub(super) struct Lasts {
    bounds: &'static [f64],
    buckets: Box<[Mutex<Option<Exemplar>>]>,
}

/// The last ones of each series of a histogram.
#[derive(Debug)]
pub(super) struct Exemplars {
    bounds: &'static [f64],
    labels: &'static [&'static str],
    series: DashMap<String, Arc<Lasts>>,
}

impl Lasts {
    fn new(bounds: &'static [f64]) -> Self {
        // One more for what is above all bounds.
        Self { bounds, buckets: (0..=bounds.len()).map(|_| Mutex::default()).collect() }
    }

    /// Notes a call in the bucket of its value.
    pub(super) fn note(&self, trace: TraceId, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(last) = self.buckets.get(bucket) {
            let one = Exemplar { trace, value, at: SystemTime::now() };
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(one);
        }
    }

    /// The last call in a bucket; that above all bounds is the last.
    pub(super) fn of(&self, bucket: usize) -> Option<Exemplar> {
        *self.buckets.get(bucket)?.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exemplars {
    pub(super) fn new(bounds: &'static [f64], labels: &'static [&'static str]) -> Self {
        Self { bounds, labels, series: DashMap::new() }
    }

    /// Those of the series with these label values, in the order of the labels.
    pub(super) fn with(&self, values: &[&str]) -> Arc<Lasts> {
        let new = || Arc::new(Lasts::new(self.bounds));
        Arc::clone(self.series.entry(values.join("\0")).or_insert_with(new).value())
    }

    /// Those of a series that was gathered, where there are any.
    pub(super) fn of(&self, pairs: &[LabelPair]) -> Option<Arc<Lasts>> {
        if self.series.is_empty() {
            return None;
        }
        let value = |name: &&str| pairs.iter().find(|pair| pair.name() == *name);
        let values: Option<Vec<&str>> =
            self.labels.iter().map(|name| Some(value(name)?.value())).collect();
        Some(Arc::clone(self.series.get(&values?.join("\0"))?.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_noted_in_the_bucket_that_counts_it() {
        let lasts = Lasts::new(&[0.1, 1.0]);
        let values = [(1, 0.1), (2, 0.5), (3, 1.0), (4, 7.0)];
        for (id, value) in values {
            lasts.note(TraceId::from(id), value);
        }
        let last = |bucket| lasts.of(bucket).map(|one| (one.trace, one.value.to_string()));
        assert_eq!(last(0), Some((TraceId::from(1), "0.1".to_owned())));
        assert_eq!(last(1), Some((TraceId::from(3), "1".to_owned())), "the last one stays");
        assert_eq!(last(2), Some((TraceId::from(4), "7".to_owned())));
        assert_eq!(last(3), None);
    }
}
