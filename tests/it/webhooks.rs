//! Webhooks that users register, as their receivers meet them: at least once, in order, signed, and
//! nowhere that they must not lead.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::Step;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::gateway::Builder;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;
use crate::support::upstream::Received;

/// A gateway that may post to this machine.
fn open() -> Builder {
    closed().config("outbound: { allow: \"127.0.0.1, localhost\" }")
}

/// One that may post to the public internet only.
fn closed() -> Builder {
    Gateway::before("http://127.0.0.1:1/v1")
}

fn control(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    Raw::connect(gateway.control()).send(request).response().unwrap()
}

fn send(gateway: &Gateway, path: &str, body: &Value) -> Response {
    control(gateway, post(path, body.to_string()))
}

fn with_key(gateway: &Gateway, path: &str, key: &str, body: &Value) -> Response {
    let headers = format!("idempotency-key: {key}\r\n");
    control(gateway, post_with(path, &headers, body.to_string()))
}

fn request(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    let length = body.len();
    control(
        gateway,
        format!("{method} {path} HTTP/1.1\r\nhost: g\r\ncontent-length: {length}\r\n\r\n{body}"),
    )
}

fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.control(), path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// Registers a receiver; returns its id and secret.
fn register(gateway: &Gateway, url: &str, events: &[&str]) -> (String, String) {
    let answer = send(gateway, "/api/webhooks", &json!({"url": url, "events": events}));
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let told = answer.json();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// Writes events of one kind down as any process with the store does, numbered from 0.
fn happen(store: &str, kind: &str, subject: &str, count: usize) {
    let values = (0..count)
        .map(|n| format!("('msg_{subject}_{n}', '{kind}', '{subject}', '{{\"n\":{n}}}')"));
    let values = values.collect::<Vec<_>>().join(", ");
    rows(store, &format!("insert into outbox (id, kind, subject, data) values {values}")).unwrap();
}

/// What a receiver was told under one name, as JSON, in the order that it came in.
fn told(receiver: &Upstream, kind: &str) -> Vec<Value> {
    let posts = receiver.complete();
    let bodies = posts.iter().map(|post| serde_json::from_slice::<Value>(&post.body).unwrap());
    bodies.filter(|body| body["type"] == kind).collect()
}

/// Checks a post as a receiver does: by the bytes of the secret, the headers, and the raw body.
fn assert_signed(post: &Received, secret: &str) {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let header = |name: &str| post.header(name).unwrap();
    let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &post.body].concat();
    let signature = header("webhook-signature").strip_prefix("v1,").unwrap();
    hmac::verify(&key, &signed, &STANDARD.decode(signature).unwrap()).unwrap();
    assert!(time.parse::<u64>().unwrap() > 1_700_000_000, "seconds since 1970: {time}");
}

#[test]
fn the_deliverer_tells_how_its_turns_go() {
    let gateway = open().start();
    let task = || {
        let tasks = read(&gateway, "/healthz")["tasks"].as_array().unwrap().clone();
        tasks.into_iter().find(|task| task["name"] == "webhooks").unwrap()
    };
    let number = |name: &str| task()[name].as_u64().unwrap();
    eventually("it has looked twice", || number("turns") > number("failures") + 1);
    assert!(task()["last_success"].is_string(), "{}", task());
    // The first turns may come before the tables are there, which is no fault.
    assert!(!task()["last_error"].to_string().contains("no ledger"), "{}", task());
}

/// Makes what waits due now, and leases over: as if the time had passed.
fn let_time_pass(store: &str) {
    let long_ago = if store.starts_with("postgres") { "to_timestamp(0)" } else { "0" };
    let sql = format!(
        "update webhook_deliveries set next_at = {long_ago}, \
           lease_until = case when lease_until is null then null else {long_ago} end \
         where state = 'pending'"
    );
    rows(store, &sql).unwrap();
}

/// Both kinds of stores, and what has to live as long as they are used.
fn stores() -> ([String; 2], (tempfile::TempDir, Postgres)) {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let sqlite = format!("sqlite:{}/weir.db", folder.path().display());
    ([sqlite, server.create("hooks")], (folder, server))
}

fn build(gateway: &Gateway) {
    let line = |n: usize| {
        let asked =
            json!({"role": "user", "content": format!("question number{n} of thing{}", n * 7)});
        let told = json!({"role": "assistant", "content": format!("word{} other{} more{}", n * 3, n * 5, n * 11)});
        json!({"messages": [asked, told]}).to_string() + "\n"
    };
    let folder = gateway.folder();
    std::fs::write(folder.join("lines.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
    let recipe = json!({"name": "d", "source": {"file": {"path": "lines.jsonl"}}});
    std::fs::write(folder.join("recipe.json"), recipe.to_string()).unwrap();
    let (code, out, error) = weir(folder, &["dataset", "build", "recipe.json"], "");
    assert_eq!(code, Some(0), "{out}{error}");
}

#[test]
fn a_job_is_told_of_in_order_and_signed_from_its_dataset_to_its_model_on_both_stores() {
    let (stores, _alive) = stores();
    for store in stores {
        // Every third post fails: what is tried again must not be overtaken.
        let receiver = Upstream::with(|turn, _| match turn % 3 {
            1 => Answer::json(503, "{}"),
            _ => Answer::json(204, ""),
        });
        let gateway = open().config(&format!("store: {store}")).argument("--simulate").start();
        let (_, secret) =
            register(&gateway, &receiver.base_url(), &["fine_tune.*", "dataset.ready"]);
        build(&gateway);
        let body = json!({"dataset_id": "d", "model": "gpt-4.1-mini"});
        let answer = with_key(&gateway, "/api/fine-tune", "k-1", &body);
        assert_eq!(answer.status, 202, "{}", answer.text());
        eventually("the end of the job is told", || {
            !told(&receiver, "fine_tune.succeeded").is_empty()
        });
        let posts = receiver.requests();
        posts.iter().for_each(|post| assert_signed(post, &secret));
        let ready = &told(&receiver, "dataset.ready")[0]["data"];
        let rows = |side: &str| ready[side]["rows"].as_u64().unwrap();
        assert_eq!((&ready["name"], rows("train") + rows("validation")), (&json!("d"), 20));
        // A post that failed comes again before any other of its job, under the same id.
        let of_job = posts.iter().filter(|post| post.text().contains("\"job_id\""));
        let mut ids: Vec<_> = of_job.map(|post| post.header("webhook-id")).collect();
        assert!(ids.len() > 4, "{ids:?}");
        ids.dedup();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
        let mut was = Value::Null;
        let mut steps: Vec<_> = told(&receiver, "fine_tune.status_changed");
        steps.dedup();
        for step in &steps {
            assert_eq!(step["data"]["previous_status"], was);
            was = step["data"]["status"].clone();
        }
        assert_eq!(was, "succeeded");
        let end = &told(&receiver, "fine_tune.succeeded")[0]["data"];
        assert_eq!(end["job_id"], answer.json()["job_id"]);
        assert!(end["fine_tuned_model"].as_str().unwrap().starts_with("ft:gpt-4.1-mini"));
    }
}

#[test]
fn a_receiver_that_is_slow_or_dead_holds_up_no_other() {
    let stalled = Upstream::always(Answer::default().then(Step::Stall));
    let broken = Upstream::always(Answer::json(500, "{}"));
    let well = Upstream::always(Answer::json(200, "{}"));
    let gateway = open().start();
    for receiver in [&stalled, &broken, &well] {
        register(&gateway, &receiver.base_url(), &["alias.*"]);
    }
    happen(&gateway.store(), "alias.promoted", "a", 3);
    happen(&gateway.store(), "alias.rolled_back", "b", 1);
    happen(&gateway.store(), "dataset.ready", "c", 1);
    eventually("one of them has all", || well.count() == 4);
    assert_eq!(told(&well, "dataset.ready"), Vec::<Value>::new());
    eventually("the slow one is asked", || stalled.count() > 0);
    // The second of `a` waits for the first; `b` does not.
    eventually("the broken one is asked for both", || {
        told(&broken, "alias.rolled_back").len() == 1 && !told(&broken, "alias.promoted").is_empty()
    });
    assert!(told(&broken, "alias.promoted").iter().all(|post| post["data"]["n"] == 0));
    eventually("what waits is counted", || gateway.metric("weir_webhook_pending", &[]) > 6.5);
    assert_eq!(stalled.count(), 1, "asked again before it had answered");
}

#[test]
fn two_gateways_deliver_each_event_once_and_in_order() {
    let server = Postgres::start();
    let store = server.create("shared");
    let receiver = Upstream::always(Answer::json(200, "{}"));
    let gateways = [(); 2].map(|()| open().config(&format!("store: {store}")).start());
    register(&gateways[0], &receiver.base_url(), &["*"]);
    for subject in ["a", "b", "c", "d"] {
        happen(&store, "alias.promoted", subject, 50);
    }
    eventually("all of them are delivered", || told(&receiver, "alias.promoted").len() >= 200);
    let posts = receiver.requests();
    let mut seen = BTreeMap::<String, Vec<u64>>::new();
    for post in &posts {
        let id = post.header("webhook-id").unwrap().to_owned();
        let subject = id.split('_').nth(1).unwrap().to_owned();
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        seen.entry(subject).or_default().push(body["data"]["n"].as_u64().unwrap());
    }
    let in_order: Vec<u64> = (0..50).collect();
    for subject in ["a", "b", "c", "d"] {
        assert_eq!(seen[subject], in_order, "{subject}");
    }
    let left = "select count(*) from webhook_deliveries where state <> 'delivered'";
    eventually("nothing is left", || rows(&store, left).unwrap() == [["0"]]);
    let share = |gateway: &Gateway| {
        gateway.metric("weir_hook_deliveries_total", &[("outcome", "delivered")])
    };
    let shares = share(&gateways[0]) + share(&gateways[1]);
    assert!((shares - 200.0).abs() < 0.5, "{shares}");
}

#[test]
fn an_event_outlives_a_gateway_that_is_killed_before_or_while_it_is_posted() {
    let answers = [Answer::default().then(Step::Stall), Answer::json(200, "{}")];
    let receiver = Upstream::script(answers);
    let mut gateway = open().start();
    let (id, _) = register(&gateway, &receiver.base_url(), &["dataset.ready"]);
    gateway.kill();
    // Committed by a process that posts nothing.
    build(&gateway);
    assert_eq!(receiver.count(), 0);
    gateway.start_again();
    eventually("it is being posted", || receiver.count() == 1);
    gateway.kill();
    let_time_pass(&gateway.store());
    gateway.start_again();
    eventually("it is posted again", || receiver.count() == 2);
    let posts = receiver.requests();
    assert_eq!(posts[0].header("webhook-id"), posts[1].header("webhook-id"));
    assert_eq!(posts[0].body, posts[1].body);
    let path = format!("/api/webhooks/{id}/deliveries?state=delivered");
    eventually("it is delivered", || read(&gateway, &path)["data"].as_array().unwrap().len() == 1);
}

#[test]
fn what_is_given_up_after_a_day_is_listed_and_can_be_posted_again_on_both_stores() {
    let (stores, _alive) = stores();
    for store in stores {
        let well = Arc::new(AtomicBool::new(false));
        let receiver = {
            let well = Arc::clone(&well);
            Upstream::with(move |_, post| {
                let refuses = post.header("webhook-id") == Some("msg_a_0");
                let refuses = refuses && !well.load(Ordering::Relaxed);
                Answer::json(if refuses { 500 } else { 200 }, "{}")
            })
        };
        let gateway = open().config(&format!("store: {store}")).start();
        let (id, _) = register(&gateway, &receiver.base_url(), &["alias.promoted"]);
        happen(&store, "alias.promoted", "a", 2);
        let list =
            |state: &str| read(&gateway, &format!("/api/webhooks/{id}/deliveries?state={state}"));
        eventually("it has failed once", || list("pending")["data"][1]["last_status"] == 500);
        // Eleven pauses, almost a day, and then no more.
        let eleven = "update webhook_deliveries set attempts = 11 where attempts between 1 and 10";
        rows(&store, eleven).unwrap();
        let_time_pass(&store);
        eventually("it is given up", || list("dead")["data"][0]["attempts"].as_i64() >= Some(12));
        let dead = list("dead")["data"][0].clone();
        assert_eq!(dead["message_id"], "msg_a_0");
        assert!(dead["last_error"].as_str().unwrap().starts_with("it answered 500"), "{dead}");
        assert!(dead["finished_at"].is_string() && dead["next_attempt_at"].is_null());
        // The next of its subject goes on.
        eventually("the second one is delivered", || {
            list("delivered")["data"][0]["message_id"] == "msg_a_1"
        });
        eventually("an operator sees it", || {
            gateway.metric("weir_webhook_dead_letters", &[]) > 0.5
        });
        assert_eq!(read(&gateway, "/api/webhooks")["data"][0]["dead"], 1);
        well.store(true, Ordering::Relaxed);
        let again = send(&gateway, &format!("/api/webhooks/{id}/redeliver"), &json!({}));
        assert_eq!((again.status, &again.json()["redelivered"]), (202, &json!(1)));
        eventually("it is delivered at last", || list("dead")["data"] == json!([]));
        eventually("both are", || list("delivered")["data"].as_array().unwrap().len() == 2);
        // One that was delivered, once more.
        let before = receiver.count();
        let one = send(
            &gateway,
            &format!("/api/webhooks/{id}/redeliver"),
            &json!({"delivery": dead["id"]}),
        );
        assert_eq!(one.status, 202, "{}", one.text());
        eventually("it is posted once more", || receiver.count() == before + 1);
        let posted = receiver.requests();
        assert_eq!(posted[before].header("webhook-id"), Some("msg_a_0"));
        let nothing = json!({"delivery": "0199a000-0000-7000-8000-000000000000"});
        let missing = send(&gateway, &format!("/api/webhooks/{id}/redeliver"), &nothing);
        missing.assert_error(404, "invalid_request_error", "not_found");
    }
}

#[test]
fn a_url_leads_to_the_public_internet_only_when_it_is_registered_and_when_it_is_used() {
    let receiver = Upstream::always(Answer::json(200, "{}"));
    let port = receiver.base_url().rsplit(':').next().unwrap().to_owned();
    let named = format!("http://localhost:{port}");
    let mut gateway = open().start();
    let (id, _) = register(&gateway, &named, &["*"]);
    let fixed = gateway.folder().join("weir.yaml");
    let text = std::fs::read_to_string(&fixed).unwrap();
    gateway.kill();
    std::fs::write(&fixed, text.replace("127.0.0.1, localhost", "")).unwrap();
    gateway.start_again();
    for url in
        [named.as_str(), "http://127.0.0.1:1/", "http://[::ffff:10.0.0.1]/", "http://2130706433/"]
    {
        let refused = send(&gateway, "/api/webhooks", &json!({"url": url, "events": ["*"]}));
        refused.assert_error(400, "invalid_request_error", "invalid_parameter");
        let error = &refused.json()["error"];
        assert_eq!(error["param"], "url");
        assert!(error["message"].as_str().unwrap().contains("outbound.allow"), "{error}");
    }
    happen(&gateway.store(), "alias.promoted", "a", 1);
    let path = format!("/api/webhooks/{id}/deliveries");
    eventually("it is refused when it is posted", || {
        let list = read(&gateway, &path);
        let error = list["data"][0]["last_error"].as_str().unwrap_or_default().to_owned();
        error.contains("not a public address")
    });
    let tried = send(&gateway, &format!("/api/webhooks/{id}/test"), &json!({})).json();
    assert_eq!(tried["delivered"], false);
    assert!(tried["error"].as_str().unwrap().contains("not a public address"), "{tried}");
    assert_eq!(receiver.count(), 0);
}

#[test]
fn a_redirect_is_not_followed_and_gone_switches_off() {
    let elsewhere = Upstream::always(Answer::json(200, "{}"));
    let location = format!("location: {}\r\n", elsewhere.base_url());
    let moved = Upstream::always(Answer::whole(302, &location, ""));
    let gone = Upstream::always(Answer::json(410, "{}"));
    let gateway = open().start();
    let (moved_id, _) = register(&gateway, &moved.base_url(), &["*"]);
    let (gone_id, _) = register(&gateway, &gone.base_url(), &["*"]);
    happen(&gateway.store(), "alias.promoted", "a", 3);
    let list = |id: &str| read(&gateway, &format!("/api/webhooks/{id}/deliveries"))["data"].clone();
    eventually("the redirect is an answer", || list(&moved_id)[2]["last_status"] == 302);
    eventually("what waits for the other is given up", || {
        list(&gone_id).as_array().unwrap().iter().all(|one| one["state"] == "dead")
    });
    assert_eq!((elsewhere.count(), gone.count()), (0, 1));
    let shown = read(&gateway, "/api/webhooks");
    assert_eq!(
        (&shown["data"][0]["id"], &shown["data"][0]["enabled"]),
        (&json!(gone_id), &json!(false))
    );
    assert_eq!(shown["data"][0]["disabled_reason"], "the receiver answered 410 Gone");
    eventually("it is logged", || gateway.log().contains("a webhook is switched off"));
    happen(&gateway.store(), "alias.promoted", "b", 1);
    eventually("the next event is for the other alone", || {
        list(&moved_id).as_array().unwrap().len() == 4
    });
    assert_eq!(list(&gone_id).as_array().unwrap().len(), 3);
    let again = send(&gateway, &format!("/api/webhooks/{gone_id}/redeliver"), &json!({}));
    again.assert_error(409, "invalid_request_error", "webhook_disabled");
    let on =
        request(&gateway, "PATCH", &format!("/api/webhooks/{gone_id}"), &json!({"enabled": true}));
    assert_eq!((on.status, &on.json()["enabled"]), (200, &json!(true)), "{}", on.text());
    assert_eq!(
        send(&gateway, &format!("/api/webhooks/{gone_id}/redeliver"), &json!({})).json()["redelivered"],
        3
    );
}

#[test]
fn a_test_says_what_the_receiver_said() {
    let receiver = Upstream::always(Answer::json(418, "I am a teapot"));
    let url = format!("{}/in?a=1", receiver.base_url());
    let gateway = open().policy(&format!("hooks:\n  - {{ url: '{url}', events: ['*'] }}")).start();
    let body = json!({"url": url, "events": ["dataset.ready"], "headers": {"x-token": "s3cret"},
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    let made = send(&gateway, "/api/webhooks", &body).json();
    assert_eq!(made["headers"], json!(["x-token"]));
    let id = made["id"].as_str().unwrap();
    let tried = send(&gateway, &format!("/api/webhooks/{id}/test"), &json!({})).json();
    assert_eq!((&tried["delivered"], &tried["status"]), (&json!(false), &json!(418)));
    assert_eq!(tried["body"], "I am a teapot");
    let post = receiver.only_request();
    assert_eq!((post.target.as_str(), post.header("x-token")), ("/v1/in?a=1", Some("s3cret")));
    assert_signed(&post, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let body: Value = serde_json::from_slice(&post.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["webhook_id"]), (&json!("webhook.test"), &json!(id)));
    // The policy's hooks are shown and tried, and changed in the policy.
    let list = read(&gateway, "/api/webhooks");
    let of_policy = &list["data"][1];
    assert_eq!(of_policy["source"], "policy");
    assert_eq!(of_policy["url"], "http://127.0.0.1/…");
    assert!(!list.to_string().contains("s3cret") && !list.to_string().contains("whsec_"));
    let path = format!("/api/webhooks/{}", of_policy["id"].as_str().unwrap());
    assert_eq!(send(&gateway, &format!("{path}/test"), &json!({})).json()["status"], 418);
    let kept = request(&gateway, "DELETE", &path, &json!({}));
    kept.assert_error(409, "invalid_request_error", "webhook_of_policy");
    assert_eq!(read(&gateway, &path)["events"], json!(["*"]));
    let gone = request(&gateway, "DELETE", &format!("/api/webhooks/{id}"), &json!({}));
    assert_eq!((gone.status, &gone.json()["deleted"]), (200, &json!(true)));
    let twice = request(&gateway, "DELETE", &format!("/api/webhooks/{id}"), &json!({}));
    twice.assert_error(404, "invalid_request_error", "not_found");
}

#[test]
fn what_cannot_be_registered_is_told_with_the_cure() {
    let gateway = open().start();
    for (body, part) in [
        (
            json!({"url": "http://localhost/", "events": ["fine_tune.suceeded"]}),
            "did you mean `fine_tune.succeeded`",
        ),
        (json!({"url": "http://localhost/", "events": ["tuna.*"]}), "is no event"),
        (json!({"url": "http://localhost/", "events": []}), "1 to 50"),
        (json!({"url": "localhost", "events": ["*"]}), "begins with http:// or https://"),
        (json!({"url": "http://u:pw@localhost/", "events": ["*"]}), "without a user or password"),
        (json!({"url": "http://localhost/", "events": ["*"], "secret": "short"}), "whsec_"),
        (
            json!({"url": "http://localhost/", "events": ["*"], "headers": {"Host": "x"}}),
            "the gateway's own",
        ),
        (
            json!({"url": "http://localhost/", "events": ["*"], "headers": {"a b": "x"}}),
            "cannot be a header",
        ),
        (
            json!({"url": "http://localhost/", "events": ["*"], "colour": 1}),
            "unknown field `colour`",
        ),
        (json!({"events": ["*"]}), "missing field `url`"),
    ] {
        let refused = send(&gateway, "/api/webhooks", &body);
        refused.assert_error(400, "invalid_request_error", "invalid_parameter");
        assert!(refused.text().contains(part), "{body}: {}", refused.text());
        assert!(!refused.text().contains("pw@"));
    }
    assert_eq!(read(&gateway, "/api/webhooks")["data"], json!([]));
    for path in
        ["/api/webhooks/x/deliveries?state=lost", "/api/webhooks?limit=0", "/api/webhooks?colour=1"]
    {
        let refused = get(gateway.control(), path).unwrap();
        refused.assert_error(400, "invalid_request_error", "invalid_parameter");
    }
}

#[test]
fn sixty_four_posts_with_one_key_make_one_key_and_one_answer_on_both_stores() {
    let (stores, _alive) = stores();
    for store in stores {
        let gateway = open().config(&format!("store: {store}")).start();
        let body = json!({"name": "app", "team": "support"});
        let answers: Vec<Response> = std::thread::scope(|scope| {
            let threads =
                [(); 64].map(|()| scope.spawn(|| with_key(&gateway, "/api/keys", "k-1", &body)));
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = |answer: &&Response| {
            answer.status == 201 && answer.header("idempotent-replayed").is_none()
        };
        let firsts: Vec<_> = answers.iter().filter(first).collect();
        assert_eq!(firsts.len(), 1);
        for answer in &answers {
            if answer.status == 409 {
                answer.assert_error(409, "invalid_request_error", "idempotency_in_progress");
                assert_eq!(answer.header("retry-after"), Some("1"));
            } else {
                assert_eq!((answer.status, &answer.body), (201, &firsts[0].body));
            }
        }
        let again = with_key(&gateway, "/api/keys", "k-1", &body);
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!((again.status, &again.body), (201, &firsts[0].body));
        assert_eq!(again.header("cache-control"), Some("no-store"));
        assert_eq!(read(&gateway, "/api/keys")["data"].as_array().unwrap().len(), 1);
        let other = with_key(&gateway, "/api/keys", "k-1", &json!({"name": "other"}));
        other.assert_error(409, "invalid_request_error", "idempotency_key_reused");
        // Nobody reads the secret, or the caller's key, in the store.
        let secret = firsts[0].json()["key"].as_str().unwrap().to_owned();
        let kept = rows(&store, "select key_hash, answer from idempotency_keys").unwrap();
        assert_eq!(kept.len(), 1);
        let sealed = String::from_utf8_lossy(&STANDARD.decode(&kept[0][1]).unwrap()).into_owned();
        assert!(!sealed.contains(&secret) && !sealed.contains("support") && kept[0][0] != "k-1");
        // A day later it is another request.
        let yesterday = if store.starts_with("postgres") { "to_timestamp(0)" } else { "0" };
        rows(&store, &format!("update idempotency_keys set created_at = {yesterday}")).unwrap();
        let new = with_key(&gateway, "/api/keys", "k-1", &json!({"name": "other"}));
        assert_eq!((new.status, new.header("idempotent-replayed")), (201, None));
    }
}

#[test]
fn posts_with_one_key_make_one_dataset_also_where_too_few_rows_are_left() {
    let gateway = open().start();
    let recipe = json!({"name": "empty"});
    let ask = || with_key(&gateway, "/api/datasets", "d-1", &recipe);
    std::thread::scope(|scope| {
        [(); 16].map(|()| scope.spawn(ask)).map(|asked| asked.join().unwrap())
    });
    let again = ask();
    assert_eq!((again.status, again.header("idempotent-replayed")), (422, Some("true")));
    assert_eq!(again.json()["error"]["code"], "too_few_rows");
    let made = read(&gateway, "/api/datasets?name=empty");
    assert_eq!(made["data"].as_array().unwrap().len(), 1, "{made}");
}

#[test]
fn a_refused_policy_is_told_although_the_store_was_away_meanwhile() {
    let server = Postgres::start();
    let receiver = Upstream::always(Answer::json(200, "{}"));
    let hook = format!("hooks:\n  - {{ url: '{}', events: ['policy.*'] }}", receiver.base_url());
    let store = format!("store: {}", server.create("away"));
    let gateway = open().policy(&hook).config(&store).start();
    server.crash();
    let wrong = "routes:\n  - { name: r, use: gpt-99 }\n";
    std::fs::write(gateway.folder().join("policies/more.yaml"), wrong).unwrap();
    eventually("it waits", || gateway.log().contains("an event waits for the store"));
    assert_eq!(receiver.count(), 0);
    server.resume();
    eventually("it is told", || told(&receiver, "policy.rejected").len() == 1);
}

#[test]
fn a_request_that_is_repeated_while_it_runs_is_refused_and_answered_later() {
    let go = Arc::new(Semaphore::new(0));
    let slow = Answer::json(200, "{}");
    let receiver = {
        let go = Arc::clone(&go);
        Upstream::with(move |_, _| {
            let mut answer = slow.clone();
            answer.steps.insert(0, Step::Wait(Arc::clone(&go)));
            answer
        })
    };
    let gateway = open().start();
    let (id, _) = register(&gateway, &receiver.base_url(), &["alias.promoted"]);
    let path = format!("/api/webhooks/{id}/test");
    // The client leaves before its answer.
    let mut impatient = Raw::connect(gateway.control());
    impatient.send(post_with(&path, "idempotency-key: t\r\n", "{}"));
    eventually("it runs", || receiver.count() == 1);
    impatient.close();
    let running = with_key(&gateway, &path, "t", &json!({}));
    running.assert_error(409, "invalid_request_error", "idempotency_in_progress");
    assert_eq!(running.header("retry-after"), Some("1"));
    go.add_permits(1);
    eventually("it was done all the same", || {
        with_key(&gateway, &path, "t", &json!({})).status == 200
    });
    let again = with_key(&gateway, &path, "t", &json!({}));
    assert_eq!(
        (again.header("idempotent-replayed"), &again.json()["delivered"]),
        (Some("true"), &json!(true))
    );
    assert_eq!(receiver.count(), 1);
    // What failed is not kept, and each route has keys of its own.
    let wrong = json!({"url": "nowhere", "events": ["*"]});
    assert_eq!(with_key(&gateway, "/api/webhooks", "t", &wrong).status, 400);
    let right = json!({"url": receiver.base_url(), "events": ["*"]});
    assert_eq!(with_key(&gateway, "/api/webhooks", "t", &right).status, 201);
    for key in ["", &"k".repeat(256)] {
        let refused = with_key(&gateway, "/api/webhooks", key, &right);
        refused.assert_error(400, "invalid_request_error", "invalid_parameter");
    }
}

#[test]
fn a_verdict_with_a_key_is_answered_the_same_by_both_listeners() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let body = json!({"id": "chatcmpl-1", "name": "thumbs", "value": true});
    let other = json!({"id": "chatcmpl-1", "name": "thumbs", "value": false});
    for address in [gateway.data(), gateway.control()] {
        let say = |key: &str, body: &Value| {
            let headers = format!("idempotency-key: {key}\r\n");
            let request = post_with("/api/feedback", &headers, body.to_string());
            Raw::connect(address).send(request).response().unwrap()
        };
        eventually("the store is there", || {
            say("warm", &body);
            say("warm", &body).header("idempotent-replayed") == Some("true")
        });
        let (first, again) = (say("k", &body), say("k", &body));
        assert_eq!((first.status, first.header("idempotent-replayed")), (200, None));
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
        assert_eq!(first.body, again.body);
        assert_eq!(again.header("content-type"), Some("application/json"));
        let refused = say("k", &other);
        refused.assert_error(409, "invalid_request_error", "idempotency_key_reused");
        let wrong = say(&"k".repeat(256), &body);
        wrong.assert_error(400, "invalid_request_error", "invalid_parameter");
    }
}

#[test]
fn webhooks_and_keys_of_requests_are_described() {
    let gateway = open().start();
    let description = read(&gateway, "/openapi.json");
    let paths = description["paths"].as_object().unwrap();
    for (path, method) in [
        ("/api/webhooks", "get"),
        ("/api/webhooks", "post"),
        ("/api/webhooks/{id}", "get"),
        ("/api/webhooks/{id}", "patch"),
        ("/api/webhooks/{id}", "delete"),
        ("/api/webhooks/{id}/test", "post"),
        ("/api/webhooks/{id}/redeliver", "post"),
        ("/api/webhooks/{id}/deliveries", "get"),
    ] {
        assert!(paths[path][method]["responses"].is_object(), "{method} {path}");
    }
    let posts =
        paths.iter().filter(|(path, item)| path.starts_with("/api/") && item["post"].is_object());
    for (path, item) in posts {
        let parameters = item["post"]["parameters"].as_array().unwrap();
        let named = parameters.iter().filter(|one| one["name"] == "Idempotency-Key");
        assert_eq!(named.count(), 1, "{path}");
    }
}
