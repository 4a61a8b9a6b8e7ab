//! Knobs: how a request asks the stand-in to be slow, short, broken or refusing.

use std::time::Duration;

use thiserror::Error;

/// Most content chunks one answer may have; more are cut to this.
const MAX_CHUNKS: u64 = 100_000;
/// Longest answer content, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How answers misbehave. All off by default. Set for the process by [`Knobs::parse`], for one
/// request by the header `x-simulate: status=429 retry_after=1`, or by the last
/// `[[simulate latency_ms=20 chunks=50]]` in its JSON body; the later of these wins, key by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knobs {
    /// `latency_ms`: wait before the first byte of an answer.
    pub latency: Duration,
    /// `chunk_delay_ms`: wait before each content chunk of a stream.
    pub chunk_delay: Duration,
    /// `drip_ms`: send the body one byte at a time, with this wait between bytes.
    pub drip: Duration,
    /// `chunks`: number of content chunks; without `bytes` also of words. At most 100,000.
    pub chunks: Option<usize>,
    /// `bytes`: length of the answer's content. At most 64 MiB.
    pub bytes: Option<usize>,
    /// `status`: refuse with this HTTP status (400-599) and OpenAI's body for it.
    pub status: Option<u16>,
    /// `code`: the refusal's `code`, such as `insufficient_quota`.
    pub code: Option<String>,
    /// `retry_after`: seconds (fractions allowed) that a refusal tells the client to wait.
    pub retry_after: Option<Duration>,
    /// `fail_first`: only the first so many requests with this `fail_key` are refused.
    pub fail_first: Option<u64>,
    /// `every`: only every so-manieth request with this `fail_key` is refused.
    pub every: Option<u64>,
    /// `fail_key`: what `fail_first` and `every` count by; the directive's own text if absent.
    pub fail_key: Option<String>,
    /// `stall`: accept the request and never answer.
    pub stall: bool,
    /// `stall_after`: go silent after so many content chunks (no stream: after half the body).
    pub stall_after: Option<usize>,
    /// `cut`: close the connection after so many content chunks (no stream: after half of the
    /// declared length).
    pub cut: Option<usize>,
    /// `drop`: close the connection without answering at all (HTTP/2: reset the stream).
    pub drop: bool,
    /// `garbage`: streams carry comments, CRLF line ends and events split between writes.
    pub garbage: bool,
    /// `gzip`: compress answers that are not streams for clients that accept it.
    pub gzip: bool,
    /// `usage=off`: answers carry no `usage`.
    pub no_usage: bool,
    /// `lenient`: requests are not checked beyond being JSON with a `model`.
    pub lenient: bool,
    /// `job_step_ms`: how long fine-tune jobs and batches stay in each step; 200 ms if absent.
    pub job_step: Option<Duration>,
    /// `job_end`: the last status of a fine-tune job, in place of `succeeded`.
    pub job_end: Option<String>,
}

/// A knob that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KnobError {
    /// No knob has this name.
    #[error("there is no knob named '{0}'")]
    Unknown(String),
    /// The knob exists, its value cannot be used.
    #[error("knob '{key}' cannot be '{value}'")]
    Value {
        /// The knob's name.
        key: String,
        /// What was given.
        value: String,
    },
}

impl Knobs {
    /// Reads `key=value` pairs separated by white space, commas or semicolons. A flag such as
    /// `stall` may stand alone.
    ///
    /// # Errors
    /// Names the first knob that does not exist or whose value cannot be used.
    pub fn parse(text: &str) -> Result<Self, KnobError> {
        let mut knobs = Self::default();
        pairs(text).try_for_each(|(key, value)| knobs.set(key, value))?;
        Ok(knobs)
    }

    /// Lays `text` over what is set. What cannot be read is passed over: it comes from a request.
    pub(super) fn amend(&mut self, text: &str) {
        let counted = self.fail_key.is_none();
        for (key, value) in pairs(text) {
            let _ = self.set(key, value);
        }
        if counted && self.fail_key.is_none() {
            self.fail_key = Some(text.to_owned());
        }
    }

    /// How long fine-tune jobs and batches stay in each step.
    pub(super) fn job_step(&self) -> Duration {
        self.job_step.unwrap_or(Duration::from_millis(200))
    }

    /// `retry_after` in seconds, 1 if not set.
    pub(super) fn retry_after_s(&self) -> f64 {
        self.retry_after.map_or(1.0, |wait| wait.as_secs_f64())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), KnobError> {
        let wrong = || KnobError::Value { key: key.to_owned(), value: value.to_owned() };
        let number = || value.parse::<u64>().map_err(|_| wrong());
        let capped = |cap: u64| number().map(|n| usize::try_from(n.min(cap)).unwrap_or(usize::MAX));
        let millis = || number().map(Duration::from_millis);
        let flag = || flag(value).ok_or_else(wrong);
        match key {
            "latency_ms" => self.latency = millis()?,
            "chunk_delay_ms" => self.chunk_delay = millis()?,
            "drip_ms" => self.drip = millis()?,
            "chunks" => self.chunks = Some(capped(MAX_CHUNKS)?),
            "bytes" => self.bytes = Some(capped(MAX_BYTES)?),
            "status" => self.status = Some(status(value).ok_or_else(wrong)?),
            "code" => self.code = Some(value.to_owned()),
            "retry_after" => self.retry_after = Some(seconds(value).ok_or_else(wrong)?),
            "fail_first" => self.fail_first = Some(number()?),
            "every" => self.every = Some(number()?.max(1)),
            "fail_key" => self.fail_key = Some(value.to_owned()),
            "stall" => self.stall = flag()?,
            "stall_after" => self.stall_after = Some(capped(MAX_CHUNKS)?),
            "cut" => self.cut = Some(capped(MAX_CHUNKS)?),
            "drop" => self.drop = flag()?,
            "garbage" => self.garbage = flag()?,
            "gzip" => self.gzip = flag()?,
            "usage" => self.no_usage = !flag()?,
            "lenient" => self.lenient = flag()?,
            "job_step_ms" => self.job_step = Some(millis()?),
            "job_end" => self.job_end = Some(value.to_owned()),
            _ => return Err(KnobError::Unknown(key.to_owned())),
        }
        Ok(())
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(|c: char| c.is_whitespace() || c == ',' || c == ';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "on")))
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "on" | "true" | "1" | "yes" => Some(true),
        "off" | "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn status(value: &str) -> Option<u16> {
    value.parse().ok().filter(|status| (400..600).contains(status))
}

/// At most a day: a longer wait would only hide a typing error.
fn seconds(value: &str) -> Option<Duration> {
    let wait: f64 = value.parse().ok()?;
    (0.0..=86_400.0).contains(&wait).then(|| Duration::from_secs_f64(wait))
}

/// The text inside the last `[[simulate …]]` of a body.
pub(super) fn directive(body: &[u8]) -> Option<&str> {
    const OPEN: &[u8] = b"[[simulate ";
    let start = memchr::memmem::rfind(body, OPEN)? + OPEN.len();
    let rest = body.get(start..)?;
    let end = memchr::memmem::find(rest, b"]]")?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_flags_are_read_with_any_separator() {
        let knobs =
            Knobs::parse("latency_ms=50 chunks=3,stall; usage=off retry_after=0.5").unwrap();
        assert_eq!(knobs.latency, Duration::from_millis(50));
        assert_eq!(knobs.chunks, Some(3));
        assert!(knobs.stall && knobs.no_usage);
        assert_eq!(knobs.retry_after, Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_knob_that_does_not_exist_is_named() {
        assert_eq!(Knobs::parse("speed=9"), Err(KnobError::Unknown("speed".into())));
        assert_eq!(
            Knobs::parse("status=200").unwrap_err().to_string(),
            "knob 'status' cannot be '200'"
        );
    }

    #[test]
    fn the_last_directive_of_a_body_counts() {
        let body = br#"{"a":"[[simulate chunks=1]] x [[simulate chunks=2]]"}"#;
        assert_eq!(directive(body), Some("chunks=2"));
        assert_eq!(directive(b"[[simulate chunks=1"), None);
    }
}
