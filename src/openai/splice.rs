//! Writing fields into a request's bytes without touching any other byte.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::openai::question::Insert;
use crate::openai::request::{RequestView, field, string};
use crate::openai::scan::Span;

/// What the gateway changes in a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patch<'a> {
    /// The model to be called instead.
    pub model: Option<&'a str>,
    /// Asks for the usage event: `stream_options.include_usage` becomes `true`. Only for streams of
    /// chat/completions and completions; elsewhere OpenAI refuses the field.
    pub ask_usage: bool,
    /// Top-level fields, each replaced or added. Of a name given twice the last one counts;
    /// `model` above wins over a `model` here, a `stream_options` here over `ask_usage`.
    pub set: &'a [(&'a str, &'a RawValue)],
    /// A message directly before the last question, where there is one.
    pub insert: Option<Insert<'a>>,
}

/// A body that is passed on: its pieces, one behind the other. Of a long one only what is new is written;
/// the rest is the client's own bytes.
#[derive(Clone, Debug)]
pub struct Spliced {
    /// The beginning, in most cases all of it.
    pub first: Bytes,
    /// What follows.
    pub rest: Vec<Bytes>,
}

impl Spliced {
    /// All of it in one buffer.
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = self.first.to_vec();
        self.rest.iter().for_each(|piece| whole.extend_from_slice(piece));
        Bytes::from(whole)
    }
}

impl From<Bytes> for Spliced {
    fn from(first: Bytes) -> Self {
        Self { first, rest: Vec::new() }
    }
}

/// Bodies up to this length are copied: that costs less than pieces that are sent one by one.
const COPIED: usize = 16 << 10;

/// What stands around a message's role and its text.
const MESSAGE: [&str; 3] = [r#"{"role":""#, r#"","content":"#, "}"];

/// New text for a range of the body.
#[derive(Clone, Copy)]
pub(super) struct Edit<'a> {
    pub(super) span: Span,
    pub(super) text: Text<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Text<'a> {
    /// JSON as it is.
    Raw(&'a str),
    /// A string to be quoted.
    Quoted(&'a str),
    /// `,"name":value`
    Member(&'a str, &'a str),
    /// A message of a role, with a text.
    Message(&'static str, &'a str),
}

impl RequestView {
    /// The body with the patch written into it; all other bytes are the same. When nothing changes
    /// it is `body` itself.
    pub fn splice(&self, body: &Bytes, patch: &Patch<'_>) -> Spliced {
        let set = |name| patch.set.iter().any(|(set, _)| *set == name);
        let ask = patch.ask_usage && !self.client_wants_usage() && !set("stream_options");
        let usage = ask.then_some(Edit { span: self.usage.span, text: Text::Raw(self.usage.text) });
        let model = patch.model.and_then(|model| self.model_edit(body, model));
        let insert = patch.insert.filter(|insert| !set(insert.conversation));
        // Without anything else no list is needed: these are nearly all requests.
        let few = patch.set.is_empty() && insert.is_none();
        match (model, usage) {
            (None, None) if few => body.clone().into(),
            (Some(one), None) | (None, Some(one)) if few => written(body, &mut [one]),
            (Some(one), Some(other)) if few => written(body, &mut [one, other]),
            _ => {
                let insertion = insert.map(|insert| self.insertion(body, insert));
                // First: what ends a conversation stands before a member that follows it.
                let mut edits = insertion.unwrap_or_default();
                edits.extend(model.into_iter().chain(usage));
                edits.extend(self.field_edits(body, patch));
                if edits.is_empty() { body.clone().into() } else { written(body, &mut edits) }
            }
        }
    }

    fn model_edit<'a>(&self, body: &[u8], model: &'a str) -> Option<Edit<'a>> {
        let value = field(body, &self.members, "model")?.value;
        // Compared as decoded: a name that was written with escapes may stay so.
        let same = string(value.of(body)).is_some_and(|now| now == model);
        (!same).then_some(Edit { span: value, text: Text::Quoted(model) })
    }

    fn field_edits<'a>(&self, body: &[u8], patch: &Patch<'a>) -> impl Iterator<Item = Edit<'a>> {
        let set = patch.set;
        let model_wins = patch.model.is_some();
        set.iter().enumerate().filter_map(move |(index, (name, value))| {
            let again = set.iter().skip(index + 1).any(|(later, _)| later == name);
            if again || (model_wins && *name == "model") {
                return None;
            }
            let Some(member) = field(body, &self.members, name) else {
                let span = Span::at(self.end);
                return Some(Edit { span, text: Text::Member(name, value.get()) });
            };
            let same = member.value.of(body) == value.get().as_bytes();
            (!same).then_some(Edit { span: member.value, text: Text::Raw(value.get()) })
        })
    }
}

/// Writes the edits, which must not overlap, into `body`.
fn written(body: &Bytes, edits: &mut [Edit<'_>]) -> Spliced {
    if body.len() <= COPIED { apply(body, edits).into() } else { pieces(body, edits) }
}

/// Writes the edits, and leaves what stands between them where it is.
fn pieces(body: &Bytes, edits: &mut [Edit<'_>]) -> Spliced {
    edits.sort_by_key(|edit| edit.span.start);
    let mut all = Vec::with_capacity(2 * edits.len() + 1);
    let (mut from, mut new) = (0, Vec::new());
    let mut keep = |kept: &[u8], new: &mut Vec<u8>| {
        if kept.is_empty() {
            return;
        }
        all.extend((!new.is_empty()).then(|| Bytes::from(std::mem::take(new))));
        all.push(body.slice_ref(kept));
    };
    for edit in edits {
        keep(body.get(from..edit.span.start).unwrap_or_default(), &mut new);
        edit.text.write(&mut new);
        from = edit.span.end;
    }
    keep(body.get(from..).unwrap_or_default(), &mut new);
    all.extend((!new.is_empty()).then(|| Bytes::from(new)));
    let mut all = all.into_iter();
    Spliced { first: all.next().unwrap_or_default(), rest: all.collect() }
}

/// Writes the edits, which must not overlap, into a copy of `body` of exactly the right size.
pub(super) fn apply(body: &[u8], edits: &mut [Edit<'_>]) -> Bytes {
    // Stable: what is added at one place keeps its order.
    edits.sort_by_key(|edit| edit.span.start);
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let removed: usize = edits.iter().map(|edit| edit.span.of(body).len()).sum();
    let mut out = Vec::with_capacity((body.len() + added).saturating_sub(removed));
    let mut from = 0;
    for edit in edits {
        out.extend_from_slice(body.get(from..edit.span.start).unwrap_or_default());
        edit.text.write(&mut out);
        from = edit.span.end;
    }
    out.extend_from_slice(body.get(from..).unwrap_or_default());
    Bytes::from(out)
}

impl Text<'_> {
    fn len(self) -> usize {
        match self {
            Text::Raw(text) => text.len(),
            Text::Quoted(text) => quoted_len(text),
            Text::Member(name, value) => 2 + quoted_len(name) + value.len(),
            Text::Message(role, text) => {
                MESSAGE.map(str::len).iter().sum::<usize>() + role.len() + quoted_len(text)
            }
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Text::Raw(text) => out.extend_from_slice(text.as_bytes()),
            Text::Quoted(text) => write_quoted(text, out),
            Text::Member(name, value) => {
                out.push(b',');
                write_quoted(name, out);
                out.push(b':');
                out.extend_from_slice(value.as_bytes());
            }
            Text::Message(role, text) => {
                let [before, between, behind] = MESSAGE.map(str::as_bytes);
                out.extend_from_slice(before);
                out.extend_from_slice(role.as_bytes());
                out.extend_from_slice(between);
                write_quoted(text, out);
                out.extend_from_slice(behind);
            }
        }
    }
}

fn write_quoted(text: &str, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "writing a string to memory has no way to fail");
}

/// How long `write_quoted` makes it.
fn quoted_len(text: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::to_raw_value;

    use super::*;

    /// Spliced as it is, and as a long body, which is passed on in pieces.
    fn spliced(body: &str, patch: &Patch<'_>) -> String {
        let view = RequestView::parse(body.as_bytes()).unwrap();
        let short = view.splice(&Bytes::copy_from_slice(body.as_bytes()), patch);
        assert!(short.rest.is_empty());
        let padding = " ".repeat(COPIED);
        let long = Bytes::from(format!("{body}{padding}"));
        let pieces = view.splice(&long, patch);
        assert!(!pieces.first.is_empty() && pieces.rest.iter().all(|piece| !piece.is_empty()));
        let end = pieces.rest.last().unwrap_or(&pieces.first).as_ptr_range().end;
        assert_eq!(end, long.as_ptr_range().end, "what does not change is not copied");
        let text = String::from_utf8(short.into_bytes().to_vec()).unwrap();
        assert_eq!(pieces.into_bytes(), format!("{text}{padding}"));
        text
    }

    const USAGE: Patch<'static> = Patch { model: None, ask_usage: true, set: &[], insert: None };

    #[test]
    fn usage_is_asked_for_in_each_of_the_four_cases() {
        for (body, wanted) in [
            (r#"{"model":"m" }"#, r#"{"model":"m","stream_options":{"include_usage":true} }"#),
            (
                r#"{"stream_options" : null,"model":"m"}"#,
                r#"{"stream_options" : {"include_usage":true},"model":"m"}"#,
            ),
            (
                r#"{"stream_options":{ },"model":"m"}"#,
                r#"{"stream_options":{"include_usage":true },"model":"m"}"#,
            ),
            (
                r#"{"stream_options":{"x":[1] },"model":"m"}"#,
                r#"{"stream_options":{"x":[1],"include_usage":true },"model":"m"}"#,
            ),
            (
                r#"{"stream_options":{"include_usage": false,"x":1},"model":"m"}"#,
                r#"{"stream_options":{"include_usage": true,"x":1},"model":"m"}"#,
            ),
            (
                r#"{"stream_options":{"include\u005fusage":{"a":[]}},"model":"m"}"#,
                r#"{"stream_options":{"include\u005fusage":true},"model":"m"}"#,
            ),
        ] {
            assert_eq!(spliced(body, &USAGE), wanted);
        }
    }

    #[test]
    fn a_patch_that_changes_nothing_gives_back_the_same_buffer() {
        let body = Bytes::from_static(
            br#"{"model":"\u006d","stream_options":{"include_usage":true},"n": 1}"#,
        );
        let view = RequestView::parse(&body).unwrap();
        let one = to_raw_value(&1).unwrap();
        for patch in [
            Patch::default(),
            Patch { model: Some("m"), ask_usage: true, ..Patch::default() },
            Patch { model: Some("m"), ask_usage: true, set: &[("n", &one)], insert: None },
        ] {
            assert_eq!(view.splice(&body, &patch).first.as_ptr(), body.as_ptr());
        }
    }

    #[test]
    fn fields_are_replaced_or_added_and_the_last_of_a_name_counts() {
        let [one, two, text] =
            [to_raw_value(&1), to_raw_value(&2), to_raw_value("x")].map(Result::unwrap);
        let set = [("n", &*one), ("new", &*one), ("n", &*two), ("q\"", &*text), ("model", &*text)];
        let body = r#"{"n" : 7 , "model":"a"}"#;
        let patch = Patch { model: Some("b\"\u{1}"), ask_usage: true, set: &set, insert: None };
        let wanted = concat!(
            r#"{"n" : 2 , "model":"b\"\u0001","stream_options":{"include_usage":true}"#,
            r#","new":1,"q\"":"x"}"#
        );
        assert_eq!(spliced(body, &patch), wanted);
        let patch = Patch { set: &set, ..Patch::default() };
        assert_eq!(spliced(body, &patch), r#"{"n" : 2 , "model":"x","new":1,"q\"":"x"}"#);
    }

    #[test]
    fn stream_options_of_a_policy_win_over_asking() {
        let options = RawValue::from_string("{\"a\":1}".to_owned()).unwrap();
        let set = [("stream_options", &*options)];
        let patch = Patch { ask_usage: true, set: &set, ..Patch::default() };
        let body = r#"{"stream_options":{},"model":"m"}"#;
        assert_eq!(spliced(body, &patch), r#"{"stream_options":{"a":1},"model":"m"}"#);
    }

    #[test]
    fn another_body_than_the_parsed_one_does_no_harm() {
        let view = RequestView::parse(br#"{"x":[1,2,3],"model":"m","stream":true}"#).unwrap();
        let patch = Patch { model: Some("other"), ask_usage: true, ..Patch::default() };
        for body in [&b""[..], b"{}", br#"{"model":"m"}"#] {
            view.splice(&Bytes::from_static(body), &patch);
            assert_eq!(view.raw(body, "stream"), None);
        }
    }

    proptest! {
        #[test]
        fn a_buffer_is_of_exactly_the_right_size(text in any::<String>()) {
            let mut out = Vec::new();
            write_quoted(&text, &mut out);
            prop_assert_eq!(out.len(), quoted_len(&text));
        }
    }
}
