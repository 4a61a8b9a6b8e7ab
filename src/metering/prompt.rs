//! Usage that nobody reported, from the request and the texts that were seen.

use crate::metering::lazy::LazyPrompt;
use crate::metering::tokens::Encoding;

/// Longest text of a request that is counted whole; of a longer one samples are.
const WHOLE_BYTES: usize = 1024 * 1024;

/// Estimates the prompt tokens of a request body; 0 when it is not a JSON object.
pub(super) fn estimate(encoding: Encoding, model: &str, body: &[u8]) -> u64 {
    LazyPrompt::new(encoding, model, body).estimate(WHOLE_BYTES)
}
