//! What a subject has used of one limit: up to four meters behind one lock.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use crate::policy::Every;
use crate::policy::Limit;

use super::clock::Now;
use super::meter::Kind;
use super::meter::Meter;
use super::meter::Mode;

/// Of a budget, in percent, from which on somebody is told.
const THRESHOLD: i128 = 80;

/// How far a budget is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Below,
    Threshold,
    Exceeded,
}

/// The counters of a limit and a subject.
#[derive(Debug)]
pub(super) struct Account {
    /// Accounts are locked in this order.
    pub(super) id: u64,
    pub(super) limit: Arc<str>,
    pub(super) subject: Box<str>,
    /// Redis was asked, whatever it said.
    pub(super) refilled: Notify,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    /// The limit as it was when it was last looked at.
    pub(super) limit: Arc<Limit>,
    /// By [`Kind`].
    pub(super) meters: [Option<Meter>; 4],
    /// Changed since it was last written to the store.
    pub(super) dirty: bool,
    /// What somebody was told of the budget's window.
    pub(super) told: Level,
    /// On the way to Redis.
    pub(super) queued: bool,
    /// What calls wait for, all of them and the least one, by [`Kind`].
    pub(super) wanted: [(i128, i128); 4],
    /// Counts the messages to Redis, and the last of them that it answered.
    pub(super) sent: u64,
    pub(super) heard: u64,
    /// Whether the courier knows that Redis has to hear of it.
    pub(super) active: bool,
    /// What somebody should be told, unless another gateway has done so.
    pub(super) tell: Level,
    /// What processes before this one have used, for a Redis that has forgotten: process, beginning
    /// and end of the window, and microdollars.
    pub(super) seeds: Vec<(String, u64, u64, i64)>,
}

impl Account {
    pub(super) fn new(limit: &Arc<Limit>, subject: &str, now: Now) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let state = State {
            limit: Arc::clone(limit),
            meters: Kind::ALL.map(|kind| meter(limit, kind, now)),
            dirty: false,
            told: Level::Below,
            queued: false,
            wanted: [(0, 0); 4],
            sent: 0,
            heard: 0,
            active: false,
            tell: Level::Below,
            seeds: Vec::new(),
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            limit: Arc::clone(&limit.name),
            subject: subject.into(),
            refilled: Notify::new(),
            state: Mutex::new(state),
        }
    }

    /// The state; never to be held across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Brings the meters to the limit as it is now and to the time.
    pub(super) fn prepare(&mut self, limit: &Arc<Limit>, now: Now) {
        if !Arc::ptr_eq(&self.limit, limit) {
            self.fit(limit, now);
        }
        self.roll(now);
    }

    /// Forgets what is over.
    pub(super) fn roll(&mut self, now: Now) {
        for meter in self.meters.iter_mut().flatten() {
            if meter.roll(now) {
                self.told = Level::Below;
                self.seeds.clear();
            }
        }
    }

    /// The policy has changed: counters stay, what is not limited any more goes.
    fn fit(&mut self, limit: &Arc<Limit>, now: Now) {
        for (kind, slot) in Kind::ALL.into_iter().zip(&mut self.meters) {
            let fresh = meter(limit, kind, now);
            match (slot.as_mut(), fresh) {
                (Some(old), Some(new)) if old.every() == new.every() => old.limit = new.limit,
                (_, fresh) => *slot = fresh,
            }
        }
        self.limit = Arc::clone(limit);
    }

    pub(super) fn meter(&mut self, kind: Kind) -> Option<&mut Meter> {
        self.meters.iter_mut().flatten().find(|meter| meter.kind == kind)
    }

    /// A level of the budget that nobody was told of yet; what calls have reserved does not count.
    pub(super) fn news(&mut self, mode: Mode, refused: bool) -> Option<Level> {
        let told = self.told;
        let budget = self.meter(Kind::Budget)?;
        let (total, threshold) = (budget.total(mode), budget.limit * THRESHOLD / 100);
        let settled = total - budget.reserved();
        // A request that is refused for its size alone says nothing of the budget.
        let level = if settled >= budget.limit || refused && total >= threshold {
            Level::Exceeded
        } else if settled >= threshold {
            Level::Threshold
        } else {
            Level::Below
        };
        (level > told).then(|| {
            self.told = level;
            level
        })
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(&self) -> bool {
        !self.dirty
            && !self.queued
            && !self.active
            && self.meters.iter().flatten().all(Meter::is_idle)
    }
}

/// A fresh meter of what the limit limits.
fn meter(limit: &Limit, kind: Kind, now: Now) -> Option<Meter> {
    let (most, every): (i128, Option<Every>) = match kind {
        Kind::Requests => (limit.requests?.into(), None),
        Kind::Tokens => (limit.tokens?.into(), None),
        Kind::Concurrent => (limit.concurrent?.into(), None),
        Kind::Budget => {
            let budget = limit.budget?;
            (budget.usd.picodollars(), Some(budget.every))
        }
    };
    Some(Meter::new(kind, most, every, now))
}
