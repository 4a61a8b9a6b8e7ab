//! Every metric series: name, unit, labels. Names follow OpenTelemetry's GenAI conventions as
//! Prometheus exporters spell them, and `weir_*` for what is the gateway's own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use prometheus::Encoder;
use prometheus::GaugeVec;
use prometheus::Histogram;
use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Registry;
use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use crate::metering::cost::Usd;
use crate::openai::usage::Usage;

use super::cost::CostCounter;
use super::cost::CostSeries;
use super::cost::Spenders;
use super::exemplars::Exemplars;
use super::exemplars::Lasts;
use super::openmetrics;
use super::room::Histograms;
use super::room::Lazy;
use super::room::OTHER;
pub use super::shelf::Described;
use super::shelf::Shelf;
use super::shelf::counter;
use super::shelf::counters;
use super::shelf::float_gauges;
use super::shelf::gauge;
use super::shelf::gauges;
use super::shelf::histogram;
use super::shelf::histograms;
use super::traces::TraceId;

const CALL: &[&str] = &[
    "gen_ai_operation_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "gen_ai_provider_name",
    "error_type",
];
const TOKEN_USAGE: &[&str] = &[
    "gen_ai_operation_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "gen_ai_provider_name",
    "error_type",
    "gen_ai_token_type",
];
const COST: &[&str] = &[
    "gen_ai_operation_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "gen_ai_provider_name",
    "error_type",
    "team",
    "key",
    "route",
];

/// What becomes of a record: it is appended to the spool, then stored, or there already. It is lost
/// when dropped for want of room, torn by a kill, corrupt, or in a file that cannot be read; what
/// the store refuses is set aside. In the store it is stripped to its bill once it has expired, or
/// was erased.
pub const CAPTURE_OUTCOMES: [&str; 11] = [
    "appended",
    "stored",
    "duplicate",
    "body_dropped",
    "dropped",
    "torn",
    "corrupt",
    "unreadable",
    "refused",
    "expired",
    "erased",
];

/// What may be wrong with a caller's key; `not_loaded` says that the gateway has not read its keys
/// yet.
pub const AUTH_FAILURES: [&str; 6] =
    ["missing", "malformed", "unknown", "revoked", "expired", "not_loaded"];

/// What becomes of a fine-tune job, in the order in which it comes.
pub const TRAINING_STATUSES: [&str; 12] = [
    "awaiting_approval",
    "pending",
    "uploading",
    "submitting",
    "submit_unknown",
    "validating_files",
    "queued",
    "running",
    "paused",
    "succeeded",
    "failed",
    "cancelled",
];

/// What a dataset may be.
pub const DATASET_STATUSES: [&str; 4] = ["building", "ready", "failed", "archived"];

/// Why a model of an upstream is left alone: it asked for a pause, or it failed again and again.
pub const GATE_REASONS: [&str; 2] = ["asked", "failing"];

/// Where [`COST`] has the team.
const COST_TEAM: usize = 5;

/// Labels of calls that another model answered than was asked for.
const REROUTED: &[&str] = &["gen_ai_request_model", "gen_ai_response_model", "route"];

// Bytes of a scrape, which stays below 5 MB with ten thousand keys and two hundred models. Series
// of cost come first with all their labels; then there is one for all keys of a team; then one for
// all teams. The last of the room is for the keys that spend most.
const COST_OWN: usize = 600_000;
const COST_TEAMS: usize = 700_000;
const COST_MODELS: usize = 800_000;
const COST_LARGE: usize = 950_000;
const REROUTED_OWN: usize = 60_000;
/// What the histograms of calls may take up together.
const HISTOGRAMS: usize = 3_500_000;
/// What becomes of a span: it is taken by the collector, lost because too many wait, or lost because
/// the collector does not take it.
pub const SPAN_OUTCOMES: [&str; 3] = ["exported", "dropped", "failed"];

const DURATION: &str = "gen_ai_server_request_duration_seconds";
const FIRST_TOKEN: &str = "gen_ai_server_time_to_first_token_seconds";

/// Errors of estimates, as shares of what was reported.
const ERROR_BUCKETS: &[f64] = &[0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];
/// One stream in so many is estimated beside its report.
const SAMPLED: u64 = 64;
// Buckets of the GenAI conventions, as Envoy AI Gateway ships them.
const TOKEN_BUCKETS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
const DURATION_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    15.0, 20.0, 30.0, 45.0, 60.0,
];
const PER_TOKEN_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const SEARCH_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];
const OVERHEAD_BUCKETS: &[f64] =
    &[0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

/// Label values of one call. All come from a closed set: what policy and catalogue do not know is
/// `other`.
#[derive(Clone, Copy, Debug)]
pub struct CallLabels<'a> {
    /// `gen_ai_operation_name`: chat, text_completion, embeddings or other.
    pub operation: &'a str,
    /// The model that the client asked for.
    pub request_model: &'a str,
    /// The model that answered.
    pub response_model: &'a str,
    /// The upstream's name.
    pub provider: &'a str,
    /// Empty on success.
    pub error_type: &'a str,
    /// The key's team.
    pub team: &'a str,
    /// The key's name.
    pub key: &'a str,
    /// The model that the rule chose; empty for none.
    pub model: &'a str,
    /// The routing rule.
    pub route: &'a str,
    /// HTTP status that the client got.
    pub status: u16,
}

/// One finished call.
#[derive(Clone, Debug)]
pub struct Observation {
    /// From the request's first byte to the answer's last.
    pub took: Duration,
    /// From the request's first byte to the answer's first event; streams only.
    pub first_token: Option<Duration>,
    /// The gateway's own share of the time until the answer's head left; calls that reached an
    /// upstream only.
    pub overhead: Option<Duration>,
    /// What the call used, if anything could be read or counted.
    pub usage: Option<Usage>,
    /// Whether `usage` was counted here because the upstream reported none.
    pub usage_estimated: bool,
    /// What it cost; `None` where there is usage and no rate for it.
    pub cost: Option<Usd>,
    /// What the same usage costs at the model that was asked for, where another one answered and
    /// both have a price.
    pub asked_cost: Option<Usd>,
    /// Its trace, where that is kept.
    pub trace: Option<TraceId>,
}

/// The series of one set of labels, looked up once.
struct Series {
    /// The call's labels, for the histograms that are made when something is observed.
    call: [String; 5],
    route: String,
    duration: Lazy,
    first_token: Lazy,
    per_token: Lazy,
    input: Lazy,
    output: Lazy,
    cached: Lazy,
    reasoning: Lazy,
    cost: Arc<CostSeries>,
    /// Whether its key has no series of its own.
    shared: bool,
    rerouted: OnceLock<[Arc<CostSeries>; 2]>,
    requests: IntCounter,
    decisions: Option<IntCounter>,
    unpriced: IntCounter,
    estimated: IntCounter,
    /// The last traced calls; there from the first one on.
    traced: OnceLock<Traced>,
}

/// The last traced calls of a set of labels, by bucket.
struct Traced {
    duration: Arc<Lasts>,
    first_token: Arc<Lasts>,
}

type SetGauges = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metric series of the process.
pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,
    duration: Histograms,
    first_token: Histograms,
    per_token: Histograms,
    tokens: Histograms,
    cost: CostCounter,
    spenders: Spenders,
    /// What they cost, and what they would have cost.
    rerouted: [CostCounter; 2],
    requests: IntCounterVec,
    attempts: IntCounterVec,
    decisions: IntCounterVec,
    unpriced: IntCounterVec,
    estimated: IntCounterVec,
    overhead: Histogram,
    in_flight: IntGauge,
    connections: IntGauge,
    capture_records: IntCounterVec,
    spool_bytes: IntGauge,
    spool_limit: IntGauge,
    policy_info: IntGaugeVec,
    policy_reloads: IntCounterVec,
    policy_in_sync: IntGauge,
    rule_errors: IntCounterVec,
    prompt_counts: IntCounterVec,
    hooks: IntCounterVec,
    hooks_pending: IntGauge,
    hooks_dead: IntGauge,
    auth_failures: IntCounterVec,
    keys_in_sync: IntGauge,
    estimate_errors: HistogramVec,
    /// Streams that could have been sampled.
    samples: AtomicU64,
    days_to_shutdown: IntGaugeVec,
    training_jobs: IntGaugeVec,
    training_oldest: IntGaugeVec,
    datasets: IntGaugeVec,
    unknown_training_status: IntCounter,
    task_up: IntGaugeVec,
    task_failures: IntCounterVec,
    documents: IntGaugeVec,
    source_runs: IntCounterVec,
    chunks_embedded: IntCounter,
    searches: IntCounterVec,
    retrievals: IntCounterVec,
    search_duration: Histogram,
    alias_shares: GaugeVec,
    budgets: GaugeVec,
    budget_limits: GaugeVec,
    gates_open: IntGaugeVec,
    redis_up: IntGauge,
    redis_calls: IntCounter,
    gateways: IntGauge,
    trace_spans: IntCounterVec,
    duration_exemplars: Exemplars,
    first_token_exemplars: Exemplars,
    /// Series by their joined label values: one look-up for a call instead of a dozen.
    calls: DashMap<String, Arc<Series>>,
    /// What sets gauges before a scrape.
    before_scrape: OnceLock<SetGauges>,
}

impl Metrics {
    /// Registers every series.
    ///
    /// # Errors
    /// Two series of one name: a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        let mut shelf = Shelf::default();
        let r = &mut shelf;
        let cost = money(
            r,
            "gen_ai_client_cost_usd_total",
            "Cost of finished calls in USD; calls without a price are in weir_unpriced_requests_total",
            COST,
        )?;
        let rerouted = [
            money(
                r,
                "weir_rerouted_cost_usd_total",
                "Cost of calls that another model answered than was asked for, where both have a price",
                REROUTED,
            )?,
            money(
                r,
                "weir_rerouted_asked_cost_usd_total",
                "What the same calls would have cost at the model that was asked for",
                REROUTED,
            )?,
        ];
        let process = prometheus::process_collector::ProcessCollector::for_self();
        r.registry.register(Box::new(process))?;
        let capture_records = counters(
            r,
            "weir_capture_records_total",
            "Records of calls on their way to the store, by what became of them",
            &["outcome"],
        )?;
        // An alert on losses needs the 0 before the first one.
        for outcome in CAPTURE_OUTCOMES {
            capture_records.with_label_values(&[outcome]);
        }
        let auth_failures = counters(
            r,
            "weir_auth_failures_total",
            "Callers that were not let in, by what was wrong with their key",
            &["reason"],
        )?;
        for reason in AUTH_FAILURES {
            auth_failures.with_label_values(&[reason]);
        }
        let trace_spans = counters(
            r,
            "weir_trace_spans_total",
            "Spans of traces, by what became of them",
            &["outcome"],
        )?;
        for outcome in SPAN_OUTCOMES {
            trace_spans.with_label_values(&[outcome]);
        }
        // The statuses are known: an alert needs the 0 before the first job.
        let training_jobs =
            gauges(r, "weir_training_jobs", "Fine-tune jobs in the store by status", &["status"])?;
        let training_oldest = gauges(
            r,
            "weir_training_oldest_job_seconds",
            "How long the oldest fine-tune job of a status has been in it; 0 without one",
            &["status"],
        )?;
        for status in TRAINING_STATUSES {
            training_jobs.with_label_values(&[status]);
            training_oldest.with_label_values(&[status]);
        }
        let datasets = gauges(r, "weir_datasets", "Datasets in the store by status", &["status"])?;
        for status in DATASET_STATUSES {
            datasets.with_label_values(&[status]);
        }
        let room = Arc::default();
        let mut models = |name, help, labels, buckets: &[f64]| {
            let vec = histograms(r, name, help, labels, buckets)?;
            Ok::<_, prometheus::Error>(Histograms::new(
                vec,
                (name, labels),
                buckets.len(),
                &room,
                HISTOGRAMS,
            ))
        };
        Ok(Self {
            duration: models(
                DURATION,
                "From the request's first byte to the answer's last",
                CALL,
                DURATION_BUCKETS,
            )?,
            first_token: models(
                FIRST_TOKEN,
                "From the request's first byte to the first event of a stream",
                CALL,
                FIRST_TOKEN_BUCKETS,
            )?,
            per_token: models(
                "gen_ai_server_time_per_output_token_seconds",
                "Time after the first token, by output token, of a stream",
                CALL,
                PER_TOKEN_BUCKETS,
            )?,
            tokens: models(
                "gen_ai_client_token_usage",
                "Tokens of finished calls; cached_input is part of input, reasoning part of output",
                TOKEN_USAGE,
                TOKEN_BUCKETS,
            )?,
            cost,
            spenders: Spenders::default(),
            rerouted,
            requests: counters(
                r,
                "weir_requests_total",
                "Answers by routing rule and HTTP status",
                &["route", "status"],
            )?,
            attempts: counters(
                r,
                "weir_attempts_total",
                "Tries at an upstream, by what came of them",
                &["upstream", "outcome"],
            )?,
            decisions: counters(
                r,
                "weir_route_decisions_total",
                "Routing decisions by rule and chosen model",
                &["route", "model"],
            )?,
            unpriced: counters(
                r,
                "weir_unpriced_requests_total",
                "Calls with usage and no price for it",
                &["model"],
            )?,
            estimated: counters(
                r,
                "weir_usage_estimated_total",
                "Calls whose usage was counted here because the upstream reported none",
                &["model"],
            )?,
            overhead: histogram(
                r,
                "weir_overhead_seconds",
                "The gateway's own share of the time until the answer's head left",
                OVERHEAD_BUCKETS,
            )?,
            in_flight: gauge(r, "weir_in_flight_requests", "Requests being served")?,
            connections: gauge(
                r,
                "weir_downstream_connections",
                "Open client connections on the data plane",
            )?,
            capture_records,
            spool_bytes: gauge(
                r,
                "weir_capture_spool_bytes",
                "Bytes of records that wait on disk for the store",
            )?,
            spool_limit: gauge(
                r,
                "weir_capture_spool_limit_bytes",
                "Bytes that the spool may hold, spool.max_bytes",
            )?,
            policy_info: gauges(
                r,
                "weir_policy_info",
                "The policy revision in force",
                &["revision"],
            )?,
            policy_reloads: counters(
                r,
                "weir_policy_reloads_total",
                "Changes of the policy folder, by whether they were applied or rejected",
                &["result"],
            )?,
            policy_in_sync: gauge(
                r,
                "weir_policy_in_sync",
                "1 when the folder's content is in force, 0 when it was rejected",
            )?,
            rule_errors: counters(
                r,
                "weir_policy_rule_errors_total",
                "Conditions that had no value for a request, such as a missing tag: no match",
                &["route"],
            )?,
            prompt_counts: counters(
                r,
                "weir_prompt_counts_total",
                "Requests whose prompt tokens a rule asked for, by what it took to answer",
                &["method"],
            )?,
            hooks: counters(
                r,
                "weir_hook_deliveries_total",
                "Posts to webhooks: delivered, failed (and tried again), given_up, dropped",
                &["event", "outcome"],
            )?,
            hooks_pending: gauge(
                r,
                "weir_webhook_pending",
                "Events in the store that wait for a receiver",
            )?,
            hooks_dead: gauge(
                r,
                "weir_webhook_dead_letters",
                "Events in the store that a receiver was given in vain for a day",
            )?,
            auth_failures,
            keys_in_sync: gauge(
                r,
                "weir_keys_in_sync",
                "1 when the virtual keys are as the store has them, 0 when those of an earlier look are in force",
            )?,
            estimate_errors: histograms(
                r,
                "weir_usage_estimate_error_ratio",
                "How far estimates are from what providers report, on a sample of streams",
                &["gen_ai_token_type"],
                ERROR_BUCKETS,
            )?,
            samples: AtomicU64::new(0),
            days_to_shutdown: gauges(
                r,
                "weir_model_days_to_shutdown",
                "Days until OpenAI shuts a model down; negative after it",
                &["model"],
            )?,
            training_jobs,
            training_oldest,
            datasets,
            task_up: gauges(
                r,
                "weir_background_task_up",
                "1 while a background task runs, 0 once it has ended before its process",
                &["task"],
            )?,
            task_failures: counters(
                r,
                "weir_background_task_failures_total",
                "Turns of a background task that failed",
                &["task"],
            )?,
            unknown_training_status: counter(
                r,
                "weir_training_unknown_status_total",
                "Looks at fine-tune jobs whose trainer told a status that nobody knows",
            )?,
            documents: gauges(
                r,
                "weir_embeddings_documents",
                "Documents of the indexes that answer, by source and state",
                &["source", "state"],
            )?,
            source_runs: counters(
                r,
                "weir_embeddings_runs_total",
                "Refreshes of sources that ended here, by how",
                &["state"],
            )?,
            chunks_embedded: counter(
                r,
                "weir_embeddings_chunks_embedded_total",
                "Passages that were sent to an embedding model",
            )?,
            searches: counters(
                r,
                "weir_search_total",
                "Searches, by outcome: ok, text_only, refused, failed",
                &["outcome"],
            )?,
            retrievals: counters(
                r,
                "weir_retrievals_total",
                "Requests whose rule puts passages of documents into them, by what came of it",
                &["route", "outcome"],
            )?,
            search_duration: histogram(
                r,
                "weir_search_duration_seconds",
                "Time that a search took, the question's vector included",
                SEARCH_BUCKETS,
            )?,
            alias_shares: float_gauges(
                r,
                "weir_alias_share",
                "Share of an alias's calls that a model gets, 0 to 1",
                &["alias", "model"],
            )?,
            budgets: float_gauges(
                r,
                "weir_budget_remaining_usd",
                "What is left of a budget in USD",
                &["limit", "subject"],
            )?,
            budget_limits: float_gauges(
                r,
                "weir_budget_limit_usd",
                "What a limit's budget is in USD, for each of its subjects",
                &["limit"],
            )?,
            gates_open: gauges(
                r,
                "weir_gates_open",
                "Models of an upstream that are left alone now, because it asked for it or is failing",
                &["upstream", "reason"],
            )?,
            redis_up: gauge(
                r,
                "weir_redis_up",
                "1 when limits are shared by Redis, 0 when it is away or there is none",
            )?,
            gateways: gauge(r, "weir_gateways", "Gateways that share limits, as last seen")?,
            redis_calls: counter(r, "weir_redis_calls_total", "Round trips to Redis for limits")?,
            trace_spans,
            duration_exemplars: Exemplars::new(DURATION_BUCKETS, CALL),
            first_token_exemplars: Exemplars::new(FIRST_TOKEN_BUCKETS, CALL),
            calls: DashMap::new(),
            before_scrape: OnceLock::new(),
            registry: shelf.registry,
            described: shelf.described,
        })
    }

    /// Records a finished call under its labels.
    pub fn record(&self, labels: &CallLabels<'_>, seen: &Observation) {
        let series = self.series(labels);
        let call = series.call.each_ref().map(String::as_str);
        series.requests.inc();
        series.duration.observe(seen.took.as_secs_f64(), || self.duration.of(&call));
        if let Some(decisions) = &series.decisions {
            decisions.inc();
        }
        if let Some(overhead) = seen.overhead {
            self.overhead.observe(overhead.as_secs_f64());
        }
        if let Some(first) = seen.first_token {
            series.first_token.observe(first.as_secs_f64(), || self.first_token.of(&call));
        }
        if let Some(trace) = seen.trace {
            self.note_traced(&series, labels, seen, trace);
        }
        let Some(usage) = &seen.usage else { return };
        self.tokens(&series, call, usage);
        if let Some(pace) = token_pace(seen, usage) {
            series.per_token.observe(pace, || self.per_token.of(&call));
        }
        if seen.usage_estimated {
            series.estimated.inc();
        }
        match seen.cost {
            Some(cost) => {
                series.cost.add(cost);
                self.spenders.note(cost, series.shared.then_some(labels.key));
            }
            None => series.unpriced.inc(),
        }
        if let (Some(cost), Some(asked)) = (seen.cost, seen.asked_cost) {
            let [real, wanted] = series.rerouted.get_or_init(|| self.rerouted(call, &series.route));
            real.add(cost);
            wanted.add(asked);
        }
    }

    fn note_traced(
        &self,
        series: &Series,
        labels: &CallLabels<'_>,
        seen: &Observation,
        trace: TraceId,
    ) {
        let traced = series.traced.get_or_init(|| {
            let call = labels.call();
            let duration = self.duration_exemplars.with(&call);
            Traced { duration, first_token: self.first_token_exemplars.with(&call) }
        });
        traced.duration.note(trace, seen.took.as_secs_f64());
        if let Some(first) = seen.first_token {
            traced.first_token.note(trace, first.as_secs_f64());
        }
    }

    /// Counts spans by what became of them, one of [`SPAN_OUTCOMES`].
    pub fn trace_spans(&self, outcome: &str, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        self.trace_spans.with_label_values(&[outcome]).inc_by(spans);
    }

    /// Records one try at an upstream.
    pub fn attempt(&self, upstream: &str, outcome: &str) {
        self.attempts.with_label_values(&[upstream, outcome]).inc();
    }

    /// Requests being served.
    pub fn in_flight(&self) -> &IntGauge {
        &self.in_flight
    }

    /// Open client connections on the data plane.
    pub fn connections(&self) -> &IntGauge {
        &self.connections
    }

    /// Counts records of calls by what became of them, one of [`CAPTURE_OUTCOMES`].
    pub fn capture_records(&self, outcome: &str, records: u64) {
        self.capture_records.with_label_values(&[outcome]).inc_by(records);
    }

    /// Bytes of records that wait on disk.
    pub fn spool_bytes(&self) -> &IntGauge {
        &self.spool_bytes
    }

    /// Bytes that the spool may hold.
    pub fn spool_limit(&self) -> &IntGauge {
        &self.spool_limit
    }

    /// Names the policy in force.
    pub fn policy_loaded(&self, revision: &str) {
        self.policy_info.reset();
        self.policy_info.with_label_values(&[revision]).set(1);
        self.policy_in_sync.set(1);
    }

    /// Counts a change of the folder that was put in force.
    pub fn policy_applied(&self) {
        self.policy_reloads.with_label_values(&["applied"]).inc();
    }

    /// Counts a change of the folder that was refused.
    pub fn policy_rejected(&self) {
        self.policy_reloads.with_label_values(&["rejected"]).inc();
        self.policy_in_sync.set(0);
    }

    /// Counts a caller that was not let in, by one of [`AUTH_FAILURES`].
    pub fn auth_failure(&self, reason: &str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Notes whether the last look at the virtual keys succeeded.
    pub fn keys_in_sync(&self, in_sync: bool) {
        self.keys_in_sync.set(in_sync.into());
    }

    /// Counts a condition that had no value.
    pub fn rule_error(&self, rule: &str) {
        self.rule_errors.with_label_values(&[rule]).inc();
    }

    /// Whether the next stream's usage is to be estimated beside what is reported: the first, and
    /// every 64th.
    pub fn samples_estimate(&self) -> bool {
        self.samples.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    /// Records an estimate of `input` or `output` tokens beside the reported number.
    pub fn estimate_error(&self, kind: &str, estimated: u64, reported: u64) {
        let error = estimated.abs_diff(reported) as f64 / reported.max(1) as f64;
        self.estimate_errors.with_label_values(&[kind]).observe(error);
    }

    /// Counts a post to a webhook.
    pub fn hook_delivery(&self, event: &str, outcome: &str) {
        self.hooks.with_label_values(&[event, outcome]).inc();
    }

    /// Sets how many events wait for their receivers, and how many are given up.
    pub fn webhooks(&self, pending: i64, dead: i64) {
        self.hooks_pending.set(pending);
        self.hooks_dead.set(dead);
    }

    /// Counts a request whose prompt was counted, and how.
    pub fn prompt_counted(&self, method: &str) {
        self.prompt_counts.with_label_values(&[method]).inc();
    }

    /// Sets the days that a model has left.
    pub fn model_shutdown(&self, model: &str, days: i64) {
        self.days_to_shutdown.with_label_values(&[model]).set(days);
    }

    /// Sets how many fine-tune jobs there are by status, and for how many seconds the oldest of
    /// them has been in it.
    pub fn training_jobs(&self, jobs: &[(String, i64, i64)]) {
        for status in TRAINING_STATUSES {
            let found = jobs.iter().find(|(known, ..)| known == status);
            let (count, age) = found.map_or((0, 0), |(_, count, age)| (*count, *age));
            self.training_jobs.with_label_values(&[status]).set(count);
            self.training_oldest.with_label_values(&[status]).set(age);
        }
    }

    /// Sets how many datasets there are, by status.
    pub fn datasets(&self, counts: &[(String, i64)]) {
        for status in DATASET_STATUSES {
            let found = counts.iter().find(|(known, _)| known == status);
            self.datasets.with_label_values(&[status]).set(found.map_or(0, |(_, count)| *count));
        }
    }

    /// Sets which background tasks run, and how many turns of theirs have failed.
    pub fn background(&self, tasks: impl Iterator<Item = (&'static str, bool, u64)>) {
        for (task, up, failures) in tasks {
            self.task_up.with_label_values(&[task]).set(up.into());
            let counter = self.task_failures.with_label_values(&[task]);
            counter.inc_by(failures.saturating_sub(counter.get()));
        }
    }

    /// Counts a look at a fine-tune job whose trainer says something new.
    pub fn unknown_training_status(&self) {
        self.unknown_training_status.inc();
    }

    /// Sets how many documents there are, by source and state.
    pub fn documents<'a>(&self, counts: impl Iterator<Item = (&'a str, &'a str, i64)>) {
        self.documents.reset();
        for (source, state, count) in counts {
            self.documents.with_label_values(&[source, state]).set(count);
        }
    }

    /// Counts a refresh that ended.
    pub fn source_run(&self, state: &str) {
        self.source_runs.with_label_values(&[state]).inc();
    }

    /// Counts passages that were sent to an embedding model.
    pub fn chunks_embedded(&self, chunks: u64) {
        self.chunks_embedded.inc_by(chunks);
    }

    /// Counts a search.
    pub fn search(&self, outcome: &str, took: Duration) {
        self.searches.with_label_values(&[outcome]).inc();
        self.search_duration.observe(took.as_secs_f64());
    }

    /// Counts a request that was to be given passages of documents.
    pub fn retrieval(&self, route: &str, outcome: &str) {
        self.retrievals.with_label_values(&[route, outcome]).inc();
    }

    /// Sets the shares, in percent, of the models that aliases lead to.
    pub fn alias_shares(&self, shares: Vec<(String, String, f64)>) {
        self.alias_shares.reset();
        for (alias, model, percent) in shares {
            self.alias_shares.with_label_values(&[&alias, &model]).set(percent / 100.0);
        }
    }

    /// Sets what is left of all budgets, by limit and subject.
    pub fn budgets<'a>(&self, left: impl Iterator<Item = (&'a str, &'a str, Usd)>) {
        self.budgets.reset();
        for (limit, subject, usd) in left {
            self.budgets.with_label_values(&[limit, subject]).set(usd.to_f64());
        }
    }

    /// Sets what budgets are, by limit.
    pub fn budget_limits<'a>(&self, limits: impl Iterator<Item = (&'a str, Usd)>) {
        self.budget_limits.reset();
        for (limit, usd) in limits {
            self.budget_limits.with_label_values(&[limit]).set(usd.to_f64());
        }
    }

    /// Sets how many models of each upstream are left alone, for each of [`GATE_REASONS`].
    pub fn gates_open<'a>(&self, open: impl Iterator<Item = (&'a str, [i64; 2])>) {
        self.gates_open.reset();
        for (upstream, counts) in open {
            for (reason, count) in GATE_REASONS.iter().zip(counts) {
                self.gates_open.with_label_values(&[upstream, reason]).set(count);
            }
        }
    }

    /// Has `set` set gauges before each scrape. Only the first one counts.
    pub fn before_scrape(&self, set: impl Fn(&Self) + Send + Sync + 'static) {
        let _ = self.before_scrape.set(Box::new(set));
    }

    /// Every series, but for those of the process.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// Whether Redis shares the limits.
    pub fn redis_up(&self) -> &IntGauge {
        &self.redis_up
    }

    /// Gateways that share limits.
    pub fn gateways(&self) -> &IntGauge {
        &self.gateways
    }

    /// Round trips to Redis.
    pub fn redis_calls(&self) -> &IntCounter {
        &self.redis_calls
    }

    /// Every series as text, in Prometheus' exposition format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.gather(), &mut text) {
            tracing::error!(%error, "could not render the metrics");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// The same as OpenMetrics, with the last traced calls, where the `Accept` header asks for it;
    /// the media type goes first.
    pub fn render_for(&self, accept: &str) -> (&'static str, String) {
        if !openmetrics::is_wanted(accept) {
            return ("text/plain; version=0.0.4; charset=utf-8", self.render());
        }
        let text = openmetrics::encode(&self.gather(), |family, labels| match family {
            DURATION => self.duration_exemplars.of(labels),
            FIRST_TOKEN => self.first_token_exemplars.of(labels),
            _ => None,
        });
        (openmetrics::MEDIA_TYPE, text)
    }

    fn gather(&self) -> Vec<MetricFamily> {
        if let Some(set) = self.before_scrape.get() {
            set(self);
        }
        self.registry.gather()
    }

    fn series(&self, labels: &CallLabels<'_>) -> Arc<Series> {
        let key = labels.joined();
        if let Some(series) = self.calls.get(&key) {
            return Arc::clone(&series);
        }
        let (own, cost) = self.cost_series(labels);
        if own {
            let series = Arc::new(self.make_series(labels, cost, false));
            self.calls.insert(key, Arc::clone(&series));
            return series;
        }
        // All that share a cost series share the rest: what is kept here is bounded, too.
        let shared = CallLabels { team: cost.value(COST_TEAM), key: OTHER, ..*labels };
        let make = || Arc::new(self.make_series(labels, Arc::clone(&cost), true));
        Arc::clone(&self.calls.entry(shared.joined()).or_insert_with(make))
    }

    /// Where a call's cost is counted, and whether that is its key's own series.
    fn cost_series(&self, labels: &CallLabels<'_>) -> (bool, Arc<CostSeries>) {
        let CallLabels { team, key, route, .. } = *labels;
        let [a, b, c, d, e] = labels.call();
        let most = if self.spenders.is_large(key) { COST_LARGE } else { COST_OWN };
        let (choice, series) = self.cost.first_of(
            &[
                (&[a, b, c, d, e, team, key, route], most),
                (&[a, b, c, d, e, team, OTHER, route], COST_TEAMS),
                (&[a, b, c, d, e, OTHER, OTHER, route], COST_MODELS),
            ],
            &[a, OTHER, OTHER, d, e, OTHER, OTHER, OTHER],
        );
        (choice == 0, series)
    }

    fn make_series(&self, labels: &CallLabels<'_>, cost: Arc<CostSeries>, shared: bool) -> Series {
        let response_model = labels.response_model;
        let status = labels.status.to_string();
        let decided = !labels.model.is_empty();
        Series {
            call: labels.call().map(str::to_owned),
            route: labels.route.to_owned(),
            duration: Lazy::default(),
            first_token: Lazy::default(),
            per_token: Lazy::default(),
            input: Lazy::default(),
            output: Lazy::default(),
            cached: Lazy::default(),
            reasoning: Lazy::default(),
            cost,
            shared,
            rerouted: OnceLock::new(),
            requests: self.requests.with_label_values(&[labels.route, status.as_str()]),
            decisions: decided
                .then(|| self.decisions.with_label_values(&[labels.route, labels.model])),
            unpriced: self.unpriced.with_label_values(&[response_model]),
            estimated: self.estimated.with_label_values(&[response_model]),
            traced: OnceLock::new(),
        }
    }

    /// What calls cost that another model answered, and what they would have cost.
    fn rerouted(&self, call: [&str; 5], route: &str) -> [Arc<CostSeries>; 2] {
        let [_, asked, answered, ..] = call;
        let own: &[(&[&str], usize)] = &[(&[asked, answered, route], REROUTED_OWN)];
        self.rerouted.each_ref().map(|counter| counter.first_of(own, &[OTHER, OTHER, OTHER]).1)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "histograms are floats; counts stay far below 2^53"
    )]
    fn tokens(&self, series: &Series, call: [&str; 5], usage: &Usage) {
        let [a, b, c, d, e] = call;
        let kinds = [
            (&series.input, usage.input, "input"),
            (&series.output, usage.output, "output"),
            (&series.cached, usage.cached_input, "cached_input"),
            (&series.reasoning, usage.reasoning, "reasoning"),
        ];
        for (lazy, tokens, kind) in kinds {
            // Most calls have neither of the last two.
            if tokens > 0 || matches!(kind, "input" | "output") {
                lazy.observe(tokens as f64, || self.tokens.of(&[a, b, c, d, e, kind]));
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean pace needs no more digits")]
fn token_pace(seen: &Observation, usage: &Usage) -> Option<f64> {
    let (first, 2..) = (seen.first_token?, usage.output) else { return None };
    let rest = seen.took.saturating_sub(first).as_secs_f64();
    Some(rest / (usage.output - 1) as f64)
}

fn money(
    shelf: &mut Shelf,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
) -> prometheus::Result<CostCounter> {
    let counter = CostCounter::new(name, help, labels)?;
    shelf.put(counter.clone(), Described { name, kind: "counter", help, labels })?;
    Ok(counter)
}

impl CallLabels<'_> {
    /// The values of [`CALL`].
    fn call(&self) -> [&str; 5] {
        let Self { operation, request_model, response_model, provider, error_type, .. } = *self;
        [operation, request_model, response_model, provider, error_type]
    }

    fn joined(&self) -> String {
        let mut key = String::with_capacity(160);
        for value in [
            self.operation,
            self.request_model,
            self.response_model,
            self.provider,
            self.error_type,
            self.team,
            self.key,
            self.route,
            self.model,
        ] {
            key.push_str(value);
            key.push('\0');
        }
        // Writing to a String cannot fail.
        let _ = write!(key, "{}", self.status);
        key
    }
}
