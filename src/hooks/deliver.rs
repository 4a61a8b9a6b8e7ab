//! Takes events from the outbox to their receivers: at least once, and in order for each subject and
//! receiver. Gateways that share a store share the work.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use http::StatusCode;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::background::note;
use crate::policy::PolicyHandle;
use crate::store::Database;
use crate::store::StoreError;
use crate::store::Webhooks;
use crate::store::outbox::Delivery;
use crate::store::outbox::Outbox;
use crate::store::outbox::Outcome;
use crate::telemetry::metrics::Metrics;

use super::PAUSES;
use super::now;
use super::send::Message;
use super::send::Receiver;
use super::send::Said;
use super::send::Sender;
use super::send::receivers;

/// How often is looked for what is due.
const TICK: Duration = Duration::from_millis(500);
/// How often is counted what waits.
const COUNT: Duration = Duration::from_secs(5);
/// How often old events are forgotten.
const SWEEP: Duration = Duration::from_secs(3600);
/// For how long events are kept, in milliseconds.
const KEPT_MS: i64 = 14 * 24 * 3600 * 1000;
/// For how long something waits for a receiver that no gateway knows, in milliseconds.
const UNKNOWN_MS: i64 = 24 * 3600 * 1000;
/// For how long a delivery is its gateway's: twice as long as an attempt, in milliseconds.
const LEASE_MS: i64 = 30_000;
/// Deliveries to one receiver before it is looked up anew.
const BATCH: usize = 100;
/// After every time that there may be, in milliseconds since 1970.
const EVER: i64 = 253_402_300_799_000;

/// Delivers.
pub struct Deliverer {
    outbox: Outbox,
    webhooks: Webhooks,
    sender: Arc<Sender>,
    policy: Arc<PolicyHandle>,
    metrics: Arc<Metrics>,
    owner: String,
    /// Receivers that are being posted to.
    busy: Mutex<HashSet<String>>,
}

/// A receiver that nobody else posts to from here, as long as this is kept.
struct Busy {
    of: Arc<Deliverer>,
    receiver: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = self.of.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.receiver);
    }
}

impl Deliverer {
    /// One that delivers what is in this store. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn new(
        database: &Database,
        sender: Arc<Sender>,
        policy: Arc<PolicyHandle>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            outbox: Outbox::of(database)?,
            webhooks: Webhooks::of(database)?,
            sender,
            policy,
            metrics,
            owner: Uuid::now_v7().to_string(),
            busy: Mutex::default(),
        })
    }

    /// Looks twice a second for what is due.
    pub async fn run(self) {
        let this = Arc::new(self);
        let [mut tick, mut count, mut sweep] = [TICK, COUNT, SWEEP].map(|every| {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        loop {
            let done = tokio::select! {
                _ = tick.tick() => Self::look(&this).await,
                _ = count.tick() => this.count().await,
                _ = sweep.tick() => this.sweep().await,
            };
            if let Err(error) = note(done) {
                tracing::debug!(%error, "the outbox cannot be read");
            }
        }
    }

    /// Each receiver has a task of its own while something is due: one that is slow or away holds up
    /// no other.
    async fn look(this: &Arc<Self>) -> Result<(), StoreError> {
        let policy = this.policy.current();
        let wanting = |kind: &str, endpoints: &[_]| {
            let all = receivers(&policy, endpoints.to_vec()).into_iter();
            all.filter(|one| one.wants(kind)).map(|one| one.id()).collect()
        };
        while this.outbox.plan(now(), wanting).await? {}
        let due = this.outbox.due(now()).await?;
        if due.is_empty() {
            return Ok(());
        }
        let mut known = this.known().await?;
        for id in due {
            let Some(receiver) = known.remove(&id) else { continue };
            if this.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
                let busy = Busy { of: Arc::clone(this), receiver: id };
                tokio::spawn(async move {
                    if let Err(error) = busy.of.attend(&receiver, &busy.receiver).await {
                        tracing::warn!(%error, "deliveries wait for the store");
                    }
                });
            }
        }
        Ok(())
    }

    /// Who can be posted to, by id.
    async fn known(&self) -> Result<HashMap<String, Receiver>, StoreError> {
        let mut endpoints = self.webhooks.list().await?;
        endpoints.retain(|endpoint| endpoint.enabled);
        let all = receivers(&self.policy.current(), endpoints).into_iter();
        Ok(all.map(|receiver| (receiver.id(), receiver)).collect())
    }

    /// Posts what is due for one receiver, one after the other.
    async fn attend(&self, receiver: &Receiver, id: &str) -> Result<(), StoreError> {
        for _ in 0..BATCH {
            let now = now();
            let claimed = self.outbox.claim(id, &self.owner, now, now + LEASE_MS).await?;
            let Some(delivery) = claimed else { return Ok(()) };
            let said = self.post(receiver, &delivery).await;
            self.conclude(receiver, &delivery, &said).await?;
            if let (Receiver::Endpoint(endpoint), Ok(StatusCode::GONE)) = (receiver, &said) {
                return self.switch_off(endpoint.id).await;
            }
        }
        Ok(())
    }

    async fn post(&self, to: &Receiver, delivery: &Delivery) -> Result<StatusCode, String> {
        let Delivery { message, kind, created_at, data, .. } = delivery;
        let message = Message::new(message.clone(), kind, *created_at, data);
        let Said { status, .. } = self.sender.post(to, &message).await?;
        Ok(status)
    }

    async fn conclude(
        &self,
        to: &Receiver,
        delivery: &Delivery,
        said: &Result<StatusCode, String>,
    ) -> Result<(), StoreError> {
        let (event, id, host) = (delivery.kind.as_str(), &delivery.message, to.host());
        let (status, error) = match said {
            Ok(status) if status.is_success() => (Some(status.as_u16()), None),
            Ok(status) => (Some(status.as_u16()), Some(format!("it answered {status}"))),
            Err(reason) => (None, Some(reason.clone())),
        };
        let gone = status == Some(410) && matches!(to, Receiver::Endpoint(_));
        let pause = usize::try_from(delivery.attempts).ok().and_then(|n| PAUSES.get(n));
        let outcome = match (&error, pause) {
            (None, _) => Outcome::Delivered,
            (Some(reason), Some(pause)) if !gone => {
                tracing::warn!(
                    event,
                    id,
                    host,
                    reason,
                    again_in_s = pause.as_secs(),
                    "a hook failed"
                );
                let pause = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
                Outcome::PutOff { until: now() + pause }
            }
            (Some(reason), _) => {
                tracing::error!(
                    event,
                    id,
                    host,
                    reason,
                    "an event is a dead letter: this receiver does not get it"
                );
                Outcome::Dead
            }
        };
        let label = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::PutOff { .. } => "failed",
            Outcome::Dead => "given_up",
        };
        self.metrics.hook_delivery(event, label);
        let told = (status, error.as_deref());
        self.outbox.finish((delivery.id, &self.owner), &outcome, told, now()).await
    }

    /// A receiver that says that it is gone for good is not asked again.
    async fn switch_off(&self, id: Uuid) -> Result<(), StoreError> {
        tracing::error!(endpoint = %id, "a webhook is switched off: its receiver answered 410");
        self.webhooks.disable(id, "the receiver answered 410 Gone").await?;
        let reason = "the webhook is switched off: its receiver answered 410 Gone";
        self.outbox.bury(&id.to_string(), (EVER, now()), reason).await.map(drop)
    }

    async fn count(&self) -> Result<(), StoreError> {
        let counts = self.outbox.counts().await?;
        let of = |state: &str| {
            let counted = counts.iter().filter(|one| one.state == state);
            counted.map(|one| one.count).sum()
        };
        self.metrics.webhooks(of("pending"), of("dead"));
        Ok(())
    }

    /// Forgets what is old, and gives up what waits for receivers that are no more.
    async fn sweep(&self) -> Result<(), StoreError> {
        let now = now();
        self.outbox.sweep(now - KEPT_MS).await?;
        let known = self.known().await?;
        let waits = |one: &crate::store::outbox::DeliveryCount| one.state == "pending";
        for one in self.outbox.counts().await?.into_iter().filter(waits) {
            if !known.contains_key(&one.receiver) {
                let reason = "no webhook of that address is switched on any more";
                self.outbox.bury(&one.receiver, (now - UNKNOWN_MS, now), reason).await?;
            }
        }
        Ok(())
    }
}
