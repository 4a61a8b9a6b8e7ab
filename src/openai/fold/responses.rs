//! The events of a response: its last one holds the whole; without it the items are put together.

use std::collections::BTreeMap;

use crate::openai::fold::ends_response;
use crate::openai::fold::fields::{
    Fields, Pairs, Tally, Writer, elements, inner, member, members, number, part, replace,
    write_list,
};

/// A response that grows event by event.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// The last `response` that an event held: JSON text, or empty.
    response: Vec<u8>,
    /// That one is the whole.
    whole: bool,
    items: BTreeMap<u64, Item>,
    /// The last event of an error: JSON text, or empty.
    error: Vec<u8>,
}

/// Where a text belongs.
#[derive(Clone, Copy)]
enum Place {
    Item,
    Content,
    Summary,
}

impl Responses {
    pub(super) fn take(&mut self, event: &[u8], tally: &mut Tally) {
        let pairs = members(event, tally);
        let kind = inner(member(&pairs, b"type").unwrap_or_default());
        let response = member(&pairs, b"response").filter(|json| json.starts_with(b"{"));
        if let Some(response) = response.filter(|_| !self.whole || ends_response(kind)) {
            replace(&mut self.response, response, tally);
            self.whole = ends_response(kind);
            if self.whole {
                self.items.clear();
                tally.bytes = response.len();
            }
        }
        let error = member(&pairs, b"error").filter(|json| *json != b"null");
        if let Some(error) = error.or((kind == b"error").then_some(event)) {
            replace(&mut self.error, error, tally);
        }
        if let (false, Some(index)) = (self.whole, member(&pairs, b"output_index")) {
            self.take_part(kind, number(index).unwrap_or(0), &pairs, tally);
        }
    }

    /// Whether the last event was there.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    fn take_part(&mut self, kind: &[u8], index: u64, pairs: &Pairs<'_>, tally: &mut Tally) {
        let item = part(&mut self.items, index, tally);
        let held = tally.bytes;
        let mut dropped = 0;
        match (kind, member(pairs, b"item")) {
            (b"response.output_item.added" | b"response.output_item.done", Some(json)) => {
                dropped = std::mem::replace(item, Item::of(json, tally)).bytes;
            }
            _ => item.take(kind, pairs, tally),
        }
        item.bytes = (item.bytes + tally.bytes).saturating_sub(held);
        tally.bytes = tally.bytes.saturating_sub(dropped);
    }

    pub(super) fn write(&self, incomplete: Option<&[u8]>, out: &mut Vec<u8>) {
        if self.whole {
            return out.extend_from_slice(&self.response);
        }
        let mut response = Writer::begin(out);
        let mut told = false;
        for (name, value) in members(&self.response, &mut Tally::default()) {
            match name {
                b"output" => {
                    self.write_output(response.name(name));
                    told = true;
                }
                b"error" if !self.error.is_empty() => {}
                b"weir_incomplete" => {}
                _ => response.json(name, value),
            }
        }
        if self.response.is_empty() {
            response.json(b"object", br#""response""#);
        }
        if !told {
            self.write_output(response.name(b"output"));
        }
        if !self.error.is_empty() {
            response.json(b"error", &self.error);
        }
        if let Some(why) = incomplete {
            response.json(b"weir_incomplete", why);
        }
        response.end();
    }

    fn write_output(&self, out: &mut Vec<u8>) {
        // Events of tools at work tell nothing by themselves.
        let items = self.items.values().filter(|item| !item.is_empty());
        write_list(out, items, Item::write);
    }
}

type Parts = BTreeMap<u64, Fields>;

#[derive(Debug, Default)]
struct Item {
    fields: Fields,
    /// Parts by `content_index`; None for an item that has no such list.
    content: Option<Parts>,
    /// Parts by `summary_index`.
    summary: Option<Parts>,
    /// Bytes that it holds.
    bytes: usize,
}

impl Item {
    fn of(json: &[u8], tally: &mut Tally) -> Self {
        let mut item = Self::default();
        for (name, value) in members(json, tally) {
            match name {
                b"content" if value.starts_with(b"[") => item.content = Some(parts(value, tally)),
                b"summary" if value.starts_with(b"[") => item.summary = Some(parts(value, tally)),
                _ => item.fields.merge(name, value, tally),
            }
        }
        item
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.content.is_none() && self.summary.is_none()
    }

    fn take(&mut self, kind: &[u8], pairs: &Pairs<'_>, tally: &mut Tally) {
        let kind = kind.strip_prefix(b"response.").unwrap_or(kind);
        let dot = memchr::memrchr(b'.', kind).unwrap_or(kind.len());
        let (what, verb) = kind.split_at_checked(dot).unwrap_or((kind, b""));
        let (place, field): (Place, &[u8]) = match what {
            b"content_part" => return self.open(Place::Content, pairs, tally),
            b"reasoning_summary_part" => return self.open(Place::Summary, pairs, tally),
            b"output_text.annotation" => (Place::Content, b"annotations"),
            b"output_text" | b"reasoning_text" => (Place::Content, b"text"),
            b"refusal" => (Place::Content, b"refusal"),
            b"reasoning_summary_text" => (Place::Summary, b"text"),
            b"function_call_arguments" | b"mcp_call_arguments" => (Place::Item, b"arguments"),
            b"custom_tool_call_input" => (Place::Item, b"input"),
            b"code_interpreter_call_code" => (Place::Item, b"code"),
            _ => return,
        };
        let fields = self.place(place, pairs, tally);
        match verb {
            b".added" => {
                if let Some(annotation) = member(pairs, b"annotation") {
                    fields.push(field, annotation, tally);
                }
            }
            b".delta" => say(fields, field, pairs, tally),
            b".done" => {
                if let Some(said) = member(pairs, field) {
                    fields.set(field, said, tally);
                }
            }
            _ => {}
        }
    }

    /// A part begins or ends; either way the event holds all of it.
    fn open(&mut self, place: Place, pairs: &Pairs<'_>, tally: &mut Tally) {
        let Some(opened) = member(pairs, b"part") else { return };
        let fields = self.place(place, pairs, tally);
        for (name, value) in members(opened, tally) {
            fields.set(name, value, tally);
        }
    }

    fn place(&mut self, place: Place, pairs: &Pairs<'_>, tally: &mut Tally) -> &mut Fields {
        let (parts, index) = match place {
            Place::Item => return &mut self.fields,
            Place::Content => (&mut self.content, &b"content_index"[..]),
            Place::Summary => (&mut self.summary, &b"summary_index"[..]),
        };
        let index = member(pairs, index).and_then(number).unwrap_or(0);
        part(parts.get_or_insert_default(), index, tally)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let lists = [(&b"content"[..], &self.content), (b"summary", &self.summary)];
        let lists = lists.map(|(name, parts)| parts.as_ref().map(|parts| (name, parts)));
        let written = lists.map(|list| list.map_or(&b""[..], |(name, _)| name));
        let mut item = Writer::begin(out);
        item.others(&self.fields, &written);
        for (name, parts) in lists.into_iter().flatten() {
            write_list(item.name(name), parts.values(), Fields::write);
        }
        item.end();
    }
}

/// The parts of a list, by their places.
fn parts(list: &[u8], tally: &mut Tally) -> Parts {
    let mut parts = Parts::new();
    for (index, json) in (0..).zip(elements(list, tally)) {
        part(&mut parts, index, tally).merge_object(json, tally);
    }
    parts
}

/// A piece of text, with its log probabilities.
fn say(fields: &mut Fields, field: &[u8], pairs: &Pairs<'_>, tally: &mut Tally) {
    if let Some(delta) = member(pairs, b"delta") {
        fields.merge(field, delta, tally);
    }
    if let Some(logprobs) = member(pairs, b"logprobs").filter(|list| *list != b"[]") {
        fields.merge(b"logprobs", logprobs, tally);
    }
}
