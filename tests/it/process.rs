//! The process as operators meet it: start, end, what it says when it cannot start.

use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::eventually;
use crate::support::gateway::Process;
use crate::support::http::get;
use crate::support::http::good;
use crate::support::http::post;
use crate::support::http::post_with;
use crate::support::ports::Port;

const STREAM: &str = r#"{"model":"gpt-4.1-mini","stream":true}"#;

#[test]
fn on_sigterm_running_streams_finish_and_nothing_new_begins() {
    let go_on = gate();
    let first = delta("One");
    let answer = Answer::events().chunk(&first).wait(&go_on).chunk(DONE).end();
    let upstream = Upstream::always(answer);
    let mut gateway = Gateway::start(&upstream);
    let mut idle = Raw::connect(gateway.data());
    let mut streams: Vec<_> = (0..20).map(|_| Raw::connect(gateway.data())).collect();
    for stream in &mut streams {
        stream.send(post("/v1/chat/completions", STREAM));
        assert_eq!(stream.head().unwrap().status, 200);
        assert_eq!(stream.chunk().unwrap().unwrap(), first.as_bytes());
    }

    gateway.process.signal("TERM");
    eventually("it is not ready", || get(gateway.control(), "/readyz").unwrap().status == 503);
    assert_eq!(get(gateway.control(), "/healthz").unwrap().status, 200);
    assert!((gateway.metric("weir_in_flight_requests", &[]) - 20.0).abs() < 0.1);
    eventually("new connections are refused", || TcpStream::connect(gateway.data()).is_err());
    assert!(idle.rest().is_empty(), "an idle connection is closed without a word");

    go_on.add_permits(20);
    for stream in &mut streams {
        assert_eq!(stream.chunk().unwrap().unwrap(), DONE.as_bytes());
        assert_eq!(stream.chunk().unwrap(), None);
    }
    assert_eq!(gateway.process.exit().code(), Some(0));
    let log = gateway.log();
    assert_eq!(log.matches("INFO request").count(), 20, "every call is logged:\n{log}");
}

#[test]
fn a_call_that_runs_on_sigterm_is_answered_and_its_connection_closed() {
    let go_on = gate();
    let mut held = Answer::default().wait(&go_on);
    held.steps.extend(Answer::chat().steps);
    let upstream = Upstream::always(held);
    let mut gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(good());
    eventually("the call is upstream", || upstream.count() == 1);
    gateway.process.signal("TERM");
    eventually("it is not ready", || get(gateway.control(), "/readyz").unwrap().status == 503);
    go_on.add_permits(1);
    assert_eq!(raw.response().unwrap().status, 200);
    assert!(raw.rest().is_empty());
    assert_eq!(gateway.process.exit().code(), Some(0));
}

#[test]
fn when_the_drain_time_is_over_what_runs_is_cut() {
    let upstream = Upstream::always(Answer::events().chunk(delta("One")).stall());
    let mut gateway = Gateway::builder(&upstream).config("drain: 300ms").start();
    let mut raw = Raw::connect(gateway.data());
    raw.send(post("/v1/chat/completions", STREAM));
    raw.head().unwrap();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert!(raw.response().is_err());
    assert!(gateway.log().contains("drain time is over"), "{}", gateway.log());
}

#[test]
fn a_new_process_takes_the_sockets_over_without_a_failed_request_or_a_cut_stream() {
    let go_on = gate();
    let first = delta("One");
    let held = Answer::events().chunk(&first).wait(&go_on).chunk(DONE).end();
    let upstream = Upstream::with(move |_, request| match request.header("x-kind") {
        Some(_) => held.clone(),
        None => Answer::chat(),
    });
    let mut gateway = Gateway::start(&upstream);
    let arguments = ["serve".to_owned(), "--upgrade".to_owned()];
    let next = Process::spawn(gateway.folder(), "next.log", &arguments, &[]);
    let socket = gateway.folder().join("data/upgrade.sock");
    eventually("the next process waits for the sockets", || socket.exists());
    // Streams that begin in the old process and end after it has given its socket away.
    let mut streams: Vec<_> = (0..8).map(|_| Raw::connect(gateway.data())).collect();
    for stream in &mut streams {
        stream.send(post_with("/v1/chat/completions", "x-kind: held\r\n", STREAM));
        assert_eq!(stream.head().unwrap().status, 200);
        assert_eq!(stream.chunk().unwrap().unwrap(), first.as_bytes());
    }
    gateway.process.signal("QUIT");
    // Clients that open a connection for each request, until the old process is gone.
    let (address, over) = (gateway.data(), Arc::new(AtomicBool::new(false)));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, served) = (Arc::clone(&over), Arc::clone(&served));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answer = Raw::connect(address).send(good()).response();
                    assert!(answer.is_ok_and(|answer| answer.status == 200));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("the next process serves", || next.log().contains("INFO request"));
    let before = served.load(Ordering::Relaxed);
    eventually("traffic goes on", || served.load(Ordering::Relaxed) > before + 100);
    assert!(!gateway.process.has_ended(), "the old process waits for its streams");
    go_on.add_permits(8);
    for stream in &mut streams {
        assert_eq!(stream.chunk().unwrap().unwrap(), DONE.as_bytes());
        assert_eq!(stream.chunk().unwrap(), None);
    }
    assert_eq!(gateway.process.exit().code(), Some(0));
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(get(gateway.control(), "/readyz").unwrap().status, 200);
    assert!(next.log().contains("ready"), "{}", next.log());
}

#[test]
fn on_sighup_the_policies_and_the_files_with_keys_are_read_again() {
    let upstream = Upstream::always(Answer::chat());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-first").unwrap();
    let path = format!("'{}'", file.display());
    let mut gateway = Gateway::builder(&upstream).upstream("api_key_file", &path).start();
    let sent = || {
        Raw::connect(gateway.data()).send(good()).response().unwrap();
        let requests = upstream.requests();
        requests.last().unwrap().header("authorization").unwrap().to_owned()
    };
    assert_eq!(sent(), "Bearer sk-first");
    std::fs::write(&file, "sk-second").unwrap();
    let main = gateway.folder().join("policies/main.yaml");
    let rule = "routes:\n  - { name: hup, when: 'true', use: gpt-4.1-nano }\n";
    std::fs::write(&main, std::fs::read_to_string(&main).unwrap() + rule).unwrap();
    gateway.process.signal("HUP");
    eventually("it looks", || gateway.log().contains("SIGHUP"));
    eventually("the new key is sent", || sent() == "Bearer sk-second");
    let routed = || Raw::connect(gateway.data()).send(good()).response().unwrap();
    eventually("the new rule holds", || routed().header("x-weir-route") == Some("hup"));
    assert!(!gateway.process.has_ended(), "{}", gateway.log());
}

#[test]
fn it_runs_as_the_first_process_of_a_container() {
    if !Process::may_be_contained() {
        eprintln!("no namespace of processes can be made here, and none is tested");
        return;
    }
    let upstream = Upstream::always(Answer::chat());
    let mut gateway = Gateway::builder(&upstream).contained().start();
    assert_eq!(Raw::connect(gateway.data()).send(good()).response().unwrap().status, 200);
    gateway.process.signal_child("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0), "{}", gateway.log());
    assert!(gateway.log().contains("stopped"), "{}", gateway.log());
}

/// Runs `weir` to its end; returns its exit code and what it said.
fn run(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let env: Vec<_> = env.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
    let mut process = Process::spawn(folder, "log", &arguments, &env);
    (process.exit().code(), process.log())
}

#[test]
fn a_setting_that_cannot_be_used_stops_the_start_with_file_line_and_cure() {
    let cases = [
        ("# mine\nlitsen: 127.0.0.1:1\n", "weir.yaml", "2", "litsen"),
        ("drain: 5s\n\ndrain: 6s\n", "weir.yaml", "3", "drain"),
        ("limits:\n  body: lots\n", "weir.yaml", "2", "100MiB"),
        ("listen: [1, 2]\n", "weir.yaml", "1", "listen"),
        ("listen: \"127.0.0.1:1\n", "weir.yaml", "1", ""),
        ("control: { listen: 0.0.0.0:8081 }\n", "control.listen", "", "WEIR_ADMIN_TOKEN"),
    ];
    for (yaml, file, line, what) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("weir.yaml"), yaml).unwrap();
        let (code, said) = run(folder.path(), &["serve"], &[]);
        assert_eq!(code, Some(1), "{yaml}: {said}");
        assert!(said.starts_with("weir: "), "{yaml}: {said}");
        for part in [file, line, what] {
            assert!(said.contains(part), "{yaml}: {part:?} in {said}");
        }
        assert!(!said.contains("panicked"), "{yaml}: {said}");
    }
}

#[test]
fn a_broken_policy_folder_stops_the_start_with_file_and_line() {
    let upstream = "upstreams:\n  openai: { base_url: https://api.openai.com/v1 }\n";
    let cases = [
        ("upstreams:\n  openai:\n    base_ulr: x\n".to_owned(), "3", "base_ulr"),
        (format!("{upstream}models:\n  a: {{ upstream: nowhere }}\n"), "4", "nowhere"),
        ("upstreams:\n  openai: { base_url: ftp://x }\n".to_owned(), "2", "https"),
        ("upstreams: [\n".to_owned(), "", ""),
        ("unknown: 1\n".to_owned(), "1", "unknown"),
    ];
    for (yaml, line, what) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("policies/main.yaml"), &yaml).unwrap();
        let (code, said) = run(folder.path(), &["serve"], &[]);
        assert_eq!(code, Some(1), "{yaml}: {said}");
        for part in ["policies/main.yaml", line, what] {
            assert!(said.contains(part), "{yaml}: {part:?} in {said}");
        }
    }
}

#[test]
fn a_name_that_two_files_define_is_refused_with_both_places() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        let yaml = "models:\n  house: { as: x }\n";
        std::fs::write(folder.path().join("policies").join(name), yaml).unwrap();
    }
    let (code, said) = run(folder.path(), &["serve"], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("policies/a.yaml:2") && said.contains("policies/b.yaml:2"), "{said}");
}

#[test]
fn an_address_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let free = Port::take();
    let other = free.address().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (data, control) in [(&address, &other), (&other, &address)] {
        let env = [("WEIR_LISTEN", data.as_str()), ("WEIR_CONTROL_LISTEN", control.as_str())];
        let (code, said) = run(folder.path(), &["serve"], &env);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&address), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["nonsense"][..], &["serve", "--nonsense"], &[], &["serve", "--config"]] {
        assert_eq!(run(folder.path(), arguments, &[]).0, Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        assert_eq!(run(folder.path(), arguments, &[]).0, Some(0), "{arguments:?}");
    }
    let (code, said) = run(folder.path(), &["serve", "--config", "not-there.yaml"], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not-there.yaml"), "{said}");
    let (_, said) = run(folder.path(), &["--json", "serve", "--config", "not-there.yaml"], &[]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said["error"]["message"].as_str().unwrap().contains("not-there.yaml"), "{said}");
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cert.pem"), "nothing of use").unwrap();
    for (certificate, key, what) in
        [("cert.pem", "cert.pem", "cert.pem"), ("nowhere.pem", "cert.pem", "nowhere.pem")]
    {
        let env = [("WEIR_TLS_CERTIFICATE", certificate), ("WEIR_TLS_KEY", key)];
        let (code, said) = run(folder.path(), &["serve"], &env);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(what) && !said.contains("panicked"), "{said}");
    }
}
