//! Counting tokens of text and of whole requests.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::Tokenizer;
use tiktoken_rs::tokenizer::get_tokenizer;

use crate::metering::prompt;

/// Longest text given to the tokenizer at once. It panics on 1,000,000 whitespace characters in a
/// row (fancy-regex's stack), and its time grows faster than the text.
const PIECE_BYTES: usize = 64 * 1024;
/// Longest text that is counted whole; a longer one is sampled.
pub(super) const WHOLE_BYTES: usize = 1024 * 1024;
/// A sample is this many pieces from evenly spread places.
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 16 * 1024;

/// A vocabulary and the rules to cut text by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Everything since gpt-4o.
    O200kBase,
    /// gpt-oss.
    O200kHarmony,
    /// gpt-4, gpt-3.5 and the embeddings.
    Cl100kBase,
    /// Codex and text-davinci-002 and -003.
    P50kBase,
    /// The edit models.
    P50kEdit,
    /// GPT-3.
    R50kBase,
}

impl Encoding {
    /// Every name that [`Encoding::from_name`] knows.
    pub const NAMES: [&str; 6] =
        ["o200k_base", "o200k_harmony", "cl100k_base", "p50k_base", "p50k_edit", "r50k_base"];

    /// The encoding of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "o200k_base" => Self::O200kBase,
            "o200k_harmony" => Self::O200kHarmony,
            "cl100k_base" => Self::Cl100kBase,
            "p50k_base" => Self::P50kBase,
            "p50k_edit" => Self::P50kEdit,
            "r50k_base" | "gpt2" => Self::R50kBase,
            _ => return None,
        })
    }

    /// The encoding of a model; that of the newest models when the name is not known.
    pub fn of(model: &str) -> Self {
        match get_tokenizer(model) {
            // Billed usage names this one `text-embedding-ada-002-v2`, which the table lacks.
            None if model.starts_with("text-embedding-") => Self::Cl100kBase,
            None | Some(Tokenizer::O200kBase) => Self::O200kBase,
            Some(Tokenizer::O200kHarmony) => Self::O200kHarmony,
            Some(Tokenizer::Cl100kBase) => Self::Cl100kBase,
            Some(Tokenizer::P50kBase) => Self::P50kBase,
            Some(Tokenizer::P50kEdit) => Self::P50kEdit,
            Some(Tokenizer::R50kBase | Tokenizer::Gpt2) => Self::R50kBase,
        }
    }

    /// Counts the tokens of a text, special-token text (`<|endoftext|>`) as the ordinary text that
    /// it is when a client writes it. Exact at any length. The first call of an encoding loads its
    /// vocabulary, see [`Encoding::warm`].
    pub fn count(self, text: &str) -> u64 {
        pieces(text).map(|piece| self.count_piece(piece)).sum()
    }

    /// The count when it is at most `limit`, `None` when it is more. The work grows with the limit,
    /// not with the text.
    pub fn count_till(self, text: &str, limit: u64) -> Option<u64> {
        Some(self.count(text)).filter(|count| *count <= limit)
    }

    /// The count of a text of at most 1 MiB; beyond it an estimate from sixteen samples.
    pub fn estimate(self, text: &str) -> u64 {
        if text.len() <= WHOLE_BYTES {
            return self.count(text);
        }
        let samples = || (0..SAMPLES).map(|place| sample(text, place));
        let tokens: u64 = samples().map(|sample| self.count_piece(sample)).sum();
        scaled(tokens, samples().map(str::len).sum(), text.len())
    }

    /// Loads the vocabulary now, which takes 100 to 250 ms, instead of at the first count.
    pub fn warm(self) {
        self.vocabulary();
    }

    fn count_piece(self, piece: &str) -> u64 {
        u64::try_from(self.vocabulary().count_ordinary(piece)).unwrap_or(u64::MAX)
    }

    fn vocabulary(self) -> &'static CoreBPE {
        match self {
            Self::O200kBase => tiktoken_rs::o200k_base_singleton(),
            Self::O200kHarmony => tiktoken_rs::o200k_harmony_singleton(),
            Self::Cl100kBase => tiktoken_rs::cl100k_base_singleton(),
            Self::P50kBase => tiktoken_rs::p50k_base_singleton(),
            Self::P50kEdit => tiktoken_rs::p50k_edit_singleton(),
            Self::R50kBase => tiktoken_rs::r50k_base_singleton(),
        }
    }
}

/// Counts the tokens of a text in the model's encoding. See [`Encoding::count`].
pub fn count_text(model: &str, text: &str) -> u64 {
    Encoding::of(model).count(text)
}

/// Estimates the prompt tokens of a request from its body, whichever endpoint it is for: by its
/// `messages`, `input` and `instructions`, or `prompt`. Plain text is exact nearly always; tools
/// and schemas come within a few percent; images and files count a flat 765 each, and what the
/// provider adds by itself (hosted tools, stored conversations) is not seen. 0 for a body that is
/// not a JSON object.
pub fn estimate_prompt(model: &str, body: &[u8]) -> u64 {
    estimate_prompt_as(Encoding::of(model), model, body)
}

/// The same in an encoding that a policy names for the model.
pub fn estimate_prompt_as(encoding: Encoding, model: &str, body: &[u8]) -> u64 {
    prompt::estimate(encoding, model, body)
}

/// Cuts a text into pieces, where it can so that the counts of the pieces add up to its own: every
/// encoding starts a new word at a space between two letters or digits.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at_checked(piece_end(rest)).unwrap_or((rest, ""));
        rest = after;
        Some(piece)
    })
}

/// Where the first piece of a text that is not empty ends: after 1 to [`PIECE_BYTES`] bytes.
fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let window = text.as_bytes().get(..=PIECE_BYTES).unwrap_or_default();
    let between_words = window.windows(3).rposition(|bytes| {
        matches!(bytes, [before, b' ', after]
            if before.is_ascii_alphanumeric() && after.is_ascii_alphanumeric())
    });
    between_words.map_or_else(|| text.floor_char_boundary(PIECE_BYTES), |place| place + 1)
}

/// One of [`SAMPLES`] pieces of a long text, evenly spread.
fn sample(text: &str, place: usize) -> &str {
    let start = text.floor_char_boundary(text.len() / SAMPLES * place);
    let end = text.floor_char_boundary(start + SAMPLE_BYTES);
    text.get(start..end).unwrap_or_default()
}

/// `tokens` of `sampled` bytes, scaled to `all` bytes.
fn scaled(tokens: u64, sampled: usize, all: usize) -> u64 {
    let (sampled, all) = (sampled.max(1) as u128, all as u128);
    u64::try_from(u128::from(tokens) * all / sampled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Recorded requests with the prompt tokens that were billed for them.
    const PAIRS: &str = include_str!("../../tests/fixtures/usage_pairs.jsonl");

    #[derive(Deserialize)]
    struct Pair<'a> {
        category: String,
        model: String,
        #[serde(borrow)]
        request: &'a serde_json::value::RawValue,
        prompt_tokens: u64,
    }

    /// How many pairs of a category are estimated to the token, and how many there are.
    fn exact(category: &str) -> (usize, usize) {
        let pairs = PAIRS.lines().map(|line| serde_json::from_str::<Pair<'_>>(line).unwrap());
        let pairs: Vec<_> = pairs.filter(|pair| pair.category == category).collect();
        let hit = |pair: &&Pair<'_>| {
            estimate_prompt(&pair.model, pair.request.get().as_bytes()) == pair.prompt_tokens
        };
        (pairs.iter().filter(hit).count(), pairs.len())
    }

    #[test]
    fn recorded_plain_chats_are_counted_to_the_token_nine_times_in_ten() {
        let (exact, all) = exact("chat:plain text");
        assert!(all >= 40 && exact * 10 >= all * 9, "{exact} of {all}");
    }

    #[test]
    fn recorded_embeddings_and_completions_are_counted_to_the_token() {
        assert_eq!(exact("embeddings"), (6, 6));
        assert_eq!(exact("completions"), (4, 4));
    }

    #[test]
    fn text_is_counted_in_the_encoding_of_its_model() {
        assert_eq!(count_text("gpt-5", "hello world"), 2);
        assert_eq!(count_text("gpt-4", "hello world"), 2);
        // The newer vocabulary knows more of Chinese.
        assert!(count_text("gpt-4", "你好，世界") > count_text("gpt-4o", "你好，世界"));
        assert_eq!(count_text("gpt-5", ""), 0);
    }

    #[test]
    fn special_token_text_from_a_client_is_ordinary_text() {
        assert_eq!(count_text("gpt-5", "<|endoftext|>"), 7);
        assert_eq!(count_text("gpt-4", "<|endoftext|>"), 7);
    }

    #[test]
    fn a_model_has_its_encoding_and_an_unknown_one_the_newest() {
        for model in ["gpt-6-luna", "gpt-6.1-sol", "o3", "gpt-realtime", "house-llama", ""] {
            assert_eq!(Encoding::of(model), Encoding::O200kBase, "{model}");
        }
        for model in ["gpt-4", "gpt-3.5-turbo", "text-embedding-ada-002-v2", "ft:gpt-4-0613:a::b"] {
            assert_eq!(Encoding::of(model), Encoding::Cl100kBase, "{model}");
        }
        assert_eq!(Encoding::of("ft:gpt-4.1-mini-2025-04-14:a::b"), Encoding::O200kBase);
        assert!(Encoding::NAMES.iter().all(|name| Encoding::from_name(name).is_some()));
        assert_eq!(Encoding::from_name("utf8"), None);
    }

    #[test]
    fn a_million_spaces_do_not_stop_the_count() {
        for run in [" ", "\t", "\n", "\u{a0}", "a", "-", "\u{1f600}"] {
            let text = run.repeat(1_100_000 / run.len());
            assert!(count_text("gpt-5", &text) > 0, "{run:?}");
            assert!(count_text("gpt-4", &format!("{text}x")) > 0, "{run:?}");
        }
    }

    #[test]
    fn pieces_of_words_count_as_the_whole_does() {
        let text = "The quick brown fox, 1234 of them; jumps over 9 lazy dogs!\n".repeat(3000);
        assert!(text.len() > 2 * PIECE_BYTES && text.len() < WHOLE_BYTES);
        assert_eq!(pieces(&text).collect::<String>(), text);
        for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
            let whole = encoding.count_piece(&text);
            assert_eq!(encoding.count(&text), whole);
        }
    }

    #[test]
    fn a_text_beyond_a_mebibyte_is_estimated_from_samples() {
        let line = "The quick brown fox jumps over the lazy dog.\n";
        let text = line.repeat(30_000);
        assert!(text.len() > WHOLE_BYTES);
        // 10 tokens a line and its end: 11 or fewer, and the samples are within 1 % of all lines.
        let per_line = count_text("gpt-5", &line.repeat(1000)) * 30;
        let estimate = Encoding::of("gpt-5").estimate(&text);
        assert!(estimate.abs_diff(per_line) * 100 <= per_line, "{estimate} {per_line}");
    }

    proptest::proptest! {
        #[test]
        fn pieces_are_the_text_whatever_it_is(unit in "[ a-z\u{e9}\u{4f60}\u{1f600}]{1,9}") {
            let text = unit.repeat(200_000 / unit.len());
            proptest::prop_assert!(pieces(&text).all(|piece| piece.len() <= PIECE_BYTES));
            proptest::prop_assert_eq!(pieces(&text).collect::<String>(), text);
        }
    }
}
