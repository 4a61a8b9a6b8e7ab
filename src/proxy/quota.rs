//! Lets a call in as far as its limits allow, and tells its client how they stand.

use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use http::request::Parts;

use crate::limits::Demand;
use crate::limits::Kind;
use crate::limits::Now;
use crate::limits::Permit;
use crate::limits::Refusal;
use crate::limits::Standing;
use crate::metering::money::Usd;
use crate::openai::error::ApiError;
use crate::policy::Claim;
use crate::policy::Outlook;
use crate::policy::Policy;
use crate::policy::Route;

use super::Gateway;
use super::auth;
use super::call::Call;
use super::call::SHOULD_RETRY;
use super::decide::Decision;
use super::decide::claims_of_head;
use super::error;
use super::head;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Limit, remaining and reset of each kind that OpenAI tells of, as OpenAI spells them.
const RATES: [(Kind, [HeaderName; 3]); 2] = [
    (
        Kind::Requests,
        [
            HeaderName::from_static("x-ratelimit-limit-requests"),
            HeaderName::from_static("x-ratelimit-remaining-requests"),
            HeaderName::from_static("x-ratelimit-reset-requests"),
        ],
    ),
    (
        Kind::Tokens,
        [
            HeaderName::from_static("x-ratelimit-limit-tokens"),
            HeaderName::from_static("x-ratelimit-remaining-tokens"),
            HeaderName::from_static("x-ratelimit-reset-tokens"),
        ],
    ),
];
/// What is said of a request that no time will make fit.
const NEVER: Duration = Duration::from_secs(60);

/// Reserves what a request may take; returns where it goes then, which is elsewhere when its budget
/// is spent and names a model for that.
pub(super) async fn admit(
    gateway: &Gateway,
    decision: Decision,
    call: &mut Call,
) -> Result<Route, ApiError> {
    let Decision { mut route, claims, outlook } = decision;
    if claims.is_empty() {
        return Ok(route);
    }
    let mut demand = demand(&call.policy, outlook.as_ref(), &route);
    loop {
        let Err(refusal) = reserve(gateway, &claims, &demand, call).await else { return Ok(route) };
        match refusal.downgrade.as_ref().filter(|_| !demand.downgraded) {
            Some(model) => {
                route.target = call.policy.target(model);
                route.fallback.clear();
                auth::check_route(&call.client, &mut route)?;
                demand = self::demand(&call.policy, outlook.as_ref(), &route);
                demand.downgraded = true;
            }
            None => {
                call.refused_by = Some(route.rule);
                return Err(refuse(refusal, call));
            }
        }
    }
}

/// The same for a call whose body is not read: it counts as a request.
pub(super) async fn admit_head(
    gateway: &Gateway,
    head: &Parts,
    call: &mut Call,
) -> Result<(), ApiError> {
    // Preflights carry no key by design, and cost nothing.
    if call.policy.limits().is_empty() || head.method == Method::OPTIONS {
        return Ok(());
    }
    let claims = claims_of_head(gateway, &head.headers, call);
    let pays = head.method == Method::POST || head::wants_websocket(&head.headers);
    let demand = Demand { pays, ..Demand::default() };
    let reserved = reserve(gateway, &claims, &demand, call).await;
    reserved.map_err(|refusal| refuse(refusal, call))
}

async fn reserve(
    gateway: &Gateway,
    claims: &[Claim],
    demand: &Demand,
    call: &mut Call,
) -> Result<(), Box<Refusal>> {
    call.permit = Some(gateway.access.limits.admit(claims, demand).await?);
    Ok(())
}

fn refuse(refusal: Box<Refusal>, call: &mut Call) -> ApiError {
    let error = error::limited(&refusal);
    call.refusal = Some(refusal);
    error
}

fn demand(policy: &Policy, outlook: Option<&Outlook>, route: &Route) -> Demand {
    let (tokens, usd) = outlook.map_or((0, Usd::ZERO), |outlook| policy.at_most(outlook, route));
    Demand { tokens, usd, pays: true, downgraded: false }
}

/// Tells a refused client when to come again.
pub(super) fn explain(refusal: &Refusal, headers: &mut HeaderMap) {
    let after = refusal.retry_after.unwrap_or(NEVER);
    let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    headers.insert(header::RETRY_AFTER, ms.div_ceil(1_000).max(1).into());
    headers.insert(RETRY_AFTER_MS, ms.into());
    // Not worth the waiting of a client that tries again by itself.
    if refusal.kind == Some(Kind::Budget) || refusal.retry_after.is_none() {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let (Some(kind), Some(standing)) = (refusal.kind, &refusal.standing) {
        write(kind, standing, headers);
    }
}

/// Tells how the call's limits stand, where they are tighter than the provider's.
pub(super) fn tell_standing(permit: &Permit, headers: &mut HeaderMap) {
    let now = Now::read();
    for (kind, [_, remaining, _]) in RATES {
        let Some(standing) = permit.standing(kind, now) else { continue };
        let theirs = headers.get(remaining).and_then(|value| value.to_str().ok()?.parse().ok());
        if theirs.is_none_or(|theirs: u64| standing.remaining < theirs) {
            write(kind, &standing, headers);
        }
    }
}

fn write(kind: Kind, standing: &Standing, headers: &mut HeaderMap) {
    let Some((_, [limit, remaining, reset])) = RATES.into_iter().find(|(of, _)| *of == kind) else {
        return;
    };
    headers.insert(limit, standing.limit.into());
    headers.insert(remaining, standing.remaining.into());
    if let Ok(text) = HeaderValue::from_str(&spelled(standing.resets_in)) {
        headers.insert(reset, text);
    }
}

/// A time as OpenAI spells it: `120ms`, `6.5s`, `1m5s`.
fn spelled(time: Duration) -> String {
    let ms = time.as_millis();
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let seconds = match rest % 1_000 {
        0 => format!("{}s", rest / 1_000),
        part => format!("{}.{part:03}s", rest / 1_000),
    };
    match (minutes, rest) {
        (0, 1..1_000) => format!("{rest}ms"),
        (0, _) => seconds,
        (minutes, _) => format!("{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelled_as_openai_does() {
        let spelled = |ms| spelled(Duration::from_millis(ms));
        assert_eq!(spelled(0), "0s");
        assert_eq!(spelled(120), "120ms");
        assert_eq!(spelled(8_640), "8.640s");
        assert_eq!(spelled(60_000), "1m0s");
        assert_eq!(spelled(64_999), "1m4.999s");
    }
}
