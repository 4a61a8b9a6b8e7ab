//! Gates: a target that said when it wants to be asked again is not retried before.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::one::RefMut;
use http::HeaderMap;
use tokio::time::Instant;

/// Nobody is believed for longer than this.
const LONGEST: Duration = Duration::from_secs(120);

/// Failures in a row after which a target is left alone.
const FAILURES: u32 = 5;
/// How long it is left alone at first; doubled each time, up to [`LONGEST_EJECTION`].
const EJECTION: Duration = Duration::from_secs(5);
const LONGEST_EJECTION: Duration = Duration::from_secs(60);
/// How long others wait for what becomes of the one request that tries a target again.
const PROBE: Duration = Duration::from_secs(1);

/// Pauses by (upstream, model): because the target asked for one, or because it failed several
/// times in a row. A gate never refuses a first attempt: the last target that is left is always
/// asked, and its own answer says what is wrong.
#[derive(Debug, Default)]
pub struct Gates {
    by_target: DashMap<(String, String), Gate>,
    /// Whether there may be any. A map of many cores has many locks, and most of the time no target
    /// has a gate: every request asks, so it asks this.
    some: AtomicBool,
}

#[derive(Debug, Default)]
struct Gate {
    /// Until when the target asked to be left alone.
    asked: Option<Instant>,
    /// Until when it is left alone for its failures.
    ejected: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

impl Gates {
    /// Closes the gate of a target for the time that its answer asks for; returns that time.
    pub fn close(&self, upstream: &str, model: &str, headers: &HeaderMap) -> Option<Duration> {
        let pause = requested_pause(headers)?.min(LONGEST);
        self.gate(upstream, model).asked = Some(Instant::now() + pause);
        Some(pause)
    }

    /// For how long a target asked to be left alone; `None` when it did not.
    pub fn closed_for(&self, upstream: &str, model: &str) -> Option<Duration> {
        if !self.some.load(Ordering::Acquire) {
            return None;
        }
        let until = self.by_target.get(&key(upstream, model))?.asked?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Whether a request may go to a target. Of those that come after an ejection one is let in at
    /// a time, to see whether it has recovered.
    pub fn lets_in(&self, upstream: &str, model: &str) -> bool {
        if !self.some.load(Ordering::Acquire) {
            return true;
        }
        let Some(mut gate) = self.by_target.get_mut(&key(upstream, model)) else { return true };
        let now = Instant::now();
        if gate.asked.max(gate.ejected).is_some_and(|until| until > now) {
            return false;
        }
        if gate.failures >= FAILURES {
            gate.ejected = Some(now + PROBE);
        }
        true
    }

    /// Notes that a target failed: no connection, no answer in time, or a 5xx.
    pub fn failed(&self, upstream: &str, model: &str) {
        let mut gate = self.gate(upstream, model);
        gate.failures = gate.failures.saturating_add(1);
        if gate.failures >= FAILURES {
            let doubled = EJECTION.saturating_mul(1 << (gate.failures - FAILURES).min(6));
            let until = Instant::now() + doubled.min(LONGEST_EJECTION);
            gate.ejected = Some(until);
        }
    }

    /// Notes that a target works.
    pub fn answered(&self, upstream: &str, model: &str) {
        if !self.some.load(Ordering::Acquire) {
            return;
        }
        if let Some(mut gate) = self.by_target.get_mut(&key(upstream, model)) {
            (gate.failures, gate.ejected) = (0, None);
        }
    }

    /// Whether a target is neither paused nor ejected; lets nobody in.
    pub fn is_open(&self, upstream: &str, model: &str) -> bool {
        let Some(gate) = self.by_target.get(&key(upstream, model)) else { return true };
        gate.asked.max(gate.ejected).is_none_or(|until| until <= Instant::now())
    }

    /// How many models of an upstream are left alone now: because it asked for that, and because
    /// they failed.
    pub fn open(&self, upstream: &str) -> [i64; 2] {
        let now = Instant::now();
        let gates = self.by_target.iter().filter(|gate| gate.key().0 == upstream);
        gates.fold([0, 0], |[asked, failing], gate| {
            let lasts = |until: Option<Instant>| i64::from(until.is_some_and(|t| t > now));
            // One that does both counts once.
            let asks = lasts(gate.asked);
            [asked + asks, failing + lasts(gate.ejected) * (1 - asks)]
        })
    }

    /// Forgets what is long over.
    pub fn sweep(&self) {
        let now = Instant::now();
        let fresh = |gate: &Gate| gate.asked.max(gate.ejected).is_some_and(|t| t + LONGEST > now);
        self.by_target.retain(|_, gate| fresh(gate));
        if self.by_target.is_empty() {
            self.some.store(false, Ordering::Release);
            // One that came in between is not to be overlooked.
            if !self.by_target.is_empty() {
                self.some.store(true, Ordering::Release);
            }
        }
    }

    fn gate(&self, upstream: &str, model: &str) -> RefMut<'_, (String, String), Gate> {
        let gate = self.by_target.entry(key(upstream, model)).or_default();
        self.some.store(true, Ordering::Release);
        gate
    }
}

fn key(upstream: &str, model: &str) -> (String, String) {
    (upstream.to_owned(), model.to_owned())
}

/// The pause that an answer asks for: `retry-after-ms`, `retry-after` in seconds, or the later of
/// the exhausted `x-ratelimit-reset-*`.
fn requested_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(millis) = text("retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok()) {
        return seconds(millis / 1000.0);
    }
    if let Some(pause) = text("retry-after").and_then(|text| text.trim().parse::<f64>().ok()) {
        return seconds(pause);
    }
    ["requests", "tokens"]
        .into_iter()
        .filter(|kind| text(&format!("x-ratelimit-remaining-{kind}")) == Some("0"))
        .filter_map(|kind| text(&format!("x-ratelimit-reset-{kind}")).and_then(reset))
        .max()
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

/// Reads OpenAI's spelling of a duration: `1s`, `6m0s`, `120ms`, `1h2m3.5s`.
fn reset(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut number = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_digit() || letter == '.' {
            number.push(letter);
            continue;
        }
        let scale = match letter {
            'h' => 3600.0,
            'm' if letters.next_if_eq(&'s').is_some() => 0.001,
            'm' => 60.0,
            's' => 1.0,
            _ => return None,
        };
        total += std::mem::take(&mut number).parse::<f64>().ok()? * scale;
    }
    if number.is_empty() { seconds(total) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn pause(pairs: &[(&'static str, &'static str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.insert(name, HeaderValue::from_static(value));
        }
        requested_pause(&headers)
    }

    #[test]
    fn a_provider_says_in_three_ways_when_to_come_back() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(pause(&[("retry-after-ms", "250"), ("retry-after", "9")]), ms(250));
        assert_eq!(pause(&[("retry-after", "2")]), ms(2_000));
        let spent = ("x-ratelimit-remaining-tokens", "0");
        assert_eq!(pause(&[spent, ("x-ratelimit-reset-tokens", "6m0s")]), ms(360_000));
        assert_eq!(pause(&[spent, ("x-ratelimit-reset-tokens", "120ms")]), ms(120));
        assert_eq!(pause(&[("x-ratelimit-reset-tokens", "6m0s")]), None);
        assert_eq!(pause(&[("retry-after", "-1")]), None);
        assert_eq!(pause(&[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_opens_when_its_time_is_over() {
        let gates = Gates::default();
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("2"));
        gates.close("openai", "gpt-6-luna", &headers);
        assert!(!gates.lets_in("openai", "gpt-6-luna"));
        assert_eq!(gates.closed_for("openai", "gpt-6-luna"), Some(Duration::from_secs(2)));
        assert_eq!(gates.closed_for("openai", "gpt-6.1-sol"), None);
        (0..FAILURES).for_each(|_| gates.failed("openai", "gpt-6.1-sol"));
        assert_eq!((gates.open("openai"), gates.open("vllm")), ([1, 1], [0, 0]));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(gates.closed_for("openai", "gpt-6-luna"), None);
    }
    #[tokio::test(start_paused = true)]
    async fn a_target_that_fails_five_times_in_a_row_is_left_alone_and_tried_by_one() {
        let gates = Gates::default();
        let lets_in = || gates.lets_in("a", "m");
        for _ in 0..4 {
            gates.failed("a", "m");
        }
        assert!(lets_in(), "four failures are bad luck");
        gates.failed("a", "m");
        assert!(!lets_in() && gates.lets_in("a", "other") && gates.lets_in("b", "m"));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(lets_in(), "one request tries it");
        assert!(!lets_in(), "others wait for what becomes of it");
        // It fails again: twice as long.
        gates.failed("a", "m");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!lets_in());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(lets_in());
        gates.answered("a", "m");
        assert!(lets_in() && lets_in(), "it has recovered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_between_failures_starts_the_count_again() {
        let gates = Gates::default();
        for _ in 0..3 {
            gates.failed("a", "m");
            gates.failed("a", "m");
            gates.answered("a", "m");
        }
        assert!(gates.lets_in("a", "m"));
        assert_eq!(gates.closed_for("a", "m"), None);
    }
}
