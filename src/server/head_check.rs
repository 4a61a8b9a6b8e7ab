//! Looks at the raw bytes of a request's head for what the HTTP engine would quietly repair: lines
//! that end without CR, two ways to say how long the body is, a fragment in the target. Servers
//! disagree on these, which is how requests are smuggled, so they are refused.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest header name that matters here.
const LONGEST: usize = "transfer-encoding".len();

/// Follows the requests of a connection, fed in pieces of any size: heads are read, bodies passed
/// over. So a request that is sent ahead of the last one's answer is looked at like any other.
#[derive(Debug, Default)]
pub(super) struct HeadCheck {
    name: [u8; LONGEST],
    /// Bytes of the current line up to its colon; more than `LONGEST` when it is none of ours.
    name_len: usize,
    in_name: bool,
    /// The current line's value is a length.
    in_length: bool,
    line_len: usize,
    last: u8,
    lengths: u8,
    /// Content-Length; where it is no number, the engine refuses the request.
    length: u64,
    encodings: u8,
    bare_lf: bool,
    fragment: bool,
    first_line: bool,
    /// Bytes of a head have come, and not all of it.
    begun: bool,
    /// What is left of a body.
    body: Body,
    /// Heads that were fine.
    good: u64,
    /// A head must be refused; nothing after it is looked at.
    bad: bool,
}

/// A body on the connection.
#[derive(Clone, Copy, Debug)]
enum Body {
    Left(u64),
    /// Chunks: the engine knows where they end.
    Chunks,
}

impl Default for Body {
    fn default() -> Self {
        Self::Left(0)
    }
}

impl HeadCheck {
    pub(super) fn new() -> Self {
        Self { first_line: true, in_name: true, ..Self::default() }
    }

    /// Reads the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.bad && !rest.is_empty() {
            let take = match self.body {
                Body::Chunks => return,
                Body::Left(0) if self.in_name => match self.whole_name(rest) {
                    Some(length) => {
                        rest = rest.get(length..).unwrap_or_default();
                        continue;
                    }
                    None => 1,
                },
                // Of a line, only its name and its end are of interest.
                Body::Left(0) => memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1),
                Body::Left(left) => usize::try_from(left).unwrap_or(usize::MAX).min(rest.len()),
            };
            let (piece, after) = rest.split_at(take);
            match &mut self.body {
                Body::Left(left @ 1..) => *left -= u64::try_from(take).unwrap_or(*left),
                _ => {
                    self.begun = true;
                    self.piece(piece);
                }
            }
            rest = after;
        }
    }

    /// Takes a header's name with its colon where all of it is at hand, which is nearly always so;
    /// returns its length. Anything else goes byte by byte.
    fn whole_name(&mut self, rest: &[u8]) -> Option<usize> {
        if self.first_line || self.line_len > 0 {
            return None;
        }
        let colon = memchr::memchr2(b':', b'\n', rest).filter(|&at| rest.get(at) == Some(&b':'))?;
        let name = rest.get(..colon)?;
        if let Some(place) = self.name.get_mut(..colon) {
            place.copy_from_slice(name);
            place.make_ascii_lowercase();
            self.name_len = colon;
            self.count();
        }
        self.in_name = false;
        self.line_len = colon + 1;
        self.last = b':';
        Some(colon + 1)
    }

    /// How many heads were complete and fine, before one that was not.
    pub(super) fn good(&self) -> u64 {
        self.good
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn in_head(&self) -> bool {
        self.begun
    }

    /// Every request that was read is answered: the next bytes are a head.
    pub(super) fn all_answered(&mut self) {
        if let Body::Chunks = self.body {
            self.body = Body::Left(0);
        }
    }

    fn head_end(&mut self) {
        let lengths = self.lengths > 1 || (self.lengths > 0 && self.encodings > 0);
        let bad = self.bare_lf || self.fragment || lengths || self.encodings > 1;
        let body = if self.encodings > 0 { Body::Chunks } else { Body::Left(self.length) };
        *self = Self { bad, body, good: self.good + u64::from(!bad), ..Self::new() };
    }

    fn piece(&mut self, piece: &[u8]) {
        let Some(&end) = piece.last() else { return };
        // A `#` never belongs into a request; the engine would drop it and what follows.
        self.fragment |= self.first_line && memchr::memchr(b'#', piece).is_some();
        if end == b'\n' {
            let before = if piece.len() > 1 { piece[piece.len() - 2] } else { self.last };
            self.value(piece);
            self.line_end(before == b'\r', self.line_len + piece.len());
            return;
        }
        self.line_len += piece.len();
        self.last = end;
        if !self.in_name {
            self.value(piece);
            return;
        }
        if end == b':' || self.first_line {
            self.in_name = false;
            self.count();
        } else if self.name_len < LONGEST {
            self.name[self.name_len] = end.to_ascii_lowercase();
            self.name_len += 1;
        } else {
            self.in_name = false;
        }
    }

    fn count(&mut self) {
        match &self.name[..self.name_len] {
            b"content-length" => {
                self.lengths = self.lengths.saturating_add(1);
                self.in_length = true;
            }
            b"transfer-encoding" => self.encodings = self.encodings.saturating_add(1),
            _ => {}
        }
    }

    fn value(&mut self, piece: &[u8]) {
        if self.in_length {
            for digit in piece.iter().filter(|byte| byte.is_ascii_digit()) {
                self.length =
                    self.length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
            }
        }
    }

    fn line_end(&mut self, cr: bool, length: usize) {
        self.bare_lf |= !cr;
        // Empty lines before the request line are allowed (RFC 9112 §2.2).
        let empty = length <= if cr { 2 } else { 1 };
        if empty && !self.first_line {
            return self.head_end();
        }
        if !empty {
            self.first_line = false;
        }
        self.in_name = true;
        self.in_length = false;
        self.name_len = 0;
        self.line_len = 0;
        self.last = b'\n';
    }
}

/// Whether a connection begins with HTTP/2's preface, which may come in pieces.
#[derive(Debug, Default)]
pub(super) struct Preface {
    matched: usize,
    failed: bool,
}

impl Preface {
    /// Takes the connection's next bytes; true when the preface is complete.
    pub(super) fn complete(&mut self, bytes: &[u8]) -> bool {
        let rest = PREFACE.get(self.matched..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        if self.failed || rest.get(..length) != bytes.get(..length) {
            self.failed = true;
            return false;
        }
        self.matched += length;
        self.matched == PREFACE.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(head: &str, piece: usize) -> bool {
        let mut check = HeadCheck::new();
        for bytes in head.as_bytes().chunks(piece) {
            check.feed(bytes);
        }
        assert_eq!(check.good() + u64::from(check.bad), 1, "{head:?} in pieces of {piece}");
        assert!(!check.in_head(), "{head:?} in pieces of {piece}");
        check.bad
    }

    #[test]
    fn ambiguous_heads_are_seen_however_they_are_cut() {
        let cases = [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", false),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: #\r\n\r\n", false),
            ("GET / HTTP/1.1\nHost: a\n\n", true),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", true),
            (
                "GET / HTTP/1.1\r\nX-Content-Length-Of-Something: 1\r\nContent-Length: 0\r\n\r\n",
                false,
            ),
        ];
        for (head, expected) in cases {
            for piece in [1, 2, 3, 7, 1000] {
                assert_eq!(fault(head, piece), expected, "{head:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn requests_behind_one_another_are_all_looked_at() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nContent-Length:  12 \r\n\r\nGET / x\n\r\n\r\n";
        let bad = "GET / HTTP/1.1\nHost: a\n\n";
        let all = [get, post, "\r\n", get, post, bad, get].concat();
        for piece in [1, 2, 3, 7, 1000] {
            let mut check = HeadCheck::new();
            for bytes in all.as_bytes().chunks(piece) {
                check.feed(bytes);
            }
            assert_eq!((check.good(), check.bad), (4, true), "in pieces of {piece}");
        }
    }

    #[test]
    fn after_chunks_the_next_head_begins_when_all_is_answered() {
        let mut check = HeadCheck::new();
        check.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        check.feed(b"0\r\n\r\n");
        assert_eq!((check.good(), check.in_head()), (1, false));
        check.all_answered();
        check.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r");
        assert_eq!((check.good(), check.in_head()), (1, true));
        check.feed(b"\n");
        assert_eq!((check.good(), check.in_head()), (2, false));
    }

    #[test]
    fn http2_is_recognised_however_its_preface_is_cut() {
        for piece in 1..=PREFACE.len() {
            let mut preface = Preface::default();
            let seen: Vec<bool> =
                PREFACE.chunks(piece).map(|bytes| preface.complete(bytes)).collect();
            assert_eq!(seen.last(), Some(&true));
            assert_eq!(seen.iter().filter(|&&complete| complete).count(), 1, "pieces of {piece}");
        }
        let mut other = Preface::default();
        assert!(!other.complete(b"PRI / HTTP/1.1\r\n\r\nSM\r\n\r\n"));
        assert!(!other.complete(PREFACE));
    }
}
