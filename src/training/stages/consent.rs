//! Stage 1: only what may become training data goes on.

use crate::training::tally::Reason;

/// Whether a call's record says so. Nothing enters by default: where capture was lowered, by the
/// policy, a key or the request, the record says nothing.
pub(in crate::training) fn given(consent: Option<&str>) -> Result<(), Reason> {
    if consent == Some("train") { Ok(()) } else { Err("consent.not_given") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_train_is_consent() {
        assert_eq!(given(Some("train")), Ok(()));
        for other in [None, Some(""), Some("log"), Some("Train")] {
            assert_eq!(given(other), Err("consent.not_given"));
        }
    }
}
