//! Limits of requests, tokens, calls at the same time, and money: reserved before a call, settled
//! after it with what it really used.
//!
//! Counters are in memory, each behind a short lock of its own. A request reserves on all limits that
//! hold for it, or on none ([`Limits::admit`]), and its [`Permit`] gives back what it did not use.
//! Gateways that share a Redis lease slices of a limit from it and spend them here (`shared`); without
//! one this process decides alone.

mod account;
mod attempt;
mod clock;
mod courier;
mod keep;
mod link;
mod meter;
mod permit;
mod shared;
mod state;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use dashmap::DashMap;
use uuid::Uuid;

use crate::metering::money::Usd;
use crate::policy::Claim;
use crate::policy::Limit;
use crate::policy::OnRedisDown;
use crate::store::LimitCounter;

pub use clock::Now;
pub use courier::Courier;
pub use keep::Keeper;
pub use link::Redis;
pub use meter::Kind;
pub use permit::Permit;
pub use permit::Real;
pub use state::LimitState;
pub use state::News;

use account::Account;
use account::Level;
use account::State;
use attempt::Attempt;
use meter::Mode;
use shared::Shared;

/// Subjects of a limit that have counters of their own. Those that come after share one: names that
/// clients make up cost memory, and must not be a way around the limit.
const MOST_SUBJECTS: usize = 100_000;
/// What those that come after are called.
const OTHERS: &str = "(others)";
/// Times that a request asks Redis, and how long it waits each time.
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_millis(100);
/// Most news that wait to be told.
const MOST_NEWS: usize = 1_000;

/// What a request is going to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Tokens, its prompt's and at most its answer's.
    pub tokens: u64,
    /// Their price.
    pub usd: Usd,
    /// Whether it may cost anything at all: it needs something left of a budget, even where its
    /// price is not known.
    pub pays: bool,
    /// Whether it was sent to the model for spent budgets: those that name one hold it no more.
    pub downgraded: bool,
}

impl Demand {
    fn of(&self, kind: Kind) -> i128 {
        match kind {
            Kind::Requests | Kind::Concurrent => 1,
            Kind::Tokens => self.tokens.into(),
            Kind::Budget => self.usd.picodollars(),
        }
    }
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit.
    pub limit: Arc<str>,
    /// What of it is used up; `None` when Redis is away and the limit wants no calls then.
    pub kind: Option<Kind>,
    /// How much of it there is; picodollars for a budget.
    pub most: i128,
    /// What the request wanted, in the same units.
    pub wanted: i128,
    /// When it may fit; `None` where it is larger than the limit.
    pub retry_after: Option<Duration>,
    /// The model that it is to be sent to instead.
    pub downgrade: Option<Arc<str>>,
    /// The meter, for the answer's headers.
    pub standing: Option<Standing>,
}

impl Refusal {
    /// Redis is away, and the limit wants no calls then.
    fn away(limit: &str) -> Self {
        Self {
            limit: Arc::from(limit),
            kind: None,
            most: 0,
            wanted: 0,
            retry_after: Some(Duration::from_secs(1)),
            downgrade: None,
            standing: None,
        }
    }
}

/// How a meter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// All there is.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Until all is there again.
    pub resets_in: Duration,
}

/// All counters of the process.
#[derive(Debug)]
pub struct Limits {
    /// Tells this process from any other, and from those before it.
    gateway: String,
    /// By limit and subject.
    accounts: DashMap<String, Arc<Account>>,
    /// How many there are of each limit.
    subjects: DashMap<Arc<str>, usize>,
    /// What was used before this process began, for accounts that are not there yet.
    restored: Mutex<HashMap<String, Vec<LimitCounter>>>,
    news: Mutex<Vec<News>>,
    /// Where Redis is asked.
    shared: Option<Arc<Shared>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            gateway: Uuid::now_v7().simple().to_string(),
            accounts: DashMap::new(),
            subjects: DashMap::new(),
            restored: Mutex::default(),
            news: Mutex::default(),
            shared: None,
        }
    }
}

impl Limits {
    /// Limits that are shared with other gateways; to be used with a [`Courier`].
    pub fn shared() -> Self {
        Self { shared: Some(Arc::default()), ..Self::default() }
    }

    /// The time by which is counted.
    pub fn now(&self) -> Now {
        self.shared.as_ref().map_or_else(Now::read, |shared| shared.now())
    }

    /// Returns all leases, at the end of the process; waits no longer than `patience`.
    pub fn leave(&self, patience: Duration) {
        if let Some(shared) = &self.shared {
            shared.close(patience);
        }
    }

    /// What this process is called among those that share a store or a Redis.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Reserves what a request is going to use on all of its limits, or on none. Waits, for some
    /// tenths of a second at most, where Redis has to be asked.
    ///
    /// # Errors
    /// The limit that has no room.
    pub async fn admit(
        self: &Arc<Self>,
        claims: &[Claim],
        demand: &Demand,
    ) -> Result<Permit, Box<Refusal>> {
        let accounts = self.accounts_of(claims, self.now());
        for _ in 0..ROUNDS {
            match self.attempt(&accounts, demand, self.now(), false) {
                Attempt::Admitted(permit) => return Ok(permit),
                Attempt::Refused(refusal) => return Err(refusal),
                Attempt::Short(short) => self.refill(&short).await,
            }
        }
        Self::decided(self.attempt(&accounts, demand, self.now(), true))
    }

    /// The same with what is here.
    ///
    /// # Errors
    /// The limit that has no room.
    pub fn try_admit(
        self: &Arc<Self>,
        claims: &[Claim],
        demand: &Demand,
        now: Now,
    ) -> Result<Permit, Box<Refusal>> {
        Self::decided(self.attempt(&self.accounts_of(claims, now), demand, now, true))
    }

    fn decided(attempt: Attempt) -> Result<Permit, Box<Refusal>> {
        match attempt {
            Attempt::Admitted(permit) => Ok(permit),
            Attempt::Refused(refusal) => Err(refusal),
            Attempt::Short(_) => Err(Box::new(Refusal::away(""))),
        }
    }

    /// The counters of claims, in the order in which they are locked.
    fn accounts_of<'c>(&self, claims: &'c [Claim], now: Now) -> Vec<(Arc<Account>, &'c Claim)> {
        let mut accounts: Vec<_> =
            claims.iter().map(|claim| (self.account(claim, now), claim)).collect();
        accounts.sort_unstable_by_key(|(account, _)| account.id);
        accounts
    }

    /// Waits until Redis was asked for these; when it does not answer soon, nobody waits for it
    /// until it does.
    async fn refill(&self, short: &[Arc<Account>]) {
        let Some(shared) = &self.shared else { return };
        // From here on nothing that happens is missed.
        let waits: Vec<_> = short.iter().map(|account| account.refilled.notified()).collect();
        for account in short {
            shared.ask(account, &mut account.lock());
        }
        let all = async {
            for wait in waits {
                wait.await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() && shared.set_up(false) {
            tracing::warn!("Redis is slow; each limit does what its `on_redis_down` says");
        }
    }

    /// What is left of the tightest of these budgets, and how much of it is used, 0 to 1; `None`
    /// without a budget.
    pub fn budget_left(&self, claims: &[Claim], now: Now) -> Option<(Usd, f64)> {
        let mut tightest: Option<(i128, i128)> = None;
        for claim in claims.iter().filter(|claim| claim.limit.budget.is_some()) {
            let account = self.account(claim, now);
            let mut state = account.lock();
            state.prepare(&claim.limit, now);
            let mode = self.mode(&claim.limit);
            if let Some(budget) = state.meter(Kind::Budget) {
                let left = (budget.limit - budget.total(mode)).max(0);
                if tightest.is_none_or(|(least, _)| left < least) {
                    tightest = Some((left, budget.limit));
                }
            }
        }
        let (left, limit) = tightest?;
        let (left, limit) = (Usd::from_picodollars(left), Usd::from_picodollars(limit));
        Some((left, 1.0 - left.to_f64() / limit.to_f64()))
    }

    /// Who decides.
    fn mode(&self, limit: &Limit) -> Mode {
        match (&self.shared, limit.on_redis_down) {
            (None, _) => Mode::Alone,
            (Some(shared), _) if shared.is_up() => Mode::Leased,
            (Some(shared), OnRedisDown::LocalShare) => Mode::Share(shared.gateways()),
            (Some(_), OnRedisDown::Reject) => Mode::Closed,
            (Some(_), OnRedisDown::Allow) => Mode::Open,
        }
    }

    /// The counter of a claim, made where there is none.
    fn account(&self, claim: &Claim, now: Now) -> Arc<Account> {
        let name = name(&claim.limit.name, &claim.subject);
        if let Some(account) = self.accounts.get(&name) {
            return Arc::clone(&account);
        }
        let count = self.subjects.get(&claim.limit.name).map_or(0, |count| *count);
        if count >= MOST_SUBJECTS && claim.subject != OTHERS {
            let subject = OTHERS.to_owned();
            return self.account(&Claim { limit: Arc::clone(&claim.limit), subject }, now);
        }
        self.open(name, claim, now)
    }

    fn open(&self, name: String, claim: &Claim, now: Now) -> Arc<Account> {
        let restored = lock(&self.restored).remove(&name);
        let entry = self.accounts.entry(name).or_insert_with(|| {
            *self.subjects.entry(Arc::clone(&claim.limit.name)).or_default() += 1;
            let account = Account::new(&claim.limit, &claim.subject, now);
            let mut state = account.lock();
            for counter in restored.iter().flatten() {
                state.restore(counter, now);
            }
            drop(state);
            Arc::new(account)
        });
        Arc::clone(&entry)
    }

    /// Notes what somebody should be told of a budget. Where gateways share it, Redis knows which
    /// of them is the first.
    fn tell(&self, state: &mut State, account: &Arc<Account>, mode: Mode, refused: bool) {
        let Some(level) = state.news(mode, refused) else { return };
        match &self.shared {
            Some(shared) if mode == Mode::Leased => {
                state.tell = level;
                shared.touch(account, state);
            }
            _ => self.note(state, account, mode, level),
        }
    }

    fn note(&self, state: &mut State, account: &Account, mode: Mode, level: Level) {
        let mut news = lock(&self.news);
        if news.len() < MOST_NEWS
            && let Some(budget) = state.meter(Kind::Budget)
        {
            news.push(News::of(account, budget, mode, level));
        }
    }
}

/// The name of an account.
fn name(limit: &str, subject: &str) -> String {
    let mut name = String::with_capacity(limit.len() + 1 + subject.len());
    name.push_str(limit);
    // In no name that a policy file can hold.
    name.push('\0');
    name.push_str(subject);
    name
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
