//! One example on its way through the stages: messages, tools, and whose words they were.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

/// What the model is to learn, in the words of chat/completions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Example {
    pub(super) messages: Vec<Value>,
    pub(super) tools: Vec<Value>,
    pub(super) parallel_tool_calls: Option<bool>,
    /// The answer that was worse, where both are known: the last message is the better one.
    pub(super) rejected: Option<Value>,
}

/// What is known of an example beside its words.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    /// The call; `None` of what was imported.
    pub(super) id: Option<Uuid>,
    /// The conversation's name where there is one: a session, or a field of what is imported.
    pub(super) conversation: Option<String>,
    pub(super) user: Option<String>,
    pub(super) key: String,
    pub(super) team: Option<String>,
    /// The model that answered.
    pub(super) model: Option<String>,
    /// The last verdict of each name.
    pub(super) verdicts: Map<String, Value>,
}

impl Example {
    /// One line of the JSONL, without its end. Members are in the order of their names, so that the
    /// same example always is the same bytes.
    pub(super) fn line(&self) -> String {
        let mut line = self.frame(self.messages.clone());
        if let (Some(rejected), Some((chosen, prompt))) =
            (&self.rejected, self.messages.split_last())
        {
            line = pair(self.frame(prompt.to_vec()), chosen.clone(), rejected.clone());
        }
        line.to_string()
    }

    fn frame(&self, messages: Vec<Value>) -> Value {
        let mut line = Map::new();
        line.insert("messages".to_owned(), messages.into());
        if !self.tools.is_empty() {
            line.insert("tools".to_owned(), self.tools.clone().into());
            if let Some(parallel) = self.parallel_tool_calls {
                line.insert("parallel_tool_calls".to_owned(), parallel.into());
            }
        }
        line.into()
    }

    /// The answer that is learned.
    pub(super) fn answer(&self) -> Option<&Value> {
        self.messages.last().filter(|message| role(message) == "assistant")
    }

    /// What the system says, all of it.
    pub(super) fn system(&self) -> String {
        let system = self.messages.iter().filter(|message| role(message) == "system");
        system.map(text).collect::<Vec<_>>().join("\n")
    }

    /// The names of the functions that are called.
    pub(super) fn called(&self) -> impl Iterator<Item = &str> {
        let calls = self.messages.iter().flat_map(calls);
        calls.filter_map(|call| call.pointer("/function/name")?.as_str())
    }
}

/// A line of preferences.
pub(super) fn pair(input: Value, chosen: Value, rejected: Value) -> Value {
    json!({ "input": input, "preferred_output": [chosen], "non_preferred_output": [rejected] })
}

pub(super) fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// The text of a message: of parts, those that are text.
pub(super) fn text(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// A message's tool calls.
pub(super) fn calls(message: &Value) -> &[Value] {
    message.get("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What an assistant said and called, for those who compare answers.
pub(super) fn said(message: &Value) -> String {
    let mut all = text(message);
    for call in calls(message) {
        for place in ["/function/name", "/function/arguments"] {
            all.push(' ');
            all.push_str(call.pointer(place).and_then(Value::as_str).unwrap_or_default());
        }
    }
    all
}
