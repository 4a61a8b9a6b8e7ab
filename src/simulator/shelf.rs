//! A bounded shelf of named things in the order they came; the oldest makes room.

use std::collections::{BTreeMap, HashMap};

/// Most things on one shelf.
const MAX_THINGS: usize = 10_000;
/// Most bytes on one shelf, as counted by whoever puts things there.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Things by id, in order of arrival.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    things: BTreeMap<u64, (String, usize, T)>,
    places: HashMap<String, u64>,
    next: u64,
    bytes: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { things: BTreeMap::new(), places: HashMap::new(), next: 0, bytes: 0 }
    }
}

impl<T> Shelf<T> {
    /// Puts a thing of `bytes` on the shelf, in the place of one with the same id. The oldest leave
    /// while there are too many or they are too big.
    pub(super) fn put(&mut self, id: impl Into<String>, bytes: usize, thing: T) {
        let id = id.into();
        self.take(&id);
        self.places.insert(id.clone(), self.next);
        self.things.insert(self.next, (id, bytes, thing));
        self.next += 1;
        self.bytes += bytes;
        while self.things.len() > MAX_THINGS || (self.bytes > MAX_BYTES && self.things.len() > 1) {
            let Some((_, (id, bytes, _))) = self.things.pop_first() else { break };
            self.places.remove(&id);
            self.bytes -= bytes;
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<&T> {
        self.things.get(self.places.get(id)?).map(|(_, _, thing)| thing)
    }

    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut T> {
        self.things.get_mut(self.places.get(id)?).map(|(_, _, thing)| thing)
    }

    pub(super) fn take(&mut self, id: &str) -> Option<T> {
        let (_, bytes, thing) = self.things.remove(&self.places.remove(id)?)?;
        self.bytes -= bytes;
        Some(thing)
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.things.values().map(|(_, _, thing)| thing)
    }

    /// Ids, oldest first.
    pub(super) fn ids(&self) -> Vec<String> {
        self.things.values().map(|(id, _, _)| id.clone()).collect()
    }

    /// Bytes on the shelf.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut shelf = Shelf::default();
        (0..=MAX_THINGS).for_each(|i| shelf.put(i.to_string(), 1, i));
        assert_eq!(shelf.find("0"), None);
        assert_eq!(shelf.find("1"), Some(&1));
        assert_eq!(shelf.iter().count(), MAX_THINGS);
        shelf.put("big", MAX_BYTES, 7);
        assert_eq!(shelf.ids(), ["big"]);
        assert_eq!(shelf.bytes(), MAX_BYTES);
    }
}
