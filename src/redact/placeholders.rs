//! Which placeholder stands for which value.

use std::collections::HashMap;
use std::ops::Range;

use ring::hmac;

use super::Find;
use super::label::LABELS;
use super::label::Label;

/// Values of one conversation that are remembered, 24 bytes each. More than these get a new number
/// each time they appear: two values never share one.
const MAX_REMEMBERED: usize = 10_000;
/// The longest placeholder, `<HUGGINGFACE_TOKEN_18446744073709551615>`.
const MAX_LEN: usize = 40;

/// Which placeholder stands for which value, within one conversation: the same value gets the same
/// one, numbered by first appearance (`<EMAIL_1>`, `<EMAIL_2>`). Upper and lower case of an e-mail
/// address and the separators of a number make no difference. It remembers keyed hashes of at most
/// 10,000 values, never a value.
#[derive(Debug)]
pub struct Placeholders {
    key: hmac::Key,
    /// By the first 16 bytes of the HMAC.
    known: HashMap<[u8; 16], u64>,
    /// Distinct values by label.
    values: [u64; LABELS.len()],
    /// Replacements by label.
    replaced: [u64; LABELS.len()],
}

impl Placeholders {
    /// None yet. `key` should be one that nobody else knows: who knows it can test guesses.
    pub fn new(key: [u8; 16]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            known: HashMap::new(),
            values: [0; LABELS.len()],
            replaced: [0; LABELS.len()],
        }
    }

    /// How many values were replaced so far, repeated ones included, by type: `("EMAIL", 3)`.
    /// Types without any are left out.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = LABELS.iter().map(|(_, name)| *name);
        names.zip(self.replaced).filter(|(_, replaced)| *replaced > 0)
    }

    /// Begins to count anew; what stands for which value stays.
    pub fn forget_counts(&mut self) {
        self.replaced = [0; LABELS.len()];
    }

    /// Values that are remembered.
    pub fn remembered(&self) -> usize {
        self.known.len()
    }

    /// Writes the placeholder of `value` behind `out`.
    pub(super) fn write(&mut self, label: Label, value: &[u8], out: &mut Vec<u8>) {
        self.replaced[label as usize] += 1;
        let number = self.number(label, value);
        out.extend_from_slice(format!("<{}_{number}>", label.name()).as_bytes());
    }

    fn number(&mut self, label: Label, value: &[u8]) -> u64 {
        let hash = self.hash(label, value);
        if let Some(number) = self.known.get(&hash) {
            return *number;
        }
        let values = &mut self.values[label as usize];
        *values += 1;
        if self.known.len() < MAX_REMEMBERED {
            self.known.insert(hash, *values);
        }
        *values
    }

    fn hash(&self, label: Label, value: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(label.name().as_bytes());
        context.update(b"=");
        if label == Label::Email {
            context.update(&value.to_ascii_lowercase());
        } else if label.is_number() {
            let bare = value.iter().filter(|byte| byte.is_ascii_alphanumeric());
            context.update(&bare.map(u8::to_ascii_uppercase).collect::<Vec<u8>>());
        } else {
            context.update(value);
        }
        context.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

/// What of `find` is no placeholder: nothing is replaced twice.
pub(super) fn spared(text: &[u8], find: Find) -> Vec<Find> {
    let Find { range, label } = find;
    let mut pieces = Vec::with_capacity(1);
    let mut from = range.start;
    for taken in written(text, &range) {
        pieces.push(from..taken.start.max(from));
        from = taken.end;
    }
    pieces.push(from..range.end.max(from));
    pieces.retain(|piece| !piece.is_empty());
    pieces.into_iter().map(|range| Find { range, label }).collect()
}

/// The placeholders that overlap `range` of `text`.
fn written(text: &[u8], range: &Range<usize>) -> Vec<Range<usize>> {
    let from = range.start.saturating_sub(MAX_LEN);
    let window = text.get(from..range.end).unwrap_or_default();
    memchr::memchr_iter(b'<', window)
        .filter_map(|at| {
            let start = from + at;
            let end = start + placeholder_len(text.get(start..)?)?;
            (end > range.start).then_some(start..end)
        })
        .collect()
}

/// The length of the placeholder at the head of `text`.
fn placeholder_len(text: &[u8]) -> Option<usize> {
    let end = text.iter().take(MAX_LEN).position(|byte| *byte == b'>')?;
    let inner = std::str::from_utf8(text.get(1..end)?).ok()?;
    let (name, number) = inner.rsplit_once('_')?;
    let counted = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (counted && LABELS.iter().any(|(_, known)| *known == name)).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written_by(placeholders: &mut Placeholders, label: Label, value: &str) -> String {
        let mut out = Vec::new();
        placeholders.write(label, value.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_same_value_gets_the_same_number_and_another_one_the_next() {
        let mut p = Placeholders::new([7; 16]);
        assert_eq!(written_by(&mut p, Label::Email, "a@example.com"), "<EMAIL_1>");
        assert_eq!(written_by(&mut p, Label::Email, "b@example.com"), "<EMAIL_2>");
        assert_eq!(written_by(&mut p, Label::Email, "A@Example.com"), "<EMAIL_1>");
        assert_eq!(written_by(&mut p, Label::Phone, "+49 30 1234567"), "<PHONE_1>");
        assert_eq!(written_by(&mut p, Label::Phone, "+49 30-123 4567"), "<PHONE_1>");
        assert_eq!(written_by(&mut p, Label::Secret, "a@example.com"), "<SECRET_1>");
        let counts: Vec<_> = p.counts().collect();
        assert_eq!(counts, [("SECRET", 1), ("EMAIL", 3), ("PHONE", 2)]);
    }

    #[test]
    fn beyond_the_bound_two_values_never_share_a_number() {
        let mut p = Placeholders::new([7; 16]);
        for value in 1..=MAX_REMEMBERED {
            written_by(&mut p, Label::Ip, &value.to_string());
        }
        assert_eq!(written_by(&mut p, Label::Ip, "late"), "<IP_10001>");
        assert_eq!(written_by(&mut p, Label::Ip, "late"), "<IP_10002>");
        assert_eq!(written_by(&mut p, Label::Ip, "77"), "<IP_77>");
        assert_eq!(p.known.len(), MAX_REMEMBERED);
    }

    #[test]
    fn what_is_remembered_shows_no_value() {
        let mut p = Placeholders::new([7; 16]);
        written_by(&mut p, Label::Email, "ada@example.com");
        assert!(!format!("{p:?}").contains("ada"));
    }

    #[test]
    fn placeholders_are_cut_out_of_a_find() {
        let text = b"ab<EMAIL_12>cd<EMAIL_x>";
        let find = Find { range: 0..text.len(), label: Label::Secret };
        let ranges: Vec<_> = spared(text, find).into_iter().map(|find| find.range).collect();
        assert_eq!(ranges, [0..2, 12..23]);
        let inside = Find { range: 4..12, label: Label::Secret };
        assert_eq!(spared(text, inside), []);
    }
}
