//! A readable copy of a compressed answer. What goes to the client is never touched.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::read::GzDecoder;
use http::HeaderMap;
use http::header;

/// A compressed answer that grows beyond this is not read: a few kilobytes can hold gigabytes.
const LARGEST: u64 = 64 << 20;

/// The plain bytes of an answer; `None` when its coding is not understood or it is broken.
pub(super) fn plain<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else {
        return Some(Cow::Borrowed(body));
    };
    match coding.as_bytes() {
        b"identity" => Some(Cow::Borrowed(body)),
        b"gzip" | b"x-gzip" => {
            let mut out = Vec::with_capacity(body.len().saturating_mul(4));
            let read = GzDecoder::new(body).take(LARGEST).read_to_end(&mut out).ok()?;
            (u64::try_from(read).ok()? < LARGEST).then_some(Cow::Owned(out))
        }
        _ => None,
    }
}
