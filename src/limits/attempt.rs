//! One attempt to reserve on all limits of a request: all of them, or none.

use std::sync::Arc;
use std::sync::MutexGuard;

use crate::policy::Claim;

use super::Demand;
use super::Limits;
use super::Refusal;
use super::account::Account;
use super::account::State;
use super::clock::Now;
use super::meter::Kind;
use super::meter::Meter;
use super::meter::Mode;
use super::permit::Hold;
use super::permit::Permit;

/// A counter and whose claim it is.
pub(super) type Claimed<'c> = (Arc<Account>, &'c Claim);

/// What an attempt came to.
pub(super) enum Attempt {
    Admitted(Permit),
    Refused(Box<Refusal>),
    /// Redis has to be asked for these.
    Short(Vec<Arc<Account>>),
}

/// A request's counters, locked, and what stands in its way.
struct Look<'a> {
    states: Vec<MutexGuard<'a, State>>,
    refused: Option<(usize, Refusal)>,
    /// Those that Redis may have more of.
    short: Vec<usize>,
}

impl Limits {
    /// Reserves on `accounts`, which are in order of id. At the `last` attempt nothing is waited for.
    pub(super) fn attempt(
        self: &Arc<Self>,
        accounts: &[Claimed<'_>],
        demand: &Demand,
        now: Now,
        last: bool,
    ) -> Attempt {
        let Look { mut states, refused, short } = self.look(accounts, demand, now, last);
        if let Some((index, refusal)) = refused {
            if refusal.kind == Some(Kind::Budget)
                && let (Some(state), Some((account, claim))) =
                    (states.get_mut(index), accounts.get(index))
            {
                self.tell(state, account, self.mode(&claim.limit), true);
            }
            return Attempt::Refused(Box::new(refusal));
        }
        if !short.is_empty() {
            return Attempt::Short(want(accounts, &mut states, &short, demand));
        }
        let holds = accounts.iter().zip(&mut states);
        let holds = holds.map(|(claimed, state)| self.take(claimed, state, demand, now)).collect();
        drop(states);
        Attempt::Admitted(Permit::new(Arc::clone(self), holds))
    }

    fn look<'a>(
        &self,
        accounts: &'a [Claimed<'_>],
        demand: &Demand,
        now: Now,
        last: bool,
    ) -> Look<'a> {
        let states = Vec::with_capacity(accounts.len());
        let mut look = Look { states, refused: None, short: Vec::new() };
        // In order of id, so that no two requests wait for each other.
        for (index, (account, claim)) in accounts.iter().enumerate() {
            let mut state = account.lock();
            state.prepare(&claim.limit, now);
            let mode = self.mode(&claim.limit);
            if let Some(found) = refusal(&state, claim, demand, now, mode) {
                let worst = look.refused.as_ref().map(|(_, worst)| worst);
                if mode == Mode::Leased && !last && may_be_leased(&state, &found, now) {
                    look.short.push(index);
                } else if worst.is_none_or(|worst| outweighs(&found, worst)) {
                    look.refused = Some((index, found));
                }
            }
            look.states.push(state);
        }
        look
    }

    fn take(
        &self,
        (account, claim): &Claimed<'_>,
        state: &mut State,
        demand: &Demand,
        now: Now,
    ) -> Hold {
        state.dirty = true;
        let taken = Kind::ALL.map(|kind| {
            let meter = state.meter(kind)?;
            let amount = demand.of(kind);
            meter.take(amount, now);
            Some((meter.slot(), amount))
        });
        if let Some(shared) = &self.shared {
            shared.touch(account, state);
            let low = state.meters.iter().flatten().any(|meter| meter.is_low(now));
            if low && self.mode(&claim.limit) == Mode::Leased {
                shared.ask(account, state);
            }
        }
        Hold { account: Arc::clone(account), taken }
    }
}

/// Whether more of what refuses may be had from Redis.
fn may_be_leased(state: &State, refusal: &Refusal, now: Now) -> bool {
    let meter = state.meters.iter().flatten().find(|meter| Some(meter.kind) == refusal.kind);
    meter.is_some_and(|meter| !meter.is_dry(now) && refusal.wanted <= meter.limit - meter.used())
}

/// Notes what a call wants of those that have too little.
fn want(
    accounts: &[Claimed<'_>],
    states: &mut [MutexGuard<'_, State>],
    short: &[usize],
    demand: &Demand,
) -> Vec<Arc<Account>> {
    for index in short {
        let Some(state) = states.get_mut(*index) else { continue };
        for (kind, wanted) in Kind::ALL.into_iter().zip(&mut state.wanted) {
            let amount = demand.of(kind).max(1);
            let (all, least) = *wanted;
            *wanted = (all + amount, if all == 0 { amount } else { least.min(amount) });
        }
    }
    let accounts = short.iter().filter_map(|index| accounts.get(*index));
    accounts.map(|(account, _)| Arc::clone(account)).collect()
}

/// What refuses a request, of one account.
fn refusal(state: &State, claim: &Claim, demand: &Demand, now: Now, mode: Mode) -> Option<Refusal> {
    if mode == Mode::Closed {
        return Some(Refusal::away(&claim.limit.name));
    }
    let mut worst: Option<Refusal> = None;
    for meter in state.meters.iter().flatten().filter(|meter| holds(meter, claim, demand)) {
        let (wanted, room) = (demand.of(meter.kind), meter.room(now, mode));
        let budget = meter.kind == Kind::Budget;
        // Where the price is not known, something has to be left of a budget all the same.
        if room >= wanted && (room > 0 || wanted > 0 || !budget) {
            continue;
        }
        let found = Refusal {
            limit: Arc::clone(&claim.limit.name),
            kind: Some(meter.kind),
            most: meter.limit,
            wanted,
            retry_after: meter.wait(wanted, now, mode),
            downgrade: claim.limit.downgrade.clone().filter(|_| budget),
            standing: meter.standing(now, mode),
        };
        if worst.as_ref().is_none_or(|worst| outweighs(&found, worst)) {
            worst = Some(found);
        }
    }
    worst
}

/// Whether a meter has a say: a budget has none in what costs nothing, or goes to the model that
/// it names for that.
fn holds(meter: &Meter, claim: &Claim, demand: &Demand) -> bool {
    let downgraded = demand.downgraded && claim.limit.downgrade.is_some();
    meter.kind != Kind::Budget || demand.pays && !downgraded
}

/// Whether a refusal is the one to tell: one that another model does not cure, then the one that
/// lasts longest.
fn outweighs(one: &Refusal, other: &Refusal) -> bool {
    let rank = |refusal: &Refusal| {
        (refusal.downgrade.is_none(), refusal.retry_after.is_none(), refusal.retry_after)
    };
    rank(one) > rank(other)
}
