//! The way to a provider: connections that are kept, TLS, deadlines, gates and the retry budget.

mod body;
mod budget;
pub mod collector;
mod connect;
mod gate;
mod io;
pub mod outside;
mod path;
mod pool;

use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::Uri;
use http::header;
use http::uri::Authority;
use http::uri::Scheme;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::policy::Policy;
use crate::policy::Target;
use crate::policy::Timeouts;
use crate::policy::Upstream;

pub use body::AnswerBody;
pub use body::BodyError;
pub use body::OutBody;
pub use body::root_cause;
pub use budget::RetryBudget;
pub use gate::Gates;
pub use path::Path;

use body::Permit;
use connect::Connector;
use pool::Lease;
use pool::Pool;

/// A request on its way to a provider.
#[derive(Debug)]
pub struct Outgoing {
    /// HTTP method.
    pub method: Method,
    /// What follows the provider's base URL.
    pub path: Path,
    /// End-to-end headers; `Host` is set here.
    pub headers: HeaderMap,
    /// The body.
    pub body: OutBody,
    /// A WebSocket handshake: HTTP/1.1 on a connection of its own.
    pub upgrade: bool,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Failure {
    /// Name look-up, TCP or TLS failed; nothing was sent.
    #[error("{upstream} could not be reached: {reason}")]
    Connect {
        /// The upstream's name.
        upstream: String,
        /// What the system said.
        reason: String,
    },
    /// No answer in time.
    #[error("{upstream} did not answer within {} s", after.as_secs_f64())]
    Timeout {
        /// The upstream's name.
        upstream: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The connection ended before an answer.
    #[error("{upstream} closed the connection before it answered: {reason}")]
    Closed {
        /// The upstream's name.
        upstream: String,
        /// What the HTTP engine said.
        reason: String,
        /// Whether it was a kept connection, which the provider may have been closing already.
        reused: bool,
    },
    /// As many calls as `max_in_flight` allows are running.
    #[error("{upstream} has {limit} calls running, its max_in_flight")]
    Full {
        /// The upstream's name.
        upstream: String,
        /// The limit.
        limit: usize,
    },
    /// The client's body could not be read to its end.
    #[error("the request's body ended early: {0}")]
    ClientBody(String),
}

impl Failure {
    /// Label value for `weir_attempts_total`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect_error",
            Self::Timeout { .. } => "timeout",
            Self::Closed { .. } => "closed",
            Self::Full { .. } => "full",
            Self::ClientBody(_) => "client_body",
        }
    }
}

/// Upstream clients cannot be set up: a certificate file that cannot be used.
#[derive(Debug, Error)]
#[error("upstream `{upstream}`: {reason}")]
pub struct SetupError {
    upstream: String,
    reason: String,
}

/// Every upstream of the policy, with its connections.
pub struct Upstreams {
    /// By what they were made from: a change of the policy never sends a request that began under
    /// the old one to a provider of the new one.
    clients: DashMap<Arc<str>, Arc<Client>, RandomState>,
    /// What share of the traffic may be retries.
    pub budget: RetryBudget,
    /// Targets that asked for a pause.
    pub gates: Gates,
}

/// A request without an answer.
enum Lost {
    /// It was never written; here it is again.
    Unsent(hyper::Error, Box<Request<OutBody>>),
    /// It may have been read.
    Sent(hyper::Error),
    /// The deadline passed.
    Late(Duration),
}

impl From<TrySendError<Request<OutBody>>> for Lost {
    fn from(mut error: TrySendError<Request<OutBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(error.into_error(), Box::new(request)),
            None => Self::Sent(error.into_error()),
        }
    }
}

struct Client {
    name: String,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    prefix: String,
    timeouts: Timeouts,
    max_in_flight: usize,
    permits: Arc<Semaphore>,
    connector: Connector,
    pool: Arc<Pool>,
}

impl Upstreams {
    /// One client for each upstream of `policy`.
    ///
    /// # Errors
    /// A `ca_file` that cannot be read, or no usable system certificates for an https upstream.
    pub fn new(policy: &Policy) -> Result<Self, SetupError> {
        let upstreams = Self {
            clients: DashMap::default(),
            budget: RetryBudget::default(),
            gates: Gates::default(),
        };
        upstreams.prepare(policy)?;
        Ok(upstreams)
    }

    /// Makes the clients that a policy needs and that are not there yet. Reads certificates.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn prepare(&self, policy: &Policy) -> Result<(), SetupError> {
        policy.upstreams().try_for_each(|upstream| self.client(upstream).map(drop))
    }

    fn client(&self, upstream: &Upstream) -> Result<Arc<Client>, SetupError> {
        if let Some(client) = self.clients.get(&upstream.identity) {
            return Ok(Arc::clone(&client));
        }
        let client = Arc::new(Client::new(upstream)?);
        Ok(Arc::clone(&self.clients.entry(Arc::clone(&upstream.identity)).or_insert(client)))
    }

    /// Sends one request and waits for the head of the answer.
    ///
    /// # Errors
    /// There is no answer; [`Failure`] says why. An answer of any status is no error.
    pub async fn send(
        &self,
        upstream: &Upstream,
        outgoing: Outgoing,
    ) -> Result<Response<AnswerBody>, Failure> {
        let client = self.client(upstream).map_err(|error| {
            let (upstream, reason) = (upstream.name.clone(), error.to_string());
            Failure::Connect { upstream, reason }
        })?;
        client.send(outgoing).await
    }

    /// Whether a target takes requests: its gate is open, and its provider has room.
    pub fn is_available(&self, target: &Target) -> bool {
        let client = self.clients.get(&target.upstream.identity);
        client.is_some_and(|client| client.permits.available_permits() > 0)
            && self.gates.is_open(&target.upstream.name, &target.upstream_model)
    }

    /// Closes connections that nobody used for a while, and forgets providers that are no longer in
    /// the policy once nothing runs there. Rung by time.
    pub fn sweep(&self, policy: &Policy) {
        self.clients.retain(|identity, client| {
            client.pool.sweep();
            let named = policy.upstreams().any(|upstream| upstream.identity == *identity);
            named || client.permits.available_permits() < client.max_in_flight
        });
        self.gates.sweep();
    }
}

impl Client {
    fn new(upstream: &Upstream) -> Result<Self, SetupError> {
        let fail = |reason: String| SetupError { upstream: upstream.name.clone(), reason };
        let parts = upstream.base_url.clone().into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(fail("its base_url has no scheme or host".to_owned()));
        };
        let connector =
            Connector::new(&scheme, &authority, upstream.ca_file.as_deref()).map_err(fail)?;
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|error| fail(format!("its host cannot be a header: {error}")))?;
        Ok(Self {
            name: upstream.name.clone(),
            host,
            prefix: upstream.base_url.path().trim_end_matches('/').to_owned(),
            scheme,
            authority,
            timeouts: upstream.timeouts,
            max_in_flight: upstream.max_in_flight,
            permits: Arc::new(Semaphore::new(upstream.max_in_flight)),
            connector,
            pool: Arc::default(),
        })
    }

    async fn send(&self, outgoing: Outgoing) -> Result<Response<AnswerBody>, Failure> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Err(Failure::Full { upstream: self.name.clone(), limit: self.max_in_flight });
        };
        let progress = outgoing.body.progress();
        let (lease, answer) = if outgoing.upgrade {
            let lease = self.dial(true).await?;
            let request = self.request(outgoing, lease.is_http2());
            self.exchange(lease, request, progress)
                .await
                .map_err(|lost| self.closed(lost, false))?
        } else {
            self.call(outgoing, progress).await?
        };
        Ok(answer.map(|incoming| AnswerBody::new(incoming, lease, Permit(permit))))
    }

    /// Sends on a kept connection, or a new one. A kept connection may have been closed by the
    /// provider a moment ago: a request that it never took goes out again on a new one.
    async fn call(
        &self,
        outgoing: Outgoing,
        progress: body::Progress,
    ) -> Result<(Lease, Response<Incoming>), Failure> {
        let Some(lease) = self.pool.take() else {
            let lease = self.connect().await?;
            let request = self.request(outgoing, lease.is_http2());
            let sent = self.exchange(lease, request, progress).await;
            return sent.map_err(|lost| self.closed(lost, false));
        };
        let http2 = lease.is_http2();
        let request = self.request(outgoing, http2);
        match self.exchange(lease, request, progress.clone()).await {
            Ok(answered) => Ok(answered),
            Err(Lost::Unsent(_, request)) => {
                let lease = self.connect().await?;
                if lease.is_http2() != http2 {
                    let reason = "it changed its HTTP version".to_owned();
                    return Err(Failure::Connect { upstream: self.name.clone(), reason });
                }
                let sent = self.exchange(lease, *request, progress).await;
                sent.map_err(|lost| self.closed(lost, false))
            }
            Err(lost) => Err(self.closed(lost, true)),
        }
    }

    async fn exchange(
        &self,
        mut lease: Lease,
        request: Request<OutBody>,
        progress: body::Progress,
    ) -> Result<(Lease, Response<Incoming>), Lost> {
        let answer = self.wait(pin!(lease.send(request)), progress).await?;
        Ok((lease, answer?))
    }

    /// Waits for the answer's head. The deadline runs from the request's last byte; a provider that
    /// takes nothing of the body for as long has missed it, too.
    async fn wait<T>(
        &self,
        mut answer: Pin<&mut impl Future<Output = T>>,
        progress: body::Progress,
    ) -> Result<T, Lost> {
        let after = self.timeouts.first_byte;
        loop {
            let pieces = progress.pieces();
            if let Ok(answer) = tokio::time::timeout(after, answer.as_mut()).await {
                return Ok(answer);
            }
            if progress.sent() || progress.stuck_at(pieces) {
                return Err(Lost::Late(after));
            }
        }
    }

    async fn connect(&self) -> Result<Lease, Failure> {
        if !self.connector.may_share() {
            return self.dial(false).await;
        }
        // One dial at a time while connections can be shared: a burst must not open one each.
        let _turn = self.pool.dialling().await;
        match self.pool.take() {
            Some(lease) => Ok(lease),
            None => self.dial(false).await,
        }
    }

    async fn dial(&self, http1_only: bool) -> Result<Lease, Failure> {
        let after = self.timeouts.connect;
        let dial = self.connector.connect(&self.pool, http1_only);
        match tokio::time::timeout(after, dial).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(error)) => {
                let reason = error.to_string();
                Err(Failure::Connect { upstream: self.name.clone(), reason })
            }
            Err(_) => {
                let reason = format!("no connection within {} s", after.as_secs_f64());
                Err(Failure::Connect { upstream: self.name.clone(), reason })
            }
        }
    }

    fn request(&self, outgoing: Outgoing, http2: bool) -> Request<OutBody> {
        let Outgoing { method, path, mut headers, body, .. } = outgoing;
        let target = path.below(&self.prefix);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        if http2 {
            let uri = Uri::builder()
                .scheme(self.scheme.clone())
                .authority(self.authority.clone())
                .path_and_query(target);
            *request.uri_mut() = uri.build().unwrap_or_default();
            *request.version_mut() = http::Version::HTTP_2;
        } else {
            *request.uri_mut() = target.into();
            headers.insert(header::HOST, self.host.clone());
        }
        *request.headers_mut() = headers;
        request
    }

    fn closed(&self, lost: Lost, reused: bool) -> Failure {
        let upstream = self.name.clone();
        match lost {
            Lost::Late(after) => Failure::Timeout { upstream, after },
            Lost::Unsent(error, _) | Lost::Sent(error) => {
                if error.is_user() || error.is_body_write_aborted() {
                    return Failure::ClientBody(root_cause(&error));
                }
                Failure::Closed { upstream, reason: root_cause(&error), reused }
            }
        }
    }
}

impl Outgoing {
    /// The same request, where its body can be sent twice.
    pub fn try_clone(&self) -> Option<Self> {
        Some(Self {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.clone(),
            body: self.body.try_clone()?,
            upgrade: self.upgrade,
        })
    }
}
