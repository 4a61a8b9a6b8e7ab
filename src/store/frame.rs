//! How records lie in a segment: a mark, length and checksum before each, so that a reader finds
//! the next whole record after whatever damage.

use memchr::memmem;

/// Begins each record. Holds bytes that UTF-8 never has, and records are JSON: no record contains it.
const MARK: [u8; 4] = [0xF5, b'w', b'r', 0xF6];
/// Mark, length and checksum, the numbers in little-endian order.
const HEAD: usize = MARK.len() + 4 + 4;

/// Frames what `write` appends to `out`.
pub(super) fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; HEAD - MARK.len()]);
    write(out);
    let Some(frame) = out.get_mut(begin..) else { return };
    let Some((head, record)) = frame.split_at_mut_checked(HEAD) else { return };
    let Ok(length) = u32::try_from(record.len()) else {
        // Nothing that long is ever offered; a length that lies would be worse than a lost record.
        out.truncate(begin);
        return;
    };
    let [length, checksum] = [length.to_le_bytes(), checksum(length, record).to_le_bytes()];
    for (place, byte) in head.iter_mut().skip(MARK.len()).zip(length.into_iter().chain(checksum)) {
        *place = byte;
    }
}

fn checksum(length: u32, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(record);
    hasher.finalize()
}

/// Bytes and number of the first frames of `bytes` that fit into `room` bytes. `bytes` must come
/// from [`append`].
pub(super) fn that_fit(bytes: &[u8], room: u64) -> (usize, u64) {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut frames = Frames::of(bytes);
    let (mut end, mut count) = (0, 0);
    while frames.next().is_some() && frames.at <= room {
        (end, count) = (frames.at, count + 1);
    }
    (end, count)
}

/// The whole records of a segment, and afterwards what was wrong with the rest.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Records so far that do not have their checksum.
    pub(super) corrupt: u64,
    /// Whether the last record ends too early: the process was killed while it wrote.
    pub(super) torn: bool,
}

impl<'a> Frames<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, corrupt: 0, torn: false }
    }

    /// The record that begins at `self.at`, if it is whole.
    fn whole(&self) -> Result<&'a [u8], Flaw> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((head, rest)) = rest.split_at_checked(HEAD) else { return Err(Flaw::Short) };
        let number = |at| {
            let bytes: Option<[u8; 4]> = head.get(at..at + 4)?.try_into().ok();
            bytes.map(u32::from_le_bytes)
        };
        let (Some(length), Some(expected)) = (number(4), number(8)) else {
            return Err(Flaw::Short);
        };
        if !head.starts_with(&MARK) {
            return Err(Flaw::Corrupt);
        }
        let length_here = usize::try_from(length).unwrap_or(usize::MAX);
        let record = rest.get(..length_here).ok_or(Flaw::Short)?;
        if checksum(length, record) == expected { Ok(record) } else { Err(Flaw::Corrupt) }
    }
}

/// Why bytes are no record.
enum Flaw {
    /// They end before the record does.
    Short,
    /// They are not what was written.
    Corrupt,
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.at < self.bytes.len() {
            let flaw = match self.whole() {
                Ok(record) => {
                    self.at += HEAD + record.len();
                    return Some(record);
                }
                Err(flaw) => flaw,
            };
            let after = self.bytes.get(self.at + 1..).unwrap_or_default();
            match (memmem::find(after, &MARK), flaw) {
                // Something follows, so it was not the last write that is missing its end.
                (Some(next), _) => {
                    self.corrupt += 1;
                    self.at += 1 + next;
                }
                (None, Flaw::Short) => {
                    self.torn = true;
                    self.at = self.bytes.len();
                }
                (None, Flaw::Corrupt) => {
                    self.corrupt += 1;
                    self.at = self.bytes.len();
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(records: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            append(&mut bytes, |out| out.extend_from_slice(record.as_bytes()));
        }
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<String>, u64, bool) {
        let mut frames = Frames::of(bytes);
        let records = frames.by_ref().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
        (records, frames.corrupt, frames.torn)
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        assert_eq!(read(&[]), (vec![], 0, false));
        let bytes = segment(&["{\"id\":1}", "", "{}"]);
        assert_eq!(bytes.len(), 3 * HEAD + 8 + 2);
        assert_eq!(read(&bytes), (vec!["{\"id\":1}".into(), String::new(), "{}".into()], 0, false));
    }

    #[test]
    fn a_torn_last_record_costs_only_itself_wherever_it_was_torn() {
        let whole = segment(&["first", "second"]);
        let last = whole.len() - HEAD - 6;
        for end in last + 1..whole.len() {
            let (records, corrupt, torn) = read(whole.get(..end).unwrap());
            assert_eq!((records, corrupt, torn), (vec!["first".into()], 0, true), "cut at {end}");
        }
    }

    #[test]
    fn what_fits_is_told_in_whole_records() {
        let bytes = segment(&["12345678", "1234", "1"]);
        assert_eq!(that_fit(&bytes, 19), (0, 0));
        assert_eq!(that_fit(&bytes, 20), (20, 1));
        assert_eq!(that_fit(&bytes, 48), (36, 2));
        assert_eq!(that_fit(&bytes, 49), (49, 3));
    }

    #[test]
    fn a_flipped_bit_anywhere_costs_one_record_and_ends() {
        let records = ["one", "two", "three", "four"];
        let whole = segment(&records);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            let (read, corrupt, torn) = read(&bytes);
            let lost: Vec<_> =
                records.iter().filter(|r| !read.contains(&(**r).to_owned())).collect();
            assert_eq!(lost.len(), 1, "flipped {at}: {read:?}");
            assert_eq!(read.len(), 3, "flipped {at}: {read:?}");
            assert!(corrupt + u64::from(torn) >= 1, "flipped {at} was not noticed");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (records, ..) = read(&bytes);
            prop_assert!(records.len() <= bytes.len());
        }
    }
}
