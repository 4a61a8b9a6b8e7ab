//! Finds the parts of a JSON text by where they stand in the whole of it.

use std::borrow::Cow;

use crate::openai::scan::Member;
use crate::openai::scan::Span;
use crate::openai::scan::each;
use crate::openai::scan::object;
use crate::openai::unescape::unescape_text;

/// A text that was scanned as a whole before.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a>(pub(super) &'a str);

impl<'a> Walk<'a> {
    pub(super) fn part(self, span: Span) -> &'a str {
        self.0.get(span.start..span.end).unwrap_or_default()
    }

    /// The members of the object at a place; none where there is no object.
    pub(super) fn members(self, span: Span) -> Vec<Member> {
        let moved = |of: Span| Span { start: of.start + span.start, end: of.end + span.start };
        let members = object(self.part(span).as_bytes()).unwrap_or_default().into_iter();
        members
            .map(|member| Member { name: moved(member.name), value: moved(member.value), ..member })
            .collect()
    }

    /// The elements of the array at a place; none where there is no array.
    pub(super) fn elements(self, span: Span) -> Vec<Span> {
        let mut all = Vec::new();
        each(self.part(span).as_bytes(), |at| {
            all.push(Span { start: at.start + span.start, end: at.end + span.start });
        });
        all
    }

    /// The value of that name. Of a name that is there twice the last one counts, as nearly
    /// everywhere.
    pub(super) fn member(self, members: &[Member], name: &str) -> Option<Span> {
        let found = members.iter().rev().find(|member| self.part(member.name) == name);
        found.map(|member| member.value)
    }

    /// What the string at a place means; `None` for what is no string.
    pub(super) fn string(self, span: Span) -> Option<Cow<'a, str>> {
        let quoted = self.part(span).strip_prefix('"')?.strip_suffix('"')?;
        Some(unescape_text(quoted.as_bytes()))
    }
}
