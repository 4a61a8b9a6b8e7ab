//! How counters stand: for the control plane, for metrics, for the store, and for who is told of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::metering::money::Usd;
use crate::policy::Every;
use crate::policy::Limit;
use crate::policy::Per;

use super::Limits;
use super::Standing;
use super::account::Account;
use super::account::Level;
use super::account::State;
use super::clock::Now;
use super::lock;
use super::meter::Kind;
use super::meter::Meter;
use super::meter::Mode;
use super::name;
use super::window::end_of;

/// A counter as it outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The limit's name.
    pub limit: String,
    /// Whose.
    pub subject: String,
    /// What is counted: a [`Kind`]'s name.
    pub kind: String,
    /// minute, hour, day, week or month.
    pub every: String,
    /// The window's beginning; of a minute, when it was written. Milliseconds since 1970.
    pub start_ms: u64,
    /// What is used, calls that are running included.
    pub used: i128,
}

/// How a counter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit's name.
    pub limit: Arc<str>,
    /// key, team, user, tag:<name> or global.
    pub per: String,
    /// Whose.
    pub subject: String,
    /// What is counted.
    pub kind: Kind,
    /// minute, hour, day, week, month, or empty for calls at the same time.
    pub every: &'static str,
    /// All there is; picodollars of a budget, as the following.
    pub most: i128,
    /// What is used without the next.
    pub used: i128,
    /// What is reserved for calls that are running.
    pub reserved: i128,
    /// What is left.
    pub remaining: i128,
    /// Until all is there again; `None` for calls at the same time.
    pub resets_in: Option<Duration>,
}

/// Something that somebody wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// `budget.threshold` or `budget.exceeded`.
    pub event: &'static str,
    /// The limit.
    pub limit: Arc<str>,
    /// Whose budget.
    pub subject: String,
    /// The budget.
    pub budget: Usd,
    /// What is spent of it.
    pub spent: Usd,
    /// hour, day, week or month.
    pub every: &'static str,
    /// The end of its window in milliseconds since 1970.
    pub resets_at_ms: u64,
}

impl News {
    pub(super) fn of(account: &Account, budget: &Meter, mode: Mode, level: Level) -> Self {
        let every = budget.every();
        Self {
            event: if level == Level::Exceeded { "budget.exceeded" } else { "budget.threshold" },
            limit: Arc::clone(&account.limit),
            subject: account.subject.to_string(),
            budget: Usd::from_picodollars(budget.limit),
            spent: Usd::from_picodollars(budget.total(mode) - budget.reserved()),
            every: every.map_or("", name_of),
            resets_at_ms: every.map_or(0, |every| end_of(every, budget.slot())),
        }
    }
}

impl Limits {
    /// What somebody wants to be told since the last time.
    pub fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut lock(&self.news))
    }

    /// How the counters of these limits stand, in order of limit, subject and kind.
    pub fn states(&self, limits: &[Arc<Limit>], now: Now) -> Vec<LimitState> {
        let limits: HashMap<&str, &Arc<Limit>> = limits.iter().map(|l| (&*l.name, l)).collect();
        let mut states = Vec::new();
        for account in self.all() {
            let Some(limit) = limits.get(&*account.limit) else { continue };
            let mut state = account.lock();
            state.prepare(limit, now);
            let mode = self.mode(limit);
            let meters = state.meters.iter().flatten();
            states.extend(meters.map(|meter| line(&account, limit, meter, now, mode)));
        }
        states.sort_by(|a, b| {
            let key = |s: &LimitState| (Arc::clone(&s.limit), s.subject.clone());
            key(a).cmp(&key(b)).then((a.kind as u8).cmp(&(b.kind as u8)))
        });
        states
    }

    /// The counters that have changed since they were last asked for.
    pub fn changed(&self, now: Now) -> Vec<Counter> {
        let mut counters = Vec::new();
        for account in self.all() {
            let mut state = account.lock();
            if std::mem::take(&mut state.dirty) {
                state.roll(now);
                let meters = state.meters.iter().flatten();
                counters.extend(meters.filter_map(|meter| counter(&account, meter, now)));
            }
        }
        counters
    }

    /// Counts what was used before this process began.
    pub fn restore(&self, counters: Vec<Counter>) {
        let mut restored = lock(&self.restored);
        for counter in counters {
            let name = name(&counter.limit, &counter.subject);
            restored.entry(name).or_default().push(counter);
        }
    }

    /// Opens the counters of these limits that are restored and have not been asked for yet.
    pub fn open_restored(&self, limits: &[Arc<Limit>], now: Now) {
        let waiting: Vec<(String, String)> = lock(&self.restored)
            .values()
            .filter_map(|counters| counters.first())
            .map(|counter| (counter.limit.clone(), counter.subject.clone()))
            .collect();
        for (limit, subject) in waiting {
            if let Some(limit) = limits.iter().find(|known| *known.name == *limit) {
                self.account(&crate::policy::Claim { limit: Arc::clone(limit), subject }, now);
            }
        }
    }

    /// Forgets subjects of which nothing counts any more.
    pub fn sweep(&self, now: Now) {
        self.accounts.retain(|_, account| {
            // Nobody can take another reference: that needs the map, which is locked here.
            if Arc::strong_count(account) > 1 {
                return true;
            }
            let mut state = account.lock();
            state.roll(now);
            let idle = state.is_idle();
            if idle && let Some(mut count) = self.subjects.get_mut(&account.limit) {
                *count = count.saturating_sub(1);
            }
            !idle
        });
    }

    /// All accounts; the map is not locked while they are looked at.
    fn all(&self) -> Vec<Arc<Account>> {
        self.accounts.iter().map(|entry| Arc::clone(entry.value())).collect()
    }
}

impl State {
    /// Counts what was used before this process began.
    pub(super) fn restore(&mut self, counter: &Counter, now: Now) {
        let every = self.limit.budget.map_or("", |budget| name_of(budget.every));
        for meter in self.meters.iter_mut().flatten() {
            let minute = meter.every().is_none() && counter.every == "minute";
            if counter.kind == meter.kind.as_str() && (minute || counter.every == every) {
                let age = now.unix_ms.saturating_sub(counter.start_ms);
                meter.restore(counter.used, counter.start_ms, age, now);
            }
        }
        // Whoever wanted to know was told before.
        let _ = self.news(Mode::Alone, false);
    }
}

impl Meter {
    /// How it stands, for the answer's headers; only what goes by the minute is told there.
    pub(super) fn standing(&self, now: Now, mode: Mode) -> Option<Standing> {
        if !matches!(self.kind, Kind::Requests | Kind::Tokens) {
            return None;
        }
        let whole = |amount: i128| u64::try_from(amount.max(0)).unwrap_or(u64::MAX);
        let left = self.limit - self.total(mode);
        Some(Standing {
            limit: whole(self.limit),
            remaining: whole(left),
            resets_in: self.resets_in(now),
        })
    }
}

/// As policies spell it.
fn name_of(every: Every) -> &'static str {
    match every {
        Every::Hour => "hour",
        Every::Day => "day",
        Every::Week => "week",
        Every::Month => "month",
    }
}

fn line(account: &Account, limit: &Limit, meter: &Meter, now: Now, mode: Mode) -> LimitState {
    let total = meter.total(mode);
    let reserved = meter.reserved();
    let running = meter.kind == Kind::Concurrent;
    LimitState {
        limit: Arc::clone(&account.limit),
        per: match &limit.per {
            Per::Key => "key".to_owned(),
            Per::Team => "team".to_owned(),
            Per::User => "user".to_owned(),
            Per::Tag(name) => format!("tag:{name}"),
            Per::Global => "global".to_owned(),
        },
        subject: account.subject.to_string(),
        kind: meter.kind,
        every: match meter.every() {
            Some(every) => name_of(every),
            None if running => "",
            None => "minute",
        },
        most: meter.limit,
        used: total - reserved,
        reserved,
        remaining: (meter.limit - total).max(0),
        resets_in: (!running).then(|| meter.resets_in(now)),
    }
}

/// What outlives the process of a meter; nothing of the calls that run, which do not.
fn counter(account: &Account, meter: &Meter, now: Now) -> Option<Counter> {
    let (every, start_ms) = match (meter.kind, meter.every()) {
        (Kind::Concurrent, _) => return None,
        (_, Some(every)) => (name_of(every), meter.slot()),
        (_, None) => ("minute", now.unix_ms),
    };
    Some(Counter {
        limit: account.limit.to_string(),
        subject: account.subject.to_string(),
        kind: meter.kind.as_str().to_owned(),
        every: every.to_owned(),
        start_ms,
        used: meter.used(),
    })
}
