//! What a call used, as the provider reports it.

use serde::Deserialize;
use serde_json::value::RawValue;

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
}

/// A `usage` object as any endpoint spells it. Both families of names may be present at once:
/// some servers send the newer names beside the older ones.
#[derive(Deserialize)]
struct Report<'a> {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
    // Realtime and transcriptions drop the plural s.
    #[serde(borrow)]
    input_token_details: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    output_token_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct InputDetails<'a> {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    image_tokens: Option<u64>,
    #[serde(borrow)]
    cached_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct CachedDetails {
    audio_tokens: Option<u64>,
    image_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    image_tokens: Option<u64>,
}

impl Usage {
    /// Reads the JSON text of one `usage` object. Missing and null parts are 0.
    ///
    /// None when the text is not an object, when it names neither input nor output tokens (such as
    /// a transcription billed by duration: 0 tokens would be a claim, not a report), or when a
    /// number is negative, fractional or beyond 2^40.
    pub fn from_json(raw: &[u8]) -> Option<Self> {
        let report: Report<'_> = object(std::str::from_utf8(raw).ok()?)?;
        let input = larger(report.prompt_tokens, report.input_tokens);
        let output = larger(report.completion_tokens, report.output_tokens);
        if input.is_none() && output.is_none() {
            return None;
        }
        let mut usage =
            Self { input: input.unwrap_or(0), output: output.unwrap_or(0), ..Self::default() };
        for raw in
            [report.prompt_tokens_details, report.input_tokens_details, report.input_token_details]
        {
            usage.add_input_details(raw)?;
        }
        for raw in [
            report.completion_tokens_details,
            report.output_tokens_details,
            report.output_token_details,
        ] {
            usage.add_output_details(raw)?;
        }
        usage.is_plausible().then_some(usage)
    }

    fn add_input_details(&mut self, raw: Option<&RawValue>) -> Option<()> {
        let details: InputDetails<'_> = part(raw)?;
        let cached: CachedDetails = part(details.cached_tokens_details)?;
        raise(&mut self.cached_input, details.cached_tokens);
        raise(&mut self.cache_write, details.cache_write_tokens);
        raise(&mut self.audio_input, details.audio_tokens);
        raise(&mut self.image_input, details.image_tokens);
        raise(&mut self.cached_audio_input, cached.audio_tokens);
        raise(&mut self.cached_image_input, cached.image_tokens);
        Some(())
    }

    fn add_output_details(&mut self, raw: Option<&RawValue>) -> Option<()> {
        let details: OutputDetails = part(raw)?;
        raise(&mut self.reasoning, details.reasoning_tokens);
        raise(&mut self.audio_output, details.audio_tokens);
        raise(&mut self.image_output, details.image_tokens);
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
        ]
        .iter()
        .all(|&tokens| tokens <= MOST_TOKENS)
    }
}

/// Reads one JSON object. serde would also read an array into a struct, by position.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// A nested object: absent and null are its default, anything else must be an object.
fn part<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>) -> Option<T> {
    raw.map_or_else(|| Some(T::default()), |raw| object(raw.get()))
}

/// The larger of two spellings of one number: servers that send both may leave one at 0.
fn larger(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.max(b)
}

fn raise(tokens: &mut u64, reported: Option<u64>) {
    *tokens = (*tokens).max(reported.unwrap_or(0));
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
    fn a_report_without_tokens_is_no_report() {
        assert_eq!(read(r#"{"type":"duration","seconds":9}"#), None);
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
