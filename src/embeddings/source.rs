//! What a source is: read from what a user asks for, checked, and shown again.

use std::time::Duration;

use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::openai::error::ApiError;
use crate::store::Source;
use crate::store::SourceRun;
use crate::upstream::outside::Allowed;
use crate::upstream::outside::Outside;

use super::chunk::Chunking;
use super::schedule::Schedule;

/// What is embedded with when nobody says.
const MODEL: &str = "text-embedding-3-small";
/// Pages of a source when nobody says, and the most that anybody gets.
const PAGES: u64 = 1_000;
const MOST_PAGES: u64 = 100_000;
/// Seconds that a run may take when nobody says, and at most.
const DEADLINE: u64 = 6 * 3600;
const LONGEST_DEADLINE: u64 = 7 * 24 * 3600;
const LONGEST_NAME: usize = 64;
const LARGEST_VECTOR: u32 = 16_000;
const MOST_PATTERNS: usize = 100;
/// Longest wait for a name to be resolved.
const LOOK_UP: Duration = Duration::from_secs(6);

/// Where the pages of a source come from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// From a page on, along its links.
    Crawl,
    /// What the site's map names.
    Map,
    /// One page.
    Scrape,
    /// What is uploaded.
    Files,
}

/// A source as a user writes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    name: String,
    kind: Kind,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    schedule: Option<When>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    dimensions: Option<u32>,
    #[serde(default)]
    chunking: Option<Chunking>,
    #[serde(default)]
    deadline_s: Option<u64>,
    #[serde(default)]
    team: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum When {
    Cron(String),
    Zoned(Zoned),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Zoned {
    cron: String,
    #[serde(default)]
    timezone: Option<String>,
}

/// Makes a source of what a user asks for. `now` is in milliseconds since 1970.
///
/// # Errors
/// 400 that names the field.
pub async fn define(asked: &Value, allowed: &Allowed, now: i64) -> Result<Source, ApiError> {
    let definition = parse(asked)?;
    let made = Source { id: Uuid::now_v7(), created_at: now, ..Source::default() };
    into_source(definition, made, allowed, now).await
}

/// The same source with what `patch` changes of it (RFC 7396: null takes away).
///
/// # Errors
/// 400 that names the field.
pub async fn redefine(
    source: &Source,
    patch: &Value,
    allowed: &Allowed,
    now: i64,
) -> Result<Source, ApiError> {
    let Value::Object(patch) = patch else { return Err(wrong("", "the body is no JSON object")) };
    let mut whole = definition(source);
    for (field, value) in patch {
        whole[field] = value.clone();
    }
    let definition = parse(&whole)?;
    if serde_json::to_value(definition.kind).unwrap_or_default() != source.kind.as_str() {
        return Err(wrong("kind", "cannot be changed; delete the source and make another one"));
    }
    into_source(definition, source.clone(), allowed, now).await
}

/// A source as users see it, with its last run.
pub fn show(source: &Source, last_run: Option<&SourceRun>) -> Value {
    let mut shown = definition(source);
    shown["object"] = "embedding.source".into();
    shown["id"] = source.id.to_string().into();
    for (name, time) in
        [("created_at", Some(source.created_at)), ("next_run_at", source.next_run_at)]
    {
        shown[name] = time.map(rfc3339).into();
    }
    shown["last_run"] = last_run.map(show_run).into();
    shown
}

/// A run as users see it.
pub fn show_run(run: &SourceRun) -> Value {
    let mut shown = json!({
        "object": "embedding.run",
        "id": run.id,
        "source_id": run.source_id,
        "trigger": run.trigger_kind,
        "full": run.is_full != 0,
        "state": run.state,
        "attempts": run.attempts,
        "error": run.error,
        "created_at": rfc3339(run.created_at),
        "started_at": run.started_at.map(rfc3339),
        "finished_at": run.finished_at.map(rfc3339),
    });
    // What a run that waits has not counted is 0.
    let counts = serde_json::from_value::<super::tally::Tally>(run.counts.clone());
    shown["counts"] = serde_json::to_value(counts.unwrap_or_default()).unwrap_or_default();
    shown
}

/// A time in milliseconds since 1970.
fn rfc3339(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// What would make this source again.
fn definition(source: &Source) -> Value {
    let schedule = source.schedule.as_ref().map(|cron| match &source.timezone {
        Some(timezone) => json!({ "cron": cron, "timezone": timezone }),
        None => json!(cron),
    });
    json!({
        "name": source.name,
        "kind": source.kind,
        "url": source.url,
        "include": source.include,
        "exclude": source.exclude,
        "limit": source.page_limit,
        "schedule": schedule,
        "model": source.model,
        "dimensions": source.dimensions,
        "chunking": source.chunking,
        "deadline_s": source.deadline_s,
        "team": source.team,
    })
}

fn parse(asked: &Value) -> Result<Definition, ApiError> {
    serde_path_to_error::deserialize(asked).map_err(|error| {
        let place = error.path().to_string();
        let place = if place == "." { "" } else { &place };
        let said = error.inner().to_string();
        match said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(field) => wrong(field, "is missing"),
            None => wrong(
                place,
                &said.replace(
                    "data did not match any variant of untagged enum When",
                    "write it as \"0 3 * * *\" or {\"cron\": …, \"timezone\": …}",
                ),
            ),
        }
    })
}

async fn into_source(
    asked: Definition,
    before: Source,
    allowed: &Allowed,
    now: i64,
) -> Result<Source, ApiError> {
    check_name(&asked.name)?;
    let kind = serde_json::to_value(asked.kind).unwrap_or_default();
    let url = check_url(&asked, before.url.as_deref(), allowed).await?;
    for (field, patterns) in [("include", &asked.include), ("exclude", &asked.exclude)] {
        check_patterns(field, patterns, asked.kind)?;
    }
    let within = |field: &str, value: u64, most: u64| match value {
        value if (1..=most).contains(&value) => Ok(value),
        value => Err(wrong(field, &format!("{value} is not between 1 and {most}"))),
    };
    if let Some(dimensions) = asked.dimensions {
        within("dimensions", dimensions.into(), LARGEST_VECTOR.into())?;
    }
    let (schedule, timezone) = match asked.schedule {
        None => (None, None),
        Some(When::Cron(cron)) => (Some(cron), None),
        Some(When::Zoned(zoned)) => (Some(zoned.cron), zoned.timezone),
    };
    let mut source = Source {
        updated_at: now,
        team: asked.team,
        name: asked.name,
        kind: kind.as_str().unwrap_or_default().to_owned(),
        url,
        include: asked.include,
        exclude: asked.exclude,
        page_limit: within("limit", asked.limit.unwrap_or(PAGES), MOST_PAGES)?,
        model: asked.model.unwrap_or_else(|| MODEL.to_owned()),
        dimensions: asked.dimensions,
        chunking: serde_json::to_value(
            asked
                .chunking
                .unwrap_or_default()
                .checked()
                .map_err(|message| wrong("chunking", &message))?,
        )
        .unwrap_or_default(),
        deadline_s: within("deadline_s", asked.deadline_s.unwrap_or(DEADLINE), LONGEST_DEADLINE)?,
        schedule,
        timezone,
        ..before.clone()
    };
    if source.model.trim().is_empty() {
        return Err(wrong("model", "is empty; name an embedding model, or leave it out"));
    }
    let same = source.schedule == before.schedule && source.timezone == before.timezone;
    if !same {
        source.next_run_at =
            next_run(&source, now).map_err(|message| wrong("schedule", &message))?;
    }
    Ok(source)
}

/// When a source is fetched next by its schedule, in milliseconds since 1970.
///
/// # Errors
/// A sentence that says what is wrong with the schedule.
pub fn next_run(source: &Source, now: i64) -> Result<Option<i64>, String> {
    let Some(cron) = &source.schedule else { return Ok(None) };
    let schedule = Schedule::parse(cron, source.timezone.as_deref())?;
    Ok(schedule.next(now, source.id.as_bytes()))
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(plain);
    if !fits || Uuid::try_parse(name).is_ok() {
        let message = format!(
            "1 to {LONGEST_NAME} of the characters a-z, A-Z, 0-9, `-`, `_` and `.` are a name, \
             and an id is none"
        );
        return Err(wrong("name", &message));
    }
    Ok(())
}

/// A URL that is new is looked up: it must not lead into the operator's own network.
async fn check_url(
    asked: &Definition,
    before: Option<&str>,
    allowed: &Allowed,
) -> Result<Option<String>, ApiError> {
    let url = match (&asked.url, asked.kind) {
        (Some(_), Kind::Files) => {
            return Err(wrong("url", "belongs to other kinds: files are uploaded"));
        }
        (None, Kind::Files) => return Ok(None),
        (None, _) => return Err(wrong("url", "is missing")),
        (Some(url), _) => url,
    };
    if before == Some(url) {
        return Ok(Some(url.clone()));
    }
    let outside =
        Outside::new(allowed.clone(), LOOK_UP).map_err(|message| wrong("url", &message))?;
    outside.check(url).await.map_err(|refused| wrong("url", &refused.to_string()))?;
    if !Url::parse(url).is_ok_and(|url| passes_firecrawl(&url)) {
        let message = "Firecrawl takes only hosts with a dot and two or more characters behind it";
        return Err(wrong("url", message));
    }
    Ok(Some(url.clone()))
}

/// Whether Firecrawl's own check lets a URL pass: it wants a dot and two characters in the host.
pub(super) fn passes_firecrawl(url: &Url) -> bool {
    let end = url.host_str().and_then(|host| host.rsplit_once('.'));
    matches!(url.scheme(), "http" | "https") && end.is_some_and(|(_, end)| end.len() >= 2)
}

/// Patterns are regular expressions of paths, which Firecrawl reads.
fn check_patterns(field: &str, patterns: &[String], kind: Kind) -> Result<(), ApiError> {
    if !patterns.is_empty() && !matches!(kind, Kind::Crawl | Kind::Map) {
        return Err(wrong(field, "belongs to the kinds crawl and map"));
    }
    if patterns.len() > MOST_PATTERNS || patterns.iter().any(String::is_empty) {
        return Err(wrong(field, &format!("at most {MOST_PATTERNS} patterns, none of them empty")));
    }
    Ok(())
}

fn wrong(field: &str, message: &str) -> ApiError {
    let told = match field {
        "" => format!("The source cannot be used: {message}."),
        field => format!("`{field}`: {message}."),
    };
    let error = ApiError::bad_request("invalid_parameter", told);
    if field.is_empty() { error } else { error.param(field.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    async fn defined(asked: Value) -> Result<Source, ApiError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        define(&asked, &"127.0.0.10".parse().unwrap(), NOW).await
    }

    #[tokio::test]
    async fn a_source_is_what_was_asked_for_with_the_rest_filled_in() {
        let source =
            defined(json!({ "name": "docs", "kind": "crawl", "url": "http://127.0.0.10:1/" }));
        let source = source.await.unwrap();
        assert_eq!(
            (source.page_limit, source.deadline_s, source.next_run_at),
            (1000, 21_600, None)
        );
        assert_eq!(source.model, "text-embedding-3-small");
        let shown = show(&source, None);
        assert_eq!((&shown["kind"], &shown["limit"]), (&json!("crawl"), &json!(1000)));
        let patch =
            json!({ "limit": 5, "schedule": { "cron": "@daily", "timezone": "Asia/Tokyo" } });
        let changed = redefine(&source, &patch, &Allowed::default(), NOW).await.unwrap();
        assert_eq!((changed.page_limit, changed.id), (5, source.id));
        assert!(changed.next_run_at.is_some_and(|next| next > NOW));
        // Asking for the same again does not move the next run.
        let later = redefine(&changed, &json!({ "limit": 6 }), &Allowed::default(), NOW + 1).await;
        assert_eq!(later.unwrap().next_run_at, changed.next_run_at);
        let without =
            redefine(&changed, &json!({ "schedule": null }), &Allowed::default(), NOW).await;
        assert_eq!(without.unwrap().next_run_at, None);
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_by_its_field() {
        let site = json!({ "name": "docs", "kind": "crawl", "url": "http://127.0.0.10:1/" });
        for (field, value, said) in [
            ("name", json!("a b"), "are a name"),
            ("name", json!(""), "are a name"),
            ("kind", json!("rss"), "unknown variant"),
            ("url", json!(null), "is missing"),
            ("url", json!("http://10.0.0.1/"), "not a public address"),
            ("url", json!("http://localhost:8099/"), "not a public address"),
            ("url", json!("file:///etc/passwd"), "http:// or https://"),
            ("limit", json!(0), "between 1 and 100000"),
            ("dimensions", json!(0), "between 1 and"),
            ("schedule", json!("daily"), "no cron schedule"),
            ("schedule", json!({ "cron": "@daily", "timezone": "Mars" }), "no time zone"),
            ("schedule", json!(5), "write it as"),
            ("model", json!(" "), "is empty"),
            ("chunking", json!({ "max_tokens": 100_000 }), "max_tokens"),
            ("include", json!([""]), "none of them empty"),
            ("deadline_s", json!(0), "between 1 and"),
        ] {
            let mut asked = site.clone();
            asked[field] = value.clone();
            let refused = defined(asked).await.unwrap_err();
            assert_eq!(refused.status, 400);
            assert_eq!(refused.param.as_deref(), Some(field), "{value}: {}", refused.message);
            assert!(refused.message.contains(said), "{value}: {}", refused.message);
        }
        let mut unknown = site.clone();
        unknown["recursive"] = true.into();
        assert!(defined(unknown).await.unwrap_err().message.contains("recursive"));
        let files = json!({ "name": "f", "kind": "files", "url": "http://127.0.0.10/" });
        assert_eq!(defined(files).await.unwrap_err().param.as_deref(), Some("url"));
        let source = defined(site).await.unwrap();
        let other = redefine(&source, &json!({ "kind": "map" }), &Allowed::default(), NOW).await;
        assert_eq!(other.unwrap_err().param.as_deref(), Some("kind"));
    }

    #[test]
    fn firecrawls_own_check_of_urls_is_known() {
        let passes = |url: &str| passes_firecrawl(&Url::parse(url).unwrap());
        assert!(passes("https://docs.example.com/a") && passes("http://127.0.0.10:8099/"));
        assert!(!passes("http://localhost:8099/") && !passes("http://127.0.0.1/"));
    }
}
