//! Every metric series: name, unit, labels. Names follow OpenTelemetry's GenAI conventions as
//! Prometheus exporters spell them, and `weir_*` for what is the gateway's own.
//!
//! A series lives in the file of what it is about: there it is registered, and there are the
//! methods of [`Metrics`] that count or set it. A finished call comes in at [`Metrics::record`].

mod access;
mod calls;
mod capture;
mod documents;
mod hooks;
mod labels;
mod money;
mod policy;
mod process;
mod times;
mod tokens;
mod training;
mod upstreams;

use std::sync::OnceLock;

use prometheus::Encoder;
use prometheus::Registry;
use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

pub use super::shelf::Described;
pub use access::AUTH_FAILURES;
pub use capture::CAPTURE_OUTCOMES;
pub use labels::CallLabels;
pub use labels::Observation;
pub use process::SPAN_OUTCOMES;
pub use training::DATASET_STATUSES;
pub use training::TRAINING_STATUSES;
pub use upstreams::GATE_REASONS;

use super::openmetrics;
use super::shelf::Shelf;
use access::Access;
use calls::Calls;
use capture::Capture;
use documents::Documents;
use hooks::Hooks;
use money::Money;
use policy::Policy;
use process::Process;
use times::Times;
use tokens::Tokens;
use training::Training;
use upstreams::Upstreams;

type SetGauges = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metric series of the process.
pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,
    calls: Calls,
    times: Times,
    tokens: Tokens,
    money: Money,
    upstreams: Upstreams,
    policy: Policy,
    access: Access,
    capture: Capture,
    hooks: Hooks,
    documents: Documents,
    training: Training,
    process: Process,
    /// What sets gauges before a scrape.
    before_scrape: OnceLock<SetGauges>,
}

impl Metrics {
    /// Registers every series.
    ///
    /// # Errors
    /// Two series of one name: a mistake in one of the groups.
    pub fn new() -> prometheus::Result<Self> {
        let mut shelf = Shelf::default();
        Ok(Self {
            calls: Calls::new(&mut shelf)?,
            times: Times::new(&mut shelf)?,
            tokens: Tokens::new(&mut shelf)?,
            money: Money::new(&mut shelf)?,
            upstreams: Upstreams::new(&mut shelf)?,
            policy: Policy::new(&mut shelf)?,
            access: Access::new(&mut shelf)?,
            capture: Capture::new(&mut shelf)?,
            hooks: Hooks::new(&mut shelf)?,
            documents: Documents::new(&mut shelf)?,
            training: Training::new(&mut shelf)?,
            process: Process::new(&mut shelf)?,
            before_scrape: OnceLock::new(),
            registry: shelf.registry,
            described: shelf.described,
        })
    }

    /// Has `set` set gauges before each scrape. Only the first one counts.
    pub fn before_scrape(&self, set: impl Fn(&Self) + Send + Sync + 'static) {
        let _ = self.before_scrape.set(Box::new(set));
    }

    /// Every series, but for those of the process.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// Every series as text, in Prometheus' exposition format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.gather(), &mut text) {
            tracing::error!(%error, "could not render the metrics");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// The same as OpenMetrics, with the last traced calls, where the `Accept` header asks for it;
    /// the media type goes first.
    pub fn render_for(&self, accept: &str) -> (&'static str, String) {
        if !openmetrics::is_wanted(accept) {
            return ("text/plain; version=0.0.4; charset=utf-8", self.render());
        }
        let exemplars = |family: &str, labels: &[_]| self.times.exemplars(family, labels);
        (openmetrics::MEDIA_TYPE, openmetrics::encode(&self.gather(), exemplars))
    }

    fn gather(&self) -> Vec<MetricFamily> {
        if let Some(set) = self.before_scrape.get() {
            set(self);
        }
        self.registry.gather()
    }
}
