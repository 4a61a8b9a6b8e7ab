//! What of a fetched page goes into the index: its text, cleaned, under one URL; or why it does not.

use encoding_rs::Encoding;
use encoding_rs::UTF_8;
use ring::digest;
use serde_json::Map;
use serde_json::Value;
use url::Url;

/// Longest text of a page, in bytes: longer ones are dumps, and not read by anybody.
const LARGEST: usize = 8 << 20;
/// Longest URL that an index takes, in bytes.
const LONGEST_URL: usize = 2000;
/// Where a page says how it is encoded.
const HEAD: usize = 2048;
/// Query parameters that say where a visitor came from, and nothing about the page.
const TRACKING: [&str; 8] =
    ["gclid", "fbclid", "msclkid", "mc_cid", "mc_eid", "igshid", "yclid", "dclid"];
/// Lines that change while nothing else does.
const VOLATILE: [&str; 4] = ["last updated", "last modified", "page generated", "generated on"];

/// A page for the index.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Normalised.
    pub url: String,
    /// Its title; empty for none.
    pub title: String,
    /// Markdown.
    pub text: String,
    /// Of the text, without what changes by itself.
    pub hash: String,
    /// What searches may be filtered by.
    pub metadata: Value,
}

/// A page that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Normalised; empty where it has none.
    pub url: String,
    /// Why, in a word.
    pub reason: &'static str,
}

impl Left {
    /// Whether the page is no more, so that what the index has of it goes.
    pub fn is_gone(&self) -> bool {
        matches!(self.reason, "not_found" | "gone")
    }
}

/// Takes a document as Firecrawl tells it. A page that could not be fetched comes as one that could,
/// with its status among the metadata.
///
/// # Errors
/// Why it is left out.
pub fn take(document: &Value) -> Result<Taken, Left> {
    let about = document.get("metadata").unwrap_or(&Value::Null);
    let text = |name: &str| about.get(name).and_then(Value::as_str).unwrap_or_default();
    let named = [text("url"), text("sourceURL")].into_iter().find(|url| !url.is_empty());
    let url = named.and_then(normalised).unwrap_or_default();
    let left = |reason| Err(Left { url: url.clone(), reason });
    match about.get("statusCode").and_then(Value::as_u64) {
        Some(404) => return left("not_found"),
        Some(410) => return left("gone"),
        Some(401 | 403) => return left("forbidden"),
        Some(400..) => return left("error_status"),
        _ if about.get("error").is_some_and(|error| error.is_string()) => return left("failed"),
        _ => {}
    }
    if url.is_empty() || url.len() > LONGEST_URL {
        return left("bad_url");
    }
    let markdown = document.get("markdown").and_then(Value::as_str).unwrap_or_default();
    let mut metadata = Map::new();
    for name in ["language", "description", "contentType"] {
        if let Some(value) = about.get(name).filter(|value| value.is_string()) {
            metadata.insert(name.to_owned(), value.clone());
        }
    }
    finished(url, text("title"), markdown, metadata.into())
}

/// Takes an uploaded file, which is Markdown already, under its own name.
///
/// # Errors
/// Why it is left out.
pub fn take_file(name: &str, title: &str, text: &str) -> Result<Taken, Left> {
    finished(format!("file:{name}"), title, text, Value::Object(Map::new()))
}

fn finished(url: String, title: &str, markdown: &str, metadata: Value) -> Result<Taken, Left> {
    if markdown.len() > LARGEST {
        return Err(Left { url, reason: "too_large" });
    }
    let text = cleaned(markdown);
    if !text.chars().any(char::is_alphanumeric) {
        return Err(Left { url, reason: "empty" });
    }
    let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
    let hash = hash_of(&title, &text);
    Ok(Taken { url, title: title.chars().take(300).collect(), text, hash, metadata })
}

/// One URL for one page: without its fragment and without what tracks visitors.
pub fn normalised(url: &str) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    url.set_fragment(None);
    let tracks = |name: &str| name.starts_with("utm_") || TRACKING.contains(&name);
    let pairs = url.query_pairs().filter(|(name, _)| !tracks(name));
    let kept: Vec<(String, String)> =
        pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    if url.query().is_some() {
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
    }
    Some(url.into())
}

/// The text with one kind of line end, no blanks at line ends, and no heaps of empty lines.
fn cleaned(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut empty = 0;
    for line in markdown.lines() {
        let line = line.trim_end();
        empty = if line.is_empty() { empty + 1 } else { 0 };
        if empty < 2 {
            text.extend(line.chars().filter(|c| *c != '\0'));
            text.push('\n');
        }
    }
    text.trim().to_owned()
}

fn hash_of(title: &str, text: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(title.as_bytes());
    for line in text.lines() {
        let words = line.trim_start_matches(['*', '_', '>', ' ', '#']);
        let begins = |with: &&str| {
            words.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        if !VOLATILE.iter().any(begins) {
            context.update(b"\n");
            context.update(line.as_bytes());
        }
    }
    let hash = context.finish();
    hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// An uploaded file as title and Markdown: HTML is turned into it, and what is not UTF-8 is read as
/// it says it is encoded, or as browsers do.
///
/// # Errors
/// A sentence: it is no text.
pub fn read_file(name: &str, bytes: &[u8]) -> Result<(String, String), String> {
    if bytes.len() > LARGEST {
        return Err(format!("{name} has {} bytes, and {LARGEST} is the most", bytes.len()));
    }
    let text = decoded(bytes);
    if text.contains('\0') {
        return Err(format!("{name} is no text: upload Markdown, HTML or plain text"));
    }
    let start = text.trim_start().get(..14).unwrap_or_default().to_ascii_lowercase();
    let lower = name.to_ascii_lowercase();
    let html = lower.ends_with(".html") || lower.ends_with(".htm");
    if !html && !start.starts_with("<!doctype html") && !start.starts_with("<html") {
        let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(name);
        return Ok((title.trim().to_owned(), text));
    }
    let markdown = htmd::HtmlToMarkdown::builder()
        .skip_tags(vec!["head", "script", "style", "nav", "noscript", "template"])
        .build()
        .convert(&text)
        .map_err(|error| format!("{name} cannot be read as HTML: {error}"))?;
    let title = between(&text, "<title>", "</title>").unwrap_or(name);
    Ok((title.trim().to_owned(), markdown))
}

fn decoded(bytes: &[u8]) -> String {
    let head = bytes.get(..HEAD.min(bytes.len())).unwrap_or_default();
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let says = between(&head, "charset=", ">");
    let says = says.map(|says| says.trim_matches(['"', '\'', '/', ' ']));
    let named = says.and_then(|label| Encoding::for_label(label.as_bytes()));
    let encoding = match std::str::from_utf8(bytes) {
        Ok(_) => UTF_8,
        Err(_) => named.filter(|named| *named != UTF_8).unwrap_or(encoding_rs::WINDOWS_1252),
    };
    let (text, _, _) = encoding.decode(bytes);
    text.into_owned()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(status: u16, markdown: &str) -> Value {
        json!({ "markdown": markdown, "metadata": { "title": "T", "statusCode": status,
            "sourceURL": "http://Example.com/a#b", "url": "http://Example.com/a?utm_source=x&v=1#b" } })
    }

    #[test]
    fn a_page_that_was_not_fetched_is_left_out_although_it_comes_as_a_success() {
        for (status, reason) in
            [(404, "not_found"), (410, "gone"), (403, "forbidden"), (500, "error_status")]
        {
            assert_eq!(take(&page(status, "Error")).unwrap_err().reason, reason);
        }
        assert_eq!(take(&page(200, " \n--- \n")).unwrap_err().reason, "empty");
        assert_eq!(take(&page(200, &"x".repeat(LARGEST + 1))).unwrap_err().reason, "too_large");
        assert_eq!(take(&json!({ "markdown": "x" })).unwrap_err().reason, "bad_url");
    }

    #[test]
    fn one_page_has_one_url() {
        let url = take(&page(200, "words")).unwrap().url;
        assert_eq!(url, "http://example.com/a?v=1", "where a redirect led to, without tracking");
        assert_eq!(normalised("HTTP://Example.COM:80/x?fbclid=1").unwrap(), "http://example.com/x");
    }

    #[test]
    fn what_changes_by_itself_is_no_change() {
        let hash = |text: &str| take(&page(200, text)).unwrap().hash;
        assert_eq!(hash("a\n\nLast updated: Monday"), hash("a  \r\n\r\n*Last Updated*: Tuesday"));
        assert_ne!(hash("a"), hash("b"));
    }

    #[test]
    fn files_are_read_whatever_they_are() {
        assert_eq!(read_file("a.md", b"x\n# Title\n").unwrap().0, "Title");
        let html = "<html><head><title>Gr\u{fc}n</title></head><body><h1>Wald</h1><script>x()</script></body></html>";
        let (title, text) = read_file("a.html", html.as_bytes()).unwrap();
        assert_eq!((title.as_str(), text.trim()), ("Gr\u{fc}n", "# Wald"));
        // ISO 8859-2: 0xb1 is a with an ogonek.
        let (_, text) = read_file("a.html", b"<html><meta charset=iso-8859-2><p>\xb1").unwrap();
        assert_eq!(text.trim(), "\u{105}");
        assert!(read_file("a.bin", b"\0\x01").unwrap_err().contains("no text"));
    }
}
