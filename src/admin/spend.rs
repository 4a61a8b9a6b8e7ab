//! `GET /api/spend`: what calls cost, by whatever they are grouped by.

use axum::Json;
use axum::extract::Query;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::response::Response;

use crate::store::SpendQuery;

use super::Parts;
use super::bad_parameter;
use super::now;
use super::store_away;
use super::store_off;

/// What calls cost. Money is in USD, as decimal strings.
#[utoipa::path(
    get,
    path = "/api/spend",
    params(
        ("group_by" = Option<String>, Query, description = "Of team, key, model, requested_model, response_model, upstream, route, endpoint, policy, price_status, user, session, hour, day, month, tag:<name>; several with commas"),
        ("since" = Option<String>, Query, description = "RFC 3339, or a duration before now such as 24h; all there is when left out"),
        ("until" = Option<String>, Query, description = "The same; not part of the period"),
        ("limit" = Option<u32>, Query, description = "Lines of a page: 1 to 10000, 1000 when left out"),
        ("after" = Option<String>, Query, description = "The id of the last line of the page before"),
        ("order" = Option<String>, Query, description = "asc or desc, by the groups' values"),
    ),
    responses(
        (status = 200, description = "A list of lines, one for each group", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
pub(super) async fn spend(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let Some(ledger) = &parts.ledger else { return store_off() };
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = match SpendQuery::parse(parameters, now()) {
        Ok(query) => query,
        Err(error) => return bad_parameter(error),
    };
    match ledger.spend_in_use(&query).await {
        Ok(page) => Json(page).into_response(),
        Err(error) => store_away(&error),
    }
}
