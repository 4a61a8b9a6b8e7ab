//! Brings a training file from the object store to the trainer: whole, or in parts when it is large.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::Stream;
use futures_util::StreamExt as _;
use http::Method;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use serde_json::Value;
use serde_json::json;

use crate::store::ObjectError;
use crate::upstream::OutBody;

use super::trainer::Trainer;
use super::trainer::TrainerError;

/// Files larger than this go in parts: Azure loses larger ones without a word (its own notes, 2026).
const LARGE: u64 = 100 << 20;
/// Bytes of a part; OpenAI takes at most 64 MiB.
const PART: usize = 32 << 20;
/// Separates the parts of a form; a line of JSON cannot begin like this.
const BOUNDARY: &str = "weir-7f9c2ba4e88f827d616045507605853e";

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, ObjectError>> + Send>>;

impl Trainer {
    /// Uploads `len` bytes under a name; returns the file's id.
    ///
    /// # Errors
    /// The trainer, or the object store, which counts as not sent.
    pub async fn upload(
        &self,
        name: &str,
        len: u64,
        pieces: impl Stream<Item = Result<Bytes, ObjectError>> + Send + 'static,
    ) -> Result<String, TrainerError> {
        self.upload_by(name, len, Box::pin(pieces), LARGE, PART).await
    }

    async fn upload_by(
        &self,
        name: &str,
        len: u64,
        pieces: Pieces,
        large: u64,
        part: usize,
    ) -> Result<String, TrainerError> {
        if len > large {
            return self.in_parts(name, len, pieces, part).await;
        }
        let purpose = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n"
        );
        let form = Form::new(purpose, "file", name, len, pieces);
        id(&self.send(Method::POST, "/files", &kind(), OutBody::stream(form)).await?)
    }

    async fn in_parts(
        &self,
        name: &str,
        len: u64,
        mut pieces: Pieces,
        size: usize,
    ) -> Result<String, TrainerError> {
        let asked = json!({
            "filename": name, "purpose": "fine-tune", "bytes": len, "mime_type": "text/jsonl",
        });
        let upload = id(&self.ask(Method::POST, "/uploads", Some(&asked)).await?)?;
        let (mut held, mut parts) = (BytesMut::new(), Vec::new());
        let mut ended = false;
        while !ended {
            match pieces.next().await {
                Some(piece) => held.extend_from_slice(&piece.map_err(unread)?),
                None => ended = true,
            }
            while held.len() >= size || (ended && !held.is_empty()) {
                let part = held.split_to(size.min(held.len())).freeze();
                parts.push(self.part(&upload, name, part).await?);
            }
        }
        let done = json!({ "part_ids": parts });
        let done =
            self.ask(Method::POST, &format!("/uploads/{upload}/complete"), Some(&done)).await?;
        id(done.get("file").unwrap_or(&Value::Null))
    }

    async fn part(&self, upload: &str, name: &str, part: Bytes) -> Result<String, TrainerError> {
        let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
        let piece: Pieces = Box::pin(futures_util::stream::iter([Ok(part)]));
        let form = Form::new(String::new(), "data", name, len, piece);
        let path = format!("/uploads/{upload}/parts");
        id(&self.send(Method::POST, &path, &kind(), OutBody::stream(form)).await?)
    }
}

fn kind() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

fn id(of: &Value) -> Result<String, TrainerError> {
    let id = of.get("id").and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| TrainerError::Unknown("an answer without an id".to_owned()))
}

fn unread(error: ObjectError) -> TrainerError {
    TrainerError::Unsent(error.to_string())
}

/// A form whose last field is a file of known length: servers want to know how much is to come.
struct Form {
    head: Option<Bytes>,
    pieces: Pieces,
    tail: Option<Bytes>,
    left: u64,
}

impl Form {
    fn new(before: String, field: &str, name: &str, len: u64, pieces: Pieces) -> Self {
        let head = format!(
            "{before}--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{field}\"; \
             filename=\"{name}\"\r\ncontent-type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{BOUNDARY}--\r\n");
        let frame = u64::try_from(head.len() + tail.len()).unwrap_or(u64::MAX);
        Self { head: Some(head.into()), pieces, tail: Some(tail.into()), left: frame + len }
    }
}

impl Body for Form {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = match self.head.take() {
            Some(head) => Poll::Ready(Some(Ok(head))),
            None => self.pieces.as_mut().poll_next(cx),
        };
        let bytes = match next {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(bytes))) => bytes,
            Poll::Ready(None) => match self.tail.take() {
                Some(tail) => tail,
                None => return Poll::Ready(None),
            },
        };
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(len);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use crate::policy::Policy;
    use crate::policy::Settings;
    use crate::simulator::Knobs;
    use crate::simulator::Simulator;
    use crate::training::provider::Profile;
    use crate::training::trainer::Place;
    use crate::upstream::Upstreams;

    async fn trainer() -> Trainer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let simulator = Simulator::new(Knobs::default());
        tokio::spawn(simulator.serve(listener, std::future::pending()));
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy::load(folder.path(), &Settings::default()).unwrap();
        let upstreams = Arc::new(Upstreams::new(&policy).unwrap());
        let profile = Profile::named("openai").unwrap();
        let (name, webhook_secret) = ("openai".to_owned(), "".into());
        let place = Place { name, profile, base_url, has_key: true, webhook_secret };
        Trainer::new(place, &"sk-simulator".into(), upstreams).unwrap()
    }

    #[tokio::test]
    async fn a_file_arrives_as_it_is_whole_or_in_parts() {
        let trainer = trainer().await;
        let json = json!((0..500).collect::<Vec<u32>>());
        let text = json.to_string();
        let len = u64::try_from(text.len()).unwrap();
        // Parts of 300 bytes, which are not those that it is read in; or none at all.
        for (large, part) in [(100, 300), (u64::MAX, 1)] {
            let pieces: Vec<_> =
                text.as_bytes().chunks(77).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let pieces = Box::pin(futures_util::stream::iter(pieces));
            let id = trainer.upload_by("x.jsonl", len, pieces, large, part).await.unwrap();
            let path = format!("/files/{id}/content");
            assert_eq!(trainer.ask(Method::GET, &path, None).await.unwrap(), json);
        }
        assert!(trainer.file_named("x.jsonl").await.unwrap().is_some());
    }
}
