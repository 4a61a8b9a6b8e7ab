//! What a running call holds of its limits.

use std::sync::Arc;

use crate::metering::money::Usd;

use super::Limits;
use super::Standing;
use super::account::Account;
use super::clock::Now;
use super::meter::Kind;

/// What a call has really used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// Whether it counts as a request: not when it failed through no fault of its own.
    pub counts: bool,
    /// Its tokens.
    pub tokens: u64,
    /// What it cost; 0 where its price is not known.
    pub usd: Usd,
}

impl Real {
    /// A call that came to nothing.
    pub const NOTHING: Self = Self { counts: false, tokens: 0, usd: Usd::ZERO };
}

/// What is reserved on one account: by kind, the slot and the amount.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) account: Arc<Account>,
    pub(super) taken: [Option<(u64, i128)>; 4],
}

/// A call's reservation. Dropping it gives all of it back.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    holds: Vec<Hold>,
}

impl Permit {
    pub(super) fn new(limits: Arc<Limits>, holds: Vec<Hold>) -> Self {
        Self { limits, holds }
    }

    /// Ends the reservation with what was used.
    pub fn settle(mut self, real: &Real) {
        let now = self.limits.now();
        self.end(real, now);
    }

    /// How the tightest of its meters of that kind stands; `None` where there is none.
    pub fn standing(&self, kind: Kind, now: Now) -> Option<Standing> {
        let standings = self.holds.iter().filter_map(|hold| {
            let mut state = hold.account.lock();
            state.roll(now);
            let mode = self.limits.mode(&state.limit);
            state.meter(kind)?.standing(now, mode)
        });
        standings.min_by_key(|standing| standing.remaining)
    }

    /// The same at a time of the caller's.
    pub(super) fn end(&mut self, real: &Real, now: Now) {
        for Hold { account, taken } in self.holds.drain(..) {
            let mut state = account.lock();
            state.roll(now);
            state.dirty = true;
            for (kind, taken) in Kind::ALL.into_iter().zip(taken) {
                let (Some(meter), Some((slot, amount))) = (state.meter(kind), taken) else {
                    continue;
                };
                let used = match kind {
                    Kind::Requests => i128::from(real.counts),
                    Kind::Tokens => real.tokens.into(),
                    Kind::Concurrent => 0,
                    Kind::Budget => real.usd.picodollars(),
                };
                meter.settle(slot, amount, used);
            }
            let mode = self.limits.mode(&state.limit);
            self.limits.tell(&mut state, &account, mode, false);
            if let Some(shared) = &self.limits.shared {
                shared.touch(&account, &mut state);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.holds.is_empty() {
            let now = self.limits.now();
            self.end(&Real::NOTHING, now);
        }
    }
}
