//! Stage 2: only answers that came to their end are worth learning.

use crate::training::tally::Reason;

/// What a record says of how a call ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::training) struct Outcome<'a> {
    pub(in crate::training) status: u16,
    pub(in crate::training) finish_reason: Option<&'a str>,
    pub(in crate::training) error_code: Option<&'a str>,
    pub(in crate::training) client_left: bool,
}

/// Whether the answer is whole: neither refused, cut, filtered nor left by its client.
pub(in crate::training) fn whole(outcome: Outcome<'_>) -> Result<(), Reason> {
    if outcome.status != 200 {
        return Err("outcome.status");
    }
    if outcome.client_left {
        return Err("outcome.client_left");
    }
    if outcome.error_code.is_some_and(|code| !code.is_empty()) {
        return Err("outcome.error");
    }
    match outcome.finish_reason {
        // A response says `completed`.
        Some("stop" | "tool_calls" | "function_call" | "completed") => Ok(()),
        Some("length" | "incomplete") => Err("outcome.length"),
        Some("content_filter") => Err("outcome.content_filter"),
        _ => Err("outcome.unfinished"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_did_not_come_to_its_end_says_why() {
        let good = Outcome {
            status: 200,
            finish_reason: Some("stop"),
            error_code: None,
            client_left: false,
        };
        assert_eq!(whole(good), Ok(()));
        for (bad, reason) in [
            (Outcome { status: 429, ..good }, "outcome.status"),
            (Outcome { client_left: true, ..good }, "outcome.client_left"),
            (Outcome { error_code: Some("x"), ..good }, "outcome.error"),
            (Outcome { finish_reason: Some("length"), ..good }, "outcome.length"),
            (Outcome { finish_reason: Some("content_filter"), ..good }, "outcome.content_filter"),
            (Outcome { finish_reason: None, ..good }, "outcome.unfinished"),
        ] {
            assert_eq!(whole(bad), Err(reason));
        }
    }
}
