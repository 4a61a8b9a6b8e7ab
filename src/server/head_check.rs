//! Looks at the raw bytes of a request's head for what the HTTP engine would quietly repair: lines
//! that end without CR, two ways to say how long the body is, a fragment in the target. Servers
//! disagree on these, which is how requests are smuggled, so they are refused.

/// Longest header name that matters here.
const LONGEST: usize = "transfer-encoding".len();

/// Follows one head, fed in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct HeadCheck {
    name: [u8; LONGEST],
    /// Bytes of the current line up to its colon; more than `LONGEST` when it is none of ours.
    name_len: usize,
    in_name: bool,
    line_len: usize,
    last: u8,
    lengths: u8,
    encodings: u8,
    bare_lf: bool,
    fragment: bool,
    first_line: bool,
    done: bool,
}

impl HeadCheck {
    pub(super) fn new() -> Self {
        Self { first_line: true, in_name: true, ..Self::default() }
    }

    /// Reads the next bytes; those after the head are passed over.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.done && !rest.is_empty() {
            // Only a line's name and its end are of interest.
            let take = if self.in_name {
                1
            } else {
                memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1)
            };
            let (piece, after) = rest.split_at(take);
            self.piece(piece);
            rest = after;
        }
    }

    /// Whether the head is complete and must be refused.
    pub(super) fn fault(&self) -> bool {
        let lengths = self.lengths > 1 || (self.lengths > 0 && self.encodings > 0);
        self.done && (self.bare_lf || self.fragment || lengths || self.encodings > 1)
    }

    fn piece(&mut self, piece: &[u8]) {
        let Some(&end) = piece.last() else { return };
        // A `#` never belongs into a request; the engine would drop it and what follows.
        self.fragment |= self.first_line && memchr::memchr(b'#', piece).is_some();
        if end == b'\n' {
            let before = if piece.len() > 1 { piece[piece.len() - 2] } else { self.last };
            self.line_end(before == b'\r', self.line_len + piece.len());
            return;
        }
        self.line_len += piece.len();
        self.last = end;
        if !self.in_name {
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
            b"content-length" => self.lengths = self.lengths.saturating_add(1),
            b"transfer-encoding" => self.encodings = self.encodings.saturating_add(1),
            _ => {}
        }
    }

    fn line_end(&mut self, cr: bool, length: usize) {
        self.bare_lf |= !cr;
        // Empty lines before the request line are allowed (RFC 9112 §2.2).
        let empty = length <= if cr { 2 } else { 1 };
        self.done = empty && !self.first_line;
        if !empty {
            self.first_line = false;
        }
        self.in_name = true;
        self.name_len = 0;
        self.line_len = 0;
        self.last = b'\n';
    }
}

/// Whether a connection's first bytes are HTTP/2's preface.
pub(super) fn is_http2_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PRI * HTTP/2.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(head: &str, piece: usize) -> bool {
        let mut check = HeadCheck::new();
        for bytes in head.as_bytes().chunks(piece) {
            check.feed(bytes);
        }
        assert!(check.done, "{head:?} in pieces of {piece}");
        check.fault()
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
}
