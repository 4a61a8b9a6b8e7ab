//! A stream's events put together to the answer that the same request would have had without
//! streaming.

mod chunks;
mod fields;
mod responses;

use crate::openai::endpoint::Endpoint;
use crate::openai::fold::chunks::Chunks;
use crate::openai::fold::fields::Tally;
use crate::openai::fold::responses::Responses;

/// Most bytes that a folded answer may take: 32 MiB.
pub const MAX_FOLDED_BYTES: usize = 32 << 20;

/// Folds a stream's events into the answer that the same request would have had without streaming.
///
/// Numbers and the escapes in strings stay as they were written. An answer that is not the whole
/// says why in a field `weir_incomplete`; what ended the stream may be in `error`.
#[derive(Debug)]
pub struct Fold {
    /// None once the answer has grown beyond its bound.
    shape: Option<Shape>,
    tally: Tally,
    /// There was an event.
    came: bool,
    /// An event was too long to be taken.
    lost: bool,
    /// `[DONE]` was there.
    done: bool,
}

#[derive(Debug)]
enum Shape {
    Chunks(Chunks),
    Responses(Responses),
}

impl Fold {
    /// None for endpoints whose streams have no whole shape (embeddings, other).
    pub fn new(endpoint: Endpoint) -> Option<Self> {
        let shape = match endpoint {
            Endpoint::ChatCompletions => Shape::Chunks(Chunks::new(true)),
            Endpoint::Completions => Shape::Chunks(Chunks::new(false)),
            Endpoint::Responses => Shape::Responses(Responses::default()),
            Endpoint::Embeddings | Endpoint::Other => return None,
        };
        let tally = Tally::default();
        Some(Self { shape: Some(shape), tally, came: false, lost: false, done: false })
    }

    /// Takes the data of one event (JSON text, not `[DONE]`).
    pub fn event(&mut self, data: &[u8]) {
        // A sign of life.
        if data.trim_ascii().is_empty() {
            return;
        }
        self.came = true;
        match &mut self.shape {
            Some(Shape::Chunks(chunks)) => chunks.take(data, &mut self.tally),
            Some(Shape::Responses(responses)) => responses.take(data, &mut self.tally),
            None => {}
        }
        self.keep_bound();
    }

    /// Takes the data of an event that is called `error`, and need not have a field of that name.
    pub fn error(&mut self, data: &[u8]) {
        match &mut self.shape {
            Some(Shape::Chunks(chunks)) => {
                self.came = true;
                chunks.take_error(data, &mut self.tally);
                self.keep_bound();
            }
            _ => self.event(data),
        }
    }

    /// `[DONE]` has come. Without it chats and completions count as cut off; a response has a last
    /// event of its own.
    pub fn done(&mut self) {
        self.done = true;
    }

    /// An event was too long to be looked at.
    pub fn lose(&mut self) {
        self.came = true;
        self.lost = true;
    }

    /// The whole answer as JSON text; None when nothing came, or when it grew beyond the bound.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        let shape = self.shape.take().filter(|_| self.came)?;
        let why = self.incomplete(&shape);
        let why = (!why.is_empty()).then(|| format!("\"{}\"", why.join("; ")));
        let why = why.as_deref().map(str::as_bytes);
        let mut out = Vec::with_capacity(self.tally.bytes);
        match shape {
            Shape::Chunks(chunks) => chunks.write(why, &mut out),
            Shape::Responses(responses) => responses.write(why, &mut out),
        }
        (out.len() <= MAX_FOLDED_BYTES).then_some(out)
    }

    fn incomplete(&self, shape: &Shape) -> Vec<&'static str> {
        let ended = match shape {
            Shape::Chunks(_) => self.done,
            Shape::Responses(responses) => responses.is_whole(),
        };
        let reasons = [
            (self.lost, "an event was longer than 1 MiB"),
            (self.tally.misfit, "an event could not be read"),
            (!ended, "the stream ended early"),
        ];
        reasons.into_iter().filter(|reason| reason.0).map(|reason| reason.1).collect()
    }

    fn keep_bound(&mut self) {
        if self.tally.bytes > MAX_FOLDED_BYTES {
            self.shape = None;
        }
    }
}

/// Whether a response's event of this type is its last, which holds the whole.
pub(super) fn ends_response(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"response.completed" | b"response.incomplete" | b"response.failed" | b"response.cancelled"
    )
}

#[cfg(test)]
mod tests;
