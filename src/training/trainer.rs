//! The way to a trainer: files and fine-tune jobs over OpenAI's wire format.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Uri;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Limited;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde_json::Value;
use thiserror::Error;

use crate::policy::Timeouts;
use crate::policy::Upstream;
use crate::upstream::Failure;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;

use super::provider::Profile;

const CONNECT: Duration = Duration::from_secs(5);
/// From a request's last byte to its answer: an upload is written down before.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 16 << 20;
/// Pages that are looked through for a job whose answer was lost.
const MOST_PAGES: usize = 20;

/// Where jobs are trained, and on what terms.
#[derive(Clone, Debug)]
pub struct Place {
    /// The profile's name.
    pub name: String,
    /// What is known of such trainers.
    pub profile: &'static Profile,
    /// Its API.
    pub base_url: String,
    /// Whether there is a key, or none is needed.
    pub has_key: bool,
    /// Signs the trainer's webhooks; empty for none.
    pub webhook_secret: SecretString,
}

/// A trainer that can be asked.
pub struct Trainer {
    /// Where it is.
    pub place: Place,
    upstreams: Arc<Upstreams>,
    upstream: Upstream,
    key: Option<(HeaderName, HeaderValue)>,
}

/// Why a trainer did not do what it was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TrainerError {
    /// It was not asked, or has too much to do: nothing has happened there.
    #[error("{0}")]
    Unsent(String),
    /// Whether it was done is not known.
    #[error("{0}")]
    Unknown(String),
    /// It does not know of this.
    #[error("the trainer answered 404: {0}")]
    Missing(String),
    /// It refuses, and will again.
    #[error("the trainer refuses ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The provider's code; empty for none.
        code: String,
        /// The provider's sentence.
        message: String,
        /// The field that is wrong; empty for none.
        param: String,
    },
}

impl Trainer {
    /// A trainer at a place, asked over these connections.
    ///
    /// # Errors
    /// A sentence that says what of the settings cannot be used.
    pub fn new(
        place: Place,
        key: &SecretString,
        upstreams: Arc<Upstreams>,
    ) -> Result<Self, String> {
        let wrong = |what: &str| format!("`trainer.{what}` cannot be used");
        let base_url: Uri = place.base_url.parse().map_err(|_| wrong("base_url"))?;
        if base_url.scheme().is_none() || base_url.host().is_none() {
            return Err(format!("{}; write it as https://host/v1", wrong("base_url")));
        }
        let name: HeaderName = place.profile.key_header.parse().map_err(|_| wrong("profile"))?;
        let key = key.expose_secret().trim();
        let text =
            if name == header::AUTHORIZATION { format!("Bearer {key}") } else { key.to_owned() };
        let mut value = HeaderValue::from_str(&text).map_err(|_| wrong("api_key"))?;
        value.set_sensitive(true);
        let upstream = Upstream {
            name: "the trainer".to_owned(),
            identity: format!("trainer {base_url}").into(),
            base_url,
            authorization: None,
            ca_file: None,
            timeouts: Timeouts { connect: CONNECT, first_byte: ANSWER, idle: ANSWER },
            max_in_flight: 16,
        };
        let key = (!key.is_empty()).then_some((name, value));
        Ok(Self { place, upstreams, upstream, key })
    }

    /// Makes a job.
    ///
    /// # Errors
    /// [`TrainerError::Unknown`] means that it may have been made.
    pub async fn create(&self, job: &Value) -> Result<Value, TrainerError> {
        self.ask(Method::POST, "/fine_tuning/jobs", Some(job)).await
    }

    /// The job that carries this metadata, or trains on this file, which nobody else has.
    ///
    /// # Errors
    /// The jobs cannot be listed now: then nothing is known.
    pub async fn look_for(
        &self,
        gateway_job_id: &str,
        training_file: &str,
    ) -> Result<Option<Value>, TrainerError> {
        let is_it = |job: &Value| {
            let metadata = job.pointer("/metadata/gateway_job_id").and_then(Value::as_str);
            let trains_on = job.get("training_file").and_then(Value::as_str);
            metadata == Some(gateway_job_id)
                || (!training_file.is_empty() && trains_on == Some(training_file))
        };
        // Trainers that do not know the filter answer with all of their jobs.
        let filter = format!("metadata%5Bgateway_job_id%5D={gateway_job_id}");
        for query in [filter.as_str(), ""] {
            let found = self.find("/fine_tuning/jobs", query, is_it).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A file of that name, which an upload left whose answer was lost.
    ///
    /// # Errors
    /// The files cannot be listed now.
    pub async fn file_named(&self, name: &str) -> Result<Option<String>, TrainerError> {
        let is_it = |file: &Value| file.get("filename").and_then(Value::as_str) == Some(name);
        let found = self.find("/files", "purpose=fine-tune", is_it).await?;
        Ok(found.and_then(|file| Some(file.get("id")?.as_str()?.to_owned())))
    }

    async fn find(
        &self,
        path: &str,
        query: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, TrainerError> {
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let page =
                self.ask(Method::GET, &format!("{path}?limit=100&{query}{after}"), None).await?;
            let data = page.get("data").and_then(Value::as_array);
            let data = data.ok_or_else(|| TrainerError::Unknown(format!("{path}: no list")))?;
            if let Some(found) = data.iter().find(|one| is_it(one)) {
                return Ok(Some(found.clone()));
            }
            let last = data.last().and_then(|last| last.get("id")?.as_str());
            match last.filter(|_| page.get("has_more") == Some(&Value::Bool(true))) {
                Some(last) => after = format!("&after={}", encoded(last)),
                None => break,
            }
        }
        Ok(None)
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// It is not told.
    pub async fn job(&self, id: &str) -> Result<Value, TrainerError> {
        self.ask(Method::GET, &format!("/fine_tuning/jobs/{}", encoded(id)), None).await
    }

    /// Asks to cancel, pause or resume a job; answers with it.
    ///
    /// # Errors
    /// It is not done, or not told.
    pub async fn change(&self, id: &str, action: &str) -> Result<Value, TrainerError> {
        let path = format!("/fine_tuning/jobs/{}/{action}", encoded(id));
        self.ask(Method::POST, &path, None).await
    }

    /// A page of `events` or `checkpoints`, the newest first.
    ///
    /// # Errors
    /// They are not told.
    pub async fn story(
        &self,
        id: &str,
        kind: &str,
        after: Option<&str>,
    ) -> Result<Value, TrainerError> {
        let after = after.map_or_else(String::new, |id| format!("&after={}", encoded(id)));
        let path = format!("/fine_tuning/jobs/{}/{kind}?limit=100{after}", encoded(id));
        self.ask(Method::GET, &path, None).await
    }

    /// Deletes a file; one that is gone already is fine.
    ///
    /// # Errors
    /// It is not deleted.
    pub async fn delete_file(&self, id: &str) -> Result<(), TrainerError> {
        match self.ask(Method::DELETE, &format!("/files/{}", encoded(id)), None).await {
            Ok(_) | Err(TrainerError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends JSON, or nothing, and reads JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, TrainerError> {
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        self.send(method, path, "application/json", OutBody::whole(bytes)).await
    }

    /// What a file holds. Some providers wrap result files in base64: they are unwrapped.
    ///
    /// # Errors
    /// It is not told.
    pub async fn content(&self, id: &str) -> Result<Vec<u8>, TrainerError> {
        let path = format!("/files/{}/content", encoded(id));
        let (status, body) =
            self.fetch(Method::GET, &path, "", OutBody::whole(Bytes::new())).await?;
        if !(200..300).contains(&status) {
            return Err(refusal(status, &serde_json::from_slice(&body).unwrap_or_default()));
        }
        let wrapped = STANDARD.decode(body.trim_ascii()).ok();
        Ok(wrapped
            .filter(|text| !text.is_empty() && text.is_ascii())
            .unwrap_or_else(|| body.to_vec()))
    }

    /// Sends a body of any kind and reads JSON.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: OutBody,
    ) -> Result<Value, TrainerError> {
        let (status, body) = self.fetch(method, path, content_type, body).await?;
        let json = serde_json::from_slice::<Value>(&body);
        if (200..300).contains(&status) {
            return json.map_err(|_| unread("is no JSON"));
        }
        Err(refusal(status, &json.unwrap_or_default()))
    }

    /// Sends a body of any kind; the answer's status and body.
    async fn fetch(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: OutBody,
    ) -> Result<(u16, Bytes), TrainerError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("weir"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Ok(content_type) = HeaderValue::from_str(content_type)
            && !content_type.is_empty()
        {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        if let Some((name, value)) = &self.key {
            headers.insert(name.clone(), value.clone());
        }
        let outgoing = Outgoing { method, path: path.into(), headers, body, upgrade: false };
        let answer = self.upstreams.send(&self.upstream, outgoing).await.map_err(lost)?;
        let status = answer.status().as_u16();
        let read = Limited::new(answer.into_body(), LONGEST_ANSWER).collect();
        match tokio::time::timeout(ANSWER, read).await {
            Ok(Ok(body)) => Ok((status, body.to_bytes())),
            Ok(Err(_)) => Err(unread("ended early")),
            Err(_) => Err(unread("did not come to its end")),
        }
    }
}

fn unread(why: &str) -> TrainerError {
    TrainerError::Unknown(format!("the trainer's answer {why}"))
}

fn lost(failure: Failure) -> TrainerError {
    match failure {
        Failure::Connect { .. } | Failure::Full { .. } => TrainerError::Unsent(failure.to_string()),
        _ => TrainerError::Unknown(failure.to_string()),
    }
}

fn refusal(status: u16, body: &Value) -> TrainerError {
    let field = |name: &str| {
        let text = body.pointer(&format!("/error/{name}")).and_then(Value::as_str);
        // A provider may say anything at any length.
        text.unwrap_or_default().chars().take(500).collect::<String>()
    };
    let message = match field("message") {
        none if none.is_empty() => format!("HTTP status {status}"),
        message => message,
    };
    match status {
        404 => TrainerError::Missing(message),
        429 => TrainerError::Unsent(format!("the trainer answered 429: {message}")),
        408 | 500.. => TrainerError::Unknown(format!("the trainer answered {status}: {message}")),
        _ => TrainerError::Refused { status, code: field("code"), message, param: field("param") },
    }
}

/// An id in a path or a query: providers' ids are opaque.
fn encoded(id: &str) -> String {
    form_urlencoded::byte_serialize(id.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_may_have_happened_is_told_from_what_has_not() {
        let body = json!({"error": {"message": "no such model", "param": "model", "code": "x"}});
        assert!(matches!(refusal(500, &body), TrainerError::Unknown(_)));
        assert!(matches!(refusal(429, &body), TrainerError::Unsent(_)));
        assert!(matches!(refusal(404, &Value::Null), TrainerError::Missing(_)));
        let refused = refusal(400, &body).to_string();
        assert_eq!(refused, "the trainer refuses (400): no such model");
    }

    #[test]
    fn an_id_cannot_leave_its_place_in_a_path() {
        assert_eq!(encoded("../files?x=1"), "..%2Ffiles%3Fx%3D1");
        assert_eq!(encoded("ftjob-a_B.1"), "ftjob-a_B.1");
    }
}
