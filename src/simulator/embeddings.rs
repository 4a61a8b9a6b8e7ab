//! `POST /v1/embeddings`: unit vectors made from the words of a text, so that texts which share
//! words lie close to each other.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::simulator::call::JsonCall;
use crate::simulator::chat_stream::json_text;
use crate::simulator::knobs::Knobs;
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::validate;
use crate::simulator::world::World;

/// Most inputs of one request.
const MAX_INPUTS: usize = 2048;
/// Coordinates that each word moves.
const PLACES_PER_WORD: usize = 8;

/// One thing to embed: its words (or tokens) as hashes.
struct Input {
    /// Hash of all of it, where the noise begins.
    seed: u64,
    words: Vec<u64>,
    tokens: u64,
}

pub(super) async fn create(
    State(_world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let body = embed(&request.call.knobs, &object)?;
    Ok(request.call.bytes("application/json", body))
}

/// Checks a request and answers it, as JSON text: the numbers are written once.
pub(super) fn embed(knobs: &Knobs, request: &Map<String, Value>) -> Result<Bytes, Refusal> {
    let model = validate::model(request)?;
    let dimensions = dimensions(model, request)?;
    let as_base64 = encoding(request)?;
    let inputs = inputs(request.get("input").unwrap_or(&Value::Null))?;
    let tokens: u64 = inputs.iter().map(|input| input.tokens).sum();
    let mut body = br#"{"object":"list","data":["#.to_vec();
    for (index, input) in inputs.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let row = format!(r#"{comma}{{"object":"embedding","index":{index},"embedding":"#);
        body.extend_from_slice(row.as_bytes());
        write_vector(&vector(input, dimensions), as_base64, &mut body);
        body.push(b'}');
    }
    body.extend_from_slice(format!(r#"],"model":{}"#, json_text(model)).as_bytes());
    if !knobs.no_usage {
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        body.extend_from_slice(format!(r#","usage":{usage}"#).as_bytes());
    }
    body.push(b'}');
    Ok(body.into())
}

fn dimensions(model: &str, request: &Map<String, Value>) -> Result<usize, Refusal> {
    let most: i64 = if model.contains("3-large") { 3072 } else { 1536 };
    let asked = validate::integer(request, "dimensions", 1, most)?;
    if asked.is_some() && model.contains("ada-002") {
        let message = "This model does not support specifying dimensions.";
        return Err(Refusal::bad(message));
    }
    if model.starts_with("gpt-") || model.starts_with("o") {
        let message = "You are not allowed to generate embeddings from this model";
        return Err(Refusal::new(403, message));
    }
    let most = usize::try_from(most).unwrap_or(1536);
    Ok(asked.and_then(|n| usize::try_from(n).ok()).unwrap_or(most))
}

/// True for base64.
fn encoding(request: &Map<String, Value>) -> Result<bool, Refusal> {
    match validate::given(request, "encoding_format").map(|format| format.as_str()) {
        None | Some(Some("float")) => Ok(false),
        Some(Some("base64")) => Ok(true),
        Some(other) => {
            let other = other.unwrap_or_default();
            let message =
                format!("Invalid value: '{other}'. Supported values are: 'float' and 'base64'.");
            Err(Refusal::bad(message).param("encoding_format").code("invalid_value"))
        }
    }
}

fn inputs(input: &Value) -> Result<Vec<Input>, Refusal> {
    match input {
        Value::Null => Err(Refusal::missing("input")),
        Value::String(text) => Ok(vec![of_text(text)?]),
        Value::Array(items) if items.is_empty() => Err(invalid()),
        Value::Array(items) if items.iter().all(Value::is_u64) => Ok(vec![of_tokens(items)?]),
        Value::Array(items) if items.len() > MAX_INPUTS => Err(too_many(items.len())),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => of_text(text),
                Value::Array(tokens) => of_tokens(tokens),
                _ => Err(invalid()),
            })
            .collect(),
        _ => Err(invalid()),
    }
}

fn invalid() -> Refusal {
    Refusal::bad(
        "'$.input' is invalid. Please check the API reference: \
         https://platform.openai.com/docs/api-reference.",
    )
    .param("input")
}

fn too_many(got: usize) -> Refusal {
    Refusal::bad(format!(
        "Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS}, but \
         got an array with length {got} instead."
    ))
    .param("input")
    .code("array_above_max_length")
}

fn of_text(text: &str) -> Result<Input, Refusal> {
    if text.is_empty() {
        return Err(invalid());
    }
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.map(|word| text::hash(word.as_bytes())).collect();
    Ok(Input { seed: text::hash(text.as_bytes()), words, tokens: text::tokens(text) })
}

fn of_tokens(tokens: &[Value]) -> Result<Input, Refusal> {
    let number = |token: &Value| token.as_u64().ok_or_else(invalid);
    let words: Vec<u64> = tokens.iter().map(number).collect::<Result<_, _>>()?;
    if words.is_empty() {
        return Err(invalid());
    }
    let tokens = u64::try_from(words.len()).unwrap_or(u64::MAX);
    let seed = words.iter().fold(0, |seed, word| text::hash(&(seed ^ word).to_le_bytes()));
    Ok(Input { seed, words, tokens })
}

/// A little noise from all of the text, and every word pushing a few coordinates.
fn vector(input: &Input, dimensions: usize) -> Vec<f32> {
    let mut seed = input.seed;
    let mut vector: Vec<f32> =
        (0..dimensions).map(|_| fraction(text::next_random(&mut seed)) * 0.1).collect();
    for word in &input.words {
        let mut seed = *word;
        for _ in 0..PLACES_PER_WORD {
            let random = text::next_random(&mut seed);
            let place = usize::try_from(random >> 1).unwrap_or_default() % dimensions;
            let push = if random & 1 == 0 { 1.0 } else { -1.0 };
            if let Some(coordinate) = vector.get_mut(place) {
                *coordinate += push;
            }
        }
    }
    unit(vector)
}

/// Evenly spread over -1..1.
fn fraction(random: u64) -> f32 {
    let step = i16::try_from(random % 20_001).unwrap_or_default() - 10_000;
    f32::from(step) / 10_000.0
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let squares: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    if squares < 1e-12 {
        if let Some(first) = vector.first_mut() {
            *first = 1.0;
        }
        return vector;
    }
    let length = squares.sqrt();
    vector.iter_mut().for_each(|x| *x = narrowed(f64::from(*x) / length));
    vector
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a coordinate of a unit vector fits; it is rounded"
)]
fn narrowed(x: f64) -> f32 {
    x as f32
}

fn write_vector(vector: &[f32], as_base64: bool, body: &mut Vec<u8>) {
    if as_base64 {
        let raw: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        body.extend_from_slice(format!("\"{}\"", STANDARD.encode(raw)).as_bytes());
        return;
    }
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(body, vector);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let [a, b] = [a, b].map(|text| vector(&of_text(text).unwrap(), 256));
        a.iter().zip(&b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn texts_that_share_words_are_closer() {
        let near = cosine("how do I reset my password", "reset a password");
        let far = cosine("how do I reset my password", "opening hours on sunday");
        assert!(near > far + 0.2, "{near} {far}");
    }

    #[test]
    fn one_dimension_is_still_a_unit_vector() {
        let vector = vector(&of_text("a").unwrap(), 1);
        assert!((vector[0].abs() - 1.0).abs() < 1e-6, "{vector:?}");
    }
}
