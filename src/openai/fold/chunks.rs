//! The chunks of chat/completions and completions, put together to one answer.

use std::collections::BTreeMap;

use crate::openai::fold::fields::{
    Fields, Pairs, Tally, Writer, elements, member, members, number, part, write_list,
};

/// An answer that grows chunk by chunk.
#[derive(Debug)]
pub(super) struct Chunks {
    chat: bool,
    /// What stands beside the choices.
    fields: Fields,
    choices: BTreeMap<u64, Choice>,
}

impl Chunks {
    /// An answer of chat/completions, or else of completions.
    pub(super) fn new(chat: bool) -> Self {
        Self { chat, fields: Fields::default(), choices: BTreeMap::new() }
    }

    pub(super) fn take(&mut self, chunk: &[u8], tally: &mut Tally) {
        for (name, value) in members(chunk, tally) {
            match name {
                b"choices" => {
                    for choice in elements(value, tally) {
                        self.take_choice(&members(choice, tally), tally);
                    }
                }
                b"object" | b"obfuscation" | b"weir_incomplete" => {}
                b"usage" | b"error" if value == b"null" => {}
                _ => self.fields.keep_last(name, value, tally),
            }
        }
    }

    /// Keeps what an event called `error` says, whatever its shape.
    pub(super) fn take_error(&mut self, data: &[u8], tally: &mut Tally) {
        let pairs = members(data, tally);
        if !pairs.is_empty() {
            let error = member(&pairs, b"error").unwrap_or(data);
            self.fields.keep_last(b"error", error, tally);
        }
    }

    fn take_choice(&mut self, pairs: &Pairs<'_>, tally: &mut Tally) {
        let index = member(pairs, b"index").and_then(number).unwrap_or(0);
        let choice = part(&mut self.choices, index, tally);
        for &(name, value) in pairs {
            match name {
                b"index" => {}
                b"delta" if self.chat => choice.message.take(value, tally),
                // A provider that streams nothing may send all at once.
                b"message" if self.chat => {
                    if choice.message.is_empty() {
                        choice.message.take(value, tally);
                    }
                }
                b"text" | b"logprobs" => choice.fields.merge(name, value, tally),
                _ => choice.fields.keep_last(name, value, tally),
            }
        }
    }

    pub(super) fn write(&self, incomplete: Option<&[u8]>, out: &mut Vec<u8>) {
        let object: &[u8] =
            if self.chat { br#""chat.completion""# } else { br#""text_completion""# };
        let mut answer = Writer::begin(out);
        answer.field(&self.fields, b"id");
        answer.json(b"object", object);
        answer.field(&self.fields, b"created");
        answer.field(&self.fields, b"model");
        write_list(answer.name(b"choices"), &self.choices, |(index, choice), out| {
            choice.write(*index, self.chat, out);
        });
        for name in [&b"usage"[..], b"service_tier", b"system_fingerprint"] {
            answer.field(&self.fields, name);
        }
        let written: [&[u8]; 6] =
            [b"id", b"created", b"model", b"usage", b"service_tier", b"system_fingerprint"];
        answer.others(&self.fields, &written);
        if let Some(why) = incomplete {
            answer.json(b"weir_incomplete", why);
        }
        answer.end();
    }
}

#[derive(Debug, Default)]
struct Choice {
    message: Message,
    fields: Fields,
}

impl Choice {
    fn write(&self, index: u64, chat: bool, out: &mut Vec<u8>) {
        let fields = &self.fields;
        let mut choice = Writer::begin(out);
        if !chat {
            choice.field_or(fields, b"text", br#""""#);
        }
        choice.json(b"index", index.to_string().as_bytes());
        if chat {
            self.message.write(choice.name(b"message"));
        }
        choice.field(fields, b"logprobs");
        choice.field_or(fields, b"finish_reason", b"null");
        let text: &[u8] = if chat { b"logprobs" } else { b"text" };
        choice.others(fields, &[text, b"logprobs", b"finish_reason"]);
        choice.end();
    }
}

#[derive(Debug, Default)]
struct Message {
    fields: Fields,
    calls: BTreeMap<u64, Fields>,
}

impl Message {
    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.calls.is_empty()
    }

    fn take(&mut self, delta: &[u8], tally: &mut Tally) {
        if delta == b"null" {
            return;
        }
        for (name, value) in members(delta, tally) {
            if name == b"tool_calls" {
                for call in elements(value, tally) {
                    self.take_call(&members(call, tally), tally);
                }
            } else {
                self.fields.merge(name, value, tally);
            }
        }
    }

    fn take_call(&mut self, pairs: &Pairs<'_>, tally: &mut Tally) {
        let index = member(pairs, b"index").and_then(number);
        let index = index.unwrap_or_else(|| self.likely_index(member(pairs, b"id")));
        let call = part(&mut self.calls, index, tally);
        for (name, value) in pairs.iter().filter(|pair| pair.0 != b"index") {
            call.merge(name, value, tally);
        }
    }

    /// Where a call without an index belongs: to the last one, unless it has an id of its own.
    fn likely_index(&self, id: Option<&[u8]>) -> u64 {
        let Some((last, call)) = self.calls.last_key_value() else { return 0 };
        let same = id.is_none_or(|id| !id.starts_with(b"\"") || id == br#""""#)
            || id.is_some_and(|id| call.is_text(b"id", id));
        last.saturating_add(u64::from(!same))
    }

    /// Whether the message speaks by other means than its content.
    fn speaks_otherwise(&self) -> bool {
        let others = [&b"refusal"[..], b"function_call", b"audio"];
        !self.calls.is_empty() || others.iter().any(|name| self.fields.says(name))
    }

    fn write(&self, out: &mut Vec<u8>) {
        let fields = &self.fields;
        let mut message = Writer::begin(out);
        message.field_or(fields, b"role", br#""assistant""#);
        if !fields.says(b"content") && self.speaks_otherwise() {
            message.json(b"content", b"null");
        } else {
            message.field_or(fields, b"content", b"null");
        }
        if !self.calls.is_empty() {
            write_list(message.name(b"tool_calls"), self.calls.values(), Fields::write);
        }
        message.others(fields, &[b"role", b"content"]);
        message.end();
    }
}
