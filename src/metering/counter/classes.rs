//! What the cutting patterns ask of a character: letter, number, space, and so on, as bits.

use std::sync::OnceLock;

use regex_syntax::hir::Class;
use regex_syntax::hir::HirKind;

/// May stand in the first part of an o200k word: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`.
pub(super) const UPPER: u8 = 1;
/// May stand in its second part: `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
pub(super) const LOWER: u8 = 2;
/// `\p{L}`.
pub(super) const LETTER: u8 = 4;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 8;
/// `\s`.
pub(super) const SPACE: u8 = 16;
/// `[\r\n]`.
pub(super) const NEWLINE: u8 = 32;
/// No character: the end of the text.
pub(super) const END: u8 = 64;

const PATTERNS: [(u8, &str); 6] = [
    (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (SPACE, r"\s"),
    (NEWLINE, r"[\r\n]"),
];
const PAGE: usize = 256;

/// The classes of every character. Pages of 256 that are alike are kept once.
pub(super) struct Classes {
    ascii: [u8; 128],
    page_of: Vec<u16>,
    pages: Vec<[u8; PAGE]>,
}

impl Classes {
    /// The table, made at the first call in about 5 ms from the tables of the regex engine that
    /// defines the encodings.
    pub(super) fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(|| Self::of(&flat()))
    }

    /// Classes and bytes of the character that begins at `at`; ([`END`], 0) at the end.
    #[inline]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u8, usize) {
        match text.get(at) {
            None => (END, 0),
            Some(&byte) => match self.ascii.get(usize::from(byte)) {
                Some(&class) => (class, 1),
                None => self.wide(text, at, byte),
            },
        }
    }

    /// Where the run of characters of any of these classes ends that begins at `at`.
    #[inline]
    pub(super) fn run(&self, text: &[u8], mut at: usize, classes: u8) -> usize {
        loop {
            let (class, bytes) = self.at(text, at);
            if class & classes == 0 {
                return at;
            }
            at += bytes;
        }
    }

    /// Where the run of characters of none of these classes ends that begins at `at`.
    #[inline]
    pub(super) fn run_without(&self, text: &[u8], mut at: usize, classes: u8) -> usize {
        loop {
            let (class, bytes) = self.at(text, at);
            if class & (classes | END) != 0 {
                return at;
            }
            at += bytes;
        }
    }

    /// A character of two to four bytes.
    #[inline]
    fn wide(&self, text: &[u8], at: usize, first: u8) -> (u8, usize) {
        let low6 = |place| usize::from(text.get(at + place).map_or(0, |byte| byte & 0x3f));
        let first = usize::from(first);
        let (code, bytes) = match first {
            0..0xe0 => ((first & 0x1f) << 6 | low6(1), 2),
            0xe0..0xf0 => ((first & 0xf) << 12 | low6(1) << 6 | low6(2), 3),
            _ => ((first & 0x7) << 18 | low6(1) << 12 | low6(2) << 6 | low6(3), 4),
        };
        let page =
            self.page_of.get(code / PAGE).and_then(|page| self.pages.get(usize::from(*page)));
        (page.map_or(0, |page| page[code % PAGE]), bytes)
    }

    fn of(flat: &[u8]) -> Self {
        let mut classes = Self { ascii: [0; 128], page_of: Vec::new(), pages: Vec::new() };
        classes.ascii.copy_from_slice(&flat[..128]);
        for page in flat.as_chunks::<PAGE>().0 {
            let known = classes.pages.iter().position(|known| known == page);
            let place = known.unwrap_or_else(|| {
                classes.pages.push(*page);
                classes.pages.len() - 1
            });
            classes.page_of.push(u16::try_from(place).unwrap_or(0));
        }
        classes
    }
}

/// One byte for every code point.
fn flat() -> Vec<u8> {
    let mut flat = vec![0; 0x11_0000];
    for (class, pattern) in PATTERNS {
        let parsed = regex_syntax::parse(pattern).expect("the patterns are our own");
        let HirKind::Class(Class::Unicode(set)) = parsed.kind() else { continue };
        for range in set.ranges() {
            let (from, to) = (u32::from(range.start()), u32::from(range.end()));
            for code in from..=to {
                flat[code as usize] |= class;
            }
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_the_classes_that_the_standard_library_gives_it() {
        let mut bytes = [0; 4];
        for char in '\0'..=char::MAX {
            let text = char.encode_utf8(&mut bytes);
            let (class, len) = Classes::get().at(text.as_bytes(), 0);
            assert_eq!(len, char.len_utf8(), "{char:?}");
            assert_eq!(class & SPACE != 0, char.is_whitespace(), "{char:?}");
            assert_eq!(class & NEWLINE != 0, matches!(char, '\r' | '\n'), "{char:?}");
            // Characters that younger Unicode versions added differ; these ranges are old.
            if u32::from(char) < 0x370 {
                assert_eq!(class & NUMBER != 0, char.is_numeric(), "{char:?}");
            }
        }
    }

    #[test]
    fn letters_are_told_by_case_and_marks_belong_to_both() {
        let class = |text: &str| Classes::get().at(text.as_bytes(), 0).0;
        assert_eq!(class("A"), UPPER | LETTER);
        assert_eq!(class("a"), LOWER | LETTER);
        assert_eq!(class("ǅ"), UPPER | LETTER);
        assert_eq!(class("ʰ"), UPPER | LOWER | LETTER);
        assert_eq!(class("你"), UPPER | LOWER | LETTER);
        assert_eq!(class("\u{301}"), UPPER | LOWER);
        assert_eq!((class("7"), class("Ⅷ"), class("½")), (NUMBER, NUMBER, NUMBER));
        assert_eq!((class("\n"), class("\u{85}"), class("\u{feff}")), (SPACE | NEWLINE, SPACE, 0));
        assert_eq!(Classes::get().at(b"", 0), (END, 0));
    }

    #[test]
    fn bytes_that_are_no_text_are_read_to_their_end() {
        for bytes in [&[0xffu8][..], &[0xf4, 0xff], &[0xe4], &[0x80, 0x80]] {
            let (_, len) = Classes::get().at(bytes, 0);
            assert!(len > 0);
        }
    }
}
