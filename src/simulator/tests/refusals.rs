//! What is refused, and in which words.

use serde_json::{Value, json};

use super::{World, chat, with};

const CHAT: &str = "/v1/chat/completions";

async fn refused(world: &World, path: &str, body: Value, wanted: (u16, Value, Value), says: &str) {
    let (status, error) = world.refused(path, &body).await;
    let found = (status, error["param"].clone(), error["code"].clone());
    assert_eq!(found, wanted, "{body} {error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(says), "{message}");
    assert_eq!(error["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_wrong_chat_request_is_refused_as_openai_does() {
    let world = World::start().await;
    let null = Value::Null;
    let messages = |messages: Value| with(chat(""), json!({"messages": messages}));
    let also = |fields: Value| with(chat("hi"), fields);
    let table = [
        (
            json!({"messages": []}),
            (null.clone(), null.clone()),
            "you must provide a model parameter",
        ),
        (also(json!({"model": "llama"})), (null.clone(), json!("model_not_found")), "`llama`"),
        (json!({"model": "gpt-5"}), (json!("messages"), json!("missing_required_parameter")), ""),
        (messages(json!([])), (json!("messages"), json!("empty_array")), "empty array"),
        (messages(json!("hi")), (json!("messages"), json!("invalid_type")), "got a string"),
        (
            messages(json!([{"role": "boss", "content": "x"}])),
            (json!("messages[0].role"), json!("invalid_value")),
            "'boss'",
        ),
        (
            also(json!({"temperature": 3})),
            (json!("temperature"), json!("decimal_above_max_value")),
            "<= 2, but got 3",
        ),
        (also(json!({"n": 0})), (json!("n"), json!("integer_below_min_value")), ">= 1"),
        (
            also(json!({"max_tokens": 0})),
            (json!("max_tokens"), json!("integer_below_min_value")),
            "",
        ),
        (
            also(json!({"stream_options": {"include_usage": true}})),
            (json!("stream_options"), null.clone()),
            "only allowed when 'stream' is enabled",
        ),
        (
            also(json!({"foo": 1})),
            (null.clone(), null.clone()),
            "Unrecognized request argument supplied: foo",
        ),
        (
            messages(json!([{"role": "tool", "tool_call_id": "c", "content": "x"}])),
            (json!("messages.[0].role"), null.clone()),
            "must be a response to a preceeding message",
        ),
        (
            messages(json!([
                {"role": "assistant", "tool_calls": [{"id": "call_7"}]},
                {"role": "user", "content": "x"},
            ])),
            (json!("messages.[1].role"), null.clone()),
            "did not have response messages: call_7",
        ),
        (
            also(json!({"response_format": {"type": "json_schema", "json_schema": {}}})),
            (json!("response_format.json_schema.name"), json!("missing_required_parameter")),
            "",
        ),
    ];
    for (body, (param, code), says) in table {
        let status = if code == "model_not_found" { 404 } else { 400 };
        refused(&world, CHAT, body, (status, param, code), says).await;
    }
}

#[tokio::test]
async fn a_wrong_embeddings_request_is_refused() {
    let world = World::start().await;
    let embed = |input: Value| json!({"model": "text-embedding-3-small", "input": input});
    let path = "/v1/embeddings";
    let invalid = (400, json!("input"), Value::Null);
    refused(&world, path, embed(json!([])), invalid.clone(), "'$.input' is invalid").await;
    refused(&world, path, embed(json!("")), invalid, "'$.input' is invalid").await;
    let many = embed(json!(vec!["x"; 2049]));
    let wanted = (400, json!("input"), json!("array_above_max_length"));
    refused(&world, path, many, wanted, "length 2049").await;
    let absent = (400, json!("input"), json!("missing_required_parameter"));
    refused(&world, path, json!({"model": "text-embedding-3-small"}), absent, "'input'").await;
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let world = World::start().await;
    let response = world.post(CHAT).body("{").send().await.unwrap();
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("We could not parse the JSON body of your request."));
}

#[tokio::test]
async fn a_key_is_needed_and_a_wrong_one_refused() {
    let world = World::start().await;
    let url = format!("{}/v1/models", world.base);
    let without = world.client.get(&url).send().await.unwrap();
    assert_eq!(without.status(), 401);
    let body: Value = without.json().await.unwrap();
    assert!(
        body["error"]["message"].as_str().unwrap().starts_with("You didn't provide an API key")
    );
    let wrong = world.client.get(&url).bearer_auth("sk-invalid-1234").send().await.unwrap();
    let body: Value = wrong.json().await.unwrap();
    assert_eq!(body["error"]["code"], "invalid_api_key");
}

#[tokio::test]
async fn an_unknown_url_and_a_wrong_method_are_named() {
    let world = World::start().await;
    let unknown = world.get("/v1/xyz").send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert_eq!(
        unknown.json::<Value>().await.unwrap(),
        json!({"error": {
            "message": "Unknown request URL: GET /v1/xyz. Please check the URL for typos, or see \
                        the docs at https://platform.openai.com/docs/api-reference/.",
            "type": "invalid_request_error", "param": null, "code": "unknown_url",
        }})
    );
    let method = world.get(CHAT).send().await.unwrap();
    assert_eq!(method.status(), 405);
}
