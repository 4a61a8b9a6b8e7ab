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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::Policy;
    use crate::policy::Settings;
    use crate::policy::Sources;

    fn arms(weights: &[(&str, f64)]) -> Vec<Arm> {
        let policy = Policy::check(&Sources::default(), &Settings::default()).policy.unwrap();
        let arm = |&(model, weight): &(&str, f64)| Arm { weight, target: policy.target(model) };
        weights.iter().map(arm).collect()
    }

    /// The arm of each of 100,000 users.
    fn land(arms: &[Arm]) -> Vec<Arc<str>> {
        let who = |user: u32| Arc::clone(&arm_of("r", arms, &user.to_be_bytes()).target.model);
        (0..100_000).map(who).collect()
    }

    fn share(landed: &[Arc<str>], model: &str) -> f64 {
        let count = landed.iter().filter(|arm| ***arm == *model).count();
        f64::from(u32::try_from(count).unwrap()) / 1e5
    }

    #[test]
    fn a_hundred_thousand_users_fall_on_the_arms_by_their_weights() {
        let landed = land(&arms(&[("a", 5.0), ("b", 25.0), ("c", 70.0)]));
        for (model, weight) in [("a", 0.05), ("b", 0.25), ("c", 0.70)] {
            let share = share(&landed, model);
            assert!((share - weight).abs() < 0.01, "{model}: {share}");
        }
        assert_eq!(landed, land(&arms(&[("a", 5.0), ("b", 25.0), ("c", 70.0)])));
    }

    #[test]
    fn when_weights_change_only_the_difference_moves() {
        let before = land(&arms(&[("a", 5.0), ("b", 95.0)]));
        let after = land(&arms(&[("a", 10.0), ("b", 90.0)]));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!((4_500..=5_500).contains(&moved), "5 % move, and not {moved} of 100,000");
        let left = before.iter().zip(&after).filter(|(b, a)| ***b == *"a" && ***a == *"b").count();
        assert_eq!(left, 0, "nobody leaves the arm that gained");
    }

    #[test]
    fn two_splits_divide_the_same_users_differently() {
        let arms = arms(&[("a", 50.0), ("b", 50.0)]);
        let same = (0..10_000_u32).filter(|user| {
            let arm = |rule| &arm_of(rule, &arms, &user.to_be_bytes()).target.model;
            arm("one") == arm("two")
        });
        let same = same.count();
        assert!((4_500..=5_500).contains(&same), "{same} of 10,000");
    }
}
