//! Work beside the requests: what each background task is made of.

use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use secrecy::SecretString;
use serde_json::json;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::admin::Library;
use crate::background;
use crate::background::Task;
use crate::config::Config;
use crate::embeddings::embed::Embedder;
use crate::embeddings::fetch::Fetcher;
use crate::embeddings::firecrawl::Firecrawl;
use crate::embeddings::refresh::Refresher;
use crate::embeddings::search::Searcher;
use crate::hooks;
use crate::hooks::Deliverer;
use crate::hooks::Hooks;
use crate::limits::Keeper;
use crate::metering::tokens;
use crate::policy;
use crate::policy::Policy;
use crate::policy::PolicyHandle;
use crate::policy::Reloader;
use crate::policy::Seen;
use crate::proxy::Access;
use crate::proxy::LiveStats;
use crate::proxy::look_for_shutdowns;
use crate::proxy::today;
use crate::server::Certificate;
use crate::simulator::Knobs;
use crate::simulator::Simulator;
use crate::store::AliasBook;
use crate::store::Aliases;
use crate::store::Database;
use crate::store::Datasets;
use crate::store::Documents;
use crate::store::Sources;
use crate::telemetry::metrics::Metrics;
use crate::training::dataset;
use crate::training::poller::Poller;
use crate::training::promotion;
use crate::training::promotion::Pace;
use crate::training::trainer::Place;
use crate::training::trainer::Trainer;
use crate::upstream::Upstreams;
use crate::upstream::outside::Outside;

use super::AppError;
use super::HOOK_PATIENCE;

/// How often idle connections and dates are looked at.
const CHORES: Duration = Duration::from_secs(15);
/// When providers are first asked for shutdown dates, and how often from then on.
const SHUTDOWNS_FIRST: Duration = Duration::from_secs(60);
const SHUTDOWNS_EVERY: Duration = Duration::from_secs(24 * 3600);
/// What events of the policy are about: they arrive in order.
const POLICY: &str = "policy";

/// Writes counters down while the process lives, and tells webhooks of spent budgets.
pub(super) fn tell_of_limits(keeper: Keeper, hooks: Hooks) -> Task {
    Box::pin(keeper.run(move |news| {
        tracing::warn!(limit = %news.limit, subject = news.subject, spent_usd = %news.spent, budget_usd = %news.budget, "{}", news.event);
        hooks.tell(news.event, format!("{}/{}", news.limit, news.subject), json!(news));
    }))
}

/// Takes events from the store to their receivers.
pub(super) fn deliver_hooks(
    database: Database,
    sender: &Arc<hooks::Sender>,
    policy: &Arc<PolicyHandle>,
    metrics: &Arc<Metrics>,
) -> Task {
    let (sender, policy) = (Arc::clone(sender), Arc::clone(policy));
    let metrics = Arc::clone(metrics);
    Box::pin(async move {
        match Deliverer::new(&database, sender, policy, metrics) {
            Ok(deliverer) => deliverer.run().await,
            Err(error) => tracing::error!(%error, "webhooks cannot be delivered"),
        }
    })
}

/// A simulator on a free port; its listener is there before anybody asks.
pub(super) fn start_simulator(knobs: &str) -> Result<(Uri, Task), AppError> {
    let fail = |error: &dyn std::fmt::Display| {
        AppError::Other(format!("the simulator cannot start: {error}"))
    };
    let knobs = Knobs::parse(knobs).map_err(|error| fail(&error))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| fail(&error))?;
    listener.set_nonblocking(true).map_err(|error| fail(&error))?;
    let address = listener.local_addr().map_err(|error| fail(&error))?;
    let base_url = Uri::try_from(format!("http://{address}/v1")).map_err(|error| fail(&error))?;
    let task = async move {
        let served = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => Simulator::new(knobs).serve(listener, std::future::pending()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the simulator stopped");
        }
    };
    Ok((base_url, Box::pin(task)))
}

/// Goes on with datasets whose build was cut off.
pub(super) fn adopt_builds(database: Database) -> Task {
    Box::pin(async move {
        match Datasets::of(&database) {
            Ok(datasets) => dataset::adopt_abandoned(datasets).await,
            Err(error) => tracing::error!(%error, "datasets cannot be built"),
        }
    })
}

/// Keeps the names of promoted models as the store has them.
pub(super) fn keep_aliases(
    database: Database,
    book: Arc<AliasBook>,
    metrics: &Arc<Metrics>,
) -> Task {
    let metrics = Arc::clone(metrics);
    Box::pin(async move {
        match Aliases::of(&database) {
            Ok(aliases) => book.keep_fresh(aliases, metrics).await,
            Err(error) => tracing::error!(%error, "aliases cannot be read"),
        }
    })
}

/// Compares models on trial with those that serve.
pub(super) fn compare_canaries(database: Database, simulates: bool) -> Task {
    let pace = if simulates { Pace::SIMULATED } else { Pace::USUAL };
    Box::pin(async move {
        match Aliases::of(&database) {
            Ok(aliases) => promotion::watch(aliases, pace).await,
            Err(error) => tracing::error!(%error, "canaries cannot be compared"),
        }
    })
}

/// Moves fine-tune jobs on at the trainer.
pub(super) fn move_jobs(
    config: &Config,
    database: &Database,
    place: &Place,
    upstreams: &Arc<Upstreams>,
    metrics: &Arc<Metrics>,
) -> Result<Task, AppError> {
    let key = SecretString::from(config.trainer.api_key.clone());
    let simulated = config.trainer_place(None)?.base_url != place.base_url;
    let key = if simulated { SecretString::from("sk-simulator") } else { key };
    let trainer = Trainer::new(place.clone(), &key, Arc::clone(upstreams));
    let trainer = trainer.map_err(AppError::Other)?;
    let (database, metrics) = (database.clone(), Arc::clone(metrics));
    // The stand-in's jobs take no time.
    let pause = simulated.then_some(Duration::from_millis(500));
    Ok(Box::pin(async move {
        let datasets = Datasets::of(&database);
        match datasets.and_then(|datasets| Poller::new(datasets, trainer, metrics, pause)) {
            Ok(poller) => poller.run().await,
            Err(error) => tracing::error!(%error, "fine-tune jobs cannot be moved on"),
        }
    }))
}

/// Refreshes sources, and lets their documents be searched.
pub(super) fn refresh(
    database: Database,
    library: &Library,
    embedder: Embedder,
    fetcher: Fetcher,
    metrics: &Arc<Metrics>,
) -> Task {
    let (searcher, metrics) = (Arc::clone(&library.searcher), Arc::clone(metrics));
    Box::pin(async move {
        let (sources, documents) = match (Sources::of(&database), Documents::of(&database)) {
            (Ok(sources), Ok(documents)) => (sources, documents),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "documents cannot be used");
                return;
            }
        };
        let owner = Uuid::now_v7().to_string();
        let searches = Searcher {
            sources: sources.clone(),
            documents: documents.clone(),
            embedder: embedder.clone(),
            metrics: Arc::clone(&metrics),
        };
        // It is set here alone.
        let _ = searcher.set(searches);
        Refresher { sources, documents, embedder, fetcher, metrics, owner }.run().await;
    })
}

/// Watches the policy folder; a change is in force as a whole, or not at all.
pub(super) fn reload(
    config: &Config,
    settings: policy::Settings,
    handle: &Arc<PolicyHandle>,
    (upstreams, hooks): (&Arc<Upstreams>, Hooks),
    metrics: &Arc<Metrics>,
) -> Task {
    let folder = config.policies.clone();
    let reloader = Reloader::new(folder.clone(), settings, Arc::clone(handle));
    let upstreams = Arc::clone(upstreams);
    let handle = Arc::clone(handle);
    let prepare =
        move |policy: &Policy| upstreams.prepare(policy).map_err(|error| error.to_string());
    let metrics = Arc::clone(metrics);
    let tell = move |seen: &Seen| match seen {
        Seen::Applied(policy) => {
            begin_with(policy, &metrics);
            metrics.policy_applied();
            background::done();
            let data = json!({ "revision": policy.revision(), "warnings": policy.warnings });
            hooks.tell("policy.reloaded", POLICY.to_owned(), data);
            tracing::info!(revision = policy.revision(), "policy in force");
        }
        Seen::Rejected(rejected) => {
            metrics.policy_rejected();
            let _ = background::note(Err::<(), _>("the folder is refused; see GET /api/policies"));
            tracing::error!(revision = %rejected.revision, "the policy folder is refused; the policy before it stays in force");
            for diagnostic in &rejected.diagnostics {
                tracing::error!("{diagnostic}");
            }
            let in_force = handle.current();
            let data = json!({
                "revision": rejected.revision,
                "in_force": in_force.revision(),
                "diagnostics": rejected.diagnostics,
            });
            hooks.tell("policy.rejected", POLICY.to_owned(), data);
        }
        Seen::Same => background::done(),
        Seen::Unsettled => {}
    };
    let bell = Arc::new(Notify::new());
    let looks = policy::watch(folder, Arc::clone(&bell), reloader, today, prepare, tell);
    Box::pin(async move {
        tokio::select! {
            () = looks => {}
            () = ring_on_hangup(&bell) => {}
        }
    })
}

/// Reads the data plane's certificate again when its files change.
pub(super) fn keep_certificate(certificate: &Arc<Certificate>) -> Task {
    let certificate = Arc::clone(certificate);
    // Where the signal cannot be watched the policies' task says so.
    Box::pin(async move { certificate.keep_fresh(signal(SignalKind::hangup()).ok()).await })
}

/// Has the policy folder, and the key files that it names, looked at when SIGHUP comes.
async fn ring_on_hangup(bell: &Notify) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::error!("SIGHUP cannot be watched: it would end the process");
        return std::future::pending().await;
    };
    while hangups.recv().await.is_some() {
        tracing::info!("SIGHUP: looking at the policy folder and the files that it names");
        bell.notify_one();
    }
}

/// Asks providers once a day when their models end.
pub(super) async fn watch_shutdowns(
    (upstreams, policy, live): (Arc<Upstreams>, Arc<PolicyHandle>, Arc<LiveStats>),
) {
    // A process that is started in passing asks nobody.
    tokio::time::sleep(SHUTDOWNS_FIRST).await;
    let mut tick = tokio::time::interval(SHUTDOWNS_EVERY);
    loop {
        tick.tick().await;
        look_for_shutdowns(&upstreams, &policy.current(), &live).await;
        background::done();
    }
}

/// What has to be done from time to time.
pub(super) async fn chores(
    (upstreams, policy, live): (Arc<Upstreams>, Arc<PolicyHandle>, Arc<LiveStats>),
    metrics: Arc<Metrics>,
) {
    let mut tick = tokio::time::interval(CHORES);
    loop {
        tick.tick().await;
        let policy = policy.current();
        upstreams.sweep(&policy);
        for model in policy.catalogue().models() {
            if let Some(day) = live.shutdown_day(&policy, &model.name) {
                metrics.model_shutdown(&model.name, day - today());
            }
        }
        background::done();
    }
}

/// Loads the vocabularies beside the start, where rules ask for tokens: the first request that they
/// look at does not wait for them, and who has no such rule does not pay for them in memory.
fn warm_tokenizer(policy: &Policy) {
    if !policy.reads_tokens() {
        return;
    }
    let warm = || {
        tokens::warm();
        tracing::info!("the tokenizer is ready");
    };
    let started = std::thread::Builder::new().name("tokenizer".to_owned()).spawn(warm);
    if let Err(error) = started {
        tracing::warn!(%error, "no thread to load the tokenizer: the first count will");
    }
}

/// What is to be done for each policy that comes into force.
pub(super) fn begin_with(policy: &Policy, metrics: &Metrics) {
    metrics.policy_loaded(policy.revision());
    warm_tokenizer(policy);
    for warning in &policy.warnings {
        tracing::warn!("{warning}");
    }
}

pub(super) fn fetcher(config: &Config, upstreams: &Arc<Upstreams>) -> Result<Fetcher, AppError> {
    let key = SecretString::from(config.firecrawl.api_key.clone());
    let firecrawl = Firecrawl::new(&config.firecrawl.base_url, &key, Arc::clone(upstreams));
    let outside = Outside::new(config.outbound.allow.clone(), HOOK_PATIENCE);
    Ok(Fetcher {
        firecrawl: firecrawl.map_err(AppError::Other)?,
        outside: outside.map_err(AppError::Other)?,
    })
}

pub(super) fn keep_keys(
    access: &Access,
    database: Option<&Database>,
    metrics: &Arc<Metrics>,
) -> Option<(&'static str, Task)> {
    let (keys, database) = (access.keys.clone()?, database?.clone());
    Some(("keys", Box::pin(keys.keep_fresh(database, Arc::clone(metrics)))))
}
