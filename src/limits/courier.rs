//! The one task that talks to Redis: it fetches leases for all who wait in one round trip, returns
//! what is not used, and is the breaker when Redis is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use redis::Script;
use tokio::time::Instant;

use crate::background::note;
use crate::telemetry::metrics::Metrics;

use super::Limits;
use super::account::Account;
use super::account::Level;
use super::link::Link;
use super::link::Redis;
use super::shared::Manner;
use super::shared::Sent;
use super::shared::Shared;

/// How often Redis hears of this gateway.
const TICK: Duration = Duration::from_millis(250);
/// Every so many of these it hears of the accounts that are in use.
const SYNC: u32 = 4;
/// After Redis was away, time in which every gateway says what it uses before any is given more.
const SETTLE: Duration = Duration::from_secs(3);
/// Pause before another try at a connection; doubled up to the second.
const BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(800);
/// Accounts of one round trip.
const BATCH: usize = 200;

/// Talks to Redis.
pub struct Courier {
    limits: Arc<Limits>,
    shared: Arc<Shared>,
    redis: Redis,
    metrics: Arc<Metrics>,
    lease: Script,
    greet: Script,
    /// Accounts that Redis has to hear of, by id.
    active: BTreeMap<u64, Arc<Account>>,
}

impl Courier {
    /// The courier of limits that share `redis`; `None` where they do not.
    pub fn new(limits: &Arc<Limits>, redis: Redis, metrics: Arc<Metrics>) -> Option<Self> {
        let shared = Arc::clone(limits.shared.as_ref()?);
        Some(Self {
            limits: Arc::clone(limits),
            shared,
            redis,
            metrics,
            lease: Script::new(include_str!("lease.lua")),
            greet: Script::new(include_str!("greet.lua")),
            active: BTreeMap::new(),
        })
    }

    /// Works until [`Limits::leave`].
    pub async fn run(mut self) {
        // The first connection of all finds others in order; any later one may find an empty Redis.
        let mut settles = false;
        let mut back_off = BACK_OFF;
        loop {
            let failure = match note(self.redis.connect(&self.lease).await) {
                Ok(mut link) => {
                    back_off = BACK_OFF;
                    match note(self.serve(&mut link, settles).await) {
                        Ok(()) => return,
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            if self.shared.set_up(false) || !settles {
                tracing::error!(redis = %self.redis, error = %failure, "Redis is away; each limit does what its `on_redis_down` says");
            }
            settles = true;
            self.metrics.redis_up().set(0);
            self.release(self.shared.take_queue());
            if self.shared.is_closing() {
                return self.shared.closed();
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(LONGEST_BACK_OFF);
        }
    }

    /// Serves as long as the connection lasts; ends well when the process does.
    async fn serve(&mut self, link: &mut Link, settles: bool) -> RedisResult<()> {
        let mut until = settles.then(|| Instant::now() + SETTLE);
        let (mut told, mut ticks) = (false, 0_u32);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ticked = tokio::select! {
                _ = tick.tick() => true,
                () = self.shared.bell.notified() => false,
            };
            if self.shared.is_closing() {
                self.leave(link).await?;
                self.shared.closed();
                return Ok(());
            }
            let mut syncs = false;
            if ticked {
                syncs = ticks.is_multiple_of(SYNC);
                ticks = ticks.wrapping_add(1);
                self.greet(link).await?;
            }
            let quiet = until.is_some_and(|until| Instant::now() < until);
            let lost = match quiet {
                true => self.settle(link, syncs).await?,
                false => self.turn(link, syncs).await?,
            };
            if lost {
                tracing::warn!(redis = %self.redis, "Redis has lost what is used of limits; gateways tell it again");
                self.shared.set_up(false);
                (until, told) = (Some(Instant::now() + SETTLE), false);
            } else if !quiet {
                until = None;
                self.shared.set_up(true);
                if std::mem::replace(&mut told, true) {
                    continue;
                }
                self.metrics.redis_up().set(1);
                tracing::info!(redis = %self.redis, gateways = self.shared.gateways(), "limits are shared by Redis");
            }
        }
    }

    async fn greet(&mut self, link: &mut Link) -> RedisResult<()> {
        // Read before: what is late only makes this gateway's clock late.
        let now = super::Now::read();
        let reply = link.greet(&self.greet, self.limits.gateway()).await?;
        self.metrics.redis_calls().inc();
        if let [redis_ms, gateways] = reply[..] {
            self.shared.note(redis_ms, gateways, now);
            self.metrics.gateways().set(gateways);
        }
        Ok(())
    }

    /// One turn: who waits, and from time to time all that are in use. Whether Redis has lost data.
    async fn turn(&mut self, link: &mut Link, syncs: bool) -> RedisResult<bool> {
        let mut accounts: BTreeMap<u64, Arc<Account>> =
            self.shared.take_queue().into_iter().map(|account| (account.id, account)).collect();
        for account in self.shared.take_touched() {
            self.active.insert(account.id, account);
        }
        if syncs {
            accounts.append(&mut self.active);
        }
        let accounts: Vec<_> = accounts.into_values().collect();
        self.present(link, &accounts, Manner::Usual).await
    }

    /// Tells Redis what this gateway uses, and takes nothing.
    async fn settle(&mut self, link: &mut Link, syncs: bool) -> RedisResult<bool> {
        self.release(self.shared.take_queue());
        if syncs {
            self.shared.take_touched();
            self.active.clear();
            let accounts = self.limits.all();
            self.present(link, &accounts, Manner::Quiet).await?;
        }
        Ok(false)
    }

    /// Returns all that is not used.
    async fn leave(&mut self, link: &mut Link) -> RedisResult<()> {
        let accounts = self.limits.all();
        self.present(link, &accounts, Manner::Leaving).await?;
        link.greet(&self.greet, &format!("-{}", self.limits.gateway())).await.map(drop)
    }

    /// Says how accounts stand, and takes in what Redis replies. Whether it has lost data.
    async fn present(
        &mut self,
        link: &mut Link,
        accounts: &[Arc<Account>],
        manner: Manner,
    ) -> RedisResult<bool> {
        let mut lost = false;
        for batch in accounts.chunks(BATCH) {
            let (messages, sent): (Vec<_>, Vec<_>) =
                batch.iter().map(|account| self.message(account, manner)).unzip();
            let replies = link.run(&self.lease, &messages).await;
            self.metrics.redis_calls().inc();
            let replies = match replies {
                Ok(replies) => replies,
                Err(failure) => {
                    self.release(accounts.to_vec());
                    return Err(failure);
                }
            };
            for ((account, sent), reply) in batch.iter().zip(&sent).zip(&replies) {
                lost |= self.hear(account, sent, reply);
            }
        }
        Ok(lost)
    }

    fn message(&self, account: &Account, manner: Manner) -> ((String, String), Sent) {
        let mut state = account.lock();
        let (text, sent) =
            state.message(&self.shared, self.limits.gateway(), manner, self.shared.now());
        // The braces keep what belongs together on one node of a cluster.
        ((format!("weir:limit:{{{}/{}}}", account.limit, account.subject), text), sent)
    }

    fn hear(&mut self, account: &Arc<Account>, sent: &Sent, reply: &[i64]) -> bool {
        let now = self.shared.now();
        let mut state = account.lock();
        let level = state.tell;
        let heard = state.hear(sent, reply, now);
        if heard.tells && level > Level::Below {
            self.limits.note(&mut state, account, super::meter::Mode::Leased, level);
        }
        if state.active {
            self.active.insert(account.id, Arc::clone(account));
        }
        drop(state);
        account.refilled.notify_waiters();
        heard.lost
    }

    /// Nobody is to wait for these any longer.
    fn release(&mut self, accounts: Vec<Arc<Account>>) {
        for account in accounts {
            account.lock().queued = false;
            account.refilled.notify_waiters();
        }
    }
}
