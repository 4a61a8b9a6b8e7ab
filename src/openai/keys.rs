//! A fast walk over the keys of a JSON text that nobody has validated.
//!
//! Keys are told from text by reading strings from quote to quote: whatever a model writes into its
//! answer stands inside a string with its own quotes escaped, so it cannot pose as a key. Depth is
//! only as good as the text is valid, and nested objects may hold any key: what decides something
//! is read again by the strict scan before it is believed.

use crate::openai::scan;

/// A key and what its value looks like.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// Containers around the key: 1 for the outermost object.
    pub(super) depth: usize,
    /// What stands between the quotes, escapes unresolved.
    pub(super) name: &'a [u8],
    pub(super) value: Value<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A string: what stands between the quotes, escapes unresolved.
    Text(&'a [u8]),
    Null,
    Other,
}

/// The keys in the order written, at any depth; ends early where the text is no JSON.
pub(super) struct Keys<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// A string from its opening to its closing quote.
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            end += scan::plain(self.text.get(end..)?, &mut 0);
            match self.text.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => return None,
            }
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// The next byte that is not whitespace, not taken.
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = Key<'a>;

    fn next(&mut self) -> Option<Key<'a>> {
        loop {
            match self.text.get(self.at)? {
                b'"' => {
                    let name = self.string()?;
                    if self.next_byte()? != b':' {
                        continue;
                    }
                    self.at += 1;
                    let value = match self.next_byte()? {
                        b'"' => Value::Text(self.string()?),
                        b'n' => Value::Null,
                        _ => Value::Other,
                    };
                    return Some(Key { depth: self.depth, name, value });
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_with_their_depth_and_the_kind_of_value() {
        let text = br#"{"a" : "x\"y", "b":[{"c":null}, "d"], "e":{"f":1}}"#;
        let found: Vec<_> = Keys::of(text).map(|key| (key.depth, key.name, key.value)).collect();
        assert_eq!(
            found,
            [
                (1, &b"a"[..], Value::Text(br#"x\"y"#)),
                (1, b"b", Value::Other),
                (3, b"c", Value::Null),
                (1, b"e", Value::Other),
                (2, b"f", Value::Other),
            ]
        );
    }

    #[test]
    fn text_cannot_pose_as_a_key() {
        let said = r#"","usage":{"total_tokens":1},"x":""#;
        let text = serde_json::json!({ "content": said }).to_string();
        let names: Vec<_> = Keys::of(text.as_bytes()).map(|key| key.name).collect();
        assert_eq!(names, [b"content"]);
    }

    #[test]
    fn what_is_no_json_ends_the_walk() {
        for text in ["", "\"", "\"a", "\"a\\", "\"a\":", "\"a\":\"", "{\"a\nb\":1}", "}}]"] {
            assert_eq!(Keys::of(text.as_bytes()).count(), 0, "{text:?}");
        }
    }
}
