//! `weir policy`: checks a policy folder, runs its tests, explains its decisions.

use std::fmt::Write as _;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::app::AppError;
use crate::config::Config;
use crate::config::Environment;
use crate::openai::endpoint::Endpoint;
use crate::policy;
use crate::policy::Assumed;
use crate::policy::AssumedKey;
use crate::policy::CaseResult;
use crate::policy::Checked;
use crate::policy::Diagnostic;
use crate::policy::Explanation;
use crate::policy::Retrieved;
use crate::policy::Scenario;
use crate::policy::Settings;
use crate::policy::Severity;
use crate::policy::Sources;
use crate::policy::Tested;
use crate::proxy::today;

use super::replay;
use super::replay::Replay;

/// What is to be done with the folder.
#[derive(Debug, clap::Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Says everything that is wrong in a policy folder.
    Check(Folder),
    /// Runs the folder's own tests, tests/*.yaml.
    Test(Folder),
    /// Says where a request would go, and why.
    Explain(Box<Explain>),
    /// Sends recorded calls through a policy: which would change, and what that would cost.
    Replay(Replay),
    /// Prints the JSON Schema of a policy file.
    Schema,
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// The policy folder; without it `policies` of ./weir.yaml, else ./policies.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// The request's JSON body; - reads standard input.
    #[arg(long, value_name = "FILE|-")]
    request: PathBuf,
    /// chat/completions, responses, completions or embeddings; without it the body tells.
    #[arg(long, value_parser = policy::endpoint_named)]
    endpoint: Option<Endpoint>,
    /// A header, such as x-weir-importance=high; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The calling key's name.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// The calling key's team.
    #[arg(long, value_name = "TEAM", default_value = "")]
    team: String,
    /// A tag of the calling key; may be given more than once.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    #[command(flatten)]
    folder: Folder,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(['=', ':'])
        .ok_or("write it as NAME=VALUE, such as x-weir-importance=high")?;
    policy::headers([(name, value.trim())])?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// Runs the command.
///
/// # Errors
/// The folder is refused, a test fails, or something cannot be read.
pub(super) fn run(arguments: Policy, json: bool) -> Result<(), AppError> {
    match arguments.action {
        Action::Check(folder) => check(&folder, json),
        Action::Test(folder) => test(&folder, json),
        Action::Explain(arguments) => explain(&arguments, json),
        Action::Replay(arguments) => replay::run(&arguments, json),
        Action::Schema => print(&format!("{:#}\n", policy::schema())),
    }
}

/// A folder that can be used.
struct Opened {
    path: PathBuf,
    sources: Sources,
    policy: policy::Policy,
}

/// The policy of a folder, or of that of the settings. One that cannot be used is an error; what is
/// wrong with it is printed.
///
/// # Errors
/// There is no such folder, or it cannot be used.
pub(super) fn of_folder(folder: Option<&Path>, json: bool) -> Result<policy::Policy, AppError> {
    open(folder, json).map(|opened| opened.policy)
}

fn open(folder: Option<&Path>, json: bool) -> Result<Opened, AppError> {
    let environment = Environment::of_process();
    let path = match folder {
        Some(path) if !path.is_dir() => {
            return Err(fail(format!("{} is no folder; check the path", path.display())));
        }
        Some(path) => path.to_owned(),
        None => Config::load(None, &environment)?.policies,
    };
    let settings = Settings { today: Some(today()), ..environment.for_policies() };
    let (revision, found) = match Sources::read(&path) {
        Err(found) => (None, found),
        Ok(sources) => {
            let Checked { policy, diagnostics, .. } = policy::Policy::check(&sources, &settings);
            if let Some(policy) = policy {
                return Ok(Opened { path, sources, policy });
            }
            (Some(sources.revision()), diagnostics)
        }
    };
    print_findings(&found, false, revision.as_deref(), json)?;
    Err(fail(format!("{} cannot be used: {}", path.display(), counts(&found))))
}

fn print_findings(
    found: &[Diagnostic],
    ok: bool,
    revision: Option<&str>,
    json: bool,
) -> Result<(), AppError> {
    if json {
        return print_json(&json!({ "ok": ok, "revision": revision, "diagnostics": found }));
    }
    print(&found.iter().map(|found| format!("{found}\n")).collect::<String>())
}

fn check(folder: &Folder, json: bool) -> Result<(), AppError> {
    let Opened { path, policy, .. } = open(folder.folder.as_deref(), json)?;
    print_findings(&policy.warnings, true, Some(policy.revision()), json)?;
    if json {
        return Ok(());
    }
    print(&format!(
        "{} can be used: revision {}, {}, {}\n",
        path.display(),
        policy.revision(),
        number(policy.rules().len(), "rule"),
        counts(&policy.warnings),
    ))
}

fn test(folder: &Folder, json: bool) -> Result<(), AppError> {
    let Opened { sources, policy, .. } = open(folder.folder.as_deref(), json)?;
    let Tested { cases, diagnostics } = policy.test(&sources);
    let failed = cases.iter().filter(|case| !case.passed).count();
    let summary = format!("{}, {failed} failed", number(cases.len(), "test"));
    if json {
        print_json(&json!({
            "ok": diagnostics.is_empty(), "revision": policy.revision(),
            "tests": cases, "diagnostics": diagnostics,
        }))?;
    } else {
        print(&outcomes(&cases, &diagnostics))?;
    }
    match diagnostics.is_empty() {
        true if json => Ok(()),
        true => print(&format!("{summary}\n")),
        // A file of tests that cannot be read holds tests that were not run.
        false if failed == 0 => Err(fail(format!("{summary}; {}", counts(&diagnostics)))),
        false => Err(fail(summary)),
    }
}

fn outcomes(cases: &[CaseResult], found: &[Diagnostic]) -> String {
    let mut out = String::new();
    for case in cases {
        let outcome = if case.passed { "ok    " } else { "failed" };
        let _ = writeln!(out, "{outcome} {}", case.name);
    }
    found.iter().fold(out, |out, found| format!("{out}\n{found}"))
}

fn explain(arguments: &Explain, json: bool) -> Result<(), AppError> {
    let Opened { policy, .. } = open(arguments.folder.folder.as_deref(), json)?;
    let scenario = scenario(arguments)?;
    let live = Assumed::new(&policy, scenario.unix_s);
    let (explanation, _) = scenario
        .decide(&policy, &live)
        .map_err(|error| fail(format!("{}: {}", arguments.request.display(), error.message)))?;
    match json {
        true => print_json(&with_all_rules(&explanation, &policy)),
        false => print(&in_words(&explanation, &policy)),
    }
}

/// A decision for machines; rules behind the one that decided were not asked.
fn with_all_rules(explanation: &Explanation, policy: &policy::Policy) -> Value {
    let mut shown = json!(explanation);
    if let Some(rules) = shown["rules"].as_array_mut() {
        let unasked = policy.rules().iter().skip(rules.len());
        rules.extend(unasked.map(|rule| json!({ "rule": &*rule.name, "outcome": "not reached" })));
    }
    shown
}

fn scenario(arguments: &Explain) -> Result<Scenario, AppError> {
    let pairs = arguments.header.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let usual = AssumedKey::default();
    Ok(Scenario {
        body: read(&arguments.request)?,
        endpoint: arguments.endpoint,
        headers: policy::headers(pairs).map_err(fail)?,
        key: AssumedKey {
            name: arguments.key.clone().unwrap_or(usual.name),
            team: arguments.team.clone(),
            tags: arguments.tag.clone(),
            ..AssumedKey::default()
        },
        unix_s: now_s(),
        ..Scenario::default()
    })
}

/// Reads a file; - is standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, AppError> {
    let read = if path == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin().lock().read_to_end(&mut body).map(|_| body)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| fail(format!("cannot read {}: {error}", path.display())))
}

/// A decision for people: each rule, what it saw, and what came of it.
fn in_words(explanation: &Explanation, policy: &policy::Policy) -> String {
    let mut out = format!("policy {}, asked for `{}`\n", explanation.policy, explanation.asked);
    for step in &explanation.rules {
        let when = step.when.as_deref().unwrap_or("always");
        let _ = writeln!(out, "  {:<5} {}: {when}", step.outcome, step.rule);
        if let Some(error) = &step.error {
            let _ = writeln!(out, "          {error}, so it does not match");
        }
        for input in &step.inputs {
            let _ = writeln!(out, "          {} = {}", input.name, input.value);
        }
    }
    for rule in policy.rules().iter().skip(explanation.rules.len()) {
        let _ = writeln!(out, "  -     {}: not reached", rule.name);
    }
    if !explanation.candidates.is_empty() {
        out.push_str("candidates, the best first\n");
    }
    for candidate in &explanation.candidates {
        let cost = candidate.expected_cost_usd.as_deref().map(|cost| format!(", {cost} USD"));
        let p95 = format!(", p95 {} ms", candidate.p95_ms);
        let p95 = if candidate.p95_ms > 0.0 { p95 } else { String::new() };
        let (excluded, demoted) = (candidate.excluded, candidate.demoted);
        let but = excluded.map(|why| format!(", out: {why}"));
        let but = but.or_else(|| demoted.map(|why| format!(", last: {why}")));
        let (cost, but) = (cost.unwrap_or_default(), but.unwrap_or_default());
        let _ = writeln!(out, "  {}{cost}{p95}{but}", candidate.model);
    }
    out + &conclusion(explanation)
}

fn conclusion(explanation: &Explanation) -> String {
    let route = &explanation.route;
    if let Some(why) = &explanation.refused {
        return format!("refused by `{route}`: {why}\n");
    }
    let model = explanation.model.as_deref().unwrap_or_default();
    let upstream = explanation.upstream.as_deref().unwrap_or_default();
    let then = match &explanation.fallback[..] {
        [] => String::new(),
        row => format!(", then {}", row.join(", ")),
    };
    let with = explanation.retrieve.as_ref().map(|with| {
        let Retrieved { source, top_k, max_tokens } = with;
        format!(", with passages of `{source}` ({top_k} and {max_tokens} tokens at most)")
    });
    let with = with.unwrap_or_default();
    format!("`{route}` sends it to {model} at {upstream}{then}{with}\n")
}

/// `1 error, 2 warnings`.
fn counts(found: &[Diagnostic]) -> String {
    let of = |severity| found.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    format!("{}, {}", number(errors, "error"), number(warnings, "warning"))
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

pub(super) fn print_json(value: &Value) -> Result<(), AppError> {
    print(&format!("{value}\n"))
}

/// Prints; a reader that has left, such as `head`, has seen enough.
pub(super) fn print(text: &str) -> Result<(), AppError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(fail(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

/// Seconds since 1970, UTC.
fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) fn fail(message: impl Into<String>) -> AppError {
    AppError::Other(message.into())
}
