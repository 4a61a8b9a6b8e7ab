//! A request's JSON, borrowed: objects, arrays and texts are looked into only when asked for.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeSeed;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;

use crate::openai::unescape::unescape_text;

/// The members of an object, in the order written.
#[derive(Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads an object; None for anything else.
    pub(super) fn of(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// The value of a name; of a name that is there twice, the last, as other readers have it. A
    /// `null` is no value.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(known, _)| known == name)?;
        (value.get() != "null").then_some(*value)
    }

    /// A text by its name.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.get(name)?)
    }

    /// An object by its name.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        Self::of(self.get(name)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a JSON string says, with U+FFFD for lone surrogates; None for any other value.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    Some(unescape_text(inner.as_bytes()))
}

pub(super) fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

pub(super) fn is_array(raw: &RawValue) -> bool {
    raw.get().starts_with('[')
}

/// Shows each element of an array to `look`; nothing for any other value. No list is built: a
/// prompt may be millions of token ids.
pub(super) fn each<'a>(raw: &'a RawValue, look: impl FnMut(&'a RawValue)) {
    let mut reader = serde_json::Deserializer::from_str(raw.get());
    // What is not an array has no elements.
    let _ = Each(look).deserialize(&mut reader);
}

struct Each<F>(F);

impl<'de, F: FnMut(&'de RawValue)> DeserializeSeed<'de> for Each<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            (self.0)(element);
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some((Name(name), value)) = members.next_entry()? {
            fields.push((name, value));
        }
        Ok(Fields(fields))
    }
}

/// A member's name. Read as bytes: as text, serde_json refuses lone surrogates.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Name<'de>, E> {
        Ok(Name(String::from_utf8_lossy(name)))
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(String::from_utf8_lossy(name).into_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_last_of_two_equal_names_counts_however_they_are_escaped() {
        let fields = Fields::of(raw(r#"{"content":"a","c\u006fntent":"b","x":null}"#)).unwrap();
        assert_eq!(fields.text("content").unwrap(), "b");
        assert!(fields.get("x").is_none());
        assert!(fields.get("y").is_none());
    }

    #[test]
    fn lone_surrogates_are_read_as_a_character_that_stands_for_none() {
        let fields = Fields::of(raw(r#"{"\ud800":1,"a":"x\udc00y"}"#)).unwrap();
        assert_eq!(
            fields.text("a").unwrap().trim_matches(['x', 'y']).chars().next(),
            Some('\u{FFFD}')
        );
        assert_eq!(fields.iter().count(), 2);
    }

    #[test]
    fn only_what_is_asked_for_has_to_be_of_the_expected_kind() {
        for other in ["[]", "7", "null", "\"{}\"", "true"] {
            assert!(Fields::of(raw(other)).is_none(), "{other}");
        }
        let mut seen = 0;
        each(raw("{}"), |_| seen += 1);
        each(raw("\"[]\""), |_| seen += 1);
        each(raw("[1,[2,3],{}]"), |_| seen += 1);
        assert_eq!(seen, 3);
    }
}
