//! Counts tokens exactly, in time that grows with the text whatever it is: cuts text into pieces,
//! knows most of them as whole tokens, and merges the others.

mod classes;
mod cut;
mod lowest;
mod merge;
mod vocabulary;
mod whole;

use std::cell::RefCell;
use std::sync::OnceLock;

use crate::metering::counter::classes::Classes;
use crate::metering::counter::merge::Merger;
use crate::metering::counter::vocabulary::Key;
use crate::metering::counter::vocabulary::NONE;
use crate::metering::counter::vocabulary::SHORT;
use crate::metering::counter::vocabulary::Slot;
use crate::metering::counter::vocabulary::Vocabulary;

/// Encodings of one vocabulary: they differ in special tokens alone, which text does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    O200k,
    Cl100k,
    P50k,
    R50k,
}

const FAMILIES: usize = 4;
/// Pieces whose tokens a thread remembers: 64 KB for each family it counts in.
const REMEMBERED: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a thread keeps between counts, so that a count allocates nothing.
#[derive(Default)]
struct Scratch {
    merger: Merger,
    /// Tokens of short pieces that had to be merged, by the piece's hash.
    remembered: [Vec<Slot>; FAMILIES],
}

impl Family {
    /// Counts the tokens of a text, none of them special. `None` when there are more than `limit`;
    /// so many are seen from at most `limit` times the longest token's bytes.
    pub(super) fn count(self, text: &str, limit: u64) -> Option<u64> {
        let vocabulary = self.vocabulary();
        if text.len().div_ceil(vocabulary.longest()) as u64 > limit {
            return None;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let remembered = &mut scratch.remembered[self as usize];
            remembered.resize(REMEMBERED, Slot::default());
            let mut counter = Counter {
                classes: Classes::get(),
                vocabulary,
                remembered,
                merger: &mut scratch.merger,
            };
            let tokens = counter.count(self, text.as_bytes(), limit);
            Some(tokens).filter(|tokens| *tokens <= limit)
        })
    }

    /// The vocabulary, loaded at the first call.
    fn vocabulary(self) -> &'static Vocabulary {
        static LOADED: [OnceLock<Vocabulary>; FAMILIES] = [const { OnceLock::new() }; FAMILIES];
        LOADED[self as usize].get_or_init(|| {
            Vocabulary::of_packed(match self {
                Self::O200k => include_bytes!(concat!(env!("OUT_DIR"), "/o200k.vocabulary")),
                Self::Cl100k => include_bytes!(concat!(env!("OUT_DIR"), "/cl100k.vocabulary")),
                Self::P50k => include_bytes!(concat!(env!("OUT_DIR"), "/p50k.vocabulary")),
                Self::R50k => include_bytes!(concat!(env!("OUT_DIR"), "/r50k.vocabulary")),
            })
        })
    }
}

/// All that one count needs at hand.
struct Counter<'a> {
    classes: &'static Classes,
    vocabulary: &'static Vocabulary,
    remembered: &'a mut [Slot],
    merger: &'a mut Merger,
}

impl Counter<'_> {
    fn count(&mut self, family: Family, text: &[u8], limit: u64) -> u64 {
        match family {
            Family::O200k => self.count_pieces(text, limit, cut::o200k),
            Family::Cl100k => self.count_pieces(text, limit, cut::cl100k),
            Family::P50k | Family::R50k => self.count_pieces(text, limit, cut::gpt2),
        }
    }

    /// Counts until the end of the text or until there are more than `limit`.
    #[inline]
    fn count_pieces(
        &mut self,
        text: &[u8],
        limit: u64,
        cut: impl Fn(&Classes, &[u8], usize) -> usize,
    ) -> u64 {
        let (mut at, mut tokens) = (0, 0);
        while at < text.len() && tokens <= limit {
            let end = cut(self.classes, text, at);
            tokens += self.count_piece(text, at, end);
            at = end;
        }
        tokens
    }

    #[inline]
    fn count_piece(&mut self, text: &[u8], at: usize, end: usize) -> u64 {
        if end - at > SHORT {
            return self.count_long(&text[at..end]);
        }
        let key = Key::of(text, at, end - at);
        if self.vocabulary.rank(key) != NONE { 1 } else { self.recall(key, &text[at..end]) }
    }

    #[inline(never)]
    fn count_long(&mut self, piece: &[u8]) -> u64 {
        if self.vocabulary.rank_of_long(piece) != NONE {
            return 1;
        }
        self.merger.count(self.vocabulary, piece)
    }

    #[inline(never)]
    fn recall(&mut self, key: Key, piece: &[u8]) -> u64 {
        let place = usize::try_from(key.hash() >> 40).unwrap_or_default() % REMEMBERED;
        if let Some(tokens) = self.remembered[place].value_of(key) {
            return u64::from(tokens);
        }
        let tokens = self.merger.count(self.vocabulary, piece);
        self.remembered[place] = Slot::new(key, u32::try_from(tokens).unwrap_or_default());
        tokens
    }
}

#[cfg(test)]
mod tests;
