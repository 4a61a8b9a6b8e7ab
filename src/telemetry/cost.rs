//! The cost counter: exact money inside, a float only in the scrape.
//!
//! Prometheus' own counter sums floats. The sum of the ledger must equal this series, so the sum is
//! kept as an integer and converted once, when somebody looks.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use dashmap::DashMap;
use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::proto;

use crate::metering::cost::Usd;

/// `gen_ai_client_cost_usd_total`, by the labels that it was made with.
#[derive(Clone)]
pub(super) struct CostCounter {
    desc: Desc,
    labels: &'static [&'static str],
    series: Arc<DashMap<Vec<String>, Arc<CostSeries>>>,
}

/// One series' sum.
#[derive(Debug, Default)]
pub(super) struct CostSeries(Mutex<Usd>);

impl CostSeries {
    pub(super) fn add(&self, cost: Usd) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *sum += cost;
    }

    fn sum(&self) -> Usd {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        Ok(Self { desc, labels, series: Arc::default() })
    }

    /// The series of these label values, in the order of the labels.
    pub(super) fn with(&self, values: &[&str]) -> Arc<CostSeries> {
        let key: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        Arc::clone(self.series.entry(key).or_default().value())
    }
}

impl Collector for CostCounter {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut metrics: Vec<proto::Metric> = Vec::with_capacity(self.series.len());
        for entry in self.series.iter() {
            let pairs = self.labels.iter().zip(entry.key()).map(|(name, value)| {
                let mut pair = proto::LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.clone());
                pair
            });
            let mut counter = proto::Counter::default();
            counter.set_value(entry.value().sum().to_f64());
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
