//! Gates: a target that said when it wants to be asked again is not retried before.

use std::time::Duration;

use dashmap::DashMap;
use http::HeaderMap;
use tokio::time::Instant;

/// Nobody is believed for longer than this.
const LONGEST: Duration = Duration::from_secs(120);

/// Pauses by (upstream, model). A gate never refuses a first attempt: the last target that is left
/// is always asked, and its own answer says what is wrong.
#[derive(Debug, Default)]
pub struct Gates(DashMap<(String, String), Instant>);

impl Gates {
    /// Closes the gate of a target for the time that its answer asks for; returns that time.
    pub fn close(&self, upstream: &str, model: &str, headers: &HeaderMap) -> Option<Duration> {
        let pause = requested_pause(headers)?.min(LONGEST);
        let until = Instant::now() + pause;
        self.0.insert((upstream.to_owned(), model.to_owned()), until);
        Some(pause)
    }

    /// How long a target's gate stays closed; `None` when it is open.
    pub fn closed_for(&self, upstream: &str, model: &str) -> Option<Duration> {
        if self.0.is_empty() {
            return None;
        }
        let key = (upstream.to_owned(), model.to_owned());
        let until = *self.0.get(&key)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.0.remove(&key);
            return None;
        }
        Some(left)
    }
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
        assert_eq!(gates.closed_for("openai", "gpt-6-luna"), Some(Duration::from_secs(2)));
        assert_eq!(gates.closed_for("openai", "gpt-6.1-sol"), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(gates.closed_for("openai", "gpt-6-luna"), None);
    }
}
