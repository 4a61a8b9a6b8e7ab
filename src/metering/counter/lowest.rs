//! A list of ranks that gives its leftmost lowest one, while ranks change.

use crate::metering::counter::vocabulary::NONE;

const FAN: usize = 16;

/// A tree of which each node keeps the lowest of sixteen below it. Short lists are one node.
#[derive(Default)]
pub(super) struct Lowest {
    /// The ranks, then the lowest of each sixteen, and so on; filled up with [`NONE`].
    levels: Vec<Vec<u32>>,
    /// How many levels are in use: the last has at most sixteen entries.
    height: usize,
}

impl Lowest {
    /// Starts again with these ranks. Allocates only for more of them than ever before.
    pub(super) fn fill(&mut self, ranks: impl Iterator<Item = u32>) {
        self.height = 0;
        let ranks_level = self.add_level();
        ranks_level.extend(ranks);
        pad(ranks_level);
        while let [.., below] = &self.levels[..self.height]
            && below.len() > FAN
        {
            self.add_level();
            let (below, level) = self.levels.split_at_mut(self.height - 1);
            if let ([.., below], [level, ..]) = (below, level) {
                level.extend(below.as_chunks::<FAN>().0.iter().map(|block| first_lowest(block).1));
                pad(level);
            }
        }
    }

    /// The place of the leftmost of the lowest ranks; `None` when all are [`NONE`].
    #[inline]
    pub(super) fn place(&self) -> Option<usize> {
        let mut at = 0;
        for level in self.levels[..self.height].iter().rev() {
            let (place, rank) = first_lowest(&level.as_chunks::<FAN>().0[at]);
            if rank == NONE {
                return None;
            }
            at = at * FAN + place;
        }
        Some(at)
    }

    /// Changes one rank.
    #[inline]
    pub(super) fn set(&mut self, mut at: usize, mut rank: u32) {
        for level in 0..self.height {
            let ranks = &mut self.levels[level];
            let before = std::mem::replace(&mut ranks[at], rank);
            if before == rank {
                return;
            }
            at /= FAN;
            rank = first_lowest(&ranks.as_chunks::<FAN>().0[at]).1;
        }
    }

    fn add_level(&mut self) -> &mut Vec<u32> {
        if self.levels.len() == self.height {
            self.levels.push(Vec::new());
        }
        self.height += 1;
        let level = &mut self.levels[self.height - 1];
        level.clear();
        level
    }
}

/// Fills up to whole blocks, and at least one.
fn pad(level: &mut Vec<u32>) {
    level.resize(level.len().next_multiple_of(FAN).max(FAN), NONE);
}

/// Place and value of the first lowest of a block. Both in one number, so that no step branches.
#[inline]
fn first_lowest(block: &[u32; FAN]) -> (usize, u32) {
    let mut lowest = u32::MAX;
    for (place, rank) in (0..).zip(block) {
        lowest = lowest.min(rank << 4 | place);
    }
    ((lowest & 15) as usize, lowest >> 4)
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
