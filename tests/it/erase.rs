//! What is kept no longer, and what somebody asks to be erased: words go for good, money stays.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde_json::Value;
use serde_json::json;

use crate::spool::segments;
use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::gateway::Builder;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

/// Nobody listens there.
const AWAY: &str = "postgres://u@127.0.0.1:9/db";
/// 9 tokens in at 0.40 USD a million, 3 out at 1.60: 3.6 + 4.8 millionths, in units of 10^-12.
const COST: i64 = 8_400_000;
/// What a row is when only the bill is left.
const BARE: &str = "erased_at is not null and end_user_hash is null and session_id is null \
                    and response_id is null and capture = 'metadata' and cast(tags as text) = '{}' \
                    and cast(facts as text) = '{}' and cast(redaction as text) = '{}'";

/// An upstream whose answers call themselves chatcmpl-0, chatcmpl-1, …
fn numbered() -> Upstream {
    let answer = |n| Answer::json(200, CHAT.replace("chatcmpl-1", &format!("chatcmpl-{n}")));
    Upstream::script((0..10).map(answer))
}

/// Runs a test on both stores; it gets a URL that all gateways of it share.
fn on_both(name: &str, holds: impl Fn(&str)) {
    let folder = tempfile::tempdir().unwrap();
    holds(&format!("sqlite:{}/weir.db", folder.path().display()));
    holds(&Postgres::start().create(name));
}

/// Gateways of one store know users by the same hashes.
fn with_store(upstream: &Upstream, store: &str) -> Builder {
    Gateway::builder(upstream).config(&format!("store: {store}")).env("WEIR_USER_SECRET", "s")
}

/// A call of this user in this session; returns its id.
fn said(gateway: &Gateway, user: &str, session: &str) -> String {
    let body = json!({"model": "gpt-4.1-mini", "user": user, "messages":
        [{"role": "user", "content": format!("I am {user}")}]});
    let headers = format!("x-weir-session: {session}\r\nx-weir-tag-name: {user}\r\n");
    let request = post_with("/v1/chat/completions", &headers, body.to_string());
    let answer = exchange(gateway, request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-weir-id").unwrap().to_owned()
}

fn judge(gateway: &Gateway, target: &str) {
    let told = json!({"role": "assistant", "content": "what I said"});
    let verdict = json!({"id": target, "name": "better", "value": {"demonstration": told}});
    let answer = exchange(gateway, post_with("/api/feedback", "", verdict.to_string()));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn delete(gateway: &Gateway, query: &str) -> Response {
    let mut control = Raw::connect(gateway.control());
    let path = format!("/api/interactions{query}");
    control.send(format!("DELETE {path} HTTP/1.1\r\nhost: gateway\r\n\r\n")).response().unwrap()
}

fn erase(gateway: &Gateway, query: &str) -> Value {
    let answer = delete(gateway, query);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The only number of a query.
fn number(store: &str, sql: &str) -> i64 {
    rows(store, sql).ok().map_or(-1, |rows| rows[0][0].parse().unwrap())
}

fn count(store: &str, table: &str, holds: &str) -> i64 {
    number(store, &format!("select count(*) from {table} where {holds}"))
}

fn wait_for(store: &str, table: &str, expected: i64) {
    eventually(&format!("{expected} are in {table}"), || count(store, table, "true") == expected);
}

fn change(store: &str, sql: &str) {
    rows(store, sql).unwrap();
}

fn spend(gateway: &Gateway) -> Value {
    get(gateway.control(), "/api/spend?group_by=team,key,model,day").unwrap().json()
}

fn shown(gateway: &Gateway, id: &str) -> Response {
    get(gateway.control(), &format!("/api/interactions/{id}")).unwrap()
}

/// A moment in the words of the store's database.
fn at(store: &str, millis: i64) -> String {
    if store.starts_with("sqlite") {
        millis.to_string()
    } else {
        format!("to_timestamp({millis} / 1000.0)")
    }
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// The store is there from its next start on.
fn back(gateway: &Gateway, store: &str) {
    let weir_yaml = gateway.folder().join("weir.yaml");
    let text = std::fs::read_to_string(&weir_yaml).unwrap().replace(AWAY, store);
    std::fs::write(&weir_yaml, text).unwrap();
}

/// Changes the store while the gateway is down: once it is up again, it begins with a sweep.
fn change_and_sweep(gateway: &mut Gateway, store: &str, sql: &str) {
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    change(store, sql);
    gateway.start_again();
}

#[test]
fn what_is_kept_no_longer_goes_and_its_bill_stays() {
    on_both("expiry", |store| {
        let upstream = numbered();
        let mut gateway = with_store(&upstream, store).policy("capture: [{ keep: 30d }]").start();
        let (old, young) = (said(&gateway, "ada", "s"), said(&gateway, "ada", "s"));
        for target in [&*old, "chatcmpl-0", &*young, "s"] {
            judge(&gateway, target);
        }
        wait_for(store, "feedback", 4);
        wait_for(store, "interactions", 2);
        let kept = shown(&gateway, &young).json();
        let before = spend(&gateway);
        change_and_sweep(
            &mut gateway,
            store,
            &format!("update interactions set expires_at = created_at where id = '{old}'"),
        );
        eventually("the sweep is over", || gateway.records("expired") == 1);
        let bare = format!("{BARE} and id = '{old}' and cost_picodollars = {COST}");
        assert_eq!(count(store, "interactions", &bare), 1);
        assert_eq!(count(store, "interaction_bodies", &format!("interaction_id = '{old}'")), 0);
        assert_eq!(count(store, "feedback", &format!("target in ('{old}', 'chatcmpl-0')")), 0);
        assert_eq!(spend(&gateway), before);
        assert_eq!(before["data"][0]["cost_usd"], "0.0000168", "2 x 8.4 millionths");
        assert_eq!(shown(&gateway, &old).status, 404);
        // Whoever is still there keeps all of it, and what was said of the session, too.
        let list = get(gateway.control(), "/api/interactions").unwrap().json();
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
        assert_eq!(shown(&gateway, &young).json(), kept);
        assert_eq!(kept["feedback_history"].as_array().unwrap().len(), 2);
        change_and_sweep(&mut gateway, store, "update interactions set expires_at = created_at");
        eventually("the sweep is over", || gateway.records("expired") == 1);
        assert_eq!(count(store, "feedback", "true"), 0);
        assert_eq!(count(store, "interaction_bodies", "true"), 0);
        assert_eq!(spend(&gateway), before);
    });
}

#[test]
fn what_was_stripped_does_not_come_back_when_it_is_shipped_once_more() {
    on_both("twice", |store| {
        let upstream = numbered();
        let mut gateway = with_store(&upstream, AWAY).policy("capture: [{ keep: 30d }]").start();
        let ids = [said(&gateway, "ada", "s-1"), said(&gateway, "bob", "s-2")];
        eventually("they are spooled", || gateway.records("appended") == 2);
        gateway.kill();
        let saved = segments(&gateway.folder().join("data/spool"));
        let saved: Vec<Vec<u8>> = saved.iter().map(|path| std::fs::read(path).unwrap()).collect();
        back(&gateway, store);
        gateway.start_again();
        wait_for(store, "interaction_bodies", 2);
        // One expires, one is erased.
        change_and_sweep(
            &mut gateway,
            store,
            &format!("update interactions set expires_at = created_at where id = '{}'", ids[0]),
        );
        eventually("the sweep is over", || gateway.records("expired") == 1);
        assert_eq!(erase(&gateway, "?user=bob")["erased"], 1);
        gateway.kill();
        let folder = gateway.folder().join("data/spool/00000000-0000-7000-8000-000000000000");
        std::fs::create_dir_all(&folder).unwrap();
        for (n, bytes) in saved.iter().enumerate() {
            std::fs::write(folder.join(format!("{n:016}.seg")), bytes).unwrap();
        }
        gateway.start_again();
        eventually("they came once more", || gateway.records("duplicate") == 2);
        assert_eq!(count(store, "interactions", BARE), 2);
        assert_eq!(count(store, "interaction_bodies", "true"), 0);
        assert_eq!(
            number(store, "select cast(sum(cost_picodollars) as bigint) from interactions"),
            2 * COST
        );
    });
}

#[test]
fn a_user_s_words_go_with_all_that_was_said_of_them_and_others_stay() {
    on_both("users", |store| {
        let upstream = numbered();
        let gateway = with_store(&upstream, store).start();
        let ada = [said(&gateway, "ada", "s-1"), said(&gateway, "ada", "s-2")];
        let bob = said(&gateway, "bob", "s-3");
        for target in [&*ada[0], "chatcmpl-0", "s-2", &*bob, "chatcmpl-2", "s-3"] {
            judge(&gateway, target);
        }
        wait_for(store, "feedback", 6);
        wait_for(store, "interactions", 3);
        let (before, others) = (spend(&gateway), shown(&gateway, &bob).json());
        let report = erase(&gateway, "?user=ada");
        for (name, value) in [
            ("object", json!("interaction.erasure")),
            ("kind", json!("user")),
            ("erased", json!(2)),
            ("bodies", json!(2)),
            ("feedback", json!(3)),
            ("datasets", json!([])),
            ("models", json!([])),
        ] {
            assert_eq!(report[name], value, "{name}");
        }
        assert_eq!(gateway.records("erased"), 2);
        assert_eq!(count(store, "interactions", BARE), 2);
        assert_eq!(count(store, "interaction_bodies", "true"), 1);
        for gone in [&*ada[0], &*ada[1], "chatcmpl-0", "chatcmpl-1"] {
            assert_eq!(shown(&gateway, gone).status, 404);
        }
        assert_eq!(spend(&gateway), before);
        assert_eq!(shown(&gateway, &bob).json(), others);
        assert_eq!(others["feedback_history"].as_array().unwrap().len(), 3);
        // The report stays with the tombstone, which names nobody.
        let tombstones =
            rows(store, "select kind, cast(report as text), subject from erasures").unwrap();
        assert_eq!(tombstones[0][0], "user");
        assert_eq!(serde_json::from_str::<Value>(&tombstones[0][1]).unwrap(), report);
        assert!(!tombstones[0][2].contains("ada"));
        assert!(
            chrono::DateTime::parse_from_rfc3339(report["requested_at"].as_str().unwrap()).is_ok()
        );
        // What comes afterwards is kept as ever.
        let later = said(&gateway, "ada", "s-1");
        eventually("it is stored", || shown(&gateway, &later).status == 200);
        assert_eq!(shown(&gateway, &later).json()["session_id"], "s-1");
        // A verdict on what is gone is not taken; one on the session that goes on is.
        for target in [&*ada[0], "s-1"] {
            judge(&gateway, target);
        }
        eventually("it is judged", || count(store, "feedback", "target = 's-1'") == 1);
        assert_eq!(count(store, "feedback", "true"), 4);
        assert_eq!(erase(&gateway, "?user=ada")["erased"], 1);
        assert_eq!(erase(&gateway, "?user=ada")["erased"], 0);
    });
}

#[test]
fn a_key_or_a_session_is_erased_however_many_rows_that_are() {
    on_both("keys", |store| {
        let upstream = numbered();
        let gateway = with_store(&upstream, store).start();
        for user in ["ada", "bob", "eve"] {
            said(&gateway, user, if user == "eve" { "s-2" } else { "s-1" });
        }
        wait_for(store, "interactions", 3);
        // More than two chunks of another key, each with bodies.
        let id = if store.starts_with("sqlite") { "m.n" } else { "cast(m.n as uuid)" };
        let many = "with recursive count (n) as (select 1 union all select n + 1 from count where n < 1200), \
                    m as (select '00000000-0000-7000-8000-' || (100000000000 + n) as n from count)";
        change(
            store,
            &format!(
                "{many} insert into interactions (id, created_at, key_name, endpoint, policy_version, streamed, \
               status_code, client_left, attempts, latency_ms, input_tokens, cached_input_tokens, \
               cached_audio_input_tokens, cached_image_input_tokens, cache_write_tokens, audio_input_tokens, \
               image_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, \
               capture, cost_picodollars) \
             select {id}, created_at, 'ci', endpoint, policy_version, streamed, 200, client_left, 1, 1, 1, \
               0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 'full', 7 from m cross join (select * from interactions limit 1) as i"
            ),
        );
        change(
            store,
            &format!(
                "{many} insert into interaction_bodies (interaction_id, request) select {id}, b.request \
             from m cross join (select request from interaction_bodies limit 1) as b"
            ),
        );
        let before = spend(&gateway);
        let report = erase(&gateway, "?key=ci");
        assert_eq!((&report["erased"], &report["bodies"]), (&json!(1200), &json!(1200)));
        assert_eq!(count(store, "interactions", "key_name = 'ci' and erased_at is null"), 0);
        assert_eq!(count(store, "interaction_bodies", "true"), 3);
        judge(&gateway, "s-1");
        judge(&gateway, "s-2");
        wait_for(store, "feedback", 2);
        let report = erase(&gateway, "?session=s-1");
        assert_eq!((&report["erased"], &report["feedback"]), (&json!(2), &json!(1)));
        assert_eq!(report["kind"], "session");
        assert_eq!(count(store, "interactions", "session_id = 's-2' and erased_at is null"), 1);
        assert_eq!(spend(&gateway), before);
    });
}

#[test]
fn what_waits_in_a_spool_comes_as_bills_alone_once_it_was_erased() {
    on_both("tombs", |store| {
        let upstream = numbered();
        let mut first = with_store(&upstream, AWAY).start();
        said(&first, "ada", "s-1");
        said(&first, "bob", "s-2");
        said(&first, "eve", "s-3");
        judge(&first, "chatcmpl-0");
        eventually("they are spooled", || first.records("appended") == 4);
        first.kill();
        // Verdicts in another file than what they are about.
        first.start_again();
        for target in ["chatcmpl-0", "s-1", "chatcmpl-1", "s-2", "chatcmpl-2", "s-3"] {
            judge(&first, target);
        }
        eventually("they are spooled", || first.records("appended") == 6);
        first.kill();

        let second = with_store(&upstream, store).start();
        let present = said(&second, "ada", "s-1");
        wait_for(store, "interactions", 1);
        assert_eq!(erase(&second, "?user=ada")["erased"], 1);
        assert_eq!(erase(&second, "?session=s-2")["erased"], 0);
        back(&first, store);
        first.start_again();
        wait_for(store, "interactions", 4);
        eventually("the spool is empty", || {
            segments(&first.folder().join("data/spool")).is_empty()
        });
        assert_eq!(first.records("erased"), 2);
        assert_eq!(count(store, "interaction_bodies", "true"), 1);
        let words =
            "select count(*) from interactions where erased_at is null and session_id = 's-3'";
        assert_eq!(number(store, words), 1);
        // Bob's name is not in what was asked for, and it is in the session.
        assert_eq!(count(store, "interactions", BARE), 3);
        let told = rows(store, "select target from feedback order by target").unwrap();
        assert_eq!(told, [["chatcmpl-2"], ["s-3"]]);
        assert_eq!(
            number(store, "select cast(sum(cost_picodollars) as bigint) from interactions"),
            4 * COST
        );
        assert_eq!(shown(&second, &present).status, 404);
        // From now on both are kept.
        said(&first, "ada", "s-1");
        said(&first, "bob", "s-2");
        wait_for(store, "interaction_bodies", 3);
    });
}

#[test]
fn lines_of_datasets_go_even_when_their_calls_had_expired_before() {
    on_both("sets", |store| {
        let upstream = numbered();
        let mut gateway = with_store(&upstream, store).policy("capture: [{ keep: 30d }]").start();
        let ids = [
            said(&gateway, "ada", "s-1"),
            said(&gateway, "ada", "s-2"),
            said(&gateway, "bob", "s-3"),
        ];
        wait_for(store, "interactions", 3);
        let set = |n: u8| format!("00000000-0000-7000-8000-00000000000{n}");
        for n in [1, 2] {
            change(
                store,
                &format!(
                    "insert into datasets (id, created_at, name, version, method, status, recipe, recipe_hash) \
                 values ('{}', {}, 'chats', {n}, 'supervised', 'ready', '{{}}', 'h')",
                    set(n),
                    at(store, now())
                ),
            );
        }
        // The first is made of Ada's and Bob's, the second of Bob's alone.
        for (n, (set, id)) in
            [(set(1), &ids[0]), (set(1), &ids[1]), (set(1), &ids[2]), (set(2), &ids[2])]
                .into_iter()
                .enumerate()
        {
            change(
                store,
                &format!(
                    "insert into dataset_items (dataset_id, ordinal, interaction_id, conversation_id, split, content_hash, tokens, line) \
                 values ('{set}', {n}, '{id}', 'c-{n}', 'train', 'h-{n}', 12, '{{\"messages\":[]}}')"
                ),
            );
        }
        change_and_sweep(
            &mut gateway,
            store,
            &format!("update interactions set expires_at = created_at where id = '{}'", ids[0]),
        );
        eventually("the sweep is over", || gateway.records("expired") == 1);
        assert_eq!(count(store, "dataset_items", "line is not null"), 4, "`keep` is of bodies");
        assert_eq!(shown(&gateway, &ids[0]).status, 404);
        let report = erase(&gateway, "?user=ada");
        assert_eq!(report["erased"], 2);
        assert_eq!(report["datasets"], json!([{ "id": set(1), "name": "chats", "version": 1 }]));
        assert_eq!(count(store, "interactions", BARE), 2);
        let lines = rows(
            store,
            "select cast(ordinal as text) from dataset_items where line is not null and interaction_id is not null order by ordinal",
        );
        assert_eq!(lines.unwrap(), [["2"], ["3"]]);
        let empty = "line is null and interaction_id is null and conversation_id = '' and content_hash like 'erased:%'";
        assert_eq!(count(store, "dataset_items", empty), 2);
        let sets = rows(store, "select status, error from datasets order by version").unwrap();
        assert_eq!(sets, [["archived", "words in it were erased"], ["ready", "null"]]);
        let (code, told, _) = cli(&gateway, &["--session", "s-3"]);
        assert_eq!(code, Some(0));
        assert!(told.contains("datasets archived: chats 1, chats 2"), "{told}");
    });
}

#[test]
fn an_erasure_that_lost_its_process_comes_to_its_end() {
    on_both("half", |store| {
        let upstream = numbered();
        let mut gateway = with_store(&upstream, store).start();
        said(&gateway, "ada", "s-1");
        wait_for(store, "interactions", 1);
        let (hour, ten_minutes) = (at(store, now() - 3_600_000), at(store, now() - 600_000));
        change(store, &format!("update interactions set created_at = {hour}"));
        change_and_sweep(
            &mut gateway,
            store,
            &format!(
                "insert into erasures (id, kind, subject, requested_at) \
             values ('00000000-0000-7000-8000-000000000000', 'session', 's-1', {ten_minutes})"
            ),
        );
        let over = "report ->> 'finished_at' is not null and report ->> 'erased' in ('1', 1)";
        let over = if store.starts_with("sqlite") {
            over
        } else {
            "report ->> 'erased' = '1' and report ->> 'finished_at' is not null"
        };
        eventually("it has ended", || count(store, "erasures", over) == 1);
        assert_eq!(count(store, "interactions", BARE), 1);
    });
}

#[test]
fn an_erasure_amid_traffic_loses_nobody_s_call_and_no_bill() {
    on_both("amid", |store| {
        let upstream = Upstream::always(Answer::chat());
        let gateways = [with_store(&upstream, store).start(), with_store(&upstream, store).start()];
        let over = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let client = |gateway, user| {
                let over = &over;
                scope.spawn(move || {
                    let mut sent = 0;
                    while !over.load(Ordering::SeqCst) {
                        said(gateway, user, user);
                        sent += 1;
                    }
                    sent
                })
            };
            let clients: Vec<_> = gateways
                .iter()
                .flat_map(|gateway| ["ada", "bob"].map(|user| client(gateway, user)))
                .collect();
            for round in 1..=4 {
                eventually("some are stored", || {
                    count(store, "interactions", "true") >= 20 * round
                });
                erase(&gateways[usize::try_from(round).unwrap() % 2], "?user=ada");
            }
            over.store(true, Ordering::SeqCst);
            clients.into_iter().map(|client| client.join().unwrap()).sum::<i64>()
        });
        wait_for(store, "interactions", sent);
        assert_eq!(
            number(store, "select cast(sum(cost_picodollars) as bigint) from interactions"),
            sent * COST
        );
        let bare = count(store, "interactions", BARE);
        assert!(bare > 0);
        assert_eq!(count(store, "interaction_bodies", "true"), sent - bare);
        let covered =
            "session_id = 'ada' and created_at <= (select max(requested_at) from erasures)";
        assert_eq!(count(store, "interactions", covered), 0);
        assert_eq!(count(store, "interactions", "session_id = 'bob' and erased_at is not null"), 0);
    });
}

#[test]
fn erased_words_are_not_in_sqlite_s_files_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}/weir.db", folder.path().display());
    let upstream = numbered();
    let gateway = with_store(&upstream, &store).start();
    for n in 0..6 {
        said(&gateway, if n % 2 == 0 { "mallory" } else { "bob" }, "s");
    }
    judge(&gateway, "chatcmpl-0");
    wait_for(&store, "feedback", 1);
    wait_for(&store, "interactions", 6);
    let holds = |word: &str| {
        let files = ["weir.db", "weir.db-wal"].map(|name| std::fs::read(folder.path().join(name)));
        files.iter().flatten().any(|bytes| memchr::memmem::find(bytes, word.as_bytes()).is_some())
    };
    for word in ["mallory", "chatcmpl-0", "what I said"] {
        assert!(holds(word), "{word}: else this proves nothing");
    }
    erase(&gateway, "?user=mallory");
    for word in ["mallory", "chatcmpl-0", "what I said"] {
        assert!(!holds(word), "{word}");
    }
    assert!(holds("bob"));
}

#[test]
fn exactly_one_known_subject_is_asked_for() {
    let upstream = numbered();
    let gateway = Gateway::start(&upstream);
    said(&gateway, "ada", "s-1");
    wait_for(&gateway.store(), "interactions", 1);
    for (query, param, part) in [
        ("", "user", "nothing says whose"),
        ("?user=ada&session=s-1", "session", "one too many"),
        ("?user=ada&user=bob", "user", "one too many"),
        ("?user=", "user", "names nobody"),
        ("?tag=a:b", "tag", "is no parameter"),
    ] {
        let answer = delete(&gateway, query);
        answer.assert_error(400, "invalid_request_error", "invalid_parameter");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], param, "{query}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part) && message.contains("one of user=…"), "{query}: {message}");
    }
    assert_eq!(count(&gateway.store(), "erasures", "true"), 0);
    assert_eq!(count(&gateway.store(), "interaction_bodies", "true"), 1);
    let off = Gateway::builder(&upstream).config("store: \"off\"").start();
    delete(&off, "?user=ada").assert_error(404, "invalid_request_error", "store_off");
    let away = with_store(&upstream, AWAY).start();
    delete(&away, "?user=ada").assert_error(503, "api_error", "store_unavailable");
}

fn cli(gateway: &Gateway, whose: &[&str]) -> (Option<i32>, String, String) {
    let command = [&["interactions", "erase"], whose].concat();
    weir(gateway.folder(), &command, "")
}

#[test]
fn the_command_line_erases_too() {
    let upstream = numbered();
    let gateway = Gateway::start(&upstream);
    for user in ["ada", "bob", "eve"] {
        said(&gateway, user, "s-1");
    }
    wait_for(&gateway.store(), "interactions", 3);
    let (code, told, _) = cli(&gateway, &["--user", "ada", "--json"]);
    assert_eq!(code, Some(0));
    let report: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&report["kind"], &report["erased"]), (&json!("user"), &json!(1)));
    let (code, told, _) = cli(&gateway, &["--session", "s-1"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("erased 2 calls, 2 of them with bodies, and 0 verdicts"), "{told}");
    assert_eq!(cli(&gateway, &[]).0, Some(2));
    assert_eq!(cli(&gateway, &["--user", "a", "--key", "b"]).0, Some(2));
    let empty = tempfile::tempdir().unwrap();
    for (arguments, part) in
        [(["--user", "ada"], "WEIR_USER_SECRET"), (["--key", "ci"], "weir migrate")]
    {
        let command = [&["interactions", "erase"], &arguments[..]].concat();
        let (code, _, said) = weir(empty.path(), &command, "");
        assert_eq!(code, Some(1));
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made");
}
