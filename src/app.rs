//! Builds every room and starts the process.

mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use secrecy::SecretString;
use serde_json::Value;
use serde_json::json;
use thiserror::Error;

use crate::admin;
use crate::admin::Figures;
use crate::admin::Health;
use crate::admin::Library;
use crate::admin::PolicyParts;
use crate::admin::Readiness;
use crate::background::Board;
use crate::background::Task;
use crate::cli;
use crate::config::Auth;
use crate::config::Config;
use crate::config::ConfigError;
use crate::config::Environment;
use crate::config::LogFormat;
use crate::config::Tls;
use crate::embeddings::embed::Embedder;
use crate::embeddings::embed::Posted;
use crate::embeddings::search::Searcher;
use crate::hooks;
use crate::hooks::Hooks;
use crate::limits::Courier;
use crate::limits::Keeper;
use crate::limits::Limits;
use crate::openai::error::ApiError;
use crate::policy::Policy;
use crate::policy::PolicyHandle;
use crate::policy::Refused;
use crate::proxy::Access;
use crate::proxy::Gateway;
use crate::proxy::LiveStats;
use crate::proxy::LiveView;
use crate::proxy::Search;
use crate::proxy::today;
use crate::server;
use crate::server::Certificate;
use crate::server::StartError;
use crate::simulator::Knobs;
use crate::simulator::Simulator;
use crate::store;
use crate::store::AliasBook;
use crate::store::Database;
use crate::store::Documents;
use crate::store::Fingerprinter;
use crate::store::KeyRing;
use crate::store::LimitCounters;
use crate::store::Recorder;
use crate::store::Sources;
use crate::store::StoreError;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Tracer;
use crate::training::trainer::Place;
use crate::upstream::SetupError;
use crate::upstream::Upstreams;
use crate::upstream::collector;
use crate::upstream::outside::Outside;

use tasks::adopt_builds;
use tasks::begin_with;
use tasks::chores;
use tasks::compare_canaries;
use tasks::deliver_hooks;
use tasks::fetcher;
use tasks::keep_aliases;
use tasks::keep_certificate;
use tasks::keep_keys;
use tasks::move_jobs;
use tasks::refresh;
use tasks::reload;
use tasks::start_simulator;
use tasks::tell_of_limits;
use tasks::watch_shutdowns;

/// Longest wait for a receiver of webhooks that users have registered.
const HOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for the keys at the start.
const KEYS_FIRST: Duration = Duration::from_secs(3);

/// Longest wait at the start for what was used of limits before.
const RESTORE: Duration = Duration::from_secs(5);
/// Longest wait for one export of traces.
const COLLECTOR_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the last traces at the end.
const LAST_TRACES: Duration = Duration::from_secs(5);
/// Time for shipping when the drain has used up all of its own.
const LEAST_SHIPPING: Duration = Duration::from_millis(500);

/// Longest wait for the ledger at the end of a command; what is left waits in the spool.
const LAST_ROWS: Duration = Duration::from_secs(5);

/// Why the process cannot start.
#[derive(Debug, Error)]
pub enum AppError {
    /// weir.yaml or the environment.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy folder.
    #[error(transparent)]
    Policy(#[from] Refused),
    /// An upstream's certificates.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A listener.
    #[error(transparent)]
    Server(#[from] StartError),
    /// Metrics; a mistake in the program.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Anything else, in a sentence.
    #[error("{0}")]
    Other(String),
}

/// Runs the gateway until a signal ends it. `json` goes before the log's format in the settings.
///
/// # Errors
/// What keeps it from starting.
pub fn serve(arguments: &cli::Serve, json: bool) -> Result<(), AppError> {
    let environment = Environment::of_process();
    let mut config = Config::load(arguments.config.as_deref(), &environment)?;
    if json {
        config.log.format = LogFormat::Json;
    }
    let log = start_log(&config)?;
    let mut tasks: Vec<(&'static str, Task)> = Vec::new();
    let mut policy_settings = environment.for_policies();
    if arguments.simulate {
        let (base_url, task) = start_simulator(&arguments.knobs)?;
        policy_settings.simulator = Some(base_url);
        tasks.push(("simulator", task));
    }
    policy_settings.today = Some(today());
    let policy = Policy::load(&config.policies, &policy_settings)?;
    let metrics = Arc::new(Metrics::new()?);
    begin_with(&policy, &metrics);
    warn_of_keyless(&config, &policy);
    let upstreams = Arc::new(Upstreams::new(&policy)?);
    let policy = Arc::new(PolicyHandle::new(policy));
    show_gates(&metrics, &upstreams, &policy);
    let live = Arc::new(LiveStats::default());
    let database = config.open_store(&environment)?;
    let recorder = start_recorder(&config, &environment, database.as_ref(), &metrics)?;
    let (limits, courier) = limits(&config, &metrics)?;
    let access = access(&config, &environment, database.as_ref(), Arc::clone(&limits))?;
    tasks.extend(keep_keys(&access, database.as_ref(), &metrics));
    let needed_keys = access.keys.clone().filter(|_| access.requires_key);
    let counters = keep_limits(&limits, &policy, &metrics, database.as_ref())?;
    let store = database.clone().map(LimitCounters::of);
    let last_counters =
        Keeper::new(Arc::clone(&limits), Arc::clone(&policy), Arc::clone(&metrics), store);
    let gateway = Gateway::new(
        Arc::clone(&policy),
        Arc::clone(&upstreams),
        Arc::clone(&metrics),
        Arc::clone(&live),
        recorder.clone(),
        access,
        config.limits.body.0,
    );
    let aliases = Arc::new(AliasBook::default());
    let gateway = gateway.with_aliases(Arc::clone(&aliases));
    let tracer = traces(&config, &environment, &metrics, &mut tasks)?;
    let gateway = match &tracer {
        Some(tracer) => gateway.with_tracer(Arc::clone(tracer)),
        None => gateway,
    };
    let (library, embedder) = (library(&config), embedder(&gateway));
    let gateway = match &database {
        Some(_) => gateway.with_search(search(&library.searcher)),
        None => gateway,
    };
    let trainer = config.trainer_place(policy_settings.simulator.as_ref())?;
    let sender = hook_sender(&config, &upstreams)?;
    let hooks = hooks(database.as_ref(), &sender, &policy, &metrics, &mut tasks);
    if let Some(database) = &database {
        tasks.push(("datasets", adopt_builds(database.clone())));
        let jobs = move_jobs(&config, database, &trainer, &upstreams, &metrics)?;
        tasks.push(("fine-tune jobs", jobs));
        tasks.push(("aliases", keep_aliases(database.clone(), aliases, &metrics)));
        let fetcher = fetcher(&config, &upstreams)?;
        let refresh = refresh(database.clone(), &library, embedder, fetcher, &metrics);
        tasks.push(("documents", refresh));
        tasks.push(("canaries", compare_canaries(database.clone(), arguments.simulate)));
    }
    let (readiness, board) = (Arc::new(Readiness::default()), Board::default());
    let health =
        Health { readiness: Arc::clone(&readiness), tasks: board.clone(), keys: needed_keys };
    let ledger = recorder.clone().zip(database);
    let policies = PolicyParts {
        policy: Arc::clone(&policy),
        settings: Arc::new(policy_settings.clone()),
        figures: figures(&live, &upstreams),
        limits: Arc::clone(&limits),
    };
    let control = control_plane(
        &config,
        &environment,
        &metrics,
        &health,
        policies,
        ledger,
        (trainer, sender, library),
    )?;
    tasks.push(("control plane", control));
    tasks.push((
        "policies",
        reload(&config, policy_settings, &policy, (&upstreams, hooks.clone()), &metrics),
    ));
    if let Some(courier) = courier {
        tasks.push(("redis", Box::pin(courier.run())));
    }
    tasks.push(("limits", tell_of_limits(counters, hooks)));
    let shutdowns = watch_shutdowns(Arc::clone(&upstreams), Arc::clone(&policy), Arc::clone(&live));
    tasks.push(("shutdowns", Box::pin(shutdowns)));
    tasks.push(("chores", Box::pin(chores(upstreams, policy, live, Arc::clone(&metrics)))));
    make_room_for_socket(&config.upgrade_socket)?;
    let settings = server_settings(&config, arguments.upgrade)?;
    if let Some(certificate) = &settings.tls {
        tasks.push(("certificate", keep_certificate(certificate)));
    }
    tracing::info!(listen = %config.listen, control = %config.control.listen, simulate = arguments.simulate, "starting");
    let watched = |(name, task)| (name, board.watch(name, task));
    let tasks = tasks.into_iter().map(watched).collect();
    let counters = Mutex::new(Some(last_counters));
    let at_end = AtEnd { recorder: recorder.clone(), log, limits, tracer, counters };
    server::run(&settings, gateway, &metrics, &readiness, tasks, move |patience| {
        at_end.write_down(patience);
    })?;
    // Only a stop without a drain comes here; what is spooled is shipped by the next process.
    if let Some(recorder) = recorder {
        recorder.close(Duration::ZERO);
    }
    Ok(())
}

/// Runs the stand-in for OpenAI alone.
///
/// # Errors
/// What keeps it from starting.
pub fn simulate(arguments: &cli::Simulate) -> Result<(), AppError> {
    let knobs =
        Knobs::parse(&arguments.knobs).map_err(|error| AppError::Other(error.to_string()))?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| AppError::Other(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(arguments.listen).await.map_err(|error| {
            AppError::Other(format!("cannot listen on {}: {error}", arguments.listen))
        })?;
        eprintln!("weir: simulating OpenAI at http://{}/v1", arguments.listen);
        let stop = async {
            // Without a signal handler it runs until it is killed.
            let _ = tokio::signal::ctrl_c().await;
        };
        Simulator::new(knobs)
            .serve(listener, stop)
            .await
            .map_err(|error| AppError::Other(error.to_string()))
    })
}

/// Answers the body of a search as a gateway of these settings does: its policy chooses who makes
/// the question's vector, its limits hold, and its ledger has the call.
///
/// # Errors
/// What keeps a gateway from starting, or the search itself is refused.
pub fn search_once(
    settings: Option<&Path>,
    (query, source, top_k): (&str, Option<&str>, u8),
) -> Result<Value, AppError> {
    let environment = Environment::of_process();
    let config = Config::load(settings, &environment)?;
    let off = || AppError::Other("`store` is off: there are no documents".to_owned());
    let database = config.open_store(&environment)?.ok_or_else(off)?;
    let mut policy_settings = environment.for_policies();
    policy_settings.today = Some(today());
    let policy = Policy::load(&config.policies, &policy_settings)?;
    let metrics = Arc::new(Metrics::new()?);
    let upstreams = Arc::new(Upstreams::new(&policy)?);
    let policy = Arc::new(PolicyHandle::new(policy));
    let recorder = start_recorder(&config, &environment, Some(&database), &metrics)?;
    let (limits, courier) = limits(&config, &metrics)?;
    let access = access(&config, &environment, Some(&database), Arc::clone(&limits))?;
    // What was used before counts; what this call uses is in the ledger.
    keep_limits(&limits, &policy, &metrics, Some(&database))?;
    let gateway = Gateway::new(
        policy,
        upstreams,
        Arc::clone(&metrics),
        Arc::default(),
        recorder.clone(),
        access,
        config.limits.body.0,
    );
    let embedder = embedder(&gateway);
    let answer = cli::wait_for(async {
        if let Some(courier) = courier {
            tokio::spawn(courier.run());
        }
        database.migrate().await?;
        let (sources, documents) = (Sources::of(&database)?, Documents::of(&database)?);
        let searcher = Searcher { sources, documents, embedder, metrics };
        let answer = match source {
            None => searcher.everywhere(query, top_k.into()).await,
            Some(source) => {
                let body = json!({ "query": query, "source": source, "top_k": top_k });
                searcher.answer(body.to_string().as_bytes(), None).await
            }
        };
        answer.map_err(|error| AppError::Other(error.message.to_string()))
    })?;
    if let Some(recorder) = recorder {
        recorder.close(LAST_ROWS);
    }
    answer
}

/// Says which upstreams get no key at all, where callers' keys are not for them.
fn warn_of_keyless(config: &Config, policy: &Policy) {
    for upstream in policy.upstreams().filter(|_| config.auth == Auth::Keys) {
        if upstream.authorization.is_none() {
            tracing::warn!(upstream = %upstream.name, "the upstream has no `api_key`: with `auth: keys` requests go to it without one");
        }
    }
}

fn start_log(config: &Config) -> Result<log::LogGuard, AppError> {
    let format = match config.log.format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    log::start(&config.log.level, format).map_err(AppError::Other)
}

fn start_recorder(
    config: &Config,
    environment: &Environment,
    database: Option<&Database>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Recorder>>, AppError> {
    let Some(database) = database else {
        tracing::warn!("`store` is off: no call is recorded, and there is no spend to read");
        return Ok(None);
    };
    let settings = store::Settings {
        database: database.clone(),
        spool: config.spool.dir.clone(),
        max_bytes: config.spool.max_bytes.0,
        user_secret: environment.user_secret(),
    };
    let recorder = Recorder::start(settings, metrics)
        .map_err(|error| AppError::Other(format!("the spool's threads cannot start: {error}")))?;
    Ok(Some(Arc::new(recorder)))
}

/// Who gets in. Where nobody does without a virtual key, the keys are read before the start; when
/// the store is away then, callers are told so until it is back.
fn access(
    config: &Config,
    environment: &Environment,
    database: Option<&Database>,
    limits: Arc<Limits>,
) -> Result<Access, AppError> {
    let secret = environment.user_secret();
    let spool = database.map(|_| config.spool.dir.as_path());
    let requires_key = config.auth == Auth::Keys;
    let keys = database.map(|_| Arc::new(KeyRing::default()));
    if let (true, Some(keys), Some(database)) = (requires_key, &keys, database) {
        let loading = async { tokio::time::timeout(KEYS_FIRST, keys.load(database)).await };
        let loaded = cli::wait_for(loading)?;
        if !matches!(loaded, Ok(Ok(()))) {
            tracing::warn!(
                "the store is away: no key is known yet, and callers get 503 until it is back"
            );
        }
    }
    let fingerprints = Fingerprinter::new(secret.as_ref(), spool);
    Ok(Access { requires_key, keys, fingerprints, limits })
}

/// What hands out traces, where there are any; what exports them joins the tasks.
fn traces(
    config: &Config,
    environment: &Environment,
    metrics: &Arc<Metrics>,
    tasks: &mut Vec<(&'static str, Task)>,
) -> Result<Option<Arc<Tracer>>, AppError> {
    let Some(settings) = config.traces(environment)? else { return Ok(None) };
    let client = collector::client(COLLECTOR_PATIENCE).map_err(AppError::Other)?;
    let (tracer, task) = Tracer::new(settings, client, Arc::clone(metrics));
    tasks.push(("traces", Box::pin(task)));
    Ok(Some(tracer))
}

/// The limits' counters; shared, and then with who talks to Redis, where there is one.
fn limits(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Limits>, Option<Courier>), AppError> {
    let Some(redis) = config.redis()? else { return Ok((Arc::default(), None)) };
    let limits = Arc::new(Limits::shared());
    let courier = Courier::new(&limits, redis, Arc::clone(metrics));
    Ok((limits, courier))
}

/// Counters of limits that outlive the process: those of before are read now, as far as the store
/// answers soon.
fn keep_limits(
    limits: &Arc<Limits>,
    policy: &Arc<PolicyHandle>,
    metrics: &Arc<Metrics>,
    database: Option<&Database>,
) -> Result<Keeper, AppError> {
    let store = database.cloned().map(LimitCounters::of);
    let mut keeper =
        Keeper::new(Arc::clone(limits), Arc::clone(policy), Arc::clone(metrics), store);
    if !policy.current().limits().is_empty() {
        cli::wait_for(async {
            if tokio::time::timeout(RESTORE, keeper.restore()).await.is_err() {
                tracing::warn!("the store does not answer; what was used of limits comes later");
            }
        })?;
    }
    Ok(keeper)
}

/// What has to reach a disk or a collector before the process ends.
struct AtEnd {
    recorder: Option<Arc<Recorder>>,
    log: log::LogGuard,
    limits: Arc<Limits>,
    tracer: Option<Arc<Tracer>>,
    /// Those of limits; written once.
    counters: Mutex<Option<Keeper>>,
}

impl AtEnd {
    /// Waits for each no longer than it may: `patience` is what is left of the drain time.
    fn write_down(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        // They go on their way while the rest is written down.
        let traces = self.tracer.as_ref().map(|tracer| tracer.flush());
        self.limits.leave(LEAST_SHIPPING);
        self.write_counters(patience.clamp(LEAST_SHIPPING, RESTORE));
        if let Some(recorder) = &self.recorder {
            recorder.close(patience.max(LEAST_SHIPPING));
        }
        if let Some(traces) = traces {
            let left = deadline.saturating_duration_since(Instant::now());
            traces.wait(left.clamp(LEAST_SHIPPING, LAST_TRACES));
        }
        self.log.flush();
    }

    fn write_counters(&self, patience: Duration) {
        let keeper = self.counters.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut keeper) = keeper else { return };
        // A thread of its own: this one may run a runtime.
        let written = std::thread::spawn(move || {
            cli::wait_for(async {
                tokio::time::timeout(patience, keeper.write_all()).await.is_err().then(|| {
                    tracing::warn!(
                        "the store does not answer; what was used of limits last is lost"
                    );
                })
            })
        });
        // It does not panic.
        let _ = written.join();
    }
}

/// Who is told of events: webhooks from the store's outbox, or without a store from memory.
fn hooks(
    database: Option<&Database>,
    sender: &Arc<hooks::Sender>,
    policy: &Arc<PolicyHandle>,
    metrics: &Arc<Metrics>,
    tasks: &mut Vec<(&'static str, Task)>,
) -> Hooks {
    let Some(database) = database else {
        return Hooks::in_memory(Arc::clone(sender), Arc::clone(policy), Arc::clone(metrics));
    };
    let (hooks, write) = Hooks::of_store(database.clone(), Arc::clone(metrics));
    tasks.push(("events", Box::pin(write)));
    tasks.push(("webhooks", deliver_hooks(database.clone(), sender, policy, metrics)));
    hooks
}

/// Who posts webhooks.
fn hook_sender(
    config: &Config,
    upstreams: &Arc<Upstreams>,
) -> Result<Arc<hooks::Sender>, AppError> {
    let outside = Outside::new(config.outbound.allow.clone(), HOOK_PATIENCE);
    let outside = outside.map_err(AppError::Other)?;
    Ok(Arc::new(hooks::Sender::new(Arc::clone(upstreams), outside)))
}

fn control_plane(
    config: &Config,
    environment: &Environment,
    metrics: &Arc<Metrics>,
    health: &Health,
    policy: PolicyParts,
    store: Option<(Arc<Recorder>, Database)>,
    (trainer, sender, library): (Place, Arc<hooks::Sender>, Library),
) -> Result<Task, AppError> {
    let address = config.control.listen;
    let listener = admin::bind(address).map_err(|source| StartError::Listen { address, source })?;
    let (metrics, health) = (Arc::clone(metrics), health.clone());
    let token = environment.admin_token();
    Ok(Box::pin(async move {
        let router =
            admin::router(metrics, health, policy, store, token, (trainer, sender), library);
        if let Err(error) = admin::serve(listener, router).await {
            tracing::error!(%error, "the control plane stopped");
        }
    }))
}

/// Documents: what searches them is there once the process has begun.
fn library(config: &Config) -> Library {
    let secret = config.firecrawl.webhook_secret.clone();
    let secret = (!secret.is_empty()).then(|| Arc::new(SecretString::from(secret)));
    let outbound = config.outbound.allow.clone();
    Library { searcher: Arc::default(), outbound, firecrawl_secret: secret }
}

/// How apps search.
fn search(searcher: &Arc<OnceLock<Searcher>>) -> Search {
    let searcher = Arc::clone(searcher);
    Arc::new(move |body, patience| {
        let searcher = searcher.get().cloned();
        Box::pin(async move {
            let away =
                || ApiError::new(503, "api_error", "server_overloaded", "The gateway starts.");
            let answer = searcher.ok_or_else(away)?.answer(&body, patience).await?;
            Ok(answer.to_string().into())
        })
    })
}

/// Makes vectors by the gateway's own `/v1/embeddings`.
fn embedder(gateway: &Gateway) -> Embedder {
    let gateway = gateway.clone();
    Embedder::new(Arc::new(move |caller, body| {
        let gateway = gateway.clone();
        Box::pin(async move {
            let answer = gateway.call_internally("/v1/embeddings", body, &caller).await;
            Posted {
                status: answer.status.as_u16(),
                retry_after: answer.retry_after(),
                cost: answer.cost(),
                body: answer.body,
            }
        })
    }))
}

/// How the models are doing, for `POST /api/route/explain`: what live routing sees.
fn figures(live: &Arc<LiveStats>, upstreams: &Arc<Upstreams>) -> Figures {
    let (live, upstreams) = (Arc::clone(live), Arc::clone(upstreams));
    Arc::new(move |policy, ask| ask(&LiveView::new(&live, &upstreams, policy)))
}

/// Shows before each scrape which models are left alone.
fn show_gates(metrics: &Metrics, upstreams: &Arc<Upstreams>, policy: &Arc<PolicyHandle>) {
    let (upstreams, policy) = (Arc::clone(upstreams), Arc::clone(policy));
    metrics.before_scrape(move |metrics| {
        let policy = policy.current();
        let open =
            policy.upstreams().map(|one| (one.name.as_str(), upstreams.gates.open(&one.name)));
        metrics.gates_open(open);
    });
}

fn make_room_for_socket(path: &Path) -> Result<(), AppError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .map_err(|error| AppError::Other(format!("cannot create {}: {error}", folder.display())))
}

fn server_settings(config: &Config, upgrade: bool) -> Result<server::Settings, StartError> {
    let read = |tls: &Tls| Certificate::read((&tls.certificate).into(), (&tls.key).into());
    let certificate = config.tls.as_ref().map(read).transpose()?;
    Ok(server::Settings {
        listen: config.listen,
        tls: certificate.map(Arc::new),
        header_limit: usize::try_from(config.limits.header.0).unwrap_or(usize::MAX),
        header_timeout: config.limits.header_timeout.0,
        idle_timeout: config.limits.idle_timeout.0,
        write_timeout: config.limits.write_timeout.0,
        connections: config.limits.connections,
        notice: config.drain_notice.0,
        drain: config.drain.0,
        upgrade,
        upgrade_socket: config.upgrade_socket.display().to_string(),
    })
}
