//! What a realtime session used: read from the frames that the provider's side of its WebSocket
//! sends, while they pass.

use crate::openai::response::AnswerFacts;
use crate::openai::scan;
use crate::openai::usage::Usage;

/// Longest message that is read: the event that ends a response holds words, and no sound.
const LONGEST: usize = 4 << 20;
/// Longest head of a frame from a server.
const HEAD: usize = 10;
/// What the event that tells a response's usage says its type is.
const DONE: &[u8] = br#""response.done""#;

/// What a frame's payload belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Frame {
    /// A ping or the like, which may stand between the parts of a message.
    #[default]
    Control,
    /// A part of a message, and not its last.
    Part,
    /// The last part of a message, or all of it.
    Last,
}

/// Reads along with a session. What it cannot read it leaves alone: the session passes unread then.
#[derive(Debug, Default)]
pub struct SessionTap {
    head: [u8; HEAD],
    head_len: usize,
    frame: Frame,
    /// What is left of the frame's payload.
    left: u64,
    /// The message is text and not too long.
    readable: bool,
    message: Vec<u8>,
    /// Compressed, masked, or no WebSocket at all.
    blind: bool,
    usage: Option<Usage>,
    answer_id: Option<String>,
}

impl SessionTap {
    /// What all responses that have ended used; `None` as long as none has told it.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The id of the last response that ended.
    pub fn answer_id(&self) -> Option<&str> {
        self.answer_id.as_deref()
    }

    /// Takes bytes as they come, cut anywhere.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !self.blind && !bytes.is_empty() {
            bytes = if self.left > 0 { self.payload(bytes) } else { self.head(bytes) };
        }
    }

    /// Takes a byte of a frame's head; returns what is behind it.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some((&byte, rest)) = bytes.split_first() else { return bytes };
        if let Some(place) = self.head.get_mut(self.head_len) {
            *place = byte;
        }
        self.head_len += 1;
        let [first, second, length @ ..] = self.head;
        let [a, b, ..] = length;
        let (whole, length) = match second & 0x7f {
            126 => (4, u16::from_be_bytes([a, b]).into()),
            127 => (HEAD, u64::from_be_bytes(length)),
            short => (2, short.into()),
        };
        if self.head_len >= whole {
            self.head_len = 0;
            self.begin(first, second, length);
        }
        rest
    }

    fn begin(&mut self, first: u8, second: u8, length: u64) {
        // Bits of extensions, or a mask, which servers do not set.
        self.blind = first & 0x70 != 0 || second & 0x80 != 0;
        self.left = length;
        let ends = if first & 0x80 != 0 { Frame::Last } else { Frame::Part };
        self.frame = match first & 0x0f {
            // The message that was begun goes on.
            0 => ends,
            kind @ (1 | 2) => {
                self.message.clear();
                self.readable = kind == 1;
                ends
            }
            _ => Frame::Control,
        };
        if length == 0 {
            self.end();
        }
    }

    /// Takes a part of a frame's payload; returns what is behind it.
    fn payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (payload, rest) = bytes.split_at(here);
        self.left = self.left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
        if self.frame != Frame::Control && self.readable {
            self.readable = self.message.len() + here <= LONGEST;
            self.message.extend_from_slice(if self.readable { payload } else { b"" });
        }
        if self.left == 0 {
            self.end();
        }
        rest
    }

    /// The frame's end.
    fn end(&mut self) {
        if self.frame != Frame::Last {
            return;
        }
        if self.readable && memchr::memmem::find(&self.message, DONE).is_some() {
            self.note();
        }
        self.readable = false;
        self.message = Vec::new();
    }

    /// Adds up what the message tells, if it is the event that ends a response. Its words are in
    /// other events as well.
    fn note(&mut self) -> Option<()> {
        let members = scan::members(&self.message).ok()?.list;
        let member = |name: &[u8]| {
            let found = members.iter().find(|member| member.name.of(&self.message) == name);
            found.map(|member| member.value.of(&self.message))
        };
        let response = member(b"response").filter(|_| member(b"type") == Some(DONE))?;
        let facts = AnswerFacts::read(response)?;
        if let Some(usage) = facts.usage {
            self.usage = Some(self.usage.unwrap_or_default().plus(&usage));
        }
        self.answer_id = facts.id.or_else(|| self.answer_id.take());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let mut frame = vec![first];
        match u8::try_from(length) {
            Ok(short @ ..126) => frame.push(short),
            _ if length < 1 << 16 => {
                frame.push(126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn done(id: &str, input: u64, audio: u64, output: u64) -> Vec<u8> {
        format!(
            r#"{{"type":"response.done","event_id":"e","response":{{"object":"realtime.response",
            "id":"{id}","status":"completed","output":[],"usage":{{"total_tokens":{},
            "input_tokens":{input},"output_tokens":{output},
            "input_token_details":{{"text_tokens":1,"audio_tokens":{audio},"cached_tokens":2,
            "cached_tokens_details":{{"text_tokens":1,"audio_tokens":1}}}},
            "output_token_details":{{"text_tokens":1,"audio_tokens":3}}}}}}}}"#,
            input + output
        )
        .into_bytes()
    }

    /// Two responses: one in a frame, one in three with a ping between them; and what is none.
    fn session() -> Vec<u8> {
        let second = done("resp_2", 20, 7, 5);
        let (a, rest) = second.split_at(40);
        let (b, c) = rest.split_at(41);
        let said =
            br#"{"type":"response.output_text.delta","delta":"\"response.done\" \"usage\""}"#;
        [
            frame(0x81, br#"{"type":"session.created","session":{}}"#),
            frame(0x81, &done("resp_1", 10, 4, 6)),
            frame(0x82, &done("no text", 1_000, 0, 0)),
            frame(0x81, said),
            frame(0x01, a),
            frame(0x89, b"ping"),
            frame(0x00, b),
            frame(0x80, c),
            frame(0x81, &vec![b'x'; 70_000]),
            frame(0x88, b""),
        ]
        .concat()
    }

    #[test]
    fn what_all_responses_of_a_session_used_is_added_up_wherever_its_bytes_are_cut() {
        let session = session();
        // 10 + 20 in, 6 + 5 out, the parts likewise.
        let expected = Usage {
            input: 30,
            cached_input: 4,
            cached_audio_input: 2,
            audio_input: 11,
            output: 11,
            audio_output: 6,
            ..Usage::default()
        };
        for size in [1, 2, 3, 7, 100, 4096, session.len()] {
            let mut tap = SessionTap::default();
            session.chunks(size).for_each(|piece| tap.push(piece));
            assert_eq!(tap.usage(), Some(expected), "in pieces of {size}");
            assert_eq!(tap.answer_id(), Some("resp_2"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let compressed = frame(0xc1, b"\x01\x02");
        let masked = [0x81, 0x85, 1, 2, 3, 4, b'a', b'b', b'c', b'd', b'e'].to_vec();
        let http = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        let endless = [&[0x81, 0x7f][..], &[0xff; 8], b"x"].concat();
        let usages = [r#"{"input_tokens":-1}"#, "null", "7", r#"{"input_tokens":1e300}"#];
        let absurd = usages.map(|usage| {
            let event = format!(r#"{{"type":"response.done","response":{{"usage":{usage}}}}}"#);
            frame(0x81, event.as_bytes())
        });
        for bytes in [compressed, masked, http, endless].into_iter().chain(absurd) {
            let mut tap = SessionTap::default();
            tap.push(&bytes);
            tap.push(&frame(0x81, b"{}"));
            assert_eq!(tap.usage(), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_not_kept() {
        let mut tap = SessionTap::default();
        tap.push(&[&[0x81, 0x7f][..], &(1_u64 << 40).to_be_bytes()].concat());
        for _ in 0..100 {
            tap.push(&vec![b'x'; 1 << 20]);
        }
        assert!(tap.message.capacity() <= 2 * LONGEST, "{}", tap.message.capacity());
    }
}
