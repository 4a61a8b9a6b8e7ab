//! Counts a request's prompt when somebody asks, and no more of it than the question needs.

use std::cell::Cell;
use std::cell::OnceCell;

use thiserror::Error;

use crate::metering::cache;
use crate::metering::family::Family;
use crate::metering::json::Fields;
use crate::metering::outline::Leaf;
use crate::metering::outline::Outline;
use crate::metering::outline::Words;
use crate::metering::parts::PromptCount;
use crate::metering::tokens::Encoding;
use crate::openai::request::RequestView;
use crate::openai::unescape::unescape_text;

/// Most bytes of text that are counted between two awaits: 0.7 ms, in the worst case 60 ms.
const INLINE_BYTES: usize = 64 * 1024;
/// How many times that long tools may be once they are rendered.
const MOST_RENDERED: usize = 4;
/// Longest token of any encoding.
const LONGEST_TOKEN_BYTES: usize = 128;
/// Longest escape of one byte of text, `\u0000`.
const LONGEST_ESCAPE: usize = 6;
/// A sample is this many pieces from evenly spread places.
const PIECES: usize = 16;
/// Short pieces first; longer ones where those come too close to the limit. Of 1,126 documents from
/// 64 KiB to 4 MB, prose, code and data, short pieces said 18 % too few to 51 % too many tokens (one
/// in a hundred more than 12 % wrong), long ones 12 % too few to 29 % too many (6 %).
const SAMPLINGS: [Sampling; 2] = [
    Sampling { piece_bytes: 128, margin_percent: 50 },
    Sampling { piece_bytes: 1024, margin_percent: 25 },
];

/// Counts one request's prompt when somebody asks, and no more than is asked.
///
/// Bounds from the lengths of its texts come first, then the tokenizer up to the limit in question.
/// Of a prompt with more than 64 KiB of text that is not counted yet only samples are; they decide
/// when the limit is further than 25 % from what they say.
pub struct LazyPrompt<'a> {
    encoding: Encoding,
    model: &'a str,
    body: &'a [u8],
    view: Option<&'a RequestView>,
    outline: OnceCell<Outline<'a>>,
    progress: Cell<Option<Progress>>,
    samples: [Cell<Option<u64>>; SAMPLINGS.len()],
    exact: OnceCell<PromptCount>,
    total: Cell<Option<u64>>,
    effort: Cell<Effort>,
    told: Cell<Told>,
}

/// What the answers so far have said of a prompt's tokens: whoever is given a number within these
/// bounds answers the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// There are at least so many.
    pub least: u64,
    /// There are at most so many.
    pub most: u64,
}

impl Told {
    /// Nothing was asked.
    pub const NOTHING: Self = Self { least: 0, most: u64::MAX };
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

/// How long prompts are sampled.
struct Sampling {
    piece_bytes: usize,
    /// How far what they say is trusted.
    margin_percent: u64,
}

/// How far the count is.
#[derive(Clone, Copy)]
struct Progress {
    /// Leaves before this one are counted.
    next: usize,
    /// What they and all fixed parts have.
    tokens: u64,
    /// How long what is left is.
    rest: Length,
    /// What it can have, once somebody asked: that takes a look at every byte.
    bounds: Option<Bounds>,
}

/// How long some leaves are.
#[derive(Clone, Copy, Default)]
struct Length {
    bytes: usize,
    /// Rendered leaves: their length says little.
    unbounded: usize,
}

/// What the texts of some leaves can have at least and at most.
#[derive(Clone, Copy, Default)]
struct Bounds {
    least: u64,
    most: u64,
}

impl<'a> LazyPrompt<'a> {
    /// A prompt that is not looked at yet. `model` is the one whose rules apply; `body` is any of
    /// the four understood endpoints', and one that is not a JSON object has no tokens.
    pub fn new(encoding: Encoding, model: &'a str, body: &'a [u8]) -> Self {
        Self {
            encoding,
            model,
            body,
            view: None,
            outline: OnceCell::new(),
            progress: Cell::new(None),
            samples: Default::default(),
            exact: OnceCell::new(),
            total: Cell::new(None),
            effort: Cell::new(Effort::Nothing),
            told: Cell::new(Told::NOTHING),
        }
    }

    /// The same of a request that is read already: its body is not read once more.
    pub fn of_request(encoding: Encoding, view: &'a RequestView, body: &'a [u8]) -> Self {
        Self { view: Some(view), ..Self::new(encoding, view.model(), body) }
    }

    /// Whether the prompt has more than `limit` tokens.
    ///
    /// # Errors
    /// [`NeedsExact`] when more than 64 KiB are not counted and the samples come within 25 % of the
    /// limit.
    pub fn exceeds(&self, limit: u64) -> Result<bool, NeedsExact> {
        let exceeds = self.finds_more_than(limit)?;
        let Told { least, most } = self.told.get();
        self.told.set(match exceeds {
            true => Told { least: least.max(limit.saturating_add(1)), most },
            false => Told { least, most: most.min(limit) },
        });
        Ok(exceeds)
    }

    fn finds_more_than(&self, limit: u64) -> Result<bool, NeedsExact> {
        loop {
            if let Some(total) = self.total.get() {
                return Ok(total > limit);
            }
            let progress = self.progress();
            self.note(Effort::Bound);
            let leaves = self.outline().leaves.len() - progress.next;
            if progress.may_be_told(limit, leaves) {
                let bounds = self.bounds();
                if progress.tokens.saturating_add(bounds.least) > limit {
                    return Ok(true);
                }
                let all_bounded = progress.rest.unbounded == 0;
                if all_bounded && progress.tokens.saturating_add(bounds.most) <= limit {
                    return Ok(false);
                }
            }
            if !self.is_short(&progress) {
                return self.sample_exceeds(limit);
            }
            if !self.advance(limit)? {
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
                self.told.set(Told { least: total, most: total });
                return Ok(total);
            }
            if !self.is_short(&self.progress()) {
                return Err(NeedsExact);
            }
            self.advance(u64::MAX)?;
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
                parts.add(leaf.part, self.count_text(&leaf.words, &leaf.words.text()));
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

    /// What the answers so far have told.
    pub fn told(&self) -> Told {
        self.told.get()
    }

    /// What had to be done so far.
    pub fn effort(&self) -> Effort {
        self.effort.get()
    }

    /// All tokens, of a prompt with more than `most_bytes` of text by samples.
    pub(super) fn estimate(&self, most_bytes: usize) -> u64 {
        if self.progress().rest.bytes <= most_bytes {
            return self.count().tokens;
        }
        let [.., longest] = &SAMPLINGS;
        let [.., known] = &self.samples;
        self.sampled(longest, known)
    }

    fn note(&self, effort: Effort) {
        self.effort.set(self.effort.get().max(effort));
    }

    fn outline(&self) -> &Outline<'a> {
        self.outline.get_or_init(|| {
            let outline = match self.view {
                Some(view) => Outline::of_fields(self.model, &Fields::of_request(view, self.body)),
                None => Outline::of(self.model, self.body),
            };
            let mut outline = outline.recall(self.encoding);
            // What has no bounds goes first: once it is known, lengths may tell the rest.
            outline.leaves.sort_by_key(|leaf| !leaf.words.is_rendered());
            outline
        })
    }

    fn progress(&self) -> Progress {
        self.progress.get().unwrap_or_else(|| {
            let outline = self.outline();
            let mut rest = Length::default();
            for leaf in &outline.leaves {
                rest.bytes += leaf.words.raw_len();
                rest.unbounded += usize::from(leaf.words.is_rendered());
            }
            let start = Progress { next: 0, tokens: outline.fixed.total(), rest, bounds: None };
            self.reached(start);
            start
        })
    }

    /// What the leaves that are not counted can have.
    fn bounds(&self) -> Bounds {
        let progress = self.progress();
        progress.bounds.unwrap_or_else(|| {
            let mut bounds = Bounds::default();
            for leaf in self.outline().leaves.get(progress.next..).unwrap_or_default() {
                let Bounds { least, most } = Bounds::of(leaf);
                bounds.least += least;
                bounds.most += most;
            }
            self.progress.set(Some(Progress { bounds: Some(bounds), ..progress }));
            bounds
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
    fn advance(&self, limit: u64) -> Result<bool, NeedsExact> {
        self.note(Effort::Counted);
        let Bounds { mut least, mut most } = self.bounds();
        let Progress { next, tokens, mut rest, .. } = self.progress();
        let Some(leaf) = self.outline().leaves.get(next) else { return Ok(true) };
        rest.bytes -= leaf.words.raw_len();
        rest.unbounded -= usize::from(leaf.words.is_rendered());
        let of_leaf = Bounds::of(leaf);
        least -= of_leaf.least;
        most -= of_leaf.most;
        let text = leaf.words.text();
        if text.len() > MOST_RENDERED * INLINE_BYTES {
            return Err(NeedsExact);
        }
        let left = limit.saturating_sub(tokens.saturating_add(least));
        let counted = match leaf.words.is_rendered() {
            true => Some(self.count_text(&leaf.words, &text)),
            false => self.encoding.count_till(&text, left),
        };
        let Some(counted) = counted else { return Ok(false) };
        let bounds = Some(Bounds { least, most });
        let tokens = tokens.saturating_add(counted);
        self.reached(Progress { next: next + 1, tokens, rest, bounds });
        Ok(true)
    }

    /// Counts a text, and remembers what is likely to come again.
    fn count_text(&self, words: &Words<'_>, text: &str) -> u64 {
        let tokens = self.encoding.count(text);
        if let Some(key) = words.key(self.encoding) {
            cache::put(key, tokens);
        }
        tokens
    }

    fn sample_exceeds(&self, limit: u64) -> Result<bool, NeedsExact> {
        if self.progress().rest.unbounded > 0 {
            return Err(NeedsExact);
        }
        for (sampling, known) in SAMPLINGS.iter().zip(&self.samples) {
            let sampled = self.sampled(sampling, known);
            if limit.abs_diff(sampled) > sampled / 100 * sampling.margin_percent {
                return Ok(sampled > limit);
            }
        }
        Err(NeedsExact)
    }

    /// What samples say that the prompt has.
    fn sampled(&self, sampling: &Sampling, known: &Cell<Option<u64>>) -> u64 {
        if let Some(sampled) = known.get() {
            return sampled;
        }
        self.note(Effort::Sampled);
        let progress = self.progress();
        let rest = self.outline().leaves.get(progress.next..).unwrap_or_default();
        let raws: Vec<&[u8]> =
            rest.iter().flat_map(|leaf| leaf.words.raws()).map(|raw| raw.get()).collect();
        let sampled = progress.tokens.saturating_add(sampling.estimate(self.encoding, &raws));
        known.set(Some(sampled));
        sampled
    }
}

impl Progress {
    /// Whether what the rest can have may decide about a limit. Between the fewest tokens that so many bytes
    /// can have and the most, it does not.
    fn may_be_told(&self, limit: u64, leaves: usize) -> bool {
        let left = usize::try_from(limit.saturating_sub(self.tokens)).unwrap_or(usize::MAX);
        // Each leaf's share is rounded up to a whole token.
        left <= self.rest.bytes / LONGEST_TOKEN_BYTES + leaves || left >= self.rest.bytes
    }
}

impl Bounds {
    /// Every token has 1 to 128 bytes of text; a byte of text has 1 to 6 bytes of JSON.
    fn of(leaf: &Leaf<'_>) -> Self {
        let mut bounds = Self::default();
        if leaf.words.is_rendered() {
            return bounds;
        }
        let bytes = leaf.words.raw_len();
        let mut shortest = 0;
        for raw in leaf.words.raws() {
            let inner = raw.get().len().saturating_sub(2);
            let escaped = memchr::memchr(b'\\', raw.get()).is_some();
            shortest += if escaped { inner.div_ceil(LONGEST_ESCAPE) } else { inner };
            // A lone surrogate, 6 bytes, is read as 9.
            let longest =
                if escaped && has_surrogate(raw.get()) { 2 * bytes } else { raw.get().len() };
            bounds.most += longest as u64;
        }
        bounds.least = shortest.div_ceil(LONGEST_TOKEN_BYTES) as u64;
        bounds
    }
}

fn has_surrogate(raw: &[u8]) -> bool {
    [&br"\ud"[..], br"\uD"].iter().any(|head| memchr::memmem::find(raw, head).is_some())
}

impl Sampling {
    /// Estimates the tokens of texts, given as JSON.
    fn estimate(&self, encoding: Encoding, raws: &[&[u8]]) -> u64 {
        let all: usize = raws.iter().map(|raw| raw.len()).sum();
        let (mut tokens, mut bytes) = (0, 0);
        let mut texts = raws.iter();
        let (mut text, mut before) = (&[][..], 0);
        for place in 0..PIECES {
            let (mut at, mut wanted) = (all / PIECES * place, self.piece_bytes);
            while wanted > 0 {
                if at >= before + text.len() {
                    before += text.len();
                    let Some(next) = texts.next() else { break };
                    text = next;
                    continue;
                }
                let piece = piece(text, at - before, wanted);
                tokens += encoding.count(&unescape_text(piece));
                bytes += piece.len();
                at += piece.len().max(1);
                wanted = wanted.saturating_sub(piece.len().max(1));
            }
        }
        let tokens = u128::from(tokens) * all as u128 / bytes.max(1) as u128;
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// About `len` bytes of a text, from about `from`, in whole characters. What the cut leaves of an escape
/// stays.
fn piece(text: &[u8], from: usize, len: usize) -> &[u8] {
    let continues = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xC0 == 0x80);
    let start = (0..=from.min(text.len())).rev().find(|at| !continues(at)).unwrap_or(0);
    let end = (from.saturating_add(len)..text.len()).find(|at| !continues(at));
    text.get(start..end.unwrap_or(text.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests;
