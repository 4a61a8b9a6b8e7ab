//! Request and answer heads: what is refused, what goes upstream, what comes back.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Uri;
use http::Version;
use http::header;
use http::request::Parts;

use crate::openai::error::ApiError;
use crate::upstream::Path;

use super::FramingFault;
use super::error;

/// The path that clients' base URLs end in.
const BASE: &str = "/v1";

/// Headers that belong to one connection (RFC 9110 §7.6.1) and never travel on.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// The lengths of their names, a bit each.
const HOP_BY_HOP_LENGTHS: u64 = 1 << "te".len()
    | 1 << "trailer".len()
    | 1 << "upgrade".len()
    | 1 << "connection".len()
    | 1 << "keep-alive".len()
    | 1 << "transfer-encoding".len()
    | 1 << "proxy-authenticate".len()
    | 1 << "proxy-authorization".len();

/// Room for a request's headers. The HTTP engine uses their memory for the answer's, which has this many with
/// the gateway's own.
const ROOM: usize = 24;

/// Refuses heads that different servers read differently.
pub(super) fn check(head: &Parts) -> Result<(), ApiError> {
    if head.extensions.get::<FramingFault>().is_some() {
        return Err(error::bad_framing());
    }
    // `chunked` is all there is; a list of codings ends differently for different servers.
    let coding = head.headers.get(header::TRANSFER_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(error::bad_framing());
    }
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return Err(error::method_not_allowed(&head.method));
    }
    if head.version <= Version::HTTP_11 {
        let hosts = head.headers.get_all(header::HOST).iter().count();
        if hosts == 0 && head.version == Version::HTTP_11 {
            return Err(error::bad_head("The Host header is missing."));
        }
        if hosts > 1 {
            return Err(error::bad_head("There is more than one Host header."));
        }
    }
    if climbs(head.uri.path()) {
        return Err(error::bad_head("The path holds `..`; write it without."));
    }
    Ok(())
}

/// Whether a path goes up, however it is written: servers decode it at different times.
fn climbs(path: &str) -> bool {
    if memchr::memchr3(b'.', b'%', b'\\', path.as_bytes()).is_none() {
        return false;
    }
    let dots = |path: &str| path.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
    if path.contains('\\') || dots(path) {
        return true;
    }
    let plain = |path: &str| {
        path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\")
    };
    path.contains('%') && dots(&plain(path))
}

/// What follows `/v1` in the path, with the query; `None` for a path outside of it.
pub(super) fn below_v1(uri: &Uri) -> Option<Path> {
    let target = uri.path_and_query()?;
    let rest = target.as_str().strip_prefix(BASE)?;
    let below = rest.is_empty() || rest.starts_with(['/', '?']);
    below.then(|| Path::Client(target.clone(), BASE.len()))
}

/// Whether the client asks for a WebSocket.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The client's headers as they go upstream: those of its connection and the gateway's own left
/// out, everything else untouched.
pub(super) fn for_upstream(given: &HeaderMap) -> HeaderMap {
    let nominated = nominated(given);
    let mut headers = HeaderMap::with_capacity(given.keys_len().max(ROOM));
    for (name, value) in given {
        let stays = is_hop_by_hop(name)
            || name == header::HOST
            || name == header::EXPECT
            || name.as_str().starts_with("x-weir-")
            || nominated.contains(name);
        if !stays {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// Asks for an answer that the gateway can read: a stream in plain text, since one event may have
/// to be taken out of it; a whole answer in gzip at most.
pub(super) fn readable(headers: &mut HeaderMap, stream: bool) {
    if stream {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        return;
    }
    let Some(accepted) = headers.get(header::ACCEPT_ENCODING) else { return };
    let unreadable = |coding: &str| {
        let name = coding.split(';').next().unwrap_or_default().trim();
        !matches!(name, "gzip" | "x-gzip" | "identity")
    };
    let Ok(text) = accepted.to_str() else { return };
    if text.split(',').any(unreadable) {
        let gzip = text.contains("gzip");
        let kept = if gzip { "gzip" } else { "identity" };
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(kept));
    }
}

/// Leaves the upstream's headers as they go to the client: those of its connection taken out.
pub(super) fn for_client(headers: &mut HeaderMap) {
    let mut gone = nominated(headers);
    gone.extend(headers.keys().filter(|name| is_hop_by_hop(name)).cloned());
    for name in gone {
        headers.remove(name);
    }
}

/// Headers that `Connection` says belong to the connection. Nobody may nominate what says whose
/// request it is, or how long it is.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let names = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    names
        .map(str::trim)
        .filter(|name| {
            !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close")
        })
        .filter_map(|name| HeaderName::try_from(name).ok())
        .filter(|name| *name != header::AUTHORIZATION && *name != header::CONTENT_LENGTH)
        .collect()
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    // Hardly any other name is of such a length: most are not compared at all.
    HOP_BY_HOP_LENGTHS >> name.as_str().len().min(63) & 1 == 1 && HOP_BY_HOP.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn every_header_of_the_connection_is_known_as_one() {
        assert!(HOP_BY_HOP.iter().all(is_hop_by_hop));
        assert!(
            ![header::CONTENT_TYPE, header::CONTENT_LENGTH, header::FROM].iter().any(is_hop_by_hop)
        );
        let mut answer =
            headers(&[("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "5"), ("etag", "e")]);
        for_client(&mut answer);
        assert_eq!(answer, headers(&[("etag", "e")]));
    }

    #[test]
    fn only_headers_of_the_connection_and_our_own_stay_behind() {
        let sent = for_upstream(&headers(&[
            ("host", "gateway"),
            ("authorization", "Bearer k"),
            ("connection", "keep-alive, x-hop, authorization"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("x-weir-tag-app", "a"),
            ("openai-organization", "org-1"),
            ("x-stainless-lang", "python"),
        ]));
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "openai-organization", "x-stainless-lang"]);
    }

    #[test]
    fn an_answer_is_asked_for_in_a_form_that_can_be_read() {
        let cases = [
            (Some("gzip, deflate, br, zstd"), false, Some("gzip")),
            (Some("gzip"), false, Some("gzip")),
            (Some("br"), false, Some("identity")),
            (None, false, None),
            (Some("gzip"), true, Some("identity")),
        ];
        for (given, stream, sent) in cases {
            let mut map = given.map_or_else(HeaderMap::new, |v| headers(&[("accept-encoding", v)]));
            readable(&mut map, stream);
            let got = map.get("accept-encoding").map(|value| value.to_str().unwrap());
            assert_eq!(got, sent, "{given:?} {stream}");
        }
    }

    #[test]
    fn base_paths_are_matched_to_the_byte() {
        let path = |uri: &'static str| match below_v1(&Uri::from_static(uri)) {
            Some(Path::Client(whole, 3)) => Some(whole.to_string()),
            Some(other) => panic!("{other:?}"),
            None => None,
        };
        assert_eq!(path("/v1/models?x=1").as_deref(), Some("/v1/models?x=1"));
        assert_eq!(path("http://gateway/v1/models").as_deref(), Some("/v1/models"));
        assert_eq!(path("/v1").as_deref(), Some("/v1"));
        assert_eq!(path("/v10/models"), None);
        assert_eq!(path("/models"), None);
    }
}
