//! Stage 6: secrets and personal data go, once more after capture; one value has one placeholder
//! throughout a conversation.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde_json::Value;

use crate::redact;
use crate::redact::Kinds;
use crate::redact::Placeholders;
use crate::training::example::Example;
use crate::training::example::role;
use crate::training::settings::Redact;
use crate::training::settings::Redacted;
use crate::training::tally::Reason;
use crate::training::tally::Tally;

use super::normalise::for_each_text;

/// Placeholders are numbered by first appearance, so that the key never shows in what is written.
const KEY: [u8; 16] = [0; 16];

/// Names of what is replaced as the counts show them.
const REASONS: [(&str, Reason); 6] = [
    ("CARD", "redact.card"),
    ("EMAIL", "redact.email"),
    ("IBAN", "redact.iban"),
    ("IP", "redact.ip"),
    ("PHONE", "redact.phone"),
    ("SSN", "redact.ssn"),
];

/// Replaces what the recipe wants replaced in everything that is learned or read.
pub(in crate::training) fn redact(example: &mut Example, settings: &Redact, tally: &mut Tally) {
    let kinds = Kinds {
        secrets: settings.kinds.contains(&Redacted::Secrets),
        pii: settings.kinds.contains(&Redacted::Pii),
    };
    let mut placeholders = Placeholders::new(KEY);
    let mut fields = Fields { names: &settings.fields, known: HashMap::new(), replaced: 0 };
    for message in example.messages.iter_mut().chain(&mut example.rejected) {
        let from_tool = role(message) == "tool";
        let mut change = |text: &mut String| {
            if !settings.fields.is_empty() {
                fields.replace(text);
            }
            if let std::borrow::Cow::Owned(changed) = redact::text(kinds, &mut placeholders, text) {
                *text = changed;
            }
        };
        for_each_text(message, &mut change);
        if from_tool {
            continue;
        }
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            if let Some(Value::String(arguments)) = call.pointer_mut("/function/arguments") {
                change(arguments);
            }
        }
    }
    let tools = Value::from(std::mem::take(&mut example.tools)).to_string();
    let tools = redact::json(kinds, &mut placeholders, tools.as_bytes());
    example.tools = serde_json::from_slice(&tools).unwrap_or_default();
    tally.rewrite("redact.field", fields.replaced);
    for (name, times) in placeholders.counts() {
        let known = REASONS.iter().find(|(known, _)| *known == name);
        tally.rewrite(known.map_or("redact.secret", |(_, reason)| reason), times);
    }
}

/// Values of members that have a certain name.
struct Fields<'a> {
    names: &'a BTreeMap<String, String>,
    known: HashMap<(String, String), usize>,
    replaced: u64,
}

impl Fields<'_> {
    /// Replaces them in a text that is JSON; any other stays.
    fn replace(&mut self, text: &mut String) {
        if !text.trim_start().starts_with(['{', '[']) {
            return;
        }
        let Ok(mut value) = serde_json::from_str(text) else { return };
        let before = self.replaced;
        self.walk(&mut value);
        if self.replaced > before {
            *text = value.to_string();
        }
    }

    fn walk(&mut self, value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|value| self.walk(value)),
            Value::Object(members) => {
                for (name, value) in members {
                    match self.names.get(name) {
                        Some(label) if !value.is_object() && !value.is_array() => {
                            *value = self.placeholder(label, &value.to_string()).into();
                        }
                        _ => self.walk(value),
                    }
                }
            }
            _ => {}
        }
    }

    fn placeholder(&mut self, label: &str, value: &str) -> String {
        let next = 1 + self.known.keys().filter(|(other, _)| other == label).count();
        let number = *self.known.entry((label.to_owned(), value.to_owned())).or_insert(next);
        self.replaced += 1;
        format!("<{label}_{number}>")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_has_one_placeholder_throughout_a_conversation() {
        let arguments = r#"{"to": "ada@example.com", "dob": "1990-01-01"}"#;
        let function = json!({ "name": "mail", "arguments": arguments });
        let messages = vec![
            json!({ "role": "user", "content": "I am ada@example.com, not bob@example.com" }),
            json!({ "role": "assistant", "tool_calls": [{ "id": "a", "function": function }] }),
            json!({ "role": "tool", "content": r#"[{"dob":"1990-01-01"},{"dob":"2000-02-02"}]"# }),
        ];
        let (mut example, mut tally) =
            (Example { messages, ..Example::default() }, Tally::default());
        let fields = [("dob".to_owned(), "BIRTH_DATE".to_owned())].into();
        redact(&mut example, &Redact { fields, ..Redact::default() }, &mut tally);
        assert_eq!(example.messages[0]["content"], "I am <EMAIL_1>, not <EMAIL_2>");
        let told = example.messages[1].pointer("/tool_calls/0/function/arguments").unwrap();
        assert_eq!(told, r#"{"dob":"<BIRTH_DATE_1>","to":"<EMAIL_1>"}"#);
        let found = r#"[{"dob":"<BIRTH_DATE_1>"},{"dob":"<BIRTH_DATE_2>"}]"#;
        assert_eq!(example.messages[2]["content"], found);
        assert_eq!(tally.rewritten, [("redact.email", 3), ("redact.field", 3)].into());
    }
}
