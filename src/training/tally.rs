//! Counts what the stages drop and rewrite, by reason.

use std::collections::BTreeMap;

use serde::Serialize;

/// Why a row was dropped or rewritten: `stage.reason`, such as `structure.no_assistant`.
pub(super) type Reason = &'static str;

/// What became of rows, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    /// Rows that went.
    pub(super) dropped: BTreeMap<Reason, u64>,
    /// Changes to rows: several to one row count each.
    pub(super) rewritten: BTreeMap<Reason, u64>,
    /// What was met on the way and says something of the data, such as `tool_calls`.
    pub(super) seen: BTreeMap<Reason, u64>,
}

impl Tally {
    pub(super) fn drop(&mut self, reason: Reason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    pub(super) fn rewrite(&mut self, reason: Reason, times: u64) {
        add(&mut self.rewritten, reason, times);
    }

    pub(super) fn see(&mut self, what: Reason, times: u64) {
        add(&mut self.seen, what, times);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.dropped, &other.dropped),
            (&mut self.rewritten, &other.rewritten),
            (&mut self.seen, &other.seen),
        ] {
            from.iter().for_each(|(reason, times)| add(to, reason, *times));
        }
    }
}

fn add(counts: &mut BTreeMap<Reason, u64>, reason: Reason, times: u64) {
    if times > 0 {
        *counts.entry(reason).or_default() += times;
    }
}
