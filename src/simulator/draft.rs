//! What the model says: text or tool calls, cut to its limit, with what it used.

use serde_json::Value;

use crate::openai::usage::Usage;
use crate::simulator::knobs::Knobs;
use crate::simulator::schema;
use crate::simulator::text;
use crate::simulator::world::World;

/// Prompts from this many tokens on are cached, in steps of [`CACHE_STEP`].
const CACHE_FROM: u64 = 1024;
const CACHE_STEP: u64 = 128;
/// Hidden tokens that a reasoning model spends, if its limit allows.
const REASONING: u64 = 64;

/// A request of chat/completions or responses, as far as the answer depends on it.
#[derive(Default)]
pub(super) struct Ask<'a> {
    pub(super) model: &'a str,
    /// The last thing the user said.
    pub(super) question: String,
    /// Tokens of the whole prompt.
    pub(super) prompt_tokens: u64,
    /// Hash of the prompt; 0 if it is too short to be cached.
    pub(super) prompt_hash: u64,
    pub(super) tools: Vec<Tool<'a>>,
    pub(super) choice: Choice<'a>,
    /// More than one tool call at a time.
    pub(super) parallel: bool,
    /// The question was asked before the last tool answered.
    pub(super) after_tool: bool,
    pub(super) format: Format<'a>,
    /// Most output tokens, reasoning included.
    pub(super) limit: Option<u64>,
    pub(super) stop: Option<&'a Value>,
    /// `none` turns a reasoning model's hidden tokens off.
    pub(super) effort: Option<&'a str>,
}

/// A function the model may call.
pub(super) struct Tool<'a> {
    pub(super) name: &'a str,
    pub(super) parameters: Option<&'a Value>,
}

/// Whether a tool must, may or must not be called.
#[derive(Default)]
pub(super) enum Choice<'a> {
    #[default]
    Auto,
    Never,
    Required,
    Named(&'a str),
}

/// What the text must look like.
#[derive(Default)]
pub(super) enum Format<'a> {
    #[default]
    Text,
    JsonObject,
    Schema(Option<&'a Value>),
}

/// A function called, its arguments as JSON text.
pub(super) struct ToolCall {
    pub(super) name: String,
    pub(super) arguments: String,
}

/// The answer, not yet in an endpoint's shape.
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    /// The limit cut it.
    pub(super) cut: bool,
    pub(super) usage: Usage,
}

impl Draft {
    /// Answers an ask. Depends on the ask and the knobs alone; the cached tokens on earlier asks too.
    pub(super) fn of(ask: &Ask<'_>, knobs: &Knobs, world: &World) -> Self {
        let calls = calls(ask);
        let reasoning = reasoning(ask);
        let room = ask.limit.map(|limit| limit.saturating_sub(reasoning));
        let mut text = if calls.is_empty() { content(ask, knobs) } else { String::new() };
        text::cut_at_stop(&mut text, ask.stop.unwrap_or(&Value::Null));
        let cut = text::cut_to_tokens(&mut text, room);
        let called: u64 = calls.iter().map(ToolCall::tokens).sum();
        let mut usage = prompt_usage(ask, world);
        usage.output = text::tokens(&text) + called + reasoning;
        usage.reasoning = reasoning;
        Self { text, calls, cut, usage }
    }
}

impl ToolCall {
    fn tokens(&self) -> u64 {
        text::count(self.name.len() + self.arguments.len())
    }
}

fn content(ask: &Ask<'_>, knobs: &Knobs) -> String {
    match ask.format {
        Format::Text => text::answer(&ask.question, knobs),
        Format::JsonObject => {
            let answer = text::answer(&ask.question, knobs);
            serde_json::json!({ "answer": answer }).to_string()
        }
        Format::Schema(schema) => schema::instance(schema.unwrap_or(&Value::Null)).to_string(),
    }
}

fn calls(ask: &Ask<'_>) -> Vec<ToolCall> {
    let named = |tool: &&Tool<'_>| ask.question.contains(tool.name);
    let most = if ask.parallel { usize::MAX } else { 1 };
    let chosen: Vec<&Tool<'_>> = match ask.choice {
        Choice::Never => Vec::new(),
        Choice::Auto if ask.after_tool => Vec::new(),
        Choice::Auto => ask.tools.iter().filter(named).take(most).collect(),
        Choice::Required => {
            ask.tools.iter().find(named).or(ask.tools.first()).into_iter().collect()
        }
        Choice::Named(name) => ask.tools.iter().filter(|tool| tool.name == name).take(1).collect(),
    };
    chosen.into_iter().map(call).collect()
}

fn call(tool: &Tool<'_>) -> ToolCall {
    let arguments = tool.parameters.map_or_else(|| serde_json::json!({}), schema::instance);
    ToolCall { name: tool.name.to_owned(), arguments: arguments.to_string() }
}

/// Hidden tokens of a reasoning model: never more than half of the limit, so that words remain.
fn reasoning(ask: &Ask<'_>) -> u64 {
    let family = ["o1", "o3", "o4", "gpt-5", "gpt-6", "ft:o4", "ft:gpt-5", "ft:gpt-6"];
    if ask.effort == Some("none") || !family.iter().any(|name| ask.model.starts_with(name)) {
        return 0;
    }
    ask.limit.map_or(REASONING, |limit| REASONING.min(limit / 2))
}

fn prompt_usage(ask: &Ask<'_>, world: &World) -> Usage {
    let mut usage = Usage { input: ask.prompt_tokens, ..Usage::default() };
    if ask.prompt_tokens < CACHE_FROM {
        return usage;
    }
    let whole_steps = ask.prompt_tokens / CACHE_STEP * CACHE_STEP;
    if world.seen_prompt(ask.prompt_hash) {
        usage.cached_input = whole_steps;
    } else if ["gpt-5.6", "gpt-6"].iter().any(|family| ask.model.starts_with(family)) {
        usage.cache_write = whole_steps;
    }
    usage
}

/// True if a prompt of so many tokens takes part in the prompt cache, and so needs a hash.
pub(super) fn is_cached(prompt_tokens: u64) -> bool {
    prompt_tokens >= CACHE_FROM
}

/// `usage` as chat/completions and completions write it.
pub(super) fn chat_usage(usage: &Usage) -> Value {
    serde_json::json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

/// `usage` as responses and batches write it.
pub(super) fn responses_usage(usage: &Usage) -> Value {
    serde_json::json!({
        "input_tokens": usage.input,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    })
}

/// `service_tier` of an answer: what was asked for, `default` when the choice was OpenAI's.
pub(super) fn service_tier(asked: Option<&Value>) -> &str {
    match asked.and_then(Value::as_str) {
        None | Some("auto") => "default",
        Some(tier) => tier,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_is_cached_the_second_time() {
        let world = World::default();
        let ask =
            Ask { model: "gpt-6-luna", prompt_tokens: 1300, prompt_hash: 7, ..Ask::default() };
        let first = Draft::of(&ask, &Knobs::default(), &world).usage;
        let second = Draft::of(&ask, &Knobs::default(), &world).usage;
        // 1300 / 128 = 10.2: ten whole steps of 128 are 1280
        assert_eq!((first.cached_input, first.cache_write), (0, 1280));
        assert_eq!((second.cached_input, second.cache_write), (1280, 0));
    }

    #[test]
    fn reasoning_never_takes_more_than_half_of_the_limit() {
        let world = World::default();
        let ask = Ask { model: "o3", limit: Some(10), ..Ask::default() };
        let draft = Draft::of(&ask, &Knobs::default(), &world);
        // 10 / 2 = 5 hidden; the other 5 are 20 bytes of text
        assert_eq!((draft.usage.reasoning, draft.usage.output), (5, 10));
        assert_eq!(draft.text.len(), 20);
        assert!(draft.cut);
    }
}
