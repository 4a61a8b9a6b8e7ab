//! The process's end: running answers finish, then it exits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownSignal;
use pingora::server::ShutdownSignalWatch;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::net::TcpStream;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;

use crate::admin::Readiness;
use crate::telemetry::metrics::Metrics;

const STEP: Duration = Duration::from_millis(20);

/// Waits for the signal that ends the process; readiness flips first.
pub(super) struct Drain {
    pub(super) readiness: Arc<Readiness>,
    /// How long connections are still taken after SIGTERM: a balancer that has not asked for
    /// readiness since then sends some, and those in the socket's queue would be reset.
    pub(super) notice: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut term), Ok(mut int), Ok(mut quit)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::quit()),
        ) else {
            tracing::error!("signals cannot be watched; stop the process with SIGKILL");
            return std::future::pending().await;
        };
        let received = tokio::select! {
            _ = term.recv() => ShutdownSignal::GracefulTerminate,
            _ = int.recv() => ShutdownSignal::FastShutdown,
            _ = quit.recv() => ShutdownSignal::GracefulUpgrade,
        };
        self.readiness.stop();
        if matches!(received, ShutdownSignal::GracefulTerminate) {
            tokio::time::sleep(self.notice).await;
        }
        tracing::info!("stopping: no new connections, running answers finish");
        received
    }
}

/// Tells when the data plane accepts connections, and ends the process when it is drained.
pub(super) struct Keeper {
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) listen: SocketAddr,
    pub(super) drain: Duration,
    pub(super) on_exit: Box<dyn Fn(Duration) + Send + Sync>,
}

#[async_trait]
impl BackgroundService for Keeper {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        self.wait_for_listener().await;
        if shutdown.wait_for(|&stopping| stopping).await.is_err() {
            return;
        }
        let deadline = Instant::now() + self.drain;
        // A connection that was accepted a moment ago is not counted yet.
        tokio::time::sleep(STEP * 5).await;
        while self.busy() && Instant::now() < deadline {
            tokio::time::sleep(STEP).await;
        }
        let left = self.metrics.in_flight().get();
        if left > 0 {
            tracing::warn!(left, "the drain time is over; running answers are cut");
        }
        tracing::info!("stopped");
        (self.on_exit)(deadline.saturating_duration_since(Instant::now()));
        std::process::exit(0);
    }
}

impl Keeper {
    async fn wait_for_listener(&self) {
        // A listener on every address is reached by loopback.
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            let loopback = match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(loopback);
        }
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(STEP / 4).await;
        }
        self.readiness.start();
        tracing::info!(listen = %self.listen, "ready");
    }

    fn busy(&self) -> bool {
        self.metrics.in_flight().get() > 0 || self.metrics.connections().get() > 0
    }
}
