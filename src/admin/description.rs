//! `/openapi.json`: what the routes say of themselves, and what holds for all of them: the token, the
//! shape of errors and lists, and what the store or a repeated request may lead to.

use axum::http::StatusCode;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use utoipa::openapi::OpenApi;

/// Routes that answer without the store.
const WITHOUT_STORE: [&str; 4] = ["/api/policies", "/api/limits", "/api/models", "/api/route"];

/// The whole description.
pub(super) fn complete(routes: &OpenApi) -> Value {
    let mut whole = serde_json::to_value(routes).unwrap_or_default();
    for (name, schema) in [("Error", error_schema()), ("List", list_schema())] {
        whole["components"]["schemas"][name] = schema;
    }
    whole["components"]["securitySchemes"]["admin_token"] = json!({
        "type": "http", "scheme": "bearer",
        "description": "The value of WEIR_ADMIN_TOKEN; asked for as soon as that is set",
    });
    let paths = whole["paths"].as_object_mut().into_iter().flatten();
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
                bound(parameter);
            }
            if path.starts_with("/api/") {
                operation["security"] = json!([{ "admin_token": [] }]);
            }
            answers(path, method == "post", &mut operation["responses"]);
        }
    }
    whole
}

/// Says which values of `order` and `limit` are taken.
fn bound(parameter: &mut Value) {
    match parameter["name"].as_str() {
        Some("order") => parameter["schema"] = json!({ "type": "string", "enum": ["asc", "desc"] }),
        Some("limit") => parameter["schema"] = json!({ "type": "integer", "minimum": 1 }),
        _ => {}
    }
}

/// Adds what a route does not say itself.
fn answers(path: &str, is_post: bool, responses: &mut Value) {
    let Some(responses) = responses.as_object_mut() else { return };
    let guarded = path.starts_with("/api/");
    let stored = !WITHOUT_STORE.iter().any(|beginning| path.starts_with(beginning));
    let named = path.contains('{');
    for (status, holds, why) in [
        (401, guarded, "The token of the control plane is missing or wrong"),
        (400, guarded && is_post, "A body or a header that cannot be used; `param` names it"),
        (400, named, "A path that cannot be read"),
        (404, guarded && stored, "There is none, or the store is switched off"),
        (
            409,
            guarded && is_post,
            "The Idempotency-Key came with another body, or is being answered",
        ),
        (413, guarded && is_post, "The body is too large"),
        (503, guarded && (stored || is_post), "The store is away now"),
    ] {
        let known = responses.contains_key(&status.to_string());
        if holds && !known {
            responses.insert(status.to_string(), json!({ "description": why }));
        }
    }
    for (status, response) in responses {
        refer(status, response);
    }
}

/// Names the shape of an error or a list.
fn refer(status: &str, response: &mut Value) {
    let failed = status.parse().is_ok_and(|status: u16| {
        StatusCode::from_u16(status).is_ok_and(|status| !status.is_success())
    });
    let listed = response["description"].as_str().is_some_and(|text| text.starts_with("A list"));
    let schema = match (failed, listed) {
        (true, _) if response.get("content").is_none() => "Error",
        (false, true) => "List",
        _ => return,
    };
    let reference = format!("#/components/schemas/{schema}");
    response["content"] = json!({ "application/json": { "schema": { "$ref": reference } } });
}

fn error_schema() -> Value {
    let text = json!({ "type": "string" });
    object(json!({ "error": object(json!({
        "message": text, "type": text, "param": { "type": ["string", "null"] }, "code": text,
    })) }))
}

fn list_schema() -> Value {
    let id = json!({ "type": ["string", "null"] });
    object(json!({
        "object": { "const": "list" }, "data": { "type": "array", "items": { "type": "object" } },
        "first_id": id, "last_id": id, "has_more": { "type": "boolean" },
    }))
}

/// An object all of whose members are there.
fn object(properties: Value) -> Value {
    let names: Vec<String> =
        properties.as_object().map(Map::keys).into_iter().flatten().cloned().collect();
    json!({ "type": "object", "properties": properties, "required": names })
}
