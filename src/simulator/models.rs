//! `/v1/models`: a small list of models, and those that fine-tune jobs made.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use serde_json::{Value, json};

use crate::simulator::call::Call;
use crate::simulator::jobs;
use crate::simulator::refusal::Refusal;
use crate::simulator::world::{World, locked};

/// Name, creation time, shutdown date (catalogue of November 2026).
const MODELS: [(&str, u64, Option<&str>); 28] = [
    ("gpt-6.1-sol", 1_788_000_000, None),
    ("gpt-6.1-terra", 1_788_000_000, None),
    ("gpt-6-luna", 1_780_000_000, None),
    ("gpt-6-sol", 1_780_000_000, None),
    ("gpt-5.6-sol", 1_770_000_000, None),
    ("gpt-5.6-terra", 1_770_000_000, None),
    ("gpt-5.6-luna", 1_770_000_000, None),
    ("gpt-5", 1_754_425_777, Some("2026-12-11")),
    ("gpt-5-mini", 1_754_425_928, Some("2026-12-11")),
    ("gpt-4.1", 1_744_316_542, None),
    ("gpt-4.1-mini", 1_744_318_173, None),
    ("gpt-4.1-nano", 1_744_321_025, Some("2026-10-23")),
    ("gpt-4o", 1_715_367_049, None),
    ("gpt-4o-mini", 1_721_172_741, None),
    ("o3", 1_744_225_308, Some("2026-12-11")),
    ("o4-mini", 1_744_225_351, Some("2026-10-23")),
    ("text-embedding-3-small", 1_705_948_997, None),
    ("text-embedding-3-large", 1_705_953_180, None),
    ("text-embedding-ada-002", 1_671_217_299, None),
    ("omni-moderation-latest", 1_731_689_265, None),
    ("whisper-1", 1_677_532_384, Some("2027-02-26")),
    ("gpt-4o-mini-transcribe", 1_742_068_596, Some("2027-02-26")),
    ("tts-1", 1_681_940_951, Some("2027-01-06")),
    ("gpt-4o-mini-tts", 1_742_403_959, Some("2027-01-06")),
    ("gpt-image-1", 1_745_517_030, Some("2026-10-23")),
    ("gpt-realtime", 1_756_271_701, Some("2027-01-20")),
    ("gpt-realtime-2", 1_785_000_000, None),
    ("babbage-002", 1_692_634_615, Some("2026-09-28")),
];

fn built_in() -> impl Iterator<Item = Value> {
    MODELS.iter().map(|(id, created, shutdown)| {
        json!({
            "id": id, "object": "model", "created": created, "owned_by": "openai",
            "shutdown_date": shutdown,
        })
    })
}

pub(super) async fn list(State(world): State<Arc<World>>, call: Call) -> Response<Body> {
    jobs::settle_all(&world);
    let tuned: Vec<Value> = locked(&world.tuned).iter().cloned().collect();
    let models: Vec<Value> = built_in().chain(tuned).collect();
    call.json(json!({"object": "list", "data": models}))
}

pub(super) async fn read(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    jobs::settle_all(&world);
    let tuned = locked(&world.tuned).find(&id).cloned();
    let model = tuned.or_else(|| built_in().find(|model| model["id"] == id.as_str()));
    model.map(|model| call.json(model)).ok_or_else(|| no_model(&id))
}

/// Only fine-tuned models can be deleted.
pub(super) async fn delete(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    jobs::settle_all(&world);
    if locked(&world.tuned).take(&id).is_some() {
        return Ok(call.json(json!({"id": id, "object": "model", "deleted": true})));
    }
    if MODELS.iter().any(|(name, ..)| *name == id) {
        let message = "You have insufficient permissions for this operation: only fine-tuned \
                       models can be deleted.";
        return Err(Refusal::new(403, message));
    }
    Err(no_model(&id))
}

fn no_model(id: &str) -> Refusal {
    let message = format!("The model '{id}' does not exist");
    Refusal::new(404, message).param("model").code("model_not_found")
}
