//! The front of the store on the data plane: takes a finished call and returns at once.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use crate::redact::Kinds;
use crate::telemetry::metrics::Metrics;

use super::conversations::Redactor;
use super::database::Database;
use super::feedback::FEEDBACK;
use super::feedback::Verdict;
use super::frame;
use super::idempotency::Idempotency;
use super::interaction::Interaction;
use super::packing;
use super::packing::Packing;
use super::pair::Pair;
use super::quiet;
use super::ship::Shipper;
use super::spool::Full;
use super::spool::Saved;
use super::spool::Spool;
use super::spool::lock;
use super::user;
use super::user::Hasher;
use super::user::UserHash;
use super::writer::Writer;

/// Longest wait for the last append when the process ends; bodies may have to be packed before it.
const LAST_APPEND: Duration = Duration::from_secs(5);
/// Memory that a thread keeps for the next record.
const KEPT: usize = 64 << 10;

thread_local! {
    /// The record in the making: serialised outside of the queue's lock, without an allocation.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a recorder is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where records end up.
    pub database: Database,
    /// Where they wait.
    pub spool: PathBuf,
    /// Most bytes that wait there.
    pub max_bytes: u64,
    /// The secret of the users' hashes; without one there is a file beside the spool.
    pub user_secret: Option<SecretString>,
}

/// Records finished calls. Whatever the disk and the database do, it does not fail and nobody waits.
pub struct Recorder {
    spool: Arc<Spool>,
    hasher: Hasher,
    database: Database,
    idempotency: OnceLock<Idempotency>,
    written: Mutex<Receiver<()>>,
    shipped: Mutex<Receiver<()>>,
}

impl Recorder {
    /// Starts the threads that append and ship.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(settings: Settings, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let Settings { database, spool: dir, max_bytes, user_secret } = settings;
        let key_file = user::key_file(&dir);
        let hasher = match &user_secret {
            Some(secret) => Hasher::with(secret),
            None => {
                let (hasher, made) = Hasher::with_file(&key_file);
                if let Err(error) = made {
                    let path = key_file.display();
                    tracing::warn!(%path, %error, "the secret of the users' hashes cannot be kept: hashes are of this process alone; make the folder writable or set WEIR_USER_SECRET");
                }
                hasher
            }
        };
        let spool = Arc::new(Spool::new(dir, max_bytes, Arc::clone(metrics)));
        let shipper = Shipper::new(Arc::clone(&spool), database.clone());
        let redactor = Arc::new(Redactor::new());
        let writer = Writer::new(Arc::clone(&spool), Packing::new(&redactor)?);
        let packing = Packing::new(&redactor)?;
        let written = quiet::thread("spool", move || writer.run())?;
        let queue = Arc::clone(&spool);
        quiet::thread("packer", move || {
            quiet::give_way();
            packing::run(&queue, packing);
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shipped = quiet::thread("shipper", move || {
            quiet::be_modest();
            runtime.block_on(shipper.run());
        })?;
        let idempotency = OnceLock::new();
        let (written, shipped) = (Mutex::new(written), Mutex::new(shipped));
        Ok(Self { spool, hasher, database, idempotency, written, shipped })
    }

    /// What was answered to callers that name their requests. To be called on one runtime only.
    pub fn idempotency(&self) -> Option<&Idempotency> {
        if self.idempotency.get().is_none() {
            // Whoever came first has set the same.
            let _ = self.idempotency.set(Idempotency::of(&self.database).ok()?);
        }
        self.idempotency.get()
    }

    /// Takes a finished call, and what was said in it where that is kept.
    pub fn record(&self, interaction: &Interaction<'_>, pair: Option<Pair>) {
        match pair {
            Some(pair) => self.spool.offer_full(full(interaction, Some(pair), None)),
            None => self.record_bare(interaction),
        }
    }

    /// The same; the receiver says when both are safe from a power cut, and fails when they are
    /// not.
    pub fn record_durably(
        &self,
        interaction: &Interaction<'_>,
        pair: Option<Pair>,
    ) -> tokio::sync::oneshot::Receiver<()> {
        let (saved, safe) = tokio::sync::oneshot::channel();
        self.spool.offer_full(full(interaction, pair, Some(saved)));
        safe
    }

    /// Takes a verdict, without what is to be replaced in it. It may come before the record that it
    /// is about.
    pub fn judge(&self, verdict: &mut Verdict, redact: Kinds) {
        verdict.redact(redact);
        let mut bytes = Vec::new();
        let record = json!({ FEEDBACK: verdict });
        frame::append(&mut bytes, |out| drop(serde_json::to_writer(out, &record)));
        self.spool.offer(&bytes);
    }

    /// Whether a record would reach the disk now.
    pub fn takes_records(&self) -> bool {
        self.spool.takes_records()
    }

    /// Notes that a call's bodies are lost before they came here.
    pub fn lost_bodies(&self) {
        self.spool.lost_bodies(1);
    }

    fn record_bare(&self, interaction: &Interaction<'_>) {
        FRAME.with_borrow_mut(|bytes| {
            bytes.clear();
            // Writing to memory cannot fail, and nothing in a record is a map with odd keys.
            frame::append(bytes, |out| drop(serde_json::to_writer(out, interaction)));
            self.spool.offer(bytes);
            bytes.shrink_to(KEPT);
        });
    }

    /// An end user's name as the ledger keeps it.
    pub fn hash_user(&self, user: &str) -> UserHash {
        self.hasher.hash(user)
    }

    /// Whether the store takes what is recorded; else it waits in the spool.
    pub fn store_is_available(&self) -> bool {
        !self.spool.is_away()
    }

    /// Appends what is queued, then ships for at most `patience`. What is left then is in the spool,
    /// and the next process ships it.
    pub fn close(&self, patience: Duration) {
        self.spool.close();
        // An error says that it was done before.
        let _ = lock(&self.written).recv_timeout(LAST_APPEND);
        let _ = lock(&self.shipped).recv_timeout(patience);
    }
}

fn full(interaction: &Interaction<'_>, pair: Option<Pair>, saved: Option<Saved>) -> Full {
    let interaction = Interaction { capture: None, ..interaction.clone() };
    let record = serde_json::to_vec(&interaction).unwrap_or_default();
    Full { id: interaction.id, record, pair: pair.map(Pair::compact), saved }
}
