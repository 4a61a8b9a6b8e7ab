//! Documents as their users meet them: sources in, passages out, and nothing embedded twice.

use serde_json::Value;
use serde_json::json;

use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::firecrawl::Site;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::library::control;
use crate::support::library::crawled;
use crate::support::library::ended;
use crate::support::library::refresh;
use crate::support::library::search;
use crate::support::library::send;
use crate::support::library::simulated;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

fn page(n: usize, words: &str) -> Value {
    json!({"name": format!("page{n}.md"), "text": format!("# Page {n}\n\n{words}\n")})
}

#[test]
fn files_are_found_by_their_words_and_embedded_once_on_both_stores() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::with_vectors();
    let stores = [format!("sqlite:{}/weir.db", folder.path().display()), server.create("docs")];
    for store in stores {
        let gateway = simulated().config(&format!("store: {store}")).start();
        let made =
            send(&gateway, "/api/embeddings/sources", &json!({"name": "docs", "kind": "files"}));
        assert_eq!(made.status, 201, "{}", made.text());
        let early = send(&gateway, "/api/search", &json!({"query": "x", "source": "docs"}));
        early.assert_error(409, "invalid_request_error", "source_not_ready");
        let files = json!({"files": [
            page(1, "Budgets are refilled every day at midnight."),
            page(2, "Keys are rotated with a grace of one hour."),
            page(3, "The zebra crosses the river at dawn."),
        ]});
        let upload = "/api/embeddings/sources/docs/files";
        assert_eq!(send(&gateway, upload, &files).status, 202);
        let first = ended(&gateway, "docs", 1);
        assert_eq!(first["state"], "succeeded", "{first}");
        let counts = &first["counts"];
        assert_eq!((&counts["pages_new"], &counts["chunks_embedded"]), (&json!(3), &json!(3)));
        assert_eq!(search(&gateway, "zebra river")["data"][0]["url"], "file:page3.md");
        let app =
            exchange(&gateway, post("/api/search", r#"{"query":"grace of keys","source":"docs"}"#));
        assert_eq!(app.json()["data"][0]["url"], "file:page2.md", "{}", app.text());
        // The same again costs nothing.
        assert_eq!(send(&gateway, upload, &files).status, 202);
        let again = ended(&gateway, "docs", 2)["counts"].clone();
        assert_eq!((&again["pages_unchanged"], &again["chunks_embedded"]), (&json!(3), &json!(0)));
        assert_eq!(again["tokens"], 0);
        // One page changes, and one goes.
        let files = json!({"replace": true, "files": [
            page(1, "Budgets are refilled every week."), page(2, "Keys are rotated with a grace of one hour."),
        ]});
        assert_eq!(send(&gateway, upload, &files).status, 202);
        let changed = ended(&gateway, "docs", 3)["counts"].clone();
        assert_eq!(
            (&changed["pages_changed"], &changed["chunks_embedded"], &changed["pages_removed"]),
            (&json!(1), &json!(1), &json!(1))
        );
        assert_ne!(search(&gateway, "zebra river")["data"][0]["url"], "file:page3.md");
        let spend = rows(&store, "select distinct route from interactions").unwrap();
        assert_eq!(spend, [["embeddings:docs"]], "what is embedded is in the ledger");
        eventually("the metric tells of it", || {
            let metrics = get(gateway.control(), "/metrics").unwrap().text();
            metrics.contains(r#"weir_embeddings_documents{source="docs",state="indexed"} 2"#)
        });
        // Another chunking is another index, which takes over when it is whole.
        let patch = json!({"chunking": {"max_tokens": 100, "min_tokens": 40, "overlap_tokens": 0}});
        let patch = format!(
            "PATCH /api/embeddings/sources/docs HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{patch}",
            patch.to_string().len()
        );
        assert_eq!(control(&gateway, patch).status, 200);
        assert_eq!(send(&gateway, "/api/embeddings/sources/docs/refresh", &json!({})).status, 202);
        let rebuilt = ended(&gateway, "docs", 4);
        assert_eq!(rebuilt["state"], "succeeded", "{rebuilt}");
        let back = send(&gateway, "/api/embeddings/indexes/docs/rollback", &json!({}));
        assert_eq!((back.status, &back.json()["generation"]), (200, &json!(1)), "{}", back.text());
        assert_eq!(search(&gateway, "rotated")["data"][0]["url"], "file:page2.md");
        let gone = "DELETE /api/embeddings/sources/docs HTTP/1.1\r\nhost: g\r\n\r\n";
        assert_eq!(control(&gateway, gone).json()["deleted"], true);
        let none = send(&gateway, "/api/search", &json!({"query": "x", "source": "docs"}));
        none.assert_error(404, "invalid_request_error", "source_not_found");
    }
}

#[test]
fn a_crawl_takes_pages_in_leaves_errors_out_and_forgets_what_is_gone_twice() {
    let site = Site::of(&[
        ("/a", 200, "The gateway counts tokens."),
        ("/a", 200, "The gateway counts tokens."),
        ("/b#top", 200, "Budgets are refilled."),
        ("/gone", 404, "Error response"),
        ("/empty", 200, " "),
    ]);
    let (gateway, firecrawl) = crawled(site);
    let first = ended(&gateway, "docs", 1);
    let counts = &first["counts"];
    assert_eq!((&first["state"], &counts["pages_new"]), (&json!("partial"), &json!(2)), "{first}");
    assert_eq!(counts["pages_failed"], json!({"not_found": 1, "empty": 1}));
    assert_eq!(search(&gateway, "tokens")["data"][0]["url"], "http://127.0.0.10:8099/a");
    let asked = firecrawl.requests();
    let body: Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!(body["scrapeOptions"], json!({"formats": ["markdown"], "maxAge": 0}));
    assert_eq!(asked[0].header("authorization"), Some("Bearer fc-1"));
    // A page that a complete crawl does not bring is gone the second time.
    let only = |pages| *firecrawl.site() = Site::of(pages);
    only(&[("/a", 200, "The gateway counts tokens.")]);
    for (runs, removed) in [(2, 0), (3, 1)] {
        let run = refresh(&gateway, runs);
        assert_eq!(run["state"], "succeeded", "{run}");
        assert_eq!(run["counts"]["pages_removed"], removed, "{run}");
        assert_eq!(run["counts"]["chunks_embedded"], 0);
    }
    assert!(
        search(&gateway, "Budgets")["data"]
            .as_array()
            .unwrap()
            .iter()
            .all(|hit| { hit["url"] == "http://127.0.0.10:8099/a" })
    );
    // A page that says 404 goes at once.
    only(&[("/a", 404, "Not found"), ("/new", 200, "Something new.")]);
    assert_eq!(refresh(&gateway, 4)["counts"]["pages_removed"], 1);
}

#[test]
fn a_crawl_that_fails_or_brings_less_deletes_nothing_and_the_index_answers_on() {
    let (gateway, firecrawl) = crawled(Site::of(&[
        ("/a", 200, "Alpha words."),
        ("/b", 200, "Beta words."),
        ("/c", 200, "Gamma words."),
    ]));
    assert_eq!(ended(&gateway, "docs", 1)["state"], "succeeded");
    let told = |pages: &[(&str, u16, &str)], status: &str, failed| {
        *firecrawl.site() = Site { status: status.to_owned(), failed, ..Site::of(pages) };
    };
    let less: &[_] = &[("/a", 200, "Alpha words.")];
    for (runs, (status, failed)) in
        [("failed", 0), ("completed", 2), ("completed", 0)].into_iter().enumerate()
    {
        told(less, status, failed);
        for again in 0..2 {
            let run = refresh(&gateway, 2 + 2 * runs + again);
            assert_eq!(
                (&run["state"], &run["counts"]["pages_removed"]),
                (&json!("partial"), &json!(0)),
                "{run}"
            );
        }
    }
    assert_eq!(search(&gateway, "Gamma")["data"][0]["url"], "http://127.0.0.10:8099/c");
}

#[test]
fn a_gateway_that_dies_in_a_crawl_is_followed_by_one_that_goes_on_with_it() {
    let site = Site { status: "scraping".to_owned(), ..Site::of(&[("/a", 200, "Alpha words.")]) };
    let (mut gateway, firecrawl) = crawled(site);
    eventually("the crawl goes on", || firecrawl.site().crawls == 1);
    let store = format!("sqlite:{}", gateway.folder().join("data/weir.db").display());
    eventually("its job is written down", || {
        rows(&store, "select jobs from embedding_runs").unwrap() == [["[\"crawl/c1\"]"]]
    });
    gateway.kill();
    rows(&store, "update embedding_runs set lease_until = 0 returning id").unwrap();
    firecrawl.site().status = "completed".to_owned();
    gateway.start_again();
    let run = ended(&gateway, "docs", 1);
    assert_eq!((&run["state"], &run["attempts"]), (&json!("succeeded"), &json!(2)), "{run}");
    assert_eq!(firecrawl.site().crawls, 1, "it is not begun again");
}

#[test]
fn sources_are_kept_from_the_command_line() {
    let gateway = simulated().start();
    let folder = gateway.folder();
    std::fs::write(folder.join("guide.md"), "# Guide\n\nThe zebra crosses the river.\n").unwrap();
    let run = |arguments: &[&str]| weir(folder, arguments, "");
    let (code, out, error) = run(&["sources", "add", "docs", "--kind", "files", "guide.md"]);
    assert_eq!((code, out.as_str()), (Some(0), "docs is added\n"), "{error}");
    let (code, out, error) = run(&["sources", "refresh", "docs", "--wait"]);
    assert!(code == Some(0) && out.contains("succeeded"), "{out}{error}");
    let (code, out, _) = run(&["search", "zebra", "--source", "docs"]);
    assert!(code == Some(0) && out.contains("file:guide.md"), "{out}");
    let (_, out, _) = run(&["sources", "list"]);
    assert!(out.starts_with("docs  files  -  succeeded"), "{out}");
    let (code, _, error) = run(&["sources", "add", "x", "--url", "http://10.0.0.1/"]);
    assert!(code == Some(1) && error.contains("not a public address"), "{error}");
    let (code, out, _) = run(&["sources", "delete", "docs"]);
    assert_eq!((code, out.as_str()), (Some(0), "docs is gone, and 1 documents with it\n"));
}

#[test]
fn firecrawls_webhooks_are_believed_only_with_the_secret() {
    let gateway = simulated().config("firecrawl: { webhook_secret: s3cret }").start();
    let made = send(&gateway, "/api/embeddings/sources", &json!({"name": "docs", "kind": "files"}));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let hook = |header: &str| {
        let body = r#"{"type":"monitor.page","id":"m1"}"#;
        let request = format!(
            "POST /hooks/firecrawl/{id} HTTP/1.1\r\nhost: g\r\n{header}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        control(&gateway, request)
    };
    hook("").assert_error(401, "invalid_request_error", "invalid_signature");
    hook("x-firecrawl-signature: sha256=00ff\r\n").assert_error(
        401,
        "invalid_request_error",
        "invalid_signature",
    );
    assert_eq!(hook("authorization: Bearer s3cret\r\n").status, 200);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"s3cret");
    let tag = ring::hmac::sign(&key, br#"{"type":"monitor.page","id":"m1"}"#);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hook(&format!("x-firecrawl-signature: sha256={hex}\r\n")).status, 200);
    assert_eq!(ended(&gateway, "docs", 1)["trigger"], "webhook");
}
