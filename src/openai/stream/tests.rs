use proptest::prelude::*;

use super::*;
use crate::openai::fuzzed::bodies::{Tapped, tapped};

macro_rules! recorded {
    ($($name:ident: $endpoint:ident, $file:literal;)*) => {
        $(const $name: (Endpoint, &[u8]) = (
            Endpoint::$endpoint,
            include_bytes!(concat!("../../../tests/fixtures/streams/", $file)),
        );)*
        const ALL: &[(Endpoint, &[u8])] = &[$($name),*];
    };
}

recorded! {
    USAGE: ChatCompletions, "chat_usage.sse";
    USAGE_CRLF: ChatCompletions, "chat_usage_crlf.sse";
    USAGE_CR: ChatCompletions, "chat_usage_cr.sse";
    TOOLS: ChatCompletions, "chat_tools.sse";
    SAMPLE: ChatCompletions, "chat_sample.sse";
    SAMPLE_FUNCTION: ChatCompletions, "chat_sample_function.sse";
    RESPONSES: Responses, "responses.sse";
    COMPLETIONS: Completions, "completions.sse";
    MULTILINE: ChatCompletions, "comments_multiline.sse";
    GARBAGE: ChatCompletions, "garbage.sse";
}

fn whole((endpoint, stream): (Endpoint, &[u8]), strip: bool) -> Tapped {
    tapped(endpoint, strip, [stream])
}

fn chat(stream: &str, strip: bool) -> Tapped {
    whole((Endpoint::ChatCompletions, stream.as_bytes()), strip)
}

/// model, tier, finish reason, done, error, events, text
type Told<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, bool, bool, u64, &'a str);

fn told(tapped: &Tapped) -> Told<'_> {
    let seen = &tapped.seen;
    let [model, tier, finish] =
        [&seen.model, &seen.service_tier, &seen.finish_reason].map(Option::as_deref);
    (model, tier, finish, seen.done, seen.error, seen.events, &tapped.text)
}

fn total_tokens(tapped: &Tapped) -> Option<u64> {
    let usage = tapped.seen.usage.as_deref()?;
    serde_json::from_slice::<serde_json::Value>(usage).unwrap()["total_tokens"].as_u64()
}

#[test]
fn a_chat_tells_its_usage_model_and_end() {
    let text = "Grüß dich! 😀\nHe said \"usage\":{\"x\":1},\"choices\":[] \\ end.";
    for stream in [USAGE, USAGE_CRLF, USAGE_CR] {
        let seen = whole(stream, false);
        // One event for the role, five of text, one for the end, one of usage.
        let model = Some("gpt-4.1-mini-2025-04-14");
        assert_eq!(told(&seen), (model, Some("default"), Some("stop"), true, false, 8, text));
        assert_eq!(total_tokens(&seen), Some(25));
        assert_eq!(seen.out, stream.1);
    }
}

#[test]
fn a_usage_event_nobody_asked_for_is_taken_out_and_nothing_else() {
    for (stream, end) in [(USAGE, "\n\n"), (USAGE_CRLF, "\r\n\r\n"), (USAGE_CR, "\r\r")] {
        let seen = whole(stream, true);
        let text = std::str::from_utf8(stream.1).unwrap();
        let kept = text.split_inclusive(end).filter(|event| !event.contains(r#""choices":[],"u"#));
        assert_eq!(String::from_utf8(seen.out.clone()).unwrap(), kept.collect::<String>());
        assert_eq!(total_tokens(&seen), Some(25));
    }
}

#[test]
fn tool_arguments_count_as_text() {
    let seen = whole(TOOLS, true);
    let model = Some("gpt-4.1-mini-2025-04-14");
    let text = "{\"city\":\"Kraków\"}";
    assert_eq!(told(&seen), (model, Some("default"), Some("tool_calls"), true, false, 8, text));
    let seen = whole(SAMPLE_FUNCTION, true);
    assert_eq!(told(&seen).6, "{\"answer\":\"Boston\"}");
    // Its usage comes with the last choice: such an event stays.
    assert_eq!((seen.out.as_slice(), total_tokens(&seen)), (SAMPLE_FUNCTION.1, Some(74)));
}

#[test]
fn a_response_tells_its_final_status_and_usage() {
    let seen = whole(RESPONSES, true);
    let model = Some("gpt-4.1-2025-04-14");
    let text = "Hi there! How?";
    assert_eq!(told(&seen), (model, Some("default"), Some("completed"), true, false, 10, text));
    assert_eq!(total_tokens(&seen), Some(48));
    assert_eq!(seen.out, RESPONSES.1);
}

#[test]
fn a_response_may_fail_or_err() {
    let failed = br#"data: {"type":"response.failed","response":{"status":"failed","usage":null}}"#;
    let seen = whole((Endpoint::Responses, failed), false).seen;
    assert_eq!(
        (seen.done, seen.error, seen.finish_reason.as_deref()),
        (true, true, Some("failed"))
    );
    assert_eq!(seen.usage, None);
    let seen = whole((Endpoint::Responses, br#"data: {"type":"error","message":"x"}"#), false).seen;
    assert_eq!((seen.done, seen.error), (false, true));
}

#[test]
fn sound_is_not_text() {
    let stream = concat!(
        "data: {\"type\":\"response.audio.delta\",\"delta\":\"UklGR\"}\n\n",
        "data: {\"delta\":\"hi\",\"type\":\"response.audio.transcript.delta\"}\n\n",
    );
    assert_eq!(whole((Endpoint::Responses, stream.as_bytes()), false).text, "hi");
}

#[test]
fn completions_are_read_like_chats() {
    let seen = whole(COMPLETIONS, true);
    let model = Some("gpt-3.5-turbo-instruct");
    assert_eq!(told(&seen), (model, None, Some("length"), true, false, 4, "Once upon a time"));
    assert_eq!(total_tokens(&seen), Some(9));
    assert!(!String::from_utf8_lossy(&seen.out).contains("total_tokens"));
}

#[test]
fn comments_fields_and_data_in_several_lines_are_understood() {
    let seen = whole(MULTILINE, true);
    assert_eq!(told(&seen), (Some("m-1"), None, Some("stop"), true, false, 4, "split lines"));
    assert_eq!(total_tokens(&seen), Some(3));
    let out = String::from_utf8(seen.out).unwrap();
    assert!(out.starts_with('\u{feff}') && out.ends_with("\n\rdata\n\ndata: [DONE]\n\n"), "{out}");
}

#[test]
fn garbage_passes_and_is_not_believed() {
    let seen = whole(GARBAGE, true);
    assert_eq!(seen.out, GARBAGE.1);
    assert_eq!(seen.seen.usage, None);
    assert_eq!(told(&seen).0, Some("g"));
    assert!(seen.seen.error && !seen.seen.done);
    assert_eq!(seen.text, "ok");
}

#[test]
fn usage_inside_of_other_objects_or_text_is_not_the_streams() {
    for data in [
        r#"{"choices":[],"x":{"usage":{"total_tokens":1}}}"#,
        r#"{"choices":[],"usage":null}"#,
        r#"{"choices":[],"usage":"{}"}"#,
        r#"{"choices":[{"delta":{"content":"\",\"usage\":{\"a\":1},\"b\":\""}}]}"#,
    ] {
        let stream = format!("data: {data}\n\n");
        let seen = chat(&stream, true);
        assert_eq!((seen.seen.usage, seen.out), (None, stream.into_bytes()), "{data}");
    }
}

#[test]
fn an_error_event_is_seen_and_kept() {
    for stream in [
        "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
        "event: error\ndata: {\"message\":\"overloaded\"}\n\n",
        "data: {\"choices\":[],\"usage\":{\"a\":1},\"error\":{}}\n\n",
    ] {
        let seen = chat(stream, true);
        assert!(seen.seen.error, "{stream}");
        assert_eq!(seen.out, stream.as_bytes());
    }
    assert!(!chat("data: {\"error\":null}\n\n", true).seen.error);
}

/// Pushes the chunks and gives back the pieces that came out, and the tap.
fn pieces(chunks: &[Bytes], clean: bool) -> (Vec<Bytes>, StreamTap) {
    let mut tap = StreamTap::new(Endpoint::ChatCompletions, true);
    let mut out = Vec::new();
    for chunk in chunks {
        tap.push(chunk.clone(), &mut |piece| out.push(piece));
    }
    tap.finish(clean, &mut |piece| out.push(piece));
    (out, tap)
}

#[test]
fn whole_events_leave_in_the_buffer_that_they_came_in() {
    let chunk = Bytes::from_static(b"data: {}\n\ndata: {\"a\":1}\r\n\r\n");
    let (out, _) = pieces(std::slice::from_ref(&chunk), true);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].as_ptr(), out[0].len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn an_unclean_end_drops_the_half_event_only() {
    let chunk = Bytes::from_static(b"data: 1\n\ndata: {\"half");
    assert_eq!(pieces(std::slice::from_ref(&chunk), false).0, [&b"data: 1\n\n"[..]]);
    assert_eq!(pieces(&[chunk], true).0, [&b"data: 1\n\n"[..], b"data: {\"half"]);
}

#[test]
fn an_event_over_a_mebibyte_passes_unseen_and_the_next_is_seen_again() {
    let usage = Bytes::from_static(b"data: {\"choices\":[],\"usage\":{\"total_tokens\":2}}\n\n");
    let huge = Bytes::from([b"data: ".as_slice(), &vec![b'x'; 4 << 20]].concat());
    let (out, tap) = pieces(&[huge.slice(..900_000), huge.slice(900_000..)], false);
    assert_eq!(out.concat(), huge);
    assert!(tap.mid_event());
    let end = Bytes::from_static(b"\n\n");
    let (out, tap) = pieces(&[huge.slice(..9), huge.slice(9..), end, usage.clone()], true);
    assert_eq!(out.concat(), [&huge[..], b"\n\n"].concat());
    assert_eq!((tap.lost_events(), tap.mid_event(), tap.seen().events), (1, false, 1));
    assert_eq!(tap.seen().usage.as_deref(), Some(&b"{\"total_tokens\":2}"[..]));
}

#[test]
fn the_longest_event_that_is_looked_at_does_not_depend_on_cuts() {
    // `data: {"model":"m","filler_text":"` is 34 bytes, `"}` and the line ends are 4.
    let event = |length: usize| {
        let text = "x".repeat(length - 34 - 4);
        format!("data: {{\"model\":\"m\",\"filler_text\":\"{text}\"}}\n\n").into_bytes()
    };
    for (length, lost) in [(1 << 20, 0), ((1 << 20) + 1, 1)] {
        let stream = event(length);
        assert_eq!(stream.len(), length);
        for size in [1000, length - 1, length] {
            let seen = tapped(Endpoint::ChatCompletions, true, stream.chunks(size));
            assert_eq!((seen.lost, seen.seen.events), (lost, 1 - lost), "{length} {size}");
            assert!(seen.out == stream);
        }
    }
}

#[test]
fn text_is_kept_up_to_its_bound_and_counted_beyond() {
    let text = "y".repeat(100 << 10);
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let seen = chat(&event.repeat(3), false);
    // Two pieces of 100 KiB fit into 256 KiB, the third does not.
    assert_eq!((seen.text.len(), seen.seen.text_bytes), (200 << 10, 300 << 10));
}

#[test]
fn recorded_streams_may_be_cut_at_every_byte() {
    for (endpoint, stream) in ALL {
        for strip in [false, true] {
            let whole = tapped(*endpoint, strip, [*stream]);
            assert!(strip || whole.out == *stream);
            for cut in 0..=stream.len() {
                let (head, tail) = stream.split_at(cut);
                let chunks = [head, tail];
                assert_eq!(tapped(*endpoint, strip, chunks), whole, "cut at {cut}");
            }
            assert_eq!(tapped(*endpoint, strip, stream.chunks(1)), whole);
        }
    }
}

proptest! {
    #[test]
    fn without_stripping_every_byte_comes_out_again(
        chunks in prop::collection::vec(
            prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r')], 0..30), 0..8
        )
    ) {
        let seen = tapped(Endpoint::Other, false, chunks.iter().map(Vec::as_slice));
        prop_assert_eq!(seen.out, chunks.concat());
    }

    #[test]
    fn recorded_streams_may_be_cut_anywhere_many_times(
        (endpoint, stream) in prop::sample::select(ALL),
        strip in any::<bool>(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        cuts.sort_by_key(|cut| cut.index(stream.len()));
        let mut from = 0;
        let mut chunks = Vec::new();
        for cut in cuts {
            let to = cut.index(stream.len());
            chunks.push(&stream[from..to]);
            from = to;
        }
        chunks.push(&stream[from..]);
        prop_assert_eq!(tapped(endpoint, strip, chunks), whole((endpoint, stream), strip));
    }
}
