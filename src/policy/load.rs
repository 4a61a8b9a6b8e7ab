//! Loads the policy folder: files to one checked [`Policy`], or everything that is wrong in them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;
use http::Uri;
use serde_saphyr::Spanned;

use super::Policy;
use super::Upstream;
use super::capture;
use super::capture::CaptureRule;
use super::clauses;
use super::diagnostic::Diagnostic;
use super::diagnostic::Refused;
use super::diagnostic::Severity;
use super::file::ModelEntry;
use super::file::PolicyFile;
use super::findings::File;
use super::findings::Findings;
use super::limits;
use super::models::Models;
use super::routes::MOST_RULES;
use super::routes::Routes;
use super::rule::Rule;
use super::source::Sources;
use super::source::read_regular;
use super::upstreams;
use super::yaml;

/// Longest secret in a file of its own, in bytes.
const LONGEST_SECRET: u64 = 64 << 10;

/// What a folder is resolved against.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The environment, for `${NAME}`.
    pub env: BTreeMap<String, String>,
    /// Sends every upstream here instead, with a key of the simulator's.
    pub simulator: Option<Uri>,
    /// Days since 1970-01-01, to warn of models near their end.
    pub today: Option<i64>,
}

/// A folder after the check.
#[derive(Debug)]
pub struct Checked {
    /// The policy, when nothing in the folder is an error.
    pub policy: Option<Policy>,
    /// Errors and warnings, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// Files with secrets that were read, or tried, with the digest of what was in them.
    pub(super) secret_files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Policy {
    /// Loads every `*.yaml` of `folder` and runs its tests; a folder that does not exist, or is
    /// empty, gives OpenAI as the only upstream and no rules.
    ///
    /// # Errors
    /// Everything found wrong, each with its place.
    pub fn load(folder: &Path, settings: &Settings) -> Result<Self, Refused> {
        let sources = Sources::read(folder).map_err(Refused)?;
        let (checked, _) = Self::verify(&sources, settings);
        checked.policy.ok_or(Refused(checked.diagnostics))
    }

    /// Checks files and resolves them to a policy.
    pub fn check(sources: &Sources, settings: &Settings) -> Checked {
        let mut findings = Findings::default();
        let mut secrets = Secrets { settings, read: BTreeMap::new() };
        let parsed: Vec<_> = sources
            .policies
            .iter()
            .filter_map(|source| Some((File(source), yaml::read(source, &mut findings)?)))
            .collect();
        let policy = resolve(&parsed, &sources.revision(), &mut secrets, &mut findings);
        if sources.policies.is_empty() {
            let missing = if sources.found { "is empty" } else { "does not exist" };
            let message = format!("the policy folder {missing}: every model passes as asked for");
            findings.push(Diagnostic::warning(None, message));
        }
        let policy = policy.filter(|_| !findings.has_errors());
        let diagnostics = findings.0;
        let warnings = diagnostics.iter().filter(|found| found.severity == Severity::Warning);
        let warnings: Vec<_> = warnings.cloned().collect();
        let sources = sources.clone();
        let secret_files = secrets.read;
        let policy = policy.map(|policy| {
            let secret_files = secret_files.clone();
            Self { warnings, sources, secret_files, ..policy }
        });
        Checked { policy, diagnostics, secret_files }
    }
}

fn resolve(
    parsed: &[(File<'_>, PolicyFile)],
    revision: &str,
    secrets: &mut Secrets<'_>,
    findings: &mut Findings,
) -> Option<Policy> {
    check_names(parsed, findings);
    let upstreams = resolve_upstreams(parsed, secrets, findings);
    let default_upstream = upstreams.get("openai").or_else(|| upstreams.values().next())?;
    let entries = parsed.iter().flat_map(|(file, parsed)| {
        parsed.models.0.iter().map(|(name, entry)| (name, entry, *file))
    });
    let entries: Vec<(&Spanned<String>, &ModelEntry, File<'_>)> = entries.collect();
    let today = secrets.settings.today;
    let default_upstream = Arc::clone(default_upstream);
    let models = Models::resolve(&entries, &upstreams, default_upstream, today, findings);
    let rules = resolve_rules(parsed, &models, findings);
    let mut hooks = Vec::new();
    let mut captures = Vec::new();
    let mut limits = limits::Section::new(&models);
    for (file, parsed) in parsed {
        for entry in &parsed.limits {
            limits.add(&entry.value, *file, findings);
        }
        for entry in &parsed.capture {
            captures.extend(capture::rule(&entry.value, *file, findings));
        }
        for entry in &parsed.hooks {
            hooks.extend(clauses::hook(&entry.value, *file, secrets, findings).map(Arc::new));
        }
    }
    let limits = limits.into_limits();
    let reads_live = rules.iter().any(|rule| rule.reads_live())
        || captures.iter().any(CaptureRule::reads_live)
        || limits.iter().any(|limit| limit.reads_live());
    Some(Policy {
        revision: HeaderValue::from_str(revision).ok()?,
        upstreams,
        models,
        rules,
        default_rule: Arc::new(Rule::unruled("default")),
        passthrough_rule: Arc::new(Rule::unruled("passthrough")),
        captures,
        limits,
        reads_live,
        hooks,
        warnings: Vec::new(),
        sources: Sources::default(),
        secret_files: BTreeMap::new(),
    })
}

/// A name that is defined twice is shown at both places.
fn check_names(parsed: &[(File<'_>, PolicyFile)], findings: &mut Findings) {
    let mut defined: HashMap<(&str, &str), String> = HashMap::new();
    let define = |what: &'static str, name: &Spanned<String>, file: File<'_>| {
        (what, name.value.clone(), file.place(name))
    };
    let mut all = Vec::new();
    for (file, parsed) in parsed {
        all.extend(parsed.upstreams.0.iter().map(|(name, _)| define("upstream", name, *file)));
        all.extend(parsed.models.0.iter().map(|(name, _)| define("model", name, *file)));
        all.extend(parsed.routes.iter().map(|rule| define("rule", &rule.value.name, *file)));
        all.extend(parsed.limits.iter().map(|limit| define("limit", &limit.value.name, *file)));
    }
    for (what, name, place) in &all {
        if let Some(first) = defined.get(&(*what, name.as_str())) {
            let message = format!("{what} `{name}` is defined twice");
            let mut found =
                Diagnostic::error(Some(place.clone()), message).help("keep one of them");
            found.first = Some(first.clone());
            findings.push(found);
        } else {
            defined.insert((what, name), place.to_string());
        }
    }
}

fn resolve_upstreams(
    parsed: &[(File<'_>, PolicyFile)],
    secrets: &mut Secrets<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, Arc<Upstream>> {
    let mut all = BTreeMap::new();
    for (file, parsed) in parsed {
        for (name, entry) in &parsed.upstreams.0 {
            let resolved = upstreams::upstream(&name.value, entry, *file, secrets, findings);
            // One that cannot be used still counts as defined: its users are not to blame.
            let upstream = resolved.unwrap_or_else(|| upstreams::openai(secrets.settings));
            all.insert(name.value.clone(), Arc::new(upstream));
        }
    }
    if all.is_empty() {
        let openai = upstreams::openai(secrets.settings);
        all.insert(openai.name.clone(), Arc::new(openai));
    }
    all
}

fn resolve_rules(
    parsed: &[(File<'_>, PolicyFile)],
    models: &Models,
    findings: &mut Findings,
) -> Vec<Arc<Rule>> {
    let count: usize = parsed.iter().map(|(_, parsed)| parsed.routes.len()).sum();
    if count > MOST_RULES {
        let message = format!("there are {count} rules; the limit is {MOST_RULES}");
        findings.push(Diagnostic::error(None, message).help("put them together"));
        return Vec::new();
    }
    let mut routes = Routes::new(models);
    let mut rules = Vec::with_capacity(count);
    for (file, parsed) in parsed {
        for entry in &parsed.routes {
            rules.extend(routes.rule(&entry.value, *file, findings).map(Arc::new));
        }
    }
    rules
}

/// Values from outside of the files: the environment, and files that hold secrets.
pub(super) struct Secrets<'a> {
    pub(super) settings: &'a Settings,
    /// Each file that was read, with what was in it: a change of it is a change of the policy.
    pub(super) read: BTreeMap<PathBuf, Vec<u8>>,
}

impl Secrets<'_> {
    /// Replaces every `${NAME}`.
    pub(super) fn expand(
        &self,
        key: &str,
        text: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<String> {
        let unset = |variable: String| {
            let message =
                format!("`{key}` needs the environment variable {variable}, which is not set");
            let cure = format!("set {variable}, or write the value itself");
            findings.cure(file, text, message, &cure);
        };
        expand(&text.value, self.settings).map_err(unset).ok()
    }

    /// Replaces every `${NAME}`; empty when one is not set.
    pub(super) fn expand_or_empty(&self, text: &str) -> String {
        expand(text, self.settings).unwrap_or_default()
    }

    /// The content of a file that a key names, without the space around it.
    pub(super) fn file(
        &mut self,
        key: &str,
        path: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<String> {
        let name = PathBuf::from(self.expand(key, path, file, findings)?);
        let refuse = |why: &str, findings: &mut Findings| {
            // The path as it is written: what stands for a variable may be a secret.
            let message = format!("cannot read `{key}` {}: {why}", path.value);
            findings.cure(file, path, message, "check the path and its permissions");
            None
        };
        let content = read_secret(&name);
        // Also one that cannot be read: the refusal ends when it can.
        self.read.insert(name, fingerprint(&content));
        match content.map(String::from_utf8) {
            Ok(Ok(text)) => Some(text.trim().to_owned()),
            Ok(Err(_)) => refuse("it is not UTF-8", findings),
            Err(error) => refuse(&error.to_string(), findings),
        }
    }
}

/// A short regular file.
pub(super) fn read_secret(path: &Path) -> std::io::Result<Vec<u8>> {
    let content = read_regular(path, LONGEST_SECRET)?;
    if content.len() as u64 > LONGEST_SECRET {
        return Err(std::io::Error::other("it is longer than 64 KiB"));
    }
    Ok(content)
}

/// What a secret's content is told by, which is never shown. All that cannot be read is alike.
pub(super) fn fingerprint(content: &std::io::Result<Vec<u8>>) -> Vec<u8> {
    let content = content.as_deref().unwrap_or_default();
    ring::digest::digest(&ring::digest::SHA256, content).as_ref().to_vec()
}

/// Replaces every `${NAME}`; the error is the name of a variable that is not set.
pub(crate) fn expand(text: &str, settings: &Settings) -> Result<String, String> {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((name, rest)) = part.split_once('}') else {
            out.push_str("${");
            out.push_str(part);
            continue;
        };
        out.push_str(settings.env.get(name).ok_or_else(|| name.to_owned())?);
        out.push_str(rest);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
