//! What people think of an answer: a verdict on an interaction, an answer or a session.

use std::borrow::Cow;

use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::redact;
use crate::redact::Kinds;
use crate::redact::Placeholders;

use super::ledger::BadParameter;

/// The only field of a spooled verdict; what else is in the spool are interactions.
pub(super) const FEEDBACK: &str = "feedback";
/// Characters of a target and of a name.
const LONGEST_TARGET: usize = 256;
const LONGEST_NAME: usize = 64;

/// One verdict. The last one of a name counts; those before it are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its own id.
    pub id: Uuid,
    /// When it was given, in milliseconds since 1970.
    pub created_at: u64,
    /// What it is about: an `x-weir-id`, the answer's own id, or a session.
    pub target: String,
    /// What is judged, such as `thumbs`.
    pub name: String,
    /// A bool, a number, a text, or `{"demonstration": message}`: what should have been said.
    pub value: Value,
    /// The name of the key that gave it.
    pub key_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    id: String,
    name: String,
    value: Value,
}

impl Verdict {
    /// Reads the body of `POST /api/feedback`, sent by this key. The same idempotency key gives the
    /// same verdict.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn parse(body: &[u8], key: &str, idempotency: Option<&str>) -> Result<Self, BadParameter> {
        let given: Given = serde_json::from_slice(body).map_err(|error| {
            let how = r#"write {"id": "…", "name": "thumbs", "value": true}"#;
            wrong("body", format!("{error}; {how}"))
        })?;
        length("id", &given.id, LONGEST_TARGET)?;
        length("name", &given.name, LONGEST_NAME)?;
        check(&given.value)?;
        let now = Uuid::now_v7();
        let (seconds, nanos) = now.get_timestamp().map_or((0, 0), |time| time.to_unix());
        Ok(Self {
            id: idempotency.map_or(now, |given| same_id(key, given.as_bytes())),
            created_at: seconds * 1000 + u64::from(nanos / 1_000_000),
            target: given.id,
            name: given.name,
            value: given.value,
            key_name: key.to_owned(),
        })
    }
}

impl Verdict {
    /// Replaces what somebody wrote and must not be kept.
    pub(super) fn redact(&mut self, kinds: Kinds) {
        let value = self.value.to_string();
        // Whoever reads it sees that something was there, not which value it was.
        let mut placeholders = Placeholders::new(*self.id.as_bytes());
        let redacted = redact::json(kinds, &mut placeholders, value.as_bytes());
        if let Cow::Owned(redacted) = redacted
            && let Ok(value) = serde_json::from_slice(&redacted)
        {
            self.value = value;
        }
    }

    /// The verdict as the API shows it.
    pub fn to_json(&self) -> Value {
        let millis = i64::try_from(self.created_at).unwrap_or(i64::MAX);
        let created_at = DateTime::from_timestamp_millis(millis)
            .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
        json!({
            "object": "feedback",
            "id": self.id.to_string(),
            "created_at": created_at,
            "target": self.target,
            "name": self.name,
            "value": self.value,
            "key_name": self.key_name,
        })
    }
}

/// A verdict from the spool; `None` when it is something else.
pub(super) fn spooled(record: &[u8]) -> Option<Verdict> {
    #[derive(Deserialize)]
    struct Spooled {
        feedback: Verdict,
    }
    let is_one = record.starts_with(br#"{"feedback":"#);
    is_one.then(|| serde_json::from_slice::<Spooled>(record).ok())?.map(|spooled| spooled.feedback)
}

fn same_id(key: &str, idempotency: &[u8]) -> Uuid {
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        &[key.as_bytes(), b"\0feedback\0", idempotency].concat(),
    );
    let mut id = [0; 16];
    id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    uuid::Builder::from_custom_bytes(id).into_uuid()
}

fn length(name: &str, text: &str, most: usize) -> Result<(), BadParameter> {
    let count = text.chars().count();
    if count == 0 || count > most || text.contains('\0') {
        return Err(wrong(name, format!("must have 1 to {most} characters")));
    }
    Ok(())
}

fn check(value: &Value) -> Result<(), BadParameter> {
    let message = match value {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => return Ok(()),
        Value::Object(map) if map.len() == 1 => map.get("demonstration"),
        _ => None,
    };
    let is_message = |message: &Value| message.get("role").is_some_and(|role| role == "assistant");
    if message.is_some_and(is_message) {
        return Ok(());
    }
    let how = r#"must be true or false, a number, a text, or {"demonstration": {"role": "assistant", "content": "…"}}"#;
    Err(wrong("value", how.to_owned()))
}

fn wrong(name: &str, message: String) -> BadParameter {
    BadParameter { name: name.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Verdict, String> {
        Verdict::parse(body.as_bytes(), "passthrough", None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_verdict_is_a_bool_a_number_a_text_or_a_demonstration() {
        for value in [
            "true",
            "0.5",
            r#""too long""#,
            r#"{"demonstration":{"content":"42","role":"assistant"}}"#,
        ] {
            let body = format!(r#"{{"id":"chatcmpl-1","name":"n","value":{value}}}"#);
            assert_eq!(parse(&body).unwrap().value.to_string(), value);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, part) in [
            ("", "`body`: EOF"),
            (r#"{"id":"x","value":true}"#, "missing field `name`"),
            (r#"{"id":"x","name":"n","value":true,"colour":1}"#, "unknown field `colour`"),
            (r#"{"id":"","name":"n","value":true}"#, "`id`: must have 1 to 256 characters"),
            (r#"{"id":"x","name":"","value":true}"#, "`name`: must have 1 to 64"),
            (r#"{"id":"x","name":"n","value":null}"#, "`value`: must be true or false"),
            (r#"{"id":"x","name":"n","value":[1]}"#, "`value`: must be"),
            (r#"{"id":"x","name":"n","value":{"demonstration":"42"}}"#, "`value`: must be"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(part), "{body}: {error}");
        }
    }

    #[test]
    fn an_idempotency_key_gives_the_same_id_for_the_same_caller() {
        let body = br#"{"id":"x","name":"n","value":true}"#;
        let id = |key, idempotency: &str| Verdict::parse(body, key, Some(idempotency)).unwrap().id;
        assert_eq!(id("a", "1"), id("a", "1"));
        assert_ne!(id("a", "1"), id("a", "2"));
        assert_ne!(id("a", "1"), id("b", "1"));
    }
}
