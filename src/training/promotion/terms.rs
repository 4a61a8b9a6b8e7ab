//! The terms of a promotion, as they are asked for.

use serde::Deserialize;

use crate::openai::error::ApiError;

/// Shares that follow when nobody says which: about twice or three times as much each time.
const STEPS: [f64; 5] = [5.0, 10.0, 25.0, 50.0, 100.0];
const STEP_MINUTES: f64 = 30.0;
const LEAST_CALLS: u64 = 200;
const LONGEST_NAME: usize = 128;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The name that clients ask for as `model`.
    pub alias: String,
    /// The first share, in percent; 100 takes over at once.
    pub percent: f64,
    /// The shares that follow, growing, up to 100 where it ends by itself.
    pub steps: Vec<f64>,
    /// How long a step takes at least, in milliseconds.
    pub step_ms: i64,
    /// How many calls it takes at least.
    pub least_calls: u64,
    /// What answers the other calls where the alias is new; the job's base when left out.
    pub base: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    alias: String,
    #[serde(default)]
    percent: Option<f64>,
    #[serde(default)]
    steps: Option<Vec<f64>>,
    #[serde(default)]
    step_minutes: Option<f64>,
    #[serde(default)]
    min_calls: Option<u64>,
    #[serde(default)]
    base: Option<String>,
}

impl Terms {
    /// Reads the body of `POST /api/fine-tune/{id}/promote`.
    ///
    /// # Errors
    /// What cannot be used, with its place.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let how = r#"write {"alias": "support-bot", "percent": 5}"#;
        let body: Body = serde_json::from_slice(body)
            .map_err(|error| bad("body", &format!("{error}; {how}")))?;
        let percent = body.percent.unwrap_or(STEPS[0]);
        if !(percent > 0.0 && percent <= 100.0) {
            return Err(bad("percent", "it has to be above 0 and at most 100"));
        }
        let minutes = body.step_minutes.unwrap_or(STEP_MINUTES);
        if !(0.0..=100_000.0).contains(&minutes) {
            return Err(bad("step_minutes", "it has to be between 0 and 100000"));
        }
        let given = body.steps.unwrap_or_else(|| STEPS.to_vec());
        if !given.iter().all(|step| *step > 0.0 && *step <= 100.0) {
            return Err(bad("steps", "each has to be above 0 and at most 100"));
        }
        if !given.is_sorted() {
            return Err(bad("steps", "they have to grow, as in [10, 50, 100]"));
        }
        Ok(Self {
            alias: name("alias", body.alias)?,
            percent,
            steps: given.into_iter().filter(|step| *step > percent).collect(),
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked above")]
            step_ms: (minutes * 60_000.0) as i64,
            least_calls: body.min_calls.unwrap_or(LEAST_CALLS),
            base: body.base.map(|base| name("base", base)).transpose()?,
        })
    }
}

/// A name of a model: it goes into headers and labels.
fn name(field: &str, text: String) -> Result<String, ApiError> {
    let fits = (1..=LONGEST_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if fits {
        return Ok(text);
    }
    Err(bad(field, "it has to be 1 to 128 printable ASCII characters without blanks and quotes"))
}

fn bad(field: &str, message: &str) -> ApiError {
    ApiError::bad_request("invalid_parameter", format!("`{field}`: {message}."))
        .param(field.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_enough() {
        let terms = Terms::parse(br#"{"alias":"support-bot"}"#).unwrap();
        assert_eq!((terms.percent, terms.steps), (5.0, vec![10.0, 25.0, 50.0, 100.0]));
        assert_eq!((terms.step_ms, terms.least_calls), (1_800_000, 200));
        let terms = Terms::parse(br#"{"alias":"a","percent":30,"step_minutes":0.5}"#).unwrap();
        assert_eq!((terms.steps, terms.step_ms), (vec![50.0, 100.0], 30_000));
        // Without further steps somebody decides by hand.
        let terms = Terms::parse(br#"{"alias":"a","percent":30,"steps":[]}"#).unwrap();
        assert!(terms.steps.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, part) in [
            ("{}", "missing field `alias`"),
            (r#"{"alias":"a","share":5}"#, "unknown field `share`"),
            (r#"{"alias":""}"#, "`alias`: it has to be 1 to 128"),
            (r#"{"alias":"a b"}"#, "`alias`: it has to be"),
            (r#"{"alias":"a","percent":0}"#, "`percent`: it has to be above 0"),
            (r#"{"alias":"a","percent":101}"#, "`percent`"),
            (r#"{"alias":"a","steps":[50,10]}"#, "they have to grow"),
            (r#"{"alias":"a","steps":[500]}"#, "`steps`: each"),
            (r#"{"alias":"a","step_minutes":-1}"#, "`step_minutes`"),
        ] {
            let error = Terms::parse(body.as_bytes()).unwrap_err();
            assert!(error.message.contains(part), "{body}: {}", error.message);
        }
    }
}
