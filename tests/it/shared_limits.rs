//! Limits that gateways share by a real Redis: never more than there is, whatever becomes of Redis.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use weir::limits::Courier;
use weir::limits::Demand;
use weir::limits::Kind;
use weir::limits::Limits;
use weir::limits::Real;
use weir::metering::money::Usd;
use weir::policy::Claim;
use weir::policy::Policy;
use weir::policy::Settings;
use weir::policy::Sources;
use weir::telemetry::metrics::Metrics;

use crate::limits::CENT;
use crate::limits::cent;
use crate::limits::limited;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::chat;
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::tls::Certificate;

/// What a gateway has of limits, on a runtime of its own.
struct Node {
    runtime: Runtime,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    claims: Arc<Vec<Claim>>,
}

impl Node {
    fn start(redis: &str, yaml: &str) -> Self {
        let sources = Sources::of([("a.yaml".to_owned(), yaml.to_owned())].into());
        let policy = Policy::check(&sources, &Settings::default()).policy.unwrap();
        let claim = |limit: &Arc<_>| Claim { limit: Arc::clone(limit), subject: "k".to_owned() };
        let claims = Arc::new(policy.limits().iter().map(claim).collect());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let limits = Arc::new(Limits::shared());
        let metrics = Arc::new(Metrics::new().unwrap());
        let redis = weir::limits::Redis::parse(redis).unwrap();
        let courier = Courier::new(&limits, redis, Arc::clone(&metrics)).unwrap();
        runtime.spawn(courier.run());
        Self { runtime, limits, metrics, claims }
    }

    fn is_up(&self) -> bool {
        self.metrics.redis_up().get() == 1
    }

    /// One call that uses what it reserves; whether it was admitted.
    async fn call(limits: &Arc<Limits>, claims: &[Claim], demand: &Demand) -> bool {
        match limits.admit(claims, demand).await {
            Ok(permit) => {
                tokio::task::yield_now().await;
                permit.settle(&Real { counts: true, tokens: demand.tokens, usd: demand.usd });
                true
            }
            Err(_) => false,
        }
    }

    fn once(&self, demand: &Demand) -> bool {
        self.runtime.block_on(Self::call(&self.limits, &self.claims, demand))
    }

    /// `tasks` clients that ask again and again until `stop`; each admission is counted.
    fn clients(
        &self,
        tasks: usize,
        demand: Demand,
        admitted: &Arc<AtomicUsize>,
        stop: &Arc<AtomicBool>,
    ) {
        for _ in 0..tasks {
            let (limits, claims) = (Arc::clone(&self.limits), Arc::clone(&self.claims));
            let (admitted, stop) = (Arc::clone(admitted), Arc::clone(stop));
            self.runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if Self::call(&limits, &claims, &demand).await {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            });
        }
    }
}

fn three(redis: &str, yaml: &str) -> Vec<Node> {
    let nodes: Vec<_> = (0..3).map(|_| Node::start(redis, yaml)).collect();
    let meet = |node: &Node| node.is_up() && node.metrics.gateways().get() == 3;
    eventually("all reach Redis, and know of each other", || nodes.iter().all(meet));
    nodes
}

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn a_cent() -> Demand {
    Demand { usd: usd("0.01"), pays: true, ..Demand::default() }
}

/// Three gateways and 64 clients on a limit that holds `most` of `demand`; `disturb` happens when a
/// third is used and every gateway has met the subject. Returns how many were admitted.
fn hammer(
    yaml: &str,
    demand: Demand,
    most: usize,
    disturb: impl FnOnce(&mut Redis),
) -> (usize, Vec<Node>, Redis) {
    let mut redis = Redis::start();
    let url = redis.url();
    let (admitted, nodes) = hammer_at(&url, yaml, demand, most, || disturb(&mut redis));
    (admitted, nodes, redis)
}

/// The same before a Redis that is there.
fn hammer_at(
    url: &str,
    yaml: &str,
    demand: Demand,
    most: usize,
    disturb: impl FnOnce(),
) -> (usize, Vec<Node>) {
    let nodes = three(url, yaml);
    let (admitted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    // Who has never asked Redis about a subject can only guess what is left of it.
    admitted.fetch_add(nodes.iter().filter(|node| node.once(&demand)).count(), Ordering::Relaxed);
    for (node, clients) in nodes.iter().zip([22, 21, 21]) {
        node.clients(clients, demand, &admitted, &stop);
    }
    eventually("a third is used", || admitted.load(Ordering::Relaxed) * 3 >= most);
    disturb();
    eventually("all reach Redis again", || nodes.iter().all(Node::is_up));
    eventually("all of it is used", || admitted.load(Ordering::Relaxed) >= most);
    // Sixty-four clients have asked for more all the time, and go on for some turns.
    std::thread::sleep(Duration::from_millis(1_500));
    stop.store(true, Ordering::Relaxed);
    (admitted.load(Ordering::Relaxed), nodes)
}

const DOLLAR: &str = "limits: [{ name: l, budget: { usd: 1, every: month } }]";
const REQUESTS: &str = "limits: [{ name: l, requests: 300/min }]";
const TOKENS: &str = "limits: [{ name: l, tokens: 3000/min }]";

fn ten_tokens() -> Demand {
    Demand { tokens: 10, ..Demand::default() }
}

#[test]
fn three_gateways_spend_a_dollar_to_the_last_cent_and_no_more() {
    let (admitted, ..) = hammer(DOLLAR, a_cent(), 100, |_| {});
    assert_eq!(admitted, 100);
}

#[test]
fn three_gateways_spend_no_more_than_a_dollar_while_redis_dies_and_comes_back_empty() {
    let (admitted, ..) = hammer(DOLLAR, a_cent(), 100, |redis| {
        redis.kill();
        std::thread::sleep(Duration::from_millis(500));
        redis.resume();
    });
    assert_eq!(admitted, 100);
}

#[test]
fn requests_and_tokens_by_the_minute_are_shared_to_the_last_one() {
    assert_eq!(hammer(REQUESTS, Demand::default(), 300, |_| {}).0, 300);
    assert_eq!(hammer(TOKENS, ten_tokens(), 300, |_| {}).0, 300);
}

#[test]
fn no_more_requests_and_tokens_pass_while_redis_dies_and_comes_back_empty() {
    for (yaml, demand) in [(REQUESTS, Demand::default()), (TOKENS, ten_tokens())] {
        let (admitted, ..) = hammer(yaml, demand, 300, |redis| {
            redis.kill();
            std::thread::sleep(Duration::from_millis(300));
            redis.resume();
        });
        assert_eq!(admitted, 300, "{yaml}");
    }
}

#[test]
fn no_more_is_spent_while_redis_hangs() {
    let (admitted, ..) = hammer(DOLLAR, a_cent(), 100, |redis| {
        redis.signal("STOP");
        std::thread::sleep(Duration::from_millis(1_000));
        redis.signal("CONT");
    });
    assert_eq!(admitted, 100);
}

#[test]
fn a_thousand_requests_a_second_ask_redis_less_than_once_in_twenty() {
    let redis = Redis::start();
    let node = Node::start(
        &redis.url(),
        "limits: [{ name: l, requests: 600000/min, tokens: 90000000/min, \
         budget: { usd: 10000, every: day } }]",
    );
    eventually("it reaches Redis", || node.is_up());
    let demand = Demand { tokens: 100, ..a_cent() };
    let before = node.metrics.redis_calls().get();
    let admitted = node.runtime.block_on(async {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut admitted = 0;
        for _ in 0..3_000 {
            tick.tick().await;
            admitted += u64::from(Node::call(&node.limits, &node.claims, &demand).await);
        }
        admitted
    });
    let calls = node.metrics.redis_calls().get() - before;
    eprintln!("{calls} round trips for {admitted} requests");
    assert_eq!(admitted, 3_000);
    assert!(calls * 20 < admitted, "{calls} round trips for {admitted} requests");
}

#[test]
fn what_a_gateway_does_not_use_comes_back_when_it_rests_or_leaves() {
    let redis = Redis::start();
    let nodes = three(&redis.url(), "limits: [{ name: l, budget: { usd: 1, every: month } }]");
    let [one, two, three] = &nodes[..] else { unreachable!() };
    assert!(one.once(&a_cent()) && two.once(&a_cent()));
    one.limits.leave(Duration::from_secs(5));
    let mut spent = 2;
    eventually("a third one can use all that is left", || {
        spent += usize::from(three.once(&a_cent()));
        spent == 100
    });
    assert!(!three.once(&a_cent()));
}

#[test]
fn a_gateway_that_dies_leaves_a_part_to_the_others_and_never_more_than_there_is() {
    let redis = Redis::start();
    let mut nodes = three(&redis.url(), DOLLAR);
    let dies = nodes.remove(0);
    let mut spent = 0;
    for _ in 0..30 {
        spent += usize::from(dies.once(&a_cent()));
    }
    dies.runtime.shutdown_background();
    let mut refused_since = 0;
    while refused_since < 40 {
        let more = nodes.iter().filter(|node| node.once(&a_cent())).count();
        spent += more;
        refused_since = if more == 0 { refused_since + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(50));
    }
    // What it held when it died counts as spent.
    assert!((50..=100).contains(&spent), "{spent}");
}

#[test]
fn without_redis_each_limit_does_what_it_says_and_nobody_waits() {
    let redis = Redis::stopped();
    let limit =
        |down: &str| format!("limits: [{{ name: l, requests: 4/min, on_redis_down: {down} }}]");
    let admitted = |down: &str| {
        let node = Node::start(&redis.url(), &limit(down));
        (0..10).filter(|_| node.once(&Demand::default())).count()
    };
    assert_eq!(admitted("reject"), 0);
    assert_eq!(admitted("allow"), 10);
    // The only gateway that anybody has seen.
    assert_eq!(admitted("local_share"), 4);
}

#[test]
fn redis_that_comes_late_finds_out_what_was_used_without_it() {
    let mut redis = Redis::stopped();
    let yaml = "limits: [{ name: l, requests: 5/min }]";
    let node = Node::start(&redis.url(), yaml);
    assert!(node.once(&Demand::default()) && node.once(&Demand::default()));
    redis.resume();
    eventually("it reaches Redis", || node.is_up());
    let other = Node::start(&redis.url(), yaml);
    eventually("the other one, too", || other.is_up());
    let mut admitted = 0;
    eventually("the other one has the rest", || {
        admitted += usize::from(other.once(&Demand::default()));
        admitted == 3
    });
    assert!(!other.once(&Demand::default()) && !node.once(&Demand::default()));
}

#[test]
fn a_redis_that_has_forgotten_all_hears_what_was_spent_before_a_restart() {
    let redis = Redis::start();
    let before = Node::start(&redis.url(), DOLLAR);
    for _ in 0..60 {
        assert!(before.once(&a_cent()));
    }
    let mut kept = before.limits.changed(before.limits.now());
    kept.iter_mut().for_each(|counter| counter.gateway = before.limits.gateway().to_owned());
    drop((before, redis));
    let redis = Redis::start();
    let [one, two] = [Node::start(&redis.url(), DOLLAR), Node::start(&redis.url(), DOLLAR)];
    let policy: Vec<_> = one.claims.iter().map(|claim| Arc::clone(&claim.limit)).collect();
    one.limits.restore(kept, &policy, one.limits.now());
    assert!(one.once(&a_cent()));
    let mut spent = 61;
    eventually("all of it is spent", || {
        spent += usize::from(two.once(&a_cent()));
        spent == 100
    });
    assert!(!two.once(&a_cent()));
}

#[test]
fn a_refusal_names_the_limit_and_the_time() {
    let redis = Redis::start();
    let node = Node::start(&redis.url(), "limits: [{ name: l, requests: 1/min }]");
    assert!(node.once(&Demand::default()));
    let refused = node.runtime.block_on(node.limits.admit(&node.claims, &Demand::default()));
    let refused = refused.map(drop).unwrap_err();
    assert_eq!((&*refused.limit, refused.kind), ("l", Some(Kind::Requests)));
    let after = refused.retry_after.unwrap().as_secs();
    assert!((1..=65).contains(&after), "{after}");
}

#[test]
fn three_gateways_before_one_redis_that_is_killed_serve_no_more_than_a_dollar() {
    let mut redis = Redis::start();
    let upstream = Upstream::always(cent());
    let config = format!("redis: {}", redis.url());
    let gateway = || {
        let limits = "  - { name: cap, per: global, budget: { usd: 1, every: month } }";
        limited(&upstream, limits).config(&config).start()
    };
    let gateways = [gateway(), gateway(), gateway()];
    let up = |gateway: &Gateway| {
        let metrics = gateway.metrics();
        metrics.sum("weir_redis_up", &[]) > 0.5 && metrics.sum("weir_gateways", &[]) > 2.5
    };
    eventually("all reach Redis", || gateways.iter().all(up));
    let served = AtomicUsize::new(0);
    let clients = |turns: usize| {
        std::thread::scope(|scope| {
            for client in 0..64 {
                let (gateway, served) = (&gateways[client % 3], &served);
                scope.spawn(move || {
                    for _ in 0..turns {
                        let answer = chat(gateway, CENT);
                        match answer.status {
                            200 => drop(served.fetch_add(1, Ordering::Relaxed)),
                            _ => answer.assert_error(429, "insufficient_quota", "budget_exceeded"),
                        }
                    }
                });
            }
        });
    };
    clients(1);
    redis.kill();
    clients(1);
    let told = |gateway: &Gateway| gateway.log().matches("Redis is away").count();
    eventually("all say so", || gateways.iter().all(|gateway| told(gateway) > 0));
    redis.resume();
    eventually("all reach Redis again", || gateways.iter().all(up));
    assert!(gateways.iter().all(|gateway| told(gateway) == 1), "it is said once");
    eventually("the dollar is spent", || {
        clients(1);
        served.load(Ordering::Relaxed) >= 100
    });
    clients(2);
    assert_eq!((served.into_inner(), upstream.count()), (100, 100));
}

#[test]
fn three_gateways_before_a_cluster_spend_a_dollar_to_the_last_cent_and_no_more() {
    let members = [Redis::of_cluster(), Redis::of_cluster(), Redis::of_cluster()];
    let places: Vec<String> =
        members.iter().map(|member| format!("127.0.0.1:{}", member.port())).collect();
    for (member, slots) in
        members.iter().zip([["0", "5461"], ["5462", "10922"], ["10923", "16383"]])
    {
        assert_eq!(member.ask(&["cluster", "addslotsrange", slots[0], slots[1]]), "OK");
        let (port, bus) = (members[0].port().to_string(), members[0].bus().to_string());
        assert_eq!(member.ask(&["cluster", "meet", "127.0.0.1", &port, &bus]), "OK");
    }
    let is_ok = |member: &Redis| member.ask(&["cluster", "info"]).contains("cluster_state:ok");
    eventually("the members know of each other", || members.iter().all(is_ok));
    let url = format!("redis+cluster://{}", places.join(","));
    assert_eq!(hammer_at(&url, DOLLAR, a_cent(), 100, || {}).0, 100);
}

#[test]
fn gateways_follow_the_sentinels_to_another_master_and_spend_no_more() {
    let mut master = Redis::start();
    let replica = Redis::replica(&master);
    let linked = || replica.ask(&["info", "replication"]).contains("master_link_status:up");
    eventually("the replica follows", linked);
    let sentinel = Redis::sentinel(&master);
    let knows = || sentinel.ask(&["sentinel", "replicas", "mymaster"]).contains("slave");
    eventually("the sentinel knows both", knows);
    let url = format!("redis+sentinel://127.0.0.1:{}/mymaster", sentinel.port());
    let (admitted, _) = hammer_at(&url, DOLLAR, a_cent(), 100, || {
        master.kill();
        let leads = || replica.ask(&["info", "replication"]).contains("role:master");
        eventually("the replica is the master", leads);
    });
    assert_eq!(admitted, 100);
}

#[test]
fn a_redis_behind_tls_with_a_password_is_shared_like_any_other() {
    let redis = Redis::with(|port, folder| {
        let (certificate, key) = Certificate::new().write(folder);
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let port = port.to_string();
        let arguments = [
            "--port",
            "0",
            "--tls-port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
            "--tls-ca-cert-file",
            &certificate,
            "--requirepass",
            "p@ss",
        ];
        arguments.map(str::to_owned).to_vec()
    });
    let upstream = Upstream::always(cent());
    let certificate = redis.folder().join("certificate.pem").display().to_string();
    let config = format!("redis: \"rediss://:p%40ss@127.0.0.1:{}\"", redis.port());
    let gateway = || {
        let limits = "  - { name: cap, per: global, requests: 3/min }";
        limited(&upstream, limits).config(&config).env("SSL_CERT_FILE", &certificate).start()
    };
    let gateways = [gateway(), gateway()];
    let up = |gateway: &Gateway| gateway.metrics().sum("weir_gateways", &[]) > 1.5;
    eventually("both reach Redis, and know of each other", || gateways.iter().all(up));
    let answers: Vec<u16> = (0..8).map(|turn| chat(&gateways[turn % 2], CENT).status).collect();
    let served = answers.iter().filter(|status| **status == 200).count();
    assert_eq!(served, 3, "{answers:?}");
    assert!(gateways.iter().all(|gateway| !gateway.log().contains("p@ss")));
}
