//! Byte-pair encoding of one piece: of all neighbours that together are a token, those of the
//! lowest rank are joined, the leftmost first, until none are left.

use crate::metering::counter::lowest::Lowest;
use crate::metering::counter::vocabulary::CHUNK;
use crate::metering::counter::vocabulary::NONE;
use crate::metering::counter::vocabulary::Vocabulary;

/// Longer pieces are merged in windows of this many bytes, which stay in the processor's cache.
const WINDOW: usize = 2048;
/// When two windows do not fit together, the piece is counted again in windows so much larger.
const GROWTH: usize = 16;
/// A window's last bytes, at least two tokens, which the text behind it may still change.
const UNSETTLED: usize = 256;
/// Space for longer windows is given back after use.
const KEPT: usize = 16 * 1024;

/// Counts the tokens of pieces. Keeps its space between calls.
#[derive(Default)]
pub(super) struct Merger {
    /// The bytes being merged, and [`CHUNK`] zeros, so that a key can be read anywhere.
    bytes: Vec<u8>,
    /// Where each unit begins that merging started from, and where the last one ends. A token is
    /// known by its first unit.
    offset: Vec<usize>,
    /// The token behind the one that begins with this unit.
    next: Vec<usize>,
    /// The token before the one that begins with this unit.
    previous: Vec<usize>,
    /// The rank of what the token that begins with this unit and the next one are together.
    ranks: Lowest,
}

impl Merger {
    /// The tokens of a piece of at least one byte.
    pub(super) fn count(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> u64 {
        let mut window = WINDOW;
        let tokens = loop {
            match self.count_in_windows(vocabulary, piece, window) {
                Some(tokens) => break tokens,
                None => window *= GROWTH,
            }
        };
        if self.bytes.len() > KEPT {
            *self = Self::default();
        }
        tokens
    }

    /// Encodes a piece window by window, each from a token's start in the one before. `None` when a
    /// window does not fit to what went before it.
    ///
    /// This is exact: two encodings are the encoding of both texts together if, and only if, the
    /// token before the seam and the one behind it stay apart when those two alone are encoded.
    /// For until the first merge across the seam, either side is merged as it is by itself; and
    /// that first merge would be of an end of the one token with a beginning of the other.
    fn count_in_windows(
        &mut self,
        vocabulary: &Vocabulary,
        piece: &[u8],
        window: usize,
    ) -> Option<u64> {
        let (mut settled, mut last, mut from) = (0, 0, 0_usize);
        loop {
            let to = from.saturating_add(window).min(piece.len());
            let tokens = self.merge(vocabulary, &piece[from..to]);
            let first_end = from + self.offset[self.next[0]];
            let seam = self.seam(to - from);
            if from > 0 && !self.stay_apart(vocabulary, &piece[last..first_end], from - last) {
                return None;
            }
            if to == piece.len() {
                return Some(settled + tokens);
            }
            settled += seam.tokens;
            (last, from) = (from + seam.last, from + seam.at);
        }
    }

    /// Merges all that can be merged; gives the number of tokens.
    fn merge(&mut self, vocabulary: &Vocabulary, bytes: &[u8]) -> u64 {
        let mut tokens = self.begin(vocabulary, bytes) as u64;
        while let Some(at) = self.ranks.place() {
            self.join(vocabulary, at);
            tokens -= 1;
        }
        tokens
    }

    /// Lays out the units that merging starts from; gives their number.
    fn begin(&mut self, vocabulary: &Vocabulary, bytes: &[u8]) -> usize {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(&[0; CHUNK]);
        self.offset.clear();
        let mut at = 0;
        while at < bytes.len() {
            self.offset.push(at);
            at += vocabulary.whole_chars().unit(bytes, at);
        }
        let units = self.offset.len();
        self.offset.push(at);
        self.next.clear();
        self.next.extend(1..=units);
        self.previous.clear();
        self.previous.extend((0..=units).map(|unit| unit.saturating_sub(1)));
        let pairs = self.offset.iter().zip(self.offset.iter().skip(2));
        let ranks = pairs.map(|(from, to)| vocabulary.rank_of_bytes(&self.bytes, *from, *to));
        self.ranks.fill(ranks.chain([NONE]));
        units
    }

    /// Joins the token at this unit with the next one.
    #[inline]
    fn join(&mut self, vocabulary: &Vocabulary, unit: usize) {
        let right = self.next[unit];
        let after = self.next[right];
        self.next[unit] = after;
        self.previous[after] = unit;
        let (from, to) = (self.offset[unit], self.offset[after]);
        let together = self
            .next
            .get(after)
            .map_or(NONE, |end| vocabulary.rank_of_bytes(&self.bytes, from, self.offset[*end]));
        self.ranks.set(right, NONE);
        self.ranks.set(unit, together);
        if unit > 0 {
            let before = self.previous[unit];
            let rank = vocabulary.rank_of_bytes(&self.bytes, self.offset[before], to);
            self.ranks.set(before, rank);
        }
    }

    /// The start of the window's last token that leaves [`UNSETTLED`] bytes behind it.
    fn seam(&self, bytes: usize) -> Seam {
        let (mut last, mut unit, mut tokens) = (0, self.next[0], 1);
        while self.offset[unit] + UNSETTLED < bytes {
            (last, unit) = (unit, self.next[unit]);
            tokens += 1;
        }
        Seam { tokens, last: self.offset[last], at: self.offset[unit] }
    }

    /// Whether two tokens, of which the first has `first` bytes, are still the same two when only
    /// they are encoded.
    fn stay_apart(&mut self, vocabulary: &Vocabulary, both: &[u8], first: usize) -> bool {
        self.merge(vocabulary, both) == 2 && self.offset[self.next[0]] == first
    }
}

/// Where a window gives way to the next.
struct Seam {
    /// The window's tokens before it.
    tokens: u64,
    /// Start of the last of them, from the window's start.
    last: usize,
    at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::counter::Family;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn windows_that_fit_together_count_as_the_whole(
            units in proptest::collection::vec("[a-z]{1,30}|-{1,200}|[!-~]{2}|(ab|cd|efg){9}", 60..120),
            window in 400..900_usize,
        ) {
            let piece = units.concat();
            let vocabulary = Family::O200k.vocabulary();
            let mut merger = Merger::default();
            let whole = merger.merge(vocabulary, piece.as_bytes());
            let windows = merger.count_in_windows(vocabulary, piece.as_bytes(), window);
            proptest::prop_assert!(windows.is_none_or(|tokens| tokens == whole));
            proptest::prop_assert_eq!(merger.count(vocabulary, piece.as_bytes()), whole);
        }
    }

    #[test]
    fn a_seam_through_what_belongs_together_is_refused() {
        let vocabulary = Family::O200k.vocabulary();
        let mut merger = Merger::default();
        // " hello" is one token, so " hel" and "lo" do not stay apart; " hello" and " you" do.
        assert!(!merger.stay_apart(vocabulary, b" hello", 4));
        assert!(merger.stay_apart(vocabulary, b" hello you", 6));
        assert!(!merger.stay_apart(vocabulary, b" hello you", 5));
    }

    /// 5,120 bytes of which each pair is another token, of a lower rank than the pair before it: the
    /// pairs are joined from the end, so that the last byte decides where all the others are cut.
    fn falling() -> (Vocabulary, Vec<u8>) {
        let mut bytes = vec![0_u8];
        for step in (1..=39).step_by(2) {
            for _ in 0..256 {
                bytes.push(bytes[bytes.len() - 1].wrapping_add(step));
            }
        }
        let singles = (0..=255_u8).map(|byte| (&*vec![byte].leak(), u32::from(byte)));
        let pairs = bytes.windows(2).zip((256..10_000).rev());
        let pairs = pairs.map(|(pair, rank)| (&*pair.to_vec().leak(), rank));
        (Vocabulary::of_tokens(&singles.chain(pairs).collect::<Vec<_>>()), bytes)
    }

    #[test]
    fn a_piece_that_is_decided_at_its_end_is_counted_in_one_window() {
        let (vocabulary, bytes) = falling();
        let mut merger = Merger::default();
        // 5,001 bytes: one is left alone, the first.
        let odd = &bytes[..5001];
        assert_eq!(merger.count_in_windows(&vocabulary, odd, WINDOW), None);
        assert_eq!(merger.count(&vocabulary, odd), 2501);
        assert_eq!(merger.next[0], 1);
        assert_eq!(merger.count(&vocabulary, &bytes[..5000]), 2500);
    }
}
