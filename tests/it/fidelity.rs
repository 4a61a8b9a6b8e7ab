//! What goes through comes out as it went in: bodies, headers, status, in both directions.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::call;
use crate::support::chat;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::Response;

const OK: &str = r#"{"model":"gpt-4.1-mini"}"#;

#[test]
fn a_body_reaches_the_upstream_byte_for_byte() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let bodies = [
        " \t\r\n{ \"model\"\t:\"gpt-4.1-mini\" ,\n\"n\" :1.0e+00 , \"seed\":-0, \"t\":0.10 }\r\n ",
        r#"{"z":1,"a":{"z":[],"a":{}},"model":"gpt-4.1-mini","unknown_field":{"deep":[null,true]}}"#,
        r#"{"mod\u0065l":"gpt-4.1-mini","x":"\u00e9 \/ \ud83d\ude00 é 😀"}"#,
        r#"{"model":"gpt-4.1-mini","big":12345678901234567890123456789012345678901234567890}"#,
        r#"{"model":"gpt-4.1-mini","stream":false,"stream_options":null}"#,
    ];
    let paths = ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"];
    for path in paths {
        for body in bodies {
            assert_eq!(call(&gateway, path, body).status, 200, "{path} {body}");
            let received = upstream.requests().pop().unwrap();
            assert_eq!((received.target.as_str(), received.text().as_str()), (path, body));
            assert_eq!(received.header("content-length"), Some(&*body.len().to_string()));
        }
    }
}

#[test]
fn of_an_alias_only_the_models_name_is_changed() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .policy("models:\n  house: { as: 'vendor/\"real\" model' }\n  same: { as: same }")
        .start();
    let body = " {\"x\" : 1.0,\"model\" : \"house\" ,\"messages\":[{\"content\":\"house\"}]} ";
    let answer = chat(&gateway, body);
    assert_eq!((answer.status, answer.text()), (200, CHAT.to_owned()));
    assert_eq!(answer.header("x-weir-model"), Some("house"));
    let sent = " {\"x\" : 1.0,\"model\" : \"vendor/\\\"real\\\" model\" ,\
                \"messages\":[{\"content\":\"house\"}]} ";
    assert_eq!(upstream.only_request().text(), sent);

    chat(&gateway, r#"{"mod\u0065l":"s\u0061me"}"#);
    assert_eq!(upstream.requests()[1].text(), r#"{"mod\u0065l":"s\u0061me"}"#);
}

/// A request with these header lines, each ending with CR LF.
fn with_headers(gateway: &Gateway, headers: &str) -> Response {
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway.example\r\n{headers}\
         content-length: {}\r\n\r\n{OK}",
        OK.len()
    );
    exchange(gateway, request)
}

#[test]
fn a_clients_headers_reach_the_upstream_but_for_its_connections() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let headers = "Authorization: Bearer sk-caller\r\nOpenAI-Organization: org-1\r\n\
                   OpenAI-Project: proj-1\r\nX-Stainless-Lang: python\r\nX-Unknown: a  b\r\n\
                   X-Twice: 1\r\nX-Twice: 2\r\nUser-Agent: OpenAI/Python 2.0\r\nCookie: a=b\r\n\
                   Idempotency-Key: i-1\r\ntraceparent: 00-1-2-01\r\nAccept: */*\r\n\
                   x-weir-tag-app: crm\r\nX-Weir-Importance: high\r\nConnection: keep-alive, X-Hop\r\n\
                   Connection: x-other-hop\r\nX-Hop: 1\r\nX-Other-Hop: 2\r\nKeep-Alive: timeout=5\r\n\
                   TE: trailers\r\nProxy-Authorization: Basic eA==\r\n";
    assert_eq!(with_headers(&gateway, headers).status, 200);
    let received = upstream.only_request();
    let mut got: Vec<_> =
        received.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    got.sort();
    let host = upstream.base_url().replace("http://", "").replace("/v1", "");
    let mut wanted = vec![
        "accept: */*",
        "authorization: Bearer sk-caller",
        "content-length: 24",
        "cookie: a=b",
        "idempotency-key: i-1",
        "openai-organization: org-1",
        "openai-project: proj-1",
        "traceparent: 00-1-2-01",
        "user-agent: OpenAI/Python 2.0",
        "x-stainless-lang: python",
        "x-twice: 1",
        "x-twice: 2",
        "x-unknown: a  b",
    ];
    let host = format!("host: {host}");
    wanted.push(&host);
    wanted.sort_unstable();
    assert_eq!(got, wanted);
}

#[test]
fn nobody_can_nominate_the_key_away() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let headers =
        "authorization: Bearer sk-caller\r\nconnection: authorization, content-length\r\n";
    assert_eq!(with_headers(&gateway, headers).status, 200);
    assert_eq!(upstream.only_request().header("authorization"), Some("Bearer sk-caller"));
    assert_eq!(upstream.only_request().text(), OK);
}

#[test]
fn the_upstreams_headers_reach_the_client_but_for_its_connections() {
    let headers = "content-type: application/json\r\nx-request-id: req_1\r\n\
                   openai-processing-ms: 7\r\nopenai-version: 2020-10-01\r\n\
                   x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-tokens: 9\r\n\
                   set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nserver: cloudflare\r\n\
                   date: Mon, 01 Jan 2024 00:00:00 GMT\r\nx-weir-upstreams-own: 1\r\n\
                   x-should-retry: true\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
                   connection: keep-alive, x-hop\r\n";
    let upstream = Upstream::always(Answer::whole(200, headers, CHAT));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, OK);
    let all = |name: &str| -> Vec<&str> {
        let named = answer.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(all("x-request-id"), ["req_1"]);
    assert_eq!(all("openai-processing-ms"), ["7"]);
    assert_eq!(all("openai-version"), ["2020-10-01"]);
    assert_eq!(all("x-ratelimit-limit-requests"), ["100"]);
    assert_eq!(all("x-ratelimit-remaining-tokens"), ["9"]);
    assert_eq!(all("set-cookie"), ["a=1; Path=/", "b=2"]);
    assert_eq!(all("server"), ["cloudflare"]);
    assert_eq!(all("date"), ["Mon, 01 Jan 2024 00:00:00 GMT"]);
    assert_eq!(all("x-should-retry"), ["true"]);
    assert_eq!(all("content-length"), [CHAT.len().to_string()]);
    assert_eq!((all("x-hop").len(), all("keep-alive").len()), (0, 0));
}

#[test]
fn every_answer_says_what_the_gateway_did() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, OK);
    let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("{name}: {answer:?}"));
    assert_eq!(header("x-weir-id").len(), 36);
    assert_eq!(header("x-weir-route"), "default");
    assert_eq!(header("x-weir-model"), "gpt-4.1-mini");
    assert_eq!(header("x-weir-policy").len(), 12);
    assert!(header("x-weir-policy").bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(header("x-weir-attempts"), "1");
    assert!(header("x-weir-overhead-us").parse::<u64>().is_ok());
    assert_eq!(header("x-weir-capture"), "full");
    // 9 tokens in at 0.40 and 3 out at 1.60 USD per million: 3.6 + 4.8 = 8.4 millionths.
    assert_eq!(header("x-weir-cost-usd"), "0.0000084");
    assert_eq!(header("x-weir-cost-status"), "exact");
    let again = chat(&gateway, OK);
    assert_ne!(again.header("x-weir-id"), answer.header("x-weir-id"));
}

#[test]
fn errors_reach_the_client_byte_for_byte() {
    let json = "application/json";
    let bodies: [(u16, &str, &str); 6] = [
        (400, json, r#"{ "error":{"message":"\u00fc","param":null , "code":1.50}}"#),
        (404, json, "{\"error\": {\"message\": \"The model `x` does not exist\"}}\n"),
        (422, json, "[{\"loc\":[\"body\"]}]"),
        (403, "text/html", "<html>\r\n<h1>403</h1></html>"),
        (401, "text/plain", "nope"),
        (418, json, ""),
    ];
    for (status, kind, body) in bodies {
        let headers = format!("content-type: {kind}\r\nx-mine: {status}\r\n");
        let upstream = Upstream::always(Answer::whole(status, &headers, body));
        let gateway = Gateway::start(&upstream);
        for path in ["/v1/chat/completions", "/v1/moderations"] {
            let answer = call(&gateway, path, OK);
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{path}");
            assert_eq!(answer.header("content-type"), Some(kind));
            assert_eq!(answer.header("x-mine"), Some(&*status.to_string()));
        }
    }
}

#[test]
fn the_callers_key_goes_through() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    assert_eq!(with_headers(&gateway, "authorization: Bearer sk-caller\r\n").status, 200);
    assert_eq!(with_headers(&gateway, "api-key: azure-caller\r\n").status, 200);
    let requests = upstream.requests();
    assert_eq!(requests[0].header("authorization"), Some("Bearer sk-caller"));
    assert_eq!(requests[1].header("authorization"), None);
    assert_eq!(requests[1].header("api-key"), Some("azure-caller"));
}

#[test]
fn the_gateways_own_key_takes_the_callers_place() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .upstream("api_key", "${OWN_KEY}")
        .env("OWN_KEY", "sk-own")
        .start();
    let callers = ["", "authorization: Bearer sk-caller\r\n", "api-key: sk-caller\r\n"];
    for headers in callers {
        assert_eq!(with_headers(&gateway, headers).status, 200);
    }
    for path in ["/v1/models", "/v1/chat/completions"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer sk-caller\r\n\r\n");
        assert_eq!(exchange(&gateway, request).status, 200);
    }
    for request in upstream.requests() {
        let keys: Vec<_> =
            request.headers.iter().filter(|(name, _)| name == "authorization").collect();
        assert_eq!(keys, [&("authorization".to_owned(), "Bearer sk-own".to_owned())]);
        let leaked = request.headers.iter().any(|(_, value)| value.contains("sk-caller"));
        assert!(!leaked, "{request:?}");
    }
}

#[test]
fn a_compressed_answer_passes_as_it_is_and_is_counted() {
    let (answer, packed) = Answer::gzip(CHAT);
    let upstream = Upstream::always(answer);
    let gateway = Gateway::start(&upstream);
    let headers = "authorization: Bearer k\r\naccept-encoding: gzip, br\r\n";
    let answer = with_headers(&gateway, headers);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.body, packed);
    // An answer in a coding that the gateway cannot read could not be counted.
    assert_eq!(upstream.only_request().header("accept-encoding"), Some("gzip"));
    let input = [("gen_ai_token_type", "input"), ("gen_ai_request_model", "gpt-4.1-mini")];
    let output = [("gen_ai_token_type", "output")];
    eventually("its tokens are counted", || {
        let sum = |labels: &[_]| gateway.metric("gen_ai_client_token_usage_sum", labels);
        (sum(&input) - 9.0).abs() < 0.1 && (sum(&output) - 3.0).abs() < 0.1
    });
}

#[test]
fn the_client_is_told_to_go_on_sending() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        OK.len()
    ));
    assert_eq!(raw.any_head().unwrap().status, 100);
    assert_eq!(raw.send(OK).response().unwrap().status, 200);
    let received = upstream.only_request();
    assert_eq!((received.text().as_str(), received.header("expect")), (OK, None));
}
