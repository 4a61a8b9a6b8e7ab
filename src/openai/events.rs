//! Server-sent events: where one ends, and what its fields say.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The longest event that is held back until it is whole, and looked at. Longer ones pass.
pub(super) const MAX_EVENT_BYTES: usize = 1 << 20;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Withhold,
}

/// Puts an event stream, cut anywhere, together to whole events. Events that came whole are handed
/// on in the buffer that they came in.
///
/// An event ends with an empty line; a line ends with LF, CRLF or CR, in any mixture. A CR ends its
/// line at once, as an LF that may follow must not be waited for: it is handed on, or dropped,
/// with the event before it.
#[derive(Debug)]
pub(super) struct EventSplitter {
    /// The head of an event whose end has not come yet.
    carry: BytesMut,
    at_line_start: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The last event was withheld.
    withheld: bool,
    /// The event is too long and was handed on in part.
    oversized: bool,
    /// Events too long to be looked at.
    lost: u64,
}

impl EventSplitter {
    pub(super) fn new() -> Self {
        Self {
            carry: BytesMut::new(),
            at_line_start: true,
            after_cr: false,
            withheld: false,
            oversized: false,
            lost: 0,
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the head of an event was handed on without its end.
    pub(super) fn mid_event(&self) -> bool {
        self.oversized
    }

    /// Takes a chunk; shows each event that ends in it to `judge`, hands bytes on to `out`.
    pub(super) fn push(
        &mut self,
        chunk: Bytes,
        judge: &mut impl FnMut(&[u8]) -> Verdict,
        out: &mut impl FnMut(Bytes),
    ) {
        let mut run = Run { chunk, from: 0 };
        let mut event = self.late_lf(&mut run);
        let mut at = event;
        while let Some(end) = self.next_end(&run.chunk, &mut at) {
            let lf = self.after_cr && run.chunk.get(end) == Some(&b'\n');
            if lf {
                self.after_cr = false;
                at += 1;
            }
            self.end_event(&mut run, event..end, at, judge, out);
            event = at;
        }
        self.keep_rest(&mut run, event, out);
    }

    /// The stream is over. A clean end lets the last event go without its empty line; otherwise it
    /// is dropped, so that an event of the gateway's own can follow.
    pub(super) fn finish(
        &mut self,
        clean: bool,
        judge: &mut impl FnMut(&[u8]) -> Verdict,
        out: &mut impl FnMut(Bytes),
    ) {
        let rest = self.carry.split();
        if clean && !rest.is_empty() && judge(&rest) == Verdict::Keep {
            out(rest.freeze());
        }
    }

    /// An LF at the head of the chunk that belongs to the event before; returns where the next one
    /// starts.
    fn late_lf(&mut self, run: &mut Run) -> usize {
        let between = self.carry.is_empty() && !self.oversized;
        if !(self.after_cr && between && run.chunk.first() == Some(&b'\n')) {
            return 0;
        }
        self.after_cr = false;
        if self.withheld {
            run.from = 1;
        }
        1
    }

    /// Moves `at` behind the next empty line and returns it; the end of the chunk gives `None`.
    fn next_end(&mut self, chunk: &[u8], at: &mut usize) -> Option<usize> {
        loop {
            let rest = chunk.get(*at..).unwrap_or_default();
            let found = memchr2(b'\n', b'\r', rest);
            if found.unwrap_or(rest.len()) > 0 {
                self.at_line_start = false;
                self.after_cr = false;
            }
            let Some(found) = found else {
                *at = chunk.len();
                return None;
            };
            *at += found + 1;
            let cr = rest.get(found) == Some(&b'\r');
            if self.after_cr && !cr {
                self.after_cr = false;
                continue;
            }
            self.after_cr = cr;
            if std::mem::replace(&mut self.at_line_start, true) {
                return Some(*at);
            }
        }
    }

    /// Decides about the event that ends with `piece` of the chunk; `stop` is where the next begins.
    fn end_event(
        &mut self,
        run: &mut Run,
        piece: std::ops::Range<usize>,
        stop: usize,
        judge: &mut impl FnMut(&[u8]) -> Verdict,
        out: &mut impl FnMut(Bytes),
    ) {
        self.withheld = false;
        if std::mem::take(&mut self.oversized) {
            return;
        }
        let (start, end) = (piece.start, piece.end);
        let bytes = run.chunk.get(piece).unwrap_or_default();
        if self.carry.len() + bytes.len() > MAX_EVENT_BYTES {
            self.lost += 1;
            self.give_up_carry(out);
            return;
        }
        let verdict = if self.carry.is_empty() {
            judge(bytes)
        } else {
            self.carry.extend_from_slice(bytes);
            judge(&self.carry)
        };
        self.withheld = verdict == Verdict::Withhold;
        let carried = self.carry.split();
        if self.withheld {
            // What stands before it in the chunk goes, itself does not.
            run.hand_on(start, out);
            run.from = stop;
        } else if !carried.is_empty() {
            out(carried.freeze());
            run.from = end;
        }
    }

    fn give_up_carry(&mut self, out: &mut impl FnMut(Bytes)) {
        if !self.carry.is_empty() {
            out(std::mem::take(&mut self.carry).freeze());
        }
    }

    /// Hands on what is decided and holds back the event that starts at `event`.
    fn keep_rest(&mut self, run: &mut Run, event: usize, out: &mut impl FnMut(Bytes)) {
        let rest = run.chunk.get(event..).unwrap_or_default();
        if !self.oversized && self.carry.len() + rest.len() > MAX_EVENT_BYTES {
            self.lost += 1;
            self.oversized = true;
            self.give_up_carry(out);
        }
        if self.oversized {
            return run.hand_on(run.chunk.len(), out);
        }
        self.carry.extend_from_slice(rest);
        run.hand_on(event, out);
    }
}

/// A chunk and how far it was handed on.
struct Run {
    chunk: Bytes,
    from: usize,
}

impl Run {
    fn hand_on(&mut self, to: usize, out: &mut impl FnMut(Bytes)) {
        if self.from == 0 && to == self.chunk.len() && to > 0 {
            // The common case, one event a chunk: no second handle to the buffer.
            out(std::mem::take(&mut self.chunk));
        } else if self.from < to {
            out(self.chunk.slice(self.from..to));
        }
        self.from = to;
    }
}

/// The fields of an event that has data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// `event:`; empty without one.
    pub(super) name: &'a [u8],
    /// `data:`; several lines are joined with LF.
    pub(super) data: Cow<'a, [u8]>,
}

impl<'a> Event<'a> {
    /// Reads the lines of one event; `None` when none of them is data.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut name: &[u8] = b"";
        let mut data: Option<Cow<'a, [u8]>> = None;
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let (line, next) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            rest = next.get(1..).unwrap_or_default();
            if let Some(value) = field(line, b"data") {
                match &mut data {
                    None => data = Some(Cow::Borrowed(value)),
                    Some(data) => {
                        let data = data.to_mut();
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                }
            } else if let Some(value) = field(line, b"event") {
                name = value;
            }
        }
        Some(Self { name, data: data? })
    }
}

/// The value of a line `name: value`, without the one space that may stand before it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests;
