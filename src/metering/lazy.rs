//! Counts one request's prompt when somebody asks, and no more than is asked.

use std::cell::Cell;

use crate::metering::tokens;
use crate::metering::tokens::Encoding;

/// The prompt's tokens, counted when somebody asks.
pub struct LazyPrompt<'a> {
    encoding: Encoding,
    model: &'a str,
    body: &'a [u8],
    known: Cell<Option<u64>>,
}

/// A long prompt has to be counted exactly, away from the reactor, before this can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsExact;

impl<'a> LazyPrompt<'a> {
    /// The prompt of `body`, a request for `model`.
    pub fn new(encoding: Encoding, model: &'a str, body: &'a [u8]) -> Self {
        Self { encoding, model, body, known: Cell::new(None) }
    }

    /// Whether it has more than `limit` tokens.
    ///
    /// # Errors
    /// [`NeedsExact`] where that takes an exact count of a long text.
    pub fn exceeds(&self, limit: u64) -> Result<bool, NeedsExact> {
        Ok(self.tokens()? > limit)
    }

    /// All of its tokens.
    ///
    /// # Errors
    /// [`NeedsExact`] where that takes an exact count of a long text.
    pub fn tokens(&self) -> Result<u64, NeedsExact> {
        if let Some(tokens) = self.known.get() {
            return Ok(tokens);
        }
        let tokens = tokens::estimate_prompt_as(self.encoding, self.model, self.body);
        self.known.set(Some(tokens));
        Ok(tokens)
    }

    /// Supplies a count made elsewhere.
    pub fn supply(&self, tokens: u64) {
        self.known.set(Some(tokens));
    }
}
