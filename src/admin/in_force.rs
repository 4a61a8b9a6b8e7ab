//! `GET /api/policies`: what is in force, and what is wrong with the folder.

use axum::Json;
use axum::extract::State;
use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use crate::policy::Diagnostic;
use crate::policy::Rejected;

use super::Parts;

/// The policy in force.
#[derive(Serialize, ToSchema)]
pub(super) struct InForce {
    /// First 12 hexadecimal digits of a hash of its files.
    revision: String,
    /// Since when, RFC 3339.
    since: String,
    /// Whether it is what the folder holds now.
    in_sync: bool,
    /// The rules in the order in which they are tried.
    routes: Vec<String>,
    /// What is worth a look.
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Diagnostic>,
    /// What the folder holds, where that is refused.
    rejected: Option<Refused>,
}

/// A content of the folder that was refused.
#[derive(Serialize, ToSchema)]
struct Refused {
    /// The revision it would have had; empty when the folder could not be read.
    revision: String,
    /// When, RFC 3339.
    at: String,
    /// What is wrong with it.
    #[schema(value_type = Vec<Object>)]
    diagnostics: Vec<Diagnostic>,
}

/// The policy in force, and what became of the last change of its folder.
#[utoipa::path(get, path = "/api/policies", responses((status = 200, body = InForce)))]
pub(super) async fn policies(State(parts): State<Parts>) -> Json<InForce> {
    let policy = parts.policy.current();
    let rejected = parts.policy.rejected();
    Json(InForce {
        revision: policy.revision().to_owned(),
        since: rfc3339(parts.policy.since()),
        in_sync: rejected.is_none(),
        routes: policy.rules().iter().map(|rule| rule.name.to_string()).collect(),
        warnings: policy.warnings.clone(),
        rejected: rejected.map(|rejected| {
            let Rejected { revision, at, diagnostics } = &*rejected;
            let (revision, diagnostics) = (revision.clone(), diagnostics.clone());
            Refused { revision, at: rfc3339(*at), diagnostics }
        }),
    })
}

fn rfc3339(time: std::time::SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}
