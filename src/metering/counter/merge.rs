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
    /// Where the token ends that begins here.
    end: Vec<usize>,
    /// Where the token begins that ends here.
    start: Vec<usize>,
    /// The rank of what the token that begins here and the next one are together.
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
            let first_end = from + self.end[0];
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
        let mut tokens = self.begin(vocabulary, bytes);
        while let Some(at) = self.ranks.place() {
            self.join(vocabulary, at);
            tokens -= 1;
        }
        tokens
    }

    /// Lays out the units that merging starts from; gives their number.
    fn begin(&mut self, vocabulary: &Vocabulary, bytes: &[u8]) -> u64 {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(&[0; CHUNK]);
        self.end.clear();
        self.end.resize(bytes.len(), 0);
        self.start.clear();
        self.start.resize(bytes.len() + 1, 0);
        let (mut at, mut units) = (0, 0);
        while at < bytes.len() {
            let end = at + vocabulary.whole_chars().unit(bytes, at);
            self.end[at] = end;
            self.start[end] = at;
            units += 1;
            at = end;
        }
        let (end, padded) = (&self.end, &self.bytes);
        self.ranks.fill((0..bytes.len()).map(|at| match end.get(end[at]) {
            Some(_) if end[at] == 0 => NONE,
            Some(&after) if after == at + 2 => vocabulary.rank_of_pair(padded[at], padded[at + 1]),
            Some(&after) => vocabulary.rank_of_bytes(padded, at, after),
            None => NONE,
        }));
        units
    }

    /// Joins the token that begins at `at` with the next one.
    #[inline]
    fn join(&mut self, vocabulary: &Vocabulary, at: usize) {
        let next = self.end[at];
        let end = self.end[next];
        self.end[at] = end;
        self.start[end] = at;
        self.ranks.set(next, NONE);
        let together = self
            .end
            .get(end)
            .map_or(NONE, |after| vocabulary.rank_of_bytes(&self.bytes, at, *after));
        self.ranks.set(at, together);
        if at > 0 {
            let before = self.start[at];
            self.ranks.set(before, vocabulary.rank_of_bytes(&self.bytes, before, end));
        }
    }

    /// The last token's start of the window just merged that leaves [`UNSETTLED`] bytes behind it.
    fn seam(&self, bytes: usize) -> Seam {
        let mut seam = Seam { tokens: 1, last: 0, at: self.end[0] };
        while seam.at + UNSETTLED < bytes {
            seam = Seam { tokens: seam.tokens + 1, last: seam.at, at: self.end[seam.at] };
        }
        seam
    }

    /// Whether two tokens, of which the first has `first` bytes, are still the same two when only
    /// they are encoded.
    fn stay_apart(&mut self, vocabulary: &Vocabulary, both: &[u8], first: usize) -> bool {
        self.merge(vocabulary, both) == 2 && self.end[0] == first
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
}
