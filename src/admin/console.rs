//! `/`: the console, one page that reads the routes of the control plane from the browser.

use axum::http::HeaderName;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Parts;

const PAGE: &str = include_str!("console.html");
/// The page loads nothing, talks to this gateway alone, and stands in no other page's frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The route of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new().routes(routes!(console))
}

/// The console. It asks for the token in the browser, and shows nothing without it.
#[utoipa::path(get, path = "/", responses((status = 200, body = String, content_type = "text/html")))]
async fn console() -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE)
}
