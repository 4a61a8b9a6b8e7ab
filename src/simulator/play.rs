//! A response body played beat by beat: data, waits, silence, a cut connection.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Sleep;

use crate::simulator::knobs::Knobs;

/// Long enough for the server engine to put on the wire what came before.
const FLUSH: Duration = Duration::from_millis(2);

/// One step of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Data(Bytes),
    Pause(Duration),
    /// Silence for ever.
    Stall,
    /// The connection ends here, in the middle of the body.
    Cut,
}

/// Plays its beats in order. Dropped by the server engine when the client goes away.
pub(super) struct Play {
    beats: VecDeque<Beat>,
    drip: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Play {
    pub(super) fn new(beats: VecDeque<Beat>, drip: Duration) -> Self {
        Self { beats, drip, sleep: None }
    }

    /// A body that fails before the answer's head was flushed: the client sees no answer.
    pub(super) fn nothing() -> Self {
        Self::new(VecDeque::from([Beat::Cut]), Duration::ZERO)
    }

    /// A body that is not a stream, as the knobs want it.
    pub(super) fn whole(body: Bytes, knobs: &Knobs) -> Self {
        let mut beats = VecDeque::new();
        let half = body.len() / 2;
        if knobs.cut.is_some() || knobs.stall_after.is_some() {
            beats.push_back(Beat::Data(body.slice(..half)));
            beats.push_back(Beat::Pause(FLUSH));
            beats.push_back(if knobs.cut.is_some() { Beat::Cut } else { Beat::Stall });
        } else {
            beats.push_back(Beat::Data(body));
        }
        Self::new(beats, knobs.drip)
    }

    /// With `drip`, takes the first byte and leaves the rest for later.
    fn first_byte(&mut self, mut data: Bytes) -> Bytes {
        if self.drip.is_zero() || data.len() < 2 {
            return data;
        }
        let first = data.split_to(1);
        self.beats.push_front(Beat::Data(data));
        self.beats.push_front(Beat::Pause(self.drip));
        first
    }
}

impl Body for Play {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.beats.pop_front() {
                None => return Poll::Ready(None),
                Some(Beat::Data(data)) if data.is_empty() => {}
                Some(Beat::Data(data)) => {
                    let data = self.first_byte(data);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Beat::Pause(wait)) => self.sleep = Some(Box::pin(tokio::time::sleep(wait))),
                Some(Beat::Stall) => {
                    self.beats.push_front(Beat::Stall);
                    return Poll::Pending;
                }
                Some(Beat::Cut) => {
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sleep.is_none() && self.beats.is_empty()
    }
}

/// One server-sent event of an answer, and whether it is content (what `chunks`, `cut` and
/// `stall_after` count, what `chunk_delay_ms` waits for).
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) frame: Bytes,
    pub(super) content: bool,
}

impl Event {
    /// `data: …` with an empty line behind it.
    pub(super) fn data(json: &str, content: bool) -> Self {
        Self { frame: format!("data: {json}\n\n").into(), content }
    }

    /// The same with an `event:` line before it.
    pub(super) fn named(name: &str, json: &str, content: bool) -> Self {
        Self { frame: format!("event: {name}\ndata: {json}\n\n").into(), content }
    }
}

/// The events as beats, as the knobs want them.
pub(super) fn beats(events: Vec<Event>, knobs: &Knobs) -> VecDeque<Beat> {
    let mut beats = VecDeque::with_capacity(events.len());
    let mut content = 0;
    if ends_here(content, knobs, &mut beats) {
        return beats;
    }
    for (index, event) in events.into_iter().enumerate() {
        if event.content && !knobs.chunk_delay.is_zero() {
            beats.push_back(Beat::Pause(knobs.chunk_delay));
        }
        if knobs.garbage {
            garbled(index, &event.frame, &mut beats);
        } else {
            beats.push_back(Beat::Data(event.frame));
        }
        content += usize::from(event.content);
        if event.content && ends_here(content, knobs, &mut beats) {
            break;
        }
    }
    beats
}

fn ends_here(content: usize, knobs: &Knobs, beats: &mut VecDeque<Beat>) -> bool {
    let end = if knobs.cut == Some(content) {
        Beat::Cut
    } else if knobs.stall_after == Some(content) {
        Beat::Stall
    } else {
        return false;
    };
    beats.push_back(Beat::Pause(FLUSH));
    beats.push_back(end);
    true
}

/// Legal server-sent events that a careless reader trips over, in turn: a comment first, CRLF line
/// ends, an event split between two writes, a field that nobody reads. No `id`: openai-python 3.54
/// takes every empty line after one for an event.
fn garbled(index: usize, frame: &Bytes, beats: &mut VecDeque<Beat>) {
    match index % 4 {
        0 => {
            beats.push_back(Beat::Data(Bytes::from_static(b": keep-alive\n\n")));
            beats.push_back(Beat::Data(frame.clone()));
        }
        1 => {
            let text = String::from_utf8_lossy(frame).replace('\n', "\r\n");
            beats.push_back(Beat::Data(text.into()));
        }
        2 => {
            beats.push_back(Beat::Data(frame.slice(..frame.len() / 2)));
            beats.push_back(Beat::Pause(FLUSH));
            beats.push_back(Beat::Data(frame.slice(frame.len() / 2..)));
        }
        _ => {
            beats.push_back(Beat::Data(Bytes::from_static(b"retry: 3000\n")));
            beats.push_back(Beat::Data(frame.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(n: usize) -> Vec<Event> {
        (0..n).map(|i| Event::data(&i.to_string(), true)).collect()
    }

    #[test]
    fn a_cut_after_two_chunks_leaves_two_chunks_and_the_cut() {
        let played = beats(events(5), &Knobs::parse("cut=2").unwrap());
        let data = played.iter().filter(|beat| matches!(beat, Beat::Data(_))).count();
        assert_eq!(data, 2);
        assert_eq!(played.back(), Some(&Beat::Cut));
    }

    #[test]
    fn garbage_keeps_every_data_line() {
        let played = beats(events(8), &Knobs::parse("garbage").unwrap());
        let mut text = String::new();
        for beat in played {
            if let Beat::Data(data) = beat {
                text.push_str(std::str::from_utf8(&data).unwrap());
            }
        }
        let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(lines, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    }
}
