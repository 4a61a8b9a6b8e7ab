//! What clients note on their requests for the record: tags and the session.

use http::HeaderMap;
use http::HeaderValue;

const TAG: &str = "x-weir-tag-";
const SESSION: &str = "x-weir-session";
/// Tags of one request; more are left out.
const MOST_TAGS: usize = 16;
/// Bytes of a tag's name, of its value, and of a session; longer ones are left out, since a part of
/// them would be another one.
const LONGEST: usize = 256;

/// The notes of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Name and value, the first of each name.
    pub(super) tags: Vec<(String, String)>,
    pub(super) session: Option<String>,
}

impl Notes {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut notes = Self::default();
        for name in headers.keys().map(|name| name.as_str()) {
            if let Some(tag) = name.strip_prefix(TAG).filter(|tag| !tag.is_empty()) {
                let value = headers.get(name).and_then(text);
                if let Some(value) = value
                    && notes.tags.len() < MOST_TAGS
                    && tag.len() <= LONGEST
                {
                    notes.tags.push((tag.to_owned(), value));
                }
            } else if name == SESSION {
                notes.session = headers.get(name).and_then(text);
            }
        }
        notes
    }
}

fn text(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    (!text.is_empty() && text.len() <= LONGEST).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn tags_and_session_are_taken_as_far_as_they_can_be_kept() {
        let mut headers = HeaderMap::new();
        let long = "v".repeat(257);
        for (name, value) in [
            ("x-weir-tag-app", "chat"),
            ("x-weir-tag-app", "second"),
            ("x-weir-tag-", "nameless"),
            ("x-weir-tag-long", &long),
            ("x-weir-session", " s-1 "),
            ("authorization", "Bearer sk-1"),
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let notes = Notes::of(&headers);
        assert_eq!(notes.tags, [("app".to_owned(), "chat".to_owned())]);
        assert_eq!(notes.session.as_deref(), Some("s-1"));
        for number in 0..20 {
            let name: HeaderName = format!("x-weir-tag-t{number}").parse().unwrap();
            headers.append(name, "x".parse().unwrap());
        }
        assert_eq!(Notes::of(&headers).tags.len(), 16);
    }
}
