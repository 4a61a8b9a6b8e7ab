//! Listeners and sessions: the only room that knows the server engine.
//!
//! pingora runs the process: listeners, TLS, services with their own runtimes, signals, the
//! hand-over of sockets to a new process. hyper speaks HTTP on the connections it accepts.

mod certificate;
mod drain;
mod guard;
mod head_check;
mod plane;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::L4BufferSettings;
use pingora::listeners::ListenerConfig;
use pingora::listeners::TcpSocketOptions;
use pingora::protocols::TcpKeepalive;
use pingora::server::RunArgs;
use pingora::server::Server;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::Opt;
use pingora::server::configuration::ServerConf;
use pingora::services::background::BackgroundService;
use pingora::services::background::background_service;
use pingora::services::listening::Service;
use thiserror::Error;

use crate::admin::Readiness;
use crate::background::Task;
use crate::proxy::Gateway;
use crate::telemetry::metrics::Metrics;

pub use certificate::Certificate;

use drain::Drain;
use drain::Keeper;
use guard::Patience;
use plane::Plane;

/// A client that says nothing is asked whether it is still there after this long, then this often.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// Probes without an answer that end the connection.
const PROBES: usize = 4;
/// The system counts it in milliseconds and 32 bits.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(86_400);

/// What the server is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Certificate of the data plane; plain HTTP without.
    pub tls: Option<Arc<Certificate>>,
    /// Longest request head, in bytes.
    pub header_limit: usize,
    /// Time for a whole request head.
    pub header_timeout: Duration,
    /// Time between two requests of a connection.
    pub idle_timeout: Duration,
    /// Time that a client may take nothing of what is there for it.
    pub write_timeout: Duration,
    /// Client connections at the same time.
    pub connections: u32,
    /// How long connections are still taken after SIGTERM, so that balancers notice.
    pub notice: Duration,
    /// Time that running answers get after that.
    pub drain: Duration,
    /// Takes the listening socket over from a running process.
    pub upgrade: bool,
    /// Where the running process hands its sockets over.
    pub upgrade_socket: String,
}

/// The server cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use the TLS certificate {certificate} with the key {key}: {reason}")]
    Tls {
        /// PEM file of the chain.
        certificate: String,
        /// PEM file of the key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// Work beside the data plane, on a runtime of its own.
struct Background(std::sync::Mutex<Option<Task>>);

#[async_trait]
impl BackgroundService for Background {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // It goes on while the data plane drains, so it does not watch for the shutdown.
        let task = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            task.await;
        }
    }
}

/// Serves until a signal ends the process: SIGTERM drains, SIGINT stops, SIGQUIT hands the sockets
/// to a process started with `upgrade` and drains. `on_exit` is called last, with what is left
/// of the drain time.
///
/// # Errors
/// An address or certificate that cannot be used; found before anything is served.
pub fn run(
    settings: &Settings,
    gateway: Gateway,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
    tasks: Vec<(&'static str, Task)>,
    on_exit: impl Fn(Duration) + Send + Sync + 'static,
) -> Result<(), StartError> {
    if !settings.upgrade {
        probe(settings.listen)?;
    }
    let mut server = Server::new_with_opt_and_conf(options(settings), configuration(settings));
    server.bootstrap();
    server.add_service(data_plane(settings, gateway, metrics)?);
    for (name, task) in tasks {
        server.add_service(background_service(name, Background(std::sync::Mutex::new(Some(task)))));
    }
    let keeper = Keeper {
        metrics: Arc::clone(metrics),
        readiness: Arc::clone(readiness),
        listen: settings.listen,
        drain: settings.drain,
        on_exit: Box::new(on_exit),
    };
    server.add_service(background_service("keeper", keeper));
    server.run(RunArgs {
        shutdown_signal: Box::new(Drain {
            readiness: Arc::clone(readiness),
            notice: settings.notice,
        }),
    });
    Ok(())
}

fn data_plane(
    settings: &Settings,
    gateway: Gateway,
    metrics: &Arc<Metrics>,
) -> Result<Service<Plane>, StartError> {
    let patience = Patience {
        head: settings.header_timeout,
        idle: settings.idle_timeout,
        write: settings.write_timeout,
    };
    let plane = Plane::new(
        Arc::new(gateway),
        Arc::clone(metrics),
        settings.header_limit,
        patience,
        settings.connections,
    );
    // hyper buffers; a second buffer would cost memory and copies.
    let mut listener = ListenerConfig::tcp(settings.listen.to_string())
        .tcp_socket_options(socket_options(settings.write_timeout))
        .l4_buffer(L4BufferSettings::unbuffered());
    if let Some(certificate) = &settings.tls {
        listener = listener.tls(certificate.settings()?);
    }
    let mut service = Service::new("data plane".to_owned(), plane);
    service.add_listener(listener);
    Ok(service)
}

/// Clients that are gone without a goodbye are noticed, also while nothing is sent to them.
fn socket_options(write_timeout: Duration) -> TcpSocketOptions {
    let mut options = TcpSocketOptions::default();
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: PROBE_AFTER,
        interval: PROBE_EVERY,
        count: PROBES,
        // What was written and is not acknowledged: nobody else notices after an answer's end.
        user_timeout: write_timeout.min(LONGEST_USER_TIMEOUT),
    });
    options
}

/// Fails early, and in words, where the engine would panic in a task.
fn probe(address: SocketAddr) -> Result<(), StartError> {
    std::net::TcpListener::bind(address)
        .map(drop)
        .map_err(|source| StartError::Listen { address, source })
}

fn options(settings: &Settings) -> Opt {
    Opt { upgrade: settings.upgrade, ..Opt::default() }
}

fn configuration(settings: &Settings) -> ServerConf {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ServerConf {
        threads,
        // One single-threaded runtime per core: measured 2 us less CPU per request than one runtime
        // that steals. What computes for long goes to the blocking pool.
        work_stealing: false,
        upgrade_sock: settings.upgrade_socket.clone(),
        // The engine sleeps this long and then drops what runs; the keeper ends the process as soon
        // as nothing does.
        grace_period_seconds: Some(settings.drain.as_secs() + 2),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}
