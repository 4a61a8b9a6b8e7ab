//! What refreshes promise: nothing is embedded twice, whatever dies on the way, and no run is done
//! twice, however many gateways there are.

use std::collections::HashSet;
use std::path::Path;

use chrono::DateTime;
use chrono::Timelike as _;
use chrono_tz::Europe::Berlin;
use serde_json::Value;
use serde_json::json;

use crate::support::Gateway;
use crate::support::cli::weir;
use crate::support::embeddings::Embeddings;
use crate::support::eventually;
use crate::support::firecrawl::Firecrawl;
use crate::support::firecrawl::SITE;
use crate::support::firecrawl::Site;
use crate::support::library::ended;
use crate::support::library::read;
use crate::support::library::refresh;
use crate::support::library::search;
use crate::support::library::send;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

/// A gateway before a site, and before a provider that counts.
fn watched(site: Site, embeddings: &Embeddings, config: &str) -> (Gateway, Firecrawl) {
    let firecrawl = Firecrawl::of(site);
    let config = format!("{}\n{config}", firecrawl.config());
    let gateway = Gateway::before(&embeddings.base_url()).config(&config).start();
    let source =
        json!({"name": "docs", "kind": "crawl", "url": format!("{SITE}/"), "limit": 20_000});
    assert_eq!(send(&gateway, "/api/embeddings/sources", &source).status, 201);
    (gateway, firecrawl)
}

fn pages(count: usize, version: &str) -> Site {
    let page = |at| (format!("/{at}"), 200, format!("Page {at} in its {version} version."));
    Site { pages: (0..count).map(page).collect(), ..Site::of(&[]) }
}

/// Waits for the last run by the command line, which has no end to its patience.
fn wait(gateway: &Gateway) -> String {
    let (_, out, error) = weir(gateway.folder(), &["sources", "refresh", "docs", "--wait"], "");
    assert!(out.contains("succeeded"), "{out}{error}{}", gateway.log());
    out
}

#[test]
fn a_refresh_of_ten_thousand_unchanged_pages_asks_for_no_vector() {
    let embeddings = Embeddings::start(32);
    // In memory where there is such a place: 10,000 transactions wait for the disk otherwise.
    let memory = Path::new("/dev/shm");
    let folder = if memory.exists() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let store = format!("sqlite:{}/weir.db", folder.as_ref().unwrap().path().display());
    let config = format!("store: {store}");
    let (gateway, firecrawl) = watched(pages(10_000, "first"), &embeddings, &config);
    wait(&gateway);
    let count = |sql: &str| rows(&store, &format!("select count(*) from {sql}")).unwrap();
    assert_eq!(count("documents"), [["10000"]]);
    let texts = embeddings.texts();
    assert_eq!((texts.len(), texts.values().max()), (10_001, Some(&1)), "and the probe");
    let calls = embeddings.calls();
    let crawls = firecrawl.site().crawls;
    let out = wait(&gateway);
    assert_eq!(firecrawl.site().crawls, crawls + 1, "all of them were fetched again");
    assert!(
        out.contains("10000 pages: 0 new, 0 changed, 10000 unchanged, 0 removed; 0 chunks"),
        "{out}"
    );
    assert_eq!(embeddings.calls(), calls, "calls for vectors");
    let progress = read(&gateway, "/api/embeddings/sources/docs/runs");
    assert_eq!(progress["data"][0]["counts"]["tokens"], 0);
    let metrics = gateway.metrics();
    let documents = [("source", "docs"), ("state", "indexed")];
    assert!((metrics.sum("weir_embeddings_documents", &documents) - 10_000.0).abs() < 0.5);
    assert!((metrics.sum("weir_embeddings_chunks_embedded_total", &[]) - 10_000.0).abs() < 0.5);
}

#[test]
fn a_gateway_killed_in_the_middle_of_a_refresh_loses_nothing_and_doubles_nothing() {
    const PAGES: usize = 700;
    let embeddings = Embeddings::start(32);
    let (mut gateway, firecrawl) = watched(pages(PAGES, "first"), &embeddings, "");
    let store = gateway.store();
    let mut runs = 1;
    ended(&gateway, "docs", runs);
    // Vectors come for 256 passages at a time: the gateway dies with none of them, with the first
    // third, and with two.
    for (answered, version) in [(0, "second"), (1, "third"), (2, "fourth")] {
        let mut site = pages(PAGES, version);
        // One goes, and one comes.
        site.pages.remove(runs);
        site.pages.push((format!("/new/{version}"), 200, format!("A page new in the {version}.")));
        let kept: HashSet<String> = site.pages.iter().map(|(path, ..)| path.clone()).collect();
        *firecrawl.site() = site;
        let calls = embeddings.calls();
        embeddings.answer(answered);
        let asked = send(&gateway, "/api/embeddings/sources/docs/refresh", &json!({}));
        assert_eq!(asked.status, 202);
        eventually("it waits for vectors", || embeddings.calls() == calls + answered + 1);
        gateway.kill();
        rows(
            &store,
            "update embedding_runs set lease_until = 0 where state = 'running' returning 1",
        )
        .unwrap();
        embeddings.answer_all();
        gateway.start_again();
        runs += 1;
        let run = ended(&gateway, "docs", runs);
        assert_eq!((&run["state"], &run["attempts"]), (&json!("succeeded"), &json!(2)), "{run}");
        let count = |sql: &str| -> usize {
            rows(&store, &format!("select count(*) from {sql}")).unwrap()[0][0].parse().unwrap()
        };
        // The one that is gone waits for a second run that misses it.
        let of_version =
            format!("chunks where text like '%in %the {version}%' or text like '%its {version}%'");
        assert_eq!(count(&of_version), kept.len(), "each page is there as it is now");
        for table in
            ["chunks", "chunk_vectors", "document_signs", "documents where state <> 'deleted'"]
        {
            assert_eq!(count(table), count("documents where state <> 'deleted'"), "{table}");
        }
        assert_eq!(count("(select distinct url from documents)"), count("documents"));
        // What was kept before it died is not paid for again; what was on its way is.
        let twice = embeddings.texts().values().filter(|times| **times > 1).count();
        assert!(twice <= 256 * (runs - 1), "{twice} texts were sent twice");
        let found = search(&gateway, &format!("/600 Page 600 in its {version} version."));
        assert_eq!(found["data"][0]["url"], format!("{SITE}/600"));
    }
}

#[test]
fn a_model_that_makes_other_vectors_all_at_once_fails_the_run_and_words_find_on() {
    let embeddings = Embeddings::start(32);
    let (gateway, firecrawl) = watched(pages(3, "first"), &embeddings, "");
    assert_eq!(ended(&gateway, "docs", 1)["state"], "succeeded");
    embeddings.change(5);
    let found = search(&gateway, "page 2");
    assert_eq!(
        (&found["degraded"], found["data"].as_array().unwrap().len()),
        (&json!("text_only"), 3)
    );
    firecrawl.site().pages[1].2 = "Something else.".to_owned();
    let run = refresh(&gateway, 2);
    assert_eq!(run["state"], "failed", "{run}");
    let said = run["error"].as_str().unwrap();
    assert!(said.contains("a vector has 5 numbers, those of the index have 32"), "{said}");
    assert_eq!(search(&gateway, "page 2")["data"][0]["url"], format!("{SITE}/2"));
    // Said plainly, it is another index, and takes over.
    let asked = json!({"dimensions": 5}).to_string();
    let patch = format!(
        "PATCH /api/embeddings/sources/docs HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{asked}",
        asked.len()
    );
    assert_eq!(crate::support::library::control(&gateway, patch).status, 200);
    assert_eq!(refresh(&gateway, 3)["state"], "succeeded");
    let found = search(&gateway, "/2 Page 2 in its first version.");
    assert_eq!(
        (found.get("degraded"), &found["data"][0]["url"]),
        (None, &json!(format!("{SITE}/2")))
    );
}

#[test]
fn a_search_from_the_command_line_goes_the_gateways_own_way() {
    /// What the page says, below its title.
    const QUESTION: &str = "/2 Page 2 in its first version.";
    let embeddings = Embeddings::start(32);
    let (gateway, _firecrawl) = watched(pages(3, "first"), &embeddings, "");
    ended(&gateway, "docs", 1);
    let calls = embeddings.calls();
    let run = |arguments: &[&str]| weir(gateway.folder(), arguments, "");
    let (code, out, error) =
        run(&["search", QUESTION, "--source", "docs", "--top-k", "2", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    let data = answer["data"].as_array().unwrap();
    assert_eq!((data.len(), answer.get("degraded")), (2, None), "{out}");
    assert!(data[0]["scores"]["vector_rank"].is_number() && data[0]["url"] == format!("{SITE}/2"));
    assert_eq!(embeddings.calls(), calls + 1, "the question's vector was made");
    let ledger = "select count(*) from interactions where route = 'embeddings:docs'";
    eventually("each call is in the ledger", || {
        rows(&gateway.store(), ledger).unwrap() == [[(calls + 1).to_string()]]
    });
    let (code, out, _) = run(&["search", QUESTION, "--source", "docs"]);
    assert!(code == Some(0) && out.lines().next().unwrap().contains(&format!("{SITE}/2")), "{out}");
    let (code, _, error) = run(&["search", "x", "--source", "other"]);
    assert!(code == Some(1) && error.contains("There is no source `other`"), "{error}");
}

#[test]
fn a_schedule_runs_once_however_many_gateways_there_are_and_runs_were_missed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::with_vectors();
    let stores = [format!("sqlite:{}/weir.db", folder.path().display()), server.create("lease")];
    for store in stores {
        let embeddings = Embeddings::start(32);
        let config = format!("store: {store}");
        let (gateway, firecrawl) = watched(pages(3, "first"), &embeddings, &config);
        let config = format!("{}\n{config}", firecrawl.config());
        let other = Gateway::before(&embeddings.base_url()).config(&config).start();
        ended(&gateway, "docs", 1);
        let patch =
            json!({"schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}}).to_string();
        let patch = format!(
            "PATCH /api/embeddings/sources/docs HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\
             \r\ncontent-length: {}\r\n\r\n{patch}",
            patch.len()
        );
        let source = crate::support::library::control(&gateway, patch).json();
        let is_three = |source: &Value| {
            let next = source["next_run_at"].as_str().unwrap();
            let next = DateTime::parse_from_rfc3339(next).unwrap().with_timezone(&Berlin);
            assert!(next.hour() == 3 && next.minute() < 5, "{next} is not soon after three");
        };
        is_three(&source);
        for round in 1..=3 {
            // Ten days in which nobody was there are one run.
            let past = match store.starts_with("sqlite") {
                true => "(select max(created_at) - 864000000 from embedding_sources)".to_owned(),
                false => "date_trunc('milliseconds', now()) - interval '10 days'".to_owned(),
            };
            let sql = format!("update embedding_sources set next_run_at = {past} returning 1");
            rows(&store, &sql).unwrap();
            let run = ended(&other, "docs", 1 + round);
            assert_eq!((&run["state"], &run["trigger"]), (&json!("succeeded"), &json!("schedule")));
            is_three(&read(&gateway, "/api/embeddings/sources")["data"][0]);
        }
        // Each run began one crawl, and no other one.
        assert_eq!(firecrawl.site().crawls, 4);
        let attempts = rows(&store, "select max(attempts), count(*) from embedding_runs").unwrap();
        assert_eq!(attempts, [["1", "4"]]);
    }
}

#[test]
fn uploads_in_any_encoding_are_read_and_those_that_are_too_large_are_refused() {
    let embeddings = Embeddings::start(32);
    let gateway = Gateway::before(&embeddings.base_url()).start();
    let folder = gateway.folder();
    let latin = b"<html><head><meta charset=iso-8859-1><title>Stra\xdfen</title></head>\
                  <body><h1>Stra\xdfen</h1><p>Die M\xfcller-Stra\xdfe ist gesperrt.</p></body></html>";
    std::fs::write(folder.join("latin.html"), latin).unwrap();
    std::fs::write(folder.join("noise.md"), b"\0\x01\x02").unwrap();
    std::fs::write(folder.join("empty.md"), b" \n").unwrap();
    let run = |arguments: &[&str]| weir(folder, arguments, "");
    let (code, _, error) = run(&["sources", "add", "docs", "--kind", "files", "noise.md"]);
    assert!(code == Some(1) && error.contains("noise.md is no text"), "{error}");
    let (code, _, error) =
        run(&["sources", "add", "docs", "--kind", "files", "latin.html", "empty.md"]);
    assert_eq!(code, Some(0), "{error}");
    let first = ended(&gateway, "docs", 1);
    assert_eq!(first["state"], "partial", "{first}");
    assert_eq!(first["counts"]["pages_failed"], json!({"empty": 1}));
    let hit = &search(&gateway, "M\u{fc}ller gesperrt")["data"][0];
    assert_eq!((&hit["title"], &hit["url"]), (&json!("Stra\u{df}en"), &json!("file:latin.html")));
    let upload = |bytes: usize| {
        let files = json!({"files": [{"name": "huge.md", "text": "word ".repeat(bytes / 5)}]});
        send(&gateway, "/api/embeddings/sources/docs/files", &files)
    };
    // 8 MiB are the most of a page, 16 MiB of an upload.
    let refused = upload(9 << 20);
    refused.assert_error(400, "invalid_request_error", "invalid_parameter");
    assert!(refused.text().contains("8388608 is the most"), "{}", refused.text());
    upload(50 << 20).assert_error(413, "invalid_request_error", "request_too_large");
    assert_eq!(upload(4 << 20).status, 202);
    assert_eq!(search(&gateway, "gesperrt")["data"][0]["url"], "file:latin.html");
}
