//! Requests that hide another one: servers that disagree about where a body ends can be made to
//! run a request that nobody checked. Each attack must end with a refusal or a closed connection,
//! and a provider must never see what was hidden.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::exchange;
use crate::support::http::good;

const START: &str = "POST /v1/smuggle HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n";
const HIDDEN: &str = "GET /v1/hidden HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\r\n";

/// A head, and a body whose end depends on who reads it.
fn attacks() -> Vec<(&'static str, String)> {
    let chunked_end = format!("0\r\n\r\n{HIDDEN}");
    let te = |line: &str| format!("{START}content-length: 5\r\n{line}\r\n\r\n{chunked_end}");
    let only = |line: &str| format!("{START}{line}\r\n\r\n{chunked_end}");
    let chunk = |body: &str| format!("{START}transfer-encoding: chunked\r\n\r\n{body}{HIDDEN}");
    vec![
        ("CL.TE", te("transfer-encoding: chunked")),
        (
            "TE.CL",
            format!("{START}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{chunked_end}"),
        ),
        ("TE with a tab", te("transfer-encoding:\tchunked")),
        ("TE in capitals", te("TRANSFER-ENCODING: CHUNKED")),
        ("TE with a space before the colon", te("transfer-encoding : chunked")),
        ("TE behind a space", te(" transfer-encoding: chunked")),
        ("TE folded", te("transfer-encoding:\r\n chunked")),
        ("TE behind a bare LF", te("x: y\ntransfer-encoding: chunked")),
        ("TE behind a bare CR", te("x: y\rtransfer-encoding: chunked")),
        ("TE behind a NUL", te("transfer-encoding: \0chunked")),
        ("TE behind a vertical tab", te("transfer-encoding: \x0bchunked")),
        ("TE quoted", te("transfer-encoding: \"chunked\"")),
        ("TE unknown", only("transfer-encoding: xchunked")),
        ("TE of chunked, identity", only("transfer-encoding: chunked, identity")),
        ("TE of identity", only("transfer-encoding: identity")),
        ("TE of chunked, chunked", only("transfer-encoding: chunked, chunked")),
        ("TE of gzip", only("transfer-encoding: gzip")),
        ("TE of gzip, chunked", only("transfer-encoding: gzip, chunked")),
        ("TE twice, second unknown", only("transfer-encoding: chunked\r\ntransfer-encoding: cow")),
        ("TE twice, first unknown", only("transfer-encoding: cow\r\ntransfer-encoding: chunked")),
        (
            "CL of two values",
            format!("{START}content-length: 0\r\ncontent-length: 64\r\n\r\n{HIDDEN}"),
        ),
        ("CL with a list", format!("{START}content-length: 0, 64\r\n\r\n{HIDDEN}")),
        ("CL with a plus", format!("{START}content-length: +0\r\n\r\n{HIDDEN}")),
        ("CL below zero", format!("{START}content-length: -1\r\n\r\n{HIDDEN}")),
        ("CL in hexadecimal", format!("{START}content-length: 0x0\r\n\r\n{HIDDEN}")),
        ("CL with a space inside", format!("{START}content-length: 0 0\r\n\r\n{HIDDEN}")),
        (
            "CL beyond 64 bits",
            format!("{START}content-length: 18446744073709551616\r\n\r\n{HIDDEN}"),
        ),
        ("CL empty", format!("{START}content-length:\r\n\r\n{HIDDEN}")),
        ("CL with a space before the colon", format!("{START}content-length : 64\r\n\r\n{HIDDEN}")),
        ("CL folded", format!("{START}content-length:\r\n 0\r\n\r\n{HIDDEN}")),
        ("a chunk size below zero", chunk("-1\r\n\r\n")),
        ("a chunk size with 0x", chunk("0x0\r\n\r\n")),
        ("a chunk size beyond 64 bits", chunk("10000000000000000\r\n\r\n")),
        ("a chunk size that is empty", chunk("\r\n\r\n")),
        ("a chunk that is longer than it says", chunk("1\r\nabc\r\n0\r\n\r\n")),
        ("a chunk extension behind a bare LF", chunk("3;x\n0\r\n\r\n")),
        ("a chunk size behind a space", chunk(" 0\r\n\r\n")),
        ("a name with a space", format!("{START}content length: 0\r\n\r\n{HIDDEN}")),
        (
            "a request line with two spaces",
            format!("POST  /v1/smuggle HTTP/1.1\r\nhost: a\r\n\r\n{HIDDEN}"),
        ),
        (
            "a target with a space",
            format!("POST /v1/smuggle x HTTP/1.1\r\nhost: a\r\n\r\n{HIDDEN}"),
        ),
        ("a line that begins with a colon", format!("{START}: x\r\n\r\n{HIDDEN}")),
        (
            "HTTP/1.0 with chunks",
            format!(
                "POST /v1/smuggle HTTP/1.0\r\nauthorization: Bearer k\r\ntransfer-encoding: chunked\r\n\r\n{chunked_end}"
            ),
        ),
    ]
}

#[test]
fn a_hidden_request_never_reaches_the_upstream() {
    // Answers at once, so that a body that never ends holds nobody up.
    let upstream = Upstream::always(Answer::json(200, "{}").early().close());
    let gateway = Gateway::start(&upstream);
    let mut wrong = Vec::new();
    for (name, request) in attacks() {
        let mut raw = Raw::connect(gateway.data());
        let answer = raw.send(&request).finish().response();
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let rest = raw.rest();
        if matches!(status, 200..400) || rest.starts_with(b"HTTP/1.1 2") {
            wrong.push(format!(
                "{name}: status {status}, then {:?}",
                String::from_utf8_lossy(&rest)
            ));
        }
        for seen in upstream.requests() {
            if seen.target.contains("hidden") {
                wrong.push(format!("{name}: the upstream saw {seen:?}"));
            }
        }
        assert_eq!(exchange(&gateway, good()).status, 200, "after {name}");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
