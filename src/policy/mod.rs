//! The policy folder: which upstreams there are and which model lives where.
//!
//! The whole folder is one [`Policy`]; a request takes one snapshot and keeps it to its end.

pub mod expression;
mod facts;
mod file;
mod load;
pub mod units;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http::Uri;

use crate::metering::catalogue::Catalogue;
use crate::metering::catalogue::Model;

pub use facts::Facts;
pub use facts::KeyFacts;
pub use facts::Live;
pub use facts::ModelState;
pub use facts::NO_SHUTDOWN;
pub use load::LoadError;
pub use load::Settings;
pub(crate) use load::expand;

/// One revision of the policy folder, resolved and checked.
#[derive(Debug)]
pub struct Policy {
    /// First 12 hexadecimal digits of the SHA-256 of what was loaded, ready for `x-weir-policy`.
    pub revision: HeaderValue,
    upstreams: BTreeMap<String, Arc<Upstream>>,
    models: BTreeMap<String, ModelRule>,
    default_upstream: Arc<Upstream>,
    catalogue: Catalogue,
}

/// A provider that speaks OpenAI's API.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the policy.
    pub name: String,
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

#[derive(Debug)]
struct ModelRule {
    upstream: Option<String>,
    as_name: Option<String>,
}

/// Where a request goes, and why.
#[derive(Clone, Debug)]
pub struct Route {
    /// The rule's name; `default` where none matched.
    pub name: &'static str,
    /// The model as the policy knows it.
    pub model: Arc<str>,
    /// The model's name at the upstream.
    pub upstream_model: Arc<str>,
    /// The provider.
    pub upstream: Arc<Upstream>,
    /// Tries in all, the first included.
    pub attempts: u32,
    /// From the request's arrival to the answer's first byte, over all attempts.
    pub deadline: Option<Duration>,
}

/// Tries of a route that names no number. OpenAI's clients make the same three.
const DEFAULT_ATTEMPTS: u32 = 3;

impl Policy {
    /// Chooses for a request that asks for `model`. Rules come with the routing policies: until
    /// then every request gets the model that it asks for.
    pub fn route(&self, model: &str) -> Route {
        let rule = self.models.get(model);
        let upstream = rule
            .and_then(|rule| rule.upstream.as_ref())
            .and_then(|name| self.upstreams.get(name))
            .unwrap_or(&self.default_upstream);
        let model: Arc<str> = Arc::from(model);
        let as_name = rule.and_then(|rule| rule.as_name.as_deref());
        Route {
            name: "default",
            upstream_model: as_name.map_or_else(|| Arc::clone(&model), Arc::from),
            model,
            upstream: Arc::clone(upstream),
            attempts: DEFAULT_ATTEMPTS,
            deadline: None,
        }
    }

    /// The revision as text.
    pub fn revision(&self) -> &str {
        self.revision.to_str().unwrap_or_default()
    }

    /// The upstream of everything that names no model.
    pub fn default_upstream(&self) -> &Arc<Upstream> {
        &self.default_upstream
    }

    /// Every upstream, in order of name.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// Price and limits of a model; `None` when neither policy nor catalogue knows it.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.catalogue.get(name)
    }

    /// Whether metrics may use this model's name as a label value.
    pub fn knows_model(&self, name: &str) -> bool {
        self.models.contains_key(name) || self.catalogue.get(name).is_some()
    }

    /// Every model with a price or a limit.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }
}

/// The policy in force.
#[derive(Debug)]
pub struct PolicyHandle(ArcSwap<Policy>);

impl PolicyHandle {
    /// Puts the first policy in force.
    pub fn new(policy: Policy) -> Self {
        Self(ArcSwap::from_pointee(policy))
    }

    /// One snapshot for the whole request, prices included.
    pub fn current(&self) -> Arc<Policy> {
        self.0.load_full()
    }
}
