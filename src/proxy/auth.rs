//! Who calls. A virtual key opens the gateway wherever it is known; with `auth: passthrough` a key
//! of the caller's own goes through, and its fingerprint tells the caller from others.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;
use http::request::Parts;

use crate::limits::Limits;
use crate::openai::error::ApiError;
use crate::policy::CaptureMode;
use crate::policy::Route;
use crate::policy::Upstream;
use crate::store::Consent;
use crate::store::Fingerprinter;
use crate::store::Grant;
use crate::store::KeyRing;
use crate::store::Refused;
use crate::telemetry::metrics::Metrics;

use super::Gateway;
use super::error;
use super::internal::Caller;

/// What every virtual key begins with.
const VIRTUAL: &[u8] = b"wk_";
const API_KEY: HeaderName = HeaderName::from_static("api-key");
/// Browsers cannot set headers on a WebSocket: OpenAI takes the key as a subprotocol.
const SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// Who gets in.
pub struct Access {
    /// Whether nobody gets in without a virtual key.
    pub requires_key: bool,
    /// The virtual keys; without a store there are none.
    pub keys: Option<Arc<KeyRing>>,
    /// Tells callers with keys of their own apart.
    pub fingerprints: Fingerprinter,
    /// How much they may use.
    pub limits: Arc<Limits>,
}

/// A caller, as limits, rules and records know it. A clone is the same caller, and cheap.
#[derive(Clone, Debug)]
pub(super) enum Client {
    /// Nobody has looked yet, or there is nobody to look at: a preflight, by design without a key.
    None,
    /// A caller without a key, at an upstream for which the gateway has one.
    Anonymous,
    /// A caller with a key of its own, by its fingerprint.
    Own(Arc<str>),
    /// A caller with a virtual key.
    Virtual(Arc<Grant>),
    /// The gateway itself, by what it does, such as `embeddings:docs`.
    Internal(Arc<str>),
}

impl Client {
    /// The key's name: the virtual key's, which stays when its secret is renewed, or `fp_…`.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Anonymous => "passthrough",
            Self::Own(fingerprint) => fingerprint,
            Self::Virtual(grant) => &grant.name,
            Self::Internal(purpose) => purpose,
        }
    }

    /// What the gateway itself calls for: it stands in the place of the rule's name.
    pub(super) fn purpose(&self) -> Option<&str> {
        match self {
            Self::Internal(purpose) => Some(purpose),
            _ => None,
        }
    }

    /// The same as a label: callers with keys of their own are one series, since nobody knows how
    /// many there are.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Own(_) => "passthrough",
            client => client.key(),
        }
    }

    /// The key's team; empty for none.
    pub(super) fn team(&self) -> &str {
        self.grant().map_or("", |grant| &grant.team)
    }

    /// The key's tags.
    pub(super) fn tags(&self) -> &[String] {
        self.grant().map_or(&[], |grant| &grant.tags)
    }

    /// `importance` of requests that do not say theirs.
    pub(super) fn importance(&self) -> &'static str {
        self.grant().map_or("normal", |grant| grant.importance.as_str())
    }

    /// The most that may be kept of what it says.
    pub(super) fn allows_capture(&self) -> CaptureMode {
        match self {
            Self::Virtual(grant) if grant.consent == Consent::None => CaptureMode::Off,
            Self::Internal(_) => CaptureMode::Metadata,
            _ => CaptureMode::Full,
        }
    }

    /// Whether what it says may become training data.
    pub(super) fn may_train(&self) -> bool {
        self.purpose().is_none() && self.grant().is_none_or(|grant| grant.consent == Consent::Train)
    }

    /// The virtual key, where the caller has one that some models are not for.
    pub(super) fn restricted(&self) -> Option<&Grant> {
        self.grant().filter(|grant| grant.is_restricted())
    }

    /// Whether what it sent as a key, if anything, is the gateway's, and nobody else's business.
    pub(super) fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_) | Self::Internal(_))
    }

    fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Virtual(grant) => Some(grant),
            _ => None,
        }
    }
}

/// Why a caller stays outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    Missing,
    Wrong(Refused),
}

impl Outside {
    /// Counts it, and says what the caller is told: the same for every wrong key.
    pub(super) fn refuse(self, metrics: &Metrics) -> ApiError {
        let (reason, error) = match self {
            Self::Missing => ("missing", error::no_key()),
            Self::Wrong(Refused::Malformed) => ("malformed", error::wrong_key()),
            Self::Wrong(Refused::Unknown) => ("unknown", error::wrong_key()),
            Self::Wrong(Refused::Revoked) => ("revoked", error::wrong_key()),
            Self::Wrong(Refused::Expired) => ("expired", error::wrong_key()),
            Self::Wrong(Refused::NotLoaded) => ("not_loaded", error::keys_not_loaded()),
        };
        metrics.auth_failure(reason);
        error
    }
}

impl Access {
    /// Looks who calls. Nothing is asked of the database.
    pub(super) fn identify(&self, method: &Method, headers: &HeaderMap) -> Result<Client, Outside> {
        match key_of(headers) {
            Some(key) if self.requires_key || key.starts_with(VIRTUAL) => {
                let ring = self.keys.as_ref().ok_or(Outside::Wrong(Refused::Unknown))?;
                ring.open(key, now()).map(Client::Virtual).map_err(Outside::Wrong)
            }
            Some(key) => Ok(Client::Own(self.fingerprints.of(key))),
            None if method == Method::OPTIONS => Ok(Client::None),
            None if self.requires_key => Err(Outside::Missing),
            None => Ok(Client::Anonymous),
        }
    }
}

impl Gateway {
    /// Looks who calls; the gateway itself needs no key.
    pub(super) fn identify(&self, head: &Parts) -> Result<Client, Outside> {
        match head.extensions.get::<Caller>() {
            Some(Caller(purpose)) => Ok(Client::Internal(Arc::clone(purpose))),
            None => self.access.identify(&head.method, &head.headers),
        }
    }

    /// Lets a caller in, for what is no call of a model.
    ///
    /// # Errors
    /// 401 `invalid_api_key`, counted.
    pub(super) fn authenticate(&self, head: &Parts) -> Result<Client, ApiError> {
        let client = self.access.identify(&head.method, &head.headers).and_then(|client| {
            check_key(&client, self.policy.current().default_upstream()).map(|()| client)
        });
        client.map_err(|outside| outside.refuse(&self.metrics))
    }
}

/// Refuses a caller without a key at an upstream for which the gateway has none, either.
pub(super) fn check_key(client: &Client, upstream: &Upstream) -> Result<(), Outside> {
    match client {
        Client::Anonymous if upstream.authorization.is_none() => Err(Outside::Missing),
        _ => Ok(()),
    }
}

/// Refuses a model that the policy or the catalogue knows and the key does not allow. Other names,
/// such as `auto`, are judged by the model that they lead to.
pub(super) fn check_asked(
    client: &Client,
    model: &str,
    known: impl FnOnce() -> bool,
) -> Result<(), ApiError> {
    match client.restricted() {
        Some(grant) if known() && !grant.allows(model) => Err(error::model_not_allowed(model)),
        _ => Ok(()),
    }
}

/// Refuses a route to a model that the key does not allow, and leaves out such fallbacks.
pub(super) fn check_route(client: &Client, route: &mut Route) -> Result<(), ApiError> {
    let Some(grant) = client.restricted() else { return Ok(()) };
    if !grant.allows(&route.target.model) {
        return Err(error::model_not_allowed(&route.target.model));
    }
    route.fallback.retain(|target| grant.allows(&target.model));
    Ok(())
}

/// Puts the gateway's own key in place of the caller's, where it has one. A virtual key never goes
/// to an upstream.
pub(super) fn credential(headers: &mut HeaderMap, client: &Client, upstream: &Upstream) {
    if upstream.authorization.is_none() && !client.is_virtual() {
        return;
    }
    headers.remove(header::AUTHORIZATION);
    headers.remove(API_KEY);
    remove_subprotocol_key(headers);
    // Whoever shows nothing gets nothing done in the gateway's name.
    let own = upstream.authorization.as_ref().filter(|_| !matches!(client, Client::None));
    if let Some(own) = own {
        headers.insert(header::AUTHORIZATION, own.clone());
    }
}

/// Whether an upstream's answer refuses a key that the caller did not send.
pub(super) fn refuses_own_key(client: &Client, upstream: &Upstream, status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED && (client.is_virtual() || upstream.authorization.is_some())
}

/// Tells a caller that it is not its key that is wrong.
pub(super) fn check_answer(
    client: &Client,
    upstream: &Upstream,
    status: StatusCode,
) -> Result<(), ApiError> {
    if !refuses_own_key(client, upstream, status) {
        return Ok(());
    }
    tracing::error!(upstream = %upstream.name, "the upstream refuses the gateway's own key, or there is none; set or renew its api_key");
    Err(error::upstream_credentials(&upstream.name))
}

/// The key that a caller sends, wherever it sends it.
fn key_of(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.as_bytes().trim_ascii();
        let scheme = value.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
        return Some(scheme.and_then(|_| value.get(7..)).unwrap_or(value).trim_ascii());
    }
    if let Some(value) = headers.get(API_KEY) {
        return Some(value.as_bytes().trim_ascii());
    }
    subprotocols(headers).find_map(|name| name.strip_prefix(SUBPROTOCOL)).map(str::as_bytes)
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
}

fn remove_subprotocol_key(headers: &mut HeaderMap) {
    if !subprotocols(headers).any(|name| name.starts_with(SUBPROTOCOL)) {
        return;
    }
    let kept = subprotocols(headers).filter(|name| !name.starts_with(SUBPROTOCOL));
    let kept = kept.collect::<Vec<_>>().join(", ");
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(kept) = HeaderValue::try_from(kept)
        && !kept.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        let pairs = pairs.map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        pairs.collect()
    }

    fn access(requires_key: bool) -> Access {
        let secret = "a secret".to_owned().into();
        let fingerprints = Fingerprinter::new(Some(&secret), None);
        Access { requires_key, keys: None, fingerprints, limits: Arc::default() }
    }

    #[test]
    fn a_key_is_found_wherever_openais_clients_put_it() {
        let key = |pairs: &[(&'static str, &'static str)]| {
            key_of(&headers(pairs)).map(|key| String::from_utf8_lossy(key).into_owned())
        };
        for (name, value) in [
            ("authorization", "Bearer k-1"),
            ("authorization", "bearer  k-1 "),
            ("authorization", "k-1"),
            ("api-key", "k-1"),
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.k-1, beta"),
        ] {
            assert_eq!(key(&[(name, value)]).as_deref(), Some("k-1"), "{name}: {value}");
        }
        assert_eq!(key(&[("authorization", "Bearer ")]).as_deref(), Some("Bearer"));
        assert_eq!(key(&[("sec-websocket-protocol", "realtime")]), None);
        assert_eq!(key(&[]), None);
    }

    #[test]
    fn callers_with_keys_of_their_own_are_told_apart_and_not_named() {
        let name = |key| {
            let headers = headers(&[("authorization", key)]);
            let client = access(false).identify(&Method::POST, &headers).unwrap();
            assert_eq!((client.label(), client.team()), ("passthrough", ""));
            client.key().to_owned()
        };
        assert_eq!(name("Bearer sk-1"), name("sk-1"));
        assert_ne!(name("Bearer sk-1"), name("Bearer sk-2"));
        // fp_ and 64 bits in hexadecimal
        assert!(name("Bearer sk-1").starts_with("fp_") && name("Bearer sk-1").len() == 3 + 16);
    }

    #[test]
    fn a_virtual_key_that_nobody_knows_never_goes_through() {
        let headers = headers(&[("authorization", "Bearer wk_123")]);
        let refused = access(false).identify(&Method::POST, &headers).map(drop);
        assert_eq!(refused, Err(Outside::Wrong(Refused::Unknown)));
    }

    #[test]
    fn where_keys_are_required_only_preflights_come_without() {
        let identify = |method, pairs| access(true).identify(method, &headers(pairs)).map(drop);
        assert_eq!(identify(&Method::POST, &[]), Err(Outside::Missing));
        assert_eq!(identify(&Method::OPTIONS, &[]), Ok(()));
        let own = [("authorization", "Bearer sk-1")];
        assert_eq!(identify(&Method::OPTIONS, &own), Err(Outside::Wrong(Refused::Unknown)));
    }

    #[test]
    fn a_virtual_key_goes_to_no_upstream() {
        let client = Client::Virtual(Arc::new(Grant::default()));
        let mut upstream = crate::policy::Policy::check(
            &crate::policy::Sources::of([("a.yaml".to_owned(), "routes: []".to_owned())].into()),
            &crate::policy::Settings::default(),
        );
        let policy = upstream.policy.take().unwrap();
        let mut sent = headers(&[
            ("authorization", "Bearer wk_1"),
            ("api-key", "wk_1"),
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.wk_1"),
            ("x-other", "1"),
        ]);
        credential(&mut sent, &client, policy.default_upstream());
        assert_eq!(sent, headers(&[("sec-websocket-protocol", "realtime"), ("x-other", "1")]));
    }
}
