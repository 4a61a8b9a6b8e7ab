//! What calls cost, by key as far as a scrape has room, and what they would have cost at the model
//! that was asked for.

use std::sync::Arc;
use std::sync::OnceLock;

use prometheus::IntCounter;
use prometheus::IntCounterVec;

use crate::telemetry::cost::CostCounter;
use crate::telemetry::cost::CostSeries;
use crate::telemetry::cost::Spenders;
use crate::telemetry::room::OTHER;
use crate::telemetry::shelf::Described;
use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;

use super::labels::CallLabels;
use super::labels::Observation;

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

pub(super) struct Money {
    cost: CostCounter,
    spenders: Spenders,
    /// What they cost, and what they would have cost.
    rerouted: [CostCounter; 2],
    unpriced: IntCounterVec,
}

/// Where the cost of some calls is counted.
#[derive(Clone)]
pub(super) struct Counted {
    cost: Arc<CostSeries>,
    /// Whether their key has no series of its own.
    pub(super) shared: bool,
}

/// The money of one set of labels.
pub(super) struct CallMoney {
    counted: Counted,
    rerouted: OnceLock<[Arc<CostSeries>; 2]>,
    unpriced: IntCounter,
}

impl Counted {
    /// The team under which it is counted.
    pub(super) fn team(&self) -> &str {
        self.cost.value(COST_TEAM)
    }
}

impl Money {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            cost: cost_counter(
                shelf,
                "gen_ai_client_cost_usd_total",
                "Cost of finished calls in USD; calls without a price are in weir_unpriced_requests_total",
                COST,
            )?,
            spenders: Spenders::default(),
            rerouted: [
                cost_counter(
                    shelf,
                    "weir_rerouted_cost_usd_total",
                    "Cost of calls that another model answered than was asked for, where both have a price",
                    REROUTED,
                )?,
                cost_counter(
                    shelf,
                    "weir_rerouted_asked_cost_usd_total",
                    "What the same calls would have cost at the model that was asked for",
                    REROUTED,
                )?,
            ],
            unpriced: counters(
                shelf,
                "weir_unpriced_requests_total",
                "Calls with usage and no price for it",
                &["model"],
            )?,
        })
    }

    /// Where a call's cost is counted.
    pub(super) fn counted(&self, labels: &CallLabels<'_>) -> Counted {
        let CallLabels { team, key, route, .. } = *labels;
        let [a, b, c, d, e] = labels.call();
        let most = if self.spenders.is_large(key) { COST_LARGE } else { COST_OWN };
        let (choice, cost) = self.cost.first_of(
            &[
                (&[a, b, c, d, e, team, key, route], most),
                (&[a, b, c, d, e, team, OTHER, route], COST_TEAMS),
                (&[a, b, c, d, e, OTHER, OTHER, route], COST_MODELS),
            ],
            &[a, OTHER, OTHER, d, e, OTHER, OTHER, OTHER],
        );
        Counted { cost, shared: choice != 0 }
    }

    /// The series of a model's calls.
    pub(super) fn of(&self, response_model: &str, counted: Counted) -> CallMoney {
        let unpriced = self.unpriced.with_label_values(&[response_model]);
        CallMoney { counted, rerouted: OnceLock::new(), unpriced }
    }

    /// Notes the cost of a call that has used something.
    pub(super) fn note(&self, series: &CallMoney, labels: &CallLabels<'_>, seen: &Observation) {
        let Some(cost) = seen.cost else {
            series.unpriced.inc();
            return;
        };
        let Counted { cost: sum, shared } = &series.counted;
        sum.add(cost);
        self.spenders.note(cost, shared.then_some(labels.key));
        if let Some(asked) = seen.asked_cost {
            let [real, wanted] = series.rerouted.get_or_init(|| self.rerouted(labels));
            real.add(cost);
            wanted.add(asked);
        }
    }

    /// What calls cost that another model answered, and what they would have cost.
    fn rerouted(&self, labels: &CallLabels<'_>) -> [Arc<CostSeries>; 2] {
        let CallLabels { request_model, response_model, route, .. } = *labels;
        let own: &[(&[&str], usize)] = &[(&[request_model, response_model, route], REROUTED_OWN)];
        self.rerouted.each_ref().map(|counter| counter.first_of(own, &[OTHER, OTHER, OTHER]).1)
    }
}

fn cost_counter(
    shelf: &mut Shelf,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
) -> prometheus::Result<CostCounter> {
    let counter = CostCounter::new(name, help, labels)?;
    shelf.put(counter.clone(), Described { name, kind: "counter", help, labels })?;
    Ok(counter)
}
