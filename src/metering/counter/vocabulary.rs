//! An encoding's vocabulary: which bytes are a token, and of which rank.

use rustc_hash::FxHashMap;

use crate::metering::counter::whole::WholeChars;

/// No token.
pub(super) const NONE: u32 = 1 << RANK_BITS;
/// Ranks are below 2^20; more than any vocabulary has.
const RANK_BITS: u32 = 20;

/// Bits of a filter: ten for each token of the largest vocabulary.
const FILTER_BITS: usize = 1 << 21;

/// Bytes that pack into a [`Key`].
pub(super) const SHORT: usize = 13;
/// A key is packed fastest from this many bytes, of which it takes what it needs.
pub(super) const CHUNK: usize = 16;

/// Up to 13 bytes and their number: 104 + 4 bits, so that a rank of 20 bits still fits into 16
/// bytes. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    low: u64,
    /// 5 bytes, 4 bits of length, and 20 bits that are 0 in a key and a value in a [`Slot`].
    high: u64,
}

/// A key and a value below 2^20, in 16 bytes; all 0 when empty.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    low: u64,
    high: u64,
}

const LENGTH_AT: u32 = 40;
const VALUE_AT: u32 = 44;
const KEY_BITS: u64 = (1 << VALUE_AT) - 1;

/// The bits of `low` and `high` that a key of 0 to 13 bytes takes.
const MASKS: [(u64, u64); SHORT + 1] = {
    let mut masks = [(0, 0); SHORT + 1];
    let mut bytes = 1;
    while bytes <= SHORT {
        let (low, high) = masks[bytes - 1];
        masks[bytes] = if bytes <= 8 { (low << 8 | 0xff, 0) } else { (low, high << 8 | 0xff) };
        bytes += 1;
    }
    masks
};

impl Key {
    /// The key of the first `bytes` (at most [`SHORT`]) of a chunk.
    #[inline]
    pub(super) fn of_chunk(chunk: &[u8; CHUNK], bytes: usize) -> Self {
        let (low_mask, high_mask) = MASKS[bytes];
        let [low, high] =
            [0, 8].map(|at| u64::from_le_bytes(*chunk[at..].first_chunk().unwrap_or(&[0; 8])));
        Self { low: low & low_mask, high: high & high_mask | (bytes as u64) << LENGTH_AT }
    }

    /// The key of `bytes` bytes (at most [`SHORT`]) at `at`.
    #[inline]
    pub(super) fn of(text: &[u8], at: usize, bytes: usize) -> Self {
        match text[at..].first_chunk::<CHUNK>() {
            Some(chunk) => Self::of_chunk(chunk, bytes),
            None => {
                let mut chunk = [0; CHUNK];
                chunk[..bytes].copy_from_slice(&text[at..at + bytes]);
                Self::of_chunk(&chunk, bytes)
            }
        }
    }

    /// The halves of a product of 128 bits, which depends on every bit of the key.
    #[inline]
    pub(super) fn hash(self) -> u64 {
        let (low, high) = (self.low ^ 0x9e37_79b9_7f4a_7c15)
            .carrying_mul(self.high.rotate_left(20) ^ 0xd6e8_feb8_6659_fd93, 0);
        low ^ high
    }
}

impl Slot {
    #[inline]
    pub(super) fn new(key: Key, value: u32) -> Self {
        Self { low: key.low, high: key.high | u64::from(value) << VALUE_AT }
    }

    #[inline]
    pub(super) fn value_of(self, key: Key) -> Option<u32> {
        let same = self.low == key.low && self.high & KEY_BITS == key.high;
        same.then_some((self.high >> VALUE_AT) as u32)
    }

    #[inline]
    fn is_empty(self) -> bool {
        self.high == 0
    }
}

/// Tokens by their bytes: 4 to 9 MB.
pub(super) struct Vocabulary {
    /// Ranks of two bytes, by the first and the second: the start of every merge.
    pairs: Vec<u32>,
    /// Tokens of up to [`SHORT`] bytes, open addressing; a power of two, less than half full.
    short: Vec<Slot>,
    long: FxHashMap<&'static [u8], u32>,
    longest: usize,
    /// A bit for the hash of every token. Nine in ten of what merges ask for is no token, and is
    /// told here, in the processor's cache, without a look at the large tables.
    filter: Vec<u64>,
    whole_chars: WholeChars,
}

impl Vocabulary {
    /// Takes the tokens of a file that the build script has packed.
    pub(super) fn of_packed(mut packed: &'static [u8]) -> Self {
        let mut tokens = Vec::with_capacity(packed.len() / 6);
        for rank in 0.. {
            let Some((len, rest)) = packed.split_first() else { break };
            let Some((token, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
            packed = rest;
            if !token.is_empty() {
                tokens.push((token, rank));
            }
        }
        Self::of_tokens(&tokens)
    }

    /// Tokens by their bytes and ranks.
    pub(super) fn of_tokens(tokens: &[(&'static [u8], u32)]) -> Self {
        let slots = (2 * tokens.len()).next_power_of_two();
        let mut vocabulary = Self {
            pairs: vec![NONE; 1 << 16],
            short: vec![Slot::default(); slots],
            long: FxHashMap::default(),
            longest: 0,
            filter: vec![0; FILTER_BITS / 64],
            whole_chars: WholeChars::default(),
        };
        for (bytes, rank) in tokens {
            vocabulary.insert(bytes, *rank);
        }
        vocabulary.whole_chars =
            WholeChars::of(tokens, |bytes| vocabulary.rank_of_bytes(bytes, 0, bytes.len()));
        vocabulary.long.shrink_to_fit();
        vocabulary
    }

    fn insert(&mut self, bytes: &'static [u8], rank: u32) {
        self.longest = self.longest.max(bytes.len());
        if let [first, second] = bytes {
            self.pairs[pair(*first, *second)] = rank;
        }
        let (word, bit) = filter_place(bytes, 0, bytes.len());
        self.filter[word] |= bit;
        if bytes.len() > SHORT {
            self.long.insert(bytes, rank);
            return;
        }
        let key = Key::of(bytes, 0, bytes.len());
        let mut at = self.home(key);
        while !self.short[at].is_empty() {
            at = (at + 1) & (self.short.len() - 1);
        }
        self.short[at] = Slot::new(key, rank);
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The characters from which merging may start.
    #[inline]
    pub(super) fn whole_chars(&self) -> &WholeChars {
        &self.whole_chars
    }

    /// The rank of a token of two bytes, or [`NONE`].
    #[inline]
    fn rank_of_pair(&self, first: u8, second: u8) -> u32 {
        self.pairs[pair(first, second)]
    }

    /// The rank of a token of up to [`SHORT`] bytes, or [`NONE`].
    #[inline]
    pub(super) fn rank(&self, key: Key) -> u32 {
        let mut at = self.home(key);
        loop {
            let slot = self.short[at];
            match slot.value_of(key) {
                Some(rank) => return rank,
                None if slot.is_empty() => return NONE,
                None => at = (at + 1) & (self.short.len() - 1),
            }
        }
    }

    /// The rank of a token of any length that hardly any bytes are, or [`NONE`].
    #[inline]
    pub(super) fn rank_of_bytes(&self, text: &[u8], from: usize, to: usize) -> u32 {
        if to == from + 2 {
            return self.rank_of_pair(text[from], text[from + 1]);
        }
        let (word, bit) = filter_place(text, from, to);
        if self.filter[word] & bit == 0 {
            return NONE;
        }
        if to - from <= SHORT {
            self.rank(Key::of(text, from, to - from))
        } else {
            self.rank_of_long(&text[from..to])
        }
    }

    /// The rank of a token of more than [`SHORT`] bytes, or [`NONE`].
    #[inline]
    pub(super) fn rank_of_long(&self, bytes: &[u8]) -> u32 {
        if bytes.len() > self.longest {
            return NONE;
        }
        self.long.get(bytes).copied().unwrap_or(NONE)
    }

    #[inline]
    fn home(&self, key: Key) -> usize {
        usize::try_from(key.hash()).unwrap_or_default() & (self.short.len() - 1)
    }
}

/// Word and bit in the filter, by the first bytes and the length.
#[inline]
fn filter_place(text: &[u8], from: usize, to: usize) -> (usize, u64) {
    let hash =
        Key::of(text, from, (to - from).min(SHORT)).hash().wrapping_add(((to - from) as u64) << 32);
    let place = usize::try_from(hash >> 32).unwrap_or_default() % FILTER_BITS;
    (place / 64, 1 << (place % 64))
}

#[inline]
fn pair(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_bytes_and_their_number() {
        let text = b"\0\0abcdefghijklmnopqrstuvwxyz";
        assert_ne!(Key::of(text, 0, 1), Key::of(text, 0, 2));
        assert_eq!(Key::of(text, 2, 13), Key::of(b"abcdefghijklm", 0, 13));
        assert_eq!(Key::of(text, 2, 3), Key::of(b"abc", 0, 3));
        assert_ne!(Key::of(text, 2, 13), Key::of(b"abcdefghijkl\0", 0, 13));
        // Near the end of the text, where no chunk of 16 bytes is left.
        assert_eq!(Key::of(text, 26, 2), Key::of(b"yz", 0, 2));
    }

    #[test]
    fn tokens_are_found_by_their_bytes() {
        let tokens = [&b"a"[..], b"ab", b"abcdefghijklm", b"abcdefghijklmn", b"\0"];
        let tokens = tokens.iter().zip(7..).map(|(bytes, rank)| (*bytes, rank));
        let vocabulary = Vocabulary::of_tokens(&tokens.collect::<Vec<_>>());
        let rank = |text: &[u8]| vocabulary.rank(Key::of(text, 0, text.len()));
        assert_eq!((rank(b"a"), rank(b"ab"), rank(b"abcdefghijklm"), rank(b"\0")), (7, 8, 9, 11));
        assert_eq!((rank(b"b"), rank(b"\0\0"), rank(b"abcdefghijkl")), (NONE, NONE, NONE));
        assert_eq!(vocabulary.rank_of_pair(b'a', b'b'), 8);
        assert_eq!(vocabulary.rank_of_pair(b'b', b'a'), NONE);
        assert_eq!(vocabulary.rank_of_long(b"abcdefghijklmn"), 10);
        assert_eq!(vocabulary.rank_of_long(b"abcdefghijklmo"), NONE);
        assert_eq!(vocabulary.longest(), 14);
    }
}
