//! The cost counters: exact money inside, a float only in the scrape.
//!
//! Prometheus' own counter sums floats. The sum of the ledger must equal this series, so the sum is
//! kept as an integer and converted once, when somebody looks.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use dashmap::DashMap;
use dashmap::Entry;
use foldhash::fast::RandomState;
use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::proto;

use crate::metering::cost::Usd;

use super::room::Room;
use super::room::width;

/// A key that has spent one part in so many of all, as `other`, is one of those that spend most.
const LARGE: u64 = 200;

/// A counter of money by labels. A clone is the same.
#[derive(Clone)]
pub(super) struct CostCounter {
    desc: Desc,
    labels: &'static [&'static str],
    room: Arc<Room>,
    series: Arc<DashMap<String, Arc<CostSeries>, RandomState>>,
}

/// One series' sum.
#[derive(Debug)]
pub(super) struct CostSeries {
    values: Vec<String>,
    sum: Mutex<Usd>,
}

impl CostSeries {
    pub(super) fn add(&self, cost: Usd) {
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        *sum += cost;
    }

    /// The value of the label at this place.
    pub(super) fn value(&self, at: usize) -> &str {
        self.values.get(at).map_or("", String::as_str)
    }

    fn sum(&self) -> Usd {
        *self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CostCounter {
    pub(super) fn new(
        name: &str,
        help: &str,
        labels: &'static [&'static str],
    ) -> prometheus::Result<Self> {
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, Default::default())?;
        Ok(Self { desc, labels, room: Arc::default(), series: Arc::default() })
    }

    /// The series of the first of these label values that is there, or that fits into so many bytes
    /// of a scrape with all that are there; else that of `last`. Says which choice it is.
    pub(super) fn first_of(
        &self,
        choices: &[(&[&str], usize)],
        last: &[&str],
    ) -> (usize, Arc<CostSeries>) {
        let mut choices_left = choices.iter().enumerate();
        let found =
            choices_left.find_map(|(at, (values, most))| Some((at, self.with(values, *most)?)));
        found.unwrap_or_else(|| {
            let make = || Arc::new(CostSeries::of(last));
            (choices.len(), Arc::clone(&self.series.entry(last.join("\0")).or_insert_with(make)))
        })
    }

    fn with(&self, values: &[&str], most: usize) -> Option<Arc<CostSeries>> {
        match self.series.entry(values.join("\0")) {
            Entry::Occupied(there) => Some(Arc::clone(there.get())),
            Entry::Vacant(new) => {
                // The name, braces, a sum and the line's end.
                let bytes = self.desc.fq_name.len() + width(self.labels, values) + 24;
                self.room.take(bytes, most).then(|| {
                    let series = Arc::new(CostSeries::of(values));
                    new.insert(Arc::clone(&series));
                    series
                })
            }
        }
    }
}

impl CostSeries {
    fn of(values: &[&str]) -> Self {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Self { values, sum: Mutex::default() }
    }
}

impl Collector for CostCounter {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut metrics: Vec<proto::Metric> = Vec::with_capacity(self.series.len());
        for series in self.series.iter() {
            let pairs = self.labels.iter().zip(&series.values).map(|(name, value)| {
                let mut pair = proto::LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.clone());
                pair
            });
            let mut counter = proto::Counter::default();
            counter.set_value(series.sum().to_f64());
            let mut metric = proto::Metric::from_label(pairs.collect());
            metric.set_counter(counter);
            metrics.push(metric);
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(proto::MetricType::COUNTER);
        family.set_metric(metrics);
        vec![family]
    }
}

/// What keys have spent whose calls are counted as `other`, beside what all have.
#[derive(Debug, Default)]
pub(super) struct Spenders {
    all: Mutex<Usd>,
    others: DashMap<String, Usd>,
}

impl Spenders {
    /// Notes a call's cost; `key` where it is counted as `other`.
    pub(super) fn note(&self, cost: Usd, key: Option<&str>) {
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) += cost;
        let Some(key) = key else { return };
        if let Some(mut spent) = self.others.get_mut(key) {
            *spent += cost;
            return;
        }
        *self.others.entry(key.to_owned()).or_default() += cost;
    }

    /// Whether a key is one of those that spend most.
    pub(super) fn is_large(&self, key: &str) -> bool {
        let Some(spent) = self.others.get(key).map(|spent| *spent) else { return false };
        let all = *self.all.lock().unwrap_or_else(PoisonError::into_inner);
        spent > Usd::ZERO && spent.times(LARGE) >= all
    }
}
