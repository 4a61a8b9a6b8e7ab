//! How counters stand: for the control plane, for metrics, for the store, and for who is told of it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Serialize;
use serde::Serializer;

use crate::metering::money::Usd;
use crate::policy::Claim;
use crate::policy::Every;
use crate::policy::Limit;
use crate::policy::Per;
use crate::store::LimitCounter;

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
use super::window::MINUTE_MS;
use super::window::end_of;

/// How a counter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit's name.
    pub limit: Arc<str>,
    /// key, team, user, `tag:<name>` or global.
    pub per: String,
    /// Whose; `None` for all calls, and as long as there is nobody.
    pub subject: Option<String>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct News {
    /// `budget.threshold` or `budget.exceeded`.
    #[serde(skip)]
    pub event: &'static str,
    /// The limit.
    #[serde(serialize_with = "text")]
    pub limit: Arc<str>,
    /// Whose budget.
    pub subject: String,
    /// The budget.
    #[serde(rename = "budget_usd")]
    pub budget: Usd,
    /// What is spent of it.
    #[serde(rename = "spent_usd")]
    pub spent: Usd,
    /// hour, day, week or month.
    pub every: &'static str,
    /// The end of its window, RFC 3339.
    pub resets_at: String,
}

fn text<S: Serializer>(name: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
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
            resets_at: every
                .map_or_else(String::new, |every| rfc3339(end_of(every, budget.slot()))),
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
        let (mut states, mut seen) = (Vec::new(), HashSet::new());
        for account in self.all() {
            let Some(limit) = limits.get(&*account.limit) else { continue };
            let mut state = account.lock();
            state.prepare(limit, now);
            let mode = self.mode(limit);
            let meters = state.meters.iter().flatten();
            states.extend(meters.map(|meter| line(&account, limit, meter, now, mode)));
            seen.insert(&*limit.name);
        }
        for limit in limits.values().filter(|limit| !seen.contains(&*limit.name)) {
            let nobody = Account::new(limit, "", now);
            let meters = nobody.lock().meters;
            let lines = meters.iter().flatten();
            let lines = lines.map(|meter| line(&nobody, limit, meter, now, Mode::Alone));
            states.extend(lines.map(|line| LimitState { subject: None, ..line }));
        }
        states.sort_by_cached_key(|state| {
            (Arc::clone(&state.limit), state.subject.clone(), state.kind as u8)
        });
        states
    }

    /// What is left of every budget, without an order.
    pub fn budgets(&self, limits: &[Arc<Limit>], now: Now) -> Vec<(Arc<Limit>, String, Usd)> {
        let limits: HashMap<&str, &Arc<Limit>> = limits.iter().map(|l| (&*l.name, l)).collect();
        let mut left = Vec::new();
        for account in self.all() {
            let Some(limit) = limits.get(&*account.limit) else { continue };
            let mut state = account.lock();
            state.prepare(limit, now);
            let mode = self.mode(limit);
            if let Some(budget) = state.meter(Kind::Budget) {
                let rest = Usd::from_picodollars((budget.limit - budget.total(mode)).max(0));
                left.push((Arc::clone(limit), account.subject.to_string(), rest));
            }
        }
        left
    }

    /// The counters that have changed since they were last asked for.
    pub fn changed(&self, now: Now) -> Vec<LimitCounter> {
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

    /// Everything is to be written down once more.
    pub(super) fn mark_all(&self) {
        for account in self.all() {
            account.lock().dirty = true;
        }
    }

    /// These could not be written down: they are asked for again.
    pub fn not_written(&self, counters: &[LimitCounter]) {
        for counter in counters {
            if let Some(account) = self.accounts.get(&name(&counter.limit, &counter.subject)) {
                account.lock().dirty = true;
            }
        }
    }

    /// Counts what was used before this process began. To be called once.
    pub fn restore(&self, counters: Vec<LimitCounter>, limits: &[Arc<Limit>], now: Now) {
        for counter in counters {
            let name = name(&counter.limit, &counter.subject);
            if let Some(limit) = limits.iter().find(|limit| *limit.name == *counter.limit) {
                let (limit, subject) = (Arc::clone(limit), counter.subject.clone());
                self.account(&Claim { limit, subject }, now).lock().restore(&counter, now);
            } else {
                // Its limit may come back.
                lock(&self.restored).entry(name).or_default().push(counter);
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
    pub(super) fn all(&self) -> Vec<Arc<Account>> {
        self.accounts.iter().map(|entry| Arc::clone(entry.value())).collect()
    }
}

impl State {
    /// Counts what was used before this process began.
    pub(super) fn restore(&mut self, counter: &LimitCounter, now: Now) {
        let every = self.limit.budget.map_or("", |budget| name_of(budget.every));
        for meter in self.meters.iter_mut().flatten() {
            let minute = meter.every().is_none() && counter.every == "minute";
            if counter.kind == meter.kind.as_str() && (minute || counter.every == every) {
                let age = now.unix_ms.saturating_sub(counter.start_ms);
                if meter.kind == Kind::Budget && !counter.gateway.is_empty() {
                    let micro = counter.used / meter.kind.scale();
                    let micro = i64::try_from(micro).unwrap_or(i64::MAX);
                    let (start, end) = (counter.start_ms, counter.end_ms);
                    self.seeds.push((counter.gateway.clone(), start, end, micro));
                }
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

/// A point in time in milliseconds since 1970.
fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(DateTime::from_timestamp_millis);
    time.map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
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
        subject: (limit.per != Per::Global).then(|| account.subject.to_string()),
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
fn counter(account: &Account, meter: &Meter, now: Now) -> Option<LimitCounter> {
    let (every, start_ms, end_ms) = match (meter.kind, meter.every()) {
        (Kind::Concurrent, _) => return None,
        (_, Some(every)) => (name_of(every), meter.slot(), end_of(every, meter.slot())),
        (_, None) => ("minute", now.unix_ms, now.unix_ms + MINUTE_MS),
    };
    Some(LimitCounter {
        limit: account.limit.to_string(),
        subject: account.subject.to_string(),
        kind: meter.kind.as_str().to_owned(),
        gateway: String::new(),
        every: every.to_owned(),
        start_ms,
        end_ms,
        used: meter.used(),
    })
}
