//! Which arm of a split somebody lands on: weighted rendezvous hashing.
//!
//! Each arm draws a number for each caller, the same on every gateway and after every restart, and
//! the largest wins. When weights change, callers move only to arms that gained: none moves
//! between two arms whose ratio stays.

use ring::digest;

use super::rule::Arm;

/// The arm of `who` in the split of `rule`. `arms` is not empty: the check sees to it.
pub(super) fn arm_of<'a>(rule: &str, arms: &'a [Arm], who: &[u8]) -> &'a Arm {
    let score = |arm: &Arm| arm.weight / -draw(rule, who, &arm.target.model).ln();
    let best = arms.iter().map(|arm| (score(arm), arm)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map_or(&arms[0], |(_, arm)| arm)
}

/// A number above 0 and below 1, by SHA-256: its spread is even, and it never changes.
fn draw(rule: &str, who: &[u8], model: &str) -> f64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [rule.as_bytes(), who, model.as_bytes()] {
        hash.update(&part.len().to_be_bytes());
        hash.update(part);
    }
    let bytes = hash.finish();
    let mut first = [0; 8];
    first.iter_mut().zip(bytes.as_ref()).for_each(|(to, from)| *to = *from);
    // 53 bits fill a double exactly.
    let bits = u64::from_be_bytes(first) >> 11;
    let bits = bits as f64;
    (bits + 0.5) / 9_007_199_254_740_992.0
}
