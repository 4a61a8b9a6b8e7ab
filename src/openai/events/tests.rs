use super::*;

/// The events that `judge` is shown.
fn events(chunks: &[&'static [u8]]) -> Vec<Vec<u8>> {
    let mut splitter = EventSplitter::new();
    let mut seen = Vec::new();
    let mut judge = |event: &[u8]| {
        seen.push(event.to_vec());
        Verdict::Keep
    };
    for chunk in chunks {
        splitter.push(Bytes::from_static(chunk), &mut judge, &mut |_| {});
    }
    splitter.finish(true, &mut judge, &mut |_| {});
    seen
}

#[test]
fn any_two_line_ends_in_a_row_end_an_event() {
    for end in ["\n\n", "\r\r", "\r\n\r\n", "\n\r", "\r\n\n", "\n\r\n", "\r\r\n", "\r\n\r"] {
        let stream = format!("a{end}b");
        let seen = events(&[stream.into_bytes().leak()]);
        // An LF behind the last CR goes with the event, but is not shown.
        let event =
            format!("a{}", end.strip_suffix("\r\n").map_or(end.into(), |e| format!("{e}\r")));
        assert_eq!(seen, [event.as_bytes(), b"b"], "{end:?}");
    }
    for line_end in ["\n", "\r", "\r\n"] {
        let stream = format!("a{line_end}b");
        assert_eq!(events(&[stream.into_bytes().leak()]).len(), 1, "{line_end:?}");
    }
}

#[test]
fn an_event_that_ends_with_cr_does_not_wait_for_an_lf() {
    assert_eq!(events(&[b"a\r\n\r", b"\nb\r\n", b"\r\n"]), [&b"a\r\n\r"[..], b"b\r\n\r"]);
    assert_eq!(events(&[b"a\r", b"\n", b"b\n\n"]), [b"a\r\nb\n\n"]);
}

#[test]
fn a_withheld_event_takes_its_late_lf_along() {
    let mut splitter = EventSplitter::new();
    let mut out = Vec::new();
    let chunks: [&[u8]; 4] = [b"x\n\ndrop\r\n\r", b"\n", b"\ny\r\n\r", b"\n"];
    for chunk in chunks {
        let mut judge = |event: &[u8]| match event.starts_with(b"drop") {
            true => Verdict::Withhold,
            false => Verdict::Keep,
        };
        let mut hand_on = |bytes: Bytes| out.extend_from_slice(&bytes);
        splitter.push(Bytes::from_static(chunk), &mut judge, &mut hand_on);
    }
    assert_eq!(out, b"x\n\n\ny\r\n\r\n");
}

#[test]
fn fields_are_read_with_and_without_the_space() {
    let read = |text: &'static str| {
        Event::read(text.as_bytes()).map(|event| {
            (
                String::from_utf8(event.name.to_vec()).unwrap(),
                String::from_utf8(event.data.to_vec()).unwrap(),
            )
        })
    };
    let some = |name: &str, data: &str| Some((name.to_owned(), data.to_owned()));
    assert_eq!(read("data: a\n\n"), some("", "a"));
    assert_eq!(read("data:  a\r\n\r\n"), some("", " a"));
    assert_eq!(read("event:x\rid: 1\rdata:a\rdata\rdata: b\r\r"), some("x", "a\n\nb"));
    assert_eq!(read("database: a\n\n"), None);
    assert_eq!(read(": data: a\n\n"), None);
    assert_eq!(read(""), None);
}
