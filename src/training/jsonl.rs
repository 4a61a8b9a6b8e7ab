//! Holds the lines of a training file against the rules of a method, and says what it would cost.

use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::metering::cost::Usd;
use crate::metering::tokens::estimate_prompt;

use super::example::calls;
use super::example::role;
use super::provider::Profile;
use super::provider::Terms;
use super::provider::default_epochs;

/// Faults that are told; more are counted.
const MOST_FAULTS: usize = 100;
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The line, counted from 1; `None` for the file as a whole.
    pub line: Option<u64>,
    /// What, where, and the cure.
    pub message: String,
}

/// What a file holds and what training on it would cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong with it.
    pub valid: bool,
    /// supervised, dpo or reinforcement.
    pub method: String,
    /// The model to be trained.
    pub model: String,
    /// Lines.
    pub rows: u64,
    /// Of all lines, as the model counts them.
    pub tokens: u64,
    /// Of the longest line.
    pub longest: u64,
    /// When nobody says how many.
    pub epochs: u64,
    /// Tokens times epochs.
    pub billable_tokens: u64,
    /// In USD; `None` where the price is not known.
    pub cost_usd: Option<Usd>,
    /// When and where the price was read.
    pub price: Option<String>,
    /// Lines with faults.
    pub fault_count: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
}

/// Reads a file line by line; keeps nothing of the lines but sums.
pub struct Checker<'a> {
    profile: &'a Profile,
    terms: Terms,
    report: Report,
    line: u64,
}

impl<'a> Checker<'a> {
    /// For files that a model is to be trained on.
    ///
    /// # Errors
    /// A sentence that says why this model cannot be trained by this method.
    pub fn new(profile: &'a Profile, model: &str, method: &str) -> Result<Self, String> {
        let terms = profile.terms(model, method)?;
        let price = profile.prices_as_of.as_deref().zip(profile.prices_from.as_deref());
        let report = Report {
            valid: true,
            method: method.to_owned(),
            model: model.to_owned(),
            rows: 0,
            tokens: 0,
            longest: 0,
            epochs: 0,
            billable_tokens: 0,
            cost_usd: None,
            price: price.map(|(date, from)| format!("{from}, {date}")),
            fault_count: 0,
            faults: Vec::new(),
        };
        Ok(Self { profile, terms, report, line: 0 })
    }

    /// Looks at the next line, without its end.
    pub fn line(&mut self, bytes: &[u8]) {
        self.line += 1;
        let checked = self.check(bytes);
        if let Err(message) = checked {
            self.fault(Some(self.line), message);
        }
    }

    /// What the file holds.
    pub fn finish(mut self) -> Report {
        let least = self.profile.min_rows;
        if self.report.rows < least {
            let rows = self.report.rows;
            self.fault(None, format!("{rows} examples; the trainer wants at least {least}"));
        }
        let report = &mut self.report;
        report.epochs = default_epochs(report.rows);
        report.billable_tokens = report.tokens.saturating_mul(report.epochs);
        report.cost_usd = self.terms.per_token.map(|price| price.times(report.billable_tokens));
        if report.cost_usd.is_none() {
            report.price = None;
        }
        report.valid = report.fault_count == 0;
        self.report
    }

    fn fault(&mut self, line: Option<u64>, message: String) {
        self.report.fault_count += 1;
        if self.report.faults.len() < MOST_FAULTS {
            self.report.faults.push(Fault { line, message });
        }
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.trim_ascii().is_empty() {
            return Err("an empty line; delete it".to_owned());
        }
        self.report.rows += 1;
        let line: Value = serde_json::from_slice(bytes)
            .map_err(|error| format!("not JSON: {error}; write one object a line"))?;
        if !line.is_object() {
            return Err("not a JSON object; write one object a line".to_owned());
        }
        let tokens = tokens(&self.report.model, &line);
        self.report.longest = self.report.longest.max(tokens);
        let limit = self.terms.tokens_per_example.unwrap_or(u64::MAX);
        // What is beyond the limit is cut off by the trainer, and not paid for.
        self.report.tokens += tokens.min(limit);
        match self.report.method.as_str() {
            "dpo" => dpo(&line)?,
            "reinforcement" => reinforcement(&line)?,
            _ => supervised(&line)?,
        }
        if tokens > limit {
            return Err(format!("{tokens} tokens; {} takes at most {limit}", self.report.model));
        }
        Ok(())
    }
}

/// What a line counts: the messages and tools of a chat; of preferences also both answers.
fn tokens(model: &str, line: &Value) -> u64 {
    let count = |messages: Option<&Value>, tools: Option<&Value>| {
        let chat = json!({ "messages": messages, "tools": tools });
        estimate_prompt(model, chat.to_string().as_bytes())
    };
    let Some(input) = line.get("input") else {
        return count(line.get("messages"), line.get("tools"));
    };
    let mut asked = messages(input).to_vec();
    let outputs = |side: &str| line.get(side).and_then(Value::as_array).cloned();
    asked.extend(outputs("preferred_output").unwrap_or_default());
    let rejected = Value::from(outputs("non_preferred_output").unwrap_or_default());
    count(Some(&asked.into()), input.get("tools")) + count(Some(&rejected), None)
}

fn messages(of: &Value) -> &[Value] {
    of.get("messages").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn supervised(line: &Value) -> Result<(), String> {
    chat(line, "messages")?;
    let messages = messages(line);
    let learns = |message: &&Value| {
        role(message) == "assistant" && message.get("weight").is_none_or(|weight| weight != 0)
    };
    if !messages.iter().any(|message| learns(&message)) {
        return Err("no message of the assistant to learn from".to_owned());
    }
    match messages.last().map(role) {
        Some("assistant") => Ok(()),
        other => Err(format!(
            "the last message is the {}'s, not the assistant's",
            other.unwrap_or_default()
        )),
    }
}

fn dpo(line: &Value) -> Result<(), String> {
    let input = line.get("input").ok_or("`input` is missing")?;
    chat(input, "input.messages")?;
    for side in ["preferred_output", "non_preferred_output"] {
        let outputs = line.get(side).and_then(Value::as_array);
        let outputs = outputs.ok_or_else(|| format!("`{side}` is missing or no array"))?;
        let [answer] = outputs.as_slice() else {
            return Err(format!("`{side}` has to be one message, not {}", outputs.len()));
        };
        message(answer, side)?;
        if role(answer) != "assistant" {
            return Err(format!("`{side}[0]` is not the assistant's"));
        }
    }
    Ok(())
}

fn reinforcement(line: &Value) -> Result<(), String> {
    chat(line, "messages")?;
    match messages(line).last().map(role) {
        Some("user") => Ok(()),
        _ => Err("the last message has to be the user's".to_owned()),
    }
}

fn chat(of: &Value, place: &str) -> Result<(), String> {
    let messages = of.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or_else(|| format!("`{place}` is missing or no array"))?;
    if messages.is_empty() {
        return Err(format!("`{place}` is empty"));
    }
    if of.get("tools").is_some_and(|tools| !tools.is_array()) {
        return Err("`tools` is no array".to_owned());
    }
    for (at, one) in messages.iter().enumerate() {
        message(one, &format!("{place}[{at}]"))?;
    }
    answered(messages, place)
}

fn message(message: &Value, place: &str) -> Result<(), String> {
    let is_known = ROLES.contains(&role(message)) || role(message) == "function";
    if !is_known {
        return Err(format!("`{place}.role` is `{}`, none of {ROLES:?}", role(message)));
    }
    if message.get("weight").is_some_and(|weight| !matches!(weight.as_u64(), Some(0 | 1))) {
        return Err(format!("`{place}.weight` is neither 0 nor 1"));
    }
    let has_calls = !calls(message).is_empty() || message.get("function_call").is_some();
    match message.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) if !parts.is_empty() => {
            parts.iter().try_for_each(part).map_err(|kind| {
                format!(
                    "`{place}.content` has a part of type `{kind}`; there may be text and image_url"
                )
            })?
        }
        None | Some(Value::Null) if has_calls => {}
        _ => return Err(format!("`{place}.content` is missing")),
    }
    calls(message).iter().try_for_each(|call| arguments(call, place))
}

fn part(part: &Value) -> Result<(), String> {
    match part.get("type").and_then(Value::as_str).unwrap_or_default() {
        "text" | "image_url" => Ok(()),
        other => Err(other.to_owned()),
    }
}

fn arguments(call: &Value, place: &str) -> Result<(), String> {
    let arguments = call.pointer("/function/arguments").and_then(Value::as_str);
    let arguments = arguments.and_then(|text| serde_json::from_str::<Value>(text).ok());
    match arguments {
        Some(Value::Object(_)) => Ok(()),
        Some(Value::String(_)) => Err(format!(
            "`{place}.tool_calls` has arguments that are encoded twice; encode the object once"
        )),
        _ => Err(format!("`{place}.tool_calls` has arguments that are no JSON object")),
    }
}

/// Every call has its answer behind it; only those of the last message wait for theirs.
fn answered(messages: &[Value], place: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if role(message) == "tool" {
            let id = message.get("tool_call_id").and_then(Value::as_str).unwrap_or_default();
            let call = open.iter().position(|call| *call == id);
            let call = call.ok_or_else(|| {
                format!("`{place}[{at}]` answers the call `{id}`, which is not open")
            })?;
            open.remove(call);
            continue;
        }
        if let Some(id) = open.first() {
            return Err(format!("`{place}[{at}]` comes before the call `{id}` is answered"));
        }
        open = calls(message).iter().filter_map(|call| call.get("id")?.as_str()).collect();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(model: &str, method: &str, lines: &[&str]) -> Report {
        let profile = Profile::named("openai").unwrap();
        let mut checker = Checker::new(profile, model, method).unwrap();
        lines.iter().for_each(|line| checker.line(line.as_bytes()));
        checker.finish()
    }

    fn fault(method: &str, line: &str) -> String {
        let report = report("gpt-4.1-mini", method, &[line]);
        report.faults.first().map(|fault| fault.message.clone()).unwrap_or_default()
    }

    #[test]
    fn openais_toy_set_counts_as_its_notebook_prints() {
        let file = include_str!("../../tests/fixtures/toy_chat_fine_tuning.jsonl");
        let lines: Vec<&str> = file.lines().collect();
        let report = report("gpt-3.5-turbo", "supervised", &lines);
        assert_eq!((report.tokens, report.epochs, report.billable_tokens), (4306, 20, 86_120));
        // 86,120 tokens at 8 USD per million.
        assert_eq!(report.cost_usd.unwrap().to_string(), "0.68896");
        // One of the five is too long, and five are too few.
        let messages: Vec<_> = report.faults.iter().map(|fault| fault.message.as_str()).collect();
        let long = "8032 tokens; gpt-3.5-turbo takes at most 4096";
        assert_eq!(messages, [long, "5 examples; the trainer wants at least 10"]);
    }

    #[test]
    fn each_fault_is_named_with_its_line() {
        let good =
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
        let mut lines = vec![good; 10];
        assert!(report("gpt-4.1-mini", "supervised", &lines).valid);
        lines.insert(3, "{");
        lines.insert(7, "");
        let report = report("gpt-4.1-mini", "supervised", &lines);
        let at: Vec<_> = report.faults.iter().map(|fault| fault.line).collect();
        assert_eq!((at, report.fault_count), (vec![Some(4), Some(8)], 2));
        assert!(!report.valid && report.rows == 11);
    }

    #[test]
    fn what_a_trainer_would_refuse_is_refused() {
        let cases = [
            ("supervised", r#"[1]"#, "not a JSON object"),
            ("supervised", r#"{"prompt":"a"}"#, "`messages` is missing"),
            (
                "supervised",
                r#"{"messages":[{"role":"user","content":"a"}]}"#,
                "no message of the assistant",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"assistant","content":"a"},{"role":"user","content":"a"}]}"#,
                "the last message is the user's",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"bot","content":"a"}]}"#,
                "`messages[0].role` is `bot`",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"assistant","content":"a","weight":0.5}]}"#,
                "weight",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"assistant"}]}"#,
                "`messages[0].content` is missing",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"user","content":[{"type":"input_audio"}]}]}"#,
                "input_audio",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"\"{}\""}}]}]}"#,
                "encoded twice",
            ),
            (
                "supervised",
                r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]},{"role":"assistant","content":"a"}]}"#,
                "before the call `c` is answered",
            ),
            ("dpo", r#"{"messages":[]}"#, "`input` is missing"),
            (
                "dpo",
                r#"{"input":{"messages":[{"role":"user","content":"a"}]},"preferred_output":{"role":"assistant","content":"b"}}"#,
                "`preferred_output` is missing or no array",
            ),
            (
                "reinforcement",
                r#"{"messages":[{"role":"assistant","content":"a"}]}"#,
                "has to be the user's",
            ),
        ];
        for (method, line, expected) in cases {
            // The only model of the table that is trained by reinforcement.
            let model = if method == "reinforcement" { "o4-mini" } else { "gpt-4.1-mini" };
            let report = report(model, method, &[line]);
            let message = &report.faults[0].message;
            assert!(message.contains(expected), "{line}: {message}");
        }
    }

    #[test]
    fn an_example_over_the_limit_is_named_and_counts_up_to_it() {
        let long = "word ".repeat(20_000);
        let line = json!({"messages": [{"role": "user", "content": long}, {"role": "assistant", "content": "b"}]});
        let report = report("gpt-3.5-turbo", "supervised", &[&line.to_string()]);
        assert_eq!(report.tokens, 4096);
        let message = &report.faults[0].message;
        assert!(message.contains("takes at most 4096"), "{message}");
    }

    #[test]
    fn both_answers_of_a_preference_count() {
        let line = r#"{"input":{"messages":[{"role":"user","content":"a"}]},"preferred_output":[{"role":"assistant","content":"b"}],"non_preferred_output":[{"role":"assistant","content":"c"}]}"#;
        assert_eq!(fault("dpo", line), "1 examples; the trainer wants at least 10");
        // Question and answer: 3 + 2 x (3 + role + text) = 13; the other answer: 3 + 5 = 8.
        assert_eq!(report("gpt-4.1-mini", "dpo", &[line]).tokens, 21);
    }
}
