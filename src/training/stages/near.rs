//! Stage 8: answers and questions that are nearly the same, found by MinHash: the part of 64 least
//! hashes that two texts share is about the part of their five-word runs that they share.

use crate::training::example::Example;
use crate::training::example::role;
use crate::training::example::said;
use crate::training::example::text;
use crate::training::sip::sip;

/// Hash functions. Fixed for ever: sketches of different days must compare.
const HASHES: usize = 64;
/// Bands of four hashes: of two texts that share 80 %, one in 5,000 goes unseen.
const BANDS: usize = 16;
const ROWS: usize = HASHES / BANDS;
/// Words of a run.
const SHINGLE: usize = 5;
/// Runs of one example that are read.
const MOST: usize = 4096;
/// Texts of one bucket that each newcomer is compared with.
const COMPARED: usize = 16;
const KEY: [u64; 2] = [0x7765_6972, 0x6e65_6172];

/// What two texts are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::training) struct Sketch {
    least: [u8; HASHES],
    bands: [u32; BANDS],
}

impl Sketch {
    /// Of what the assistant said, and of the last question.
    pub(in crate::training) fn of(example: &Example) -> Self {
        let answers = example.messages.iter().filter(|message| role(message) == "assistant");
        let question = example.messages.iter().rfind(|message| role(message) == "user");
        let all: Vec<String> = answers.map(said).chain(question.map(text)).collect();
        Self::of_text(&all.join("\n"))
    }

    fn of_text(text: &str) -> Self {
        let mut least = [u64::MAX; HASHES];
        for shingle in shingles(text) {
            let mut seed = shingle;
            for least in &mut least {
                // A step of SplitMix64: as good as a hash function of its own.
                seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                *least = (*least).min(mixed(seed));
            }
        }
        let mut sketch = Self { least: [0; HASHES], bands: [0; BANDS] };
        sketch.least.iter_mut().zip(least).for_each(|(to, least)| *to = least.to_le_bytes()[0]);
        for (band, rows) in sketch.bands.iter_mut().zip(least.chunks(ROWS)) {
            let bytes: Vec<u8> = rows.iter().flat_map(|least| least.to_le_bytes()).collect();
            let [a, b, c, d, ..] = sip(KEY, &bytes).to_le_bytes();
            *band = u32::from_le_bytes([a, b, c, d]);
        }
        sketch
    }

    /// How much of two texts is the same, from 0 to 1; off by a twentieth or so.
    pub(in crate::training) fn likeness(&self, other: &Self) -> f64 {
        let same = self.least.iter().zip(&other.least).filter(|(one, other)| one == other).count();
        let count = |count: usize| u32::try_from(count).map_or(0.0, f64::from);
        // One byte of a hash is the same by chance once in 256 times.
        let share = count(same) / count(HASHES);
        ((share - 1.0 / 256.0) / (1.0 - 1.0 / 256.0)).max(0.0)
    }
}

fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Hashes of runs of five words; of fewer words, one of them all.
fn shingles(text: &str) -> Vec<u64> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<u64> = words.map(|word| sip(KEY, word.as_bytes())).collect();
    let hash = |run: &[u64]| {
        let bytes: Vec<u8> = run.iter().flat_map(|word| word.to_le_bytes()).collect();
        sip(KEY, &bytes)
    };
    if words.len() < SHINGLE {
        return vec![hash(&words)];
    }
    words.windows(SHINGLE).take(MOST).map(hash).collect()
}

/// Calls with each pair that is at least so much alike; the first of a pair comes first in
/// `sketches`. Of a bucket's texts that are not alike, each newcomer meets the first few.
pub(in crate::training) fn pairs(
    sketches: &[(u32, Sketch)],
    threshold: f64,
    mut found: impl FnMut(u32, u32),
) {
    let mut keys: Vec<(u32, u32)> = Vec::with_capacity(sketches.len());
    for band in 0..BANDS {
        keys.clear();
        let of = |(at, (_, sketch)): (usize, &(u32, Sketch))| {
            (sketch.bands[band], u32::try_from(at).unwrap_or(u32::MAX))
        };
        keys.extend(sketches.iter().enumerate().map(of));
        keys.sort_unstable();
        for bucket in keys.chunk_by(|one, other| one.0 == other.0).filter(|all| all.len() > 1) {
            let mut others: Vec<&(u32, Sketch)> = Vec::new();
            for (_, at) in bucket {
                let Some(one) = usize::try_from(*at).ok().and_then(|at| sketches.get(at)) else {
                    continue;
                };
                let like = others.iter().find(|other| other.1.likeness(&one.1) >= threshold);
                match like {
                    Some(other) => found(other.0, one.0),
                    None if others.len() < COMPARED => others.push(one),
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn words(from: u32, to: u32) -> String {
        (from..to).map(|word| format!("w{word} ")).collect()
    }

    /// The exact part of runs that both have, counted by sets.
    fn jaccard(one: &str, other: &str) -> f64 {
        let runs = |text| shingles(text).into_iter().collect::<HashSet<u64>>();
        let (one, other) = (runs(one), runs(other));
        let count = |count: usize| f64::from(u32::try_from(count).unwrap());
        count(one.intersection(&other).count()) / count(one.union(&other).count())
    }

    #[test]
    fn sketches_estimate_what_counting_finds() {
        // 196 runs of five; the other text has 50, 100, 150 and 180 of the 200 words at its end.
        for shared in [50, 100, 150, 180, 200] {
            let (one, other) = (words(0, 200), words(200 - shared, 400 - shared));
            let estimated = Sketch::of_text(&one).likeness(&Sketch::of_text(&other));
            let exact = jaccard(&one, &other);
            assert!((estimated - exact).abs() < 0.15, "{shared}: {estimated} for {exact}");
        }
    }

    #[test]
    fn pairs_over_the_threshold_are_found_once_a_band() {
        let texts = [words(0, 200), words(1000, 1200), words(4, 204), words(100, 300)];
        let sketches: Vec<(u32, Sketch)> =
            (0..).zip(texts.iter().map(|text| Sketch::of_text(text))).collect();
        let mut found = HashSet::new();
        // Shared runs: 192 of 200, none, 96 of 296.
        pairs(&sketches, 0.8, |one, other| {
            found.insert((one, other));
        });
        assert_eq!(found, [(0, 2)].into());
    }

    #[test]
    fn a_sketch_is_the_same_for_ever() {
        let sketch = Sketch::of_text("The same words give the same sketch on any day.");
        assert_eq!(sketch.least[..4], LEAST);
        assert_eq!(sketch.bands[0], BAND);
    }

    const LEAST: [u8; 4] = [215, 179, 52, 78];
    const BAND: u32 = 1_696_704_895;
}
