//! `/v1/files`: upload, list, read, download, delete.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{Multipart, Path, Query, State};
use axum::http::Response;
use bytes::{Bytes, BytesMut};
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use crate::simulator::call::Call;
use crate::simulator::pages::{Listing, find, page};
use crate::simulator::refusal::Refusal;
use crate::simulator::world::{World, locked, now};

/// Content kept of all files together, in bytes. Of files beyond it only size and digest are known.
const KEPT_BYTES: usize = 64 * 1024 * 1024;
/// Largest file or upload part (OpenAI: 512 MB).
const MAX_FILE: usize = 512 * 1024 * 1024;

const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// A file as the Files API knows it.
#[derive(Clone, Debug)]
pub(super) struct StoredFile {
    pub(super) id: String,
    pub(super) filename: String,
    pub(super) purpose: String,
    pub(super) created_at: u64,
    pub(super) content: Content,
}

/// What arrived. `kept` is absent for content that found no room.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) size_bytes: u64,
    sha256: String,
    pub(super) kept: Option<Bytes>,
}

impl StoredFile {
    pub(super) fn to_value(&self) -> Value {
        json!({
            "id": self.id, "object": "file", "bytes": self.content.size_bytes,
            "created_at": self.created_at, "expires_at": null, "filename": self.filename,
            "purpose": self.purpose, "status": "processed", "status_details": null,
        })
    }
}

impl Content {
    /// Content made here, not uploaded.
    pub(super) fn of(bytes: Bytes) -> Self {
        let mut digest = Context::new(&SHA256);
        digest.update(&bytes);
        let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self { size_bytes, sha256: hex(digest), kept: Some(bytes) }
    }

    /// Content of which only the size is known.
    pub(super) fn unkept(size_bytes: u64) -> Self {
        Self { size_bytes, ..Self::default() }
    }

    /// Reads a multipart field: hashed as it comes, kept while it is not over `room` bytes.
    pub(super) async fn read(field: &mut Field<'_>, room: usize) -> Result<Self, Refusal> {
        let mut digest = Context::new(&SHA256);
        let (mut size, mut kept) = (0, Some(BytesMut::new()));
        while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
            digest.update(&chunk);
            size += chunk.len();
            if size > MAX_FILE {
                return Err(Refusal::new(413, "File is too large: the most is 512 MB."));
            }
            if size > room {
                kept = None;
            }
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&chunk);
            }
        }
        let size_bytes = u64::try_from(size).unwrap_or(u64::MAX);
        Ok(Self { size_bytes, sha256: hex(digest), kept: kept.map(BytesMut::freeze) })
    }

    /// Bytes that this occupies.
    pub(super) fn held(&self) -> usize {
        self.kept.as_ref().map_or(0, Bytes::len)
    }
}

fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A multipart body that cannot be read.
pub(super) fn broken(error: &MultipartError) -> Refusal {
    Refusal::bad(format!("Could not parse multipart form: {}", error.body_text()))
}

/// How many more bytes of content may be kept.
pub(super) fn room(world: &World) -> usize {
    let held = locked(&world.files).bytes() + locked(&world.uploads).bytes();
    KEPT_BYTES.saturating_sub(held)
}

/// Puts a new file on the shelf.
pub(super) fn add(world: &World, filename: &str, purpose: &str, content: Content) -> StoredFile {
    let (filename, purpose) = (filename.to_owned(), purpose.to_owned());
    let file = StoredFile { id: world.id("file-"), filename, purpose, created_at: now(), content };
    locked(&world.files).put(&file.id, file.content.held(), file.clone());
    file
}

/// Refuses a purpose that does not exist, and a training file that is not named `.jsonl`.
pub(super) fn check_purpose(purpose: &str, filename: &str) -> Result<(), Refusal> {
    if !PURPOSES.contains(&purpose) {
        let message = format!("'{purpose}' is not one of {PURPOSES:?} - 'purpose'");
        return Err(Refusal::bad(message.replace('"', "'")).param("purpose"));
    }
    if matches!(purpose, "fine-tune" | "batch") && !filename.ends_with(".jsonl") {
        let api = if purpose == "batch" { "Batch" } else { "Fine-Tuning" };
        let message = format!("Invalid file format for {api} API. Must be .jsonl");
        return Err(Refusal::bad(message).param("file"));
    }
    Ok(())
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    call: Call,
    form: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<Response<Body>, Refusal> {
    let mut form = form.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let (mut purpose, mut file) = (None, None);
    while let Some(mut field) = form.next_field().await.map_err(|error| broken(&error))? {
        match field.name() {
            Some("purpose") => {
                purpose = Some(field.text().await.map_err(|error| broken(&error))?);
            }
            Some("file") => {
                let name = field.file_name().unwrap_or("file").to_owned();
                file = Some((name, Content::read(&mut field, room(&world)).await?));
            }
            _ => {}
        }
    }
    let (name, content) = file.ok_or_else(|| Refusal::missing("file"))?;
    let purpose = purpose.ok_or_else(|| Refusal::missing("purpose"))?;
    check_purpose(&purpose, &name)?;
    Ok(call.json(add(&world, &name, &purpose, content).to_value()))
}

pub(super) async fn list(
    State(world): State<Arc<World>>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let purpose = find(&query, "purpose");
    let wanted = |file: &&StoredFile| purpose.is_none_or(|purpose| file.purpose == purpose);
    let files = locked(&world.files).iter().filter(wanted).map(StoredFile::to_value).collect();
    Ok(call.json(page(files, &Listing::of(&query, 10_000)?)?))
}

/// A file by id.
pub(super) fn stored(world: &World, id: &str) -> Result<StoredFile, Refusal> {
    let file = locked(&world.files).find(id).cloned();
    file.ok_or_else(|| Refusal::no_such("File", id))
}

pub(super) async fn read(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    Ok(call.json(stored(&world, &id)?.to_value()))
}

pub(super) async fn content(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let content = stored(&world, &id)?.content;
    let kept = content.kept.ok_or_else(|| {
        let digest = content.sha256;
        let message = format!("The simulator keeps no content of {id}, only sha256 {digest}.");
        Refusal::new(404, message)
    })?;
    Ok(call.bytes("application/octet-stream", kept))
}

pub(super) async fn delete(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    locked(&world.files).take(&id).ok_or_else(|| Refusal::no_such("File", &id))?;
    Ok(call.json(json!({"id": id, "object": "file", "deleted": true})))
}
