//! Stage 10: which families are kept for validation: a keyed hash decides, so that a family stays
//! where it is when others come.

use crate::training::settings::Split;
use crate::training::sip::sip;

/// Steps of the part that is kept.
const STEPS: u64 = 1_000_000;

/// Whether a family is kept for validation.
pub(in crate::training) fn is_validation(family: u64, split: &Split) -> bool {
    let place = sip([split.seed, 0x0073_706c_6974], &family.to_le_bytes()) % STEPS;
    // Both are far below 2^53.
    let place = u32::try_from(place).map_or(1.0, f64::from);
    place < split.validation * 1e6
}

/// Families that grow together: each node points to one that came before it, or to itself.
#[derive(Clone, Debug, Default)]
pub(in crate::training) struct Families(Vec<u32>);

impl Families {
    /// Adds a node of its own; nodes are numbered as they come.
    pub(in crate::training) fn add(&mut self) -> u32 {
        let node = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push(node);
        node
    }

    /// The first node of a family.
    pub(in crate::training) fn root(&mut self, mut node: u32) -> u32 {
        while let Some(parent) = self.parent(node).filter(|parent| *parent != node) {
            let above = self.parent(parent).unwrap_or(parent);
            if let Some(slot) = self.slot(node) {
                *slot = above;
            }
            node = above;
        }
        node
    }

    /// Makes two families one: the one that came first gives the name.
    pub(in crate::training) fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.root(one), self.root(other));
        let (first, later) = (one.min(other), one.max(other));
        if let Some(slot) = self.slot(later) {
            *slot = first;
        }
    }

    fn parent(&self, node: u32) -> Option<u32> {
        self.0.get(usize::try_from(node).ok()?).copied()
    }

    fn slot(&mut self, node: u32) -> Option<&mut u32> {
        self.0.get_mut(usize::try_from(node).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_wanted_part_of_families_is_kept_and_always_the_same() {
        let split = Split { validation: 0.2, ..Split::default() };
        let kept: Vec<u64> = (0..10_000).filter(|family| is_validation(*family, &split)).collect();
        // 2000 expected, with a standard deviation of 40.
        assert!((1850..2150).contains(&kept.len()), "{}", kept.len());
        assert!(kept.iter().all(|family| is_validation(*family, &split)));
        let more = Split { validation: 0.3, ..split };
        assert!(
            kept.iter().all(|family| is_validation(*family, &more)),
            "a larger part has it all"
        );
        let none = Split { validation: 0.0, ..Split::default() };
        assert!((0..1000).all(|family| !is_validation(family, &none)));
    }

    #[test]
    fn families_that_meet_have_the_name_of_the_first() {
        let mut families = Families::default();
        let nodes: Vec<u32> = (0..5).map(|_| families.add()).collect();
        families.join(nodes[3], nodes[4]);
        families.join(nodes[4], nodes[1]);
        let roots: Vec<u32> = nodes.iter().map(|node| families.root(*node)).collect();
        assert_eq!(roots, [0, 1, 2, 1, 1]);
    }
}
