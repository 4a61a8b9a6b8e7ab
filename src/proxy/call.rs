//! One call from its first byte to its [`Record`]. Dropping a [`Call`] is the one exit: bill, metrics
//! and log line happen there, whatever became of the call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::request::Parts;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::openai::endpoint::Endpoint;
use crate::openai::error::ApiError;
use crate::openai::request::RequestView;
use crate::policy::Capture;
use crate::policy::CaptureMode;
use crate::policy::Policy;
use crate::policy::Route;
use crate::policy::Target;
use crate::policy::Upstream;
use crate::store::Recorder;
use crate::telemetry::metrics::Metrics;

use super::auth;
use super::auth::Client;
use super::auth::Outside;
use super::capture::CAPTURE;
use super::error;
use super::live::LiveStats;
use super::notes::Notes;
use super::quota;
use super::record::Record;
use super::record::micros;
use super::relay::Reply;
use super::retrieve;

/// Bytes of a request and its answer that are counted before the answer leaves.
const COUNTED_AT_ONCE: usize = 64 << 10;

/// The call's record.
pub(super) const ID: HeaderName = HeaderName::from_static("x-weir-id");
const ROUTE: HeaderName = HeaderName::from_static("x-weir-route");
const MODEL: HeaderName = HeaderName::from_static("x-weir-model");
const POLICY: HeaderName = HeaderName::from_static("x-weir-policy");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-weir-attempts");
pub(super) const COST: HeaderName = HeaderName::from_static("x-weir-cost-usd");
const COST_STATUS: HeaderName = HeaderName::from_static("x-weir-cost-status");
const DECISION: HeaderName = HeaderName::from_static("x-weir-decision");
const OVERHEAD: HeaderName = HeaderName::from_static("x-weir-overhead-us");
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A call that is going on. Recorded when dropped.
pub(super) struct Call {
    record: Option<Box<Record>>,
    metrics: Arc<Metrics>,
    recorder: Option<Arc<Recorder>>,
}

impl Call {
    pub(super) fn begin(
        metrics: &Arc<Metrics>,
        recorder: Option<&Arc<Recorder>>,
        policy: Arc<Policy>,
        head: &Parts,
    ) -> Self {
        metrics.in_flight().inc();
        let record = Record {
            id: Uuid::now_v7(),
            started: Instant::now(),
            policy,
            client: Client::None,
            notes: recorder.map(|_| Notes::of(&head.headers)).unwrap_or_default(),
            user: None,
            method: head.method.clone(),
            uri: head.uri.clone(),
            endpoint: Endpoint::of(&head.method, head.uri.path()),
            asked: Arc::from(""),
            route: None,
            refused_by: None,
            trial: None,
            running: None,
            explanation: None,
            stream: false,
            request: Bytes::new(),
            retrieval: None,
            attempts: 0,
            tries: Vec::new(),
            trace: None,
            permit: None,
            refusal: None,
            capture: Capture::metadata(),
            facts: None,
            response: Bytes::new(),
            answer_id: None,
            recorded: false,
            reading: Duration::ZERO,
            waited: Duration::ZERO,
            overhead: None,
            first_event: None,
            status: 0,
            usage: None,
            service_tier: None,
            answered: None,
            finish_reason: None,
            seen_text: None,
            bill: None,
            error: "",
            complete: false,
        };
        Self {
            record: Some(Box::new(record)),
            metrics: Arc::clone(metrics),
            recorder: recorder.cloned(),
        }
    }

    /// Notes where the request goes; from here on it may cost money.
    pub(super) fn decided(
        &mut self,
        view: &RequestView,
        route: Route,
        request: Bytes,
        live: &Arc<LiveStats>,
    ) {
        // Most get what they ask for.
        let same = *route.target.model == *view.model();
        self.asked = if same { Arc::clone(&route.target.model) } else { Arc::from(view.model()) };
        self.stream = view.stream();
        if self.policy.reads_live() && self.policy.knows_model(&route.target.model) {
            self.running = Some((live.begin(&route.target.model), Arc::clone(live)));
        }
        if let Some(recorder) =
            self.recorder.as_ref().filter(|_| self.capture.mode != CaptureMode::Off)
        {
            let user = view.user(&request).or_else(|| view.string(&request, "safety_identifier"));
            let user = user.filter(|user| !user.is_empty()).map(|user| recorder.hash_user(&user));
            self.user = user;
        }
        self.route = Some(route);
        self.request = request;
    }

    /// Notes which of the route's models answered.
    pub(super) fn answered_by(&mut self, target: Arc<Target>, live: &Arc<LiveStats>) {
        let Some(route) = &mut self.route else { return };
        if route.target.model == target.model {
            return;
        }
        route.target = Arc::clone(&target);
        if let Some((running, _)) = self.running.take() {
            // It was given up on: whatever the reason, it did not answer.
            running.ended(self.started.elapsed(), true);
            self.running = Some((live.begin(&target.model), Arc::clone(live)));
        }
    }

    /// Ends the call with an error of the gateway's own.
    pub(super) fn refuse(mut self, error: &ApiError) -> Response<Reply> {
        self.error = error.code;
        self.complete = true;
        // A refused call has nothing to count, and nothing was said.
        self.request = Bytes::new();
        self.response = Bytes::new();
        self.capture = self.capture.at_most(CaptureMode::Metadata);
        let mut response = error::reply(error);
        if let Some(refusal) = &self.refusal {
            quota::explain(refusal, response.headers_mut());
        }
        self.answer_with(error.status, response.headers_mut());
        response
    }

    /// Notes that the caller was not let in: counted and logged, and nothing of it goes to the
    /// store or into a trace, however many such callers there are.
    pub(super) fn turn_away(&mut self, outside: Outside) -> ApiError {
        self.recorded = true;
        self.trace = None;
        self.capture = self.capture.at_most(CaptureMode::Off);
        outside.refuse(&self.metrics)
    }

    /// Refuses a caller without a key at an upstream for which the gateway has none, either.
    pub(super) fn check_key(&mut self, upstream: &Upstream) -> Result<(), ApiError> {
        auth::check_key(&self.client, upstream).map_err(|outside| self.turn_away(outside))
    }

    /// Notes the answer's status and writes the gateway's headers to it.
    pub(super) fn answer_with(&mut self, status: u16, headers: &mut HeaderMap) {
        let overhead = self.started.elapsed().saturating_sub(self.reading + self.waited);
        self.status = status;
        if self.attempts > 0 {
            self.overhead = Some(overhead);
        }
        headers.reserve(10);
        set(headers, ID, self.id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        headers.insert(POLICY, self.policy.revision.clone());
        let kept = self.recorder.as_ref().map_or(CaptureMode::Off, |_| self.capture.mode);
        headers.insert(CAPTURE, HeaderValue::from_static(kept.as_str()));
        headers.insert(ATTEMPTS, self.attempts.into());
        headers.insert(OVERHEAD, micros(overhead).into());
        if let Some(rule) = self.rule() {
            let name = rule.header.clone();
            headers.insert(ROUTE, name);
        }
        if let Some(route) = &self.route
            && !route.target.model.is_empty()
        {
            set(headers, MODEL, &route.target.model);
        }
        if let Some(explanation) = self.explanation.take() {
            set(headers, DECISION, &explanation);
        }
        if let Some(retrieval) = &self.retrieval {
            retrieve::tell(retrieval, headers);
        }
        if let Some(permit) = &self.permit {
            quota::tell_standing(permit, headers);
        }
        if self.attempts > 1 && status >= 400 {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
    }

    /// Notes, where the call is traced, whether its answer still comes.
    pub(super) fn answer_goes_on(&mut self, goes_on: bool) {
        if let Some(trace) = self.trace.as_mut().filter(|_| goes_on) {
            trace.goes_on();
        }
    }

    /// Moves the call into a task that outlives the request's handler.
    pub(super) fn hand_over(&mut self) -> Self {
        Self {
            record: self.record.take(),
            metrics: Arc::clone(&self.metrics),
            recorder: self.recorder.clone(),
        }
    }

    /// Whether the answer's body is kept.
    pub(super) fn keeps_bodies(&self) -> bool {
        self.recorder.is_some() && self.capture.mode == CaptureMode::Full
    }

    /// Gives up on what was said: the answer is too large, or cannot be read. Its record goes on.
    pub(super) fn lose_bodies(&mut self) {
        if self.keeps_bodies() {
            self.capture = self.capture.at_most(CaptureMode::Metadata);
            if let Some(recorder) = &self.recorder {
                recorder.lost_bodies();
            }
        }
    }

    /// Whether the record has to be on disk before the answer's last byte leaves.
    pub(super) fn is_durable(&self) -> bool {
        self.recorder.is_some() && self.capture.durable && self.capture.mode != CaptureMode::Off
    }

    /// Records the call before its end; the receiver says when that is safe from a power cut.
    pub(super) fn record_durably(&mut self) -> Option<oneshot::Receiver<()>> {
        let recorder = self.recorder.clone()?;
        if self.wants_estimate() {
            self.estimate();
        }
        let took = self.started.elapsed();
        self.bill_reported();
        self.recorded = true;
        Some(self.keep(took, |interaction, pair| recorder.record_durably(&interaction, pair)))
    }

    /// Ends the call of a client that left, whose provider refused or gave no answer: there is
    /// nothing to count.
    pub(super) fn leave_unbilled(mut self) {
        self.request = Bytes::new();
    }

    /// Prices a whole answer and writes its cost to the headers.
    pub(super) fn price_into(&mut self, headers: &mut HeaderMap) {
        // What was not reported is counted at once where that is quick, else behind the answer.
        let text = self.seen_text.as_ref().map_or(0, String::len);
        if self.wants_estimate() && self.request.len() + text <= COUNTED_AT_ONCE {
            self.estimate();
        }
        self.bill_reported();
        let Some(bill) = &self.bill else { return };
        if let Some(cost) = &bill.cost {
            set(headers, COST, cost.text().as_str());
        }
        headers.insert(COST_STATUS, HeaderValue::from_static(bill.status.as_str()));
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // A model's name can hold what a header cannot; then there is no header.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

impl std::ops::Deref for Call {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.record.as_deref().expect("a call is recorded once, when it is dropped")
    }
}

impl std::ops::DerefMut for Call {
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_deref_mut().expect("a call is recorded once, when it is dropped")
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        let (metrics, recorder) = (Arc::clone(&self.metrics), self.recorder.take());
        record.note_client_gone();
        let estimates = record.wants_estimate();
        if (estimates || record.seen_text.is_some())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Counting a long prompt takes milliseconds: not on the reactor.
            runtime.spawn_blocking(move || {
                if estimates {
                    record.estimate();
                } else {
                    record.measure_estimate(&metrics);
                }
                record.close(&metrics, recorder.as_deref());
            });
            return;
        }
        record.close(&metrics, recorder.as_deref());
    }
}

impl Call {
    /// Whether this call is one of the few whose usage is estimated although it is reported.
    pub(super) fn is_sampled(&self) -> bool {
        self.metrics.samples_estimate()
    }
}
