//! A stand-in for Firecrawl, made of a live server's recorded answers: a site of pages that a test
//! writes, and a switch for each trap that the live server had.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use serde_json::Value;
use serde_json::json;

use super::answer::Answer;
use super::upstream::Received;
use super::upstream::Upstream;

/// Where the site is. Firecrawl takes no loopback address with one digit at its end.
pub(crate) const SITE: &str = "http://127.0.0.10:8099";
/// Pages of one answer, where not all of them are in one.
const PER_ANSWER: usize = 2;

/// What the live server did and nobody would expect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traps {
    /// 1: a page that says 404 comes as a success, with its status among the metadata.
    pub(crate) errors_as_pages: bool,
    /// 2: `x-idempotency-key` brings 500.
    pub(crate) idempotency_fails: bool,
    /// 3: the format `changeTracking` brings 500.
    pub(crate) change_tracking_fails: bool,
    /// 4: webhooks are not signed; they carry only the headers that were asked for.
    pub(crate) unsigned_webhooks: bool,
    /// 5: all pages in one answer, whatever was asked for, and no `next`.
    pub(crate) all_at_once: bool,
    /// 6: `next` names another server.
    pub(crate) foreign_next: bool,
    /// 7: hosts need a dot and two characters; one URL that has none is the end of its batch.
    pub(crate) strict_urls: bool,
    /// 8: pages come as they are completed.
    pub(crate) out_of_order: bool,
}

impl Traps {
    pub(crate) const NONE: Self = Self {
        errors_as_pages: false,
        idempotency_fails: false,
        change_tracking_fails: false,
        unsigned_webhooks: false,
        all_at_once: false,
        foreign_next: false,
        strict_urls: false,
        out_of_order: false,
    };

    /// As the live server was that the answers were recorded from.
    pub(crate) const SELF_HOSTED: Self = Self {
        errors_as_pages: true,
        idempotency_fails: true,
        change_tracking_fails: true,
        unsigned_webhooks: true,
        all_at_once: true,
        foreign_next: true,
        strict_urls: true,
        out_of_order: true,
    };
}

/// A site as Firecrawl tells it: pages with their status, and how the crawl goes.
pub(crate) struct Site {
    pub(crate) pages: Vec<(String, u16, String)>,
    /// The crawl's end; `scraping` for one that never comes.
    pub(crate) status: String,
    /// Pages that could not be fetched.
    pub(crate) failed: usize,
    pub(crate) traps: Traps,
    /// Further links that the map names.
    pub(crate) links: Vec<String>,
    /// Paths that lead to other URLs.
    pub(crate) redirects: Vec<(String, String)>,
    /// Jobs that were begun, and those that were cancelled.
    pub(crate) crawls: usize,
    pub(crate) batches: usize,
    pub(crate) cancelled: usize,
}

impl Site {
    pub(crate) fn of(pages: &[(&str, u16, &str)]) -> Self {
        let page =
            |&(path, status, text): &(&str, u16, &str)| (path.to_owned(), status, text.to_owned());
        Self {
            pages: pages.iter().map(page).collect(),
            status: "completed".to_owned(),
            failed: 0,
            traps: Traps::SELF_HOSTED,
            links: Vec::new(),
            redirects: Vec::new(),
            crawls: 0,
            batches: 0,
            cancelled: 0,
        }
    }

    /// As the recorded one, with what is this page's own.
    fn document(&self, (path, status, text): &(String, u16, String)) -> Value {
        let mut document = recorded("scrape_v2.json")["data"].clone();
        let url = format!("{SITE}{path}");
        document["markdown"] = text.as_str().into();
        document.as_object_mut().unwrap().remove("links");
        for (name, value) in [("title", json!(path)), ("statusCode", json!(status))] {
            document["metadata"][name] = value;
        }
        let led = self.redirects.iter().find(|(from, _)| from == path);
        document["metadata"]["sourceURL"] = url.as_str().into();
        document["metadata"]["url"] = led.map_or(url, |(_, to)| to.clone()).into();
        document
    }

    fn documents(&self, urls: Option<&[String]>) -> Vec<Value> {
        let wanted = |path: &str| {
            urls.is_none_or(|urls| urls.iter().any(|url| *url == format!("{SITE}{path}")))
        };
        let told = |status: u16| self.traps.errors_as_pages || status < 400;
        let pages = self.pages.iter().filter(|(path, status, _)| wanted(path) && told(*status));
        let mut documents: Vec<Value> = pages.map(|page| self.document(page)).collect();
        if self.traps.out_of_order {
            documents.reverse();
        }
        documents
    }

    fn answer(&mut self, request: &Received, batch: &mut Vec<String>) -> (u16, Value) {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        if let Some(refused) = self.refuses(request, &body) {
            return refused;
        }
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        match (request.method.as_str(), path) {
            ("POST", "/v2/crawl") => {
                self.crawls += 1;
                with(recorded("crawl_start.json"), "id", json!("c1"))
            }
            ("POST", "/v2/batch/scrape") => {
                self.batches += 1;
                *batch = serde_json::from_value(body["urls"].clone()).unwrap();
                with(recorded("batch.json"), "id", json!("b1"))
            }
            ("POST", "/v2/map") => {
                let urls = self.pages.iter().map(|(path, ..)| format!("{SITE}{path}"));
                let links = urls.chain(self.links.clone()).map(|url| json!({ "url": url }));
                with(recorded("map.json"), "links", links.collect())
            }
            ("POST", "/v2/scrape") => match self.pages.first() {
                Some(page) => with(recorded("scrape_v2.json"), "data", self.document(page)),
                None => (200, recorded("notfound.json")),
            },
            ("GET", "/v2/crawl/c1") => (200, self.progress("crawl/c1", query, None)),
            ("GET", "/v2/batch/scrape/b1") => {
                (200, self.progress("batch/scrape/b1", query, Some(batch)))
            }
            ("GET", "/v2/crawl/c1/errors" | "/v2/batch/scrape/b1/errors") => {
                let errors = vec![json!({ "id": "e", "error": "timed out" }); self.failed];
                with(recorded("crawl_errors.json"), "errors", errors.into())
            }
            ("DELETE", "/v2/crawl/c1" | "/v2/batch/scrape/b1") => {
                self.cancelled += 1;
                (200, recorded("crawl_cancel_done.json"))
            }
            _ => (404, recorded("crawl_404.json")),
        }
    }

    fn progress(&self, job: &str, query: &str, urls: Option<&[String]>) -> Value {
        let all = self.documents(urls);
        let mut told = recorded("crawl_status.json");
        told["status"] = self.status.as_str().into();
        told["total"] = all.len().into();
        told["completed"] = all.len().into();
        if self.traps.all_at_once {
            told["data"] = all.into();
            return told;
        }
        let from: usize = query.strip_prefix("skip=").map_or(0, |skip| skip.parse().unwrap());
        let to = (from + PER_ANSWER).min(all.len());
        if to < all.len() {
            // Who asked it would wait, and had sent the key there.
            let server = if self.traps.foreign_next { "http://10.9.9.9" } else { SITE };
            told["next"] = format!("{server}/v2/{job}?skip={to}").into();
        }
        told["data"] = all[from.min(to)..to].into();
        told
    }

    /// What the live server refused.
    fn refuses(&self, request: &Received, body: &Value) -> Option<(u16, Value)> {
        if self.traps.idempotency_fails && request.header("x-idempotency-key").is_some() {
            return Some((500, recorded("crawl_dup.json")));
        }
        let formats = [body.pointer("/formats"), body.pointer("/scrapeOptions/formats")];
        let tracks =
            formats.into_iter().flatten().any(|f| f.to_string().contains("changeTracking"));
        if self.traps.change_tracking_fails && tracks {
            return Some((500, recorded("ct.json")));
        }
        const KEYS: [&str; 9] = [
            "url",
            "urls",
            "limit",
            "includePaths",
            "excludePaths",
            "scrapeOptions",
            "formats",
            "maxAge",
            "ignoreInvalidURLs",
        ];
        let known = |key: &String| KEYS.contains(&key.as_str());
        if !body.as_object().is_none_or(|body| body.keys().all(known)) {
            return Some((400, recorded("bad_key.json")));
        }
        let one = body.get("url").and_then(Value::as_str).into_iter();
        let many = body.get("urls").and_then(Value::as_array).into_iter().flatten();
        let strict = body.get("ignoreInvalidURLs") != Some(&Value::Bool(true));
        let many = many.filter_map(Value::as_str).filter(|_| strict);
        let bad = |url: &str| {
            let host = url.split('/').nth(2).unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            host.rsplit_once('.').is_none_or(|(_, end)| end.len() < 2)
        };
        let refused = self.traps.strict_urls && one.chain(many).any(bad);
        refused.then(|| (400, recorded("bad_url.json")))
    }
}

/// The server.
#[derive(Clone)]
pub(crate) struct Firecrawl {
    site: Arc<Mutex<Site>>,
    upstream: Upstream,
}

impl Firecrawl {
    pub(crate) fn of(site: Site) -> Self {
        let site = Arc::new(Mutex::new(site));
        let (told, batch) = (Arc::clone(&site), Mutex::new(Vec::new()));
        let upstream = Upstream::reading(move |_, request| {
            let mut batch = batch.lock().unwrap();
            let (status, body) = told.lock().unwrap().answer(request, &mut batch);
            Answer::json(status, body.to_string())
        });
        Self { site, upstream }
    }

    /// The site, to be changed.
    pub(crate) fn site(&self) -> MutexGuard<'_, Site> {
        self.site.lock().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.upstream.requests()
    }

    /// Lines of weir.yaml that lead here, and let sources lead to the site.
    pub(crate) fn config(&self) -> String {
        let base = self.upstream.base_url();
        let base = base.trim_end_matches("/v1");
        format!(
            "firecrawl: {{ base_url: \"{base}\", api_key: fc-1, webhook_secret: hooksecret }}\n\
             outbound: {{ allow: 127.0.0.10 }}"
        )
    }

    /// The webhooks as they were recorded, each as a whole request to this path; and whether it says
    /// whose it is. Those of a batch were asked for without a secret.
    pub(crate) fn webhooks(&self, path: &str) -> Vec<(String, bool)> {
        let signs = !self.site().traps.unsigned_webhooks;
        let lines = std::fs::read_to_string(folder().join("webhooks.jsonl")).unwrap();
        let request = |line: &str| {
            let hook: Value = serde_json::from_str(line).unwrap();
            let body = hook["body"].to_string();
            let header = match hook["headers"]["Authorization"].as_str() {
                _ if signs => format!("x-firecrawl-signature: sha256={}\r\n", signature(&body)),
                Some(secret) => format!("authorization: {secret}\r\n"),
                None => String::new(),
            };
            let length = body.len();
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: g\r\n{header}content-length: {length}");
            (format!("{head}\r\n\r\n{body}"), !header.is_empty())
        };
        lines.lines().map(request).collect()
    }
}

/// As the cloud signs.
fn signature(body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hooksecret");
    let tag = ring::hmac::sign(&key, body.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with(mut answer: Value, name: &str, value: Value) -> (u16, Value) {
    answer[name] = value;
    (200, answer)
}

/// An answer of the live server.
pub(crate) fn recorded(name: &str) -> Value {
    let text = std::fs::read(folder().join(name)).expect("shared assets lie beside weir");
    serde_json::from_slice(&text).unwrap()
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("shared/data/firecrawl")
}
