//! The data plane: the journey of one request. Start at [`Gateway::handle`].

mod arms;
mod attempts;
mod auth;
mod body;
mod call;
mod capture;
mod decide;
mod decode;
mod error;
mod feedback;
mod head;
mod internal;
mod live;
mod models;
mod notes;
mod passages;
mod passthrough;
mod quota;
mod radar;
mod record;
mod relay;
mod retrieve;
mod search;
mod traced;
mod tunnel;
mod unattended;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::header;
use http::request::Parts;
use http_body::Body;

use crate::openai::endpoint::Endpoint;
use crate::openai::error::ApiError;
use crate::openai::question::Insert;
use crate::openai::request::Patch;
use crate::openai::request::RequestView;
use crate::openai::request::Spliced;

use crate::policy::OnDisconnect;
use crate::policy::PolicyHandle;
use crate::policy::Route;
use crate::policy::Target;
use crate::store::AliasBook;
use crate::store::Recorder;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Tracer;
use crate::upstream::BodyError;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Path;
use crate::upstream::Upstreams;

pub use auth::Access;
pub use internal::InternalAnswer;
pub use live::LiveStats;
pub use live::LiveView;
pub use live::today;
pub use radar::look as look_for_shutdowns;
pub use relay::Reply;
pub use search::Search;
pub use search::Searching;

use arms::Pruned;
use attempts::Answer;
use auth::Outside;
use call::Call;
use decide::Asked;
use decide::capture_of_head;
use decide::decide;
use relay::Observer;
use traced::Traced;
use unattended::Unattended;

/// The gateway between clients and providers. A clone is the same gateway.
#[derive(Clone)]
pub struct Gateway {
    policy: Arc<PolicyHandle>,
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    live: Arc<LiveStats>,
    recorder: Option<Arc<Recorder>>,
    access: Arc<Access>,
    aliases: Arc<AliasBook>,
    search: Option<Search>,
    tracer: Option<Arc<Tracer>>,
    body_limit: u64,
}

/// Marks a request whose head says its length in two ways, or ends lines in an unusual one. Put into
/// a request's extensions by the server, which sees the raw bytes.
#[derive(Clone, Copy, Debug)]
pub struct FramingFault;

/// What a request led to, before it is dressed for the client.
enum Outcome {
    Answered(Answer, Observer),
    Tunnel(Response<Reply>),
}

impl Gateway {
    /// A gateway that takes request bodies of at most `body_limit` bytes on the endpoints that it
    /// reads; others are passed on while they are read, whatever their size. Without a recorder no
    /// call is kept.
    pub fn new(
        policy: Arc<PolicyHandle>,
        upstreams: Arc<Upstreams>,
        metrics: Arc<Metrics>,
        live: Arc<LiveStats>,
        recorder: Option<Arc<Recorder>>,
        access: Access,
        body_limit: u64,
    ) -> Self {
        let (access, aliases) = (Arc::new(access), Arc::default());
        Self {
            policy,
            upstreams,
            metrics,
            live,
            recorder,
            access,
            aliases,
            search: None,
            tracer: None,
            body_limit,
        }
    }

    /// The same, with names that lead to promoted models.
    #[must_use]
    pub fn with_aliases(self, aliases: Arc<AliasBook>) -> Self {
        Self { aliases, ..self }
    }

    /// The same, with documents that apps may search.
    #[must_use]
    pub fn with_search(self, search: Search) -> Self {
        Self { search: Some(search), ..self }
    }

    /// The same, with traces.
    #[must_use]
    pub fn with_tracer(self, tracer: Arc<Tracer>) -> Self {
        Self { tracer: Some(tracer), ..self }
    }

    /// Answers one request. Whatever becomes of it, dropping its `Call` bills, counts and logs
    /// it: also when the client leaves and this future is dropped.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        let (mut head, body) = request.into_parts();
        if head.uri.path() == feedback::PATH {
            return feedback::answer(self, &head, body).await;
        }
        if head.uri.path() == search::PATH {
            return search::answer(self, &head, body).await;
        }
        let policy = self.policy.current();
        let mut call = Call::begin(&self.metrics, self.recorder.as_ref(), policy, &head);
        call.trace = self.tracer.as_ref().map(|tracer| Traced::begin(tracer, &head.headers));
        let identified = self.identify(&head);
        let outside = identified.map(|client| call.client = client).err();
        call.capture = capture_of_head(self, &head.headers, &call);
        match self.serve(&mut head, body, &mut call, outside).await {
            Ok(Outcome::Answered(answer, observer)) => relay::reply(answer, observer, call).await,
            Ok(Outcome::Tunnel(response)) => response,
            Err(error) => call.refuse(&error),
        }
    }

    async fn serve<B>(
        &self,
        head: &mut Parts,
        body: B,
        call: &mut Call,
        outside: Option<Outside>,
    ) -> Result<Outcome, ApiError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        head::check(head)?;
        let Some(path) = head::below_v1(&head.uri) else {
            return Err(error::not_found(head.uri.path()));
        };
        if let Some(outside) = outside {
            return Err(call.turn_away(outside));
        }
        let default = Arc::clone(call.policy.default_upstream());
        if head::wants_websocket(&head.headers) {
            call.check_key(&default)?;
            quota::admit_head(self, head, call).await?;
            return tunnel::open(self, head, path, call).await;
        }
        match call.endpoint {
            Endpoint::Other => passthrough::forward(self, head, path, body, call).await,
            _ => self.understood(head, &path, body, call).await,
        }
    }

    /// The endpoints whose requests are read: counted, routed, priced.
    async fn understood<B>(
        &self,
        head: &Parts,
        path: &Path,
        body: B,
        call: &mut Call,
    ) -> Result<Outcome, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BodyError>,
    {
        // Who has no key at all is refused before the body is read.
        let default = Arc::clone(call.policy.default_upstream());
        call.check_key(&default)?;
        let raw = body::read(&head.headers, body, self.body_limit).await?;
        // What came before reading is a look at the head: not worth a clock of its own.
        call.reading = call.started.elapsed();
        let view = match call.endpoint {
            Endpoint::Responses => RequestView::parse_model_optional(&raw)?,
            _ => RequestView::parse(&raw)?,
        };
        let asked = Asked { headers: &head.headers, view: &view, body: &raw };
        auth::check_asked(&call.client, view.model(), || call.policy.knows_model(view.model()))?;
        let mut decision = decide(self, &asked, call).await?;
        auth::check_route(&call.client, &mut decision.route)?;
        let draw = call.id.into_bytes();
        call.trial = arms::resolve(&self.aliases, &call.policy, &asked, &draw, &mut decision.route);
        capture::check(call.capture, self.recorder.as_deref())?;
        let route = quota::admit(self, decision, call).await?;
        call.check_key(&route.target.upstream)?;
        call.decided(&view, route.clone(), raw.clone(), &self.live);

        let (answer, observer) = match route.rule.on_disconnect {
            OnDisconnect::Cancel => self.ask(head, path, &view, &raw, &route, call).await?,
            OnDisconnect::Drain => self.ask_unattended(head, path, view, raw, route, call).await?,
        };
        Ok(Outcome::Answered(answer, observer))
    }

    /// The same as [`Self::ask`], and it goes on when the client leaves.
    async fn ask_unattended(
        &self,
        head: &Parts,
        path: &Path,
        view: RequestView,
        raw: Bytes,
        route: Route,
        call: &mut Call,
    ) -> Result<(Answer, Observer), ApiError> {
        let (gateway, head, path) = (self.clone(), head.clone(), path.clone());
        let mut own = call.hand_over();
        let work =
            async move { (gateway.ask(&head, &path, &view, &raw, &route, &mut own).await, own) };
        let (answered, own) = Unattended::new(work).await;
        *call = own;
        answered
    }

    /// Asks the route's targets until there is an answer for the client.
    async fn ask(
        &self,
        head: &Parts,
        path: &Path,
        view: &RequestView,
        raw: &Bytes,
        route: &Route,
        call: &mut Call,
    ) -> Result<(Answer, Observer), ApiError> {
        let client = call.client.clone();
        let asks_usage = view.stream()
            && matches!(call.endpoint, Endpoint::ChatCompletions | Endpoint::Completions);
        let set: Vec<_> = route.rule.set.iter().map(|(name, value)| (&**name, &**value)).collect();
        let trial = call.trial.clone();
        let pruned = Pruned::of(trial.as_ref(), raw);
        // Once, whatever becomes of the attempts.
        let message = retrieve::message(self, view, raw, route, call).await;
        let conversation = call.endpoint.conversation();
        let insert = message.as_deref().zip(conversation);
        let insert = insert.map(|(text, conversation)| Insert { conversation, text });
        let body = |target: &Target| {
            let (view, raw) =
                pruned.for_target(target).map_or((view, raw), |(view, raw)| (view, raw));
            let model =
                (*target.upstream_model != *view.model()).then_some(&*target.upstream_model);
            let patch = Patch { model, ask_usage: asks_usage, set: &set, insert };
            let Spliced { first, rest } = view.splice(raw, &patch);
            OutBody::pieces(first, rest)
        };
        let outgoing = |target: &Target| {
            let mut headers = head::for_upstream(&head.headers);
            headers.remove(header::CONTENT_LENGTH);
            head::readable(&mut headers, view.stream());
            auth::credential(&mut headers, &client, &target.upstream);
            outgoing(head, path.clone(), headers, body(target))
        };
        let (upstreams, metrics) = (&self.upstreams, &self.metrics);
        let started = call.started;
        let asks = (&client, route, call.trace.as_deref_mut());
        let tried = attempts::first_answer(upstreams, metrics, asks, outgoing, started).await;
        call.attempts = tried.attempts;
        call.tries = tried.tries;
        call.waited += tried.waited;
        call.answered_by(tried.target, &self.live);
        let answer = tried.answer?;
        call.answer_goes_on(answer.rest.is_some());
        let strip_usage = asks_usage && !view.client_wants_usage();
        let observer = Observer::of(call, &answer, strip_usage);
        Ok((answer, observer))
    }
}

fn outgoing(head: &Parts, path: Path, headers: HeaderMap, body: OutBody) -> Outgoing {
    Outgoing { method: head.method.clone(), path, headers, body, upgrade: false }
}
