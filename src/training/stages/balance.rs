//! Stage 11: no team, key, prompt or tool has more than its share, and not too many refuse.

use std::collections::HashMap;

use crate::training::settings::Caps;
use crate::training::tally::Reason;

/// How refusals begin.
const REFUSALS: [&str; 10] = [
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i can't help with",
    "i can't assist with",
    "i cannot help with",
    "i cannot assist with",
    "i'm unable to",
    "i am unable to",
    "sorry, i can't",
    "as an ai language model",
];

/// What is counted of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::training) struct Weighed<'a> {
    pub(in crate::training) team: u32,
    pub(in crate::training) key: u32,
    pub(in crate::training) system: u64,
    pub(in crate::training) tools: &'a [u32],
    pub(in crate::training) refuses: bool,
}

/// Lets rows through until something is full. Rows come in an order that new ones do not change.
#[derive(Debug)]
pub(in crate::training) struct Balance<'a> {
    caps: &'a Caps,
    rows: u64,
    refusals: u64,
    /// By what is counted and which one of it.
    counts: HashMap<(u8, u64), u64>,
}

impl<'a> Balance<'a> {
    pub(in crate::training) fn new(caps: &'a Caps) -> Self {
        Self { caps, rows: 0, refusals: 0, counts: HashMap::new() }
    }

    /// Whether a row still has room; one that has is counted.
    pub(in crate::training) fn admit(&mut self, row: Weighed<'_>) -> Result<(), Reason> {
        if self.caps.rows.is_some_and(|most| self.rows >= most) {
            return Err("balance.rows");
        }
        let limits = [
            (0, u64::from(row.team), self.caps.per_team, "balance.team"),
            (1, u64::from(row.key), self.caps.per_key, "balance.key"),
            (2, row.system, self.caps.per_system_prompt, "balance.system_prompt"),
        ];
        let tools = row.tools.iter();
        let tools = tools.map(|tool| (3, u64::from(*tool), self.caps.per_tool, "balance.tool"));
        let limits: Vec<_> = limits.into_iter().chain(tools).collect();
        for (kind, one, most, reason) in &limits {
            let count = self.counts.get(&(*kind, *one)).copied().unwrap_or(0);
            if most.is_some_and(|most| count >= most) {
                return Err(reason);
            }
        }
        if row.refuses && self.caps.refusals.is_some_and(|most| self.share_with_one_more() > most) {
            return Err("balance.refusals");
        }
        for (kind, one, most, _) in limits {
            if most.is_some() {
                *self.counts.entry((kind, one)).or_default() += 1;
            }
        }
        self.rows += 1;
        self.refusals += u64::from(row.refuses);
        Ok(())
    }

    fn share_with_one_more(&self) -> f64 {
        let count = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from);
        count(self.refusals + 1) / count(self.rows + 1)
    }
}

/// Whether an answer refuses, by its first words.
pub(in crate::training) fn refuses(answer: &str) -> bool {
    let head: String = answer.chars().take(60).collect::<String>().to_lowercase();
    let head = head.replace('\u{2019}', "'");
    REFUSALS.iter().any(|refusal| head.starts_with(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_takes_no_more() {
        let caps = Caps { per_key: Some(2), per_tool: Some(1), rows: Some(4), ..Caps::default() };
        let mut balance = Balance::new(&caps);
        let row = |key, tools| Weighed { key, tools, ..Weighed::default() };
        let outcomes = [
            balance.admit(row(1, &[7])),
            balance.admit(row(1, &[7, 8])),
            balance.admit(row(1, &[8])),
            balance.admit(row(1, &[])),
            balance.admit(row(2, &[])),
            balance.admit(row(3, &[])),
            balance.admit(row(4, &[])),
        ];
        let (tool, key, rows) = ("balance.tool", "balance.key", "balance.rows");
        assert_eq!(outcomes, [Ok(()), Err(tool), Ok(()), Err(key), Ok(()), Ok(()), Err(rows)]);
    }

    #[test]
    fn refusals_are_a_part_of_what_came_before() {
        let caps = Caps { refusals: Some(0.25), ..Caps::default() };
        let mut balance = Balance::new(&caps);
        let mut row = |refuses| balance.admit(Weighed { refuses, ..Weighed::default() }).is_ok();
        // One of four is a quarter; two of six are a third.
        let let_in = [true, false, false, false, true, false, true].map(&mut row);
        assert_eq!(let_in, [false, true, true, true, true, true, false]);
        assert!(refuses("I\u{2019}m sorry, but I can\u{2019}t help you."));
        assert!(!refuses("Sorry for the delay."));
    }
}
