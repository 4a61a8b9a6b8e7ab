//! JSON that grows event by event and keeps every piece as it was written.
//!
//! Strings are joined as they are escaped: the halves of a surrogate pair that came in two events
//! make one character again. Numbers are never read.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::openai::scan;

/// Objects inside one another that are merged; what is deeper is kept whole, the last one wins.
const MAX_DEPTH: usize = 16;
/// Fields of one object: looking one up takes time with their number.
const MAX_FIELDS: usize = 1000;
/// What a field takes up beside its text, in bytes, roughly.
const FIELD_BYTES: usize = 64;
/// The same of a choice, a tool call, an item or its part.
const PART_BYTES: usize = 256;

/// What merging came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes held.
    pub(super) bytes: usize,
    /// Something was no JSON, or did not go together with what was there.
    pub(super) misfit: bool,
}

/// The part at this index, new when there was none.
pub(super) fn part<'a, T: Default>(
    parts: &'a mut BTreeMap<u64, T>,
    index: u64,
    tally: &mut Tally,
) -> &'a mut T {
    parts.entry(index).or_insert_with(|| {
        tally.bytes += PART_BYTES;
        T::default()
    })
}

/// Names and values of an object.
pub(super) type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The members of an object; names are not unescaped. Anything else is a misfit.
pub(super) fn members<'a>(json: &'a [u8], tally: &mut Tally) -> Pairs<'a> {
    let Ok(members) = scan::members(json) else {
        tally.misfit = true;
        return Vec::new();
    };
    members.list.iter().map(|member| (member.name.of(json), member.value.of(json))).collect()
}

/// The value of a member.
pub(super) fn member<'a>(pairs: &Pairs<'a>, name: &[u8]) -> Option<&'a [u8]> {
    pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1)
}

/// The elements of a list; null has none. Anything else is a misfit.
pub(super) fn elements<'a>(json: &'a [u8], tally: &mut Tally) -> Vec<&'a [u8]> {
    let list: Result<Option<Vec<&RawValue>>, _> = serde_json::from_slice(json);
    tally.misfit |= list.is_err();
    let list = list.unwrap_or_default().unwrap_or_default();
    list.into_iter().map(|element| element.get().as_bytes()).collect()
}

/// A whole number.
pub(super) fn number(json: &[u8]) -> Option<u64> {
    std::str::from_utf8(json).ok()?.parse().ok()
}

/// The text between the first and the last byte: quotes or brackets.
pub(super) fn inner(json: &[u8]) -> &[u8] {
    json.get(1..json.len().saturating_sub(1)).unwrap_or_default()
}

#[derive(Debug)]
enum Node {
    /// Number, boolean, null, or whatever is not merged: its JSON text.
    Whole(Vec<u8>),
    /// What stands between the quotes.
    Text(Vec<u8>),
    /// What stands between the brackets.
    List(Vec<u8>),
    Object(Fields),
}

impl Node {
    fn of(json: &[u8], depth: usize, tally: &mut Tally) -> Self {
        let held = |text: &[u8], tally: &mut Tally| {
            tally.bytes += text.len();
            text.to_vec()
        };
        match json.first() {
            Some(b'"') => Self::Text(held(inner(json), tally)),
            Some(b'[') => Self::List(held(inner(json).trim_ascii(), tally)),
            Some(b'{') if depth < MAX_DEPTH => {
                let mut fields = Fields::default();
                fields.merge_all(json, depth + 1, tally);
                Self::Object(fields)
            }
            _ => Self::Whole(held(json, tally)),
        }
    }

    fn merge(&mut self, name: &[u8], json: &[u8], depth: usize, tally: &mut Tally) {
        match (&mut *self, json.first()) {
            // Null says nothing.
            (_, Some(b'n')) => {}
            (Self::Text(text), Some(b'"')) => join(name, text, inner(json), tally),
            (Self::List(list), Some(b'[')) => append(list, inner(json).trim_ascii(), tally),
            (Self::Object(fields), Some(b'{')) => fields.merge_all(json, depth + 1, tally),
            (old, _) => {
                tally.misfit |= !matches!(old, Self::Whole(_));
                old.set(json, depth, tally);
            }
        }
    }

    fn set(&mut self, json: &[u8], depth: usize, tally: &mut Tally) {
        if let Self::Whole(old) | Self::Text(old) | Self::List(old) = self {
            tally.bytes = tally.bytes.saturating_sub(old.len());
        }
        *self = Self::of(json, depth, tally);
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut between = |open, text: &[u8], close| {
            out.push(open);
            out.extend_from_slice(text);
            out.push(close);
        };
        match self {
            Self::Text(text) => between(b'"', text, b'"'),
            Self::List(list) => between(b'[', list, b']'),
            Self::Whole(json) => out.extend_from_slice(json),
            Self::Object(fields) => fields.write(out),
        }
    }
}

/// Adds a piece of text to what a field said before.
fn join(name: &[u8], text: &mut Vec<u8>, piece: &[u8], tally: &mut Tally) {
    match name {
        // These come whole; some providers repeat them in every event, or leave them empty.
        b"id" | b"type" | b"role" if piece.is_empty() => {}
        b"id" | b"type" | b"role" => replace(text, piece, tally),
        b"name" if text == piece => {}
        _ => {
            tally.bytes += piece.len();
            text.extend_from_slice(piece);
        }
    }
}

fn append(list: &mut Vec<u8>, elements: &[u8], tally: &mut Tally) {
    if !list.is_empty() && !elements.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(elements);
    tally.bytes += elements.len() + 1;
}

/// Puts another text into the place of one that is held.
pub(super) fn replace(old: &mut Vec<u8>, new: &[u8], tally: &mut Tally) {
    if old != new {
        tally.bytes = tally.bytes.saturating_sub(old.len()) + new.len();
        old.clear();
        old.extend_from_slice(new);
    }
}

/// An object's fields, in the order in which they came first.
#[derive(Debug, Default)]
pub(super) struct Fields {
    list: Vec<(Vec<u8>, Node)>,
    /// Where the next one is likely to be: events have their fields in the same order.
    next: usize,
}

impl Fields {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Merges all members of an object into this one.
    pub(super) fn merge_object(&mut self, json: &[u8], tally: &mut Tally) {
        self.merge_all(json, 0, tally);
    }

    fn merge_all(&mut self, json: &[u8], depth: usize, tally: &mut Tally) {
        for (name, value) in members(json, tally) {
            if let Some(node) = self.slot(name, tally) {
                node.merge(name, value, depth, tally);
            }
        }
    }

    /// Strings are joined, lists appended, objects merged; of all else the last that is not null
    /// wins.
    pub(super) fn merge(&mut self, name: &[u8], json: &[u8], tally: &mut Tally) {
        if let Some(node) = self.slot(name, tally) {
            node.merge(name, json, 0, tally);
        }
    }

    /// Appends to a list.
    pub(super) fn push(&mut self, name: &[u8], element: &[u8], tally: &mut Tally) {
        self.merge(name, &[b"[", element, b"]"].concat(), tally);
    }

    /// Forgets what a field said before.
    pub(super) fn set(&mut self, name: &[u8], json: &[u8], tally: &mut Tally) {
        if let Some(node) = self.slot(name, tally) {
            node.set(json, 0, tally);
        }
    }

    /// Of the values that say something (not null, not `""`) the last wins, whole.
    pub(super) fn keep_last(&mut self, name: &[u8], json: &[u8], tally: &mut Tally) {
        let Some(Node::Whole(old)) = self.slot(name, tally) else { return };
        if json != b"null" && (json != br#""""# || old == b"null") {
            replace(old, json, tally);
        }
    }

    /// Whether a field is there and is neither null nor an empty string.
    pub(super) fn says(&self, name: &[u8]) -> bool {
        match self.get(name) {
            None => false,
            Some(Node::Text(text)) => !text.is_empty(),
            Some(Node::Whole(json)) => json != b"null",
            Some(_) => true,
        }
    }

    /// Whether a field is exactly this JSON string, of which `json` is the text.
    pub(super) fn is_text(&self, name: &[u8], json: &[u8]) -> bool {
        matches!(self.get(name), Some(Node::Text(text)) if text == inner(json))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut object = Writer::begin(out);
        object.others(self, &[]);
        object.end();
    }

    fn get(&self, name: &[u8]) -> Option<&Node> {
        self.list.iter().find(|field| field.0 == name).map(|field| &field.1)
    }

    /// The field of this name, null when it is new.
    fn slot(&mut self, name: &[u8], tally: &mut Tally) -> Option<&mut Node> {
        let named = |field: &(Vec<u8>, Node)| field.0 == name;
        let at = match self.list.get(self.next) {
            Some(field) if named(field) => self.next,
            _ => self.list.iter().position(named).unwrap_or(self.list.len()),
        };
        if at == self.list.len() {
            if at == MAX_FIELDS {
                tally.misfit = true;
                return None;
            }
            tally.bytes += name.len() + FIELD_BYTES;
            self.list.push((name.to_vec(), Node::Whole(b"null".to_vec())));
        }
        self.next = at + 1;
        self.list.get_mut(at).map(|field| &mut field.1)
    }
}

/// Writes one JSON object.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Writes a name; its value is to be written next.
    pub(super) fn name(&mut self, name: &[u8]) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(super) fn json(&mut self, name: &[u8], json: &[u8]) {
        self.name(name).extend_from_slice(json);
    }

    /// Writes a field if it is there.
    pub(super) fn field(&mut self, fields: &Fields, name: &[u8]) {
        if let Some(node) = fields.get(name) {
            node.write(self.name(name));
        }
    }

    /// Writes a field, or this value where it is absent or null.
    pub(super) fn field_or(&mut self, fields: &Fields, name: &[u8], json: &[u8]) {
        match fields.get(name) {
            None => self.json(name, json),
            Some(Node::Whole(null)) if null == b"null" => self.json(name, json),
            Some(node) => node.write(self.name(name)),
        }
    }

    /// Writes all fields but those that were written already.
    pub(super) fn others(&mut self, fields: &Fields, written: &[&[u8]]) {
        for (name, node) in fields.list.iter().filter(|field| !written.contains(&&*field.0)) {
            node.write(self.name(name));
        }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes a list, element by element.
pub(super) fn write_list<T>(
    out: &mut Vec<u8>,
    elements: impl IntoIterator<Item = T>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    out.push(b'[');
    for (index, element) in elements.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(b']');
}
