//! Checks the section `limits`, whose machinery is not there yet, and resolves `hooks`.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use serde_saphyr::Spanned;

use crate::metering::money::Usd;

use super::diagnostic::Diagnostic;
use super::file::HookEntry;
use super::file::LimitEntry;
use super::file::PolicyFile;
use super::findings::File;
use super::findings::Findings;
use super::hook::Hook;
use super::load::Secrets;
use super::models::Models;

/// What a hook can ask for; `*` stands for the rest of a name.
const EVENTS: [&str; 10] = [
    "policy.rejected",
    "policy.reloaded",
    "budget.threshold",
    "budget.exceeded",
    "dataset.ready",
    "fine_tune.status_changed",
    "fine_tune.succeeded",
    "fine_tune.failed",
    "alias.promoted",
    "alias.rolled_back",
];

/// Checks what is not acted on, and says that it is not.
pub(super) fn check(parsed: &PolicyFile, file: File<'_>, models: &Models, findings: &mut Findings) {
    for entry in &parsed.limits {
        limit(entry, file, models, findings);
    }
    if let Some(first) = parsed.limits.first() {
        let message = "this version checks `limits` and does not act on it".to_owned();
        findings.push(Diagnostic::warning(Some(file.place(&first.value.name)), message));
    }
}

fn limit(entry: &Spanned<LimitEntry>, file: File<'_>, models: &Models, findings: &mut Findings) {
    let limit = &entry.value;
    if let Some(matches) = &limit.matches {
        findings.expression(file, matches);
    }
    let named = |per: &str| matches!(per, "key" | "team" | "user" | "global");
    let tagged = |per: &str| per.strip_prefix("tag:").is_some_and(|name| !name.is_empty());
    if let Some(per) = limit.per.as_ref().filter(|per| !named(&per.value) && !tagged(&per.value)) {
        let known = ["key", "team", "user", "global"];
        findings.unknown(
            file.place(per),
            ("`per`", &per.value),
            known,
            "write key, team, user, global or tag:<name>",
        );
    }
    let counted = [limit.requests.is_some(), limit.tokens.is_some(), limit.concurrent.is_some()];
    if limit.budget.is_none() && !counted.contains(&true) {
        let message = format!("limit `{}` limits nothing", limit.name.value);
        let cure = "give it `budget`, `requests`, `tokens` or `concurrent`";
        findings.cure(file, &limit.name, message, cure);
    }
    if let Some(budget) = &limit.budget {
        let usd = &budget.usd;
        let good = usd.value.0.trim().parse::<Usd>().is_ok_and(|amount| amount > Usd::ZERO);
        if !good {
            findings.error(file, usd, format!("`{}` is no amount above 0 in USD", usd.value.0));
        }
    }
    if let Some(choice) = &limit.on_budget {
        on_budget(choice, file, models, findings);
    }
}

fn on_budget(
    choice: &Spanned<serde_json::Value>,
    file: File<'_>,
    models: &Models,
    findings: &mut Findings,
) {
    if choice.value == "reject" {
        return;
    }
    let model = choice.value.as_object().filter(|map| map.len() == 1);
    let model = model.and_then(|map| map.get("downgrade")).and_then(serde_json::Value::as_str);
    let Some(model) = model else {
        let cure = "write `reject` or `{ downgrade: model }`";
        findings.cure(file, choice, "unknown `on_budget`".to_owned(), cure);
        return;
    };
    if !models.is_known(model) {
        findings.unknown(
            file.place(choice),
            ("model", model),
            models.names(),
            "define it under `models`",
        );
    }
}

/// One webhook; `None` when something in its entry cannot be used.
pub(super) fn hook(
    entry: &HookEntry,
    file: File<'_>,
    secrets: &mut Secrets<'_>,
    findings: &mut Findings,
) -> Option<Hook> {
    check_events(entry, file, findings);
    let url = secrets.expand("url", &entry.url, file, findings);
    let url = url.and_then(|url| {
        let uri = url.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
        });
        if uri.is_none() {
            let message = format!("`{}` is no URL to post to", entry.url.value);
            findings.cure(file, &entry.url, message, "write it as https://host/path");
        }
        uri
    });
    let secret = match (&entry.secret, &entry.secret_file) {
        (Some(_), Some(both)) => {
            let message = "both `secret` and `secret_file` are set; keep one".to_owned();
            findings.error(file, both, message);
            return None;
        }
        (Some(secret), None) => secrets.expand("secret", secret, file, findings)?,
        (None, Some(path)) => secrets.file("secret_file", path, file, findings)?,
        (None, None) => String::new(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &entry.headers {
        let text = secrets.expand("headers", value, file, findings)?;
        match (HeaderName::try_from(name), HeaderValue::try_from(text)) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            _ => findings.error(file, value, format!("`{name}` cannot be a header of that value")),
        }
    }
    let events = entry.events.iter().map(|event| event.value.clone()).collect();
    Some(Hook::new(&url?, secret.trim().as_bytes().to_vec(), headers, events))
}

fn check_events(entry: &HookEntry, file: File<'_>, findings: &mut Findings) {
    for event in &entry.events {
        let prefix = event.value.strip_suffix('*');
        let known = match prefix {
            Some(prefix) => EVENTS.iter().any(|event| event.starts_with(prefix)),
            None => EVENTS.contains(&&*event.value),
        };
        if !known {
            let cure = format!("known are {}", EVENTS.join(", "));
            findings.unknown(file.place(event), ("event", &event.value), EVENTS, &cure);
        }
    }
}
