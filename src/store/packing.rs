//! Makes a call's bodies ready for the disk: redacted, compressed, behind their record.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::conversations::Redactor;
use super::frame;
use super::pair::Packer;
use super::pair::Pair;
use super::spool::Full;
use super::spool::Spool;
use super::spool::bytes_of;

/// Redacts and compresses. One for each thread; what they remember of conversations is one memory.
pub(super) struct Packing {
    redactor: Arc<Redactor>,
    packer: Packer,
}

impl Packing {
    pub(super) fn new(redactor: &Arc<Redactor>) -> io::Result<Self> {
        Ok(Self { redactor: Arc::clone(redactor), packer: Packer::new()? })
    }

    /// Appends a record as it is appended to a segment, with its bodies where the spool has room for
    /// them.
    pub(super) fn frame(&mut self, spool: &Spool, full: &Full, out: &mut Vec<u8>) {
        let before = out.len();
        let mut pair = full.pair.clone();
        let replaced = pair.as_mut().and_then(|pair| self.redactor.redact(pair));
        let packed = pair.and_then(|pair| self.pack(spool, full.id, &pair));
        match packed {
            Some(bodies) => full.frame_with(&bodies, replaced.as_deref(), out),
            None => full.frame_bare(out),
        }
        let added = bytes_of(out.get(before..).unwrap_or_default());
        spool.unwritten.fetch_add(added, Ordering::Relaxed);
    }

    fn pack(&mut self, spool: &Spool, id: Uuid, pair: &Pair) -> Option<Vec<u8>> {
        let packed = self.packer.pack(id, pair).ok();
        let packed = packed.filter(|packed| spool.has_room_for_bodies(packed));
        if packed.is_none() {
            spool.lost_bodies(1);
        }
        packed
    }
}

impl Full {
    /// Appends the record alone.
    pub(super) fn frame_bare(&self, out: &mut Vec<u8>) {
        self.frame_as(",\"capture\":\"metadata\"", None, &[], out);
    }

    /// Appends the record and its bodies; `replaced` says what was redacted in them.
    fn frame_with(&self, bodies: &[u8], replaced: Option<&str>, out: &mut Vec<u8>) {
        let may_train = self.pair.as_ref().is_some_and(|pair| pair.may_train);
        let kept = if may_train {
            ",\"capture\":\"full\",\"consent\":\"train\""
        } else {
            ",\"capture\":\"full\""
        };
        self.frame_as(kept, replaced, bodies, out);
    }

    fn frame_as(&self, kept: &str, replaced: Option<&str>, bodies: &[u8], out: &mut Vec<u8>) {
        frame::append(out, |out| {
            // The object goes on where it ended.
            out.extend_from_slice(self.record.strip_suffix(b"}").unwrap_or(&self.record));
            out.extend_from_slice(kept.as_bytes());
            if let Some(replaced) = replaced {
                out.extend_from_slice(b",\"redaction\":");
                out.extend_from_slice(replaced.as_bytes());
            }
            out.push(b'}');
            out.extend_from_slice(bodies);
        });
    }
}

/// Packs what is laid out, until the end. For a thread that gives way to all others.
pub(super) fn run(spool: &Spool, mut packing: Packing) {
    let mut frame = Vec::new();
    while let Some(full) = spool.desk.next() {
        frame.clear();
        packing.frame(spool, &full, &mut frame);
        spool.desk.bring(&frame, full);
    }
}
