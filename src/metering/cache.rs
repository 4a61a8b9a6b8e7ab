//! Remembers the tokens of tools and schemas, which conversations repeat with every turn.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::LazyLock;

use quick_cache::sync::Cache;

use crate::metering::tokens::Encoding;

/// Most entries; 2 to 3 MB together.
const ENTRIES: usize = 64 * 1024;

/// Counts by the keyed hash of what was counted. 128 bits: two PRF outputs of SipHash under a key
/// of this process, so that nobody can make two texts that meet.
static COUNTS: LazyLock<Cache<(u64, u64), u64>> = LazyLock::new(|| Cache::new(ENTRIES));
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What one count is remembered under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key((u64, u64));

impl Key {
    /// Of some JSON, counted in a certain way.
    pub(super) fn of(way: u8, encoding: Encoding, json: &[u8]) -> Self {
        let half = |half: u8| KEY.hash_one((half, way, encoding, json));
        Self((half(0), half(1)))
    }
}

/// What was counted before.
pub(super) fn get(key: Key) -> Option<u64> {
    COUNTS.get(&key.0)
}

/// Remembers a count.
pub(super) fn put(key: Key, tokens: u64) {
    COUNTS.insert(key.0, tokens);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_remembered_by_text_way_and_encoding() {
        let key = Key::of(1, Encoding::O200kBase, b"a text that no other test counts");
        assert_eq!(get(key), None);
        put(key, 7);
        assert_eq!(get(key), Some(7));
        let text = b"a text that no other test counts";
        assert_eq!(get(Key::of(2, Encoding::O200kBase, text)), None);
        assert_eq!(get(Key::of(1, Encoding::Cl100kBase, text)), None);
        assert_eq!(get(Key::of(1, Encoding::O200kBase, b"another")), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        for number in 0..100_000_u32 {
            put(Key::of(3, Encoding::O200kBase, number.to_string().as_bytes()), u64::from(number));
        }
        assert!(COUNTS.len() <= ENTRIES, "{}", COUNTS.len());
    }
}
