//! The object store: what is too large for a row of the database. A folder, or a bucket of anything
//! that speaks S3, behind the same five calls.

mod key;
mod large;
mod setting;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use object_store::Error;
use object_store::ObjectStore;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use thiserror::Error;

pub use setting::Credentials;

/// Longest wait for a sign of life; a server that hangs must not hold anybody longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The slowest way to the store that is worth waiting for: this many bytes a second beyond that.
const SLOWEST: usize = 1 << 20;
/// In characters.
const LONGEST_REASON: usize = 600;
/// What S3 and its relatives say of credentials.
const REFUSALS: [&str; 6] = [
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
];

/// Where objects are kept. Prints without credentials.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The place as people know it.
    name: String,
}

/// Why the object store did not do what it was asked.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// It cannot be reached, is full, or refuses us; later may help.
    #[error("the object store {store} is not available: {reason}")]
    Unavailable {
        /// The folder or bucket, without credentials.
        store: String,
        /// What it said.
        reason: String,
    },
    /// The key could lead out of the store, or not every store can keep it; later does not help.
    #[error("`{key}` cannot be the key of an object: {reason}")]
    BadKey {
        /// The key, with what cannot be printed escaped.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Objects {
    /// Reads the setting `objects`. Touches neither folder nor bucket: the first write makes the
    /// folder, and a bucket has to be there.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write.
    pub fn parse(setting: &str, credentials: &Credentials) -> Result<Self, String> {
        let (store, name) = setting::open(setting, credentials)?;
        Ok(Self { store, name })
    }

    /// Writes a whole object under a key such as `interactions/2026/11/23/<id>.zst`; the same key
    /// again replaces it. Once this returns the object is on disk, and no reader ever sees half of it.
    /// Where there is `a`, no folder keeps `a/b`; a bucket would.
    ///
    /// # Errors
    /// The key is refused, or the store does not take the object.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), ObjectError> {
        let path = key::parse(key)?;
        let patience = patience(bytes.len());
        let put = self.store.put(&path, bytes.into());
        self.within(patience, put).await?.map(drop).map_err(|error| self.unavailable(&error))
    }

    /// Reads a whole object; `None` where there is none.
    ///
    /// # Errors
    /// The key is refused, or the store does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ObjectError> {
        let path = key::parse(key)?;
        let found = match self.within(PATIENCE, self.store.get(&path)).await? {
            Ok(found) => found,
            Err(error) if is_no_object(&error) => return Ok(None),
            Err(error) => return Err(self.unavailable(&error)),
        };
        let patience = patience(usize::try_from(found.meta.size).unwrap_or(usize::MAX));
        let bytes = self.within(patience, found.bytes()).await?;
        bytes.map(|bytes| Some(bytes.into())).map_err(|error| self.unavailable(&error))
    }

    /// Removes an object; one that is gone already is fine.
    ///
    /// # Errors
    /// The key is refused, or the store does not remove the object.
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let path = key::parse(key)?;
        match self.within(PATIENCE, self.store.delete(&path)).await? {
            Err(error) if !is_no_object(&error) => Err(self.unavailable(&error)),
            _ => Ok(()),
        }
    }

    /// All keys below a prefix such as `interactions/2026`, in the order of their bytes. A prefix
    /// ends where a part of the key ends; the empty one is for all keys.
    ///
    /// # Errors
    /// The prefix is refused, or the store does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        let prefix = match prefix {
            "" => Path::default(),
            prefix => key::parse(prefix.strip_suffix('/').unwrap_or(prefix))?,
        };
        let mut listing = self.store.list(Some(&prefix));
        let mut keys = Vec::new();
        loop {
            match self.within(PATIENCE, listing.try_next()).await? {
                Ok(Some(found)) => keys.push(found.location.into()),
                Ok(None) => break,
                Err(error) => return Err(self.unavailable(&error)),
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Waits at most so long: neither a server nor a network disk promises ever to answer.
    async fn within<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, ObjectError> {
        tokio::time::timeout(patience, answer).await.map_err(|_| ObjectError::Unavailable {
            store: self.to_string(),
            reason: format!("no answer within {} s", patience.as_secs()),
        })
    }

    fn unavailable(&self, error: &Error) -> ObjectError {
        ObjectError::Unavailable { store: self.to_string(), reason: reason(error) }
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.name).finish()
    }
}

fn patience(bytes: usize) -> Duration {
    PATIENCE + Duration::from_secs(u64::try_from(bytes / SLOWEST).unwrap_or(u64::MAX))
}

/// Whether the store is there and the object is not. S3 says 404 of a missing bucket, too.
fn is_no_object(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && s3_code(&error.to_string()) != Some("NoSuchBucket")
}

/// What went wrong, and the cure where S3's code tells.
fn reason(error: &Error) -> String {
    let text = whole_text(error);
    match s3_code(&text) {
        Some("NoSuchBucket") => {
            "there is no such bucket; create it, or correct the setting `objects`".to_owned()
        }
        Some(code) if REFUSALS.contains(&code) => format!(
            "it refuses the credentials ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
             the region, and what this key may do with the bucket"
        ),
        _ => text,
    }
}

/// The error's own text, and its first cause where that is not in it, on one line. A server may say
/// anything at any length, such as a page of a proxy's.
fn whole_text(error: &Error) -> String {
    let text = match error {
        Error::Generic { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let cause = cause.to_string();
    let text = if text.contains(&cause) { text } else { format!("{text}: {cause}") };
    text.chars().take(LONGEST_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The `<Code>` of an error document of S3.
fn s3_code(text: &str) -> Option<&str> {
    Some(text.split_once("<Code>")?.1.split_once("</Code>")?.0)
}
