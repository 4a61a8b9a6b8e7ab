//! Which vectors may be near: one bit for each of their numbers, its sign, compared in memory.
//!
//! Two vectors that point the same way have nearly the same signs. Comparing them takes 192 bytes
//! and 24 counts of bits for a vector of 1536 numbers, and those few that differ least are then
//! compared as they are.

use std::collections::HashMap;

/// Numbers whose signs are in one word.
const LANE: usize = 64;

/// The signs of an index's vectors, by document.
#[derive(Debug)]
pub(super) struct Signs {
    /// Words of one vector.
    width: usize,
    words: Vec<u64>,
    /// Whose signs they are; [`GONE`] for nobody's any more.
    chunks: Vec<i64>,
    documents: HashMap<i64, Rows>,
    gone: usize,
}

const GONE: i64 = -1;

/// Where a document's are.
#[derive(Clone, Copy, Debug)]
struct Rows {
    start: usize,
    count: usize,
}

impl Signs {
    /// None yet, of vectors of so many numbers.
    pub(super) fn new(dimensions: usize) -> Self {
        Self {
            width: dimensions.div_ceil(LANE),
            words: Vec::new(),
            chunks: Vec::new(),
            documents: HashMap::new(),
            gone: 0,
        }
    }

    /// The signs of a vector, as [`Self::replace`] takes them.
    pub(super) fn of(vector: &[f32]) -> Vec<u8> {
        let lanes = vector.chunks(LANE).flat_map(|lane| word(lane).to_le_bytes());
        lanes.collect()
    }

    /// Puts a document's chunks in the place of those that it had. Their ids follow one another.
    pub(super) fn replace(&mut self, document: i64, first_chunk: i64, signs: &[u8]) {
        self.remove(document);
        let start = self.chunks.len();
        for (id, row) in (first_chunk..).zip(signs.chunks_exact(self.width * 8)) {
            self.chunks.push(id);
            self.words.extend(row.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
        }
        let count = self.chunks.len() - start;
        self.documents.insert(document, Rows { start, count });
    }

    /// Forgets a document's chunks.
    pub(super) fn remove(&mut self, document: i64) {
        let Some(Rows { start, count }) = self.documents.remove(&document) else { return };
        if let Some(chunks) = self.chunks.get_mut(start..start + count) {
            chunks.fill(GONE);
        }
        self.gone += count;
        if self.gone > 1024 && self.gone > self.chunks.len() / 2 {
            self.compact();
        }
    }

    /// What it takes in memory, about.
    pub(super) fn size_bytes(&self) -> usize {
        self.words.capacity() * 8 + self.chunks.capacity() * 8 + self.documents.capacity() * 32
    }

    /// At most `most` chunks whose signs differ least from the vector's; only those of the given
    /// documents where there are some given.
    pub(super) fn nearest(
        &self,
        vector: &[f32],
        most: usize,
        documents: Option<&[i64]>,
    ) -> Vec<i64> {
        let wanted: Vec<u64> = vector.chunks(LANE).map(word).collect();
        let mut found = Vec::with_capacity(documents.map_or(self.chunks.len(), <[i64]>::len));
        match documents {
            None => self.compare(&wanted, Rows { start: 0, count: self.chunks.len() }, &mut found),
            Some(documents) => {
                for rows in documents.iter().filter_map(|document| self.documents.get(document)) {
                    self.compare(&wanted, *rows, &mut found);
                }
            }
        }
        least(found, most)
    }

    /// How many signs differ, and whose.
    fn compare(&self, wanted: &[u64], Rows { start, count }: Rows, found: &mut Vec<(u32, i64)>) {
        let words = self.words.get(start * self.width..(start + count) * self.width);
        let rows = words.unwrap_or_default().chunks_exact(self.width.max(1));
        let chunks = self.chunks.get(start..start + count).unwrap_or_default();
        for (row, chunk) in rows.zip(chunks).filter(|(_, chunk)| **chunk != GONE) {
            let differ = row.iter().zip(wanted).map(|(one, other)| (one ^ other).count_ones());
            found.push((differ.sum(), *chunk));
        }
    }

    fn compact(&mut self) {
        let mut old = std::mem::replace(self, Self { width: self.width, ..Self::new(0) });
        for (document, Rows { start, count }) in old.documents.drain() {
            let from = self.chunks.len();
            let words = old.words.get(start * self.width..(start + count) * self.width);
            self.words.extend_from_slice(words.unwrap_or_default());
            self.chunks.extend_from_slice(old.chunks.get(start..start + count).unwrap_or_default());
            self.documents.insert(document, Rows { start: from, count });
        }
    }
}

/// Up to 64 signs.
fn word(lane: &[f32]) -> u64 {
    lane.iter().enumerate().fold(0, |word, (at, number)| word | (u64::from(*number > 0.0) << at))
}

/// The chunks with the least differences.
fn least(mut found: Vec<(u32, i64)>, most: usize) -> Vec<i64> {
    if found.len() > most {
        found.select_nth_unstable(most);
        found.truncate(most);
    }
    found.into_iter().map(|(_, chunk)| chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of 70 numbers whose first `n` are negative.
    fn vector(n: usize) -> Vec<f32> {
        (0..70).map(|at| if at < n { -1.0 } else { 1.0 }).collect()
    }

    fn signs(numbers: &[usize]) -> Vec<u8> {
        numbers.iter().flat_map(|n| Signs::of(&vector(*n))).collect()
    }

    #[test]
    fn those_that_differ_least_are_found() {
        let mut all = Signs::new(70);
        all.replace(1, 10, &signs(&[0, 30, 69]));
        all.replace(2, 20, &signs(&[3, 66]));
        let nearest = |n, most, of| {
            let mut found = all.nearest(&vector(n), most, of);
            found.sort_unstable();
            found
        };
        assert_eq!(nearest(1, 2, None), [10, 20]);
        assert_eq!(nearest(68, 2, None), [12, 21]);
        assert_eq!(nearest(68, 1, None), [12]);
        assert_eq!(nearest(68, 1, Some(&[2, 9])), [21]);
        assert_eq!(nearest(0, 9, None), [10, 11, 12, 20, 21]);
    }

    #[test]
    fn what_a_document_had_before_is_forgotten_and_its_room_used_again() {
        let mut all = Signs::new(70);
        all.replace(1, 0, &signs(&[5]));
        for round in 0..3000 {
            all.replace(2, 100 + round * 2, &signs(&[1, 2]));
        }
        assert_eq!(all.chunks.len() - all.gone, 3);
        assert!(all.chunks.len() < 4000, "{}", all.chunks.len());
        let mut found = all.nearest(&vector(5), 9, None);
        found.sort_unstable();
        assert_eq!(found, [0, 6098, 6099]);
        all.remove(2);
        assert_eq!(all.nearest(&vector(1), 9, None), [0]);
        assert_eq!(all.nearest(&vector(1), 9, Some(&[2])), [0; 0]);
    }
}
