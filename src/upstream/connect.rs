//! Opens connections: name look-up, TCP, TLS with ALPN, HTTP/1.1 or HTTP/2.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::uri::Scheme;
use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::OutBody;
use super::io::Io;
use super::pool::Lease;
use super::pool::Pool;

/// A peer that vanished without a word is noticed after this long.
const KEEPALIVE: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control windows of HTTP/2: what a slow reader may leave in memory.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

pub(super) struct Connector {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

struct Tls {
    /// Offers HTTP/2 and HTTP/1.1.
    any: TlsConnector,
    /// Offers HTTP/1.1 only, as WebSockets need.
    http1: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    pub(super) fn new(
        scheme: &Scheme,
        authority: &Authority,
        ca_file: Option<&str>,
    ) -> Result<Self, String> {
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let https = *scheme == Scheme::HTTPS;
        let tls = if https { Some(Tls::new(&host, ca_file)?) } else { None };
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { host, port, tls })
    }

    /// Whether a connection can carry several calls at once: HTTP/2 is spoken over TLS only.
    pub(super) fn may_share(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn connect(&self, pool: &Arc<Pool>, http1_only: bool) -> io::Result<Lease> {
        let tcp = self.tcp().await?;
        let Some(tls) = &self.tls else { return http1(Io::Plain(tcp), pool).await };
        let connector = if http1_only { &tls.http1 } else { &tls.any };
        let stream = connector.connect(tls.name.clone(), tcp).await?;
        let shared = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = Io::Tls(Box::new(stream));
        if shared { http2(io, pool).await } else { http1(io, pool).await }
    }

    /// Tries each address in turn; the caller's deadline covers all of them.
    async fn tcp(&self) -> io::Result<TcpStream> {
        let mut last = None;
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    tune(&stream)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("the name has no address")))
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(PING_TIMEOUT);
    socket.set_tcp_keepalive(&keepalive)?;
    // Bytes that nobody acknowledges end the connection, too.
    socket.set_tcp_user_timeout(Some(KEEPALIVE + PING_TIMEOUT))
}

async fn http1(io: Io, pool: &Arc<Pool>) -> io::Result<Lease> {
    let (sender, connection) =
        http1::handshake::<_, OutBody>(TokioIo::new(io)).await.map_err(io::Error::other)?;
    // Ends with the connection: when its sender is dropped or the provider closes it.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Lease::http1(sender, pool))
}

async fn http2(io: Io, pool: &Arc<Pool>) -> io::Result<Lease> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake::<_, OutBody>(TokioIo::new(io))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Lease::http2(sender, pool))
}

impl Tls {
    fn new(host: &str, ca_file: Option<&str>) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| format!("`{host}` is no host name: {error}"))?;
        let roots = roots(ca_file)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut any = config;
        any.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { any: Arc::new(any).into(), http1: Arc::new(http1).into(), name })
    }
}

fn roots(ca_file: Option<&str>) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "the system has no certificates to trust; install ca-certificates or name \
                        a `ca_file`"
                    .to_owned(),
            );
        }
        return Ok(roots);
    };
    let bad = |error: &dyn std::fmt::Display| {
        format!("ca_file {path}: {error}; it must hold certificates in PEM form")
    };
    let certificates =
        rustls::pki_types::CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"no certificate found"));
    }
    Ok(roots)
}
