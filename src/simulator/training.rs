//! What a training file is worth: tokens, epochs, and why it cannot be trained on.

use serde_json::Value;

use crate::simulator::files::StoredFile;

/// Fewest examples that OpenAI trains on.
const LEAST_EXAMPLES: usize = 10;

/// What the training file holds.
#[derive(Clone, Debug)]
pub(super) struct Training {
    pub(super) tokens: u64,
    pub(super) epochs: u64,
    /// Why it cannot be trained on.
    pub(super) fault: Option<String>,
}

impl Training {
    /// Files whose content was not kept count as good.
    pub(super) fn of(file: &StoredFile, asked_epochs: Option<u64>) -> Self {
        let text = file.content.kept.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let fault = file.content.kept.as_ref().and_then(|_| fault(&lines));
        let tokens = file.content.size_bytes.div_ceil(4);
        Self { tokens, epochs: asked_epochs.unwrap_or_else(|| epochs(lines.len())), fault }
    }
}

fn fault(lines: &[&str]) -> Option<String> {
    for (number, line) in lines.iter().enumerate() {
        if !serde_json::from_str::<Value>(line).is_ok_and(|value| value.is_object()) {
            let number = number + 1;
            return Some(format!("Invalid file format. Line {number} is not valid JSON."));
        }
    }
    (lines.len() < LEAST_EXAMPLES).then(|| {
        format!(
            "Training file has {} example(s), but must have at least {LEAST_EXAMPLES} examples",
            lines.len()
        )
    })
}

/// OpenAI's published default: three, more for few examples, fewer for many.
fn epochs(examples: usize) -> u64 {
    let n = u64::try_from(examples.max(1)).unwrap_or(u64::MAX);
    if n.saturating_mul(3) < 100 {
        (100 / n).min(25)
    } else if n.saturating_mul(3) > 25_000 {
        (25_000 / n).max(1)
    } else {
        3
    }
}
