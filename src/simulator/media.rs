//! Images and audio: tiny stand-ins with the usage that a real answer has.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Multipart, State};
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::simulator::call::{Call, JsonCall};
use crate::simulator::files::{Content, broken};
use crate::simulator::play::Event;
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::validate;
use crate::simulator::world::{World, now};

/// A PNG of one transparent pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// What every recording says.
const SPOKEN: &str = "This is a test recording of the simulator.";
/// Output tokens of one image (1024x1024, medium quality).
const IMAGE_TOKENS: u64 = 1056;

pub(super) async fn generate_images(
    State(_world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let prompt = validate::text(&object, "prompt")?;
    let n = validate::integer(&object, "n", 1, 10)?.unwrap_or(1);
    if let Some(model) = validate::given(&object, "model").and_then(Value::as_str)
        && !validate::is_known_model(model)
    {
        return Err(Refusal::no_model(model));
    }
    let (input, output) = (text::tokens(prompt), n * IMAGE_TOKENS);
    let images: Vec<Value> = (0..n).map(|_| json!({"b64_json": PIXEL})).collect();
    Ok(request.call.json(json!({
        "created": now(), "data": images, "background": "opaque", "output_format": "png",
        "quality": "medium", "size": "1024x1024",
        "usage": {
            "input_tokens": input, "output_tokens": output, "total_tokens": input + output,
            "input_tokens_details": {"text_tokens": input, "image_tokens": 0},
        },
    })))
}

pub(super) async fn speak(request: JsonCall) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    validate::model(&object)?;
    validate::text(&object, "voice")?;
    let input = validate::text(&object, "input")?;
    let size = request.call.knobs.bytes.unwrap_or(input.len().max(16));
    let mut sound = b"ID3\x04\0\0\0\0\0\0".to_vec();
    sound.resize(size.max(10), 0x55);
    Ok(request.call.bytes("audio/mpeg", sound.into()))
}

/// What a transcription's form says.
#[derive(Default)]
struct Form {
    model: Option<String>,
    format: Option<String>,
    stream: bool,
    audio: Option<Content>,
}

impl Form {
    async fn read(mut form: Multipart) -> Result<Self, Refusal> {
        let mut read = Self::default();
        while let Some(mut field) = form.next_field().await.map_err(|error| broken(&error))? {
            match field.name().unwrap_or_default() {
                "file" => read.audio = Some(Content::read(&mut field, 0).await?),
                "model" => read.model = Some(field.text().await.map_err(|error| broken(&error))?),
                "stream" => {
                    read.stream = field.text().await.map_err(|error| broken(&error))? == "true";
                }
                "response_format" => {
                    read.format = Some(field.text().await.map_err(|error| broken(&error))?);
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

pub(super) async fn transcribe(
    State(_world): State<Arc<World>>,
    call: Call,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response<Body>, Refusal> {
    let form = form.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let form = Form::read(form).await?;
    let model = form.model.ok_or_else(|| Refusal::bad("you must provide a model parameter"))?;
    if !validate::is_known_model(&model) {
        return Err(Refusal::no_model(&model));
    }
    let audio = form.audio.ok_or_else(|| Refusal::missing("file"))?;
    let usage = audio_usage(&model, audio.size_bytes);
    if form.stream && !model.starts_with("whisper") {
        return Ok(call.events(transcript_events(&usage)));
    }
    Ok(match form.format.as_deref() {
        Some("text") => call.bytes("text/plain; charset=utf-8", Bytes::from(format!("{SPOKEN}\n"))),
        Some("srt" | "vtt") => {
            let lines = format!("1\n00:00:00,000 --> 00:00:02,000\n{SPOKEN}\n");
            call.bytes("text/plain; charset=utf-8", lines.into())
        }
        Some("verbose_json") => call.json(json!({
            "task": "transcribe", "language": "english", "duration": 2.0, "text": SPOKEN,
            "segments": [], "usage": usage,
        })),
        _ => call.json(json!({"text": SPOKEN, "usage": usage})),
    })
}

/// Whisper is paid by the second, the others by the token. A second is taken to be 16,000 bytes, and
/// ten audio tokens.
fn audio_usage(model: &str, size_bytes: u64) -> Value {
    let seconds = size_bytes.div_ceil(16_000).max(1);
    if model.starts_with("whisper") {
        return json!({"type": "duration", "seconds": seconds});
    }
    let (input, output) = (seconds * 10, text::tokens(SPOKEN));
    json!({
        "type": "tokens", "input_tokens": input, "output_tokens": output,
        "total_tokens": input + output,
        "input_token_details": {"text_tokens": 0, "audio_tokens": input},
    })
}

fn transcript_events(usage: &Value) -> Vec<Event> {
    let deltas = text::pieces(SPOKEN, None).into_iter().map(|piece| {
        Event::data(&json!({"type": "transcript.text.delta", "delta": piece}).to_string(), true)
    });
    let done = json!({"type": "transcript.text.done", "text": SPOKEN, "usage": usage});
    deltas.chain([Event::data(&done.to_string(), false)]).collect()
}
