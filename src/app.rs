//! Builds every room and starts the process.

mod base;
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
use crate::limits::Keeper;
use crate::limits::Limits;
use crate::openai::error::ApiError;
use crate::policy::Policy;
use crate::policy::PolicyHandle;
use crate::policy::Refused;
use crate::proxy::Gateway;
use crate::proxy::LiveStats;
use crate::proxy::LiveView;
use crate::proxy::Search;
use crate::server;
use crate::server::Certificate;
use crate::server::StartError;
use crate::simulator::Knobs;
use crate::simulator::Simulator;
use crate::store::AliasBook;
use crate::store::Documents;
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

use base::Base;
use base::RESTORE;
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

/// Longest wait for one export of traces.
const COLLECTOR_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the last traces at the end.
const LAST_TRACES: Duration = Duration::from_secs(5);
/// Time for shipping when the drain has used up all of its own.
const LEAST_SHIPPING: Duration = Duration::from_millis(500);

/// Longest wait for the ledger at the end of a command; what is left waits in the spool.
const LAST_ROWS: Duration = Duration::from_secs(5);

/// Work beside the requests, by name.
type Tasks = Vec<(&'static str, Task)>;

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
    let mut tasks = Tasks::new();
    let mut policy_settings = environment.for_policies();
    if arguments.simulate {
        let (base_url, task) = start_simulator(&arguments.knobs)?;
        policy_settings.simulator = Some(base_url);
        tasks.push(("simulator", task));
    }
    let mut base = Base::lay(config, environment, policy_settings)?;
    begin_with(&base.policy.current(), &base.metrics);
    warn_of_keyless(&base.config, &base.policy.current());
    show_gates(&base.metrics, &base.upstreams, &base.policy);
    let access = base.access()?;
    tasks.extend(keep_keys(&access, base.database.as_ref(), &base.metrics));
    let needed_keys = access.keys.clone().filter(|_| access.requires_key);
    let counters = base.keep_limits()?;
    let helpers = Helpers::of(&base)?;
    let tracer = traces(&base, &mut tasks)?;
    let gateway = helpers.join(&base, base.gateway(access), tracer.as_ref());
    let hooks = hooks(&base, &helpers.sender, &mut tasks);
    work_on_store(&base, &helpers, &gateway, arguments.simulate, &mut tasks)?;
    let (readiness, board) = (Arc::new(Readiness::default()), Board::default());
    let health =
        Health { readiness: Arc::clone(&readiness), tasks: board.clone(), keys: needed_keys };
    tasks.push(("control plane", control_plane(&base, health, helpers)?));
    look_after(&mut base, counters, hooks, &mut tasks);
    make_room_for_socket(&base.config.upgrade_socket)?;
    let settings = server_settings(&base.config, arguments.upgrade)?;
    if let Some(certificate) = &settings.tls {
        tasks.push(("certificate", keep_certificate(certificate)));
    }
    tracing::info!(listen = %base.config.listen, control = %base.config.control.listen, simulate = arguments.simulate, "starting");
    let watched = |(name, task)| (name, board.watch(name, task));
    let tasks = tasks.into_iter().map(watched).collect();
    let at_end = AtEnd {
        recorder: base.recorder.clone(),
        log,
        limits: Arc::clone(&base.limits),
        tracer,
        counters: Mutex::new(Some(base.keeper())),
    };
    server::run(&settings, gateway, &base.metrics, &readiness, tasks, move |patience| {
        at_end.write_down(patience);
    })?;
    // Only a stop without a drain comes here; what is spooled is shipped by the next process.
    if let Some(recorder) = base.recorder {
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
    let policy_settings = environment.for_policies();
    let base = Base::lay(config, environment, policy_settings)?;
    let off = || AppError::Other("`store` is off: there are no documents".to_owned());
    let database = base.database.clone().ok_or_else(off)?;
    // What was used before counts; what this call uses is in the ledger.
    base.keep_limits()?;
    let embedder = embedder(&base.gateway(base.access()?));
    let Base { metrics, recorder, courier, .. } = base;
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

/// What hands out traces, where there are any; what exports them joins the tasks.
fn traces(base: &Base, tasks: &mut Tasks) -> Result<Option<Arc<Tracer>>, AppError> {
    let Some(settings) = base.config.traces(&base.environment)? else { return Ok(None) };
    let client = collector::client(COLLECTOR_PATIENCE).map_err(AppError::Other)?;
    let (tracer, task) = Tracer::new(settings, client, Arc::clone(&base.metrics));
    tasks.push(("traces", Box::pin(task)));
    Ok(Some(tracer))
}

/// Who works beside the data plane.
struct Helpers {
    library: Library,
    trainer: Place,
    sender: Arc<hooks::Sender>,
    aliases: Arc<AliasBook>,
}

impl Helpers {
    fn of(base: &Base) -> Result<Self, AppError> {
        Ok(Self {
            library: library(&base.config),
            trainer: base.config.trainer_place(base.policy_settings.simulator.as_ref())?,
            sender: hook_sender(&base.config, &base.upstreams)?,
            aliases: Arc::default(),
        })
    }

    /// The gateway with all that they do for it.
    fn join(&self, base: &Base, gateway: Gateway, tracer: Option<&Arc<Tracer>>) -> Gateway {
        let gateway = gateway.with_aliases(Arc::clone(&self.aliases));
        let gateway = match tracer {
            Some(tracer) => gateway.with_tracer(Arc::clone(tracer)),
            None => gateway,
        };
        match &base.database {
            Some(_) => gateway.with_search(search(&self.library.searcher)),
            None => gateway,
        }
    }
}

/// Begins the work on what is in the store.
fn work_on_store(
    base: &Base,
    helpers: &Helpers,
    gateway: &Gateway,
    simulates: bool,
    tasks: &mut Tasks,
) -> Result<(), AppError> {
    let Some(database) = &base.database else { return Ok(()) };
    let Base { config, upstreams, metrics, .. } = base;
    tasks.push(("datasets", adopt_builds(database.clone())));
    let jobs = move_jobs(config, database, &helpers.trainer, upstreams, metrics)?;
    tasks.push(("fine-tune jobs", jobs));
    let aliases = Arc::clone(&helpers.aliases);
    tasks.push(("aliases", keep_aliases(database.clone(), aliases, metrics)));
    let (embedder, fetcher) = (embedder(gateway), fetcher(config, upstreams)?);
    let refresh = refresh(database.clone(), &helpers.library, embedder, fetcher, metrics);
    tasks.push(("documents", refresh));
    tasks.push(("canaries", compare_canaries(database.clone(), simulates)));
    Ok(())
}

/// Begins what keeps policy, limits and figures up to date.
fn look_after(base: &mut Base, counters: Keeper, hooks: Hooks, tasks: &mut Tasks) {
    let courier = base.courier.take();
    let Base { config, policy_settings, policy, metrics, upstreams, live, .. } = base;
    let settings = policy_settings.clone();
    let reload = reload(config, settings, policy, (upstreams, hooks.clone()), metrics);
    tasks.push(("policies", reload));
    if let Some(courier) = courier {
        tasks.push(("redis", Box::pin(courier.run())));
    }
    tasks.push(("limits", tell_of_limits(counters, hooks)));
    let shared = || (Arc::clone(upstreams), Arc::clone(policy), Arc::clone(live));
    tasks.push(("shutdowns", Box::pin(watch_shutdowns(shared()))));
    tasks.push(("chores", Box::pin(chores(shared(), Arc::clone(metrics)))));
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
fn hooks(base: &Base, sender: &Arc<hooks::Sender>, tasks: &mut Tasks) -> Hooks {
    let Base { policy, metrics, .. } = base;
    let Some(database) = &base.database else {
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

/// Routes for operators and apps beside the data plane.
fn control_plane(base: &Base, health: Health, helpers: Helpers) -> Result<Task, AppError> {
    let address = base.config.control.listen;
    let listener = admin::bind(address).map_err(|source| StartError::Listen { address, source })?;
    let metrics = Arc::clone(&base.metrics);
    let policy = PolicyParts {
        policy: Arc::clone(&base.policy),
        settings: Arc::new(base.policy_settings.clone()),
        figures: figures(&base.live, &base.upstreams),
        limits: Arc::clone(&base.limits),
    };
    let store = base.recorder.clone().zip(base.database.clone());
    let token = base.environment.admin_token();
    let Helpers { trainer, sender, library, .. } = helpers;
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
