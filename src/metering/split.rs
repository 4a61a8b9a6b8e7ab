//! A usage divided into kinds of tokens that do not overlap, ready to be multiplied by prices.

use crate::metering::catalogue::Mode;
use crate::metering::rates::TokenKind;
use crate::openai::usage::Usage;

/// The tokens of a usage by kind. Together they are its input and output, each token once.
pub(super) struct Split {
    /// In the order of [`TokenKind::ALL`].
    pub(super) tokens: [u64; TokenKind::ALL.len()],
    /// Whether the reported parts fit their totals. Where not, the totals hold and parts are cut.
    pub(super) agrees: bool,
}

impl Split {
    pub(super) fn of(usage: &Usage, mode: Mode) -> Self {
        let agrees = usage.reasoning <= usage.output;
        let mut split = Self { tokens: [0; TokenKind::ALL.len()], agrees };
        split.divide_input(usage);
        split.divide_output(usage, mode);
        split
    }

    fn divide_input(&mut self, usage: &Usage) {
        let audio = self.cut(usage.audio_input, usage.input);
        let image = self.cut(usage.image_input, usage.input - audio);
        let text = usage.input - audio - image;

        let cached = self.cut(usage.cached_input, usage.input);
        let cached_audio = self.cut(usage.cached_audio_input, audio.min(cached));
        let cached_image = self.cut(usage.cached_image_input, image.min(cached - cached_audio));
        let untold = cached - cached_audio - cached_image;
        let [text, image, audio] = [text, image - cached_image, audio - cached_audio];
        let [text_more, image_more, audio_more] = text_first(untold, [text, image, audio]);
        self.put(TokenKind::CachedInput, text_more);
        self.put(TokenKind::CachedImageInput, cached_image + image_more);
        self.put(TokenKind::CachedAudioInput, cached_audio + audio_more);

        let [text, image, audio] = [text - text_more, image - image_more, audio - audio_more];
        let written = self.cut(usage.cache_write, text + image + audio);
        let [text_written, image_written, audio_written] =
            text_first(written, [text, image, audio]);
        let kind = match usage.long_retention {
            true => TokenKind::CacheWriteLongTtl,
            false => TokenKind::CacheWrite,
        };
        self.put(kind, written);
        self.put(TokenKind::Input, text - text_written);
        self.put(TokenKind::ImageInput, image - image_written);
        self.put(TokenKind::AudioInput, audio - audio_written);
    }

    fn divide_output(&mut self, usage: &Usage, mode: Mode) {
        let mut audio = self.cut(usage.audio_output, usage.output);
        let mut image = self.cut(usage.image_output, usage.output - audio);
        // Image and speech endpoints may report their one kind of output without naming it.
        match mode {
            Mode::ImageGeneration if audio + image == 0 => image = usage.output,
            Mode::AudioSpeech if audio + image == 0 => audio = usage.output,
            _ => {}
        }
        self.put(TokenKind::Output, usage.output - audio - image);
        self.put(TokenKind::AudioOutput, audio);
        self.put(TokenKind::ImageOutput, image);
    }

    /// As much of a part as its whole can hold.
    fn cut(&mut self, part: u64, whole: u64) -> u64 {
        self.agrees &= part <= whole;
        part.min(whole)
    }

    fn put(&mut self, kind: TokenKind, tokens: u64) {
        self.tokens[kind as usize] = tokens;
    }
}

/// Spreads tokens whose kind is not told over text, images and audio, in that order: what caches is
/// mostly text. `untold` is at most the sum of the three.
fn text_first(untold: u64, [text, image, audio]: [u64; 3]) -> [u64; 3] {
    let of_text = untold.min(text);
    let of_image = (untold - of_text).min(image);
    [of_text, of_image, (untold - of_text - of_image).min(audio)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(usage: Usage) -> Vec<(&'static str, u64)> {
        let split = Split::of(&usage, Mode::Chat);
        assert!(split.agrees);
        let named = TokenKind::ALL.map(TokenKind::as_str).into_iter().zip(split.tokens);
        named.filter(|(_, tokens)| *tokens > 0).collect()
    }

    #[test]
    fn cached_tokens_of_no_told_kind_are_text_as_far_as_there_is_text() {
        let usage = Usage { input: 100, audio_input: 80, cached_input: 50, ..Usage::default() };
        // 20 text, all cached; the other 30 cached ones can only be audio; 50 audio remain.
        let expected = [("cached_input", 20), ("audio_input", 50), ("cached_audio_input", 30)];
        let mut found = split(usage);
        found.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn cached_written_and_plain_tokens_do_not_overlap() {
        let usage = Usage { input: 100, cached_input: 30, cache_write: 60, ..Usage::default() };
        assert_eq!(split(usage), [("input", 10), ("cached_input", 30), ("cache_write", 60)]);
    }

    #[test]
    fn parts_beyond_their_total_are_cut_and_told() {
        for usage in [
            Usage { input: 10, cached_input: 11, ..Usage::default() },
            Usage { input: 10, cached_input: 6, cache_write: 5, ..Usage::default() },
            Usage { input: 10, audio_input: 6, image_input: 5, ..Usage::default() },
            Usage { output: 10, reasoning: 11, ..Usage::default() },
            Usage { output: 10, audio_output: 11, ..Usage::default() },
        ] {
            let split = Split::of(&usage, Mode::Chat);
            assert!(!split.agrees, "{usage:?}");
            assert_eq!(split.tokens.iter().sum::<u64>(), 10);
        }
    }
}
