//! Guesses which name was meant.

/// The name among `known` that is nearest to `written`; `None` when all are far.
pub(super) fn nearest<'k>(
    written: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    fn last(name: &str) -> &str {
        name.rsplit('.').next().unwrap_or(name)
    }
    let scored = known.into_iter().map(|name| {
        // `stream` stands for `request.stream`.
        let is_short = !written.contains('.') && last(name) == written;
        (if is_short { 0 } else { distance(written, name) }, name)
    });
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + last(written).chars().count() / 4).then_some(name)
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (at, wanted) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = at;
        let mut before = at + 1;
        for (cell, found) in row.iter_mut().skip(1).zip(right.chars()) {
            let replaced = diagonal + usize::from(wanted != found);
            diagonal = *cell;
            *cell = replaced.min(before + 1).min(*cell + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["request.model", "request.stream", "tokens.prompt", "importance"];

    #[test]
    fn a_name_is_recognised_by_a_few_wrong_letters_or_its_last_word() {
        assert_eq!(nearest("request.modle", KNOWN), Some("request.model"));
        assert_eq!(nearest("Request.Model", KNOWN), Some("request.model"));
        assert_eq!(nearest("stream", KNOWN), Some("request.stream"));
        assert_eq!(nearest("importence", KNOWN), Some("importance"));
        assert_eq!(nearest("price", KNOWN), None);
    }

    #[test]
    fn distances_are_levenshteins() {
        for (left, right, expected) in
            [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
