//! The work beside the requests: counters to the store, news to who wants to know, metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::background::note;
use crate::metering::money::Usd;
use crate::policy::Limit;
use crate::policy::Per;
use crate::policy::PolicyHandle;
use crate::store::LimitCounters;
use crate::telemetry::metrics::Metrics;

use super::Limits;
use super::News;
use super::Now;

/// How often changed counters are written to the store.
const WRITE: Duration = Duration::from_secs(1);
/// Every so many of these, metrics are set and idle subjects forgotten.
const SWEEP: u32 = 5;
/// Subjects of a limit that have a series of their own.
const MOST_SERIES: usize = 100;
/// How the names of callers with keys of their own begin.
const FINGERPRINT: &str = "fp_";
/// What the others are called.
const OTHER: &str = "other";

/// Writes counters down, and reads those of before.
pub struct Keeper {
    limits: Arc<Limits>,
    policy: Arc<PolicyHandle>,
    metrics: Arc<Metrics>,
    store: Option<LimitCounters>,
    restored: bool,
    failed: bool,
}

impl Keeper {
    /// Without a store counters end with the process.
    pub fn new(
        limits: Arc<Limits>,
        policy: Arc<PolicyHandle>,
        metrics: Arc<Metrics>,
        store: Option<LimitCounters>,
    ) -> Self {
        Self { limits, policy, metrics, store, restored: false, failed: false }
    }

    /// Counts what was used before this process began. A store that is away is asked again later.
    pub async fn restore(&mut self) {
        let Some(store) = &mut self.store else { return };
        match store.read().await {
            Ok(mut counters) => {
                self.restored = true;
                counters.retain(|counter| counter.gateway != self.limits.gateway());
                self.limits.restore(counters, self.policy.current().limits(), Now::read());
            }
            Err(error) => {
                tracing::warn!(%error, "what was used of limits before is not known yet");
            }
        }
    }

    /// Works until it is dropped. `tell` hears of budgets that run out.
    pub async fn run(mut self, tell: impl Fn(&News)) {
        let mut tick = tokio::time::interval(WRITE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for turn in 0_u32.. {
            tick.tick().await;
            if !self.restored {
                self.restore().await;
            }
            self.write().await;
            let kept =
                if self.failed { Err("the store does not take the counters") } else { Ok(()) };
            // What is lost is told where it is lost.
            let _ = note(kept);
            self.limits.take_news().iter().for_each(&tell);
            if turn.is_multiple_of(SWEEP) {
                self.limits.sweep(Now::read());
                self.measure();
            }
        }
    }

    /// Writes all there is, at the end of the process: what another one is writing may not arrive.
    pub async fn write_all(&mut self) {
        self.limits.mark_all();
        self.write().await;
    }

    /// Writes what has changed.
    async fn write(&mut self) {
        let Some(store) = &mut self.store else { return };
        let mut counters = self.limits.changed(Now::read());
        if counters.is_empty() {
            return;
        }
        let written = store.write(self.limits.gateway(), &mut counters).await;
        if let Err(error) = &written {
            self.limits.not_written(&counters);
            if !self.failed {
                tracing::warn!(%error, "what is used of limits is not written down now");
            }
        }
        self.failed = written.is_err();
    }

    fn measure(&self) {
        let policy = self.policy.current();
        let budgets = self.limits.budgets(policy.limits(), Now::read());
        let series = series(budgets);
        let lines = series.iter().map(|((limit, subject), left)| (&**limit, &**subject, *left));
        self.metrics.budgets(lines);
        let budgets = policy.limits().iter();
        let budgets = budgets.filter_map(|limit| Some((&*limit.name, limit.budget.as_ref()?.usd)));
        self.metrics.budget_limits(budgets);
    }
}

/// What is left by limit and subject, of a bounded number of subjects: the others are one series,
/// and so are users and tags, whose names clients make up. It tells of the tightest among them.
fn series(mut budgets: Vec<(Arc<Limit>, String, Usd)>) -> BTreeMap<(Arc<str>, String), Usd> {
    budgets.sort_by_key(|(_, _, left)| *left);
    let mut series: BTreeMap<(Arc<str>, String), Usd> = BTreeMap::new();
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for (limit, subject, left) in budgets {
        let count = counts.entry(Arc::clone(&limit.name)).or_default();
        *count += 1;
        // Callers with keys of their own are told by fingerprints: nobody knows how many there are.
        let bounded = matches!(limit.per, Per::Key | Per::Team | Per::Global)
            && !subject.starts_with(FINGERPRINT);
        let subject = if bounded && *count <= MOST_SERIES { subject } else { OTHER.to_owned() };
        // The first one is the tightest.
        series.entry((Arc::clone(&limit.name), subject)).or_insert(left);
    }
    series
}
