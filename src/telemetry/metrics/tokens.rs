//! What calls use: tokens as they are reported, and how good the gateway's own counts are.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;

use crate::openai::usage::Usage;
use crate::telemetry::room::Histograms;
use crate::telemetry::room::Lazy;
use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::histograms;
use crate::telemetry::shelf::histograms_of_models;

use super::Metrics;

/// Those of any call, and the kind of token.
const TOKEN_USAGE: &[&str] = &[
    "gen_ai_operation_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "gen_ai_provider_name",
    "error_type",
    "gen_ai_token_type",
];

/// Buckets of the GenAI conventions, as Envoy AI Gateway ships them.
const TOKEN_BUCKETS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
/// Errors of estimates, as shares of what was reported.
const ERROR_BUCKETS: &[f64] = &[0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];
/// One stream in so many is estimated beside its report.
const SAMPLED: u64 = 64;

pub(super) struct Tokens {
    used: Histograms,
    estimated: IntCounterVec,
    estimate_errors: HistogramVec,
    /// Streams that could have been sampled.
    samples: AtomicU64,
    prompt_counts: IntCounterVec,
}

/// The tokens of one set of labels.
pub(super) struct CallTokens {
    input: Lazy,
    output: Lazy,
    cached: Lazy,
    reasoning: Lazy,
    estimated: IntCounter,
}

impl Tokens {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            used: histograms_of_models(
                shelf,
                "gen_ai_client_token_usage",
                "Tokens of finished calls; cached_input is part of input, reasoning part of output",
                TOKEN_USAGE,
                TOKEN_BUCKETS,
            )?,
            estimated: counters(
                shelf,
                "weir_usage_estimated_total",
                "Calls whose usage was counted here because the upstream reported none",
                &["model"],
            )?,
            estimate_errors: histograms(
                shelf,
                "weir_usage_estimate_error_ratio",
                "How far estimates are from what providers report, on a sample of streams",
                &["gen_ai_token_type"],
                ERROR_BUCKETS,
            )?,
            samples: AtomicU64::new(0),
            prompt_counts: counters(
                shelf,
                "weir_prompt_counts_total",
                "Requests whose prompt tokens a rule asked for, by what it took to answer",
                &["method"],
            )?,
        })
    }

    /// The series of a model's calls.
    pub(super) fn of(&self, response_model: &str) -> CallTokens {
        CallTokens {
            input: Lazy::default(),
            output: Lazy::default(),
            cached: Lazy::default(),
            reasoning: Lazy::default(),
            estimated: self.estimated.with_label_values(&[response_model]),
        }
    }

    /// Notes what a call used, and whether that was only estimated.
    #[expect(
        clippy::cast_precision_loss,
        reason = "histograms are floats; counts stay far below 2^53"
    )]
    pub(super) fn note(
        &self,
        series: &CallTokens,
        call: [&str; 5],
        usage: &Usage,
        estimated: bool,
    ) {
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
                lazy.observe(tokens as f64, || self.used.of(&[a, b, c, d, e, kind]));
            }
        }
        if estimated {
            series.estimated.inc();
        }
    }
}

impl Metrics {
    /// Whether the next stream's usage is to be estimated beside what is reported: the first, and
    /// every 64th.
    pub fn samples_estimate(&self) -> bool {
        self.tokens.samples.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    /// Records an estimate of `input` or `output` tokens beside the reported number.
    pub fn estimate_error(&self, kind: &str, estimated: u64, reported: u64) {
        let error = estimated.abs_diff(reported) as f64 / reported.max(1) as f64;
        self.tokens.estimate_errors.with_label_values(&[kind]).observe(error);
    }

    /// Counts a request whose prompt was counted, and how.
    pub fn prompt_counted(&self, method: &str) {
        self.tokens.prompt_counts.with_label_values(&[method]).inc();
    }
}
