//! Webhooks out: tells receivers what has happened, those that the policy names and those that
//! users have registered.
//!
//! Events wait in the store's outbox until they are delivered. Without a store they wait in memory,
//! and only the policy's hooks hear of them. Nobody waits for a receiver.

mod deliver;
mod send;
mod sign;

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use crate::background::note;
use crate::policy::PolicyHandle;
use crate::store::Database;
use crate::store::outbox;
use crate::store::outbox::Event;
use crate::telemetry::metrics::Metrics;

pub use deliver::Deliverer;
pub use send::Message;
pub use send::Receiver;
pub use send::Said;
pub use send::Sender;
pub use send::receivers;
pub use sign::is_secret;
pub use sign::new_secret;

/// Events, or deliveries without a store, that wait at the same time; more are dropped and counted.
const MOST: usize = 1_000;
/// Pauses before further tries: almost a day in all.
const PAUSES: [Duration; 11] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(4 * 3600),
    Duration::from_secs(8 * 3600),
    Duration::from_secs(8 * 3600),
];
/// Those of deliveries in memory: whoever waits there for hours has lost its process before.
const PAUSES_IN_MEMORY: usize = 6;
/// Pause before the store is tried again.
const AWAY: Duration = Duration::from_secs(1);

/// Tells of what changes nothing in the store: budgets, policies.
#[derive(Clone)]
pub struct Hooks {
    way: Way,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
enum Way {
    Outbox(mpsc::Sender<Event>),
    Memory { sender: Arc<Sender>, policy: Arc<PolicyHandle>, room: Arc<Semaphore> },
}

impl Hooks {
    /// Writes events to the outbox of a store. The future is to be run beside: it writes, and waits
    /// while the store is away.
    pub fn of_store(
        database: Database,
        metrics: Arc<Metrics>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut events) = mpsc::channel::<Event>(MOST);
        let write = async move {
            while let Some(event) = events.recv().await {
                while let Err(error) = note(outbox::tell(&database, &event).await) {
                    tracing::warn!(event = event.kind, %error, "an event waits for the store");
                    tokio::time::sleep(AWAY).await;
                }
            }
        };
        (Self { way: Way::Outbox(queue), metrics }, write)
    }

    /// Keeps events in memory until the policy's hooks have them.
    pub fn in_memory(
        sender: Arc<Sender>,
        policy: Arc<PolicyHandle>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(MOST));
        Self { way: Way::Memory { sender, policy, room }, metrics }
    }

    /// Tells everybody who wants to know. Returns at once; to be called within a runtime.
    pub fn tell(&self, kind: &str, subject: String, data: Value) {
        match &self.way {
            Way::Outbox(queue) => {
                let event = Event { kind: kind.to_owned(), subject, data };
                if queue.try_send(event).is_err() {
                    self.metrics.hook_delivery(kind, "dropped");
                }
            }
            Way::Memory { sender, policy, room } => {
                let message = Message::new(outbox::message_id(), kind, now(), &data);
                let wanting = receivers(&policy.current(), Vec::new()).into_iter();
                for receiver in wanting.filter(|receiver| receiver.wants(kind)) {
                    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
                        self.metrics.hook_delivery(kind, "dropped");
                        continue;
                    };
                    let (sender, metrics) = (Arc::clone(sender), Arc::clone(&self.metrics));
                    let (kind, message) = (kind.to_owned(), message.clone());
                    tokio::spawn(async move {
                        deliver(&sender, &metrics, &receiver, &kind, &message).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Tries until the receiver has it, or there is no pause left.
async fn deliver(
    sender: &Sender,
    metrics: &Metrics,
    receiver: &Receiver,
    event: &str,
    message: &Message,
) {
    let (id, host) = (&message.id, receiver.host());
    let mut pauses = PAUSES.iter().take(PAUSES_IN_MEMORY);
    loop {
        let reason = match sender.post(receiver, message).await {
            Ok(said) if said.status.is_success() => {
                metrics.hook_delivery(event, "delivered");
                return;
            }
            Ok(said) => format!("it answered {}", said.status),
            Err(reason) => reason,
        };
        let Some(pause) = pauses.next() else {
            metrics.hook_delivery(event, "given_up");
            tracing::error!(event, id, host, reason, "a hook is given up");
            return;
        };
        metrics.hook_delivery(event, "failed");
        tracing::warn!(event, id, host, reason, again_in_s = pause.as_secs(), "a hook failed");
        tokio::time::sleep(*pause).await;
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
