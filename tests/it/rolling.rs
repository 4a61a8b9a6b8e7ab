//! Three gateways on one store behind a balancer are started again one after the other under traffic:
//! no call fails, no stream is cut, and what was spent is what was answered.

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::eventually;
use crate::support::gateway::PATIENCE;
use crate::support::http::get;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;

/// Who gets the next call: the gateways in turn, those left out that say that they are not ready.
struct Balancer {
    gateways: Vec<(SocketAddr, AtomicBool)>,
    turn: AtomicUsize,
    over: AtomicBool,
    served: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Balancer {
    /// Looks at readiness as a balancer's health check does, until the end.
    fn check(self: &Arc<Self>, controls: Vec<SocketAddr>) -> JoinHandle<()> {
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            while !this.over.load(Ordering::Relaxed) {
                for ((_, ready), control) in this.gateways.iter().zip(&controls) {
                    let is_ready = TcpStream::connect(control).is_ok()
                        && get(*control, "/readyz").is_some_and(|answer| answer.status == 200);
                    ready.store(is_ready, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    }

    /// A connection to a gateway that takes it; none has seen a byte of the call before.
    fn connect(&self) -> TcpStream {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (address, ready) = &self.gateways[turn % self.gateways.len()];
            if ready.load(Ordering::Relaxed)
                && let Ok(stream) = TcpStream::connect(address)
            {
                return stream;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks again and again, every third time for a stream.
    fn traffic(self: &Arc<Self>) -> JoinHandle<()> {
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            for turn in 0_usize.. {
                if this.over.load(Ordering::Relaxed) {
                    return;
                }
                match call(this.connect(), turn.is_multiple_of(3)) {
                    Ok(()) => drop(this.served.fetch_add(1, Ordering::Relaxed)),
                    Err(failure) => this.failures.lock().unwrap().push(failure),
                }
            }
        })
    }
}

/// One call on a connection of its own.
fn call(mut stream: TcpStream, streams: bool) -> Result<(), String> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let kind = if streams { "x-kind: stream\r\n" } else { "" };
    let body = format!(r#"{{"model":"gpt-4.1-mini","stream":{streams},"messages":[]}}"#);
    let request = post_with("/v1/chat/completions", &format!("connection: close\r\n{kind}"), body);
    stream.write_all(&request).map_err(|error| format!("not sent: {error}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| format!("cut: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let end = if streams { "data: [DONE]" } else { "\"total_tokens\":12" };
    if answer.starts_with("HTTP/1.1 200") && answer.contains(end) {
        return Ok(());
    }
    Err(format!("stream {streams}: {answer}"))
}

fn upstream() -> Upstream {
    let pause = Duration::from_millis(20);
    Upstream::with(move |_, request| match request.header("x-kind") {
        Some(_) => Answer::events()
            .chunk(delta("One"))
            .pause(pause)
            .chunk(delta(" two"))
            .pause(pause)
            .chunk(format!("{USAGE}{DONE}"))
            .end(),
        None => Answer::chat(),
    })
}

#[test]
fn gateways_are_started_again_one_after_the_other_and_nobody_notices() {
    let (upstream, server) = (upstream(), Postgres::start());
    let config = format!("store: {}\ndrain: 20s", server.create("rolling"));
    let start = || Gateway::builder(&upstream).config(&config).start();
    let mut gateways = [start(), start(), start()];
    let balancer = Arc::new(Balancer {
        gateways: gateways.iter().map(|one| (one.data(), AtomicBool::new(true))).collect(),
        turn: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        served: AtomicUsize::new(0),
        failures: std::sync::Mutex::default(),
    });
    let check = balancer.check(gateways.iter().map(Gateway::control).collect());
    let clients: Vec<_> = (0..8).map(|_| balancer.traffic()).collect();
    let more = |calls: usize| {
        let wanted = balancer.served.load(Ordering::Relaxed) + calls;
        eventually("traffic goes on", || balancer.served.load(Ordering::Relaxed) >= wanted);
    };
    for gateway in &mut gateways {
        more(100);
        gateway.process.signal("TERM");
        assert!(gateway.process.exit().success(), "{}", gateway.log());
        more(100);
        gateway.start_again();
    }
    more(100);
    balancer.over.store(true, Ordering::Relaxed);
    clients.into_iter().chain([check]).for_each(|thread| thread.join().unwrap());
    assert_eq!(*balancer.failures.lock().unwrap(), [""; 0], "no call failed, no stream was cut");
    // 9 tokens of input at 0.40 USD per million and 3 of output at 1.60: 8.4 micro-USD a call.
    let served = balancer.served.load(Ordering::Relaxed);
    let tenths = served * 84;
    let spent = format!("{}.{:07}", tenths / 10_000_000, tenths % 10_000_000);
    let spent = spent.trim_end_matches('0').trim_end_matches('.').to_owned();
    let mut told = Value::Null;
    eventually("what was spent is what was answered", || {
        told = get(gateways[0].control(), "/api/spend").unwrap().json();
        told["data"][0]["requests"] == served
    });
    assert_eq!(told["data"][0]["cost_usd"], spent.as_str(), "{served} calls: {told}");
}
