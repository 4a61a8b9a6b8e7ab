//! Stage 9: nothing is learned from what a model will be judged by.

use std::collections::HashSet;

use serde_json::Value;

use crate::training::example::Example;
use crate::training::example::role;
use crate::training::example::said;
use crate::training::sip::sip;
use crate::training::tally::Reason;

const KEY: [u64; 2] = [0x7765_6972, 0x686f_6c64];

/// Runs of words of what a model is judged by.
#[derive(Debug)]
pub(in crate::training) struct Holdout {
    ngram: usize,
    runs: HashSet<u64>,
}

impl Holdout {
    pub(in crate::training) fn new(ngram: usize) -> Self {
        Self { ngram, runs: HashSet::new() }
    }

    /// Adds a line: of JSON all the texts in it but the system's, of anything else the whole line.
    pub(in crate::training) fn add(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Value::String(text)) => self.add_text(&text),
            Ok(value) => self.add_value(&value),
            Err(_) => self.add_text(line),
        }
    }

    fn add_value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add_text(text),
            Value::Array(list) => list.iter().for_each(|value| self.add_value(value)),
            Value::Object(_) if role(value) == "system" => {}
            Value::Object(members) => members
                .iter()
                .filter(|(name, _)| *name != "tools")
                .for_each(|(_, value)| self.add_value(value)),
            _ => {}
        }
    }

    fn add_text(&mut self, text: &str) {
        let ngram = self.ngram;
        self.runs.extend(runs(text, ngram));
    }

    /// Whether an example shares a run of words with it.
    pub(in crate::training) fn check(&self, example: &Example) -> Result<(), Reason> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let others = example.messages.iter().filter(|message| role(message) != "system");
        for message in others {
            if runs(&said(message), self.ngram).iter().any(|run| self.runs.contains(run)) {
                return Err("contamination.holdout");
            }
        }
        Ok(())
    }
}

fn runs(text: &str, ngram: usize) -> Vec<u64> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    words.windows(ngram).map(|run| sip(KEY, run.join(" ").as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thirteen_words_in_a_row_are_too_many() {
        let question = "one two three four five six seven eight nine ten eleven twelve thirteen";
        let mut holdout = Holdout::new(13);
        let system = json!({ "role": "system", "content": question.replace("one", "zero") });
        let user = json!({ "role": "user", "content": question });
        holdout.add(&json!({ "messages": [system, user] }).to_string());
        let of = |text: &str| Example {
            messages: vec![json!({ "role": "user", "content": text })],
            ..Example::default()
        };
        let same = format!("Well: {}!", question.replace(' ', ", ").to_uppercase());
        assert_eq!(holdout.check(&of(&same)), Err("contamination.holdout"));
        assert_eq!(holdout.check(&of(&question.replace("seven", "7"))), Ok(()));
        assert_eq!(holdout.check(&of(&question.replace("one", "zero"))), Ok(()), "system's words");
    }
}
