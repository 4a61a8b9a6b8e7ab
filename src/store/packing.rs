//! Makes a call's bodies ready for the disk: redacted, compressed, behind their record.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;

use uuid::Uuid;

use super::conversations::Redactor;
use super::frame;
use super::pair::Packer;
use super::pair::Pair;
use super::spool::Full;
use super::spool::Spool;
use super::spool::lock;

/// Redacts and compresses. One for all threads: what it remembers of conversations is one memory.
pub(super) struct Packing {
    redactor: Redactor,
    packer: Packer,
}

impl Packing {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { redactor: Redactor::new(), packer: Packer::new()? })
    }

    /// Appends a record as it is appended to a segment, with its bodies where the spool has room for
    /// them.
    pub(super) fn frame(&mut self, spool: &Spool, full: Full, out: &mut Vec<u8>) {
        let Full { id, mut record, mut pair, .. } = full;
        let replaced = pair.as_mut().and_then(|pair| self.redactor.redact(pair));
        let may_train = pair.as_ref().is_some_and(|pair| pair.may_train);
        let bodies = pair.and_then(|pair| self.pack(spool, id, &pair));
        // The object goes on where it ended.
        record.pop();
        match &bodies {
            Some(_) if may_train => {
                record.extend_from_slice(b",\"capture\":\"full\",\"consent\":\"train\"");
            }
            Some(_) => record.extend_from_slice(b",\"capture\":\"full\""),
            None => record.extend_from_slice(b",\"capture\":\"metadata\""),
        }
        if let Some(replaced) = replaced.filter(|_| bodies.is_some()) {
            record.extend_from_slice(b",\"redaction\":");
            record.extend_from_slice(replaced.as_bytes());
        }
        record.push(b'}');
        record.extend_from_slice(&bodies.unwrap_or_default());
        frame::append(out, |out| out.extend_from_slice(&record));
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

/// Packs what waits, until [`Spool::close`]. For a thread that gives way to all others.
pub(super) fn run(spool: &Spool, packing: &Arc<Mutex<Packing>>) {
    let mut frame = Vec::new();
    while let Some(full) = spool.next_to_pack() {
        frame.clear();
        lock(packing).frame(spool, full, &mut frame);
        spool.packed(&frame);
    }
}
