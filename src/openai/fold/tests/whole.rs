//! Answers that are known whole, told as streams and folded again.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::openai::endpoint::Endpoint;
use crate::openai::stream::StreamTap;
use crate::simulator::Knobs;
use crate::simulator::Simulator;

/// What a tap makes of a stream cut into pieces of these sizes, over and over.
fn folded(endpoint: Endpoint, strip_usage: bool, stream: &str, sizes: &[usize]) -> Value {
    let mut tap = StreamTap::new(endpoint, strip_usage).folding();
    let mut rest = Bytes::copy_from_slice(stream.as_bytes());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        tap.push(rest.split_to(rest.len().min(*size)), &mut drop);
    }
    tap.finish(true, &mut drop);
    serde_json::from_slice(&tap.take_folded().unwrap()).unwrap()
}

type Noise<'a> = &'a mut dyn Iterator<Item = u8>;

/// Cuts a text, also between the halves of a surrogate pair, into JSON strings.
fn pieces(text: &str, noise: Noise<'_>) -> Vec<String> {
    let mut units: Vec<u16> = text.encode_utf16().collect();
    let mut pieces = Vec::new();
    while !units.is_empty() {
        let rest = units.split_off(units.len().min(1 + usize::from(noise.next().unwrap() % 8)));
        let piece = String::from_utf16(&units).ok().filter(|_| noise.next() > Some(60));
        let escaped = || units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
        pieces.push(match piece {
            Some(piece) => serde_json::to_string(&piece).unwrap(),
            None => format!("\"{}\"", escaped()),
        });
        units = rest;
    }
    pieces
}

/// The chunks of one choice, without its index.
fn chunks(choice: &Value, noise: Noise<'_>) -> Vec<String> {
    let message = &choice["message"];
    let plain = |delta: String| format!(r#""delta":{delta},"logprobs":null,"finish_reason":null"#);
    let content = if message["content"].is_null() { "null" } else { r#""""# };
    let role = format!(r#"{{"role":"assistant","content":{content},"refusal":null}}"#);
    let mut chunks = vec![plain(role)];
    for name in ["reasoning_content", "refusal", "content"] {
        for piece in pieces(message[name].as_str().unwrap_or_default(), noise) {
            chunks.push(plain(format!("{{\"{name}\":{piece}}}")));
        }
    }
    for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let mut open = call.clone();
        open["index"] = json!(index);
        open["function"]["arguments"] = json!("");
        chunks.push(plain(json!({"tool_calls": [open]}).to_string()));
        for piece in pieces(call["function"]["arguments"].as_str().unwrap(), noise) {
            let call = format!(r#"{{"index":{index},"function":{{"arguments":{piece}}}}}"#);
            chunks.push(plain(format!(r#"{{"tool_calls":[{call}]}}"#)));
        }
    }
    for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
        let logprobs = json!({"content": [token], "refusal": null});
        chunks.push(format!(r#""delta":{{}},"logprobs":{logprobs},"finish_reason":null"#));
    }
    let finish = &choice["finish_reason"];
    chunks.push(format!(r#""delta":{{}},"logprobs":null,"finish_reason":{finish}"#));
    chunks
}

/// The answer as OpenAI streams it, the choices in any mixture.
fn streamed(answer: &Value, noise: Noise<'_>) -> String {
    let event = |choices: &str, usage: &Value| {
        let (id, created, model) = (&answer["id"], &answer["created"], &answer["model"]);
        format!(
            "data: {{\"id\":{id},\"object\":\"chat.completion.chunk\",\"created\":{created},\
             \"model\":{model},\"choices\":[{choices}],\"usage\":{usage},\"obfuscation\":\"a\"}}\n\n"
        )
    };
    let choices = answer["choices"].as_array().unwrap();
    let mut queues: Vec<_> =
        choices.iter().map(|choice| chunks(choice, noise).into_iter()).collect();
    let mut stream = String::new();
    while queues.iter().any(|queue| queue.len() > 0) {
        let index = usize::from(noise.next().unwrap()) % queues.len();
        if let Some(chunk) = queues[index].next() {
            stream += &event(&format!(r#"{{"index":{index},{chunk}}}"#), &Value::Null);
        }
    }
    stream + &event("", &answer["usage"]) + "data: [DONE]\n\n"
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~é\u{1F600}\u{10FFFF}\\n\\\\\"]{1,60}", "\\PC{1,20}"]
}

fn message() -> impl Strategy<Value = Value> {
    let call = ("[a-z0-9]{1,9}", "[a-z_]{1,9}", text()).prop_map(|(id, name, arguments)| {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    });
    let calls = prop::option::of(prop::collection::vec(call, 1..4));
    let texts = [(); 3].map(|()| prop::option::of(text()));
    (texts, calls).prop_map(|([content, refusal, reasoning], calls)| {
        let mut message = json!({"role": "assistant", "content": content, "refusal": refusal});
        if let Some(reasoning) = reasoning {
            message["reasoning_content"] = json!(reasoning);
        }
        if let Some(calls) = calls {
            message["tool_calls"] = json!(calls);
        }
        message
    })
}

fn answer() -> impl Strategy<Value = Value> {
    let token = (text(), any::<i16>()).prop_map(|(token, quarters)| {
        json!({"token": token, "logprob": f64::from(quarters) / 4.0, "bytes": token.as_bytes()})
    });
    let logprobs = prop::option::of(prop::collection::vec(token, 1..4));
    let finish = prop::sample::select(&["stop", "length", "tool_calls"][..]);
    let choice = (message(), logprobs, finish).prop_map(|(message, logprobs, finish)| {
        let logprobs = logprobs.map(|content| json!({"content": content, "refusal": null}));
        json!({"message": message, "logprobs": logprobs, "finish_reason": finish})
    });
    let choices = prop::collection::vec(choice, 1..4);
    (choices, text(), any::<u64>()).prop_map(|(mut choices, model, created)| {
        for (index, choice) in choices.iter_mut().enumerate() {
            choice["index"] = json!(index);
        }
        json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": created, "model": model,
            "choices": choices, "usage": {"total_tokens": created / 2},
        })
    })
}

proptest! {
    #[test]
    fn a_chat_told_as_a_stream_folds_to_itself(
        answer in answer(),
        noise in prop::collection::vec(any::<u8>(), 1..200),
        sizes in prop::collection::vec(1..300_usize, 1..20),
        strip in any::<bool>(),
    ) {
        // Every residue is there: each choice comes to its turn.
        let mut noise = noise.into_iter().chain(0..=255).cycle();
        let stream = streamed(&answer, &mut noise);
        prop_assert_eq!(folded(Endpoint::ChatCompletions, strip, &stream, &sizes), answer);
    }
}

/// The answers of two fresh simulators to the same request: whole, and as a stream.
async fn simulated(path: &str, mut request: Value) -> (Value, String) {
    let client = crate::simulator::client().build().unwrap();
    let mut answers = Vec::new();
    for stream in [false, true] {
        request["stream"] = json!(stream);
        if stream && path != "responses" {
            request["stream_options"] = json!({"include_usage": true});
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/{path}", listener.local_addr().unwrap());
        let (_stop, stopped) = oneshot::channel::<()>();
        let simulator = Simulator::new(Knobs::default());
        tokio::spawn(simulator.serve(listener, async {
            let _ = stopped.await;
        }));
        let sent = client.post(url).bearer_auth("sk-test").json(&request).send();
        answers.push(sent.await.unwrap().error_for_status().unwrap().text().await.unwrap());
    }
    let stream = answers.pop().unwrap();
    (serde_json::from_str(&answers[0]).unwrap(), stream)
}

/// Takes out what tells the time.
fn timeless(mut answer: Value) -> Value {
    for name in ["created", "created_at", "completed_at"] {
        answer.as_object_mut().unwrap().remove(name);
    }
    answer
}

#[tokio::test]
async fn a_simulated_stream_folds_to_the_simulated_answer() {
    let messages = json!([{"role": "user", "content": "Wie geht's? 😀"}]);
    let tools = json!([{"type": "function", "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }}]);
    let requests = [
        (
            "completions",
            json!({"model": "gpt-3.5-turbo-instruct", "prompt": ["One", "Two"], "n": 2}),
        ),
        ("chat/completions", json!({"model": "gpt-5", "messages": messages})),
        (
            "chat/completions",
            json!({
                "model": "gpt-4o", "messages": messages, "n": 3}),
        ),
        (
            "chat/completions",
            json!({
                "model": "gpt-4o", "messages": messages, "tools": tools, "tool_choice": "required", "n": 2,
            }),
        ),
        ("responses", json!({"model": "gpt-5", "input": "Hello", "max_output_tokens": 80})),
        (
            "responses",
            json!({
                "model": "gpt-4o", "input": "Hello", "tool_choice": "required",
                "tools": [{"type": "function", "name": "weather", "parameters": tools[0]["function"]["parameters"]}],
            }),
        ),
    ];
    for (path, request) in requests {
        let (mut whole, stream) = simulated(path, request).await;
        for choice in whole.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            // Whole answers alone have this one.
            choice
                .pointer_mut("/message")
                .map(|m| m.as_object_mut().unwrap().remove("annotations"));
        }
        let endpoint = Endpoint::of(&http::Method::POST, &format!("/v1/{path}"));
        for sizes in [[1], [100], [100_000]] {
            let answer = folded(endpoint, true, &stream, &sizes);
            assert_eq!(timeless(answer), timeless(whole.clone()), "{path}");
        }
        if let Some((told, _last)) = stream.split_once("event: response.completed") {
            let cut = folded(endpoint, true, told, &[1000]);
            assert_eq!(cut["output"], whole["output"]);
            assert_eq!(cut["weir_incomplete"], "the stream ended early");
        }
    }
}

#[test]
fn odd_but_valid_streams_fold_and_garbage_is_told() {
    let stream = include_str!("../../../../tests/fixtures/streams/comments_multiline.sse");
    let answer = folded(Endpoint::ChatCompletions, true, stream, &[7]);
    let wanted = json!({
        "id": "x", "object": "chat.completion", "model": "m-1", "usage": {"total_tokens": 3},
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "split lines"},
            "finish_reason": "stop",
        }],
    });
    assert_eq!(answer, wanted);
    let stream =
        "data: {\"model\":\"g\",\"choices\":[]}}\n\ndata: {\"id\":\"i\"}\n\ndata: [DONE]\n\n";
    let answer = folded(Endpoint::Completions, true, stream, &[9]);
    let why = "an event could not be read";
    let wanted =
        json!({"object": "text_completion", "id": "i", "choices": [], "weir_incomplete": why});
    assert_eq!(answer, wanted);
}

#[test]
fn an_event_too_long_to_be_looked_at_is_told() {
    let chunk = |text: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let stream = [chunk("a"), chunk(&"x".repeat(1 << 20)), chunk("b"), "data: [DONE]\n\n".into()];
    let answer = folded(Endpoint::ChatCompletions, false, &stream.concat(), &[10_000]);
    assert_eq!(answer["choices"][0]["message"]["content"], "ab");
    assert_eq!(answer["weir_incomplete"], "an event was longer than 1 MiB");
}

#[test]
fn a_tap_folds_only_when_asked_and_only_once() {
    let chunk = Bytes::from_static(b"event: error\ndata: {\"message\":\"no\"}\n\n");
    let run = |mut tap: StreamTap| {
        tap.push(chunk.clone(), &mut drop);
        tap.fold_error(br#"{"error":{"message":"cut off"}}"#);
        [tap.take_folded(), tap.take_folded()]
    };
    assert_eq!(run(StreamTap::new(Endpoint::ChatCompletions, false)), [None, None]);
    assert_eq!(run(StreamTap::new(Endpoint::Embeddings, false).folding()), [None, None]);
    let [once, again] = run(StreamTap::new(Endpoint::ChatCompletions, false).folding());
    let answer: Value = serde_json::from_slice(&once.unwrap()).unwrap();
    assert_eq!(answer["error"]["message"], "cut off");
    assert_eq!(again, None);
}
