//! What requests and the courier to Redis share: who waits, what changed, and whether Redis is there.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;

use super::account::Account;
use super::account::State;
use super::clock::Now;
use super::lock;
use super::meter::Asked;
use super::meter::Granted;
use super::meter::Keep;
use super::meter::Kind;

/// The state of the limits that Redis shares.
#[derive(Debug)]
pub(super) struct Shared {
    /// Whether Redis decides; else each limit's `on_redis_down`.
    up: AtomicBool,
    /// Gateways last seen, this one included.
    gateways: AtomicU64,
    /// How far Redis' clock is from the steady one, in milliseconds; 0 as long as nobody knows.
    clock: AtomicI64,
    /// Accounts that calls wait for, or that soon have nothing left.
    queue: Mutex<Vec<Arc<Account>>>,
    /// Accounts of which Redis has to hear by and by.
    touched: Mutex<Vec<Arc<Account>>>,
    pub(super) bell: Notify,
    closing: AtomicBool,
    closed: (Mutex<bool>, Condvar),
}

/// What is said to Redis of one account.
#[derive(Serialize)]
struct Message<'a> {
    gateway: &'a str,
    number: u64,
    heard: u64,
    gateways: u64,
    quiet: u8,
    idle: u8,
    tell: u8,
    start: u64,
    seeds: Vec<(String, u64, u64, i64)>,
    meters: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    kind: &'static str,
    limit: i64,
    start: u64,
    claim: Vec<(u64, i64)>,
    wanted: i64,
    extra: i64,
    unit: i64,
    least: i64,
}

/// What was said, to understand the reply.
#[derive(Debug)]
pub(super) struct Sent {
    number: u64,
    idle: bool,
    meters: Vec<(Kind, u64, Asked)>,
}

/// What a reply came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Redis has lost what it knew.
    pub(super) lost: bool,
    /// This gateway is the one to tell somebody of the budget.
    pub(super) tells: bool,
}

/// How an account is to be presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As it goes on: leases grow where they are used and are returned where they are not.
    Usual,
    /// After Redis was away: what this gateway uses or may still use, and nothing is asked for.
    Quiet,
    /// At the end: everything unused goes back.
    Leaving,
}

impl Default for Shared {
    /// Until Redis was tried, requests wait for that.
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
            gateways: AtomicU64::new(1),
            clock: AtomicI64::new(0),
            queue: Mutex::default(),
            touched: Mutex::default(),
            bell: Notify::new(),
            closing: AtomicBool::new(false),
            closed: Default::default(),
        }
    }
}

impl Shared {
    /// Has the courier return all leases, and waits for that.
    pub(super) fn close(&self, patience: Duration) {
        self.closing.store(true, Ordering::Release);
        self.bell.notify_one();
        let (closed, told) = &self.closed;
        // Without an answer the leases end with their windows.
        let _ = told.wait_timeout_while(lock(closed), patience, |closed| !*closed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn closed(&self) {
        let (closed, told) = &self.closed;
        *lock(closed) = true;
        told.notify_all();
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Whether that is news.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::AcqRel) != up
    }

    pub(super) fn gateways(&self) -> u64 {
        self.gateways.load(Ordering::Relaxed).max(1)
    }

    /// Notes Redis' time and the gateways that live.
    pub(super) fn note(&self, redis_ms: i64, gateways: i64, now: Now) {
        let steady = i64::try_from(now.steady_ms).unwrap_or(i64::MAX);
        self.clock.store(redis_ms.saturating_sub(steady), Ordering::Relaxed);
        self.gateways.store(u64::try_from(gateways).unwrap_or(1), Ordering::Relaxed);
    }

    /// The time by Redis' clock where that is known: all gateways begin a window together.
    pub(super) fn now(&self) -> Now {
        let now = Now::read();
        match self.clock.load(Ordering::Relaxed) {
            0 => now,
            ahead => Now { unix_ms: now.steady_ms.saturating_add_signed(ahead), ..now },
        }
    }

    /// Asks for more for an account.
    pub(super) fn ask(&self, account: &Arc<Account>, state: &mut State) {
        if !std::mem::replace(&mut state.queued, true) {
            lock(&self.queue).push(Arc::clone(account));
            self.bell.notify_one();
        }
    }

    /// Notes that Redis has to hear of an account.
    pub(super) fn touch(&self, account: &Arc<Account>, state: &mut State) {
        if !std::mem::replace(&mut state.active, true) {
            lock(&self.touched).push(Arc::clone(account));
        }
    }

    pub(super) fn take_queue(&self) -> Vec<Arc<Account>> {
        std::mem::take(&mut lock(&self.queue))
    }

    pub(super) fn take_touched(&self) -> Vec<Arc<Account>> {
        std::mem::take(&mut lock(&self.touched))
    }
}

impl State {
    /// What to say to Redis of this account, as JSON.
    pub(super) fn message(
        &mut self,
        shared: &Shared,
        gateway: &str,
        manner: Manner,
        now: Now,
    ) -> (String, Sent) {
        self.roll(now);
        self.queued = false;
        let gateways = shared.gateways();
        let wanted = std::mem::take(&mut self.wanted);
        let rests = self.meters.iter().flatten().all(|meter| meter.rests(now));
        let idle = manner == Manner::Leaving
            || manner == Manner::Usual && rests && wanted.iter().all(|(wanted, _)| *wanted == 0);
        if idle {
            // Whoever uses it from now on says so again.
            self.active = false;
        }
        let keep = match manner {
            Manner::Quiet => Keep::All,
            Manner::Usual if !idle => Keep::Useful,
            _ => Keep::Nothing,
        };
        let (mut lines, mut meters, mut claims) = (Vec::new(), Vec::new(), false);
        for (meter, wanted) in self.meters.iter_mut().zip(wanted) {
            let Some(meter) = meter else { continue };
            if manner == Manner::Quiet {
                meter.recover(gateways, now);
            }
            let slot = meter.slot();
            let asked = match manner {
                Manner::Usual if !idle => meter.ask(wanted, now),
                _ => Asked::NOTHING,
            };
            let claim = meter.claim(keep, now);
            claims |= claim.amounts.iter().any(|(_, amount)| *amount > 0);
            lines.push(Line {
                kind: meter.kind.as_str(),
                limit: whole(meter.limit / meter.kind.scale()),
                start: claim.start,
                claim: claim.amounts.iter().map(|(left, n)| (*left, whole(*n))).collect(),
                wanted: whole(asked.wanted),
                extra: whole(asked.extra),
                unit: whole(asked.unit),
                least: whole(asked.least),
            });
            meters.push((meter.kind, slot, asked));
        }
        self.sent += 1;
        // Redis may know nothing of the processes that are gone.
        let seeds = match manner == Manner::Quiet || self.heard == 0 {
            true => self.seeds.clone(),
            false => Vec::new(),
        };
        let message = Message {
            gateway,
            number: self.sent,
            heard: if claims { self.heard } else { 0 },
            gateways,
            quiet: u8::from(manner != Manner::Usual),
            idle: u8::from(idle),
            tell: self.tell as u8,
            start: self.meter(Kind::Budget).map_or(0, |budget| budget.slot()),
            seeds,
            meters: lines,
        };
        // Numbers and short texts: it cannot fail.
        let text = serde_json::to_string(&message).unwrap_or_default();
        (text, Sent { number: self.sent, idle, meters })
    }

    /// Takes in what Redis replied.
    pub(super) fn hear(&mut self, sent: &Sent, reply: &[i64], now: Now) -> Heard {
        let [_, overtaken, lost, rest @ ..] = reply else { return Heard::default() };
        if *overtaken != 0 {
            return Heard::default();
        }
        self.heard = sent.number;
        let lost = *lost != 0;
        let Some((tells, figures)) = rest.split_first() else {
            return Heard { lost, tells: false };
        };
        for ((kind, slot, asked), figures) in sent.meters.iter().zip(figures.chunks(3)) {
            let ([amount, promise, others], Some(meter)) = (figures, self.meter(*kind)) else {
                continue;
            };
            let granted = Granted {
                amount: (*amount).into(),
                promise: (*promise).into(),
                others: (*others).into(),
            };
            meter.grant((*slot, *asked), granted, sent.idle, now);
        }
        self.tell = super::account::Level::Below;
        Heard { lost, tells: *tells != 0 }
    }
}

fn whole(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
