//! Replaces secrets and personal data in captured text by typed placeholders, `<EMAIL_1>`.
//!
//! Finding: literal anchors first (`anchors` of secrets, digits and `@` of personal data), then a
//! check by hand at each of them. No decision needs more than a few hundred bytes around an anchor,
//! so that the work is linear in the text, whatever the text is.

mod assignments;
mod bytes;
mod email;
mod escapes;
mod json;
mod label;
mod numbers;
mod personal;
mod phone;
mod placeholders;
mod secrets;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use self::label::Label;
pub use self::placeholders::Placeholders;

/// Replacing can bring to light what the replaced value hid; this often the result is looked at again.
const MAX_PASSES: usize = 8;

/// What is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Keys, tokens, passwords, private keys.
    pub secrets: bool,
    /// E-mail addresses, phone numbers, payment cards, IBANs, US social security numbers, IP addresses.
    pub pii: bool,
}

impl Kinds {
    /// Whether anything is replaced.
    pub fn any(self) -> bool {
        self.secrets || self.pii
    }
}

/// Redacts every string in JSON text, names of members included, also where a string holds JSON or
/// escaped text once more. Everything outside of what was found stays byte for byte; JSON numbers
/// are never touched. Text that is no JSON is redacted as text, and need not be UTF-8.
pub fn json<'a>(kinds: Kinds, placeholders: &mut Placeholders, body: &'a [u8]) -> Cow<'a, [u8]> {
    redacted(kinds, placeholders, body).map_or(Cow::Borrowed(body), Cow::Owned)
}

/// Redacts a text. When it is JSON, as [`json`] does.
pub fn text<'a>(kinds: Kinds, placeholders: &mut Placeholders, text: &'a str) -> Cow<'a, str> {
    let Some(bytes) = redacted(kinds, placeholders, text.as_bytes()) else {
        return Cow::Borrowed(text);
    };
    // What is found starts and ends at characters, so that nothing is ever lost here.
    Cow::Owned(
        String::from_utf8(bytes)
            .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()),
    )
}

/// A value to replace: where it stands, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Find {
    range: Range<usize>,
    label: Label,
}

fn redacted(kinds: Kinds, placeholders: &mut Placeholders, body: &[u8]) -> Option<Vec<u8>> {
    let mut finds = merged(json::find(kinds, body));
    let mut out: Option<Vec<u8>> = None;
    for _ in 0..MAX_PASSES {
        if finds.is_empty() {
            break;
        }
        let current = out.as_deref().unwrap_or(body);
        let (next, changed) = replaced(current, &finds, placeholders);
        finds = merged(json::find_again(kinds, &next, &changed));
        out = Some(next);
    }
    out
}

/// `body` with a placeholder for each of `finds`, which are in order and do not overlap; and where
/// the placeholders stand. They need no escape at any depth, so that JSON stays JSON.
fn replaced(body: &[u8], finds: &[Find], placeholders: &mut Placeholders) -> (Vec<u8>, Vec<usize>) {
    let mut out = Vec::with_capacity(body.len());
    let mut places = Vec::with_capacity(finds.len());
    let mut done = 0;
    for find in finds {
        out.extend_from_slice(body.get(done..find.range.start).unwrap_or_default());
        places.push(out.len());
        let value = body.get(find.range.clone()).unwrap_or_default();
        placeholders.write(find.label, &escapes::resolved(value), &mut out);
        done = find.range.end;
    }
    out.extend_from_slice(body.get(done..).unwrap_or_default());
    (out, places)
}

/// Finds in order; those that overlap become one, with the label that says most.
fn merged(mut finds: Vec<Find>) -> Vec<Find> {
    if finds.len() < 2 {
        return finds;
    }
    finds.sort_unstable_by_key(|find| find.range.start);
    let mut out: Vec<Find> = Vec::with_capacity(finds.len());
    for find in finds {
        match out.last_mut() {
            Some(last) if find.range.start < last.range.end => {
                last.range.end = last.range.end.max(find.range.end);
                last.label = last.label.min(find.label);
            }
            _ => out.push(find),
        }
    }
    out
}

/// What stands in `text`, which is taken as it is: no escapes, no JSON.
fn detected(kinds: Kinds, text: &[u8]) -> Vec<Find> {
    let mut finds = Vec::new();
    if kinds.secrets {
        secrets::find(text, &mut finds);
    }
    if kinds.pii {
        personal::find(text, &mut finds);
    }
    if finds.is_empty() {
        return finds;
    }
    merged(finds).into_iter().flat_map(|find| placeholders::spared(text, find)).collect()
}
