//! Reads one YAML file, and says in our words what the reader objects to.

use serde::de::DeserializeOwned;
use serde_saphyr::Error;
use serde_saphyr::Location;
use serde_saphyr::budget::BudgetBreach;

use super::diagnostic::Diagnostic;
use super::diagnostic::nearest;
use super::findings::File;
use super::findings::Findings;
use super::source::Source;

/// Most YAML nodes of one file, what aliases repeat included: a bomb is refused in milliseconds.
const MOST_NODES: usize = 100_000;
/// Most levels of mappings and lists in each other.
const MOST_LEVELS: usize = 32;

/// One file; what the reader objects to is its only finding. A file without content is the default.
pub(super) fn read<T: DeserializeOwned + Default>(
    source: &Source,
    findings: &mut Findings,
) -> Option<T> {
    if let Some(found) = source.too_large() {
        findings.push(found);
        return None;
    }
    if source.text.trim().is_empty() {
        return Some(T::default());
    }
    let error = match parse(&source.text) {
        Ok(file) => return Some(file),
        Err(error) => error,
    };
    let Some(text) = with_quoted_variables(&source.text) else {
        findings.push(objection(File(source), error.without_snippet()));
        return None;
    };
    let error = match parse(&text) {
        Ok(file) => return Some(file),
        Err(error) => error,
    };
    let quoted = Source { name: source.name.clone(), text };
    findings.push(objection(File(&quoted), error.without_snippet()));
    None
}

fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, Error> {
    // A file of nothing but comments is a null document.
    let file = serde_saphyr::from_str_with_options::<Option<T>>(text, options())?;
    Ok(file.unwrap_or_default())
}

/// The text with each `${NAME}` quoted that is a value in braces, as in `{ secret: ${NAME} }`. People
/// write it so, and YAML has braces end a plain text there. `None` where there is none.
fn with_quoted_variables(text: &str) -> Option<String> {
    let (mut out, mut rest, mut before) = (String::new(), text, '\n');
    while let Some((head, tail)) = rest.split_once("${") {
        let (name, after) = tail.split_once('}')?;
        out.push_str(head);
        before = head.trim_end_matches(' ').chars().next_back().unwrap_or(before);
        let line = out.rsplit('\n').next().unwrap_or_default();
        let in_quotes = line.matches('"').count() % 2 == 1;
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let ends = after.trim_start().starts_with([',', '}', ']']);
        let quote = is_name && ends && !in_quotes && [':', ',', '[', '{'].contains(&before);
        let quote = if quote { "\"" } else { "" };
        out.extend([quote, "${", name, "}", quote]);
        (rest, before) = (after, '}');
    }
    out.push_str(rest);
    (out.len() > text.len()).then_some(out)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_NODES,
            max_events: 4 * MOST_NODES,
            max_recorded_anchor_events: 4 * MOST_NODES,
            max_depth: MOST_LEVELS,
            max_documents: 1,
        },
        with_snippet: false,
        // `no` and `off` are words, as in YAML 1.2; a model may be called so.
        strict_booleans: true,
    }
}

fn objection(file: File<'_>, error: &Error) -> Diagnostic {
    let Some(location) = error.location() else {
        return Diagnostic::error(None, format!("{}: {}", file.0.name, sentence(error)));
    };
    let spot = Spot::of(&file.0.text, &location);
    let (message, help) = in_our_words(error, &spot);
    let place = file.at(&location, spot.word.chars().count());
    let found = Diagnostic { help, ..Diagnostic::error(Some(place), message) };
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => Diagnostic {
            first: first_of(&file.0.text, &location, key)
                .map(|(line, column)| format!("{}:{line}:{column}", file.0.name)),
            ..found
        },
        _ => found,
    }
}

/// What is wrong, and the cure.
fn in_our_words(error: &Error, spot: &Spot<'_>) -> (String, Option<String>) {
    let key = &spot.key;
    let not = |wanted: &str| match (key, spot.word) {
        (Some(key), "") => format!("`{key}` must be {wanted}, and is empty"),
        (Some(key), word) => format!("`{key}` must be {wanted}, not `{word}`"),
        (None, "") => format!("here must be {wanted}"),
        (None, word) => format!("here must be {wanted}, not `{word}`"),
    };
    let known = |wrong: &str, all: &[&str]| {
        let list = all.join(", ");
        Some(match nearest(wrong, all.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? Known here are {list}"),
            None => format!("known here are {list}"),
        })
    };
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            (format!("unknown key `{field}`"), known(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            let message = match key {
                Some(key) => format!("`{key}` cannot be `{variant}`"),
                None => format!("unknown `{variant}`"),
            };
            (message, known(variant, expected))
        }
        Error::SerdeMissingField { field, .. } => (format!("the key `{field}` is missing"), None),
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or(spot.word);
            (format!("`{key}` is defined twice"), Some("keep one of them".to_owned()))
        }
        Error::InvalidScalar { ty, .. } => (not(wanted(ty)), None),
        Error::InvalidBooleanStrict { .. } => (not("true or false"), None),
        Error::Unexpected { expected, .. } => (not(wanted(expected)), None),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            (not(expected), None)
        }
        Error::NonFiniteFloat { value, .. } => {
            (format!("`{value}` is no number that JSON has"), None)
        }
        Error::UnknownAnchor { .. } => (format!("`{}` names no anchor before it", spot.word), None),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            (format!("`{}` stands inside of what it names", spot.word), None)
        }
        Error::AliasError { error, .. } => in_our_words(error, spot),
        Error::Budget { breach, .. } => over_budget(breach),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => too_much(),
        _ => match sentence(error) {
            // The parser's own limit, of which it tells no more.
            deep if deep.contains("recursion limit") => too_deep(),
            other => (other, None),
        },
    }
}

/// What the reader wants, as people call it.
fn wanted(expected: &'static str) -> &'static str {
    match expected {
        "u8" | "u16" | "u32" | "u64" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "floating point" => "a number",
        "boolean" => "true or false",
        "mapping start" => "a mapping, `{ key: value }`",
        "sequence start" => "a list, `[a, b]`",
        "string scalar" | "scalar" => "a text",
        other => other,
    }
}

fn over_budget(breach: &BudgetBreach) -> (String, Option<String>) {
    match breach {
        BudgetBreach::Documents { .. } => (
            "a file holds one document".to_owned(),
            Some("take the `---` out, or make it two files".to_owned()),
        ),
        BudgetBreach::Depth { .. } => too_deep(),
        _ => too_much(),
    }
}

fn too_deep() -> (String, Option<String>) {
    (format!("more than {MOST_LEVELS} mappings and lists in each other"), None)
}

fn too_much() -> (String, Option<String>) {
    let message = format!("this file has more than {MOST_NODES} values, with those of its aliases");
    (message, Some("split it into several files, and use fewer aliases".to_owned()))
}

/// The reader's message without its place, which is shown in our own way.
fn sentence(error: &Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.split(" at line ").next().unwrap_or(first);
    first.trim_start_matches("error: ").to_owned()
}

/// What stands where the reader stumbled.
struct Spot<'a> {
    /// The value there; empty where there is none.
    word: &'a str,
    /// The key that the value belongs to, where both stand on one line.
    key: Option<&'a str>,
}

impl<'a> Spot<'a> {
    fn of(text: &'a str, location: &Location) -> Self {
        let (before, after) = split(text, location.line(), location.column());
        // A value that is left out has its place at the key's colon.
        let before = if after.starts_with(':') { before } else { before.trim_end() };
        let key = match after.strip_prefix(':') {
            Some(_) => Some(before),
            None => before.strip_suffix(':'),
        };
        let key = key.map(|key| {
            let from = key.rfind(|c: char| c.is_whitespace() || "{,[".contains(c));
            key.get(from.map_or(0, |at| at + 1)..).unwrap_or_default().trim_matches(['"', '\''])
        });
        let end = match after.chars().next() {
            Some('{' | '[') => Some(1),
            Some(quote @ ('"' | '\'')) => after.match_indices(quote).nth(1).map(|(at, _)| at + 1),
            _ => after.find(|c: char| c.is_whitespace() || ",{}[]:".contains(c)),
        };
        let word = after.get(..end.unwrap_or(after.len())).unwrap_or_default();
        Self { word, key: key.filter(|key| !key.is_empty()) }
    }
}

/// A line before and after a column; both count from 1.
fn split(text: &str, line: u64, column: u64) -> (&str, &str) {
    let index = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(index(line)).unwrap_or_default();
    let at = line.char_indices().nth(index(column)).map_or(line.len(), |(at, _)| at);
    line.split_at_checked(at).unwrap_or((line, ""))
}

/// Line and column of a key that is defined again at `second`, in the same mapping.
fn first_of(text: &str, second: &Location, key: &str) -> Option<(u64, u64)> {
    let is_key = |rest: &str| {
        let rest = rest.trim_start_matches(['"', '\'']);
        let rest = rest.strip_prefix(key).unwrap_or_default();
        rest.trim_start_matches(['"', '\'']).starts_with(':')
    };
    let (before, _) = split(text, second.line(), second.column());
    if !before.trim().is_empty() {
        let in_line = before.char_indices().enumerate().filter(|(_, (at, _))| {
            let (head, rest) = before.split_at_checked(*at).unwrap_or_default();
            head.ends_with([' ', '{', ',']) && is_key(rest)
        });
        let (column, _) = in_line.last()?;
        return Some((second.line(), u64::try_from(column).ok()? + 1));
    }
    let mut line = second.line();
    while line > 1 {
        line -= 1;
        let (before, rest) = split(text, line, second.column());
        if is_key(rest) && before.trim_matches([' ', '-']).is_empty() {
            return Some((line, second.column()));
        }
        let comment = before.trim_start().starts_with('#');
        if !before.trim().is_empty() && !comment {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_in_braces_needs_no_quotes() {
        let cases = [
            (
                "- { url: https://a, secret: ${S}, events: [a.*] }\n",
                Some("- { url: https://a, secret: \"${S}\", events: [a.*] }\n"),
            ),
            ("a: [${X}, b, ${Y}]", Some("a: [\"${X}\", b, \"${Y}\"]")),
            ("a: ${X}\nb: \"{ c: ${Y} }\"\n", None),
            ("a: { b: Bearer ${X} }", None),
            ("a: ${X", None),
        ];
        for (text, expected) in cases {
            assert_eq!(with_quoted_variables(text).as_deref(), expected, "{text}");
        }
    }
}
