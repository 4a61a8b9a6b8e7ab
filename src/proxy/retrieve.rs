//! Looks for what documents say about a request's last question, where its rule wants that. Whatever
//! goes wrong, the request goes on without.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::metering::tokens::Encoding;
use crate::openai::request::RequestView;
use crate::policy::Retrieve;
use crate::policy::Route;
use crate::store::Retrieval;

use super::Gateway;
use super::call::Call;
use super::passages;
use super::passages::Passage;
use super::passages::Written;
use super::search::Search;

/// What came of it; on each answer of a rule that retrieves.
const OUTCOME: HeaderName = HeaderName::from_static("x-weir-retrieval");
/// The pages whose passages the model was given.
const SOURCES: HeaderName = HeaderName::from_static("x-weir-sources");
/// Characters of a question that are looked for; of a longer one its beginning and its end, where
/// people write what they want to know of what stands between.
const LONGEST: usize = 4_000;

/// What a search answers, as far as it is read here.
#[derive(Deserialize)]
struct Answer {
    data: Vec<Passage>,
    /// There was no vector, and only words were compared.
    #[serde(default)]
    degraded: Option<String>,
}

/// Why there is nothing, in the words of the metric.
enum Miss {
    /// There is no question to look for.
    Skipped,
    /// It took too long.
    Timeout,
    /// It could not be done; an error's code.
    Failed(&'static str),
}

/// The message with the passages for a request; `None` where its rule wants none, and where none was
/// found in time. Notes what came of it.
pub(super) async fn message(
    gateway: &Gateway,
    view: &RequestView,
    raw: &Bytes,
    route: &Route,
    call: &mut Call,
) -> Option<String> {
    // What the gateway itself calls for, such as a question's vector, is no conversation.
    let wanted = route.rule.retrieve.as_ref().filter(|_| call.client.purpose().is_none())?;
    let began = Instant::now();
    let question = call.endpoint.conversation().and_then(|field| view.question(raw, field));
    let patience = patience(wanted, route, call, began);
    let encoding = call.policy.encoding_of(&route.target.model);
    // Nothing is sent yet: of a client that leaves now nothing is billed.
    let request = std::mem::take(&mut call.request);
    let found = found(gateway.search.as_ref(), wanted, question, patience, encoding).await;
    call.request = request;
    let took = began.elapsed();
    // The gateway waits here for its store and a provider, as it does for the answer.
    call.waited += took;
    let (text, retrieval) = told(wanted, found, took);
    gateway.metrics.retrieval(&route.rule.name, retrieval.outcome);
    log(route, &retrieval);
    call.retrieval = Some(Box::new(retrieval));
    text
}

/// How long a request may wait: half of what its deadline leaves at most, so that there is time to
/// answer without.
fn patience(wanted: &Retrieve, route: &Route, call: &Call, now: Instant) -> Duration {
    let left = route.rule.deadline.map(|limit| (call.started + limit).duration_since(now) / 2);
    wanted.timeout.min(left.unwrap_or(Duration::MAX))
}

async fn found(
    search: Option<&Search>,
    wanted: &Retrieve,
    question: Option<String>,
    patience: Duration,
    encoding: Encoding,
) -> Result<(Written, bool), Miss> {
    let question = question.ok_or(Miss::Skipped)?;
    let search = search.ok_or(Miss::Failed("store_off"))?;
    let asked = json!({
        "query": shortened(question), "source": wanted.source, "top_k": wanted.top_k,
        "filter": { "url_prefix": wanted.url_prefix, "metadata": wanted.metadata },
    });
    // Words can be compared in what is left when a provider of vectors is slow.
    let searching = search(asked.to_string().into(), Some(patience / 4 * 3));
    let max_tokens = wanted.max_tokens;
    let work = async {
        let json = searching.await.map_err(|error| Miss::Failed(error.code))?;
        // Counting takes milliseconds where there is much of it: not on the reactor.
        let read = tokio::task::spawn_blocking(move || {
            let answer: Answer = serde_json::from_slice(&json).ok()?;
            let written = passages::write(answer.data, max_tokens, encoding);
            Some((written, answer.degraded.is_some()))
        });
        let unreadable = || Miss::Failed("unreadable_answer");
        read.await.ok().flatten().ok_or_else(unreadable)
    };
    tokio::time::timeout(patience, work).await.unwrap_or(Err(Miss::Timeout))
}

/// The message, and what is to be known of it.
fn told(
    wanted: &Retrieve,
    found: Result<(Written, bool), Miss>,
    took: Duration,
) -> (Option<String>, Retrieval) {
    let (outcome, error, written) = match found {
        Ok((written, _)) if written.cited.is_empty() => ("empty", None, written),
        Ok((written, true)) => ("text_only", None, written),
        Ok((written, false)) => ("ok", None, written),
        Err(Miss::Skipped) => ("skipped", None, Written::default()),
        Err(Miss::Timeout) => ("timeout", None, Written::default()),
        Err(Miss::Failed(code)) => ("failed", Some(code), Written::default()),
    };
    let Written { text, tokens, cited } = written;
    let retrieval = Retrieval {
        source: wanted.source.clone(),
        outcome,
        error,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        tokens,
        passages: cited,
    };
    (Some(text).filter(|text| !text.is_empty()), retrieval)
}

fn log(route: &Route, retrieval: &Retrieval) {
    let Retrieval { source, outcome, error, took_ms, tokens, passages } = retrieval;
    let rule = &route.rule.name;
    match *outcome {
        "failed" | "timeout" => {
            let error = error.unwrap_or_default();
            tracing::warn!(route = %rule, %source, outcome, error, took_ms, "no passages were found; the request goes without");
        }
        _ => {
            tracing::debug!(route = %rule, %source, outcome, passages = passages.len(), tokens, took_ms, "documents were asked");
        }
    }
}

/// Tells the client what came of it, and whose words the model was given.
pub(super) fn tell(retrieval: &Retrieval, headers: &mut HeaderMap) {
    headers.insert(OUTCOME, HeaderValue::from_static(retrieval.outcome));
    if let Some(sources) = passages::sources(&retrieval.passages) {
        headers.insert(SOURCES, sources);
    }
}

fn shortened(question: String) -> String {
    let length = question.chars().count();
    if length <= LONGEST {
        return question;
    }
    let half = LONGEST / 2;
    let mut short: String = question.chars().take(half).collect();
    short.push('\n');
    short.extend(question.chars().skip(length - half));
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_question_its_beginning_and_its_end_are_looked_for() {
        assert_eq!(shortened("é".repeat(LONGEST)), "é".repeat(LONGEST));
        let long = format!("begin{}end", "é".repeat(LONGEST));
        let short = shortened(long);
        assert_eq!(short.chars().count(), LONGEST + 1);
        assert!(short.starts_with("beginé") && short.ends_with("éend"));
    }
}
