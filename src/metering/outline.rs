//! The texts of a request that become prompt tokens, and the tokens that do not depend on a text.
//! No text is unescaped or counted here: that is put off until somebody asks.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::metering::cache;
use crate::metering::cache::Key;
use crate::metering::family::Family;
use crate::metering::images;
use crate::metering::images::Size;
use crate::metering::json::Fields;
use crate::metering::json::Raw;
use crate::metering::json::each;
use crate::metering::json::each_object;
use crate::metering::parts::Flag;
use crate::metering::parts::Flags;
use crate::metering::parts::Part;
use crate::metering::parts::Parts;
use crate::metering::tokens::Encoding;
use crate::metering::tools;

/// What frames the instructions of a response, beyond a message's frame.
const INSTRUCTIONS_TOKENS: u64 = 1;
/// What frames the result of a tool, beyond the message.
const TOOL_RESULT_TOKENS: u64 = 2;
/// What frames one tool call of a message, and each of several.
const ONE_CALL_TOKENS: u64 = 3;
const PARALLEL_CALL_TOKENS: u64 = 11;
/// What frames each call of gpt-5 and later, beyond [`ONE_CALL_TOKENS`] for the message.
const GPT_5_CALL_TOKENS: u64 = 7;
/// What a channel adds to an answer of gpt-5 and later.
const CHANNEL_TOKENS: u64 = 2;
/// What frames a response's function call with its output; with models that reason.
const CALL_ITEM_TOKENS: (u64, u64) = (6, 10);
const OUTPUT_ITEM_TOKENS: (u64, u64) = (5, 10);
/// What frames the name of a function that has to be called: in chats, and in responses.
const FORCED_TOKENS: Option<u64> = Some(4);
const FORCED_RESPONSE_TOKENS: u64 = 7;

/// A request, as far as its tokens go.
#[derive(Default)]
pub(super) struct Outline<'a> {
    /// Texts to be counted, each for itself: special tokens stand between them.
    pub(super) leaves: Vec<Leaf<'a>>,
    /// Tokens that no text decides.
    pub(super) fixed: Parts,
    pub(super) flags: Flags,
}

/// A text, and what it is for.
pub(super) struct Leaf<'a> {
    pub(super) part: Part,
    pub(super) words: Words<'a>,
}

/// A text that has to be put together first.
pub(super) enum Words<'a> {
    /// A JSON string.
    One(Raw<'a>),
    /// JSON strings that become one text.
    Several(Vec<Raw<'a>>),
    /// A name behind a role.
    Named(Raw<'a>),
    /// A list of tools, rendered for the model.
    Tools(Raw<'a>),
    /// A schema, rendered for the model.
    Schema(Raw<'a>),
}

impl<'a> Words<'a> {
    /// The text.
    pub(super) fn text(&self) -> Cow<'a, str> {
        match self {
            Self::One(raw) => raw.text().unwrap_or_default(),
            Self::Several(raws) => {
                raws.iter().filter_map(|raw| raw.text()).collect::<String>().into()
            }
            Self::Named(raw) => format!(":{}", raw.text().unwrap_or_default()).into(),
            Self::Tools(raw) => tools::render(*raw).unwrap_or_default().into(),
            Self::Schema(raw) => tools::schema(*raw).into(),
        }
    }

    /// Bytes of its JSON.
    pub(super) fn raw_len(&self) -> usize {
        self.raws().iter().map(|raw| raw.get().len()).sum()
    }

    /// The JSON that it is made of.
    pub(super) fn raws(&self) -> &[Raw<'a>] {
        match self {
            Self::One(raw) | Self::Named(raw) | Self::Tools(raw) | Self::Schema(raw) => {
                std::slice::from_ref(raw)
            }
            Self::Several(raws) => raws,
        }
    }

    /// Whether its text is written from JSON that is not text.
    pub(super) fn is_rendered(&self) -> bool {
        matches!(self, Self::Tools(_) | Self::Schema(_))
    }

    /// Where it is remembered, if it is.
    pub(super) fn key(&self, encoding: Encoding) -> Option<Key> {
        match self {
            Self::Tools(raw) => Some(Key::of(b't', encoding, raw.get())),
            Self::Schema(raw) => Some(Key::of(b's', encoding, raw.get())),
            _ => None,
        }
    }
}

/// Walks through one request.
struct Walk<'a> {
    family: Family,
    out: Outline<'a>,
    /// Names of the functions called so far, by call id: their results repeat them.
    called: HashMap<Cow<'a, str>, Raw<'a>>,
    /// Whether a message of the one who set the model up was seen.
    has_system: bool,
}

impl<'a> Outline<'a> {
    /// Reads a request's body; empty when it is not a JSON object in UTF-8.
    pub(super) fn of(model: &str, body: &'a [u8]) -> Self {
        let text = std::str::from_utf8(body).ok();
        let fields = text.and_then(|text| Fields::of(Raw::new(text.as_bytes())));
        Self::of_fields(model, &fields.unwrap_or(Fields::NONE))
    }

    /// Reads a request whose top-level fields are known.
    pub(super) fn of_fields(model: &str, fields: &Fields<'a>) -> Self {
        let family = Family::of(model);
        let mut out = Self::default();
        if !family.known {
            out.flags.raise(Flag::UnknownModel);
        }
        if fields.is_empty() {
            return out;
        }
        let called = HashMap::new();
        let mut walk = Walk { family, out, called, has_system: false };
        walk.body(fields);
        walk.out
    }

    /// Replaces tools and schemas that were counted before by their counts.
    pub(super) fn recall(mut self, encoding: Encoding) -> Self {
        let fixed = &mut self.fixed;
        self.leaves.retain(|leaf| match leaf.words.key(encoding).and_then(cache::get) {
            Some(tokens) => {
                fixed.add(leaf.part, tokens);
                false
            }
            None => true,
        });
        self
    }
}

impl<'a> Walk<'a> {
    fn body(&mut self, body: &Fields<'a>) {
        if let Some(messages) = body.get("messages") {
            self.chat(messages, body);
        } else if body.get("input").is_some() || body.get("instructions").is_some() {
            let input = body.get("input");
            if self.family.embeds || is_list_of_texts(input) {
                self.plain(input);
            } else {
                self.response(body);
            }
        } else if body.object("prompt").is_some() {
            self.response(body);
        } else {
            self.plain(body.get("prompt"));
        }
    }

    fn fix(&mut self, tokens: u64) {
        self.out.fixed.add(Part::Messages, tokens);
    }

    fn flag(&mut self, flag: Flag) {
        self.out.flags.raise(flag);
    }

    fn leaf(&mut self, part: Part, words: Words<'a>) {
        self.out.leaves.push(Leaf { part, words });
    }

    /// A JSON string's text; nothing for any other value.
    fn string(&mut self, raw: Option<Raw<'a>>) {
        if let Some(raw) = raw.filter(|raw| raw.is_text() && raw.get() != b"\"\"") {
            self.leaf(Part::Messages, Words::One(raw));
        }
    }

    fn chat(&mut self, messages: Raw<'a>, body: &Fields<'a>) {
        self.fix(self.family.priming);
        each_object(messages, |message| self.message(&message));
        let frame = match (self.family.gpt_5, self.has_system) {
            (true, _) => 90,
            (false, true) => 5,
            (false, false) => 9,
        };
        self.tools(body, frame, FORCED_TOKENS);
        if let Some(format) = body.object("response_format") {
            self.schema(format.object("json_schema"), 19);
        }
        if body.get("web_search_options").is_some() {
            self.flag(Flag::HostedTools);
        }
    }

    fn message(&mut self, message: &Fields<'a>) {
        let [role_as_written, content, refusal, name, call, audio, calls] = message.select([
            "role",
            "content",
            "refusal",
            "name",
            "tool_call_id",
            "audio",
            "tool_calls",
        ]);
        let role = role_as_written.and_then(Raw::text).unwrap_or_default();
        self.has_system |= matches!(&*role, "system" | "developer");
        self.fix(self.family.message);
        self.content(content);
        if self.family.gpt_5 && role == "assistant" && content.is_some() {
            self.fix(CHANNEL_TOKENS);
        }
        self.string(refusal);
        if matches!(&*role, "tool" | "function") {
            self.fix(TOOL_RESULT_TOKENS);
            let called = self.called(call.and_then(Raw::text));
            return self.string(called.or(name));
        }
        let name = name.filter(Raw::is_text);
        if let Some(name) = name.filter(|_| self.family.name_replaces_role) {
            return self.string(Some(name));
        }
        if let Some(name) = name {
            self.leaf(Part::Messages, Words::Named(name));
        }
        if is_one_token(&role) {
            self.fix(1);
        } else {
            self.string(role_as_written);
        }
        if audio.is_some() {
            self.flag(Flag::Audio);
        }
        self.calls(calls);
    }

    fn calls(&mut self, calls: Option<Raw<'a>>) {
        let Some(calls) = calls else { return };
        let mut count = 0;
        each_object(calls, |call| {
            let Some(function) = call.object("function").or_else(|| call.object("custom")) else {
                return;
            };
            count += 1;
            self.call(call.text("id"), &function);
        });
        self.fix(match count {
            0 => 0,
            _ if self.family.gpt_5 => ONE_CALL_TOKENS + GPT_5_CALL_TOKENS * count,
            1 => ONE_CALL_TOKENS,
            _ => PARALLEL_CALL_TOKENS * count,
        });
    }

    /// The name and the arguments of a call.
    fn call(&mut self, id: Option<Cow<'a, str>>, function: &Fields<'a>) {
        let name = function.get("name").filter(Raw::is_text);
        self.string(name);
        self.string(function.get("arguments").or_else(|| function.get("input")));
        if let (Some(id), Some(name)) = (id, name) {
            self.called.insert(id, name);
        }
    }

    /// The name of the function that a result is for.
    fn called(&self, id: Option<Cow<'a, str>>) -> Option<Raw<'a>> {
        self.called.get(&id?).copied()
    }

    /// The text parts of one message are one text.
    fn content(&mut self, raw: Option<Raw<'a>>) {
        let Some(raw) = raw else { return };
        if !raw.is_array() {
            return self.string(Some(raw));
        }
        let mut texts = Vec::new();
        each_object(raw, |part| texts.extend(self.content_part(&part)));
        match texts.as_slice() {
            [] => {}
            [one] => self.string(Some(*one)),
            _ => self.leaf(Part::Messages, Words::Several(texts)),
        }
    }

    /// The text of a part, if it is one; anything else is counted or flagged.
    fn content_part(&mut self, part: &Fields<'a>) -> Option<Raw<'a>> {
        match part.text("type").as_deref() {
            Some("image_url" | "input_image") => self.image(part),
            Some("input_audio") => self.flag(Flag::Audio),
            Some("file" | "input_file") => self.flag(Flag::Files),
            kind => {
                let text = part.get("text").or_else(|| part.get("refusal"));
                let text = text.filter(Raw::is_text);
                if text.is_none() && kind.is_some() {
                    self.flag(Flag::UnknownItems);
                }
                return text;
            }
        }
        None
    }

    fn image(&mut self, part: &Fields<'a>) {
        let rule = self.family.image;
        let nested = part.object("image_url");
        let detail = part.text("detail").or_else(|| nested.as_ref()?.text("detail"));
        let low = rule.low().filter(|_| detail.as_deref() == Some("low"));
        let tokens = low.unwrap_or_else(|| {
            let url =
                nested.as_ref().map_or_else(|| part.get("image_url"), |image| image.get("url"));
            let size = url.and_then(|url| images::size_of(url.get()));
            if size.is_none() {
                self.flag(Flag::UnknownImageSize);
            }
            rule.tokens(size.unwrap_or(Size::USUAL))
        });
        self.out.fixed.add(Part::Images, tokens);
    }

    fn response(&mut self, body: &Fields<'a>) {
        self.fix(self.family.priming);
        if let Some(instructions) = body.get("instructions").filter(Raw::is_text) {
            self.fix(self.family.message + INSTRUCTIONS_TOKENS);
            self.string(Some(instructions));
        }
        match body.get("input") {
            Some(input) if input.is_text() => {
                self.fix(self.family.message + 1);
                self.string(Some(input));
            }
            Some(input) => each_object(input, |item| self.item(&item)),
            None => {}
        }
        let reasons = self.family.reasons;
        let forced = (!reasons).then_some(FORCED_RESPONSE_TOKENS);
        let has_tools = self.tools(body, self.family.either((2, 8)), forced);
        if let Some(format) = body.object("text") {
            let frame = if has_tools { (19, 8) } else { (11, 0) };
            self.schema(format.object("format"), self.family.either(frame));
        }
        if ["previous_response_id", "conversation", "prompt"]
            .iter()
            .any(|key| body.get(key).is_some())
        {
            self.flag(Flag::StoredState);
        }
    }

    fn item(&mut self, item: &Fields<'a>) {
        match item.text("type").as_deref() {
            None | Some("message") => self.message(item),
            Some("function_call") => {
                self.fix(self.family.either(CALL_ITEM_TOKENS));
                self.call(item.text("call_id"), item);
            }
            Some("function_call_output") => {
                self.fix(self.family.either(OUTPUT_ITEM_TOKENS));
                let name = self.called(item.text("call_id"));
                self.string(name);
                self.content(item.get("output"));
            }
            Some("reasoning") => self.flag(Flag::EncryptedReasoning),
            Some("item_reference") => self.flag(Flag::StoredState),
            Some(kind)
                if kind.ends_with("_call")
                    || kind.ends_with("_call_output")
                    || kind.starts_with("mcp_") =>
            {
                self.flag(Flag::HostedTools);
            }
            Some(_) => self.flag(Flag::UnknownItems),
        }
    }

    /// The functions that may be called; whether there are any. `forced` frames the name of one
    /// that has to be.
    fn tools(&mut self, body: &Fields<'a>, frame: u64, forced: Option<u64>) -> bool {
        let Some(tools) = body.get("tools").or_else(|| body.get("functions")) else { return false };
        let mut functions = 0_u64;
        each_object(tools, |tool| {
            if tool.text("type").is_none_or(|kind| kind == "function") {
                functions += 1;
            } else {
                self.flag(Flag::HostedTools);
            }
        });
        if functions == 0 {
            return false;
        }
        self.out.fixed.add(Part::Tools, frame);
        self.leaf(Part::Tools, Words::Tools(tools));
        if let Some(frame) = forced {
            self.forced(body.object("tool_choice"), frame);
        }
        true
    }

    /// `tool_choice` that names one tool.
    fn forced(&mut self, choice: Option<Fields<'a>>, frame: u64) {
        let Some(choice) = choice else { return };
        let nested = choice.object("function");
        if let Some(name) = nested.as_ref().unwrap_or(&choice).get("name").filter(Raw::is_text) {
            self.out.fixed.add(Part::Tools, frame);
            self.leaf(Part::Tools, Words::One(name));
        }
    }

    fn schema(&mut self, format: Option<Fields<'a>>, frame: u64) {
        let Some(format) = format else { return };
        let Some(schema) = format.get("schema") else { return };
        self.out.fixed.add(Part::Schema, frame);
        self.leaf(Part::Schema, Words::Schema(schema));
        for key in ["name", "description"] {
            if let Some(named) = format.get(key).filter(Raw::is_text) {
                self.leaf(Part::Schema, Words::One(named));
            }
        }
    }

    /// A prompt or a text to embed: a string, strings, token ids, or lists of token ids.
    fn plain(&mut self, raw: Option<Raw<'a>>) {
        let Some(raw) = raw else { return };
        self.string(Some(raw));
        let mut ids = 0;
        each(raw, |element| match element.get().first() {
            Some(b'0'..=b'9') => ids += 1,
            Some(b'[') => each(element, |_| ids += 1),
            _ => self.string(Some(element)),
        });
        self.fix(ids);
    }
}

/// Whether `input` is a list of anything but items: texts to embed.
fn is_list_of_texts(input: Option<Raw<'_>>) -> bool {
    let Some(list) = input.and_then(|input| input.get().strip_prefix(b"[")) else { return false };
    !matches!(list.trim_ascii_start(), [b'{' | b']', ..])
}

/// Roles that every encoding has one token for.
fn is_one_token(role: &str) -> bool {
    matches!(role, "system" | "developer" | "user" | "assistant")
}

#[cfg(test)]
mod tests;
