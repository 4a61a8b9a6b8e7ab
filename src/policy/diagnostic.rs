//! What is wrong in a policy folder, and where: as a compiler says it.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The folder is refused.
    Error,
    /// The folder is used, and this is worth a look.
    Warning,
}

/// One thing found in a policy folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where; absent when it is about the folder as a whole.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// The cure, or the nearest known name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where the same name was defined first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file as the user names it.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// Characters to underline, at least 1.
    pub width: usize,
    /// The line itself; secrets in it are masked.
    pub text: String,
}

/// A policy folder that cannot be used, with everything that was found in it.
#[derive(Clone, Debug)]
pub struct Refused(pub Vec<Diagnostic>);

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the policy folder cannot be used")?;
        self.0.iter().try_for_each(|found| write!(f, "\n{found}"))
    }
}

impl Diagnostic {
    /// Something that makes the folder unusable.
    pub(super) fn error(place: Option<Place>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Error, message, place, help: None, first: None }
    }

    /// Something worth a look.
    pub(super) fn warning(place: Option<Place>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        let margin = self.place.as_ref().map_or(1, |place| place.line.to_string().len());
        if let Some(place) = &self.place {
            let before = usize::try_from(place.column.saturating_sub(1)).unwrap_or_default();
            let caret = "^".repeat(place.width.max(1));
            writeln!(f, "{:margin$}--> {place}", "")?;
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{} | {}", place.line, place.text)?;
            writeln!(f, "{:margin$} | {:before$}{caret}", "", "")?;
        }
        if let Some(first) = &self.first {
            writeln!(f, "{:margin$} = first at {first}", "")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "{:margin$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// The known name that is nearest to `wrong`, when one is near enough to be meant.
pub(super) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    near(wrong, known).first().copied()
}

/// The known names that are near enough to `wrong` to be meant, the nearest first.
pub(super) fn near<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let length = wrong.chars().count();
    let allowed = length.div_ceil(3).min(4);
    let mut near: Vec<_> = known
        .into_iter()
        // Spares the comparison where the lengths alone are too far apart.
        .filter(|name| name.chars().count().abs_diff(length) <= allowed)
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, name)| name).collect()
}

/// The place of a range of one file's text. `line` and `column` count from 1.
pub(super) fn place(file: &str, text: &str, line: u64, column: u64, width: usize) -> Place {
    let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let text = text.lines().nth(index).unwrap_or_default();
    let left = text.chars().count().saturating_sub(usize::try_from(column).unwrap_or(1) - 1);
    let width = width.clamp(1, left.max(1));
    Place { file: file.to_owned(), line, column, width, text: masked(text) }
}

/// A line as it may be shown: what stands behind a key that holds a secret is replaced, and so is
/// the user in a URL.
fn masked(line: &str) -> String {
    const SECRETS: [&str; 4] = ["api_key", "secret", "password", "authorization"];
    let shown: String = line.chars().take(200).collect();
    let after_key = |key: &&str| {
        shown.match_indices(*key).find_map(|(at, _)| {
            let rest = shown.get(at + key.len()..)?;
            let value = rest.trim_start_matches(['"', '\'', ' ']).strip_prefix(':')?;
            Some(shown.len() - value.len())
        })
    };
    let Some(from) = SECRETS.iter().filter_map(after_key).min() else { return without_user(shown) };
    let (before, value) = shown.split_at_checked(from).unwrap_or((&shown, ""));
    if value.trim().is_empty() || value.contains("${") {
        return without_user(shown);
    }
    format!("{before} …")
}

/// `https://user:password@host` without what stands before the `@`.
fn without_user(line: String) -> String {
    let Some((scheme, rest)) = line.split_once("://") else { return line };
    let authority = rest.split(['/', ' ', '"', '\'']).next().unwrap_or_default();
    let Some((user, _)) = authority.rsplit_once('@') else { return line };
    let kept = rest.strip_prefix(user).unwrap_or_default();
    format!("{scheme}://…{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_a_compiler_says_it() {
        let text = "upstreams:\n  openai:\n    base_ulr: https://h/v1\n";
        let found =
            Diagnostic::error(Some(place("p/a.yaml", text, 3, 5, 8)), "unknown key `base_ulr`")
                .help("did you mean `base_url`?");
        let expected = "error: unknown key `base_ulr`\n --> p/a.yaml:3:5\n  |\n3 |     base_ulr: https://h/v1\n  |     ^^^^^^^^\n  = help: did you mean `base_url`?\n";
        assert_eq!(found.to_string(), expected);
    }

    #[test]
    fn a_secret_in_the_line_is_not_shown() {
        for line in [
            "  api_key: sk-1",
            "a: { url: x, secret: 's3cret' }",
            "authorization: x sk-1",
            r#"{"api_key": "sk-1"}"#,
            "api_key_file: a, api_key : sk-1",
            "base_url: https://me:sk-1@host/v1",
        ] {
            let shown = masked(line);
            assert!(!shown.contains("sk-1") && !shown.contains("s3cret"), "{shown}");
        }
        assert_eq!(masked("api_key: ${KEY}"), "api_key: ${KEY}");
        assert_eq!(masked("base_url: x"), "base_url: x");
    }

    #[test]
    fn the_nearest_name_is_offered_when_it_is_near() {
        let known = ["base_url", "api_key", "timeouts"];
        assert_eq!(nearest("base_ulr", known), Some("base_url"));
        assert_eq!(nearest("apikey", known), Some("api_key"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn a_place_beyond_the_text_is_survived() {
        let place = place("a", "x\n", 9, 40, 100);
        assert_eq!((place.width, place.text.as_str()), (1, ""));
    }
}
