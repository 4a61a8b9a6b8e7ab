//! End users, told apart and never named: a keyed hash of what the platform calls them.

use std::fmt;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;
use ring::hmac;
use ring::rand::SecureRandom as _;
use ring::rand::SystemRandom;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Serialize;

/// Bytes of the hash that are kept: 144 bits, 24 letters.
const KEPT: usize = 18;

/// An end user's name as a keyed hash: the same name gives the same hash as long as the key stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserHash(String);

impl fmt::Display for UserHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells callers apart by keys of their own, of which nothing is kept.
#[derive(Debug)]
pub struct Fingerprinter {
    hasher: Hasher,
    /// Names of those who called lately, by another keyed hash: the one of the names costs as much as a
    /// tenth of what the gateway computes for a small request. 128 bits with keys that nobody knows
    /// mistake no caller for another.
    lately: Cache<(u64, u64), Arc<str>>,
    keys: [RandomState; 2],
}

/// Callers whose names are at hand.
const LATELY: usize = 4096;

impl Fingerprinter {
    /// With this secret, or that of the file beside the spool; without either, fingerprints are of
    /// this process alone.
    pub fn new(secret: Option<&SecretString>, spool: Option<&Path>) -> Self {
        let hasher = match (secret, spool) {
            (Some(secret), _) => Hasher::with(secret),
            // What is wrong with the file, the recorder tells.
            (None, Some(spool)) => Hasher::with_file(&key_file(spool)).0,
            (None, None) => Hasher::of_the_moment(),
        };
        let keys = [RandomState::new(), RandomState::new()];
        Self { hasher, lately: Cache::new(LATELY), keys }
    }

    /// The name of a caller with this key: `fp_` and 64 bits of a keyed hash.
    pub fn of(&self, key: &[u8]) -> Arc<str> {
        let [first, second] = &self.keys;
        let place = (first.hash_one(key), second.hash_one(key));
        if let Some(name) = self.lately.get(&place) {
            return name;
        }
        let name = self.name(key);
        self.lately.insert(place, Arc::clone(&name));
        name
    }

    fn name(&self, key: &[u8]) -> Arc<str> {
        let mut context = hmac::Context::with_key(&self.hasher.0);
        // No user is called so.
        context.update(b"key\0");
        context.update(key);
        let mut name = String::with_capacity(19);
        name.push_str("fp_");
        for byte in context.sign().as_ref().iter().take(8) {
            // Writing to a text cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name.into()
    }
}

/// Hashes end users' names.
#[derive(Debug)]
pub(super) struct Hasher(hmac::Key);

impl Hasher {
    /// A hasher with this secret.
    pub(super) fn with(secret: &SecretString) -> Self {
        Self::of_bytes(secret.expose_secret().as_bytes())
    }

    /// A hasher with the secret of a file that only its owner can read; made where there is none.
    /// When that fails there is one with a secret of the moment, beside the error.
    pub(super) fn with_file(path: &Path) -> (Self, io::Result<()>) {
        match read_or_make(path) {
            Ok(secret) => (Self::of_bytes(&secret), Ok(())),
            Err(error) => (Self::of_the_moment(), Err(error)),
        }
    }

    /// A hasher whose secret nobody keeps.
    fn of_the_moment() -> Self {
        let mut secret = [0; 32];
        // Without randomness the hash is of no use, and the ledger still is.
        let _ = SystemRandom::new().fill(&mut secret);
        Self::of_bytes(&secret)
    }

    fn of_bytes(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    pub(super) fn hash(&self, user: &str) -> UserHash {
        let tag = hmac::sign(&self.0, user.as_bytes());
        UserHash(URL_SAFE_NO_PAD.encode(tag.as_ref().get(..KEPT).unwrap_or_default()))
    }
}

/// Where the secret lies when it is in no setting: beside the spool.
pub(super) fn key_file(spool: &Path) -> PathBuf {
    spool.parent().unwrap_or(spool).join("user.key")
}

/// An end user's name as gateways with this spool, or with this secret, keep it.
///
/// # Errors
/// There is no secret to be read.
pub fn hash_user(user: &str, spool: &Path, secret: Option<&SecretString>) -> io::Result<UserHash> {
    let hasher = match secret {
        Some(secret) => Hasher::with(secret),
        // A new one would give a hash that nobody has.
        None => Hasher::of_bytes(&read(&key_file(spool))?),
    };
    Ok(hasher.hash(user))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let secret = std::fs::read(path)?;
    if secret.len() < 32 {
        return Err(io::Error::other("it holds fewer than 32 bytes"));
    }
    Ok(secret)
}

fn read_or_make(path: &Path) -> io::Result<Vec<u8>> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| io::Error::other("no randomness"))?;
    let text = URL_SAFE_NO_PAD.encode(secret);
    // Written aside and linked: whoever starts at the same time sees all of it or nothing, and the
    // first one's secret stays.
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&aside, path);
    std::fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::read(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_same_name_has_the_same_hash_after_a_restart_and_another_with_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/user.key");
        let (first, made) = Hasher::with_file(&path);
        made.unwrap();
        let (again, read) = Hasher::with_file(&path);
        read.unwrap();
        assert_eq!(first.hash("ada@example.com"), again.hash("ada@example.com"));
        assert_ne!(first.hash("ada@example.com"), first.hash("bob@example.com"));
        let other = Hasher::with(&"another secret".to_owned().into());
        assert_ne!(first.hash("ada@example.com"), other.hash("ada@example.com"));
        assert_eq!(first.hash("ada").0.len(), 24);
    }

    #[test]
    fn a_caller_has_the_same_name_each_time_and_nobody_elses() {
        let secret = "a secret".to_owned().into();
        let [one, other] = [(); 2].map(|()| Fingerprinter::new(Some(&secret), None));
        let names: Vec<_> = (0..10_000).map(|n| one.of(format!("sk-{n}").as_bytes())).collect();
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        // The last are at hand, the first are not any more.
        for n in [0, 9_999] {
            assert_eq!(one.of(format!("sk-{n}").as_bytes()), names[n]);
            assert_eq!(other.of(format!("sk-{n}").as_bytes()), names[n]);
        }
    }

    #[test]
    fn only_its_owner_reads_the_secret_and_nothing_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user.key");
        Hasher::with_file(&path).1.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user.key");
        std::fs::write(&path, "short").unwrap();
        assert!(Hasher::with_file(&path).1.is_err());
    }
}
