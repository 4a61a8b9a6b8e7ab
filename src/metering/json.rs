//! A request's JSON, borrowed: objects, arrays and texts are looked into only when asked for.

use std::borrow::Cow;

use crate::openai::request::RequestView;
use crate::openai::scan;
use crate::openai::scan::Member;
use crate::openai::scan::Span;
use crate::openai::unescape::unescape_text;

/// The JSON text of one value, without the whitespace around it. Bytes: what is never looked at is not
/// judged as UTF-8 once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    /// A value as it is written.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self(text.trim_ascii())
    }

    /// The bytes.
    pub(super) fn get(self) -> &'a [u8] {
        self.0
    }

    /// As it is written, with U+FFFD for what is no character.
    pub(super) fn written(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.0)
    }

    /// What a JSON string says, with U+FFFD for lone surrogates; None for any other value.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        Some(unescape_text(inner))
    }

    /// Whether it is a string.
    pub(super) fn is_text(&self) -> bool {
        self.0.starts_with(b"\"")
    }

    /// Whether it is an array.
    pub(super) fn is_array(&self) -> bool {
        self.0.starts_with(b"[")
    }

    fn part(self, span: Span) -> Self {
        Self(self.0.get(span.start..span.end).unwrap_or_default())
    }
}

/// The members of an object, in the order written.
pub(super) struct Fields<'a> {
    raw: Raw<'a>,
    members: Cow<'a, [Member]>,
}

impl<'a> Fields<'a> {
    /// No members.
    pub(super) const NONE: Self = Self { raw: Raw(b"{}"), members: Cow::Borrowed(&[]) };

    /// The members of a request that was read before.
    pub(super) fn of_request(view: &'a RequestView, body: &'a [u8]) -> Self {
        Self { raw: Raw(body), members: Cow::Borrowed(view.members()) }
    }

    /// Reads an object; None for anything else.
    pub(super) fn of(raw: Raw<'a>) -> Option<Self> {
        let members = scan::object(raw.get())?;
        Some(Self { raw, members: Cow::Owned(members) })
    }

    /// The value of a name; of a name that is there twice, the last, as other readers have it. A
    /// `null` is no value.
    pub(super) fn get(&self, name: &str) -> Option<Raw<'a>> {
        let is_it = |member: &&Member| match member.escaped {
            false => self.raw.part(member.name).get() == name.as_bytes(),
            true => self.name(member) == name,
        };
        let value = self.raw.part(self.members.iter().rev().find(is_it)?.value);
        (value.get() != b"null").then_some(value)
    }

    /// The values of several names in one pass; otherwise as [`Self::get`].
    pub(super) fn select<const N: usize>(&self, names: [&str; N]) -> [Option<Raw<'a>>; N] {
        let mut found = [None; N];
        for member in &*self.members {
            let written = self.raw.part(member.name).get();
            let at = match member.escaped {
                false => names.iter().position(|name| name.as_bytes() == written),
                true => names.iter().position(|name| *name == self.name(member)),
            };
            if let Some(place) = at.and_then(|at| found.get_mut(at)) {
                *place = Some(self.raw.part(member.value)).filter(|value| value.get() != b"null");
            }
        }
        found
    }

    fn name(&self, member: &Member) -> Cow<'a, str> {
        unescape_text(self.raw.part(member.name).get())
    }

    /// A text by its name.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name)?.text()
    }

    /// An object by its name.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        Self::of(self.get(name)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Raw<'a>)> {
        self.members.iter().map(|member| (self.name(member), self.raw.part(member.value)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Shows each element of an array to `look`; nothing for any other value. No list is built: a
/// prompt may be millions of token ids.
pub(super) fn each<'a>(raw: Raw<'a>, mut look: impl FnMut(Raw<'a>)) {
    scan::each(raw.get(), |element| look(raw.part(element)));
}

/// Shows each element of an array that is an object.
pub(super) fn each_object<'a>(raw: Raw<'a>, mut look: impl FnMut(Fields<'a>)) {
    scan::each_object(raw.get(), |members| look(Fields { raw, members: Cow::Owned(members) }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw<'_> {
        Raw::new(text.as_bytes())
    }

    #[test]
    fn the_last_of_two_equal_names_counts_however_they_are_escaped() {
        let fields = Fields::of(raw(r#"{"content":"a","c\u006fntent":"b","x":null}"#)).unwrap();
        assert_eq!(fields.text("content").unwrap(), "b");
        let [absent, x, content] = fields.select(["y", "x", "content"]);
        assert_eq!((absent, x, content.unwrap().text().unwrap()), (None, None, "b".into()));
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
        let mut names = Vec::new();
        each_object(
            raw(r#" [ 1 , {"a":{"b":[]}} ,[{"c":1}], { "d" : 2 , "e":3 } , {"f":"#),
            |fields| {
                names.extend(
                    fields.iter().map(|(name, value)| format!("{name}={}", value.written())),
                );
            },
        );
        assert_eq!(names, [r#"a={"b":[]}"#, "d=2", "e=3"]);
    }
}
