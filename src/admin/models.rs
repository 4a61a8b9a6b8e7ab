//! `GET /api/models`: what is known of each model under the policy in force.

use axum::Json;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::response::IntoResponse as _;
use axum::response::Response;

use crate::openai::error::ApiError;
use crate::policy::ModelPage;
use crate::policy::Policy;

use super::Parts;
use super::policies::today;
use super::reply;

/// Largest page.
const MOST_MODELS: usize = 1_000;
/// A page when nobody says how long.
const MODELS: usize = 100;

/// What of the models is asked for.
struct Page {
    after: Option<String>,
    limit: usize,
    descending: bool,
}

/// Every model that the policy or the catalogue knows, in order of id.
#[utoipa::path(
    get,
    path = "/api/models",
    params(
        ("limit" = Option<u32>, Query, description = "Models of a page: 1 to 1000, 100 when left out"),
        ("after" = Option<String>, Query, description = "The id of the last model of the page before"),
        ("order" = Option<String>, Query, description = "asc or desc, by id; asc when left out"),
    ),
    responses(
        (status = 200, description = "A list of models: object, data, first_id, last_id, has_more", body = Object),
        (status = 400, description = "A parameter that cannot be used"),
    )
)]
pub(super) async fn models(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    match Page::parse(&parameters) {
        Ok(page) => Json(page.of(&parts.policy.current())).into_response(),
        Err(error) => reply(&error),
    }
}

/// All that is known of a model: prices in USD as decimal strings, limits, the shutdown date, and
/// where each of them comes from.
#[utoipa::path(
    get,
    path = "/api/models/{model}",
    params(("model" = String, Path, description = "Its name, percent-encoded where it has / or other signs")),
    responses(
        (status = 200, description = "The model: id, mode, upstream, upstream_model, usd_per_million_tokens by tier, usd_per_unit, max_input_tokens, max_output_tokens, shutdown_date, days_to_shutdown, capabilities, endpoints, source", body = Object),
        (status = 404, description = "Neither policy nor catalogue knows it"),
    )
)]
pub(super) async fn model(
    State(parts): State<Parts>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    let Ok(Path(name)) = name else {
        let message = "The model's name is not UTF-8; percent-encode it as UTF-8.";
        return reply(&ApiError::bad_request("invalid_parameter", message).param("model"));
    };
    let policy = parts.policy.current();
    if let Some(view) = policy.view(&name, today()) {
        return Json(view).into_response();
    }
    let near = policy.names_like(&name);
    let help = match &near[..] {
        [] => "GET /api/models lists all.".to_owned(),
        near => format!("Did you mean {}?", near.join(", ")),
    };
    let message = format!("There is no model `{name}` in the policy or the catalogue. {help}");
    let refused = ApiError::new(404, "invalid_request_error", "model_not_found", message);
    reply(&refused.param("model"))
}

impl Page {
    fn parse(parameters: &[(String, String)]) -> Result<Self, ApiError> {
        let mut page = Self { after: None, limit: MODELS, descending: false };
        for (name, value) in parameters {
            let wrong = |cure: &str| {
                let message = format!("`{name}={value}`: {cure}.");
                Err(ApiError::bad_request("invalid_parameter", message).param(name.clone()))
            };
            match (name.as_str(), value.as_str()) {
                ("after", _) => page.after = Some(value.clone()),
                ("limit", _) => match value.parse() {
                    Ok(limit) if (1..=MOST_MODELS).contains(&limit) => page.limit = limit,
                    _ => return wrong("write a number from 1 to 1000"),
                },
                ("order", "asc") => page.descending = false,
                ("order", "desc") => page.descending = true,
                ("order", _) => return wrong("write asc or desc"),
                _ => return wrong("the parameters are after, limit and order"),
            }
        }
        Ok(page)
    }

    /// Only the models of the page are looked at.
    fn of(&self, policy: &Policy) -> ModelPage {
        let mut names = policy.model_names();
        if let Some(after) = &self.after {
            // A model that has gone since the page before does not end the list.
            names.retain(|name| match self.descending {
                true => **name < **after,
                false => **name > **after,
            });
        }
        if self.descending {
            names.reverse();
        }
        let has_more = names.len() > self.limit;
        let names = names.into_iter().take(self.limit);
        ModelPage::of(names.filter_map(|name| policy.view(&name, today())).collect(), has_more)
    }
}
