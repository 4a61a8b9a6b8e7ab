//! Stage 3: messages in the shape that fine-tuning accepts, ending with an answer.

use serde_json::Value;
use serde_json::json;

use crate::training::example::Example;
use crate::training::example::calls;
use crate::training::example::role;
use crate::training::example::text;
use crate::training::settings::Structure;
use crate::training::settings::ToolErrors;
use crate::training::tally::Reason;
use crate::training::tally::Tally;

use super::schema;

/// Brings an example into shape.
pub(in crate::training) fn shape(
    example: &mut Example,
    settings: &Structure,
    tally: &mut Tally,
) -> Result<(), Reason> {
    look(example, tally);
    rename(example, tally)?;
    cut_at_sentinel(example, &settings.sentinels, tally);
    trim_end(example, tally)?;
    example.messages.iter().try_for_each(content)?;
    answered(&example.messages)?;
    arguments(example, settings.schemas, tally)?;
    tool_errors(example, settings.tool_errors, tally)
}

/// Brings an example into the shape that preferences have: text alone, and no weights.
pub(in crate::training) fn plain(example: &mut Example) -> Result<(), Reason> {
    for message in &mut example.messages {
        let parts = message.get("content").and_then(Value::as_array);
        if parts.is_some_and(|parts| parts.iter().any(|part| part.get("text").is_none())) {
            return Err("structure.image_in_preference");
        }
        if let Some(members) = message.as_object_mut() {
            members.remove("weight");
        }
    }
    Ok(())
}

/// Counts what there is before anything is changed.
fn look(example: &Example, tally: &mut Tally) {
    let calls: usize = example.messages.iter().map(|message| calls(message).len()).sum();
    let errors = example.messages.iter().filter(|message| is_error(message)).count();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    tally.see("tool_calls", count(calls));
    tally.see("tool_errors", count(errors));
    tally.see("rows_with_tool_errors", u64::from(errors > 0));
    match example.messages.last().map(role) {
        Some("user") => tally.see("ends_with_user", 1),
        Some("tool") => tally.see("ends_with_tool", 1),
        _ => {}
    }
}

/// Roles and calls of other times become those of today.
fn rename(example: &mut Example, tally: &mut Tally) -> Result<(), Reason> {
    let mut call = None;
    for (at, message) in example.messages.iter_mut().enumerate() {
        match role(message) {
            "system" | "user" => {}
            "tool" => forget_name(message),
            "developer" => {
                message["role"] = "system".into();
                tally.rewrite("structure.developer_to_system", 1);
            }
            "assistant" => {
                if let Some(function) =
                    message.as_object_mut().and_then(|m| m.remove("function_call"))
                {
                    let id = format!("call_{at}");
                    let made = json!([{ "id": id, "type": "function", "function": function }]);
                    message["tool_calls"] = made;
                    call = Some(id);
                    tally.rewrite("structure.function_to_tool", 1);
                }
            }
            "function" => {
                let id = call.take().ok_or("structure.orphan_tool_message")?;
                message["role"] = "tool".into();
                message["tool_call_id"] = id.into();
                forget_name(message);
            }
            _ => return Err("structure.role"),
        }
    }
    Ok(())
}

/// The call says which tool it was; trainers know no name here.
fn forget_name(message: &mut Value) {
    if let Some(members) = message.as_object_mut() {
        members.remove("name");
    }
}

fn cut_at_sentinel(example: &mut Example, sentinels: &[String], tally: &mut Tally) {
    let holds = |message: &Value| {
        let said = text(message);
        role(message) != "system" && sentinels.iter().any(|sentinel| said.contains(sentinel))
    };
    if let Some(at) = example.messages.iter().position(holds) {
        example.messages.truncate(at);
        tally.rewrite("structure.sentinel", 1);
    }
}

fn trim_end(example: &mut Example, tally: &mut Tally) -> Result<(), Reason> {
    let is_answer = |message: &Value| role(message) == "assistant";
    let last = example.messages.iter().rposition(is_answer).ok_or("structure.no_assistant")?;
    if last + 1 < example.messages.len() {
        example.messages.truncate(last + 1);
        tally.rewrite("structure.trailing_turns", 1);
    }
    Ok(())
}

/// Text and images are all that can be learned from.
fn content(message: &Value) -> Result<(), Reason> {
    if message.get("weight").is_some_and(|weight| !matches!(weight.as_u64(), Some(0 | 1))) {
        return Err("structure.weight");
    }
    match message.get("content") {
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) if !parts.is_empty() => parts.iter().try_for_each(part),
        None | Some(Value::Array(_)) if !calls(message).is_empty() => Ok(()),
        _ => Err("structure.no_content"),
    }
}

fn part(part: &Value) -> Result<(), Reason> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") if part.get("text").is_some_and(Value::is_string) => Ok(()),
        Some("image_url") => Ok(()),
        Some("refusal") => Err("outcome.refusal"),
        _ => Err("structure.audio_or_file"),
    }
}

/// Every call has exactly one answer behind it; only those of the last message wait for theirs.
fn answered(messages: &[Value]) -> Result<(), Reason> {
    let mut open: Vec<&str> = Vec::new();
    for message in messages {
        if role(message) == "tool" {
            let id = message.get("tool_call_id").and_then(Value::as_str);
            let at = open.iter().position(|open| Some(*open) == id);
            open.swap_remove(at.ok_or("structure.orphan_tool_message")?);
            continue;
        }
        if !open.is_empty() {
            return Err("structure.unanswered_call");
        }
        for call in calls(message) {
            let id = call.get("id").and_then(Value::as_str).ok_or("structure.call_without_id")?;
            if open.contains(&id) {
                return Err("structure.unanswered_call");
            }
            open.push(id);
        }
    }
    Ok(())
}

/// Arguments are texts that hold one JSON object, as the function's schema wants it.
fn arguments(example: &mut Example, schemas: bool, tally: &mut Tally) -> Result<(), Reason> {
    let Example { messages, tools, .. } = example;
    for message in messages {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            if call.get("type").is_some_and(|kind| kind != "function") {
                return Err("structure.custom_tool");
            }
            let name = call.pointer("/function/name").and_then(Value::as_str).map(str::to_owned);
            let name = name.ok_or("structure.call_without_name")?;
            let text = call.pointer_mut("/function/arguments");
            let given = object(text.ok_or("structure.arguments")?, tally)?;
            if tools.is_empty() {
                tally.see("calls_without_tools", 1);
                continue;
            }
            let is_it = |tool: &&Value| tool.pointer("/function/name") == Some(&json!(name));
            let tool = tools.iter().find(is_it).ok_or("structure.unknown_tool")?;
            let wanted = tool.pointer("/function/parameters");
            if schemas && wanted.is_some_and(|wanted| !schema::holds(wanted, &given)) {
                return Err("structure.arguments_against_schema");
            }
        }
    }
    Ok(())
}

/// Data in the wild has arguments that were encoded twice.
fn object(arguments: &mut Value, tally: &mut Tally) -> Result<Value, Reason> {
    let decoded = |text: &Value| serde_json::from_str::<Value>(text.as_str()?).ok();
    match decoded(arguments).ok_or("structure.arguments")? {
        object @ Value::Object(_) => Ok(object),
        once @ Value::String(_) => {
            let object = decoded(&once).filter(Value::is_object).ok_or("structure.arguments")?;
            *arguments = once;
            tally.rewrite("structure.double_encoded", 1);
            Ok(object)
        }
        _ => Err("structure.arguments"),
    }
}

/// Turns whose call went wrong. Ids of calls may come again later in a conversation.
fn tool_errors(
    example: &mut Example,
    settings: ToolErrors,
    tally: &mut Tally,
) -> Result<(), Reason> {
    if settings == ToolErrors::Keep {
        return Ok(());
    }
    let mut asked = None;
    let mut wrong = Vec::new();
    for (at, message) in example.messages.iter().enumerate() {
        match role(message) {
            "assistant" => asked = Some(at),
            "tool" if is_error(message) => wrong.extend(asked),
            _ => {}
        }
    }
    wrong.dedup();
    if settings == ToolErrors::Drop && !wrong.is_empty() {
        return Err("structure.tool_error");
    }
    for at in wrong {
        if let Some(message) = example.messages.get_mut(at) {
            message["weight"] = 0.into();
            tally.rewrite("structure.tool_error_weighted", 1);
        }
    }
    Ok(())
}

/// Whether a tool's message tells of an error.
fn is_error(message: &Value) -> bool {
    if role(message) != "tool" {
        return false;
    }
    let result = text(message);
    let head: String = result.trim_start().chars().take(5).collect();
    if head.eq_ignore_ascii_case("error") {
        return true;
    }
    if !head.starts_with('{') {
        return false;
    }
    let error = serde_json::from_str::<Value>(&result);
    let error = error.ok().and_then(|result| result.get("error").cloned());
    error.is_some_and(|error| !matches!(error, Value::Null | Value::Bool(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, arguments: &str) -> Value {
        let function = json!({ "name": "rain", "arguments": arguments });
        json!({ "id": id, "type": "function", "function": function })
    }

    fn shaped(messages: Value, settings: &Structure) -> (Result<Vec<Value>, Reason>, Tally) {
        let mut tally = Tally::default();
        let mut example =
            Example { messages: messages.as_array().unwrap().clone(), ..Example::default() };
        let done = shape(&mut example, settings, &mut tally);
        (done.map(|()| example.messages), tally)
    }

    fn dropped(messages: Value) -> Reason {
        shaped(messages, &Structure::default()).0.unwrap_err()
    }

    #[test]
    fn what_comes_behind_the_last_answer_is_cut() {
        let (user, answer) = (
            json!({ "role": "user", "content": "hi" }),
            json!({ "role": "assistant", "content": "hello" }),
        );
        let said = json!([user, answer, { "role": "user", "content": "bye ###STOP###" }, answer]);
        let settings =
            Structure { sentinels: vec!["###STOP###".to_owned()], ..Structure::default() };
        let (kept, tally) = shaped(said.clone(), &settings);
        assert_eq!(kept.unwrap(), [user.clone(), answer.clone()]);
        assert_eq!(tally.rewritten, [("structure.sentinel", 1)].into());
        let (kept, tally) = shaped(json!([user, answer, user]), &Structure::default());
        assert_eq!(kept.unwrap(), [user, answer]);
        assert_eq!(tally.rewritten, [("structure.trailing_turns", 1)].into());
    }

    #[test]
    fn a_call_without_its_answer_is_no_example() {
        let user = json!({ "role": "user", "content": "rain?" });
        let asks = json!({ "role": "assistant", "tool_calls": [call("a", "{}"), call("b", "{}")] });
        let told = |id: &str| json!({ "role": "tool", "tool_call_id": id, "content": "no" });
        let answer = json!({ "role": "assistant", "content": "No." });
        let good = json!([user, asks, told("b"), told("a"), answer]);
        assert!(shaped(good, &Structure::default()).0.is_ok());
        for (messages, reason) in [
            (json!([user, asks, told("a"), answer]), "structure.unanswered_call"),
            (json!([user, asks, told("a"), told("a"), answer]), "structure.orphan_tool_message"),
            (json!([user, told("a"), answer]), "structure.orphan_tool_message"),
            (json!([user]), "structure.no_assistant"),
            (json!([{ "role": "oracle" }]), "structure.role"),
            (json!([user, { "role": "assistant" }]), "structure.no_content"),
            (
                json!([{ "role": "user", "content": [{ "type": "input_audio" }] }, answer]),
                "structure.audio_or_file",
            ),
        ] {
            assert_eq!(dropped(messages), reason);
        }
    }

    #[test]
    fn arguments_are_one_object_and_one_level_too_many_is_taken_off() {
        let user = json!({ "role": "user", "content": "rain?" });
        let with = |arguments: &str| json!([user, { "role": "assistant", "tool_calls": [call("a", arguments)] }]);
        let (kept, tally) = shaped(with(r#""{\"city\": \"Bonn\"}""#), &Structure::default());
        let kept = kept.unwrap();
        assert_eq!(kept[1]["tool_calls"][0]["function"]["arguments"], r#"{"city": "Bonn"}"#);
        assert_eq!(tally.rewritten, [("structure.double_encoded", 1)].into());
        for wrong in ["", "[]", "7", r#""text""#, r#""\"{}\"""#] {
            assert_eq!(dropped(with(wrong)), "structure.arguments", "{wrong}");
        }
    }

    #[test]
    fn a_turn_whose_call_failed_is_not_learned() {
        let said = |result: &str| {
            json!([{ "role": "user", "content": "rain?" },
                { "role": "assistant", "tool_calls": [call("a", "{}")] },
                { "role": "tool", "tool_call_id": "a", "content": result },
                { "role": "assistant", "content": "I do not know." }])
        };
        for result in ["Error: no such city", r#"{"error": "no such city"}"#] {
            let (kept, tally) = shaped(said(result), &Structure::default());
            assert_eq!(kept.unwrap()[1]["weight"], 0);
            assert_eq!(tally.rewritten, [("structure.tool_error_weighted", 1)].into());
            let drop = Structure { tool_errors: ToolErrors::Drop, ..Structure::default() };
            assert_eq!(shaped(said(result), &drop).0.unwrap_err(), "structure.tool_error");
        }
        let (kept, _) = shaped(said(r#"{"error": null, "rain": 3}"#), &Structure::default());
        assert_eq!(kept.unwrap()[1].get("weight"), None);
    }

    #[test]
    fn functions_of_other_times_become_tools() {
        let said = json!([{ "role": "developer", "content": "be brief" },
            { "role": "user", "content": "rain?" },
            { "role": "assistant", "function_call": { "name": "rain", "arguments": "{}" } },
            { "role": "function", "name": "rain", "content": "no" },
            { "role": "assistant", "content": "No." }]);
        let kept = shaped(said, &Structure::default()).0.unwrap();
        assert_eq!(kept[0]["role"], "system");
        assert_eq!(kept[2]["tool_calls"], json!([call("call_2", "{}")]));
        let told = json!({ "role": "tool", "tool_call_id": "call_2", "content": "no" });
        assert_eq!(kept[3], told);
    }
}
