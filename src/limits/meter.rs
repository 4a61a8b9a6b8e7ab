//! One counter: what of a limit is used by a subject, and how much more may be.

use std::time::Duration;

use crate::policy::Every;

use super::clock::Now;
use super::window::MINUTE_MS;
use super::window::Minute;
use super::window::end_of;
use super::window::start_of;

/// Picodollars of a microdollar: what Redis counts budgets in, so that its doubles stay exact.
const PICO_OF_MICRO: i128 = 1_000_000;
/// So long after it was heard of, Redis keeps what it has set aside (`LIVES` in lease.lua).
const SET_ASIDE_MS: u64 = 15_000;
/// How long what Redis has refused is not asked for again.
const DRY_MS: u64 = 200;
/// A lease is meant to last so long.
const AHEAD_MS: u64 = 1_000;
/// As long as nobody knows the pace, a lease is for so many calls.
const FIRST: i128 = 4;
/// When to ask again for a place among the calls that run: nobody knows how long they take.
const RUNNING_MS: u64 = 1_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Calls at the same time.
    Concurrent,
    /// Picodollars an hour, day, week or month.
    Budget,
}

impl Kind {
    /// All of them, in the order in which an account has its meters.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::Concurrent, Self::Budget];

    /// The name in the store and in `GET /api/limits`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrent => "concurrent",
            Self::Budget => "budget",
        }
    }

    /// How many of ours are one of those that Redis counts.
    pub(super) fn scale(self) -> i128 {
        if self == Self::Budget { PICO_OF_MICRO } else { 1 }
    }
}

/// Who decides how much may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// This process alone.
    Alone,
    /// Redis: what was leased from it may be used.
    Leased,
    /// Redis is away: this is one of so many gateways, each with its share.
    Share(u64),
    /// Redis is away, and nothing passes until it is back.
    Closed,
    /// Redis is away, and nothing is limited until it is back.
    Open,
}

/// What is used.
#[derive(Clone, Copy, Debug)]
enum Used {
    Minute(Minute),
    Running(i128),
    Window { every: Every, start: u64, amount: i128 },
}

/// What Redis has let this gateway use.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// The slot or window that it is for.
    slot: u64,
    /// All that Redis holds as ours in that slot, what is used included.
    held: i128,
    /// What this gateway may use if Redis is not heard of again: the lease, and what is set aside.
    grace: i128,
    /// Until then that is nobody else's. Who rests has nothing set aside.
    aside_until_ms: u64,
    /// What was left for all gateways.
    rest: i128,
    /// What this one has used since Redis was last heard of.
    since: i128,
    /// What the other gateways have, in the whole window.
    others: i128,
    /// When Redis was last heard of, on the steady clock; 0 for never.
    heard_ms: u64,
    /// Below this it is time to ask for more.
    low: i128,
    /// Until then Redis is known to have no more.
    dry_until_ms: u64,
    /// Taken since Redis was last heard of.
    taken: i128,
    /// When something was last taken.
    taken_ms: u64,
    /// The largest amount that was taken at once.
    unit: i128,
}

/// One counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    pub(super) kind: Kind,
    pub(super) limit: i128,
    used: Used,
    /// The part of `used` that belongs to calls which are running.
    reserved: i128,
    /// Used before this process began, and until when that counts: the window's end on the
    /// calendar's clock, or a moment of the steady one.
    restored: (i128, u64),
    lease: Lease,
}

/// What a gateway has in a window, as Redis keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    /// Amounts, and in how many milliseconds each leaves the window.
    pub(super) amounts: Vec<(u64, i128)>,
    /// The window's beginning in milliseconds since 1970; 0 where there is no such thing.
    pub(super) start: u64,
}

/// What of a lease is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    /// As much as is likely to be used soon.
    Useful,
    Nothing,
}

/// What is asked of Redis for a meter, in its own units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// What calls wait for.
    pub(super) wanted: i128,
    /// What is likely to be used within a second.
    pub(super) extra: i128,
    /// What one call takes: less is of no use.
    pub(super) unit: i128,
    /// The least that one of the waiting calls takes.
    pub(super) least: i128,
}

impl Asked {
    pub(super) const NOTHING: Self = Self { wanted: 0, extra: 0, unit: 1, least: 1 };
}

/// What Redis says of a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// What was added to ours.
    pub(super) amount: i128,
    /// What is set aside for this gateway if Redis goes away.
    pub(super) promise: i128,
    /// What the others have.
    pub(super) others: i128,
}

impl Meter {
    pub(super) fn new(kind: Kind, limit: i128, every: Option<Every>, now: Now) -> Self {
        let used = match (kind, every) {
            (Kind::Requests | Kind::Tokens, _) => Used::Minute(Minute::default()),
            (_, Some(every)) => {
                Used::Window { every, start: start_of(every, now.unix_ms), amount: 0 }
            }
            _ => Used::Running(0),
        };
        let mut meter =
            Self { kind, limit, used, reserved: 0, restored: (0, 0), lease: Lease::default() };
        meter.roll(now);
        meter
    }

    /// The window of a budget.
    pub(super) fn every(&self) -> Option<Every> {
        match self.used {
            Used::Window { every, .. } => Some(every),
            _ => None,
        }
    }

    /// Forgets what is over. A clock that steps back forgets nothing, and begins no window again.
    /// Whether a new window of the calendar has begun.
    pub(super) fn roll(&mut self, now: Now) -> bool {
        let mut begun = false;
        match &mut self.used {
            Used::Minute(minute) => {
                minute.roll(now);
                if now.steady_ms >= self.restored.1 {
                    self.restored = (0, 0);
                }
            }
            Used::Running(_) => {}
            Used::Window { every, start, amount } => {
                let current = start_of(*every, now.unix_ms);
                if current > *start {
                    (*start, *amount) = (current, 0);
                    self.restored = (0, 0);
                    begun = true;
                }
            }
        }
        begun
    }

    /// Where what is taken now is counted: to be given to [`Self::correct`].
    pub(super) fn slot(&self) -> u64 {
        match &self.used {
            Used::Minute(minute) => minute.newest_slot(),
            Used::Running(_) => 0,
            Used::Window { start, .. } => *start,
        }
    }

    /// What this gateway uses, calls that are running included.
    pub(super) fn used(&self) -> i128 {
        match &self.used {
            Used::Minute(minute) => minute.sum().into(),
            Used::Running(amount) | Used::Window { amount, .. } => *amount,
        }
    }

    /// The part of [`Self::used`] that is reserved for calls which are running.
    pub(super) fn reserved(&self) -> i128 {
        self.reserved
    }

    fn used_in_slot(&self) -> i128 {
        match &self.used {
            Used::Minute(minute) => minute.newest().into(),
            _ => self.used(),
        }
    }

    /// All that counts against the limit as far as this gateway knows.
    pub(super) fn total(&self, mode: Mode) -> i128 {
        match mode {
            Mode::Alone => self.used() + self.restored.0,
            _ => self.used() + self.restored.0.max(self.lease.others),
        }
    }

    /// How much more may be used; negative where more was used than reserved.
    pub(super) fn room(&self, now: Now, mode: Mode) -> i128 {
        match mode {
            Mode::Alone => self.limit - self.total(mode),
            Mode::Leased => self.leased().min(self.limit - self.used()),
            Mode::Share(gateways) => self.share(gateways.max(1).into(), now),
            Mode::Open => i128::MAX,
            Mode::Closed => 0,
        }
    }

    /// What is left of the lease.
    pub(super) fn leased(&self) -> i128 {
        let held = if self.lease.slot == self.slot() { self.lease.held } else { 0 };
        held - self.used_in_slot().max(0)
    }

    /// What may be used without Redis: at first what is set aside for that, then an equal share of
    /// what was left, and in a window of which nothing is known, of the limit.
    fn share(&self, gateways: i128, now: Now) -> i128 {
        let Lease { grace, rest, since, aside_until_ms, .. } = self.lease;
        if !self.still_knows_others(now) {
            return self.limit / gateways - self.used() - self.restored.0;
        }
        if now.steady_ms < aside_until_ms {
            return grace - since;
        }
        grace.max(rest / gateways) - since
    }

    /// Whether others may have used of this window what Redis told of, or more.
    fn still_knows_others(&self, now: Now) -> bool {
        let Lease { heard_ms, slot, .. } = self.lease;
        match self.used {
            _ if heard_ms == 0 => false,
            Used::Window { start, .. } => slot == start,
            _ => now.steady_ms < heard_ms + MINUTE_MS,
        }
    }

    /// Uses some.
    pub(super) fn take(&mut self, amount: i128, now: Now) {
        self.lease.taken_ms = now.steady_ms;
        self.reserved += amount;
        self.lease.taken += amount;
        self.lease.unit = self.lease.unit.max(amount);
        self.change(self.slot(), amount);
    }

    /// Ends a reservation of `amount` in `slot`, of which `real` was used.
    pub(super) fn settle(&mut self, slot: u64, amount: i128, real: i128) {
        self.reserved -= amount;
        self.change(slot, real - amount);
    }

    fn change(&mut self, slot: u64, amount: i128) {
        match &mut self.used {
            Used::Minute(minute) => minute.add(slot, clamped(amount)),
            Used::Running(running) => *running += amount,
            Used::Window { start, amount: used, .. } if *start == slot => *used += amount,
            // Of a window that is over.
            Used::Window { .. } => return,
        }
        self.lease.since += amount;
    }

    /// Time until `need` more would fit, if nobody else used any; `None` where it never will.
    pub(super) fn wait(&self, need: i128, now: Now, mode: Mode) -> Option<Duration> {
        if need > self.limit {
            return None;
        }
        let ms = match &self.used {
            Used::Running(_) => RUNNING_MS,
            Used::Window { every, start, .. } => {
                end_of(*every, *start).saturating_sub(now.unix_ms).max(1)
            }
            Used::Minute(minute) => {
                let mut missing = need - self.room(now, mode);
                let mut leaving = minute.leaving();
                let enough = leaving.find(|(_, amount)| {
                    missing -= i128::from(*amount);
                    missing <= 0
                });
                let at = enough.map_or(self.restored.1, |(at, _)| at);
                match at.saturating_sub(now.steady_ms) {
                    0 => super::window::SLOT_MS,
                    ms => ms,
                }
            }
        };
        Some(Duration::from_millis(ms))
    }

    /// Time until all of it is free again.
    pub(super) fn resets_in(&self, now: Now) -> Duration {
        Duration::from_millis(match &self.used {
            Used::Running(_) => 0,
            Used::Window { every, start, .. } => end_of(*every, *start).saturating_sub(now.unix_ms),
            Used::Minute(minute) => {
                let last = minute.leaving().last().map_or(0, |(at, _)| at);
                last.max(self.restored.1).saturating_sub(now.steady_ms)
            }
        })
    }

    /// Whether nothing of it would be lost with it.
    pub(super) fn is_idle(&self) -> bool {
        self.reserved == 0 && self.used() == 0 && self.restored.0 == 0 && self.leased() <= 0
    }

    /// Counts what was used before this process began; `age_ms` ago it was written down.
    pub(super) fn restore(&mut self, amount: i128, start: u64, age_ms: u64, now: Now) {
        let until = match &mut self.used {
            Used::Minute(_) if age_ms < MINUTE_MS => now.steady_ms + MINUTE_MS - age_ms,
            Used::Window { every, start: current, amount: used } if start >= *current => {
                if start > *current {
                    // The clock has stepped back since.
                    (*current, *used) = (start, 0);
                    self.restored.0 = 0;
                }
                end_of(*every, start)
            }
            _ => return,
        };
        self.restored = (self.restored.0 + amount, until);
    }

    /// Redis is back: what may still be used without it becomes a lease, so that it counts there.
    pub(super) fn recover(&mut self, gateways: u64, now: Now) {
        let room = self.room(now, Mode::Share(gateways)).max(0);
        self.lease.slot = self.slot();
        self.lease.held = self.used_in_slot().max(0) + room;
        (self.lease.grace, self.lease.rest, self.lease.since) = (room, room, 0);
        self.lease.heard_ms = now.steady_ms;
        self.lease.aside_until_ms = now.steady_ms + SET_ASIDE_MS;
    }

    /// What Redis is to keep as ours; what of the lease is not kept goes back.
    pub(super) fn claim(&mut self, keep: Keep, now: Now) -> Claimed {
        let slot = self.slot();
        if self.lease.slot != slot {
            (self.lease.slot, self.lease.held) = (slot, 0);
        }
        let most = match keep {
            Keep::All => i128::MAX,
            // A rest that was of no use is of more use elsewhere.
            Keep::Useful if self.lease.taken == 0 && self.leased() < self.lease.unit => 0,
            Keep::Useful => {
                let unit = self.lease.unit.max(1);
                let calls = (2 * self.a_second(now) / unit).max(FIRST);
                self.used_in_slot().max(0) + calls * unit
            }
            Keep::Nothing => 0,
        };
        self.lease.held = self.lease.held.min(most);
        let scale = self.kind.scale();
        let whole = |amount: i128| (amount.max(0) + scale - 1) / scale;
        // What is used counts, leased or not.
        self.lease.held = whole(self.used_in_slot().max(self.lease.held)) * scale;
        let held = whole(self.lease.held);
        match &self.used {
            Used::Running(_) => Claimed { amounts: vec![(0, held)], start: 0 },
            Used::Window { every, start, .. } => {
                let left = end_of(*every, *start).saturating_sub(now.unix_ms).max(1);
                Claimed { amounts: vec![(left, held)], start: *start }
            }
            Used::Minute(minute) => {
                let newest = minute.leaves(slot);
                let past = minute.leaving().filter(|(at, amount)| *at < newest && *amount > 0);
                let all = past.map(|(at, amount)| (at, i128::from(amount))).chain([(newest, held)]);
                let from_now = |at: u64| at.saturating_sub(now.steady_ms).max(1);
                Claimed { amounts: all.map(|(at, n)| (from_now(at), n)).collect(), start: 0 }
            }
        }
    }

    /// Whether Redis has just said that it has no more.
    pub(super) fn is_dry(&self, now: Now) -> bool {
        now.steady_ms < self.lease.dry_until_ms
    }

    /// Whether it is time to ask for more, although nobody waits yet.
    pub(super) fn is_low(&self, now: Now) -> bool {
        self.leased() < self.lease.low && !self.is_dry(now)
    }

    /// Whether nothing was taken for as long as a lease is meant to last.
    pub(super) fn rests(&self, now: Now) -> bool {
        now.steady_ms >= self.lease.taken_ms + AHEAD_MS
    }

    /// What is likely to be taken in a second.
    fn a_second(&self, now: Now) -> i128 {
        let since = now.steady_ms.saturating_sub(self.lease.heard_ms).clamp(1, AHEAD_MS);
        self.lease.taken * i128::from(AHEAD_MS) / i128::from(since)
    }

    /// What to ask for when calls wait for `wanted`.
    pub(super) fn ask(&self, (wanted, least): (i128, i128), now: Now) -> Asked {
        let scale = self.kind.scale();
        let whole = |amount: i128| (amount.max(0) + scale - 1) / scale;
        let a_second = self.a_second(now);
        let unit = self.lease.unit.max(least);
        let extra = if wanted > 0 { a_second.max(FIRST * unit) } else { a_second };
        let missing = wanted - self.leased().max(0);
        let extra = extra - (self.leased() - wanted).max(0);
        Asked {
            wanted: whole(missing),
            extra: whole(extra),
            unit: whole(unit).max(1),
            least: whole(least).max(1),
        }
    }

    /// Takes in what Redis said to the claim of `slot` and what was `asked` with it.
    pub(super) fn grant(
        &mut self,
        (slot, asked): (u64, Asked),
        granted: Granted,
        rests: bool,
        now: Now,
    ) {
        let scale = self.kind.scale();
        self.lease.taken = 0;
        let all = granted.amount >= asked.wanted + asked.extra / 2;
        if granted.amount < asked.wanted {
            self.lease.dry_until_ms = now.steady_ms + DRY_MS;
        }
        if self.lease.slot == slot {
            self.lease.held += granted.amount * scale;
        }
        self.lease.others = granted.others * scale;
        self.lease.heard_ms = now.steady_ms;
        self.lease.aside_until_ms = if rests { 0 } else { now.steady_ms + SET_ASIDE_MS };
        self.lease.grace = self.leased() + granted.promise * scale;
        self.lease.rest = (self.limit - self.lease.others - self.used()).max(0);
        self.lease.since = 0;
        self.lease.low = if all { self.leased() / 2 } else { 0 };
    }
}

fn clamped(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}
