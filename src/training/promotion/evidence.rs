//! Whether one arm is worse than the other beyond chance: a test that may be looked at at any time.
//!
//! Calls are taken in blocks of time. Given how many calls each arm had in a block, and how many of
//! all of them went wrong, the number that went wrong on the canary is hypergeometric when both arms
//! are equally good, and Fisher's noncentral hypergeometric when the odds on the canary are θ times
//! as high. The ratio of the two probabilities is an e-value: its mean is at most 1 for a canary
//! that is no worse. The product over blocks, averaged over several θ, is so, too, and by Ville's
//! inequality it ever reaches 1/α with a probability of at most α, however often and whenever
//! somebody looks. (Johari, Pekelis, Walsh 2015, "Always valid inference"; Turner, Ly, Grünwald
//! 2024, "Generic E-variables for exact sequential k-sample tests".)

use serde::Deserialize;
use serde::Serialize;

/// How many times as high the odds are that are looked for. Less is no reason to go back.
const WORSE: [f64; 4] = [1.5, 2.0, 4.0, 8.0];
/// Of all good canaries at most this share is taken back by chance, over all measures together.
const FALSE_ALARMS: f64 = 0.05;
/// Errors, slow calls, dear calls, bad verdicts.
pub(super) const MEASURES: usize = 4;
/// Evidence that makes a canary wait before its share grows.
const DOUBT: f64 = 4.0;

/// What happened on both arms: `bad` of so many `calls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    /// Calls on the canary.
    pub(super) canary: u64,
    /// Those of them that went wrong.
    pub(super) canary_bad: u64,
    /// Calls on the arm that serves.
    pub(super) serving: u64,
    /// Those of them that went wrong.
    pub(super) serving_bad: u64,
}

/// What the blocks say so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Evidence {
    /// Natural logarithms, one for each θ.
    logs: [f64; WORSE.len()],
    /// All blocks together.
    pub(super) total: Block,
}

/// What evidence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing against the canary.
    Fine,
    /// Not enough to go back, and too much to go on.
    Doubtful,
    /// Worse beyond chance.
    Worse,
}

impl Evidence {
    /// Takes in one more block.
    pub(super) fn add(&mut self, block: Block) {
        for (log, worse) in self.logs.iter_mut().zip(WORSE) {
            *log += log_ratio(block, worse);
        }
        self.total.canary += block.canary;
        self.total.canary_bad += block.canary_bad;
        self.total.serving += block.serving;
        self.total.serving_bad += block.serving_bad;
    }

    /// How many times as likely what was seen is if the canary is worse; 1 says nothing.
    pub(super) fn value(&self) -> f64 {
        let most = self.logs.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = self.logs.iter().map(|log| (log - most).exp()).sum();
        // So many blocks that it overflows leave no doubt.
        ((sum / 4.0).ln() + most).min(700.0).exp()
    }

    /// What it asks for.
    pub(super) fn finding(&self) -> Finding {
        match self.value() {
            value if value >= threshold() => Finding::Worse,
            value if value >= DOUBT => Finding::Doubtful,
            _ => Finding::Fine,
        }
    }
}

/// The evidence that takes a canary back.
pub(super) fn threshold() -> f64 {
    MEASURES as f64 / FALSE_ALARMS
}

/// ln of P(what was seen | odds `worse` times as high) / P(what was seen | equal), given the sums.
fn log_ratio(block: Block, worse: f64) -> f64 {
    let bad = block.canary_bad + block.serving_bad;
    let least = bad.saturating_sub(block.serving);
    let most = bad.min(block.canary);
    if least >= most {
        // It could not have been otherwise: that says nothing.
        return 0.0;
    }
    // Terms of C(canary, x)·C(serving, bad − x)·θ^x, each from the one before, from the largest on.
    let step = |x: u64| {
        let (x, canary, serving, bad) =
            (real(x), real(block.canary), real(block.serving), real(bad));
        ((canary - x) * (bad - x) / ((x + 1.0) * (serving - bad + x + 1.0))).ln()
    };
    let (mut log, mut equal, mut other) = (0.0, Sum::new(), Sum::new());
    for x in least..=most {
        let times = real(x - least);
        equal.add(log);
        other.add(log + times * worse.ln());
        if x < most {
            log += step(x);
        }
    }
    real(block.canary_bad - least) * worse.ln() + equal.ln() - other.ln()
}

/// A sum of numbers that are known by their logarithms.
struct Sum {
    most: f64,
    scaled: f64,
}

impl Sum {
    fn new() -> Self {
        Self { most: f64::NEG_INFINITY, scaled: 0.0 }
    }

    fn add(&mut self, log: f64) {
        if log > self.most {
            self.scaled = self.scaled * (self.most - log).exp() + 1.0;
            self.most = log;
        } else {
            self.scaled += (log - self.most).exp();
        }
    }

    fn ln(&self) -> f64 {
        self.most + self.scaled.ln()
    }
}

/// A count of calls; exact up to 2^53.
fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(canary: u64, canary_bad: u64, serving: u64, serving_bad: u64) -> Block {
        Block { canary, canary_bad, serving, serving_bad }
    }

    fn after(blocks: impl IntoIterator<Item = Block>) -> Evidence {
        let mut evidence = Evidence::default();
        blocks.into_iter().for_each(|block| evidence.add(block));
        evidence
    }

    #[test]
    fn one_bad_call_counts_as_worked_out_by_hand() {
        // One canary call of four, and one bad call in all, which was the canary's. Equal arms:
        // 1/4. At odds of 2: 2·1 / (2·1 + 1·3) = 2/5. The ratio is 8/5.
        assert!((log_ratio(block(1, 1, 3, 0), 2.0).exp() - 1.6).abs() < 1e-12);
        // It was the other arm's: 3/4 and 3/5.
        assert!((log_ratio(block(1, 0, 3, 1), 2.0).exp() - 0.8).abs() < 1e-12);
    }

    #[test]
    fn two_of_two_by_two_count_as_worked_out_by_hand() {
        // Two calls on each arm, two bad: C(2,x)·C(2,2−x) = 1, 4, 1 for x = 0, 1, 2.
        // Both on the canary at odds of 4: (16/(1 + 16 + 16)) / (1/6) = 96/33.
        assert!((log_ratio(block(2, 2, 2, 0), 4.0).exp() - 96.0 / 33.0).abs() < 1e-12);
    }

    #[test]
    fn the_mean_over_all_that_can_happen_to_equal_arms_is_one() {
        // 30 and 70 calls, 5 bad: weights C(30,x)·C(70,5−x).
        let choose = |n: u64, k: u64| (0..k).fold(1.0, |c, i| c * real(n - i) / real(i + 1));
        for worse in WORSE {
            let weight = |x| choose(30, x) * choose(70, 5 - x);
            let whole: f64 = (0..=5).map(weight).sum();
            let mean: f64 = (0..=5)
                .map(|x| weight(x) / whole * log_ratio(block(30, x, 70, 5 - x), worse).exp())
                .sum();
            assert!((mean - 1.0).abs() < 1e-9, "{worse}: {mean}");
        }
    }

    #[test]
    fn what_could_not_be_otherwise_says_nothing() {
        for block in [
            block(0, 0, 50, 7),
            block(50, 7, 0, 0),
            block(50, 0, 50, 0),
            block(9, 9, 5, 5),
            block(0, 0, 0, 0),
        ] {
            assert!((after([block]).value() - 1.0).abs() < 1e-12, "{block:?}");
        }
    }

    /// Numbers that look random and are the same each time (xorshift64*).
    fn random(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            real(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) / 9_007_199_254_740_992.0
        }
    }

    /// The block at which a canary with these rates is taken back, of at most so many: a block has
    /// 20 calls on the canary and 180 on the other arm.
    fn taken_back_at(seed: u64, rates: (f64, f64), blocks: usize) -> Option<usize> {
        let mut draw = random(seed);
        let mut count =
            |calls: u64, rate: f64| (0..calls).map(|_| u64::from(draw() < rate)).sum::<u64>();
        let mut evidence = Evidence::default();
        (0..blocks).find(|_| {
            evidence.add(block(20, count(20, rates.0), 180, count(180, rates.1)));
            evidence.finding() == Finding::Worse
        })
    }

    #[test]
    fn good_canaries_are_seldom_taken_back_however_often_somebody_looks() {
        // Looked at after each of 200 blocks. One measure may take back 5 % / 4 of them: of 400
        // canaries 5; three times the standard deviation (2.2) more are allowed here.
        let back = (1..=400).filter(|seed| taken_back_at(*seed, (0.02, 0.02), 200).is_some());
        let back = back.count();
        assert!(back <= 12, "{back} of 400");
    }

    #[test]
    fn a_canary_that_fails_five_times_as_often_is_taken_back_soon() {
        let blocks = (1..=100).map(|seed| taken_back_at(seed, (0.10, 0.02), 200).unwrap_or(200));
        let mut blocks: Vec<usize> = blocks.collect();
        blocks.sort_unstable();
        // Half of them within 15 blocks, 300 calls on the canary; all within 60.
        assert!(blocks[50] <= 15 && blocks[99] <= 60, "{} {}", blocks[50], blocks[99]);
    }

    #[test]
    fn many_blocks_neither_overflow_nor_lose_what_was_seen() {
        let evidence = after((0..10_000).map(|_| block(50, 50, 50, 0)));
        assert!(evidence.value() >= threshold() && evidence.value().is_finite());
        assert_eq!(evidence.total, block(500_000, 500_000, 500_000, 0));
        let large = after([block(1_000_000, 900, 9_000_000, 9_000)]);
        assert!(large.value().is_finite() && large.finding() == Finding::Fine);
    }
}
