//! The data plane's certificate, read again while the process runs.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::listeners::tls::TlsSettings;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use crate::background;

use super::StartError;

/// How often the files are looked at. They are renewed days before they end.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// A certificate chain with its key, from PEM files. New connections get what the files held when
/// they could last be used.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    in_force: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// [`StartError::Tls`]: a file cannot be read or is not PEM, or the key is another certificate's.
    pub fn read(chain: PathBuf, key: PathBuf) -> Result<Self, StartError> {
        match read(&chain, &key) {
            Ok(certified) => Ok(Self { chain, key, in_force: ArcSwap::from_pointee(certified) }),
            Err(reason) => Err(unusable(&chain, &key, reason)),
        }
    }

    /// What the engine takes: it asks for the certificate at each connection.
    pub(super) fn settings(self: &Arc<Self>) -> Result<TlsSettings, StartError> {
        // Files are not looked at where something else hands out certificates.
        let mut settings = TlsSettings::intermediate("", "")
            .map_err(|error| unusable(&self.chain, &self.key, error.to_string()))?;
        settings.set_cert_resolver(Arc::clone(self) as _);
        settings.enable_h2();
        Ok(settings)
    }

    /// Looks at the files every minute, and when `hangups` come.
    pub async fn keep_fresh(self: Arc<Self>, mut hangups: Option<Signal>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = next(&mut hangups) => {}
            }
            let looked = background::note(self.look());
            if let Err(reason) = looked {
                let (chain, key) = (self.chain.display(), self.key.display());
                tracing::error!(%chain, %key, "the TLS certificate cannot be used, the one before it stays in force: {reason}");
            }
        }
    }

    /// Puts what is in the files into force, where it is another certificate.
    fn look(&self) -> Result<(), String> {
        let found = read(&self.chain, &self.key)?;
        if found.cert != self.in_force.load().cert {
            self.in_force.store(Arc::new(found));
            tracing::info!(chain = %self.chain.display(), "new TLS certificate in force");
        }
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.in_force.load_full())
    }
}

fn unusable(chain: &Path, key: &Path, reason: String) -> StartError {
    let (certificate, key) = (chain.display().to_string(), key.display().to_string());
    StartError::Tls { certificate, key, reason }
}

async fn next(hangups: &mut Option<Signal>) {
    let hung_up = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if hung_up.is_none() {
        std::future::pending::<()>().await;
    }
}

fn read(chain: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| {
            format!("{}: {error}; it must hold certificates in PEM form", chain.display())
        })?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        format!("{}: {error}; it must hold a private key in PEM form", key.display())
    })?;
    if certificates.is_empty() {
        return Err(format!("{}: there is no certificate in it", chain.display()));
    }
    CertifiedKey::from_der(certificates, private, &rustls::crypto::ring::default_provider())
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("{} is not the key of {}", key.display(), chain.display())
            }
            other => other.to_string(),
        })
}
