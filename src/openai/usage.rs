//! What a call used, as the provider reports it.

use std::borrow::Cow;

use crate::openai::scan;
use crate::openai::scan::Member;
use crate::openai::scan::Members;
use crate::openai::unescape::unescape;

/// More tokens than any call can use; a report above it is a mistake, and sums of it stay far from
/// overflow.
const MOST_TOKENS: u64 = 1 << 40;

/// Tokens of one call, from a `usage` object of any endpoint. Parts are contained in their totals:
/// cached, cache-write, audio and image input in `input`, reasoning, audio and image output in
/// `output`; cached audio and image input also in `cached_input`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens (`prompt_tokens` or `input_tokens`).
    pub input: u64,
    /// Input read from the prompt cache.
    pub cached_input: u64,
    /// Audio read from the prompt cache: contained in `cached_input` and in `audio_input`.
    pub cached_audio_input: u64,
    /// Images read from the prompt cache: contained in `cached_input` and in `image_input`.
    pub cached_image_input: u64,
    /// Input written to the prompt cache.
    pub cache_write: u64,
    /// Audio input.
    pub audio_input: u64,
    /// Image input.
    pub image_input: u64,
    /// All output tokens (`completion_tokens` or `output_tokens`); 0 for embeddings.
    pub output: u64,
    /// Hidden reasoning output.
    pub reasoning: u64,
    /// Audio output.
    pub audio_output: u64,
    /// Image output.
    pub image_output: u64,
    /// Audio heard that is billed by its length, in milliseconds; no part of any token count.
    pub heard_ms: u64,
    /// Characters of text that are billed as such, to be spoken.
    pub characters: u64,
    /// Searches of the web, each with a price of its own.
    pub web_searches: u64,
    /// Whether the cache that was written to is kept for longer, at a price of its own.
    pub long_retention: bool,
}

impl Usage {
    /// Reads the JSON text of one `usage` object, as any endpoint spells it. Missing and null parts
    /// are 0; of a number that is told in two spellings the larger counts: servers that send both
    /// may leave one at 0.
    ///
    /// None when the text is not an object, when it names neither input nor output tokens nor a
    /// duration, or when a number is negative, fractional (but for seconds) or beyond 2^40.
    pub fn from_json(raw: &[u8]) -> Option<Self> {
        Self::from_members(raw, &scan::members(raw).ok()?)
    }

    /// The same of an object that is scanned already, somewhere in `raw`.
    pub(super) fn from_members(raw: &[u8], members: &Members) -> Option<Self> {
        let mut usage = Self::default();
        let (mut input, mut output, mut seconds) = (None, None, None);
        for (name, value) in named(raw, &members.list) {
            match &*name {
                b"prompt_tokens" | b"input_tokens" => input = input.max(number(value)?),
                b"completion_tokens" | b"output_tokens" => output = output.max(number(value)?),
                b"seconds" => seconds = seconds.max(Some(millis(value)?)),
                // Realtime and transcriptions drop the plural s.
                b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details" => {
                    usage.add_input_details(value)?;
                }
                b"completion_tokens_details"
                | b"output_tokens_details"
                | b"output_token_details" => usage.add_output_details(value)?,
                _ => {}
            }
        }
        if input.is_none() && output.is_none() {
            // A transcription that is billed by its length.
            usage.heard_ms = seconds?;
        }
        (usage.input, usage.output) = (input.unwrap_or(0), output.unwrap_or(0));
        usage.is_plausible().then_some(usage)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            cached_audio_input: self.cached_audio_input.saturating_add(other.cached_audio_input),
            cached_image_input: self.cached_image_input.saturating_add(other.cached_image_input),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            audio_input: self.audio_input.saturating_add(other.audio_input),
            image_input: self.image_input.saturating_add(other.image_input),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            audio_output: self.audio_output.saturating_add(other.audio_output),
            image_output: self.image_output.saturating_add(other.image_output),
            heard_ms: self.heard_ms.saturating_add(other.heard_ms),
            characters: self.characters.saturating_add(other.characters),
            web_searches: self.web_searches.saturating_add(other.web_searches),
            long_retention: self.long_retention || other.long_retention,
        }
    }

    fn add_input_details(&mut self, raw: &[u8]) -> Option<()> {
        for (name, value) in named(raw, &part(raw)?) {
            let tokens = match &*name {
                b"cached_tokens" => &mut self.cached_input,
                b"cache_write_tokens" => &mut self.cache_write,
                b"audio_tokens" => &mut self.audio_input,
                b"image_tokens" => &mut self.image_input,
                b"cached_tokens_details" => {
                    self.add_cached_details(value)?;
                    continue;
                }
                _ => continue,
            };
            *tokens = (*tokens).max(number(value)?.unwrap_or(0));
        }
        Some(())
    }

    fn add_cached_details(&mut self, raw: &[u8]) -> Option<()> {
        for (name, value) in named(raw, &part(raw)?) {
            let tokens = match &*name {
                b"audio_tokens" => &mut self.cached_audio_input,
                b"image_tokens" => &mut self.cached_image_input,
                _ => continue,
            };
            *tokens = (*tokens).max(number(value)?.unwrap_or(0));
        }
        Some(())
    }

    fn add_output_details(&mut self, raw: &[u8]) -> Option<()> {
        for (name, value) in named(raw, &part(raw)?) {
            let tokens = match &*name {
                b"reasoning_tokens" => &mut self.reasoning,
                b"audio_tokens" => &mut self.audio_output,
                b"image_tokens" => &mut self.image_output,
                _ => continue,
            };
            *tokens = (*tokens).max(number(value)?.unwrap_or(0));
        }
        Some(())
    }

    fn is_plausible(&self) -> bool {
        [
            self.input,
            self.cached_input,
            self.cached_audio_input,
            self.cached_image_input,
            self.cache_write,
            self.audio_input,
            self.image_input,
            self.output,
            self.reasoning,
            self.audio_output,
            self.image_output,
            self.heard_ms,
        ]
        .iter()
        .all(|&tokens| tokens <= MOST_TOKENS)
    }
}

/// Names, decoded, and values.
fn named<'a>(
    raw: &'a [u8],
    members: &'a [Member],
) -> impl Iterator<Item = (Cow<'a, [u8]>, &'a [u8])> {
    members.iter().map(move |member| {
        let name = member.name.of(raw);
        let name = if member.escaped { unescape(name) } else { Cow::Borrowed(name) };
        (name, member.value.of(raw))
    })
}

/// The members of a nested object: null is an empty one, anything else must be an object. Most hold
/// nothing but zeros: these are not read.
fn part(raw: &[u8]) -> Option<Vec<Member>> {
    // Without a branch, so that it becomes vector instructions.
    let tells = |told: bool, byte: &u8| {
        told | (byte.wrapping_sub(b'1') < 9) | matches!(byte, b'-' | b'.' | b'[')
    };
    if raw == b"null" || !raw.iter().fold(false, tells) {
        return Some(Vec::new());
    }
    Some(scan::members(raw).ok()?.list)
}

/// A natural number, or null; the outer None for anything else.
#[expect(clippy::option_option, reason = "no number, and a number that is not told")]
fn number(raw: &[u8]) -> Option<Option<u64>> {
    if raw == b"null" {
        return Some(None);
    }
    let digits = raw.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(raw).ok().filter(|_| digits)?.parse().ok().map(Some)
}

/// Seconds with or without a fraction, in milliseconds.
fn millis(raw: &[u8]) -> Option<u64> {
    let seconds: f64 = std::str::from_utf8(raw).ok()?.parse().ok()?;
    let most = 1_099_511_627_776.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 to 2^40")]
    (0.0..=most).contains(&(seconds * 1e3)).then(|| (seconds * 1e3).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Usage> {
        Usage::from_json(text.as_bytes())
    }

    #[test]
    fn a_chat_usage_is_read_with_all_its_details() {
        let usage = read(
            r#"{"prompt_tokens":2006,"completion_tokens":300,"total_tokens":2306,
              "prompt_tokens_details":{"cached_tokens":1920,"cache_write_tokens":7,
                "audio_tokens":2,"image_tokens":3,"text_tokens":null},
              "completion_tokens_details":{"reasoning_tokens":128,"audio_tokens":4,
                "accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
        );
        let expected = Usage {
            input: 2006,
            cached_input: 1920,
            cache_write: 7,
            audio_input: 2,
            image_input: 3,
            output: 300,
            reasoning: 128,
            audio_output: 4,
            ..Usage::default()
        };
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn a_responses_usage_is_read() {
        let usage = read(
            r#"{"input_tokens":36,"input_tokens_details":{"cached_tokens":9,"cache_write_tokens":5},
              "output_tokens":87,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123}"#,
        );
        let expected = Usage {
            input: 36,
            cached_input: 9,
            cache_write: 5,
            output: 87,
            reasoning: 64,
            ..Usage::default()
        };
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn a_realtime_usage_splits_the_cached_tokens() {
        let usage = read(
            r#"{"total_tokens":253,"input_tokens":132,"output_tokens":121,
              "input_token_details":{"text_tokens":100,"audio_tokens":22,"image_tokens":10,
                "cached_tokens":64,
                "cached_tokens_details":{"text_tokens":50,"audio_tokens":10,"image_tokens":4}},
              "output_token_details":{"text_tokens":30,"audio_tokens":91}}"#,
        );
        let expected = Usage {
            input: 132,
            cached_input: 64,
            cached_audio_input: 10,
            cached_image_input: 4,
            audio_input: 22,
            image_input: 10,
            output: 121,
            audio_output: 91,
            ..Usage::default()
        };
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn embeddings_images_and_transcriptions_are_read() {
        let embeddings = read(r#"{"prompt_tokens":8,"total_tokens":8}"#);
        assert_eq!(embeddings, Some(Usage { input: 8, ..Usage::default() }));
        let images = read(
            r#"{"total_tokens":100,"input_tokens":50,"output_tokens":50,
              "input_tokens_details":{"text_tokens":10,"image_tokens":40},
              "output_tokens_details":{"text_tokens":2,"image_tokens":48}}"#,
        );
        let expected =
            Usage { input: 50, image_input: 40, output: 50, image_output: 48, ..Usage::default() };
        assert_eq!(images, Some(expected));
        let heard = read(
            r#"{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59,
              "input_token_details":{"text_tokens":0,"audio_tokens":14}}"#,
        );
        let expected = Usage { input: 14, audio_input: 14, output: 45, ..Usage::default() };
        assert_eq!(heard, Some(expected));
    }

    #[test]
    fn nulls_and_absences_are_zero_and_unknown_fields_are_ignored() {
        let usage = read(
            r#" {"prompt_tokens":5,"completion_tokens":null,"prompt_tokens_details":null,
              "completion_tokens_details":{},"cost":0.25,"queue":[1,{"a":"b"}]}"#,
        );
        assert_eq!(usage, Some(Usage { input: 5, ..Usage::default() }));
    }

    #[test]
    fn both_spellings_at_once_are_one_number() {
        let usage =
            read(r#"{"prompt_tokens":7,"input_tokens":0,"completion_tokens":3,"output_tokens":3}"#);
        assert_eq!(usage, Some(Usage { input: 7, output: 3, ..Usage::default() }));
    }

    #[test]
    fn a_transcription_may_be_billed_by_its_length() {
        let heard = |ms| Some(Usage { heard_ms: ms, ..Usage::default() });
        assert_eq!(read(r#"{"type":"duration","seconds":9}"#), heard(9_000));
        assert_eq!(read(r#"{"type":"duration","seconds":0.5}"#), heard(500));
        for wrong in ["-1", "\"9\"", "1e30", "null", "NaN"] {
            assert_eq!(read(&format!("{{\"seconds\":{wrong}}}")), None, "{wrong}");
        }
        // Beside tokens it is a remark.
        let both = read(r#"{"input_tokens":3,"seconds":9}"#);
        assert_eq!(both, Some(Usage { input: 3, ..Usage::default() }));
    }

    #[test]
    fn a_report_without_tokens_is_no_report() {
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"prompt_tokens":null}"#), None);
    }

    #[test]
    fn impossible_numbers_are_no_report() {
        for number in ["-1", "1.5", "1e30", "99999999999999999999999", "\"12\"", "[]", "2e12"] {
            assert_eq!(read(&format!("{{\"prompt_tokens\":{number}}}")), None, "{number}");
            let details = format!(
                "{{\"prompt_tokens\":1,\"prompt_tokens_details\":{{\"cached_tokens\":{number}}}}}"
            );
            assert_eq!(read(&details), None, "{number}");
        }
        assert_eq!(read(r#"{"prompt_tokens":1099511627777}"#), None);
        assert_eq!(read(r#"{"prompt_tokens":1099511627776}"#).unwrap().input, 1 << 40);
    }

    #[test]
    fn what_is_not_an_object_is_no_report() {
        for text in ["", "null", "[1,2,3,4]", "7", "\"x\"", "{", "{\"prompt_tokens\":1}x"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(Usage::from_json(b"{\"prompt_tokens\":1,\"\xff\":2}"), None);
        assert_eq!(read(r#"{"prompt_tokens":1,"prompt_tokens_details":[1,2,3]}"#), None);
    }
}
