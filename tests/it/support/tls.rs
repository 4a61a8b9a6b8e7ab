//! Certificates, and a provider behind TLS that speaks HTTP/2 and HTTP/1.1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Gateway;
use super::Upstream;
use super::answer::CHAT;
use super::gateway::Builder;
use super::world;

/// A self-signed certificate for 127.0.0.1 and localhost, with its key.
pub(crate) struct Certificate {
    inner: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        Self { inner: rcgen::generate_simple_self_signed(names).unwrap() }
    }

    /// Writes certificate and key as PEM files; returns their paths.
    pub(crate) fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, self.inner.cert.pem()).unwrap();
        std::fs::write(&key, self.inner.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.inner.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.inner.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    http2: AtomicUsize,
    requests: AtomicUsize,
    last: Mutex<Bytes>,
}

/// A provider behind TLS. Each answer is a chat completion, a moment after its request.
pub(crate) struct TlsUpstream {
    address: SocketAddr,
    counts: Arc<Counts>,
}

impl TlsUpstream {
    pub(crate) fn start(certificate: &Certificate) -> Self {
        let acceptor = certificate.acceptor();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        world().spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, counts) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // A client that does not trust the certificate goes away here.
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    counts.connections.fetch_add(1, Ordering::SeqCst);
                    let service = service_fn(move |request| answer(Arc::clone(&counts), request));
                    let http = auto::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, counts }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("https://{}/v1", self.address)
    }

    /// Connections that got through the TLS handshake.
    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The body of the request that came last.
    pub(crate) fn last_body(&self) -> Bytes {
        self.counts.last.lock().unwrap().clone()
    }

    /// Requests that came by HTTP/2.
    pub(crate) fn http2_requests(&self) -> usize {
        self.counts.http2.load(Ordering::SeqCst)
    }
}

async fn answer(
    counts: Arc<Counts>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    counts.requests.fetch_add(1, Ordering::SeqCst);
    if request.version() == hyper::Version::HTTP_2 {
        counts.http2.fetch_add(1, Ordering::SeqCst);
    }
    if let Ok(body) = request.into_body().collect().await {
        *counts.last.lock().unwrap() = body.to_bytes();
    }
    // Long enough for calls to overlap.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let answer = Response::builder().header("content-type", "application/json");
    Ok(answer.body(Full::from(CHAT)).unwrap())
}

/// A gateway behind TLS before a provider, and a client that trusts it.
pub(crate) fn gateway(upstream: &Upstream) -> (Builder, TempDir, reqwest::ClientBuilder) {
    let certificate = Certificate::new();
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate.write(folder.path());
    let tls = format!("tls: {{ certificate: {}, key: {} }}", chain.display(), key.display());
    let root = reqwest::Certificate::from_der(certificate.inner.cert.der()).unwrap();
    let client = super::http::client().add_root_certificate(root).no_proxy();
    (Gateway::builder(upstream).config(&tls), folder, client)
}
