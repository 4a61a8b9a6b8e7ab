//! TLS on either side.

use std::path::Path;
use std::process::Command;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::chat;
use crate::support::eventually;
use crate::support::gateway::Builder;
use crate::support::http::get;
use crate::support::http::good;
use crate::support::tls::Certificate;
use crate::support::tls::TlsUpstream;
use crate::support::world;

const ASK: &str = r#"{"model":"gpt-4.1-mini","messages":[]}"#;

/// A provider behind TLS, a gateway before it that trusts its certificate, and where that lies.
fn behind_tls() -> (TlsUpstream, Builder, tempfile::TempDir) {
    let certificate = Certificate::new();
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, _) = certificate.write(folder.path());
    let upstream = TlsUpstream::start(&certificate);
    let gateway =
        Gateway::before(&upstream.base_url()).upstream("ca_file", ca_file.to_str().unwrap());
    (upstream, gateway, folder)
}

#[test]
fn calls_at_the_same_time_share_one_http2_connection() {
    let (upstream, gateway, _folder) = behind_tls();
    let gateway = gateway.start();

    let clients: Vec<_> = (0..40).map(|_| Raw::connect(gateway.data())).collect();
    let mut clients: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            client.send(good());
            client
        })
        .collect();
    for client in &mut clients {
        let answer = client.response().unwrap();
        assert_eq!((answer.status, answer.text()), (200, CHAT.to_owned()));
    }
    assert_eq!((upstream.requests(), upstream.http2_requests()), (40, 40));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_long_request_for_another_model_comes_whole_by_either_version_of_http() {
    let (upstream, gateway, _folder) = behind_tls();
    let plain = Upstream::always(Answer::chat());
    let rule = "routes:\n  - { name: all, use: gpt-4.1 }\n";
    let by_http2 = gateway.policy(rule).start();
    let by_http1 = Gateway::builder(&plain).policy(rule).start();
    // Longer than what is copied, and than what HTTP/2 lets through at once.
    let said = "An unusual question. ".repeat(10_000);
    let ask = |model: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"{said}"}}],"model":"{model}"}}"#)
    };
    for gateway in [&by_http2, &by_http1] {
        assert_eq!(chat(gateway, &ask("gpt-4.1-mini")).status, 200);
    }
    assert_eq!(upstream.http2_requests(), 1);
    assert!(upstream.last_body() == ask("gpt-4.1"), "other bytes came by HTTP/2");
    assert!(plain.only_request().text() == ask("gpt-4.1"), "other bytes came by HTTP/1.1");
}

#[test]
fn a_provider_whose_certificate_nobody_vouches_for_is_not_talked_to() {
    let upstream = TlsUpstream::start(&Certificate::new());
    let folder = tempfile::tempdir().unwrap();
    let (other, _) = Certificate::new().write(folder.path());
    let gateway =
        Gateway::before(&upstream.base_url()).upstream("ca_file", other.to_str().unwrap()).start();
    chat(&gateway, ASK).assert_error(502, "api_error", "upstream_unavailable");
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn clients_may_speak_http2_without_tls() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let client = crate::support::http::client().http2_prior_knowledge().no_proxy().build().unwrap();
    world().block_on(async {
        let calls = (0..30).map(|_| {
            let call = client.post(gateway.url("/v1/chat/completions")).bearer_auth("k").body(ASK);
            tokio::spawn(call.send())
        });
        for call in calls.collect::<Vec<_>>() {
            let answer = call.await.unwrap().unwrap();
            assert_eq!(answer.version(), reqwest::Version::HTTP_2);
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text().await.unwrap(), CHAT);
        }
    });
    let connections = || gateway.metric("weir_downstream_connections", &[]);
    assert!(connections() > 0.5, "the client's connection is open");
    drop(client);
    eventually("the client's connections are closed", || connections() < 0.5);
}

/// What curl is answered by a gateway that shows a certificate of `ca`, with the version of HTTP; or
/// what curl complains of.
fn curl(gateway: &Gateway, flag: &str, ca: &Path) -> Result<String, String> {
    let url = format!("https://{}/v1/chat/completions", gateway.data());
    let out = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", flag, "--cacert"])
        .arg(ca)
        .args(["-H", "authorization: Bearer k", "-d", ASK, "-w", "|%{http_version}", &url])
        .output()
        .expect("curl is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

#[test]
fn clients_may_speak_tls_with_http2_or_http1() {
    let certificate = Certificate::new();
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate.write(folder.path());
    let tls = format!("tls: {{ certificate: {}, key: {} }}", chain.display(), key.display());
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config(&tls).start();
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        assert_eq!(curl(&gateway, flag, &chain), Ok(format!("{CHAT}|{version}")));
    }
}

#[test]
fn a_renewed_certificate_is_in_force_after_sighup_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = Certificate::new().write(folder.path());
    let tls = format!("tls: {{ certificate: {}, key: {} }}", chain.display(), key.display());
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config(&tls).start();
    let first = folder.path().join("first.pem");
    std::fs::copy(&chain, &first).unwrap();
    assert!(curl(&gateway, "--http2", &first).is_ok());
    // The certificate is there, and its key not yet.
    let old_key = std::fs::read(&key).unwrap();
    Certificate::new().write(folder.path());
    let new_key = std::fs::read(&key).unwrap();
    std::fs::write(&key, old_key).unwrap();
    gateway.process.signal("HUP");
    eventually("it is told", || gateway.log().contains("the one before it stays in force"));
    assert!(curl(&gateway, "--http2", &first).is_ok());
    let health = get(gateway.control(), "/healthz").unwrap().json();
    let tasks = health["tasks"].as_array().unwrap();
    let task = tasks.iter().find(|task| task["name"] == "certificate").unwrap();
    assert!(
        task["last_error"]["message"].as_str().unwrap().contains("is not the key of"),
        "{task}"
    );
    std::fs::write(&key, new_key).unwrap();
    gateway.process.signal("HUP");
    eventually("the new one is in force", || curl(&gateway, "--http2", &chain).is_ok());
    assert!(curl(&gateway, "--http2", &first).unwrap_err().contains("certificate"));
}

#[test]
fn garbage_instead_of_a_handshake_hurts_nobody() {
    let certificate = Certificate::new();
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate.write(folder.path());
    let tls = format!("tls: {{ certificate: {}, key: {} }}", chain.display(), key.display());
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config(&tls).start();
    let closed = Raw::connect(gateway.data()).send(good()).response();
    assert!(closed.is_err(), "plain HTTP where TLS is spoken: {closed:?}");
    assert_eq!(upstream.count(), 0);
}
