//! Which characters of several bytes become one token before a neighbour can take a part of them,
//! so that merging may start from them instead of from their bytes.
//!
//! That is so when all tokens that reach over an edge of the character have a higher rank than it
//! has: as long as it is in pieces, two of these make a token of a lower rank, and go first. Tokens
//! that are text hold it whole, and are looked through for each character; those that begin or end
//! within some character, for each edge.

use crate::metering::counter::vocabulary::NONE;

/// What the tokens of a vocabulary say of each character and of each edge.
#[derive(Default)]
pub(super) struct WholeChars {
    /// The rank of each character of two or three bytes; [`NONE`] when another may come first.
    chars: Vec<u32>,
    /// The lowest rank of a token that is no text and has these two bytes, the last before an edge
    /// and the first behind it.
    edges: Vec<u32>,
}

impl WholeChars {
    /// Looks at every token. `rank` gives the rank of bytes, or [`NONE`].
    pub(super) fn of(tokens: &[(&[u8], u32)], rank: impl Fn(&[u8]) -> u32) -> Self {
        let mut whole = Self { chars: vec![NONE; 1 << 16], edges: vec![NONE; 1 << 16] };
        for (bytes, of_token) in tokens {
            match str::from_utf8(bytes).map(single) {
                Err(_) => whole.tear(bytes, *of_token),
                Ok(Some(char)) if merges_by_itself(bytes, &rank) => whole.chars[char] = *of_token,
                Ok(_) => {}
            }
        }
        for (bytes, of_token) in tokens {
            for char in str::from_utf8(bytes).into_iter().flat_map(wide_chars) {
                // A token of this character alone has the same rank.
                if whole.chars[char] > *of_token {
                    whole.chars[char] = NONE;
                }
            }
        }
        whole
    }

    /// The bytes of the character that begins at `at`, when merging may start from it; else 1.
    #[inline]
    pub(super) fn unit(&self, bytes: &[u8], at: usize) -> usize {
        let rest = &bytes[at..];
        let (char, len) = match rest {
            [first @ 0xc2..0xe0, second, ..] => (code(*first & 0x1f, &[*second]), 2),
            [first @ 0xe0..0xf0, second, third, ..] => (code(*first & 0xf, &[*second, *third]), 3),
            _ => return 1,
        };
        let before = if at > 0 { self.edges[edge(bytes[at - 1], rest[0])] } else { NONE };
        let after = rest.get(len).map_or(NONE, |next| self.edges[edge(rest[len - 1], *next)]);
        if self.chars[char] < before.min(after) { len } else { 1 }
    }

    /// A token that is no text, as it begins or ends within a character.
    fn tear(&mut self, bytes: &[u8], rank: u32) {
        for pair in bytes.windows(2) {
            let lowest = &mut self.edges[edge(pair[0], pair[1])];
            *lowest = rank.min(*lowest);
        }
    }
}

/// The merges of a character's bytes alone, in rising rank, end in one token.
fn merges_by_itself(bytes: &[u8], rank: &impl Fn(&[u8]) -> u32) -> bool {
    match bytes {
        [_, _] => true,
        [first, second, third] => {
            rank(&[*first, *second]).min(rank(&[*second, *third])) < rank(bytes)
        }
        _ => false,
    }
}

/// The character that a text of two or three bytes is.
fn single(text: &str) -> Option<usize> {
    wide_chars(text).next().filter(|_| text.chars().count() == 1)
}

/// The characters of two and three bytes.
fn wide_chars(text: &str) -> impl Iterator<Item = usize> {
    text.chars().filter(|char| matches!(char.len_utf8(), 2 | 3)).map(|char| char as usize)
}

#[inline]
fn code(first: u8, rest: &[u8]) -> usize {
    rest.iter().fold(usize::from(first), |code, byte| code << 6 | usize::from(byte & 0x3f))
}

#[inline]
fn edge(before: u8, after: u8) -> usize {
    usize::from(before) << 8 | usize::from(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The units of a text in a vocabulary of these tokens, with ranks from 0.
    fn units(tokens: &[&[u8]], text: &[u8]) -> Vec<usize> {
        let tokens: Vec<_> = tokens.iter().zip(0..).map(|(token, rank)| (*token, rank)).collect();
        let rank = |bytes: &[u8]| {
            tokens.iter().find(|(token, _)| *token == bytes).map_or(NONE, |(_, rank)| *rank)
        };
        let whole = WholeChars::of(&tokens, rank);
        let (mut at, mut units) = (0, Vec::new());
        while at < text.len() {
            units.push(whole.unit(text, at));
            at += units[units.len() - 1];
        }
        units
    }

    #[test]
    fn a_character_is_whole_when_tokens_over_its_edges_come_later() {
        let e = "é".as_bytes(); // c3 a9
        assert_eq!(units(&[e, b"\xa9\xc3", "aé".as_bytes()], "aéé".as_bytes()), [1, 2, 2]);
        // The torn token goes first where it can be: between the two.
        assert_eq!(units(&[b"\xa9\xc3", e], "éé".as_bytes()), [1, 1, 1, 1]);
        assert_eq!(units(&[b"\xa9\xc3", e], "aé é".as_bytes()), [1, 2, 1, 2]);
        assert_eq!(units(&["aé".as_bytes(), e], "é".as_bytes()), [1, 1]);
        assert_eq!(units(&[e], "ü".as_bytes()), [1, 1]);
    }

    #[test]
    fn a_character_of_three_bytes_needs_a_pair_of_lower_rank() {
        let you = "你".as_bytes(); // e4 bd a0
        assert_eq!(units(&[&you[..2], you], "你你".as_bytes()), [3, 3]);
        assert_eq!(units(&[&you[1..], you], "你".as_bytes()), [3]);
        assert_eq!(units(&[you, &you[..2]], "你".as_bytes()), [1, 1, 1]);
        assert_eq!(units(&[you], "你".as_bytes()), [1, 1, 1]);
        // Cut off, or of four bytes.
        assert_eq!(units(&[&you[..2], you], &you[..2]), [1, 1]);
        assert_eq!(units(&[&you[..2], you], "😀".as_bytes()), [1, 1, 1, 1]);
    }
}
