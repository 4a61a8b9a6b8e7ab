//! `POST /v1/moderations`: flags a few plain words.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::{Map, Value, json};

use crate::simulator::call::JsonCall;
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::world::World;

/// Every category, with words that flag it.
const CATEGORIES: [(&str, &[&str]); 13] = [
    ("harassment", &["idiot", "stupid"]),
    ("harassment/threatening", &["i will hurt"]),
    ("hate", &["hate them"]),
    ("hate/threatening", &[]),
    ("illicit", &["steal", "drugs"]),
    ("illicit/violent", &["bomb"]),
    ("self-harm", &["suicide", "hurt myself"]),
    ("self-harm/instructions", &[]),
    ("self-harm/intent", &["kill myself"]),
    ("sexual", &["porn"]),
    ("sexual/minors", &[]),
    ("violence", &["kill", "murder", "attack"]),
    ("violence/graphic", &["gore"]),
];

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    Ok(request.call.json(judge(&world, &object)?))
}

/// Checks a request and answers it.
pub(super) fn judge(world: &World, request: &Map<String, Value>) -> Result<Value, Refusal> {
    let model = request.get("model").and_then(Value::as_str).unwrap_or("omni-moderation-latest");
    if !model.contains("moderation") {
        return Err(Refusal::no_model(model));
    }
    let input = request.get("input").unwrap_or(&Value::Null);
    let results: Vec<Value> = match input {
        Value::String(text) => vec![result(text)],
        // Parts of one input: text and images together.
        Value::Array(parts) if parts.first().is_some_and(Value::is_object) => {
            vec![result(&text::of_content(input))]
        }
        Value::Array(texts) if !texts.is_empty() => {
            texts.iter().map(|text| result(text.as_str().unwrap_or_default())).collect()
        }
        Value::Null => return Err(Refusal::missing("input")),
        other => return Err(Refusal::wrong_type("input", "a string or a non-empty array", other)),
    };
    Ok(json!({"id": world.id("modr-"), "model": model, "results": results}))
}

fn result(text: &str) -> Value {
    let text = text.to_lowercase();
    let mut flagged = false;
    let (mut categories, mut scores, mut types) = (Map::new(), Map::new(), Map::new());
    for (category, words) in CATEGORIES {
        let hit = words.iter().any(|word| text.contains(word));
        flagged |= hit;
        categories.insert(category.to_owned(), json!(hit));
        scores.insert(category.to_owned(), json!(if hit { 0.97 } else { 0.0001 }));
        types.insert(category.to_owned(), json!(["text"]));
    }
    json!({
        "flagged": flagged, "categories": categories, "category_scores": scores,
        "category_applied_input_types": types,
    })
}
