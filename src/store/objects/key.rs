//! Which keys an object may have: those that every kind of store keeps, and that no folder's `..`
//! or link syntax can turn into a way out.

use object_store::path::Path;

use super::ObjectError;

/// S3's limit for a key, in bytes.
const LONGEST: usize = 1024;
/// A file's name has at most 255 bytes, of which the file store needs some for its drafts.
const LONGEST_PART: usize = 240;

/// Checks a key of parts with `/` between them.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(key: &str) -> Result<Path, ObjectError> {
    let bad = |reason| ObjectError::BadKey { key: key.escape_debug().to_string(), reason };
    if let Some(reason) = objection(key) {
        return Err(bad(reason));
    }
    Path::parse(key).map_err(|_| bad("the store's library refuses it"))
}

fn objection(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        return Some("it is empty");
    }
    if key.len() > LONGEST {
        return Some("it is longer than 1024 bytes");
    }
    if key.starts_with('/') {
        return Some("it begins with `/`; keys are relative");
    }
    if key.chars().any(char::is_control) {
        return Some("it contains a control character");
    }
    if key.contains('\\') {
        return Some("it contains a backslash; write `/` between parts");
    }
    // The file store's drafts are called `<name>#<number>`.
    if key.contains('#') {
        return Some("it contains `#`");
    }
    key.split('/').find_map(|part| match part {
        "" => Some("it has an empty part, or `/` at its end"),
        "." | ".." => Some("it has a part `.` or `..`"),
        part if part.len() > LONGEST_PART => Some("it has a part of more than 240 bytes"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_not_every_store_can_keep_are_refused_with_the_reason() {
        let part = "x".repeat(241);
        let long = "x/".repeat(512) + "y"; // 1025 bytes
        let cases = [
            ("", "empty"),
            ("/", "begins with"),
            ("/etc/passwd", "begins with"),
            ("//a", "begins with"),
            ("/../a", "begins with"),
            (".", "part `.`"),
            ("..", "part `.`"),
            ("../a", "part `.`"),
            ("a/..", "part `.`"),
            ("a/../b", "part `.`"),
            ("a/../../b", "part `.`"),
            ("./a", "part `.`"),
            ("a/./b", "part `.`"),
            ("a//b", "empty part"),
            ("a/", "empty part"),
            ("a//", "empty part"),
            ("a\0", "control character"),
            ("a\0/../b", "control character"),
            ("a/\n/b", "control character"),
            ("..\t/b", "control character"),
            (".\r./b", "control character"),
            ("\u{7f}", "control character"),
            ("\u{9b}a", "control character"),
            ("..\\a", "backslash"),
            ("a\\b", "backslash"),
            ("C:\\a", "backslash"),
            ("\\\\host\\share", "backslash"),
            ("a#1", "`#`"),
            (part.as_str(), "240 bytes"),
            (long.as_str(), "1024 bytes"),
        ];
        for (key, expected) in cases {
            let error = parse(key).unwrap_err().to_string();
            assert!(error.contains(expected), "{key:?}: {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn keys_that_only_look_dangerous_stay_as_they_are() {
        let part = "x".repeat(240);
        let long = "x/".repeat(511) + "yz"; // 1024 bytes
        let keys = [
            "interactions/2026/11/23/019ab.zst",
            "...",
            "..a/b..",
            ".hidden",
            "%2e%2e/a",
            "a%2Fb",
            "a b+c=d&e?f*",
            "~/a",
            "$HOME/a",
            "C:/a",
            "überall/日本語/😀",
            "e\u{301}",
            part.as_str(),
            long.as_str(),
        ];
        for key in keys {
            assert_eq!(parse(key).unwrap().as_ref(), key);
        }
    }
}
