//! The way to Firecrawl, its cloud or one's own: crawls, batches, maps and single pages (API v2).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Uri;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Limited;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde_json::Value;
use serde_json::json;
use thiserror::Error;

use crate::policy::Timeouts;
use crate::policy::Upstream;
use crate::store::Source;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;

const CONNECT: Duration = Duration::from_secs(10);
/// A page is rendered before it is answered.
const ANSWER: Duration = Duration::from_secs(180);
/// Longest answer, in bytes. Firecrawl's cloud cuts at 10 MiB, one's own server nowhere.
const LONGEST_ANSWER: usize = 256 << 20;
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A client of one server.
pub struct Firecrawl {
    upstreams: Arc<Upstreams>,
    upstream: Upstream,
    key: Option<HeaderValue>,
}

/// How far a crawl is, and the pages that this answer has.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// `scraping`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// Pages that it means to fetch.
    pub total: u64,
    /// Pages that it has fetched.
    pub completed: u64,
    /// Documents, in the order of their completion.
    pub documents: Vec<Value>,
    /// Where the rest is, as a path of this server.
    pub next: Option<String>,
}

/// Why Firecrawl did not do what it was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CrawlError {
    /// It does not answer, or has too much to do; later may help.
    #[error("Firecrawl is not available: {0}")]
    Unavailable(String),
    /// It refuses.
    #[error("Firecrawl refuses ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it says, with the field where it names one.
        message: String,
    },
}

impl CrawlError {
    /// Whether it knows of no such job, which it forgets after a day.
    pub fn is_unknown_job(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

impl Firecrawl {
    /// A client of the server at `base_url`.
    ///
    /// # Errors
    /// A sentence that says what of the settings cannot be used.
    pub fn new(
        base_url: &str,
        key: &SecretString,
        upstreams: Arc<Upstreams>,
    ) -> Result<Self, String> {
        let wrong = || "`firecrawl.base_url` cannot be used; write it as https://host".to_owned();
        let base = format!("{}/v2", base_url.trim_end_matches('/').trim_end_matches("/v2"));
        let base_url: Uri = base.parse().map_err(|_| wrong())?;
        if base_url.scheme().is_none() || base_url.host().is_none() {
            return Err(wrong());
        }
        let key = key.expose_secret().trim();
        let bearer = HeaderValue::from_str(&format!("Bearer {key}"));
        let mut bearer = bearer.map_err(|_| "`firecrawl.api_key` cannot be used".to_owned())?;
        bearer.set_sensitive(true);
        let upstream = Upstream {
            name: "Firecrawl".to_owned(),
            identity: format!("firecrawl {base_url}").into(),
            base_url,
            authorization: None,
            ca_file: None,
            timeouts: Timeouts { connect: CONNECT, first_byte: ANSWER, idle: ANSWER },
            max_in_flight: 16,
        };
        Ok(Self { upstreams, upstream, key: (!key.is_empty()).then_some(bearer) })
    }

    /// Begins to crawl a source; returns the job.
    ///
    /// # Errors
    /// See [`CrawlError`].
    pub async fn crawl(&self, source: &Source) -> Result<String, CrawlError> {
        let body = json!({
            "url": source.url, "limit": source.page_limit,
            "includePaths": source.include, "excludePaths": source.exclude,
            "scrapeOptions": scrape_options(),
        });
        self.begun(self.ask(Method::POST, "/crawl", Some(&body)).await?)
    }

    /// Begins to fetch pages; returns the job.
    ///
    /// # Errors
    /// See [`CrawlError`].
    pub async fn batch(&self, urls: &[String]) -> Result<String, CrawlError> {
        let mut body = scrape_options();
        body["urls"] = json!(urls);
        // One that it does not like would be the end of all.
        body["ignoreInvalidURLs"] = true.into();
        self.begun(self.ask(Method::POST, "/batch/scrape", Some(&body)).await?)
    }

    /// The URLs of a site.
    ///
    /// # Errors
    /// See [`CrawlError`].
    pub async fn map(&self, source: &Source) -> Result<Vec<String>, CrawlError> {
        let body = json!({ "url": source.url, "limit": source.page_limit });
        let answer = self.ask(Method::POST, "/map", Some(&body)).await?;
        let links = answer.get("links").and_then(Value::as_array);
        let url = |link: &Value| {
            let url = link.as_str().or_else(|| link.get("url")?.as_str());
            url.map(str::to_owned)
        };
        Ok(links.into_iter().flatten().filter_map(url).collect())
    }

    /// One page.
    ///
    /// # Errors
    /// See [`CrawlError`].
    pub async fn scrape(&self, url: &str) -> Result<Value, CrawlError> {
        let mut body = scrape_options();
        body["url"] = url.into();
        let mut answer = self.ask(Method::POST, "/scrape", Some(&body)).await?;
        Ok(answer.get_mut("data").map(Value::take).unwrap_or_default())
    }

    /// How far a job is: `crawl` or `batch/scrape`, or the rest of an answer.
    ///
    /// # Errors
    /// See [`CrawlError`].
    pub async fn progress(&self, path: &str) -> Result<Progress, CrawlError> {
        let mut answer = self.ask(Method::GET, path, None).await?;
        let number = |answer: &Value, name: &str| answer.get(name).and_then(Value::as_u64);
        let documents = match answer.get_mut("data").map(Value::take) {
            Some(Value::Array(documents)) => documents,
            _ => Vec::new(),
        };
        let next = answer.get("next").and_then(Value::as_str);
        Ok(Progress {
            status: answer.get("status").and_then(Value::as_str).unwrap_or_default().to_owned(),
            total: number(&answer, "total").unwrap_or_default(),
            completed: number(&answer, "completed").unwrap_or_default(),
            documents,
            next: next.and_then(path_of),
        })
    }

    /// How many pages a crawl could not fetch.
    ///
    /// # Errors
    /// See [`CrawlError`].
    pub async fn errors(&self, job: &str) -> Result<usize, CrawlError> {
        let answer = self.ask(Method::GET, &format!("/{job}/errors"), None).await?;
        let count = |name: &str| answer.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        Ok(count("errors") + count("robotsBlocked"))
    }

    /// Ends a job; one that has ended is fine.
    pub async fn cancel(&self, job: &str) {
        if let Err(Failed(error, _)) = self.once(Method::DELETE, &format!("/{job}"), None).await {
            tracing::debug!(job, %error, "a crawl is not cancelled");
        }
    }

    fn begun(&self, answer: Value) -> Result<String, CrawlError> {
        let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
        id.ok_or_else(|| CrawlError::Unavailable("its answer has no id".to_owned()))
    }

    /// Asks as often as it takes.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CrawlError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.once(method.clone(), path, body).await {
                Err(Failed(CrawlError::Unavailable(why), wait)) => {
                    tracing::debug!(path, why, "Firecrawl is asked again");
                    tokio::time::sleep(wait.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => return other.map_err(|Failed(error, _)| error),
            }
        }
        self.once(method, path, body).await.map_err(|Failed(error, _)| error)
    }

    /// The answer, or why there is none and when to ask again.
    async fn once(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failed> {
        let away = |why: String| Failed(CrawlError::Unavailable(why), None);
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("weir"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(self.key.clone().map(|key| (header::AUTHORIZATION, key)));
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let body = OutBody::whole(bytes);
        let outgoing = Outgoing { method, path: path.into(), headers, body, upgrade: false };
        let answer = self.upstreams.send(&self.upstream, outgoing).await;
        let answer = answer.map_err(|failure| away(failure.to_string()))?;
        let status = answer.status().as_u16();
        let asked = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|after| after.to_str().ok()?.trim().parse().ok().map(Duration::from_secs));
        let read = Limited::new(answer.into_body(), LONGEST_ANSWER).collect();
        let body = match tokio::time::timeout(ANSWER, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let message = format!("its answer has more than {LONGEST_ANSWER} bytes");
                return Err(Failed(CrawlError::Refused { status, message }, None));
            }
            Ok(Err(_)) => return Err(away("its answer ended early".to_owned())),
            Err(_) => return Err(away("its answer did not come to its end".to_owned())),
        };
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let succeeded = json.get("success") != Some(&Value::Bool(false));
        if (200..300).contains(&status) && succeeded && !json.is_null() {
            return Ok(json);
        }
        let message = said(&json, status);
        if matches!(status, 408 | 429 | 500 | 502..=504) {
            let wait = asked.or_else(|| seconds_in(&message));
            return Err(Failed(CrawlError::Unavailable(message), wait));
        }
        Err(Failed(CrawlError::Refused { status, message }, None))
    }
}

/// An error, and when to ask again where the answer says so.
struct Failed(CrawlError, Option<Duration>);

/// Markdown of what is there now: by default Firecrawl answers with what it has kept.
fn scrape_options() -> Value {
    json!({ "formats": ["markdown"], "maxAge": 0 })
}

/// The path below `/v2` of a URL of the next page. Its host may be another one, which must not see
/// the key.
fn path_of(next: &str) -> Option<String> {
    let uri: Uri = next.parse().ok()?;
    let path = uri.path_and_query()?.as_str();
    let (_, below) = path.split_once("/v2/")?;
    Some(format!("/{below}"))
}

fn said(answer: &Value, status: u16) -> String {
    let error = answer.get("error").and_then(Value::as_str);
    let mut said = error.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    for detail in answer.get("details").and_then(Value::as_array).into_iter().flatten() {
        let message = detail.get("message").and_then(Value::as_str).unwrap_or_default();
        let place = detail.pointer("/path/0").and_then(Value::as_str).unwrap_or_default();
        said.push_str(&format!("; {place} {message}"));
    }
    said.chars().take(500).collect()
}

/// `retry after 23s`, which some messages say.
fn seconds_in(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("retry after ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_looked_for_on_the_same_server() {
        let next = "https://elsewhere.example/v2/crawl/abc?skip=100";
        assert_eq!(path_of(next).as_deref(), Some("/crawl/abc?skip=100"));
        assert_eq!(path_of("https://elsewhere.example/other"), None);
    }

    #[test]
    fn what_firecrawl_says_is_told_with_the_field() {
        let answer = json!({ "success": false, "error": "Bad Request",
            "details": [{ "message": "Invalid URL", "path": ["url"] }] });
        assert_eq!(said(&answer, 400), "Bad Request; url Invalid URL");
        assert_eq!(said(&Value::Null, 502), "HTTP status 502");
        assert_eq!(
            seconds_in("Rate limit, retry after 23s, resets"),
            Some(Duration::from_secs(23))
        );
    }
}
