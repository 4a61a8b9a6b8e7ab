//! How the models are doing: what rules ask about latency, errors and load.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::policy::Live;
use crate::policy::ModelState;
use crate::policy::NO_SHUTDOWN;
use crate::policy::Policy;
use crate::upstream::Upstreams;

/// Calls of a model that count: the last so many ...
const RECENT: usize = 512;
/// ... that ended within this time.
const FRESH: Duration = Duration::from_secs(300);
/// Weight of the newest answer in a route's mean output.
const NEWEST: f64 = 0.1;

/// Figures of every model and route since the start. They outlive a change of the policy.
#[derive(Debug, Default)]
pub struct LiveStats {
    models: DashMap<Arc<str>, Arc<ModelStats>>,
    /// Exponentially weighted mean of output tokens by route, as the bits of a double.
    outputs: DashMap<Arc<str>, AtomicU64>,
    /// Days since 1970 on which providers say that a model ends, by provider and its name there.
    shutdowns: DashMap<(String, String), i64>,
}

/// Figures of one model.
#[derive(Debug, Default)]
pub(super) struct ModelStats {
    in_flight: AtomicU64,
    recent: Mutex<VecDeque<Ended>>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    at: Instant,
    took_ms: f64,
    failed: bool,
}

/// A call that is running at a model; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Running(Arc<ModelStats>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Running {
    /// Notes how the call ended.
    pub(super) fn ended(&self, took: Duration, failed: bool) {
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        let took_ms = took.as_secs_f64() * 1e3;
        recent.push_back(Ended { at: Instant::now(), took_ms, failed });
    }
}

impl ModelStats {
    /// Median and 95th percentile of the answers' time in milliseconds, and the share of failures.
    fn summary(&self) -> (f64, f64, f64) {
        let now = Instant::now();
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = recent.iter().filter(|ended| now.duration_since(ended.at) <= FRESH);
        let (failed, good): (Vec<&Ended>, Vec<&Ended>) = fresh.partition(|ended| ended.failed);
        let mut times: Vec<f64> = good.iter().map(|ended| ended.took_ms).collect();
        times.sort_by(f64::total_cmp);
        let all = failed.len() + times.len();
        let errors = if all == 0 { 0.0 } else { ratio(failed.len(), all) };
        (rank(&times, 50), rank(&times, 95), errors)
    }
}

fn ratio(part: usize, all: usize) -> f64 {
    // At most `RECENT` of them.
    f64::from(u32::try_from(part).unwrap_or(0)) / f64::from(u32::try_from(all).unwrap_or(1))
}

/// The value that so many percent of the sorted `times` do not exceed; 0 of none.
fn rank(times: &[f64], percent: usize) -> f64 {
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(index).copied().unwrap_or_default()
}

impl LiveStats {
    /// Counts a call that begins at a model. Only models that the policy knows: names are bounded.
    pub(super) fn begin(&self, model: &Arc<str>) -> Running {
        let known = self.models.get(model).map(|stats| Arc::clone(&stats));
        let stats =
            known.unwrap_or_else(|| Arc::clone(&self.models.entry(Arc::clone(model)).or_default()));
        stats.in_flight.fetch_add(1, Ordering::Relaxed);
        Running(stats)
    }

    /// Notes the output tokens of an answer.
    pub(super) fn output(&self, route: &Arc<str>, tokens: u64) {
        // Token counts are far below 2^53.
        let tokens = f64::from(u32::try_from(tokens).unwrap_or(u32::MAX));
        let Some(mean) = self.outputs.get(route) else {
            self.outputs.insert(Arc::clone(route), AtomicU64::new(tokens.to_bits()));
            return;
        };
        let moved = |bits| {
            let mean = f64::from_bits(bits);
            Some((mean + NEWEST * (tokens - mean)).to_bits())
        };
        // The closure always gives a value.
        let _ = mean.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }

    /// Notes the day on which a provider says that a model ends.
    pub(super) fn shutdown(&self, upstream: &str, model: &str, day: i64) {
        self.shutdowns.insert((upstream.to_owned(), model.to_owned()), day);
    }

    /// The day on which a model ends, in days since 1970: as the provider says, else the catalogue.
    pub fn shutdown_day(&self, policy: &Policy, model: &str) -> Option<i64> {
        let target = policy.target(model);
        let key = (target.upstream.name.clone(), target.upstream_model.to_string());
        let said = self.shutdowns.get(&key).map(|day| *day);
        said.or_else(|| Some(policy.model_of(&target)?.shutdown?.days_since_epoch()))
    }
}

/// The figures as one decision sees them.
pub struct LiveView<'a> {
    stats: &'a LiveStats,
    upstreams: &'a Upstreams,
    policy: &'a Policy,
}

impl<'a> LiveView<'a> {
    /// The figures for decisions of `policy`.
    pub fn new(stats: &'a LiveStats, upstreams: &'a Upstreams, policy: &'a Policy) -> Self {
        Self { stats, upstreams, policy }
    }
}

impl Live for LiveView<'_> {
    fn model(&self, name: &str) -> ModelState {
        let stats = self.stats.models.get(name).map(|stats| Arc::clone(&stats));
        let (p50_ms, p95_ms, error_rate) = stats.as_ref().map_or((0.0, 0.0, 0.0), |s| s.summary());
        let day = self.stats.shutdown_day(self.policy, name);
        ModelState {
            p50_ms,
            p95_ms,
            error_rate,
            in_flight: stats.map_or(0, |stats| stats.in_flight.load(Ordering::Relaxed)),
            available: self.upstreams.is_available(&self.policy.target(name)),
            days_to_shutdown: day.map_or(NO_SHUTDOWN, |day| day - today()),
        }
    }

    fn expected_output(&self, route: &str) -> Option<f64> {
        self.stats.outputs.get(route).map(|mean| f64::from_bits(mean.load(Ordering::Relaxed)))
    }
}

/// Days since 1970-01-01, UTC.
pub fn today() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs() / 86_400).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn percentiles_are_of_the_last_calls_and_errors_a_share_of_them() {
        let stats = LiveStats::default();
        let running = stats.begin(&Arc::from("m"));
        for ms in 1..=100 {
            running.ended(Duration::from_millis(ms), false);
        }
        for _ in 0..25 {
            running.ended(Duration::from_secs(60), true);
        }
        let model = stats.models.get("m").map(|stats| Arc::clone(&stats)).unwrap();
        assert_eq!(model.summary(), (50.0, 95.0, 0.2));
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        assert_eq!(model.summary(), (0.0, 0.0, 0.0));
    }

    #[tokio::test]
    async fn a_call_is_in_flight_until_it_is_dropped() {
        let stats = LiveStats::default();
        let (one, two) = (stats.begin(&Arc::from("m")), stats.begin(&Arc::from("m")));
        let in_flight = || stats.models.get("m").unwrap().in_flight.load(Ordering::Relaxed);
        assert_eq!(in_flight(), 2);
        drop(one);
        assert_eq!(in_flight(), 1);
        drop(two);
        assert_eq!(in_flight(), 0);
    }

    #[test]
    fn a_routes_mean_output_follows_its_answers() {
        let stats = LiveStats::default();
        let route: Arc<str> = Arc::from("r");
        stats.output(&route, 100);
        // 100 + 0.1 x (200 - 100)
        stats.output(&route, 200);
        let mean = f64::from_bits(stats.outputs.get("r").unwrap().load(Ordering::Relaxed));
        assert!((mean - 110.0).abs() < 1e-9, "{mean}");
    }
}
