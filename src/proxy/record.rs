//! Everything that is known of a call, and what is said of it at its end: the bill, metrics, the log
//! line, the store's row.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use http::Uri;
use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;

use crate::limits::Permit;
use crate::limits::Real;
use crate::limits::Refusal;
use crate::metering::cost::Bill;
use crate::metering::cost::UsageSource;
use crate::metering::cost::Usd;
use crate::metering::cost::price;
use crate::metering::tokens;
use crate::openai::endpoint::Endpoint;
use crate::openai::request::RequestView;
use crate::openai::usage::Usage;
use crate::policy::Capture;
use crate::policy::CaptureMode;
use crate::policy::Policy;
use crate::policy::Route;
use crate::policy::Rule;
use crate::redact::Kinds;
use crate::store::Attempt;
use crate::store::Charge;
use crate::store::Interaction;
use crate::store::Pair;
use crate::store::Recorder;
use crate::store::Retrieval;
use crate::store::UserHash;
use crate::telemetry::line::field;
use crate::telemetry::log;
use crate::telemetry::metrics::CallLabels;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::Observation;
use crate::telemetry::traces::AttemptSpan;
use crate::telemetry::traces::CallSpan;
use crate::telemetry::traces::Trace;
use crate::telemetry::traces::TraceId;

use super::arms::Trial;
use super::attempts::Try;
use super::auth::Client;
use super::live::LiveStats;
use super::live::Running;
use super::notes::Notes;
use super::traced::Traced;

/// Status of a call whose client left before it had an answer; nginx's number for it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// What went wrong with a call whose client left.
const CLIENT_GONE: &str = "client_gone";
/// A model that neither policy nor catalogue knows, as a label value.
const OTHER: &str = "other";

/// Everything that is known of a call.
pub(super) struct Record {
    pub(super) id: Uuid,
    pub(super) started: Instant,
    pub(super) policy: Arc<Policy>,
    pub(super) client: Client,
    /// What the client noted on its request.
    pub(super) notes: Notes,
    /// The end user that the body names.
    pub(super) user: Option<UserHash>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) endpoint: Endpoint,
    /// The model that the client asked for.
    pub(super) asked: Arc<str>,
    pub(super) route: Option<Route>,
    /// The rule that refused the request.
    pub(super) refused_by: Option<Arc<Rule>>,
    /// The promoted alias that it is for.
    pub(super) trial: Option<Trial>,
    /// The route's figures, where rules ask for them.
    pub(super) running: Option<(Running, Arc<LiveStats>)>,
    /// What `x-weir-decision` says.
    pub(super) explanation: Option<String>,
    pub(super) stream: bool,
    /// The request's body, to count its tokens when the upstream does not say.
    pub(super) request: Bytes,
    /// What was put into its conversation.
    pub(super) retrieval: Option<Box<Retrieval>>,
    pub(super) attempts: u32,
    /// Each try's target and outcome.
    pub(super) tries: Vec<Try>,
    /// Its part in its trace, where traces are on.
    pub(super) trace: Option<Box<Traced>>,
    /// What it holds of its limits.
    pub(super) permit: Option<Permit>,
    /// The limit that refused it.
    pub(super) refusal: Option<Box<Refusal>>,
    /// What is kept of the call.
    pub(super) capture: Capture,
    /// What routing saw of the request.
    pub(super) facts: Option<Box<RawValue>>,
    /// The answer's body, where it is kept.
    pub(super) response: Bytes,
    /// The id that the answer gives itself.
    pub(super) answer_id: Option<String>,
    /// Whether the call's record is on its way already.
    pub(super) recorded: bool,
    /// Time spent reading the client's body.
    pub(super) reading: Duration,
    /// Time spent waiting for others until the answer began: for the upstream, and for passages of
    /// documents.
    pub(super) waited: Duration,
    pub(super) overhead: Option<Duration>,
    pub(super) first_event: Option<Duration>,
    /// Status sent to the client; 0 as long as there is none.
    pub(super) status: u16,
    pub(super) usage: Option<Usage>,
    pub(super) service_tier: Option<String>,
    /// The model that the answer names.
    pub(super) answered: Option<String>,
    pub(super) finish_reason: Option<String>,
    /// Text of the answer, for counting, where the upstream reported no usage.
    pub(super) seen_text: Option<String>,
    pub(super) bill: Option<Bill>,
    /// What went wrong; empty when nothing did.
    pub(super) error: &'static str,
    /// Whether the answer went to the client in full.
    pub(super) complete: bool,
}

impl Record {
    pub(super) fn note_client_gone(&mut self) {
        if !self.complete && self.error.is_empty() {
            self.error = CLIENT_GONE;
        }
        if self.status == 0 {
            self.status = CLIENT_CLOSED_REQUEST;
        }
    }

    /// Whether the provider worked for this call and did not say how much.
    pub(super) fn wants_estimate(&self) -> bool {
        let worked = self.status < 400 || self.status == CLIENT_CLOSED_REQUEST;
        self.usage.is_none() && worked && !self.request.is_empty()
    }

    pub(super) fn estimate(&mut self) {
        let model = self.route.as_ref().map_or("", |route| &route.target.model);
        let text = self.seen_text.take().unwrap_or_default();
        let usage = Usage {
            input: self.estimate_input(model),
            output: tokens::count_text(model, &text),
            ..Usage::default()
        };
        self.usage = Some(usage);
        self.bill = Some(self.bill_of(&usage, UsageSource::Estimated));
    }

    /// Tokens of the prompt as it was sent.
    fn estimate_input(&self, model: &str) -> u64 {
        let added = self.retrieval.as_ref().map_or(0, |retrieval| retrieval.tokens);
        tokens::estimate_prompt(model, &self.request).saturating_add(added)
    }

    pub(super) fn bill_of(&self, usage: &Usage, source: UsageSource) -> Bill {
        let names = [
            self.route.as_ref().map(|route| &*route.target.model),
            self.route.as_ref().map(|route| &*route.target.upstream_model),
            self.answered.as_deref(),
        ];
        // The policy's own price first, then the model behind an alias, then what answered.
        let model = names.into_iter().flatten().find_map(|name| self.policy.model(name));
        let long_retention = usage.cache_write > 0 && self.wants_long_retention();
        let usage = Usage { long_retention, ..*usage };
        price(model, &usage, source, self.service_tier.as_deref())
    }

    /// Whether the request asked for the prompt cache that is kept for a day.
    fn wants_long_retention(&self) -> bool {
        RequestView::parse_model_optional(&self.request).is_ok_and(|view| {
            view.string(&self.request, "prompt_cache_retention").is_some_and(|kept| kept == "24h")
        })
    }

    /// Estimates what the provider has reported, as if it had not, and records by how much that is
    /// wrong: so operators know what estimates are worth.
    pub(super) fn measure_estimate(&mut self, metrics: &Metrics) {
        let (Some(usage), Some(text)) = (self.usage, self.seen_text.take()) else { return };
        let model = self.route.as_ref().map_or("", |route| &route.target.model);
        metrics.estimate_error("input", self.estimate_input(model), usage.input);
        metrics.estimate_error("output", tokens::count_text(model, &text), usage.output);
    }

    pub(super) fn close(mut self: Box<Self>, metrics: &Metrics, recorder: Option<&Recorder>) {
        self.bill_reported();
        let took = self.started.elapsed();
        self.note_live(took);
        self.settle();
        metrics.record(&self.labels(), &self.observation(took));
        self.log(took);
        if let Some(recorder) = recorder.filter(|_| !self.recorded) {
            self.keep(took, |interaction, pair| recorder.record(&interaction, pair));
        }
        if let Some(trace) = self.trace.take() {
            let of_call = |trace, began, attempts| self.spans(trace, (began, took), attempts);
            trace.finish((self.started, took), self.error, of_call);
        }
        metrics.in_flight().dec();
    }

    /// Gives back of its limits what the call did not use.
    fn settle(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let usage = self.usage.unwrap_or_default();
        // Not what failed through no fault of the request's, or was never sent.
        let failed = self.status >= 500 || matches!(self.status, 408 | 429 | CLIENT_CLOSED_REQUEST);
        permit.settle(&Real {
            counts: self.usage.is_some() || self.attempts > 0 && !failed,
            tokens: usage.input.saturating_add(usage.output),
            usd: self.bill.as_ref().and_then(|bill| bill.cost).unwrap_or_default(),
        });
    }

    pub(super) fn bill_reported(&mut self) {
        if self.bill.is_none()
            && let Some(usage) = self.usage
        {
            self.bill = Some(self.bill_of(&usage, UsageSource::Reported));
        }
    }

    /// Hands the call to `record` as far as it may be kept.
    pub(super) fn keep<R>(
        &mut self,
        took: Duration,
        record: impl FnOnce(Interaction<'_>, Option<Pair>) -> R,
    ) -> R {
        let full = self.capture.mode == CaptureMode::Full && !self.request.is_empty();
        let pair = full.then(|| Pair {
            request: self.request.clone(),
            response: self.response.clone(),
            redact: Kinds { secrets: self.capture.redact_secrets, pii: self.capture.redact_pii },
            may_train: self.client.may_train(),
            conversation: self
                .notes
                .session
                .as_ref()
                .map(|name| format!("{} {name}", self.client.key())),
        });
        let tries = self.tries.iter().map(|(target, outcome)| Attempt {
            upstream: &target.upstream.name,
            model: &target.model,
            outcome,
        });
        let attempt_log: Vec<_> = tries.collect();
        let interaction = Interaction { attempt_log: &attempt_log, ..self.interaction(took) };
        record(interaction, pair)
    }

    /// The rule that decided, whatever it decided.
    pub(super) fn rule(&self) -> Option<&Rule> {
        self.route.as_ref().map(|route| &*route.rule).or(self.refused_by.as_deref())
    }

    /// The name of the rule that decided, or what the gateway called for.
    fn route_name(&self) -> Option<&str> {
        self.client.purpose().or_else(|| self.rule().map(|rule| &*rule.name))
    }

    /// Tells the live figures how the call ended. A refusal of the request itself is no failure of
    /// the provider.
    fn note_live(&self, took: Duration) {
        let (Some((running, live)), Some(route)) = (&self.running, &self.route) else { return };
        if self.error == "client_gone" || self.attempts == 0 {
            return;
        }
        running.ended(
            took,
            self.status >= 500 || self.status == 429 || self.error.starts_with("upstream"),
        );
        if let Some(usage) = self.usage.filter(|_| self.complete && self.status < 400) {
            live.output(&route.rule.name, usage.output);
        }
    }

    /// The call as the store keeps it.
    fn interaction(&self, took: Duration) -> Interaction<'_> {
        let route = self.route.as_ref();
        let since = self.id.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let created_at = since.0 * 1000 + u64::from(since.1 / 1_000_000);
        // Of a call that is not kept, the ledger knows who paid, and nothing about who asked.
        let known = self.capture.mode != CaptureMode::Off;
        Interaction {
            id: self.id,
            created_at,
            key_name: self.client.key(),
            team: self.client.team(),
            key_tags: self.client.tags(),
            end_user_hash: self.user.as_ref(),
            session_id: self.notes.session.as_deref().filter(|_| known),
            tags: if known { &self.notes.tags } else { &[] },
            endpoint: self.endpoint.name(),
            route: self.route_name().unwrap_or_default(),
            policy_version: self.policy.revision(),
            requested_model: &self.asked,
            model: route.map_or("", |route| &*route.target.model),
            upstream_model: route.map_or("", |route| &*route.target.upstream_model),
            response_model: self.answered.as_deref(),
            provider: route.map_or("", |route| &*route.target.upstream.name),
            service_tier: self.service_tier.as_deref(),
            streamed: self.stream,
            status_code: self.status,
            error_code: self.error,
            finish_reason: self.finish_reason.as_deref(),
            client_left: self.error == CLIENT_GONE,
            attempts: self.attempts,
            latency_ms: millis(took),
            ttft_ms: self.first_event.map(millis),
            charge: self.bill.as_ref().map(Charge::of),
            response_id: self.answer_id.as_deref().filter(|_| known),
            attempt_log: &[],
            capture: Some(self.capture.mode.as_str()),
            expires_at: self.capture.keep.map(|keep| created_at.saturating_add(millis(keep))),
            facts: self.facts.as_deref().filter(|_| known),
            alias: self.trial.as_ref().map(|trial| &*trial.alias),
            alias_arm: self.trial.as_ref().map(|trial| &*trial.arm),
            retrieval: self.retrieval.as_deref().filter(|_| known),
        }
    }

    fn labels(&self) -> CallLabels<'_> {
        let route = self.route.as_ref();
        let routed = route.map_or("", |route| &*route.target.model);
        let routed_label = self.label(routed);
        // Most calls are asked, routed and answered under one name: it is looked up once.
        let label = |name| if name == routed { routed_label } else { self.label(name) };
        let answered = label(self.answered.as_deref().unwrap_or(routed));
        CallLabels {
            operation: self.endpoint.operation(),
            request_model: label(&self.asked),
            response_model: if answered == OTHER { routed_label } else { answered },
            provider: route.map_or("", |route| &route.target.upstream.name),
            error_type: self.error,
            team: self.client.team(),
            key: self.client.label(),
            model: routed_label,
            route: self.route_name().unwrap_or("none"),
            status: self.status,
        }
    }

    /// A model's name as a label value: only names that policy or catalogue know.
    fn label<'a>(&self, name: &'a str) -> &'a str {
        // Aliases are made by operators, and a tuned model by its promotion: there are few.
        let trial = self.trial.as_ref();
        let promoted = trial.is_some_and(|trial| *trial.alias == *name || *trial.arm == *name);
        if name.is_empty() || promoted || self.policy.knows_model(name) { name } else { OTHER }
    }

    fn observation(&self, took: Duration) -> Observation {
        Observation {
            took,
            first_token: self.first_event,
            overhead: self.overhead,
            usage: self.usage,
            usage_estimated: self.bill.as_ref().is_some_and(|b| b.source == UsageSource::Estimated),
            cost: self.bill.as_ref().and_then(|bill| bill.cost),
            asked_cost: self.asked_cost(),
            trace: self.trace_id(),
        }
    }

    /// The id of the call's trace, where that is kept.
    fn trace_id(&self) -> Option<TraceId> {
        self.trace.as_ref().and_then(|trace| trace.sampled())
    }

    /// The call as its trace tells it.
    fn spans(
        &self,
        trace: Trace,
        (began, took): (SystemTime, Duration),
        attempts: Vec<AttemptSpan>,
    ) -> CallSpan {
        let target = self.route.as_ref().map(|route| &route.target);
        let bill = self.bill.as_ref();
        let known = self.capture.mode != CaptureMode::Off;
        CallSpan {
            trace,
            id: self.id,
            began,
            took,
            first_token: self.first_event,
            overhead: self.overhead,
            operation: self.endpoint.operation(),
            label: self.label(&self.asked).to_owned(),
            method: self.method.clone(),
            path: self.uri.path().to_owned(),
            status: self.status,
            error: self.error,
            stream: self.stream,
            asked: Arc::clone(&self.asked),
            chosen: target.map(|target| Arc::clone(&target.model)).unwrap_or_default(),
            provider: target.map(|target| target.upstream.name.clone()).unwrap_or_default(),
            answered: self.answered.clone(),
            response_id: self.answer_id.clone().filter(|_| known),
            finish_reason: self.finish_reason.clone(),
            usage: self.usage.zip(bill.map(|bill| bill.source.as_str())),
            cost: bill.and_then(|bill| bill.cost),
            cost_status: bill.map(|bill| bill.status.as_str()),
            route: self.route_name().unwrap_or("none").to_owned(),
            policy: self.policy.revision().to_owned(),
            capture: self.capture.mode.as_str(),
            team: self.client.team().to_owned(),
            key: self.client.key().to_owned(),
            attempts,
        }
    }

    /// What the call would have cost at the model that was asked for, where another one answered
    /// and both have a price. The usage is that of the answer: how many tokens the other model had
    /// needed nobody knows.
    fn asked_cost(&self) -> Option<Usd> {
        let (route, bill) = (self.route.as_ref()?, self.bill.as_ref()?);
        if *self.asked == *route.target.model || bill.cost.is_none() {
            return None;
        }
        let asked = self.policy.model(&self.asked)?;
        price(Some(asked), &bill.usage, bill.source, self.service_tier.as_deref()).cost
    }

    /// Writes the call's log line. No word of the request or the answer is in it.
    fn log(&self, took: Duration) {
        log::request(|line| {
            line.word(
                field!("id"),
                self.id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()),
            );
            line.text(field!("method"), self.method.as_str());
            line.text(field!("path"), self.uri.path());
            line.number(field!("status"), self.status.into());
            if let Some(trace) = self.trace_id() {
                line.text(field!("trace_id"), &trace.to_string());
            }
            line.text(field!("error"), self.error);
            if let Some(route) = self.route_name() {
                line.text(field!("route"), route);
            }
            if let Some(route) = &self.route {
                line.text(field!("upstream"), &route.target.upstream.name);
                line.text(field!("asked"), &self.asked);
                line.text(field!("model"), &route.target.model);
            }
            line.number(field!("attempts"), self.attempts.into());
            if let Some(bill) = &self.bill {
                line.number(field!("input_tokens"), bill.usage.input);
                line.number(field!("output_tokens"), bill.usage.output);
                line.word(field!("usage_source"), bill.source.as_str());
                line.word(field!("cost_status"), bill.status.as_str());
                if let Some(cost) = bill.cost {
                    line.word(field!("cost_usd"), cost.text().as_str());
                }
            }
            if let Some(reason) = &self.finish_reason {
                line.text(field!("finish_reason"), reason);
            }
            line.number(field!("took_ms"), millis(took));
            if let Some(first) = self.first_event {
                line.number(field!("first_token_ms"), millis(first));
            }
            if let Some(share) = self.overhead {
                line.number(field!("overhead_us"), micros(share));
            }
        });
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
