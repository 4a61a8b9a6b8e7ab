//! What the index of documents promises, on SQLite and on Postgres alike: one list, run on both.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use weir::store::ChunkHash;
use weir::store::Database;
use weir::store::DocumentQuery;
use weir::store::DocumentRow;
use weir::store::Documents;
use weir::store::Filter;
use weir::store::GoLiveError;
use weir::store::Hit;
use weir::store::Index;
use weir::store::IndexShape;
use weir::store::IndexStatus;
use weir::store::NewChunk;
use weir::store::NewPage;
use weir::store::SearchQuery;
use weir::store::StoreError;

use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;
use crate::support::world;

/// Numbers of the vectors here: one for each of the words below.
const DIMENSIONS: u32 = 8;
/// A text's vector counts these.
const MEANING: [&str; 8] = ["cat", "dog", "fish", "bird", "key", "lock", "door", "window"];

/// An empty store with an index of the source `docs` that is being built.
struct World {
    url: String,
    documents: Documents,
    index: Index,
    _folder: TempDir,
}

impl World {
    fn with(url: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = || format!("sqlite:{}", folder.path().join("weir.db").display());
        let url = url.unwrap_or_else(file);
        let documents = opened(&url);
        let index = world().block_on(documents.open("docs", &shape("small"))).unwrap();
        Self { url, documents, index, _folder: folder }
    }

    fn put(&self, url: &str, texts: &[&str]) {
        put_into(&self.documents, &self.index, url, texts).unwrap();
    }

    fn search(&self, text: &str) -> Vec<Hit> {
        search(&self.documents, &self.index, &asks(text))
    }

    fn urls(&self, text: &str) -> Vec<String> {
        urls(&self.search(text))
    }

    fn pages(&self) -> HashMap<String, (u32, u32)> {
        let pages = world().block_on(self.documents.pages(&self.index)).unwrap();
        pages.into_iter().map(|(url, page)| (url, (page.chunks, page.missing_runs))).collect()
    }

    fn go_live(&self, pages: u64) {
        world().block_on(self.documents.go_live(&self.index, pages)).unwrap();
    }

    fn count(&self, table: &str) -> String {
        rows(&self.url, &format!("select count(*) from {table}")).unwrap()[0][0].clone()
    }

    fn listed(&self, parameters: &[(&str, &str)]) -> Vec<DocumentRow> {
        let query = DocumentQuery::parse(parameters.iter().copied()).unwrap();
        world().block_on(self.documents.list(&query)).unwrap().data
    }
}

/// Documents as another process has them: nothing in memory is shared.
fn opened(url: &str) -> Documents {
    let database = Database::parse(url).unwrap().unwrap();
    world().block_on(async {
        database.migrate().await.unwrap();
        Documents::of(&database).unwrap()
    })
}

fn shape(model: &str) -> IndexShape {
    IndexShape { model: model.to_owned(), dimensions: DIMENSIONS, chunker: "1".to_owned() }
}

/// How often each of [`MEANING`] is in it, and a little of everything.
fn vector(text: &str) -> Vec<f32> {
    let count = |word: &&str| text.split(' ').filter(|one| one == word).count();
    MEANING.iter().map(|word| if count(word) > 0 { 1.0 } else { -0.1 }).collect()
}

fn hash(text: &str) -> ChunkHash {
    let mut hash = [0; 32];
    hash.iter_mut().zip(text.bytes()).for_each(|(hash, byte)| *hash = byte);
    hash
}

fn chunk(text: &str) -> NewChunk {
    let vector = Some(vector(text));
    let heading = "Guide".to_owned();
    NewChunk { heading, text: text.to_owned(), tokens: 7, hash: hash(text), vector }
}

fn page(url: &str) -> NewPage {
    let metadata = json!({ "language": "en", "level": 2, "draft": url.ends_with("draft") });
    NewPage {
        url: url.to_owned(),
        title: format!("Page {url}"),
        content_hash: "1".to_owned(),
        metadata,
        run_id: "run-1".to_owned(),
    }
}

fn put_into(
    documents: &Documents,
    index: &Index,
    url: &str,
    texts: &[&str],
) -> Result<(), StoreError> {
    let chunks = texts.iter().map(|text| chunk(text)).collect();
    world().block_on(documents.put(index, &page(url), chunks))
}

fn put_chunks(store: &World, page: &NewPage, chunks: Vec<NewChunk>) -> Result<(), StoreError> {
    world().block_on(store.documents.put(&store.index, page, chunks))
}

fn asks(text: &str) -> SearchQuery {
    let filter = Filter::default();
    SearchQuery { text: text.to_owned(), vector: Some(vector(text)), top_k: 5, filter }
}

fn search(documents: &Documents, index: &Index, query: &SearchQuery) -> Vec<Hit> {
    world().block_on(documents.search(index, query)).unwrap()
}

fn urls(hits: &[Hit]) -> Vec<String> {
    hits.iter().map(|hit| hit.url.clone()).collect()
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

fn a_page_that_is_put_twice_is_there_once(store: &World) {
    store.put("https://a/1", &["the cat", "the dog"]);
    store.put("https://a/1", &["the cat", "the dog"]);
    assert_eq!(store.pages(), HashMap::from([("https://a/1".to_owned(), (2, 0))]));
    assert_eq!(store.count("chunks"), "2");
    let hits = store.search("cat");
    let texts: Vec<&str> = hits.iter().map(|hit| hit.text.as_str()).collect();
    assert_eq!(texts, ["the cat", "the dog"]);
    let first = &hits[0];
    assert_eq!(
        (first.title.as_str(), first.heading.as_str(), first.tokens),
        ("Page https://a/1", "Guide", 7)
    );
    // First in both lists: 2 / (60 + 1).
    assert!((first.score - 2.0 / 61.0).abs() < 1e-9, "{first:?}");
    assert_eq!((first.vector_rank, first.text_rank), (Some(1), Some(1)));
    assert!((first.vector_score.unwrap() - 1.0).abs() < 0.001, "{first:?}");
    assert!(first.text_score.unwrap() > 0.0);
    assert_eq!((hits[1].vector_rank, hits[1].text_rank), (Some(2), None));
}

fn a_vector_that_is_kept_is_not_asked_for_again(store: &World) {
    store.put("https://a/1", &["the cat", "the dog"]);
    let known = [hash("the cat"), hash("the bird")];
    let known = world().block_on(store.documents.known(&store.index, &known)).unwrap();
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [hash("the cat")]);
    let without = NewChunk { vector: None, ..chunk("the cat") };
    let chunks = vec![without.clone(), chunk("the fish")];
    put_chunks(store, &page("https://a/1"), chunks).unwrap();
    let hits = store.search("cat");
    assert!((hits[0].vector_score.unwrap() - 1.0).abs() < 0.001, "{hits:?}");
    assert_eq!((hits.len(), store.count("chunks")), (2, "2".to_owned()));

    let unknown = vec![NewChunk { hash: hash("x"), ..without }];
    let error = put_chunks(store, &page("https://a/1"), unknown).unwrap_err();
    assert!(error.to_string().contains("has no vector"), "{error}");
    assert_eq!(store.search("cat"), hits, "what was refused has changed nothing");
}

fn a_writer_that_is_dropped_on_the_way_has_written_all_or_nothing(store: &World) {
    store.put("https://a/1", &["the cat"]);
    let texts: Vec<String> = (0..40).map(|at| format!("the dog {at}")).collect();
    for after in 0..60_u64 {
        let chunks = texts.iter().map(|text| chunk(text)).collect();
        let (page, limit) = (page("https://a/1"), Duration::from_micros(after * 400));
        let put = store.documents.put(&store.index, &page, chunks);
        let put = async { tokio::time::timeout(limit, put).await.is_ok() };
        let whole = world().block_on(put);
        let mut there = String::new();
        // What was committed when it was dropped may become visible in this moment.
        eventually("words and chunks are the same", || {
            there = store.count("chunks");
            assert!(["1", "40"].contains(&there.as_str()), "{there} of 40 after {after}");
            let asked = SearchQuery { vector: None, top_k: 100, ..asks("cat dog") };
            let words = world().block_on(store.documents.search(&store.index, &asked));
            words.unwrap().len().to_string() == there
        });
        if whole {
            assert_eq!(there, "40");
            store.put("https://a/1", &["the cat"]);
        }
    }
    store.put("https://a/1", &["the bird"]);
    assert_eq!(store.search("bird").len(), 1);
    store.go_live(1);
}

fn pages_go_after_two_complete_runs_without_them(store: &World) {
    let documents = &store.documents;
    for url in ["https://a/1", "https://a/2", "https://a/3"] {
        store.put(url, &["the cat", "the dog"]);
    }
    let touch = |urls: &[&str], run| {
        world().block_on(documents.touch(&store.index, &strings(urls), run)).unwrap();
    };
    let age = |run| world().block_on(documents.age_missing(&store.index, run)).unwrap();
    touch(&["https://a/1", "https://a/2"], "run-2");
    assert_eq!((age("run-2"), age("run-2")), (0, 0), "a run that is told twice counts once");
    assert_eq!(store.pages()["https://a/3"], (2, 1));
    assert_eq!(store.listed(&[("state", "missing")])[0].url, "https://a/3");
    touch(&["https://a/1", "https://a/3"], "run-3");
    assert_eq!(age("run-3"), 0);
    assert_eq!(store.pages()["https://a/3"], (2, 0), "it is back");
    touch(&["https://a/1", "https://a/3"], "run-4");
    assert_eq!(store.search("cat").len(), 5);
    assert_eq!(age("run-4"), 1);
    assert_eq!(store.urls("cat"), ["https://a/1", "https://a/3", "https://a/1", "https://a/3"]);
    let deleted = store.listed(&[("state", "deleted")]);
    assert_eq!(deleted[0].url, "https://a/2");
    assert!(deleted[0].deleted_at.is_some());

    let gone = strings(&["https://a/1", "https://a/9"]);
    let removed = |urls: &[String]| world().block_on(documents.remove(&store.index, urls)).unwrap();
    assert_eq!((removed(&gone), removed(&gone)), (1, 0));
    assert_eq!(store.urls("cat"), ["https://a/3", "https://a/3"]);
    assert_eq!(store.count("chunks"), "2");
    store.put("https://a/2", &["the cat"]);
    assert_eq!(store.urls("cat").len(), 3, "one that comes back is there again");
    assert_eq!(store.listed(&[("state", "deleted")]).len(), 1);
}

fn a_filter_leaves_pages_by_url_and_metadata(store: &World) {
    store.put("https://a/guide/1", &["the cat"]);
    store.put("https://a/guide/draft", &["the cat"]);
    store.put("https://a/news/1", &["the cat"]);
    let found = |prefix: Option<&str>, metadata: Value| {
        let metadata: Map<String, Value> = metadata.as_object().unwrap().clone();
        let filter = Filter { url_prefix: prefix.map(str::to_owned), metadata };
        let hits = search(&store.documents, &store.index, &SearchQuery { filter, ..asks("cat") });
        assert!(hits.iter().all(|hit| hit.vector_rank.is_some() && hit.text_rank.is_some()));
        let mut urls = urls(&hits);
        urls.sort();
        urls
    };
    let (one, draft, news) = ("https://a/guide/1", "https://a/guide/draft", "https://a/news/1");
    assert_eq!(found(None, json!({})), [one, draft, news]);
    assert_eq!(found(Some("https://a/guide/"), json!({})), [one, draft]);
    assert_eq!(found(Some("https://a/guide/"), json!({ "draft": false })), [one]);
    assert_eq!(found(None, json!({ "draft": true, "language": "en" })), [draft]);
    assert_eq!(found(None, json!({ "level": 2 })), [one, draft, news]);
    assert_eq!(found(None, json!({ "level": 2.0 })), [one, draft, news]);
    for other in [json!({ "level": "2" }), json!({ "draft": 1 }), json!({ "none": null })] {
        assert_eq!(found(None, other), [""; 0]);
    }
    assert_eq!(found(Some("https://a/%"), json!({})), [""; 0]);
    assert_eq!(found(Some("' or true --\0"), json!({ "$.\"x\\u0000": "\0" })), [""; 0]);
}

fn a_new_generation_answers_once_it_is_whole_and_the_old_one_can_come_back(store: &World) {
    let documents = &store.documents;
    let live = || world().block_on(documents.live("docs")).unwrap();
    assert_eq!(live(), None);
    let empty = world().block_on(documents.go_live(&store.index, 0)).unwrap_err();
    assert!(matches!(empty, GoLiveError::Empty), "{empty}");
    store.put("https://a/1", &["the cat", "the dog"]);
    let few = world().block_on(documents.go_live(&store.index, 2)).unwrap_err();
    assert!(matches!(few, GoLiveError::Counts { what: "pages", expected: 2, found: 1 }), "{few}");
    store.go_live(1);
    store.go_live(1);
    let first = live().unwrap();
    assert_eq!((first.generation, first.status), (1, IndexStatus::Live));
    let open = |model: &str| world().block_on(documents.open("docs", &shape(model))).unwrap();
    assert_eq!(open("small"), first, "the same shape is filled where it answers");

    let abandoned = open("medium");
    put_into(documents, &abandoned, "https://a/1", &["the fish"]).unwrap();
    let second = open("large");
    assert_eq!((second.generation, second.status), (3, IndexStatus::Building));
    assert_eq!(open("large"), second);
    put_into(documents, &abandoned, "https://a/1", &["the fish"]).unwrap_err();
    assert_eq!(store.count("vector_indexes"), "2", "what is given up is cleared");
    put_into(documents, &second, "https://a/2", &["the cat"]).unwrap();
    assert_eq!(live().unwrap(), first, "it answers until the other one is whole");
    assert_eq!(store.listed(&[]).len(), 1);
    world().block_on(documents.go_live(&second, 1)).unwrap();
    assert_eq!(live().unwrap().id, second.id);

    let back = world().block_on(documents.roll_back("docs")).unwrap();
    assert_eq!((back.id.as_str(), back.status), (first.id.as_str(), IndexStatus::Live));
    assert_eq!(live().unwrap(), first);
    assert_eq!(urls(&search(documents, &first, &asks("cat"))), ["https://a/1"; 2]);
    let forth = world().block_on(documents.roll_back("docs")).unwrap();
    assert_eq!(forth.id, second.id);
    let third = open("huge");
    put_into(documents, &third, "https://a/3", &["the cat"]).unwrap();
    world().block_on(documents.go_live(&third, 1)).unwrap();
    assert_eq!(store.count("vector_indexes"), "2", "the one before the last is cleared");
    assert_eq!(store.count("documents"), "2");
}

fn a_source_goes_with_all_that_it_had_and_no_other(store: &World) {
    store.put("https://a/1", &["the cat"]);
    let other = world().block_on(store.documents.open("other", &shape("small"))).unwrap();
    put_into(&store.documents, &other, "https://b/1", &["the cat"]).unwrap();
    assert_eq!(store.urls("cat"), ["https://a/1"], "sources do not answer for each other");
    let delete = || world().block_on(store.documents.delete_source("docs")).unwrap();
    assert_eq!((delete(), delete()), (1, 0));
    assert_eq!(store.urls("cat"), [""; 0]);
    assert_eq!((store.count("chunks"), store.count("vector_indexes")), ("1".into(), "1".into()));
    assert_eq!(urls(&search(&store.documents, &other, &asks("cat"))), ["https://b/1"]);
    put_into(&store.documents, &store.index, "https://a/1", &["x"]).unwrap_err();
    let none = world().block_on(store.documents.roll_back("docs")).unwrap_err();
    assert!(none.to_string().contains("no earlier index"), "{none}");
}

fn without_a_vector_words_alone_are_compared(store: &World) {
    store.put("https://a/1", &["rotate the key", "a window"]);
    store.put("https://a/2", &["the door has a lock"]);
    let words = SearchQuery { vector: None, ..asks("How do I rotate keys?") };
    let hits = search(&store.documents, &store.index, &words);
    assert_eq!(urls(&hits), ["https://a/1"]);
    assert_eq!((hits[0].vector_score, hits[0].text_rank), (None, Some(1)));
}

fn words_of_any_language_are_found_and_no_question_is_syntax(store: &World) {
    store.put("https://a/ja", &["東京都の天気は晴れです"]);
    store.put("https://a/fr", &["Le café crème est prêt"]);
    store.put("https://a/code", &["set stream_options.include_usage to true"]);
    let found = |text: &str| {
        let words = SearchQuery { vector: None, text: text.to_owned(), ..asks("") };
        urls(&search(&store.documents, &store.index, &words))
    };
    assert_eq!(found("京都"), ["https://a/ja"]);
    assert_eq!(found("大阪の天気"), ["https://a/ja"]);
    assert_eq!(found("café"), ["https://a/fr"]);
    assert_eq!(found("include_usage"), ["https://a/code"]);
    assert_eq!(found("大阪"), [""; 0]);
    let long = "usage ".repeat(50_000);
    for odd in [
        "usage\" OR *",
        "(usage",
        "usage'); drop table chunks;--",
        "NEAR(usage, 2)",
        "usage:*",
        "usage & | ! <-> \\",
        "^usage -AND NOT",
        "\0usage\0",
        "{usage}",
        "scope : usage",
        &long,
    ] {
        assert_eq!(found(odd), ["https://a/code"], "{}", odd.chars().take(40).collect::<String>());
    }
    for nothing in
        ["", "   ", "\"", "'", "***", "\0", "…", "AND OR NOT", "a_b_c".repeat(99).as_str()]
    {
        assert_eq!(found(nothing), [""; 0], "{nothing}");
    }
}

fn other_processes_see_a_change_in_their_next_search(store: &World) {
    let other = opened(&store.url);
    let seen = |text| urls(&search(&other, &store.index, &asks(text)));
    assert_eq!(seen("cat"), [""; 0]);
    store.put("https://a/1", &["the cat"]);
    store.put("https://a/2", &["the dog"]);
    assert_eq!(seen("cat"), ["https://a/1", "https://a/2"]);
    put_into(&other, &store.index, "https://a/2", &["the cat", "the cat and the bird"]).unwrap();
    assert_eq!(store.search("bird")[0].text, "the cat and the bird");
    let gone = strings(&["https://a/1"]);
    assert_eq!(world().block_on(other.remove(&store.index, &gone)).unwrap(), 1);
    assert_eq!(store.urls("cat"), ["https://a/2"; 2]);
    assert_eq!(seen("cat"), ["https://a/2"; 2]);
}

fn writers_and_searchers_do_not_disturb_each_other(store: &World) {
    let other = opened(&store.url);
    store.put("https://a/0", &["the window"]);
    let writer = |documents: &Documents, from: usize| {
        let (documents, index) = (documents.clone(), store.index.clone());
        world().spawn(async move {
            for at in (from..from + 30).chain(from..from + 10) {
                let page = page(&format!("https://a/{at}"));
                let chunks = vec![chunk("the cat"), chunk(&format!("the dog {at}"))];
                documents.put(&index, &page, chunks).await.unwrap();
            }
        })
    };
    let searcher = |documents: &Documents| {
        let (documents, index) = (documents.clone(), store.index.clone());
        world().spawn(async move {
            for _ in 0..60 {
                let hits = documents.search(&index, &asks("window")).await.unwrap();
                assert_eq!(hits[0].url, "https://a/0");
            }
        })
    };
    let all = [
        writer(&store.documents, 100),
        writer(&other, 200),
        writer(&other, 215),
        searcher(&store.documents),
        searcher(&other),
    ];
    for one in all {
        world().block_on(one).unwrap();
    }
    // 100 to 129 and 200 to 244, and the one before.
    assert_eq!(store.pages().len(), 76);
    assert_eq!(store.count("chunks"), "151");
    for documents in [&store.documents, &other] {
        let all = SearchQuery { top_k: 100, ..asks("cat") };
        assert_eq!(search(documents, &store.index, &all).len(), 100);
    }
    store.go_live(76);
}

fn what_cannot_be_kept_is_refused_with_a_sentence(store: &World) {
    let put = |page: NewPage, chunk: NewChunk| {
        put_chunks(store, &page, vec![chunk]).unwrap_err().to_string()
    };
    let ok = || page("https://a/1");
    let with = |vector: Vec<f32>| NewChunk { vector: Some(vector), ..chunk("x") };
    let long = page(&format!("https://a/{}", "x".repeat(3000)));
    for (said, part) in [
        (put(ok(), with(vec![1.0; 3])), "has 3 numbers, those of the index have 8"),
        (put(ok(), with(vec![0.0; 8])), "points nowhere"),
        (put(ok(), with(vec![f32::NAN; 8])), "points nowhere"),
        (put(long, chunk("x")), "has 3010 bytes"),
        (put(NewPage { metadata: json!([]), ..ok() }, chunk("x")), "no JSON object"),
        (put(ok(), chunk(&"x".repeat(300_000))), "300000 bytes"),
    ] {
        assert!(said.contains(part), "{said}");
    }
    let large = IndexShape { dimensions: 20_000, ..shape("x") };
    let said = world().block_on(store.documents.open("large", &large)).unwrap_err().to_string();
    assert!(said.contains("20000 numbers cannot be kept"), "{said}");
    let wrong = SearchQuery { vector: Some(vec![1.0; 3]), ..asks("x") };
    world().block_on(store.documents.search(&store.index, &wrong)).unwrap_err();

    let odd = NewPage {
        title: "nul\0".to_owned(),
        metadata: json!({ "k\u{0}": ["\u{0}", { "a": "\\u0000" }] }),
        ..ok()
    };
    put_chunks(store, &odd, vec![chunk("nul\0cat")]).unwrap();
    let row = &store.listed(&[])[0];
    assert_eq!((row.title.as_str(), row.chunks), ("nul", 1));
    assert_eq!(row.metadata, json!({ "k": ["", { "a": "\\u0000" }] }));
}

fn documents_are_listed_in_pages(store: &World) {
    for at in 0..5 {
        store.put(&format!("https://a/{at}"), &["the cat"]);
    }
    let query = |parameters: &[(&str, &str)]| {
        let query = DocumentQuery::parse(parameters.iter().copied()).unwrap();
        world().block_on(store.documents.list(&query)).unwrap()
    };
    let first = query(&[("limit", "2"), ("source", "docs")]);
    let urls = |rows: &[DocumentRow]| rows.iter().map(|row| row.url.clone()).collect::<Vec<_>>();
    assert_eq!(
        (urls(&first.data), first.has_more),
        (strings(&["https://a/4", "https://a/3"]), true)
    );
    let last = first.last_id.unwrap();
    let rest = query(&[("after", &last)]);
    assert_eq!(urls(&rest.data), ["https://a/2", "https://a/1", "https://a/0"]);
    assert!(!rest.has_more);
    let oldest = query(&[("order", "asc"), ("limit", "1"), ("state", "indexed")]);
    assert_eq!(urls(&oldest.data), ["https://a/0"]);
    assert!(query(&[("source", "other")]).data.is_empty());
    let counts = world().block_on(store.documents.counts()).unwrap();
    assert_eq!(counts, [("docs".to_owned(), "indexed".to_owned(), 5)]);
    for (name, value) in
        [("state", "x"), ("limit", "0"), ("after", "1"), ("order", "up"), ("x", "1")]
    {
        assert_eq!(DocumentQuery::parse([(name, value)]).unwrap_err().name, name);
    }
}

/// A promise, and a word for the database that it is tried in.
type Promise = (&'static str, fn(&World));

const LIST: [Promise; 13] = [
    ("twice", a_page_that_is_put_twice_is_there_once),
    ("known", a_vector_that_is_kept_is_not_asked_for_again),
    ("dropped", a_writer_that_is_dropped_on_the_way_has_written_all_or_nothing),
    ("missing", pages_go_after_two_complete_runs_without_them),
    ("filter", a_filter_leaves_pages_by_url_and_metadata),
    ("generations", a_new_generation_answers_once_it_is_whole_and_the_old_one_can_come_back),
    ("deleted", a_source_goes_with_all_that_it_had_and_no_other),
    ("words", without_a_vector_words_alone_are_compared),
    ("languages", words_of_any_language_are_found_and_no_question_is_syntax),
    ("others", other_processes_see_a_change_in_their_next_search),
    ("concurrent", writers_and_searchers_do_not_disturb_each_other),
    ("refused", what_cannot_be_kept_is_refused_with_a_sentence),
    ("listed", documents_are_listed_in_pages),
];

#[test]
fn documents_are_kept_and_found_on_sqlite() {
    for (name, holds) in LIST {
        eprintln!("sqlite: {name}");
        holds(&World::with(None));
    }
}

#[test]
fn documents_are_kept_and_found_on_postgres() {
    let server = Postgres::with_vectors();
    for (name, holds) in LIST {
        eprintln!("postgres: {name}");
        holds(&World::with(Some(server.create(name))));
    }
}

#[test]
fn postgres_without_the_extension_says_so_when_the_first_source_comes() {
    let server = Postgres::start();
    let url = server.create("plain");
    let documents = opened(&url);
    let error = world().block_on(documents.open("docs", &shape("small"))).unwrap_err();
    assert!(error.to_string().contains("create extension vector"), "{error}");
    assert_eq!(world().block_on(documents.live("docs")).unwrap(), None);
    assert_eq!(rows(&url, "select count(*) from vector_indexes").unwrap(), [["0"]]);
}
