//! What a virtual key is called, whom it belongs to, and what it may: as it is asked for, and as it
//! is in force.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::store::ledger::BadParameter;
use crate::store::period;

/// Characters of a name, a team, a tag; of a model's pattern.
const LONGEST: usize = 64;
const LONGEST_PATTERN: usize = 128;
const MOST_TAGS: usize = 16;
const MOST_MODELS: usize = 64;
/// Names of callers that have no virtual key, and what such names begin with.
const TAKEN: [&str; 3] = ["admin", "none", "passthrough"];
const TAKEN_PREFIXES: [&str; 2] = ["fp_", super::secret::PREFIX];

/// What may become of what is said with a key. A request can only lower it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// Nothing is kept but the bill.
    None,
    /// It is kept, and never becomes training data.
    Log,
    /// It is kept and may become training data.
    #[default]
    Train,
}

/// How much a key's requests matter where they do not say so themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// They can wait, or be answered by less.
    Low,
    /// As any other.
    #[default]
    Normal,
    /// They go first.
    High,
}

impl Consent {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Log => "log",
            Self::Train => "train",
        }
    }
}

impl Importance {
    /// The word for it, as rules ask for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// What a key is for, and what it may. Stays the same when its secret is renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its name: what metrics, the ledger and rules call it.
    pub name: String,
    /// Its team; empty for none.
    #[serde(default)]
    pub team: String,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Patterns of the models that it may use, such as `gpt-*`; any model where there are none.
    #[serde(default)]
    pub models: Vec<String>,
    /// What may become of what is said with it.
    #[serde(default)]
    pub consent: Consent,
    /// How much its requests matter where they do not say so.
    #[serde(default)]
    pub importance: Importance,
}

impl Grant {
    /// Whether it may use this model.
    pub fn allows(&self, model: &str) -> bool {
        !self.is_restricted() || self.models.iter().any(|pattern| matches(pattern, model))
    }

    /// Whether there are models that it may not use.
    pub fn is_restricted(&self) -> bool {
        !self.models.is_empty()
    }

    fn check(&self) -> Result<(), BadParameter> {
        let is_taken = |prefix: &&str| self.name.starts_with(*prefix);
        let name = self.name.as_str();
        if TAKEN.contains(&name) || TAKEN_PREFIXES.iter().any(is_taken) {
            let message = format!("`{name}` means callers without a virtual key; choose another");
            return Err(wrong("name", message));
        }
        if Uuid::try_parse(name).is_ok() {
            return Err(wrong("name", "looks like a key's id; choose another".to_owned()));
        }
        plain("name", name, LONGEST)?;
        if !self.team.is_empty() {
            plain("team", &self.team, LONGEST)?;
        }
        few("tags", &self.tags, MOST_TAGS, LONGEST)?;
        few("models", &self.models, MOST_MODELS, LONGEST_PATTERN)
    }
}

/// A key that is to be made: the body of `POST /api/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Its name.
    pub name: String,
    /// Its team.
    #[serde(default)]
    pub team: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Patterns of the models that it may use.
    #[serde(default)]
    pub models: Vec<String>,
    /// What may become of what is said with it.
    #[serde(default)]
    pub consent: Consent,
    /// How much its requests matter where they do not say so.
    #[serde(default)]
    pub importance: Importance,
    /// When it ends: a duration such as `90d`, or a time of RFC 3339; never when left out.
    #[serde(default, alias = "expires_at")]
    pub expires: Option<String>,
}

impl NewKey {
    /// Reads the body of `POST /api/keys`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, BadParameter> {
        serde_json::from_slice(body).map_err(|error| {
            let how = r#"write {"name": "app", "team": "support", "models": ["gpt-*"], "expires": "90d"}"#;
            wrong("body", format!("{error}; {how}"))
        })
    }

    /// The grant, and when it ends in milliseconds since 1970.
    pub(super) fn checked(&self, now: i64) -> Result<(Grant, Option<i64>), BadParameter> {
        let Self { name, team, tags, models, consent, importance, expires } = self.clone();
        let team = team.unwrap_or_default();
        let mut grant = Grant { name, team, tags, models, consent, importance };
        for list in [&mut grant.tags, &mut grant.models] {
            list.sort();
            list.dedup();
        }
        grant.check()?;
        Ok((grant, expires.map(|expires| end("expires", &expires, now)).transpose()?))
    }
}

/// A point in time to come.
pub(super) fn end(name: &str, text: &str, now: i64) -> Result<i64, BadParameter> {
    let how = "write a duration such as 90d or 12h, or a time such as 2027-01-31T00:00:00Z";
    let time = period::ahead(text.trim(), now);
    let time = time.ok_or_else(|| wrong(name, format!("`{text}` is no time; {how}")))?;
    if time <= now {
        return Err(wrong(name, format!("`{text}` is over already; {how}")));
    }
    Ok(time)
}

/// Reads the grace of a rotation: for how long the old secret stays valid, such as `24h`; `0` for
/// none at all.
///
/// # Errors
/// A text that is no duration, or one of more than a year.
pub fn grace(text: &str) -> Result<Duration, BadParameter> {
    const LONGEST_GRACE: i64 = 366 * 86_400_000;
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let millis = period::duration(text.trim()).filter(|millis| *millis <= LONGEST_GRACE);
    let millis = millis.and_then(|millis| u64::try_from(millis).ok());
    let how = "write a duration of at most 366d such as 24h, or 0";
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| wrong("grace", format!("`{text}` cannot be used; {how}")))
}

fn plain(name: &str, text: &str, most: usize) -> Result<(), BadParameter> {
    let count = text.chars().count();
    // A comma separates them on the command line and in `group_by`.
    let odd = |c: char| c.is_control() || c == ',';
    if count == 0 || count > most || text.trim() != text || text.contains(odd) {
        let message = format!(
            "must have 1 to {most} characters, without commas, control characters, and blanks at \
             its ends"
        );
        return Err(wrong(name, message));
    }
    Ok(())
}

fn few(name: &str, texts: &[String], most: usize, longest: usize) -> Result<(), BadParameter> {
    if texts.len() > most {
        return Err(wrong(name, format!("has {} entries; {most} are the most", texts.len())));
    }
    texts.iter().try_for_each(|text| plain(name, text, longest))
}

fn wrong(name: &str, message: String) -> BadParameter {
    BadParameter { name: name.to_owned(), message }
}

/// Whether a text is of a pattern's form: `*` stands for any letters, `?` for one.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // After the last `*`, and the letter up to which it reaches.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&letter) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(&wanted) if wanted == b'?' || wanted == letter => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, reach)) = star else { return false };
                star = Some((after, reach + 1));
                (p, t) = (after, reach + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_names_of_its_form() {
        for (pattern, model, expected) in [
            ("gpt-*", "gpt-5", true),
            ("gpt-*", "o3", false),
            ("gpt-*", "xgpt-5", false),
            ("*", "", true),
            ("*-mini", "gpt-4.1-mini", true),
            ("*-mini", "gpt-4.1-mini-2025", false),
            ("ft:*:acme:*", "ft:gpt-4.1-mini:acme:support:abc", true),
            ("gpt-?", "gpt-5", true),
            ("gpt-?", "gpt-55", false),
            ("gpt-5", "gpt-5", true),
            ("GPT-5", "gpt-5", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("", "gpt-5", false),
        ] {
            assert_eq!(matches(pattern, model), expected, "{pattern} {model}");
        }
        assert!(Grant::default().allows("anything"));
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        assert!(!matches(&("*a".repeat(60) + "b"), &"a".repeat(5000)));
    }

    #[test]
    fn what_is_wrong_with_a_new_key_is_named_with_the_cure() {
        let now = 1_795_392_000_000;
        for (body, part) in [
            ("{}", "missing field `name`"),
            (r#"{"name":"a","colour":"red"}"#, "unknown field `colour`"),
            (r#"{"name":""}"#, "`name`: must have 1 to 64"),
            (r#"{"name":" a"}"#, "`name`: must have"),
            (r#"{"name":"passthrough"}"#, "without a virtual key"),
            (r#"{"name":"fp_1"}"#, "without a virtual key"),
            (r#"{"name":"018f0000-0000-7000-8000-000000000000"}"#, "a key's id"),
            (r#"{"name":"a","team":"x,y"}"#, "`team`: must have"),
            (r#"{"name":"a","tags":[""]}"#, "`tags`: must have"),
            (r#"{"name":"a","consent":"full"}"#, "unknown variant `full`"),
            (r#"{"name":"a","importance":"urgent"}"#, "unknown variant `urgent`"),
            (r#"{"name":"a","expires":"soon"}"#, "`expires`: `soon` is no time"),
            (r#"{"name":"a","expires":"0d"}"#, "over already"),
            (r#"{"name":"a","expires":"2020-01-01"}"#, "over already"),
        ] {
            let error = NewKey::parse(body.as_bytes()).and_then(|new| new.checked(now).map(drop));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(part), "{body}: {error}");
        }
        let body = r#"{"name":"app","team":null,"tags":["b","a","b"],"expires":"90d"}"#;
        let (grant, end) = NewKey::parse(body.as_bytes()).unwrap().checked(now).unwrap();
        assert_eq!((grant.team.as_str(), &grant.tags[..]), ("", &["a", "b"].map(String::from)[..]));
        // 90 x 86,400,000 ms
        assert_eq!(end, Some(now + 7_776_000_000));
        assert_eq!((grant.consent, grant.importance), (Consent::Train, Importance::Normal));
    }

    #[test]
    fn a_grace_is_a_duration() {
        assert_eq!(grace("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(grace("0").unwrap(), Duration::ZERO);
        for text in ["", "-1h", "367d", "2026-11-23", "soon"] {
            assert!(grace(text).is_err(), "{text}");
        }
    }
}
