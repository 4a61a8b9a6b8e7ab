//! The policy folder: which upstreams there are, which model lives where, and who gets which.
//!
//! The whole folder is one [`Policy`]; a request takes one snapshot and keeps it to its end.

mod basis;
mod capture;
mod cases;
mod choose;
mod clauses;
mod diagnostic;
mod explain;
pub mod expression;
mod facts;
mod file;
mod findings;
mod hook;
mod limits;
mod load;
mod models;
mod reload;
mod replay;
mod retrieve;
mod routes;
mod rule;
mod scenario;

mod source;
mod sticky;
pub mod units;
mod upstreams;
mod view;
mod watch;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::Uri;

use crate::metering::catalogue::Catalogue;
use crate::metering::catalogue::Model;
use crate::metering::tokens::Encoding;

pub use basis::Basis;
pub use basis::Noted;
pub use capture::Capture;
pub use cases::CaseResult;
pub use cases::Tested;
pub use choose::Candidate;
pub use choose::Refusal;
pub use choose::Route;
pub use choose::Stop;
pub use choose::Trace;
pub use choose::Why;
pub use clauses::unknown_event;
pub use diagnostic::Diagnostic;
pub use diagnostic::Refused;
pub use diagnostic::Severity;
pub use explain::Explanation;
pub use explain::Retrieved;
pub use expression::EvalError;
pub use facts::Facts;
pub use facts::KeyFacts;
pub use facts::Live;
pub use facts::ModelState;
pub use facts::NO_SHUTDOWN;
pub use file::CaptureMode;
pub use file::Every;
pub use file::OnDisconnect;
pub use file::OnRedisDown;
pub use file::schema;
pub use hook::Hook;
pub use hook::wants;
pub use limits::Budget;
pub use limits::Claim;
pub use limits::Limit;
pub use limits::Outlook;
pub use limits::Per;
pub use load::Checked;
pub use load::Settings;
pub(crate) use load::expand;
pub use reload::PolicyHandle;
pub use reload::Rejected;
pub use reload::Reloader;
pub use reload::Seen;
pub use replay::Figures;
pub use replay::History;
pub use replay::Recorded;
pub use replay::Replay;
pub use replay::ReplayLine;
pub use replay::ReplayReport;
pub use replay::basis_of;
pub use retrieve::Retrieve;
pub use rule::Rule;
pub use rule::Target;
pub use scenario::Assumed;
pub use scenario::AssumedKey;
pub use scenario::Scenario;
pub use scenario::endpoint_named;
pub use scenario::headers;
pub use source::Sources;
pub use view::ModelPage;
pub use view::ModelView;
pub use watch::watch;

use capture::CaptureRule;
use models::Models;

/// One revision of the policy folder, resolved and checked.
#[derive(Debug)]
pub struct Policy {
    /// First 12 hexadecimal digits of the SHA-256 of what was loaded, ready for `x-weir-policy`.
    pub revision: HeaderValue,
    /// What is worth a look, although the folder is used.
    pub warnings: Vec<Diagnostic>,
    upstreams: BTreeMap<String, Arc<Upstream>>,
    models: Models,
    rules: Vec<Arc<Rule>>,
    default_rule: Arc<Rule>,
    passthrough_rule: Arc<Rule>,
    captures: Vec<CaptureRule>,
    limits: Vec<Arc<Limit>>,
    reads_live: bool,
    hooks: Vec<Arc<Hook>>,
    /// What it was made from.
    sources: Sources,
    /// Files that hold secrets, with the digest of what they held.
    secret_files: BTreeMap<PathBuf, Vec<u8>>,
}

/// A provider that speaks OpenAI's API.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the policy.
    pub name: String,
    /// Tells it from any other, of this policy or of one before: everything about it but the key.
    pub identity: Arc<str>,
    /// Where it is. Stands for the client's `/v1`: `/v1/models` becomes `base_url` + `/models`.
    pub base_url: Uri,
    /// The gateway's own key, as the `Authorization` header that carries it; without one the
    /// caller's key goes through. Marked as sensitive: it prints as such.
    pub authorization: Option<HeaderValue>,
    /// Certificates (PEM file) to trust instead of the system's.
    pub ca_file: Option<String>,
    /// Deadlines of each step.
    pub timeouts: Timeouts,
    /// Calls at the same time; more are refused with 503.
    pub max_in_flight: usize,
}

/// Deadlines of one attempt at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Name look-up, TCP and TLS.
    pub connect: Duration,
    /// From the request's last byte to the answer's head. A long answer that is not streamed
    /// counts in full: OpenAI's own clients wait 10 minutes.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(120),
        }
    }
}

impl Policy {
    /// The model of that name at its provider; one that nobody knows is asked for at the default
    /// upstream.
    pub fn target(&self, model: &str) -> Arc<Target> {
        self.models.targets.get(model).cloned().unwrap_or_else(|| self.models.plain(model))
    }

    /// Whether any rule asks how models are doing: only then are figures kept.
    pub fn reads_live(&self) -> bool {
        self.reads_live
    }

    /// Whether anything asks for tokens: of the prompt, or of what is put into it.
    pub fn reads_tokens(&self) -> bool {
        self.rules.iter().any(|rule| rule.reads_tokens() || rule.retrieve.is_some())
            || self.captures.iter().any(CaptureRule::reads_tokens)
            || self.limits.iter().any(|limit| limit.reads_tokens())
    }

    /// Whether any rule asks what is left of the caller's budget.
    pub fn reads_budget(&self) -> bool {
        self.rules.iter().any(|rule| rule.reads_budget())
            || self.captures.iter().any(CaptureRule::reads_budget)
    }

    /// The tokenizer of a model.
    pub fn encoding_of(&self, model: &str) -> Encoding {
        let target = self.target(model);
        let named = self.model_of(&target).and_then(|row| row.encoding);
        named.unwrap_or_else(|| Encoding::of(&target.upstream_model))
    }

    /// Who is told of what happens.
    pub fn hooks(&self) -> &[Arc<Hook>] {
        &self.hooks
    }

    /// Every rule, in the order in which they are tried.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Price and limits of a target: the policy's own, then those of the model behind an alias.
    pub fn model_of(&self, target: &Target) -> Option<&Model> {
        self.models.row(target)
    }

    /// The revision as text.
    pub fn revision(&self) -> &str {
        self.revision.to_str().unwrap_or_default()
    }

    /// The upstream of everything that names no model.
    pub fn default_upstream(&self) -> &Arc<Upstream> {
        &self.models.default_upstream
    }

    /// Every upstream, in order of name.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// Price and limits of a model; `None` when neither policy nor catalogue knows it.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.catalogue.get(name)
    }

    /// Whether metrics may use this model's name as a label value.
    pub fn knows_model(&self, name: &str) -> bool {
        self.models.is_known(name)
    }

    /// Every model with a price or a limit.
    pub fn catalogue(&self) -> &Catalogue {
        &self.models.catalogue
    }
}
