//! The models that a virtual key is for, on paths whose requests are not routed: which model such a
//! request wants is read as far as that can be told without doubt, and else it is refused.

use http::Method;
use http::Uri;
use http::request::Parts;
use serde::Deserialize;

use crate::openai::error::ApiError;

use super::auth::Client;
use super::error;

/// What is kept and looked at below these runs no model.
const WITHOUT_MODELS: [&str; 4] =
    ["/v1/files", "/v1/uploads", "/v1/vector_stores", "/v1/conversations"];
const MODEL: &[u8] = b"model";

/// Whether the body has to be read for the model that it names.
pub(super) fn is_read(client: &Client, head: &Parts) -> bool {
    client.restricted().is_some() && may_run_model(&head.method, head.uri.path())
}

/// Refuses a whole request for a model that the client's key is not for.
pub(super) fn check(client: &Client, head: &Parts, body: &[u8]) -> Result<(), ApiError> {
    let Some(grant) = client.restricted().filter(|_| is_read(client, head)) else { return Ok(()) };
    let model = model_of(body).ok_or_else(|| error::model_not_told(head.uri.path()))?;
    if grant.allows(&model) { Ok(()) } else { Err(error::model_not_allowed(&model)) }
}

/// The same for a WebSocket, whose model is in the query.
pub(super) fn check_query(client: &Client, uri: &Uri) -> Result<(), ApiError> {
    let Some(grant) = client.restricted() else { return Ok(()) };
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut models = pairs.filter(|(name, _)| name == "model").map(|(_, model)| model).peekable();
    if models.peek().is_none() {
        return Err(error::model_not_told(uri.path()));
    }
    match models.find(|model| !grant.allows(model)) {
        Some(model) => Err(error::model_not_allowed(&model)),
        None => Ok(()),
    }
}

fn may_run_model(method: &Method, path: &str) -> bool {
    let is_below = |folder: &&str| {
        path.strip_prefix(*folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    !(reads || path.ends_with("/cancel") || WITHOUT_MODELS.iter().any(is_below))
}

/// `model` of a JSON object, or of a form; `None` where others could read another one.
fn model_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        model: String,
    }
    if body.trim_ascii_start().starts_with(b"{") {
        // A key that is there twice is an error.
        return serde_json::from_slice::<Named>(body).ok().map(|named| named.model);
    }
    let mut found = None;
    for at in memchr::memmem::find_iter(body, MODEL) {
        let (before, rest) = body.split_at(at);
        let after = rest.get(MODEL.len()..)?;
        let is_name = before.ends_with(b"\"") || before.ends_with(b"=");
        let ends = after.first().is_none_or(|byte| b"\";\r\n ".contains(byte));
        if !(is_name && ends) {
            continue;
        }
        // Anything but the usual way to write it, once, may be read in several ways.
        let value = after.strip_prefix(b"\"\r\n\r\n").filter(|_| before.ends_with(b"; name=\""))?;
        let value = value.split(|&byte| byte == b'\r').next()?;
        if found.replace(String::from_utf8_lossy(value).into_owned()).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_read_where_there_is_no_doubt() {
        let part = |name: &str, value: &str| {
            format!("--b\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n")
        };
        let model = |body: &str| model_of(body.as_bytes());
        let usual = part(r#"name="model""#, "whisper-1");
        assert_eq!(model(&usual).as_deref(), Some("whisper-1"));
        let file = part(r#"name="file"; filename="model.wav""#, "model\u{0}models \"modelled\"");
        assert_eq!(model(&(file.clone() + &usual)).as_deref(), Some("whisper-1"));
        assert_eq!(model(r#" {"model":"dall-e-3","prompt":"a"}"#).as_deref(), Some("dall-e-3"));
        for doubtful in [
            usual.clone() + &part(r#"name="model""#, "gpt-5"),
            usual.clone() + &part("name=model", "gpt-5"),
            usual.clone() + &part(r#"name="model"; x=y"#, "gpt-5"),
            usual.clone() + "Content-Type: text/plain; name=\"model\"\r\nX: y\r\n\r\n",
            r#"{"model":"a","model":"b"}"#.to_owned(),
            r#"{"model":1}"#.to_owned(),
            r#"{"input":"x"}"#.to_owned(),
            file,
            String::new(),
        ] {
            assert_eq!(model(&doubtful), None, "{doubtful}");
        }
    }

    #[test]
    fn only_requests_that_may_run_a_model_are_looked_at() {
        for (method, path, expected) in [
            (Method::GET, "/v1/models", false),
            (Method::POST, "/v1/files", false),
            (Method::POST, "/v1/files/file-1", false),
            (Method::POST, "/v1/filesystem", true),
            (Method::POST, "/v1/batches", true),
            (Method::POST, "/v1/batches/b/cancel", false),
            (Method::POST, "/v1/images/generations", true),
            (Method::PUT, "/v1/new", true),
        ] {
            assert_eq!(may_run_model(&method, path), expected, "{method} {path}");
        }
    }
}
