//! What is kept of a call: the policy's word, lowered by the client's own.

use http::HeaderMap;
use http::HeaderName;

use crate::openai::error::ApiError;
use crate::policy::Capture;
use crate::policy::CaptureMode;
use crate::store::Recorder;

use super::auth::Client;
use super::error;

/// In a request the most that may be kept, in an answer what is.
pub(super) const CAPTURE: HeaderName = HeaderName::from_static("x-weir-capture");

/// The most that the client's key and the client allow. A word that nobody knows means to say less,
/// not more.
pub(super) fn allowed(headers: &HeaderMap, client: &Client) -> CaptureMode {
    let most = client.allows_capture();
    let Some(asked) = headers.get(CAPTURE) else { return most };
    most.max(match asked.as_bytes().trim_ascii() {
        b"full" => CaptureMode::Full,
        b"metadata" => CaptureMode::Metadata,
        _ => CaptureMode::Off,
    })
}

/// Refuses a request whose record has to be on disk before its answer, where it would not get there.
pub(super) fn check(capture: Capture, recorder: Option<&Recorder>) -> Result<(), ApiError> {
    let kept = capture.durable && capture.mode != CaptureMode::Off;
    if kept && !recorder.is_some_and(Recorder::takes_records) {
        return Err(error::not_recorded());
    }
    Ok(())
}
