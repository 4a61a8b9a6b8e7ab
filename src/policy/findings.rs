//! Collects what a check finds, with the place of each finding.

use std::ops::Range;
use std::time::Duration;

use serde_saphyr::Location;
use serde_saphyr::Spanned;

use super::diagnostic::Diagnostic;
use super::diagnostic::Place;
use super::diagnostic::Severity;
use super::diagnostic::nearest;
use super::diagnostic::place;
use super::expression::Expression;
use super::source::Source;
use super::units::Seconds;

/// Everything found so far.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Diagnostic>);

/// One file that is being checked.
#[derive(Clone, Copy)]
pub(super) struct File<'a>(pub(super) &'a Source);

impl Findings {
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Something that makes the folder unusable.
    pub(super) fn error<T>(&mut self, file: File<'_>, at: &Spanned<T>, message: String) {
        self.push(Diagnostic::error(Some(file.place(at)), message));
    }

    /// The same, with the cure.
    pub(super) fn cure<T>(&mut self, file: File<'_>, at: &Spanned<T>, message: String, help: &str) {
        self.push(Diagnostic::error(Some(file.place(at)), message).help(help));
    }

    /// A name that nobody knows.
    pub(super) fn unknown<'n>(
        &mut self,
        place: Place,
        (what, name): (&str, &str),
        known: impl IntoIterator<Item = &'n str>,
        otherwise: &str,
    ) {
        let help = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => otherwise.to_owned(),
        };
        self.push(Diagnostic::error(Some(place), format!("unknown {what} `{name}`")).help(help));
    }

    /// A deadline; one of no time would end everything at once.
    pub(super) fn duration(
        &mut self,
        key: &str,
        given: &Option<Spanned<Seconds>>,
        file: File<'_>,
    ) -> Option<Duration> {
        let given = given.as_ref()?;
        if given.value.0.is_zero() {
            self.error(file, given, format!("`{key}` must be more than 0"));
        }
        Some(given.value.0)
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|found| found.severity == Severity::Error)
    }

    /// Compiles a condition; what is wrong in it is found where it stands in the file.
    pub(super) fn expression(
        &mut self,
        file: File<'_>,
        source: &Spanned<String>,
    ) -> Option<Expression> {
        match Expression::compile(&source.value) {
            Ok(expression) => Some(expression),
            Err(complaints) => {
                for complaint in complaints {
                    let place = file.place_in(source, &complaint.span);
                    let mut found = Diagnostic::error(Some(place), complaint.message);
                    found.help = complaint.help;
                    self.push(found);
                }
                None
            }
        }
    }
}

impl File<'_> {
    /// Where a value stands.
    pub(super) fn place<T>(self, at: &Spanned<T>) -> Place {
        let width =
            self.written(&at.referenced).lines().next().map_or(1, |line| line.chars().count());
        self.at(&at.referenced, width)
    }

    /// A place of that many characters.
    pub(super) fn at(self, location: &Location, width: usize) -> Place {
        place(&self.0.name, &self.0.text, location.line(), location.column(), width)
    }

    /// Where a part of a text stands. A text that is folded or escaped is marked as a whole where
    /// the part is not found as it is.
    pub(super) fn place_in(self, text: &Spanned<String>, part: &Range<usize>) -> Place {
        let written = self.written(&text.referenced);
        let (Some(before), Some(of)) = (text.value.get(..part.start), text.value.get(part.clone()))
        else {
            return self.place(text);
        };
        let quote = usize::from(written.starts_with(['\'', '"']));
        let same = written.get(quote..).is_some_and(|rest| rest.starts_with(&text.value));
        let at = match same {
            true => Some(quote + part.start),
            // The same words, the so-many-th time.
            false if of.is_empty() => None,
            false => written.match_indices(of).nth(before.matches(of).count()).map(|(at, _)| at),
        };
        let Some(ahead) = at.and_then(|at| written.get(..at)) else { return self.place(text) };
        let last = ahead.rsplit('\n').next().unwrap_or_default();
        let lines = u64::try_from(ahead.matches('\n').count()).unwrap_or_default();
        let shift = u64::try_from(last.chars().count()).unwrap_or_default();
        let column = if lines == 0 { text.referenced.column() + shift } else { shift + 1 };
        let line = text.referenced.line() + lines;
        place(&self.0.name, &self.0.text, line, column, of.chars().count())
    }

    /// What is written at a location.
    fn written(&self, location: &Location) -> &str {
        let bytes = location.span().byte_offset().zip(location.span().byte_len());
        let range = bytes.and_then(|(at, len)| {
            let at = usize::try_from(at).ok()?;
            Some(at..at + usize::try_from(len).ok()?)
        });
        range.and_then(|range| self.0.text.get(range)).unwrap_or_default()
    }
}
