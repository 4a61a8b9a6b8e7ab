//! Endpoints that answer at once.

use serde_json::{Value, json};

use super::{World, chat, client, data, with};

#[tokio::test]
async fn the_same_chat_request_gets_the_same_answer() {
    let world = World::start().await;
    let first = world.ask("/v1/chat/completions", &chat("what is a weir?")).await;
    let second = world.ask("/v1/chat/completions", &chat("what is a weir?")).await;
    assert_eq!(first["object"], "chat.completion");
    assert_eq!(first["choices"], second["choices"]);
    assert_ne!(first["id"], second["id"]);
    let content = first["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(content.contains("what is a weir?"), "{content}");
    // "what is a weir?" is 15 bytes: 4 tokens, and 4 for the message
    assert_eq!(first["usage"]["prompt_tokens"], 8);
    assert_eq!(first["usage"]["completion_tokens"], content.len().div_ceil(4));
    assert_eq!(
        (&first["service_tier"], &first["model"]),
        (&json!("default"), &json!("gpt-4o-mini"))
    );
}

#[tokio::test]
async fn an_answer_carries_openai_s_headers() {
    let world = World::start().await;
    let response = world.post("/v1/chat/completions").json(&chat("hi")).send().await.unwrap();
    for name in [
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
        "openai-organization",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
    ] {
        assert!(response.headers().contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let world = World::start().await;
    let whole = world.ask("/v1/chat/completions", &chat("one two three")).await;
    let request = with(chat("one two three"), json!({"stream": true}));
    let stream = world.stream("/v1/chat/completions", &request).await;
    assert!(stream.ends_with("data: [DONE]\n\n"));
    let chunks = data(&stream);
    let said: String =
        chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], said);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn the_usage_chunk_comes_only_when_asked_for() {
    let world = World::start().await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = data(&world.stream("/v1/chat/completions", &with(chat("hi"), options)).await);
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

fn weather() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object", "required": ["city"],
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
        },
    }}])
}

#[tokio::test]
async fn a_required_tool_is_called_with_what_its_schema_requires() {
    let world = World::start().await;
    let request = with(chat("hi"), json!({"tools": weather(), "tool_choice": "required"}));
    let answer = world.ask("/v1/chat/completions", &request).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "get_weather");
    assert_eq!(call["arguments"], r#"{"city":"city"}"#);
}

#[tokio::test]
async fn a_tool_is_called_on_its_own_when_the_user_names_it() {
    let world = World::start().await;
    let tools = json!({"tools": weather()});
    let silent = world.ask("/v1/chat/completions", &with(chat("hi"), tools.clone())).await;
    assert_eq!(silent["choices"][0]["finish_reason"], "stop");
    let request = with(chat("use get_weather now"), with(tools, json!({"stream": true})));
    let chunks = data(&world.stream("/v1/chat/completions", &request).await);
    let calls = chunks.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"][0]["function"]);
    let arguments: String = calls.filter_map(|call| call["arguments"].as_str()).collect();
    assert_eq!(arguments, r#"{"city":"city"}"#);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_schema_is_answered_with_json_that_satisfies_it() {
    let world = World::start().await;
    let schema = json!({
        "type": "object", "required": ["n", "tags"],
        "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["a"]}}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let request = with(chat("hi"), json!({"response_format": format}));
    let answer = world.ask("/v1/chat/completions", &request).await;
    assert_eq!(answer["choices"][0]["message"]["content"], r#"{"n":1,"tags":["a"]}"#);

    let text = json!({"format": {"type": "json_schema", "name": "x", "schema": schema}});
    let request = json!({"model": "gpt-6-luna", "input": "hi", "text": text});
    let answer = world.ask("/v1/responses", &request).await;
    assert_eq!(answer["output"][0]["content"][0]["text"], r#"{"n":1,"tags":["a"]}"#);
}

#[tokio::test]
async fn a_limit_cuts_the_answer() {
    let world = World::start().await;
    let request = with(chat("hi"), json!({"max_completion_tokens": 2, "n": 2}));
    let answer = world.ask("/v1/chat/completions", &request).await;
    let content = answer["choices"][1]["message"]["content"].as_str().unwrap();
    assert_eq!(content.len(), 8); // 2 tokens of 4 bytes
    assert_eq!(answer["choices"][1]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 4); // 2 choices of 2
}

#[tokio::test]
async fn a_response_stream_tells_its_events_in_order() {
    let world = World::start().await;
    let request = json!({"model": "gpt-6-luna", "input": "hi", "stream": true});
    let stream = world.stream("/v1/responses", &request).await;
    let mut names: Vec<&str> = stream.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
    let events = data(&stream);
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, types);
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let numbers: Vec<u64> = events.iter().filter_map(|e| e["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..u64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    let last = events.last().unwrap();
    assert_eq!(last["response"]["usage"]["output_tokens_details"]["reasoning_tokens"], 64);
}

#[tokio::test]
async fn a_response_can_call_a_function() {
    let world = World::start().await;
    let tools = json!([{"type": "function", "name": "now", "parameters": {"type": "object"}}]);
    let request = json!({
        "model": "gpt-4.1-mini", "input": [{"role": "user", "content": "hi"}], "tools": tools,
        "tool_choice": {"type": "function", "name": "now"},
    });
    let answer = world.ask("/v1/responses", &request).await;
    assert_eq!(answer["output"][0]["type"], "function_call");
    assert_eq!(answer["output"][0]["arguments"], "{}");
}

#[tokio::test]
async fn completions_stream_and_do_not() {
    let world = World::start().await;
    let request = json!({"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b"], "max_tokens": 3});
    let whole = world.ask("/v1/completions", &request).await;
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][1]["text"].as_str().unwrap().len(), 12); // 3 tokens of 4 bytes
    assert_eq!(whole["usage"]["completion_tokens"], 6); // 2 prompts of 3
    let chunks =
        data(&world.stream("/v1/completions", &with(request, json!({"stream": true}))).await);
    let said: String = chunks
        .iter()
        .filter(|chunk| chunk["choices"][0]["index"] == 1)
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(whole["choices"][1]["text"], said);
}

#[tokio::test]
async fn embeddings_are_unit_vectors_and_the_same_every_time() {
    let world = World::start().await;
    let request = json!({"model": "text-embedding-3-small", "input": ["a b", [1, 2, 3]]});
    let first = world.ask("/v1/embeddings", &request).await;
    assert_eq!(first, world.ask("/v1/embeddings", &request).await);
    for row in first["data"].as_array().unwrap() {
        let vector: Vec<f64> = serde_json::from_value(row["embedding"].clone()).unwrap();
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert_eq!(vector.len(), 1536);
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    // "a b" is 3 bytes, 1 token; 3 tokens as given
    assert_eq!(first["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    let small = with(request, json!({"dimensions": 8, "encoding_format": "base64"}));
    let answer = world.ask("/v1/embeddings", &small).await;
    // 8 floats of 4 bytes are 32; in base64 ceil(32 / 3) * 4 = 44 characters
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 44);
}

#[tokio::test]
async fn moderation_flags_plain_words() {
    let world = World::start().await;
    let answer = world.ask("/v1/moderations", &json!({"input": ["hello", "I kill"]})).await;
    assert_eq!(answer["results"][0]["flagged"], false);
    assert_eq!(answer["results"][1]["categories"]["violence"], true);
}

#[tokio::test]
async fn images_and_audio_answer_with_usage() {
    let world = World::start().await;
    let image = json!({"model": "gpt-image-1", "prompt": "a weir"});
    let answer = world.ask("/v1/images/generations", &image).await;
    assert_eq!(answer["usage"]["output_tokens"], 1056);
    let speech = json!({"model": "tts-1", "voice": "alloy", "input": "hello"});
    let response = world.post("/v1/audio/speech").json(&speech).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "audio/mpeg");
    let file = reqwest::multipart::Part::bytes(vec![0; 32_000]).file_name("a.wav");
    let form =
        reqwest::multipart::Form::new().text("model", "gpt-4o-mini-transcribe").part("file", file);
    let request = world.post("/v1/audio/transcriptions").multipart(form);
    let answer = super::ok(request.send().await.unwrap()).await;
    // 32,000 bytes are 2 s at 16,000, and ten tokens a second
    assert_eq!(answer["usage"]["input_tokens"], 20);
}

#[tokio::test]
async fn models_carry_their_shutdown_date() {
    let world = World::start().await;
    let list = world.read("/v1/models").await;
    assert!(list["data"].as_array().unwrap().iter().any(|model| model["id"] == "gpt-6-luna"));
    assert_eq!(world.read("/v1/models/gpt-5").await["shutdown_date"], "2026-12-11");
    let response = world.get("/v1/models/nothing").send().await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn http2_without_tls_is_spoken() {
    let world = World::start().await;
    let client = client().http2_prior_knowledge().build().unwrap();
    let request = client.post(format!("{}/v1/chat/completions", world.base));
    let response = request.bearer_auth("k").json(&chat("hi")).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_stop_ends_the_server_though_a_connection_is_open() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/models", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let simulator = crate::simulator::Simulator::new(crate::simulator::Knobs::default());
    let serving = tokio::spawn(simulator.serve(listener, async {
        let _ = stopped.await;
    }));
    let client = client().build().unwrap();
    let response = client.get(&url).bearer_auth("k").send().await.unwrap();
    assert_eq!(response.status(), 200);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(client.get(&url).bearer_auth("k").send().await.is_err());
}
