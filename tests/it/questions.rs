//! Thirty questions to real documents, with a real embedding model: the whole way that a user goes.

use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::support::Gateway;
use crate::support::Raw;
use crate::support::cli::weir;
use crate::support::http::Response;
use crate::support::http::post;
use crate::support::minilm::DIMENSIONS;
use crate::support::minilm::MODEL;
use crate::support::minilm::MiniLm;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

/// What lies beside the project's folder; each section is a page.
const DOCUMENTS: [&str; 12] = [
    "PRODUCT.md",
    "ARCHITECTURE.md",
    "facts/crates.md",
    "facts/data-plane.md",
    "facts/documents.md",
    "facts/peers.md",
    "facts/performance.md",
    "facts/pingora.md",
    "facts/reliability.md",
    "facts/test-servers.md",
    "facts/tokens.md",
    "facts/training.md",
];

/// Questions, and what the page begins with that answers each. They were written down before
/// anybody had seen what is found; a search that falls short is to be cured, not its question.
const QUESTIONS: [(&str, &str); 30] = [
    ("Which exit code does a command return when its arguments are wrong?", "PRODUCT/Command line"),
    ("What does the caller see when the gateway's own upstream key is refused?", "PRODUCT/Errors"),
    (
        "send five percent of requests to a fine-tuned model, the same user always on the same arm",
        "PRODUCT/4.",
    ),
    ("Where does the gateway keep its data when there is no configuration file?", "PRODUCT/2."),
    ("How do I set the folder and the size of the spool in weir.yaml?", "PRODUCT/weir.yaml"),
    ("Which endpoints pass through as streams, such as files, images and realtime?", "PRODUCT/3."),
    ("Name of the metric that counts documents by source and state", "PRODUCT/6."),
    ("Which route rolls the alias of a promoted model back?", "PRODUCT/7."),
    ("Is cost ever computed as a sum of floating point numbers?", "PRODUCT/5."),
    ("What should a code comment say, and what never?", "ARCHITECTURE/Style"),
    ("Which abstractions deserve a trait and which stay plain structs?", "ARCHITECTURE/Traits"),
    ("What does somebody new to the project meet first?", "ARCHITECTURE/What a newcomer"),
    ("Why must the idempotency key header not be sent to self-hosted Firecrawl?", "documents/D."),
    ("When is a page deleted that the crawl does not bring any more?", "documents/E."),
    ("How are preference pairs for DPO written in JSONL?", "training/A1"),
    ("How large may a file be that is uploaded for fine-tuning?", "training/A2"),
    ("Default number of epochs for a small training set", "training/A4"),
    ("How is the signature of an OpenAI webhook verified?", "training/A5"),
    ("What is the status of a job that is too expensive and waits for approval?", "training/A6"),
    ("How are near-duplicate conversations kept out of training data?", "training/C."),
    ("How many tokens does an image cost?", "tokens/4."),
    ("How long do tokenizer crates take to load, and how much memory?", "tokens/1d"),
    ("A cheap upper bound for the number of tokens of a request", "tokens/5."),
    ("Why is ProxyHttp not used when the body decides the upstream?", "data-plane/Why not"),
    ("Can the running binary be upgraded without failing requests?", "pingora/5."),
    ("Which TLS library needs no native toolchain?", "pingora/7."),
    ("What should happen when Redis hangs, dies or is flushed?", "reliability/II.4"),
    ("Past security incidents and CVEs, and the rule that follows from each", "reliability/II.2"),
    ("Is there a tool to test slow clients, such as slowhttptest?", "reliability/II.5"),
    ("Can a Postgres server with pgvector be installed from PyPI?", "test-servers/G."),
];

/// Questions of all whose page must be among the first five passages.
const MUST_FIND: usize = 27;

/// A document as pages: each section below a heading of level 2 or 3 by itself.
fn pages(path: &str) -> Vec<Value> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("shared");
    let text = std::fs::read_to_string(shared.join(path)).expect("shared assets lie beside weir");
    let document = Path::new(path).file_stem().unwrap().to_str().unwrap();
    let mut pages: Vec<(String, String)> = vec![("start".to_owned(), String::new())];
    for line in text.split_inclusive('\n') {
        if let Some(heading) = line.strip_prefix("### ").or_else(|| line.strip_prefix("## ")) {
            let name: String = heading.trim().chars().take(60).collect();
            pages.push((name, String::new()));
        }
        pages.last_mut().unwrap().1.push_str(line);
    }
    let file = |(name, text)| json!({"name": format!("{document}/{name}"), "text": text});
    pages.into_iter().map(file).collect()
}

fn send(gateway: &Gateway, path: &str, body: &Value) -> Response {
    Raw::connect(gateway.control()).send(post(path, body.to_string())).response().unwrap()
}

/// The gateway with all pages in its index, embedded by the model.
fn read_all(model: &MiniLm, store: &str) -> Gateway {
    let config = format!("store: {store}");
    let gateway = Gateway::before(&model.base_url()).config(&config).start();
    let source = json!({"name": "docs", "kind": "files", "model": MODEL,
        // The model reads no more than 256 of its own tokens.
        "chunking": {"min_tokens": 80, "max_tokens": 180, "overlap_tokens": 24}});
    assert_eq!(send(&gateway, "/api/embeddings/sources", &source).status, 201);
    let files: Vec<Value> = DOCUMENTS.into_iter().flat_map(pages).collect();
    let count = files.len();
    let upload = send(&gateway, "/api/embeddings/sources/docs/files", &json!({"files": files}));
    assert_eq!(upload.status, 202, "{}", upload.text());
    let (code, out, error) = weir(gateway.folder(), &["sources", "refresh", "docs", "--wait"], "");
    assert!(code == Some(0) && out.contains("succeeded"), "{out}{error}{}", gateway.log());
    let documents = rows(store, "select count(*) from documents").unwrap();
    assert_eq!(documents, [[count.to_string()]], "each page is there once");
    let dimensions = rows(store, "select dimensions from vector_indexes").unwrap();
    assert_eq!(dimensions, [[DIMENSIONS.to_string()]], "as many as the model makes");
    gateway
}

fn search(gateway: &Gateway, query: &str, top_k: usize) -> Value {
    let asked = json!({"query": query, "source": "docs", "top_k": top_k});
    let answer = send(gateway, "/api/search", &asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn is_right(hit: &Value, page: &str) -> bool {
    hit["url"].as_str().unwrap().starts_with(&format!("file:{page}"))
}

/// By which of the halves a passage is among the first five.
fn by_vector(hit: &Value) -> bool {
    hit["scores"]["vector_rank"].as_u64().is_some_and(|rank| rank <= 5)
}

#[test]
fn thirty_questions_find_their_pages_with_a_real_model_on_both_stores() {
    let mut model = MiniLm::start();
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::with_vectors();
    let stores =
        [format!("sqlite:{}/weir.db", folder.path().display()), server.create("questions")];
    let gateways = stores.map(|store| (read_all(&model, &store), store));
    let mut found = Vec::new();
    for (gateway, store) in &gateways {
        let (mut hybrid, mut vectors, mut missed) = (0, 0, Vec::new());
        for (query, page) in QUESTIONS {
            let answer = search(gateway, query, 100);
            assert_eq!(answer.get("degraded"), None);
            let hits = answer["data"].as_array().unwrap();
            // What is among the first five by vector is among the first hundred of both.
            let near: Vec<&Value> = hits.iter().filter(|hit| by_vector(hit)).collect();
            assert_eq!(near.len(), 5, "{query}");
            vectors += usize::from(near.iter().any(|hit| is_right(hit, page)));
            // Five are asked for as users do.
            let five = search(gateway, query, 5);
            let five = five["data"].as_array().unwrap();
            if five.iter().any(|hit| is_right(hit, page)) {
                hybrid += 1;
            } else {
                let urls: Vec<_> = five.iter().map(|hit| hit["url"].to_string()).collect();
                missed.push(format!("{query} ({page}): {}", urls.join(", ")));
            }
        }
        found.push((hybrid, vectors, store, missed));
    }
    // Without the model there are words alone.
    model.stop();
    for ((gateway, _), (hybrid, vectors, store, missed)) in gateways.iter().zip(found) {
        let mut words = 0;
        for (query, page) in QUESTIONS {
            let answer = search(gateway, query, 5);
            assert_eq!(answer["degraded"], "text_only");
            let hits = answer["data"].as_array().unwrap();
            words += usize::from(hits.iter().any(|hit| is_right(hit, page)));
        }
        let told = format!(
            "{store}: hybrid {hybrid}, vectors alone {vectors}, words alone {words} of 30; missed: \
             {missed:#?}"
        );
        eprintln!("{told}");
        assert!(hybrid >= MUST_FIND, "{told}");
        assert!(hybrid >= vectors && hybrid >= words, "{told}");
    }
}

#[test]
fn the_model_of_these_tests_says_what_its_makers_published() {
    let model = MiniLm::start();
    // The example in the README of sentence-transformers, and the similarities that it prints.
    let texts =
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."];
    let asked = post("/v1/embeddings", json!({"model": MODEL, "input": texts}).to_string());
    let answer = Raw::connect(model.address()).send(asked).response().unwrap().json();
    let vector = |at: usize| -> Vec<f64> {
        serde_json::from_value(answer["data"][at]["embedding"].clone()).unwrap()
    };
    for (one, other, published) in [(0, 0, 1.0), (0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
        let cosine: f64 = vector(one).iter().zip(vector(other)).map(|(a, b)| a * b).sum();
        assert!((cosine - published).abs() < 0.0001, "{one} {other}: {cosine}");
    }
}
