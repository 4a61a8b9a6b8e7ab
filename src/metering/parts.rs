//! What a prompt's tokens are for, and what of a request cannot be told from its bytes.

use std::fmt;

/// What some tokens of a prompt are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Messages, items, instructions, prompts and texts to embed, with their frames.
    Messages,
    /// The functions that the model may call.
    Tools,
    /// The schema that the answer has to follow.
    Schema,
    /// Images.
    Images,
}

impl Part {
    /// Every part, in the order of this list.
    pub const ALL: [Self; 4] = [Self::Messages, Self::Tools, Self::Schema, Self::Images];

    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Tools => "tools",
            Self::Schema => "schema",
            Self::Images => "images",
        }
    }
}

/// The tokens of a prompt by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts([u64; Part::ALL.len()]);

impl Parts {
    /// The tokens of one part.
    pub fn get(&self, part: Part) -> u64 {
        let [messages, tools, schema, images] = self.0;
        match part {
            Part::Messages => messages,
            Part::Tools => tools,
            Part::Schema => schema,
            Part::Images => images,
        }
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, tokens| sum.saturating_add(*tokens))
    }

    pub(super) fn add(&mut self, part: Part, tokens: u64) {
        let [messages, tools, schema, images] = &mut self.0;
        let sum = match part {
            Part::Messages => messages,
            Part::Tools => tools,
            Part::Schema => schema,
            Part::Images => images,
        };
        *sum = sum.saturating_add(tokens);
    }
}

/// One thing that keeps a prompt's tokens from being told from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// An image by address or id, or in a format whose size is not read: a 1024 x 1024 one is
    /// counted in its place.
    UnknownImageSize,
    /// A file, such as a PDF: nothing is counted for it.
    Files,
    /// Audio: about 10 tokens a second, of which nothing is counted.
    Audio,
    /// Tools that the provider runs (web search, code, files, MCP) or that are not plain functions:
    /// what they add is not counted.
    HostedTools,
    /// A conversation, response or prompt that the provider keeps: not counted.
    StoredState,
    /// Reasoning that is sent back to the provider, which only it can read: not counted.
    EncryptedReasoning,
    /// Parts or items of a kind that is not known: not counted.
    UnknownItems,
    /// A model without known rules: those of the newest chat models are applied.
    UnknownModel,
}

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 8] = [
        Self::UnknownImageSize,
        Self::Files,
        Self::Audio,
        Self::HostedTools,
        Self::StoredState,
        Self::EncryptedReasoning,
        Self::UnknownItems,
        Self::UnknownModel,
    ];

    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownImageSize => "unknown_image_size",
            Self::Files => "files",
            Self::Audio => "audio",
            Self::HostedTools => "hosted_tools",
            Self::StoredState => "stored_state",
            Self::EncryptedReasoning => "encrypted_reasoning",
            Self::UnknownItems => "unknown_items",
            Self::UnknownModel => "unknown_model",
        }
    }

    /// What it means for the count, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::UnknownImageSize => {
                "an image whose size is not in the request counts as 1024 x 1024"
            }
            Self::Files => "files are not counted",
            Self::Audio => "audio is not counted",
            Self::HostedTools => "what tools of the provider's own add is not counted",
            Self::StoredState => "what the provider keeps of the conversation is not counted",
            Self::EncryptedReasoning => "encrypted reasoning is not counted",
            Self::UnknownItems => "parts of an unknown kind are not counted",
            Self::UnknownModel => "the model is not known: counted as one of the newest",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of [`Flag`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Whether `flag` is in it.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & flag.bit() != 0
    }

    /// Whether nothing is in it: the request alone tells its tokens.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it, in the order of [`Flag::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.into_iter().filter(move |flag| self.has(*flag))
    }

    pub(super) fn raise(&mut self, flag: Flag) {
        self.0 |= flag.bit();
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Flag::as_str)).finish()
    }
}

/// The tokens of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptCount {
    /// All of them: the sum of the parts.
    pub tokens: u64,
    /// What they are for.
    pub parts: Parts,
    /// What is not in the count, or only by a guess.
    pub flags: Flags,
}
