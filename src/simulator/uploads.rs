//! `/v1/uploads`: a large file in parts, put together at the end.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Multipart, Path, State};
use axum::http::Response;
use bytes::BytesMut;
use serde_json::{Value, json};

use crate::simulator::call::{Call, JsonCall};
use crate::simulator::files::{Content, add, broken, check_purpose, room};
use crate::simulator::refusal::Refusal;
use crate::simulator::validate;
use crate::simulator::world::{World, locked, now};

/// Largest upload as a whole: 8 GiB.
const MAX_UPLOAD: i64 = 8 << 30;
/// An upload can be completed for an hour.
const OPEN_FOR_S: u64 = 3600;

/// A file that comes in parts.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    id: String,
    filename: String,
    purpose: String,
    bytes: u64,
    created_at: u64,
    status: &'static str,
    parts: Vec<(String, Content)>,
    file: Option<Value>,
}

impl Upload {
    fn to_value(&self) -> Value {
        json!({
            "id": self.id, "object": "upload", "bytes": self.bytes, "created_at": self.created_at,
            "expires_at": self.created_at + OPEN_FOR_S, "filename": self.filename,
            "purpose": self.purpose, "status": self.status, "file": self.file,
        })
    }

    fn held(&self) -> usize {
        self.parts.iter().map(|(_, content)| content.held()).sum()
    }

    fn open(&self) -> Result<(), Refusal> {
        if self.status == "pending" {
            return Ok(());
        }
        let message = format!("Upload {} is {}, not pending.", self.id, self.status);
        Err(Refusal::bad(message).param("upload_id"))
    }

    /// The named parts in the named order, as one content. Not kept if a part was not.
    fn assembled(&self, part_ids: &[&str]) -> Result<Content, Refusal> {
        let mut whole = Some(BytesMut::new());
        let mut size = 0;
        for id in part_ids {
            let part = self.parts.iter().find(|(part, _)| part == id);
            let (_, content) = part.ok_or_else(|| Refusal::no_such("Part", id))?;
            size += content.size_bytes;
            match (&mut whole, &content.kept) {
                (Some(whole), Some(bytes)) => whole.extend_from_slice(bytes),
                _ => whole = None,
            }
        }
        if size != self.bytes {
            let message = format!(
                "The number of bytes uploaded ({size}) does not match the number of bytes of the \
                 upload ({}).",
                self.bytes
            );
            return Err(Refusal::bad(message).param("bytes"));
        }
        let content = whole.map(|whole| Content::of(whole.freeze()));
        Ok(content.unwrap_or_else(|| Content::unkept(size)))
    }
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let (filename, purpose) =
        (validate::text(&object, "filename")?, validate::text(&object, "purpose")?);
    validate::text(&object, "mime_type")?;
    check_purpose(purpose, filename)?;
    let bytes = validate::integer(&object, "bytes", 1, MAX_UPLOAD)?;
    let upload = Upload {
        id: world.id("upload_"),
        filename: filename.to_owned(),
        purpose: purpose.to_owned(),
        bytes: bytes.ok_or_else(|| Refusal::missing("bytes"))?,
        created_at: now(),
        status: "pending",
        parts: Vec::new(),
        file: None,
    };
    let value = upload.to_value();
    locked(&world.uploads).put(upload.id.clone(), 0, upload);
    Ok(request.call.json(value))
}

/// Changes an upload that must be pending. Its weight on the shelf is counted anew.
fn change(
    world: &World,
    id: &str,
    change: impl FnOnce(&mut Upload) -> Result<(), Refusal>,
) -> Result<Upload, Refusal> {
    let mut uploads = locked(&world.uploads);
    let upload = uploads.find(id).cloned();
    let mut upload = upload.ok_or_else(|| Refusal::no_such("Upload", id))?;
    upload.open()?;
    change(&mut upload)?;
    uploads.put(id, upload.held(), upload.clone());
    Ok(upload)
}

pub(super) async fn add_part(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response<Body>, Refusal> {
    let mut form = form.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let mut content = None;
    while let Some(mut field) = form.next_field().await.map_err(|error| broken(&error))? {
        if field.name() == Some("data") {
            content = Some(Content::read(&mut field, room(&world)).await?);
        }
    }
    let content = content.ok_or_else(|| Refusal::missing("data"))?;
    let part = world.id("part_");
    change(&world, &id, |upload| {
        upload.parts.push((part.clone(), content));
        Ok(())
    })?;
    Ok(call.json(json!({
        "id": part, "object": "upload.part", "created_at": now(), "upload_id": id,
    })))
}

pub(super) async fn complete(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let ids = object.get("part_ids").and_then(Value::as_array);
    let ids = ids.ok_or_else(|| Refusal::missing("part_ids"))?;
    let ids: Vec<&str> = ids.iter().filter_map(Value::as_str).collect();
    let mut content = Content::default();
    let upload = change(&world, &id, |upload| {
        content = upload.assembled(&ids)?;
        upload.status = "completed";
        upload.parts.clear();
        Ok(())
    })?;
    let file = add(&world, &upload.filename, &upload.purpose, content).to_value();
    if let Some(upload) = locked(&world.uploads).find_mut(&id) {
        upload.file = Some(file.clone());
    }
    Ok(request.call.json(Upload { file: Some(file), ..upload }.to_value()))
}

pub(super) async fn cancel(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let upload = change(&world, &id, |upload| {
        upload.status = "cancelled";
        upload.parts.clear();
        Ok(())
    })?;
    Ok(call.json(upload.to_value()))
}
