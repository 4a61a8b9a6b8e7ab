//! Counts a request's prompt when somebody asks, and no more of it than the question needs.

use std::borrow::Cow;
use std::cell::Cell;
use std::cell::OnceCell;

use thiserror::Error;

use crate::metering::cache;
use crate::metering::family::Family;
use crate::metering::outline::Leaf;
use crate::metering::outline::Outline;
use crate::metering::outline::Words;
use crate::metering::parts::PromptCount;
use crate::metering::tokens::Encoding;
use crate::openai::unescape::unescape_text;

/// Most bytes of text that are counted between two awaits: 0.7 ms, in the worst case 60 ms.
const INLINE_BYTES: usize = 64 * 1024;
/// Longest token of any encoding.
const LONGEST_TOKEN_BYTES: usize = 128;
/// Longest escape of one byte of text, `\u0000`.
const LONGEST_ESCAPE: usize = 6;
/// A sample is this many pieces from evenly spread places.
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 1024;
/// How far a sample is trusted, in percent: the largest error seen with half as many samples of
/// 162 documents was 12.
const MARGIN_PERCENT: u64 = 15;

/// Counts one request's prompt when somebody asks, and no more than is asked.
///
/// Bounds from the lengths of its texts come first, then the tokenizer up to the limit in question.
/// Of a prompt with more than 64 KiB of text that is not counted yet only samples are; they decide
/// when the limit is further than 15 % from what they say.
pub struct LazyPrompt<'a> {
    encoding: Encoding,
    model: &'a str,
    body: &'a [u8],
    outline: OnceCell<Outline<'a>>,
    progress: Cell<Option<Progress>>,
    sample: Cell<Option<u64>>,
    exact: OnceCell<PromptCount>,
    total: Cell<Option<u64>>,
    effort: Cell<Effort>,
}

/// Only a count of the whole prompt can tell, which may take long: see [`LazyPrompt::count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the prompt is too long to be counted while others wait")]
pub struct NeedsExact;

/// What had to be done for the answers so far; each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Nobody asked.
    #[default]
    Nothing,
    /// Lengths were added up. Nothing was tokenized.
    Bound,
    /// Texts were counted, up to 64 KiB.
    Counted,
    /// Samples of a long prompt were counted.
    Sampled,
    /// Everything was counted, whatever its length.
    Exact,
}

/// Whether two models in one encoding have the same count of any request.
pub fn same_rules(one: &str, other: &str) -> bool {
    Family::of(one) == Family::of(other)
}

/// How far the count is.
#[derive(Clone, Copy)]
struct Progress {
    /// Leaves before this one are counted.
    next: usize,
    /// What they and all fixed parts have.
    tokens: u64,
    /// What is left.
    rest: Bounds,
}

/// What the texts of some leaves can have at least and at most.
#[derive(Clone, Copy, Default)]
struct Bounds {
    bytes: usize,
    least: u64,
    most: u64,
    /// Rendered leaves: their length says little.
    unbounded: usize,
}

impl<'a> LazyPrompt<'a> {
    /// A prompt that is not looked at yet. `model` is the one whose rules apply; `body` is any of
    /// the four understood endpoints', and one that is not a JSON object has no tokens.
    pub fn new(encoding: Encoding, model: &'a str, body: &'a [u8]) -> Self {
        Self {
            encoding,
            model,
            body,
            outline: OnceCell::new(),
            progress: Cell::new(None),
            sample: Cell::new(None),
            exact: OnceCell::new(),
            total: Cell::new(None),
            effort: Cell::new(Effort::Nothing),
        }
    }

    /// Whether the prompt has more than `limit` tokens.
    ///
    /// # Errors
    /// [`NeedsExact`] when more than 64 KiB are not counted and the samples come within 15 % of the
    /// limit.
    pub fn exceeds(&self, limit: u64) -> Result<bool, NeedsExact> {
        loop {
            if let Some(total) = self.total.get() {
                return Ok(total > limit);
            }
            let progress = self.progress();
            self.note(Effort::Bound);
            if progress.tokens.saturating_add(progress.rest.least) > limit {
                return Ok(true);
            }
            if progress.most().is_some_and(|most| most <= limit) {
                return Ok(false);
            }
            if !self.is_short(&progress) {
                return self.sample_exceeds(limit);
            }
            if !self.advance(limit) {
                return Ok(true);
            }
        }
    }

    /// All tokens of the prompt.
    ///
    /// # Errors
    /// [`NeedsExact`] when it has more than 64 KiB of text that is not counted yet.
    pub fn tokens(&self) -> Result<u64, NeedsExact> {
        loop {
            if let Some(total) = self.total.get() {
                return Ok(total);
            }
            if !self.is_short(&self.progress()) {
                return Err(NeedsExact);
            }
            self.advance(u64::MAX);
        }
    }

    /// Counts everything exactly, however long it takes (up to 1 s per MB: not on a thread that
    /// others wait for), and remembers it.
    pub fn count(&self) -> PromptCount {
        *self.exact.get_or_init(|| {
            self.note(Effort::Exact);
            let outline = self.outline();
            let mut parts = outline.fixed;
            for leaf in &outline.leaves {
                parts.add(leaf.part, self.count_leaf(&leaf.words));
            }
            let tokens = parts.total();
            self.total.set(Some(tokens));
            PromptCount { tokens, parts, flags: outline.flags }
        })
    }

    /// Supplies a count made elsewhere.
    pub fn supply(&self, tokens: u64) {
        self.total.set(Some(tokens));
    }

    /// What had to be done so far.
    pub fn effort(&self) -> Effort {
        self.effort.get()
    }

    /// All tokens, of a prompt with more than `most_bytes` of text by samples.
    pub(super) fn estimate(&self, most_bytes: usize) -> u64 {
        if self.progress().rest.bytes <= most_bytes { self.count().tokens } else { self.sampled() }
    }

    fn note(&self, effort: Effort) {
        self.effort.set(self.effort.get().max(effort));
    }

    fn outline(&self) -> &Outline<'a> {
        self.outline.get_or_init(|| {
            let mut outline = Outline::of(self.model, self.body).recall(self.encoding);
            // What has no bounds goes first: once it is known, lengths may tell the rest.
            outline.leaves.sort_by_key(|leaf| !leaf.words.is_rendered());
            outline
        })
    }

    fn progress(&self) -> Progress {
        self.progress.get().unwrap_or_else(|| {
            let outline = self.outline();
            let mut rest = Bounds::default();
            outline.leaves.iter().for_each(|leaf| rest.add(&Bounds::of(leaf)));
            let start = Progress { next: 0, tokens: outline.fixed.total(), rest };
            self.reached(start);
            start
        })
    }

    fn reached(&self, progress: Progress) {
        self.progress.set(Some(progress));
        if progress.next == self.outline().leaves.len() {
            self.total.set(Some(progress.tokens));
        }
    }

    /// Whether the next leaf can be counted at once: rendered ones by themselves, then all texts.
    fn is_short(&self, progress: &Progress) -> bool {
        let rendered =
            self.outline().leaves.get(progress.next).filter(|leaf| leaf.words.is_rendered());
        rendered.map_or(progress.rest.bytes, |leaf| leaf.words.raw_len()) <= INLINE_BYTES
    }

    /// Counts the next leaf; false when that takes the prompt beyond `limit`.
    fn advance(&self, limit: u64) -> bool {
        self.note(Effort::Counted);
        let Progress { next, tokens, mut rest } = self.progress();
        let Some(leaf) = self.outline().leaves.get(next) else { return true };
        rest.subtract(&Bounds::of(leaf));
        let left = limit.saturating_sub(tokens.saturating_add(rest.least));
        let counted = if leaf.words.is_rendered() {
            self.count_leaf(&leaf.words)
        } else if let Some(counted) = self.encoding.count_till(&leaf.words.text(), left) {
            counted
        } else {
            return false;
        };
        self.reached(Progress { next: next + 1, tokens: tokens.saturating_add(counted), rest });
        true
    }

    /// Counts a text, and remembers what is likely to come again.
    fn count_leaf(&self, words: &Words<'_>) -> u64 {
        let tokens = self.encoding.count(&words.text());
        if let Some(key) = words.key(self.encoding) {
            cache::put(key, tokens);
        }
        tokens
    }

    fn sample_exceeds(&self, limit: u64) -> Result<bool, NeedsExact> {
        let sampled = self.sampled();
        let margin = sampled / 100 * MARGIN_PERCENT;
        let rendered = self.progress().rest.unbounded > 0;
        match limit.abs_diff(sampled) > margin && !rendered {
            true => Ok(sampled > limit),
            false => Err(NeedsExact),
        }
    }

    /// What samples say that the prompt has.
    fn sampled(&self) -> u64 {
        if let Some(sampled) = self.sample.get() {
            return sampled;
        }
        self.note(Effort::Sampled);
        let progress = self.progress();
        let rest = self.outline().leaves.get(progress.next..).unwrap_or_default();
        let raws: Vec<&str> =
            rest.iter().flat_map(|leaf| leaf.words.raws()).map(|raw| raw.get()).collect();
        let sampled = progress.tokens.saturating_add(sample(self.encoding, &raws));
        self.sample.set(Some(sampled));
        sampled
    }
}

impl Progress {
    /// All tokens that there can be.
    fn most(&self) -> Option<u64> {
        (self.rest.unbounded == 0).then(|| self.tokens.saturating_add(self.rest.most))
    }
}

impl Bounds {
    /// Every token has 1 to 128 bytes of text; a byte of text has 1 to 6 bytes of JSON.
    fn of(leaf: &Leaf<'_>) -> Self {
        let bytes = leaf.words.raw_len();
        if leaf.words.is_rendered() {
            return Self { bytes, least: 0, most: 0, unbounded: 1 };
        }
        let mut bounds = Self { bytes, ..Self::default() };
        let mut shortest = 0;
        for raw in leaf.words.raws() {
            let inner = raw.get().len().saturating_sub(2);
            let escaped = memchr::memchr(b'\\', raw.get().as_bytes()).is_some();
            shortest += if escaped { inner.div_ceil(LONGEST_ESCAPE) } else { inner };
            // A lone surrogate, 6 bytes, is read as 9.
            let longest =
                if escaped && has_surrogate(raw.get()) { 2 * bytes } else { raw.get().len() };
            bounds.most += longest as u64;
        }
        bounds.least = shortest.div_ceil(LONGEST_TOKEN_BYTES) as u64;
        bounds
    }

    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.least += other.least;
        self.most += other.most;
        self.unbounded += other.unbounded;
    }

    fn subtract(&mut self, other: &Self) {
        self.bytes -= other.bytes;
        self.least -= other.least;
        self.most -= other.most;
        self.unbounded -= other.unbounded;
    }
}

fn has_surrogate(raw: &str) -> bool {
    raw.contains(r"\ud") || raw.contains(r"\uD")
}

/// Estimates the tokens of texts, given as JSON, by [`SAMPLES`] pieces of [`SAMPLE_BYTES`].
fn sample(encoding: Encoding, raws: &[&str]) -> u64 {
    let all: usize = raws.iter().map(|raw| raw.len()).sum();
    let (mut tokens, mut bytes) = (0, 0);
    let mut texts = raws.iter();
    let (mut text, mut before) = ("", 0);
    for place in 0..SAMPLES {
        let (mut at, mut wanted) = (all / SAMPLES * place, SAMPLE_BYTES);
        while wanted > 0 {
            if at >= before + text.len() {
                before += text.len();
                let Some(next) = texts.next() else { break };
                text = next;
                continue;
            }
            let piece = piece(text, at - before, wanted);
            tokens += encoding.count(&unescaped(piece));
            bytes += piece.len();
            at += piece.len().max(1);
            wanted = wanted.saturating_sub(piece.len().max(1));
        }
    }
    u64::try_from(u128::from(tokens) * all as u128 / bytes.max(1) as u128).unwrap_or(u64::MAX)
}

/// About `len` bytes of a text, from about `from`.
fn piece(text: &str, from: usize, len: usize) -> &str {
    let start = text.floor_char_boundary(from);
    let end = text.ceil_char_boundary(from + len);
    text.get(start..end).unwrap_or_default()
}

/// A piece of JSON as text. What the cut left of an escape stays.
fn unescaped(piece: &str) -> Cow<'_, str> {
    unescape_text(piece.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const O200K: Encoding = Encoding::O200kBase;

    fn chat(text: &str) -> String {
        json!({ "messages": [{ "role": "user", "content": text }] }).to_string()
    }

    fn prompt(body: &str) -> LazyPrompt<'_> {
        LazyPrompt::new(O200K, "gpt-4o", body.as_bytes())
    }

    #[test]
    fn lengths_alone_decide_what_is_far_from_the_limit() {
        let body = chat(&"word ".repeat(800));
        let prompt = prompt(&body);
        assert_eq!(prompt.effort(), Effort::Nothing);
        // 4,000 bytes and 7 of frame are at most 4,009 tokens and at least 39.
        assert_eq!(prompt.exceeds(8000), Ok(false));
        assert_eq!(prompt.exceeds(30), Ok(true));
        assert_eq!(prompt.effort(), Effort::Bound);
        assert_eq!(prompt.exceeds(1000), Ok(false));
        assert_eq!(prompt.effort(), Effort::Counted);
        assert_eq!(prompt.tokens(), Ok(prompt.count().tokens));
    }

    #[test]
    fn a_long_prompt_is_decided_by_samples_when_the_limit_is_far() {
        // 11 tokens a line and 51 bytes of JSON, 2,000 lines: 22,000 tokens.
        let body = chat(&"The quick brown fox jumps over 12 of the lazy dogs\n".repeat(2000));
        let prompt = prompt(&body);
        let sampled = prompt.sampled();
        assert_eq!(prompt.exceeds(sampled * 2), Ok(false));
        assert_eq!(prompt.exceeds(sampled / 2), Ok(true));
        assert_eq!(prompt.effort(), Effort::Sampled);
        assert_eq!(prompt.exceeds(sampled), Err(NeedsExact));
        assert_eq!(prompt.tokens(), Err(NeedsExact));
        let exact = prompt.count().tokens;
        assert!(sampled.abs_diff(exact) * 100 <= exact * 5, "{sampled} for {exact}");
        assert_eq!(prompt.exceeds(exact), Ok(false));
        assert_eq!(prompt.exceeds(exact - 1), Ok(true));
        assert_eq!(prompt.effort(), Effort::Exact);
    }

    #[test]
    fn a_count_made_elsewhere_is_taken() {
        let body = chat(&"word ".repeat(100_000));
        let prompt = prompt(&body);
        prompt.supply(1234);
        assert_eq!(prompt.tokens(), Ok(1234));
        assert_eq!((prompt.exceeds(1233), prompt.exceeds(1234)), (Ok(true), Ok(false)));
        assert_eq!(prompt.effort(), Effort::Nothing);
    }

    #[test]
    fn tools_are_counted_once_for_all_requests_that_repeat_them() {
        let tool = json!({ "name": "once_for_all", "description": "A tool of this test alone." });
        let body = json!({ "messages": [], "tools": [tool] }).to_string();
        let first = prompt(&body);
        assert_eq!(first.exceeds(100), Ok(false));
        assert_eq!(first.effort(), Effort::Counted);
        let second = prompt(&body);
        assert_eq!(second.exceeds(100), Ok(false));
        assert_eq!(second.effort(), Effort::Bound);
        assert_eq!(second.tokens(), first.tokens());
        assert_eq!(second.count(), first.count());
    }

    #[test]
    fn tools_too_long_to_be_counted_at_once_need_a_thread() {
        let tool = json!({ "name": "f", "description": "word ".repeat(20_000) });
        let body = json!({ "messages": [], "tools": [tool] }).to_string();
        let prompt = prompt(&body);
        assert_eq!(prompt.exceeds(10_000), Err(NeedsExact));
        assert_eq!(prompt.count().tokens / 1000, 20);
        assert_eq!(prompt.exceeds(10_000), Ok(true));
    }

    #[test]
    fn the_counts_of_many_short_messages_are_sampled_together() {
        let message = json!({ "role": "user", "content": "How are you today, my friend?" });
        let body = json!({ "messages": vec![message; 10_000] }).to_string();
        let prompt = prompt(&body);
        // 8 of text, 4 of frame.
        assert_eq!(prompt.exceeds(60_000), Ok(true));
        assert_eq!(prompt.exceeds(200_000), Ok(false));
        assert_eq!(prompt.effort(), Effort::Sampled);
        let exact = prompt.count().tokens;
        assert_eq!(exact, 10_000 * (4 + 8) + 3);
    }

    #[test]
    fn ten_megabytes_of_one_letter_are_answered_by_samples() {
        let body = chat(&"a".repeat(10_000_000));
        let prompt = prompt(&body);
        assert_eq!(prompt.exceeds(50_000), Ok(true));
        assert_eq!(prompt.exceeds(20_000_000), Ok(false));
        // Eight letters or so are a token.
        let estimate = prompt.estimate(1 << 20);
        assert!((1_000_000..2_000_000).contains(&estimate), "{estimate}");
    }

    #[test]
    fn a_million_spaces_are_counted() {
        for space in [" ", "\t", "\n", "\u{a0}"] {
            let body = chat(&space.repeat(1_100_000));
            assert!(prompt(&body).exceeds(100).is_ok_and(|more| more), "{space:?}");
            assert!(prompt(&body).count().tokens > 1000, "{space:?}");
        }
    }

    #[test]
    fn text_of_special_tokens_is_text() {
        assert_eq!(prompt(&chat("<|endoftext|>")).count().tokens, 4 + 7 + 3);
        assert_eq!(
            prompt(&chat("<|im_start|>")).tokens(),
            Ok(prompt(&chat("<|im_start|>")).count().tokens)
        );
    }

    #[test]
    fn lone_surrogates_are_counted() {
        let body =
            format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, r"\ud800".repeat(500));
        let count = prompt(&body).count().tokens;
        assert!(count > 7);
        assert_eq!(prompt(&body).exceeds(count), Ok(false));
        assert_eq!(prompt(&body).exceeds(count - 1), Ok(true));
    }

    /// A text as JSON, some of it escaped in ways that nobody needs.
    fn text() -> impl Strategy<Value = String> {
        let words = prop_oneof![
            "[ -~]{0,40}".prop_map(|text| json!(text).to_string()),
            "\\PC{0,20}".prop_map(|text| json!(text).to_string()),
            "[a-z ]{0,6}".prop_map(|text| {
                let escaped = text.bytes().map(|byte| format!("\\u00{byte:02x}"));
                format!("\"{}\"", escaped.collect::<String>())
            }),
            Just(r#""\ud800\udc00\ud800x\udc00""#.to_owned()),
            Just(r#""<|endoftext|>  \n\n   \t""#.to_owned()),
        ];
        words.boxed()
    }

    fn message() -> impl Strategy<Value = String> {
        let role = prop_oneof![
            Just("system"),
            Just("user"),
            Just("assistant"),
            Just("tool"),
            Just("house"),
            Just("")
        ];
        (role, text(), text(), text(), 0..9_u8).prop_map(|(role, one, two, three, shape)| {
            let content = match shape % 3 {
                0 => one,
                1 => {
                    format!(r#"[{{"type":"text","text":{one}}},{{"type":"text","text":{three}}}]"#)
                }
                _ => format!(
                    r#"[{{"type":"image_url","image_url":{{"url":{one}}}}},{{"text":{three}}}]"#
                ),
            };
            let more = match shape / 3 {
                0 => String::new(),
                1 => format!(r#","name":{two}"#),
                _ => format!(
                    r#","tool_calls":[{{"id":"c","function":{{"name":{two},"arguments":{two}}}}}]"#
                ),
            };
            format!(r#"{{"role":"{role}","tool_call_id":"c","content":{content}{more}}}"#)
        })
    }

    fn tools() -> impl Strategy<Value = String> {
        prop::collection::vec((text(), text()), 0..3).prop_map(|tools| {
            let tools = tools.iter().map(|(name, about)| {
                let properties = format!(r#"{{{name}:{{"type":"string","title":{about}}}}}"#);
                format!(
                    r#"{{"type":"function","function":{{"name":{name},"description":{about},
                    "parameters":{{"properties":{properties}}}}}}}"#
                )
            });
            format!("[{}]", tools.collect::<Vec<_>>().join(","))
        })
    }

    fn request() -> impl Strategy<Value = String> {
        let messages = prop::collection::vec(message(), 0..5);
        (messages, tools(), text(), 0..3_u8).prop_map(|(messages, tools, more, shape)| {
            let list = messages.join(",");
            match shape {
                0 => format!(r#"{{"messages":[{list}],"tools":{tools}}}"#),
                1 => format!(r#"{{"input":[{list}],"instructions":{more},"tools":{tools},
                    "text":{{"format":{{"name":{more},"schema":{{"title":{more},"enum":[{more}]}}}}}}}}"#),
                _ => format!(r#"{{"prompt":[{more},{more},[1,2],3]}}"#),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whether_a_limit_is_exceeded_is_what_the_count_says(body in request(), gpt_5: bool) {
            prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&body).is_ok(), "{}", body);
            let model = if gpt_5 { "gpt-5-mini" } else { "gpt-4o" };
            let fresh = || LazyPrompt::new(O200K, model, body.as_bytes());
            // Counted last, so that nothing is remembered of it yet.
            let answers = |limits: &[u64]| {
                let shared = fresh();
                limits.iter().map(|limit| shared.exceeds(*limit)).collect::<Vec<_>>()
            };
            let up: Vec<u64> = (0..400).chain([1000, 10_000, 100_000]).collect();
            let down: Vec<u64> = up.iter().rev().copied().collect();
            let (rising, falling) = (answers(&up), answers(&down));
            let count = fresh().count();
            prop_assert_eq!(count.tokens, count.parts.total());
            prop_assert_eq!(fresh().tokens(), Ok(count.tokens));
            for (limit, answer) in up.iter().zip(rising).chain(down.iter().zip(falling)) {
                prop_assert_eq!(answer, Ok(count.tokens > *limit), "{} {}", limit, count.tokens);
            }
            for limit in [count.tokens.saturating_sub(1), count.tokens, count.tokens + 1] {
                prop_assert_eq!(fresh().exceeds(limit), Ok(count.tokens > limit));
            }
        }

        #[test]
        fn no_body_panics(body in "[\\[\\]{}\",:a-z0-9\\\\]{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            for body in [body.as_bytes(), &bytes] {
                let prompt = LazyPrompt::new(O200K, "gpt-4o", body);
                prop_assert_eq!(prompt.exceeds(0), Ok(prompt.count().tokens > 0));
            }
        }
    }
}
