//! Replay: sends the store's calls through a policy. Behind `POST /api/policies/replay` and
//! `weir policy replay`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::TryLockError;

use axum::Json;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::metering::money::Usd;
use crate::openai::error::ApiError;
use crate::policy::Checked;
use crate::policy::History;
use crate::policy::Policy;
use crate::policy::Recorded;
use crate::policy::Replay;
use crate::policy::ReplayReport;
use crate::policy::Settings;
use crate::policy::Sources;
use crate::policy::basis_of;
use crate::store::Ledger;
use crate::store::Past;
use crate::store::PastCall;
use crate::store::Period;
use crate::store::SpendQuery;
use crate::store::StoreError;

use super::Parts;
use super::bad_parameter;
use super::now;
use super::policies::LARGEST_BODY;
use super::policies::as_folder;
use super::policies::invalid_json;
use super::policies::today;
use super::policies::whole;
use super::reply;
use super::store_away;
use super::store_off;

/// One at a time: it reads the whole store, and takes a core while it does.
static RUNNING: Mutex<()> = Mutex::new(());

/// Which calls, and what they are sent through.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayQuestion {
    /// RFC 3339, or a duration before now such as 24h; all there is when left out.
    since: Option<String>,
    /// The same; not part of the period.
    until: Option<String>,
    /// Policy files by name; without them the policy in force.
    files: Option<BTreeMap<String, String>>,
}

/// The route of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    let layer = DefaultBodyLimit::max(LARGEST_BODY);
    OpenApiRouter::new().routes(routes!(replay_route)).layer(layer)
}

/// Says what a policy would have done with recorded calls, and what that would have cost.
#[utoipa::path(
    post,
    path = "/api/policies/replay",
    request_body = ReplayQuestion,
    responses(
        (status = 200, description = "revision, total, own, reproduced, approximate, skipped, and lines by recorded route and model: requests, changed, refused, recorded_cost_usd, projected_cost_usd, difference_usd, projected_low_usd, projected_high_usd, without_history, unpriced, to", body = serde_json::Value),
        (status = 400, description = "The period, or the files, cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 413, description = "The body is too large"),
        (status = 409, description = "Another replay is running"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn replay_route(State(parts): State<Parts>, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(ledger) = parts.ledger.clone() else { return store_off() };
    let question = whole(body).and_then(|body| serde_json::from_slice(&body).map_err(invalid_json));
    let question: ReplayQuestion = match question {
        Ok(question) => question,
        Err(refused) => return reply(&refused),
    };
    let given = [("since", &question.since), ("until", &question.until)];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let period = match SpendQuery::parse(given, now()) {
        Ok(query) => query.period(),
        Err(error) => return bad_parameter(error),
    };
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        let _turn = match RUNNING.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => PoisonError::into_inner(turn),
            Err(TryLockError::WouldBlock) => return busy(),
        };
        let files = question.files.map(|files| checked(files, &parts.settings));
        let policy = match files {
            None => parts.policy.current(),
            Some(Ok(policy)) => policy.into(),
            Some(Err(refused)) => return reply(&refused),
        };
        match runtime.block_on(replay(&ledger, &policy, period, |_, _| ())) {
            Ok(report) => Json(report).into_response(),
            Err(error) => store_away(&error),
        }
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| reply(&ApiError::new(500, "api_error", "internal", "It failed.")))
}

fn busy() -> Response {
    let message = "Another replay is running; ask again when it is over.";
    reply(&ApiError::new(409, "invalid_request_error", "replay_running", message))
}

fn checked(files: BTreeMap<String, String>, settings: &Settings) -> Result<Policy, ApiError> {
    let settings = Settings { today: Some(today()), ..settings.clone() };
    let sources = Sources::of(as_folder(files)?);
    let (Checked { policy, diagnostics, .. }, _) = Policy::verify(&sources, &settings);
    policy.ok_or_else(|| {
        let said: String = diagnostics.iter().map(ToString::to_string).collect();
        ApiError::bad_request("invalid_policy", said).param("files")
    })
}

/// Sends the calls of a period through a policy. `progress` is told how many are done, and of how
/// many.
///
/// # Errors
/// The store is away, or has no ledger.
pub async fn replay(
    ledger: &Ledger,
    policy: &Policy,
    period: Period,
    mut progress: impl FnMut(u64, u64),
) -> Result<ReplayReport, StoreError> {
    let past = Past::of(ledger, period);
    let all = past.count().await?;
    let mut history = History::default();
    for (model, output, count) in past.outputs().await? {
        history.note(&model, output, count);
    }
    let mut replay = Replay::of(policy, &history);
    let (mut from, mut done) = (Some(past.start()), 0);
    while let Some(id) = from {
        let page = past.page(id).await?;
        from = page.next;
        done += u64::try_from(page.calls.len()).unwrap_or(0) + page.unreadable;
        replay.skip(page.unreadable);
        page.calls.into_iter().for_each(|call| replay.add(&recorded(call)));
        progress(done, all);
    }
    Ok(replay.report())
}

fn recorded(call: PastCall) -> Recorded {
    Recorded {
        id: call.id.into_bytes(),
        unix_s: call.id.get_timestamp().map_or(0, |time| time.to_unix().0),
        usage: call.usage(),
        body: call.request(),
        reported: call.usage_source.as_deref() == Some("reported"),
        cost: call.cost_picodollars.map(|cost| Usd::from_picodollars(cost.into())),
        basis: basis_of(call.facts.get()),
        endpoint: call.endpoint,
        revision: call.policy_version,
        route: call.route.unwrap_or_default(),
        requested_model: call.requested_model.unwrap_or_default(),
        alias: call.alias.unwrap_or_default(),
        model: call.model.unwrap_or_default(),
        upstream_model: call.upstream_model.unwrap_or_default(),
        response_model: call.response_model.unwrap_or_default(),
        key: call.key_name,
        team: call.team.unwrap_or_default(),
        tags: call.tags,
        session: call.session_id.unwrap_or_default(),
        service_tier: call.service_tier,
        status: call.status_code,
        rates: call.rates,
    }
}
