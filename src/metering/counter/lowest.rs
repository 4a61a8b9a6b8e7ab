//! A list of ranks that gives its leftmost lowest one, while ranks change.

use crate::metering::counter::vocabulary::NONE;

const FAN: usize = 16;

/// A tree of which each node keeps the lowest of sixteen below it. Short lists are one node.
#[derive(Default)]
pub(super) struct Lowest {
    /// The ranks, then the lowest of each sixteen, and so on; whole blocks, filled up with [`NONE`].
    levels: Vec<Vec<Entry>>,
    /// How many levels are in use: the last is one block.
    height: usize,
}

/// A rank and its place in its block: the least entry is the leftmost of the lowest. Signed, because
/// that is what the oldest x86-64 compares sixteen of without a branch.
type Entry = i32;

#[inline]
fn entry(rank: u32, at: usize) -> Entry {
    (rank << 4 | u32::try_from(at % FAN).unwrap_or_default()).cast_signed()
}

#[inline]
fn rank_of(entry: Entry) -> u32 {
    entry.cast_unsigned() >> 4
}

#[inline]
fn place_of(entry: Entry) -> usize {
    (entry.cast_unsigned() % 16) as usize
}

#[inline]
fn least(block: &[Entry; FAN]) -> Entry {
    block.iter().fold(Entry::MAX, |least, entry| least.min(*entry))
}

impl Lowest {
    /// Starts again with these ranks. Allocates only for more of them than ever before.
    pub(super) fn fill(&mut self, ranks: impl Iterator<Item = u32>) {
        self.height = 1;
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        write(&mut self.levels[0], ranks);
        while self.levels[self.height - 1].len() > FAN {
            if self.levels.len() == self.height {
                self.levels.push(Vec::new());
            }
            let (below, level) = self.levels.split_at_mut(self.height);
            if let ([.., below], [level, ..]) = (below, level) {
                write(level, below.as_chunks().0.iter().map(|block| rank_of(least(block))));
            }
            self.height += 1;
        }
    }

    /// The place of the leftmost of the lowest ranks; `None` when all are [`NONE`].
    #[inline]
    pub(super) fn place(&self) -> Option<usize> {
        let mut at = 0;
        for level in self.levels[..self.height].iter().rev() {
            let least = least(&level.as_chunks().0[at]);
            if rank_of(least) == NONE {
                return None;
            }
            at = at * FAN + place_of(least);
        }
        Some(at)
    }

    /// Changes one rank.
    #[inline]
    pub(super) fn set(&mut self, mut at: usize, mut rank: u32) {
        for level in 0..self.height {
            let before = std::mem::replace(&mut self.levels[level][at], entry(rank, at));
            if level + 1 == self.height {
                return;
            }
            at /= FAN;
            let lowest = rank_of(self.levels[level + 1][at]);
            if rank > lowest {
                if rank_of(before) > lowest {
                    return;
                }
                rank = rank_of(least(&self.levels[level].as_chunks().0[at]));
            }
        }
    }
}

/// Writes a level of whole blocks, at least one.
fn write(level: &mut Vec<Entry>, ranks: impl Iterator<Item = u32>) {
    level.clear();
    level.extend(ranks.zip(0..).map(|(rank, at)| entry(rank, at)));
    let blocks = level.len().next_multiple_of(FAN).max(FAN);
    level.extend((level.len()..blocks).map(|at| entry(NONE, at)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranks: &[u32]) -> Lowest {
        let mut lowest = Lowest::default();
        lowest.fill(ranks.iter().copied());
        lowest
    }

    #[test]
    fn the_leftmost_of_the_lowest_is_found() {
        assert_eq!(of(&[]).place(), None);
        assert_eq!(of(&[NONE, NONE]).place(), None);
        assert_eq!(of(&[5, 3, 4, 3]).place(), Some(1));
        let mut ranks = vec![NONE; 5000];
        ranks[300] = 7;
        ranks[4999] = 7;
        assert_eq!(of(&ranks).place(), Some(300));
    }

    proptest::proptest! {
        #[test]
        fn changes_are_seen_wherever_they_are(
            ranks in proptest::collection::vec(0..40_u32, 1..700),
            changes in proptest::collection::vec((0..700_usize, 0..50_u32), 0..40),
        ) {
            let mut ranks = ranks;
            let mut lowest = of(&[1; 900]);
            lowest.fill(ranks.iter().copied());
            for (at, rank) in changes {
                let (at, rank) = (at % ranks.len(), if rank > 40 { NONE } else { rank });
                ranks[at] = rank;
                lowest.set(at, rank);
                let expected = (0..ranks.len()).min_by_key(|at| (ranks[*at], *at));
                proptest::prop_assert_eq!(lowest.place(), expected.filter(|at| ranks[*at] != NONE));
            }
        }
    }
}
