//! The bodies of a call: what was said, on its way from the request's thread to the disk.

use std::io::Read as _;

use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;
use zstd::bulk::Compressor;

use crate::redact::Kinds;

/// How hard to compress. The first level takes a fifth of the third's time for a tenth more bytes.
const LEVEL: i32 = 1;
/// Separates a record from its bodies. JSON has no such byte.
const SEPARATOR: u8 = 0;
/// Id and length of the request's body.
const HEAD: usize = 16 + 4;

/// Bodies below this size are copied out of the buffers that they were read into; these are of 8 KiB to
/// half a megabyte.
const COPIED: usize = 64 << 10;

/// What was said in a call.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// The request's body as the client sent it.
    pub request: Bytes,
    /// The answer's body; of a stream the whole answer that it amounts to.
    pub response: Bytes,
    /// What is replaced in both before they reach a disk.
    pub redact: Kinds,
    /// Whether it may become training data.
    pub may_train: bool,
    /// Names the conversation, where the client does: in it, a value gets the same placeholder.
    pub conversation: Option<String>,
}

impl Pair {
    /// The same without the memory around it: a small body lies in a connection's read buffer, which it
    /// would keep for as long as it waits.
    pub(super) fn compact(self) -> Self {
        let compact = |body: Bytes| match body.len() {
            0..COPIED => Bytes::copy_from_slice(&body),
            _ => body,
        };
        Self { request: compact(self.request), response: compact(self.response), ..self }
    }

    /// Bytes of both.
    pub(super) fn len(&self) -> usize {
        self.request.len() + self.response.len()
    }
}

/// Both bodies, compressed, as they lie in the spool and in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bodies<'a> {
    pub(super) id: Uuid,
    pub(super) request: &'a [u8],
    pub(super) response: &'a [u8],
}

/// Bodies up to this size lie in their row, larger ones in the object store.
const INLINE: usize = 64 << 10;

impl<'a> Bodies<'a> {
    /// Those that are too large for a row, with the keys of their objects.
    pub(super) fn large(self) -> impl Iterator<Item = (String, &'a [u8])> {
        let bodies = self.by_name().into_iter().filter(|(_, body)| body.len() > INLINE);
        bodies.map(move |(name, body)| (self.key(name), body))
    }

    /// The JSON object that the database takes apart; with `objects`, large bodies are their keys.
    pub(super) fn to_json(self, objects: bool) -> String {
        let mut json = String::with_capacity(80 + 2 * (self.request.len() + self.response.len()));
        json.push_str("{\"id\":\"");
        json.push_str(self.id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        for (name, body) in self.by_name() {
            json.push_str("\",\"");
            json.push_str(name);
            if objects && body.len() > INLINE {
                json.push_str("_object\":\"");
                json.push_str(&self.key(name));
            } else {
                json.push_str("\":\"");
                push_hex(&mut json, body);
            }
        }
        json.push_str("\"}");
        json
    }

    fn by_name(self) -> [(&'static str, &'a [u8]); 2] {
        [("request", self.request), ("response", self.response)]
    }

    /// By the day of the call, so that a bucket can be looked through.
    fn key(self, name: &str) -> String {
        let seconds = self.id.get_timestamp().map_or(0, |time| time.to_unix().0);
        let day = DateTime::from_timestamp_secs(i64::try_from(seconds).unwrap_or(0));
        let day = day.unwrap_or_default().format("%Y/%m/%d");
        format!("interactions/{day}/{}.{name}.zst", self.id)
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
}

/// Compresses bodies.
pub(super) struct Packer(Compressor<'static>);

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        Compressor::new(LEVEL).map(Self)
    }

    /// Both bodies behind a record; empty ones stay so.
    pub(super) fn pack(&mut self, id: Uuid, pair: &Pair) -> std::io::Result<Vec<u8>> {
        let request = self.compress(&pair.request)?;
        let response = self.compress(&pair.response)?;
        let length = u32::try_from(request.len()).map_err(std::io::Error::other)?;
        Ok([&[SEPARATOR], &id.as_bytes()[..], &length.to_le_bytes(), &request, &response].concat())
    }

    fn compress(&mut self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        if body.is_empty() { Ok(Vec::new()) } else { self.0.compress(body) }
    }
}

/// A spooled record and the bodies behind it, where there are any.
pub(super) fn split(record: &[u8]) -> (&[u8], Option<Bodies<'_>>) {
    let Some(end) = memchr::memchr(SEPARATOR, record) else { return (record, None) };
    let (json, rest) = record.split_at(end);
    (json, bodies(rest.get(1..).unwrap_or_default()))
}

fn bodies(bytes: &[u8]) -> Option<Bodies<'_>> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (id, length) = head.split_at_checked(16)?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    let (request, response) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some(Bodies { id: Uuid::from_slice(id).ok()?, request, response })
}

/// A body as it was, of at most `most` bytes.
pub(super) fn unpack(packed: &[u8], most: usize) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    zstd::stream::read::Decoder::new(packed)?.take(most).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back_from_behind_their_record() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let pair = Pair {
            request: Bytes::from_static(b"{\"model\":\"gpt-5\"}"),
            response: Bytes::from_static(b"{\"id\":\"chatcmpl-1\"}"),
            ..Pair::default()
        };
        let mut packer = Packer::new().unwrap();
        let record = [&b"{\"id\":1}"[..], &packer.pack(id, &pair).unwrap()].concat();
        let (json, bodies) = split(&record);
        let bodies = bodies.unwrap();
        assert_eq!((json, bodies.id), (&b"{\"id\":1}"[..], id));
        let plain = |body: &[u8]| zstd::bulk::decompress(body, 100).unwrap();
        assert_eq!(plain(bodies.request), pair.request);
        assert_eq!(plain(bodies.response), pair.response);
        assert_eq!(split(b"{}"), (&b"{}"[..], None));
        let none = packer.pack(id, &Pair::default()).unwrap();
        assert_eq!(split(&none).1, Some(Bodies { id, request: b"", response: b"" }));
    }

    #[test]
    fn damaged_bodies_are_no_bodies() {
        for short in [&b"{}\0"[..], b"{}\x00123", b"{}\x000123456789abcdef\xff\0\0\0xyz"] {
            assert_eq!(split(short), (&b"{}"[..], None));
        }
    }
}
