//! Pages by Firecrawl: each trap that the live server had, maps and batches, and bad pages.

use serde_json::Value;
use serde_json::json;

use crate::support::Gateway;
use crate::support::eventually;
use crate::support::firecrawl::Firecrawl;
use crate::support::firecrawl::SITE;
use crate::support::firecrawl::Site;
use crate::support::firecrawl::Traps;
use crate::support::firecrawl::recorded;
use crate::support::library::control;
use crate::support::library::crawled;
use crate::support::library::ended;
use crate::support::library::fetched;
use crate::support::library::read;
use crate::support::library::refresh;
use crate::support::library::search;
use crate::support::library::send;

const THREE: [(&str, u16, &str); 3] =
    [("/a", 200, "Alpha words."), ("/b", 200, "Beta words."), ("/c", 200, "Gamma words.")];

fn state(run: &Value) -> &str {
    run["state"].as_str().unwrap()
}

/// How often a run counted something.
fn count(run: &Value, what: &str) -> u64 {
    run["counts"][what].as_u64().unwrap()
}

fn urls(gateway: &Gateway) -> Vec<String> {
    let documents = read(gateway, "/api/embeddings/documents?source=docs&limit=200");
    let data = documents["data"].as_array().unwrap().iter();
    let shown = data.filter(|document| document["state"] != "deleted");
    let mut urls: Vec<_> =
        shown.map(|document| document["url"].as_str().unwrap().to_owned()).collect();
    urls.sort();
    urls
}

#[test]
fn trap_1_a_404_that_comes_as_a_success_is_not_embedded() {
    let mut site = Site::of(&THREE);
    site.pages.push(("/nope.html".to_owned(), 404, "Error response".to_owned()));
    let (gateway, _firecrawl) = crawled(site);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("partial", 3), "{run}");
    assert_eq!(run["counts"]["pages_failed"], json!({"not_found": 1}));
    assert_eq!(run["error"], "1 page is not in the index: not_found 1");
    assert_eq!(urls(&gateway).len(), 3);
    // The recorded answer itself, of a source that is one page.
    let page = json!({"name": "docs", "kind": "scrape", "url": format!("{SITE}/nope.html")});
    let (gateway, _firecrawl) = fetched(Site::of(&[]), &page);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "chunks_embedded")), ("failed", 0), "{run}");
}

#[test]
fn trap_2_no_request_carries_the_idempotency_key_that_ones_own_server_fails_on() {
    let (gateway, firecrawl) = crawled(Site::of(&THREE));
    assert_eq!(state(&ended(&gateway, "docs", 1)), "succeeded");
    let asked = firecrawl.requests();
    assert!(asked.iter().all(|request| request.header("x-idempotency-key").is_none()));
}

#[test]
fn trap_3_what_has_changed_is_told_by_our_own_hash() {
    let (gateway, firecrawl) = crawled(Site::of(&THREE));
    assert_eq!(state(&ended(&gateway, "docs", 1)), "succeeded");
    firecrawl.site().pages[1].2 = "Beta words, and others.".to_owned();
    let run = refresh(&gateway, 2);
    let counts = ["pages_unchanged", "pages_changed", "chunks_embedded"].map(|it| count(&run, it));
    assert_eq!((state(&run), counts), ("succeeded", [2, 1, 1]), "{run}");
    let asked = firecrawl.requests();
    assert!(asked.iter().all(|request| !request.text().contains("changeTracking")));
}

#[test]
fn trap_4_webhooks_of_ones_own_server_are_unsigned_and_need_the_secret() {
    for unsigned_webhooks in [true, false] {
        let traps = Traps { unsigned_webhooks, ..Traps::SELF_HOSTED };
        let (gateway, firecrawl) = crawled(Site { traps, ..Site::of(&THREE) });
        ended(&gateway, "docs", 1);
        let sources = read(&gateway, "/api/embeddings/sources");
        let path = format!("/hooks/firecrawl/{}", sources["data"][0]["id"].as_str().unwrap());
        for (hook, says_whose) in firecrawl.webhooks(&path) {
            let other = hook.replace("hooksecret", "guessed").replace("sha256=", "sha256=00");
            let refused = control(&gateway, other);
            refused.assert_error(401, "invalid_request_error", "invalid_signature");
            let expected = if says_whose { 200 } else { 401 };
            assert_eq!(control(&gateway, hook).status, expected);
        }
        // Somebody else's crawl of the site has ended: there may be something new.
        assert_eq!(ended(&gateway, "docs", 2)["trigger"], "webhook");
    }
}

#[test]
fn trap_5_pages_that_come_all_at_once_are_the_same_as_those_that_come_bit_by_bit() {
    let mut site = Site::of(&[]);
    for document in recorded("big.json")["data"].as_array().unwrap() {
        let url = document["metadata"]["url"].as_str().unwrap();
        let text = document["markdown"].as_str().unwrap();
        site.pages.push((url.strip_prefix(SITE).unwrap().to_owned(), 200, text.to_owned()));
    }
    assert_eq!(site.pages.len(), 121);
    let (gateway, firecrawl) = crawled(site);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("succeeded", 121), "{run}");
    firecrawl.site().traps = Traps::NONE;
    let run = refresh(&gateway, 2);
    assert_eq!((state(&run), count(&run, "pages_unchanged")), ("succeeded", 121), "{run}");
    assert_eq!(urls(&gateway).len(), 121);
}

#[test]
fn trap_6_the_next_page_is_fetched_from_ones_own_server_whatever_host_it_names() {
    let traps = Traps { all_at_once: false, ..Traps::SELF_HOSTED };
    let (gateway, firecrawl) = crawled(Site { traps, ..Site::of(&THREE) });
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("succeeded", 3), "{run}");
    let asked = firecrawl.requests();
    let next = asked.iter().find(|request| request.target == "/v2/crawl/c1?skip=2").unwrap();
    assert_eq!(next.header("authorization"), Some("Bearer fc-1"));
}

#[test]
fn trap_7_a_url_that_firecrawl_does_not_take_is_refused_at_once_and_is_no_end_of_a_batch() {
    let firecrawl = Firecrawl::of(Site::of(&THREE));
    let config = firecrawl.config().replace("127.0.0.10", "\"127.0.0.0/8, localhost\"");
    let gateway = crate::support::library::simulated().config(&config).start();
    for url in ["http://localhost:8099/", "http://127.0.0.1:8099/"] {
        let asked = json!({"name": "docs", "kind": "crawl", "url": url});
        let refused = send(&gateway, "/api/embeddings/sources", &asked);
        refused.assert_error(400, "invalid_request_error", "invalid_parameter");
        assert!(refused.text().contains("a dot and two or more characters"), "{}", refused.text());
    }
    firecrawl.site().links.push("http://localhost:8099/x".to_owned());
    let asked = json!({"name": "docs", "kind": "map", "url": format!("{SITE}/")});
    assert_eq!(send(&gateway, "/api/embeddings/sources", &asked).status, 201);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("succeeded", 3), "{run}");
}

#[test]
fn trap_8_pages_are_the_same_in_whatever_order_they_come() {
    let mut site = Site::of(&THREE);
    // One comes twice, too.
    site.pages.push(site.pages[0].clone());
    let (gateway, firecrawl) = crawled(site);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_seen")), ("succeeded", 3), "{run}");
    firecrawl.site().traps = Traps::NONE;
    let run = refresh(&gateway, 2);
    assert_eq!((count(&run, "pages_unchanged"), count(&run, "chunks_embedded")), (3, 0), "{run}");
}

#[test]
fn a_map_brings_those_pages_of_the_site_that_are_wanted_in_one_batch() {
    let mut site = Site::of(&[
        ("/docs/a", 200, "Alpha words."),
        ("/docs/b", 200, "Beta words."),
        ("/docs/old/c", 200, "Gamma words."),
        ("/blog/d", 200, "Delta words."),
    ]);
    // What a map names elsewhere is none of the site's pages.
    site.links = ["http://10.0.0.1/docs/", "http://169.254.169.254/docs/latest", "not a url"]
        .map(str::to_owned)
        .to_vec();
    let asked = json!({"name": "docs", "kind": "map", "url": format!("{SITE}/"),
        "include": ["^/docs/"], "exclude": ["/old/"]});
    let (gateway, firecrawl) = fetched(site, &asked);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("succeeded", 2), "{run}");
    assert_eq!(urls(&gateway), [format!("{SITE}/docs/a"), format!("{SITE}/docs/b")]);
    let asked = firecrawl.requests();
    let batch = asked.iter().find(|request| request.target == "/v2/batch/scrape").unwrap();
    let batch: Value = serde_json::from_slice(&batch.body).unwrap();
    assert_eq!(batch["urls"], json!([format!("{SITE}/docs/a"), format!("{SITE}/docs/b")]));
    assert_eq!((&batch["formats"], &batch["maxAge"]), (&json!(["markdown"]), &json!(0)));
    // A page that the map names no more goes after two runs.
    firecrawl.site().pages.remove(1);
    assert_eq!(count(&refresh(&gateway, 2), "pages_removed"), 0);
    assert_eq!(count(&refresh(&gateway, 3), "pages_removed"), 1);
    let site = firecrawl.site();
    assert_eq!((site.batches, site.crawls), (3, 0));
}

#[test]
fn a_crawl_that_never_ends_is_cut_off_and_cancelled_and_the_old_index_serves_on() {
    let (gateway, firecrawl) = crawled(Site::of(&THREE));
    assert_eq!(state(&ended(&gateway, "docs", 1)), "succeeded");
    let patch = r#"{"deadline_s": 2}"#;
    let patch = format!(
        "PATCH /api/embeddings/sources/docs HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{patch}",
        patch.len()
    );
    assert_eq!(control(&gateway, patch).status, 200);
    firecrawl.site().status = "scraping".to_owned();
    assert_eq!(send(&gateway, "/api/embeddings/sources/docs/refresh", &json!({})).status, 202);
    let runs = "/api/embeddings/sources/docs/runs";
    eventually("the run tells how far it is", || {
        let run = &read(&gateway, runs)["data"][0];
        (count(run, "pages_fetched"), count(run, "pages_total")) == (3, 3)
    });
    let run = ended(&gateway, "docs", 2);
    assert_eq!(state(&run), "failed", "{run}");
    assert!(run["error"].as_str().unwrap().contains("more than 2 s"), "{run}");
    assert_eq!(firecrawl.site().cancelled, 1);
    assert_eq!(search(&gateway, "Gamma")["data"][0]["url"], format!("{SITE}/c"));
}

#[test]
fn pages_that_are_no_use_are_left_out_by_reason_and_the_rest_gets_in() {
    let huge = "word ".repeat(10_000_000);
    let (gateway, firecrawl) = crawled(Site::of(&[
        ("/a", 200, "Gr\u{fc}\u{df}e aus K\u{f6}ln."),
        ("/huge", 200, &huge),
        ("/empty", 200, ""),
        ("/gone", 410, "Gone"),
        ("/secret", 403, "Forbidden"),
        ("/broken", 500, "Oops"),
    ]));
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("partial", 1), "{run}");
    let failed = json!({"too_large": 1, "empty": 1, "gone": 1, "forbidden": 1, "error_status": 1});
    assert_eq!(run["counts"]["pages_failed"], failed);
    assert_eq!(search(&gateway, "koln")["data"][0]["url"], format!("{SITE}/a"));
    // A page that was good before stays as it was.
    firecrawl.site().pages[0].2 = huge;
    let run = refresh(&gateway, 2);
    assert_eq!(count(&run, "pages_removed"), 0, "{run}");
    assert_eq!(search(&gateway, "koln")["data"][0]["url"], format!("{SITE}/a"));
}

#[test]
fn a_page_that_redirects_into_the_operators_network_is_left_out() {
    let site = Site::of(&[("/a", 200, "Alpha words."), ("/b", 200, "Secrets of the intranet.")]);
    let firecrawl = Firecrawl::of(site);
    firecrawl.site().redirects = vec![("/b".to_owned(), "http://10.1.2.3/admin".to_owned())];
    let gateway = crate::support::library::simulated().config(&firecrawl.config()).start();
    let asked = json!({"name": "docs", "kind": "crawl", "url": format!("{SITE}/")});
    assert_eq!(send(&gateway, "/api/embeddings/sources", &asked).status, 201);
    let run = ended(&gateway, "docs", 1);
    assert_eq!((state(&run), count(&run, "pages_new")), ("partial", 1), "{run}");
    assert_eq!(run["counts"]["pages_failed"], json!({"not_public": 1}));
    assert_eq!(urls(&gateway), [format!("{SITE}/a")]);
}

#[test]
fn a_source_whose_address_is_not_allowed_any_more_is_not_fetched_and_its_index_serves_on() {
    let (mut gateway, firecrawl) = crawled(Site::of(&THREE));
    assert_eq!(state(&ended(&gateway, "docs", 1)), "succeeded");
    gateway.kill();
    let config = gateway.folder().join("weir.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("outbound: { allow: 127.0.0.10 }", "")).unwrap();
    gateway.start_again();
    let run = refresh(&gateway, 2);
    assert_eq!(state(&run), "failed", "{run}");
    assert!(run["error"].as_str().unwrap().contains("not a public address"), "{run}");
    assert_eq!(firecrawl.site().crawls, 1, "nobody was asked to go there");
    assert_eq!(search(&gateway, "Gamma")["data"][0]["url"], format!("{SITE}/c"));
}
