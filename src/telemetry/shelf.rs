//! Puts series on the registry, and keeps the list of them that documentation is compared with.

use std::sync::Arc;

use prometheus::GaugeVec;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::Result;
use prometheus::core::Collector;

use super::room::Histograms;
use super::room::Room;

/// Bytes of a scrape that the histograms of calls may take up together.
const HISTOGRAMS: usize = 3_500_000;

/// One series as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// counter, gauge or histogram.
    pub kind: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Its labels, in the order of their values.
    pub labels: &'static [&'static str],
}

/// The registry, and what is on it.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) registry: Registry,
    pub(super) described: Vec<Described>,
    /// What the histograms of calls have taken up.
    room: Arc<Room>,
}

type Name = &'static str;
type Labels = &'static [&'static str];

impl Shelf {
    /// Registers a collector under its description.
    pub(super) fn put(
        &mut self,
        collector: impl Collector + 'static,
        described: Described,
    ) -> Result<()> {
        self.registry.register(Box::new(collector))?;
        self.described.push(described);
        Ok(())
    }

    fn add<C: Collector + Clone + 'static>(
        &mut self,
        made: Result<C>,
        (name, kind, help, labels): (Name, &'static str, Name, Labels),
    ) -> Result<C> {
        let made = made?;
        self.put(made.clone(), Described { name, kind, help, labels })?;
        Ok(made)
    }
}

pub(super) fn histograms(
    shelf: &mut Shelf,
    name: Name,
    help: Name,
    labels: Labels,
    buckets: &[f64],
) -> Result<HistogramVec> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    shelf.add(HistogramVec::new(options, labels), (name, "histogram", help, labels))
}

/// Histograms by labels of which the second and the third are models: there may be more of them
/// than fit into a scrape, so all that are made here share its room.
pub(super) fn histograms_of_models(
    shelf: &mut Shelf,
    name: Name,
    help: Name,
    labels: Labels,
    buckets: &[f64],
) -> Result<Histograms> {
    let vec = histograms(shelf, name, help, labels, buckets)?;
    Ok(Histograms::new(vec, (name, labels), buckets.len(), &shelf.room, HISTOGRAMS))
}

pub(super) fn histogram(
    shelf: &mut Shelf,
    name: Name,
    help: Name,
    buckets: &[f64],
) -> Result<Histogram> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    shelf.add(Histogram::with_opts(options), (name, "histogram", help, &[]))
}

pub(super) fn counter(shelf: &mut Shelf, name: Name, help: Name) -> Result<IntCounter> {
    shelf.add(IntCounter::new(name, help), (name, "counter", help, &[]))
}

pub(super) fn counters(
    shelf: &mut Shelf,
    name: Name,
    help: Name,
    labels: Labels,
) -> Result<IntCounterVec> {
    let made = IntCounterVec::new(Opts::new(name, help), labels);
    shelf.add(made, (name, "counter", help, labels))
}

pub(super) fn gauges(
    shelf: &mut Shelf,
    name: Name,
    help: Name,
    labels: Labels,
) -> Result<IntGaugeVec> {
    let made = IntGaugeVec::new(Opts::new(name, help), labels);
    shelf.add(made, (name, "gauge", help, labels))
}

pub(super) fn float_gauges(
    shelf: &mut Shelf,
    name: Name,
    help: Name,
    labels: Labels,
) -> Result<GaugeVec> {
    shelf.add(GaugeVec::new(Opts::new(name, help), labels), (name, "gauge", help, labels))
}

pub(super) fn gauge(shelf: &mut Shelf, name: Name, help: Name) -> Result<IntGauge> {
    shelf.add(IntGauge::new(name, help), (name, "gauge", help, &[]))
}
