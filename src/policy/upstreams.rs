//! Resolves the `upstreams:` section.

use std::sync::Arc;

use http::HeaderValue;
use http::Uri;
use serde_saphyr::Spanned;

use super::Timeouts;
use super::Upstream;
use super::file::UpstreamEntry;
use super::findings::File;
use super::findings::Findings;
use super::load::Secrets;
use super::load::Settings;

/// Calls at the same time at one upstream, where its entry names no number.
const DEFAULT_MAX_IN_FLIGHT: usize = 1000;

/// OpenAI itself, for a folder that names no upstream.
pub(super) fn openai(settings: &Settings) -> Upstream {
    let key = settings.env.get("OPENAI_API_KEY").map(|key| key.trim()).unwrap_or_default();
    let mut upstream = Upstream {
        name: "openai".to_owned(),
        identity: Arc::from(""),
        base_url: Uri::from_static("https://api.openai.com/v1"),
        authorization: bearer(key),
        ca_file: None,
        timeouts: Timeouts::default(),
        max_in_flight: DEFAULT_MAX_IN_FLIGHT,
    };
    settle(&mut upstream, settings);
    upstream
}

/// Sends it to the simulator, where there is one, and gives it its identity.
fn settle(upstream: &mut Upstream, settings: &Settings) {
    if let Some(simulator) = &settings.simulator {
        upstream.base_url = simulator.clone();
        upstream.authorization = bearer("sk-simulator");
        upstream.ca_file = None;
    }
    let Upstream { name, base_url, ca_file, timeouts, max_in_flight, .. } = &*upstream;
    upstream.identity =
        format!("{name} {base_url} {ca_file:?} {timeouts:?} {max_in_flight}").into();
}

/// One upstream; `None` when something in its entry cannot be used.
pub(super) fn upstream(
    name: &str,
    entry: &UpstreamEntry,
    file: File<'_>,
    secrets: &mut Secrets<'_>,
    findings: &mut Findings,
) -> Option<Upstream> {
    let base_url = secrets.expand("base_url", &entry.base_url, file, findings);
    let key = api_key(entry, file, secrets, findings);
    let base_url = parse_base_url(&base_url?, &entry.base_url.value)
        .map_err(|(message, help)| findings.cure(file, &entry.base_url, message, help))
        .ok()?;
    let defaults = Timeouts::default();
    let given = &entry.timeouts;
    let timeouts = Timeouts {
        connect: findings.duration("connect", &given.connect, file).unwrap_or(defaults.connect),
        first_byte: findings
            .duration("first_byte", &given.first_byte, file)
            .unwrap_or(defaults.first_byte),
        idle: findings.duration("idle", &given.idle, file).unwrap_or(defaults.idle),
    };
    let max_in_flight = entry.max_in_flight.as_ref();
    if let Some(none) = max_in_flight.filter(|most| most.value == 0) {
        let message = "`max_in_flight` 0 lets no call through".to_owned();
        findings.cure(file, none, message, "write 1 or more, or leave it out");
    }
    let mut upstream = Upstream {
        name: name.to_owned(),
        identity: Arc::from(""),
        base_url,
        authorization: bearer(&key?),
        ca_file: entry.ca_file.clone(),
        timeouts,
        max_in_flight: max_in_flight.map_or(DEFAULT_MAX_IN_FLIGHT, |most| most.value),
    };
    settle(&mut upstream, secrets.settings);
    Some(upstream)
}

/// The key, from `api_key` (an unset variable means none) or the file that `api_key_file` names;
/// empty for none.
fn api_key(
    entry: &UpstreamEntry,
    file: File<'_>,
    secrets: &mut Secrets<'_>,
    findings: &mut Findings,
) -> Option<String> {
    let (key, at): (String, &Spanned<String>) = match (&entry.api_key, &entry.api_key_file) {
        (None, None) => return Some(String::new()),
        (Some(_), Some(both)) => {
            findings.error(
                file,
                both,
                "both `api_key` and `api_key_file` are set; keep one".into(),
            );
            return None;
        }
        (Some(key), None) => (secrets.expand_or_empty(&key.value), key),
        (None, Some(path)) => (secrets.file("api_key_file", path, file, findings)?, path),
    };
    let key = key.trim().to_owned();
    if key.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let message = "the API key holds spaces or control characters".to_owned();
        findings.cure(file, at, message, "check where it comes from");
        return None;
    }
    Some(key)
}

/// The header that carries a key; none for an empty one.
fn bearer(key: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
    value.set_sensitive(true);
    (!key.is_empty()).then_some(value)
}

/// Reads `text`, what `written` stands for once its variables are replaced. Their values are not
/// shown: they may be secrets.
fn parse_base_url(text: &str, written: &str) -> Result<Uri, (String, &'static str)> {
    let cure = "write it as https://host[:port]/v1";
    let uri: Uri =
        text.parse().map_err(|error| (format!("base_url `{written}`: {error}"), cure))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err((format!("base_url `{written}` has no http or https host"), cure));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(("base_url holds a user name or password".to_owned(), "use `api_key` instead"));
    }
    if uri.query().is_some() {
        return Err((format!("base_url `{written}` has a query"), cure));
    }
    Ok(uri)
}
