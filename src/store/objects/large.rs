//! Objects that are too large for memory: sent in parts from a file, read as a stream, and not sent
//! again where they are already.

use std::fs::File;
use std::io::Read as _;
use std::io::Seek as _;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use object_store::MultipartUpload;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::ObjectError;
use super::Objects;
use super::PATIENCE;
use super::is_no_object;
use super::key;
use super::patience;

/// Bytes of one part; S3 takes at least 5 MiB and at most 10,000 of them: 156 GiB.
const PART: usize = 16 << 20;

impl Objects {
    /// The size of an object in bytes; `None` where there is none.
    ///
    /// # Errors
    /// The key is refused, or the store does not answer.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        let path = key::parse(key)?;
        match self.within(PATIENCE, self.store.head(&path)).await? {
            Ok(found) => Ok(Some(found.size)),
            Err(error) if is_no_object(&error) => Ok(None),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// Writes a file of `len` bytes under a key that says what is in it; false where an object of
    /// that key and size is there already. Reads the file where it is called: it must be allowed to
    /// wait there.
    ///
    /// # Errors
    /// The key is refused, the file cannot be read, or the store does not take the object.
    pub async fn put_file(
        &self,
        key: &str,
        file: &mut File,
        len: u64,
    ) -> Result<bool, ObjectError> {
        if self.size(key).await? == Some(len) {
            return Ok(false);
        }
        let unread = |error: std::io::Error| self.failed(&error.to_string());
        file.rewind().map_err(unread)?;
        let parts = std::iter::from_fn(|| {
            let mut part = Vec::with_capacity(PART);
            let most = u64::try_from(PART).unwrap_or(u64::MAX);
            match file.by_ref().take(most).read_to_end(&mut part) {
                Ok(0) => None,
                Ok(_) => Some(Ok(Bytes::from(part))),
                Err(error) => Some(Err(unread(error))),
            }
        });
        self.put_parts(key, futures_util::stream::iter(parts)).await?;
        Ok(true)
    }

    /// Copies an object of `len` bytes to another store; false where it is there already.
    ///
    /// # Errors
    /// Either store does not answer, or the object is gone.
    pub async fn copy_to(&self, to: &Self, key: &str, len: u64) -> Result<bool, ObjectError> {
        if to.size(key).await? == Some(len) {
            return Ok(false);
        }
        let stream = self.read(key).await?;
        let stream = stream.ok_or_else(|| self.failed(&format!("`{key}` is not there")))?;
        to.put_parts(key, stream).await?;
        Ok(true)
    }

    /// Reads an object piece by piece; `None` where there is none.
    ///
    /// # Errors
    /// The key is refused, or the store does not answer.
    pub async fn read(
        &self,
        key: &str,
    ) -> Result<
        Option<impl Stream<Item = Result<Bytes, ObjectError>> + Send + Unpin + use<>>,
        ObjectError,
    > {
        let path = key::parse(key)?;
        let found = match self.within(PATIENCE, self.store.get(&path)).await? {
            Ok(found) => found,
            Err(error) if is_no_object(&error) => return Ok(None),
            Err(error) => return Err(self.unavailable(&error)),
        };
        let objects = self.clone();
        let pieces = found.into_stream().map_err(move |error| objects.unavailable(&error));
        Ok(Some(pieces))
    }

    /// Sends parts of some size as one object: small ones are put together, and one part alone is
    /// put as a whole.
    async fn put_parts(
        &self,
        key: &str,
        mut pieces: impl Stream<Item = Result<Bytes, ObjectError>> + Unpin,
    ) -> Result<(), ObjectError> {
        let path = key::parse(key)?;
        let mut part = Vec::new();
        let mut upload = None;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if part.len() + piece.len() > PART && !part.is_empty() {
                let full = std::mem::take(&mut part);
                self.send(&path, &mut upload, full).await?;
            }
            part.extend_from_slice(&piece);
        }
        if upload.is_none() {
            return self.put(key, part).await;
        }
        self.send(&path, &mut upload, part).await?;
        let Some(mut upload) = upload else { return Ok(()) };
        let done = self.within(PATIENCE, upload.complete()).await?;
        done.map(drop).map_err(|error| self.unavailable(&error))
    }

    async fn send(
        &self,
        path: &Path,
        upload: &mut Option<Box<dyn MultipartUpload>>,
        part: Vec<u8>,
    ) -> Result<(), ObjectError> {
        if upload.is_none() {
            let begun = self.within(PATIENCE, self.store.put_multipart(path)).await?;
            *upload = Some(begun.map_err(|error| self.unavailable(&error))?);
        }
        let Some(open) = upload else { return Ok(()) };
        let sent = self.within(patience(part.len()), open.put_part(part.into())).await?;
        if let Err(error) = sent {
            // Parts of an object that never comes to be would be paid for.
            let _ = self.within(PATIENCE, open.abort()).await;
            return Err(self.unavailable(&error));
        }
        Ok(())
    }

    fn failed(&self, reason: &str) -> ObjectError {
        ObjectError::Unavailable { store: self.to_string(), reason: reason.to_owned() }
    }
}
