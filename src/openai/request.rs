//! A request as the gateway sees it: the raw bytes stay the truth, a small view is read beside them.

use std::borrow::Cow;

use crate::openai::error::ApiError;
use crate::openai::scan::{self, Fault, MAX_MEMBERS, Member, Members, Span};
use crate::openai::unescape::{unescape, unescape_text};

pub use crate::openai::splice::Patch;
pub use crate::openai::splice::Spliced;

/// What a request's `stream_options` says about the usage event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOptions {
    /// There is no such field.
    Absent,
    /// The field is `null`.
    Null,
    /// An object without `include_usage`.
    WithoutUsage,
    /// `include_usage` is there and is not `true`.
    UsageOff,
    /// `include_usage` is `true`.
    UsageOn,
}

/// Where and how usage can be asked for, and what the client asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsageAsk {
    pub(super) state: StreamOptions,
    /// The bytes that `text` is to replace.
    pub(super) span: Span,
    pub(super) text: &'static str,
}

/// The places of a request's top-level fields, and the fields that every request needs, decoded.
///
/// Methods that take `body` must be given the bytes that were parsed; others give nonsense, but no
/// panic.
#[derive(Clone, Debug)]
pub struct RequestView {
    pub(super) members: Vec<Member>,
    /// Where one more member can be written.
    pub(super) end: usize,
    pub(super) usage: UsageAsk,
    model: String,
    stream: bool,
}

impl RequestView {
    /// Reads a JSON body in one pass.
    ///
    /// # Errors
    /// 400 `invalid_json` when it is not one JSON object in UTF-8, without BOM, at most 200 levels
    /// deep and of at most 10,000 top-level members; `duplicate_key` for a top-level key (or
    /// `stream_options.include_usage`) that is there twice, however it is escaped;
    /// `missing_required_parameter` when `model` is not a string with text; `invalid_type` for
    /// `stream` and `stream_options`. Messages say where, and never repeat what the body says.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::read(body, model)
    }

    /// Reads a body that may leave `model` out, as one for the Responses endpoint may: a stored
    /// prompt can name it. The model is empty then.
    ///
    /// # Errors
    /// Those of [`Self::parse`], but for a missing `model`.
    pub fn parse_model_optional(body: &[u8]) -> Result<Self, ApiError> {
        Self::read(body, |body, members| match field(body, members, "model") {
            None => Ok(String::new()),
            Some(_) => model(body, members),
        })
    }

    fn read(
        body: &[u8],
        model: impl Fn(&[u8], &[Member]) -> Result<String, ApiError>,
    ) -> Result<Self, ApiError> {
        let Members { list, end } =
            scan::members(body).map_err(|fault| invalid_json(body, fault))?;
        if let Some(second) = duplicate(body, &list) {
            let key = shown(&unescape_text(second.name.of(body)));
            return Err(duplicate_key(body, second, "A top-level key", key));
        }
        let model = model(body, &list)?;
        let stream = match field(body, &list, "stream").map(|member| member.value.of(body)) {
            None | Some(b"false" | b"null") => false,
            Some(b"true") => true,
            Some(_) => return Err(invalid_type("stream", "true, false or null")),
        };
        let usage = usage_ask(body, &list, end)?;
        Ok(Self { members: list, end, usage, model, stream })
    }

    /// The model asked for, decoded; empty only where it may be left out. Lone surrogates read as U+FFFD.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the answer is to be an event stream.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// What `stream_options` says about usage.
    pub fn stream_options(&self) -> StreamOptions {
        self.usage.state
    }

    /// Whether the client itself asked for the usage event.
    pub fn client_wants_usage(&self) -> bool {
        self.usage.state == StreamOptions::UsageOn
    }

    /// Where the top-level fields stand, in the order written.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The JSON text of a top-level field. Takes time with the number of fields.
    pub fn raw<'a>(&self, body: &'a [u8], name: &str) -> Option<&'a [u8]> {
        field(body, &self.members, name).map(|member| member.value.of(body))
    }

    /// A top-level field that is a string, decoded; lone surrogates read as U+FFFD.
    pub fn string<'a>(&self, body: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
        string(self.raw(body, name)?)
    }

    /// A string inside a top-level object, such as a value of `metadata`, decoded. `None` when
    /// either is absent or of another type.
    pub fn entry<'a>(&self, body: &'a [u8], object: &str, name: &str) -> Option<Cow<'a, str>> {
        let raw = self.raw(body, object)?;
        let members = scan::members(raw).ok()?;
        string(field(raw, &members.list, name)?.value.of(raw))
    }

    /// The most output tokens that the client lets be made: `max_completion_tokens`, else
    /// `max_tokens`, else `max_output_tokens`. A value that is no natural number counts as absent.
    pub fn max_output_tokens(&self, body: &[u8]) -> Option<u64> {
        ["max_completion_tokens", "max_tokens", "max_output_tokens"]
            .iter()
            .find_map(|name| std::str::from_utf8(self.raw(body, name)?).ok()?.parse().ok())
    }

    /// `service_tier` as asked for; the answer's decides the price.
    pub fn service_tier<'a>(&self, body: &'a [u8]) -> Option<Cow<'a, str>> {
        self.string(body, "service_tier")
    }

    /// `user`: the platform's name of its end user.
    pub fn user<'a>(&self, body: &'a [u8]) -> Option<Cow<'a, str>> {
        self.string(body, "user")
    }
}

/// The member of that name, which may be written with escapes.
pub(super) fn field<'m>(body: &[u8], members: &'m [Member], name: &str) -> Option<&'m Member> {
    members.iter().find(|member| {
        let written = member.name.of(body);
        // Six bytes of escape stand for one byte at the least: long names are not worth decoding.
        let may_mean = member.escaped && written.len() <= 6 * name.len();
        written == name.as_bytes() || (may_mean && *unescape(written) == *name.as_bytes())
    })
}

/// The string that a JSON text is.
pub(super) fn string(raw: &[u8]) -> Option<Cow<'_, str>> {
    raw.strip_prefix(b"\"")?.strip_suffix(b"\"").map(unescape_text)
}

/// The first member whose name was there before. Names are compared as they are meant.
fn duplicate<'m>(body: &[u8], members: &'m [Member]) -> Option<&'m Member> {
    let name = |member: &Member| match member.escaped {
        true => unescape(member.name.of(body)),
        false => Cow::Borrowed(member.name.of(body)),
    };
    let plain = members.iter().all(|member| !member.escaped);
    if plain && members.len() <= 32 {
        let seen_before = |(index, member): &(usize, &Member)| {
            members.iter().take(*index).any(|other| other.name.of(body) == member.name.of(body))
        };
        return members.iter().enumerate().find(seen_before).map(|(_, member)| member);
    }
    let mut sorted: Vec<_> = members.iter().map(|member| (name(member), member)).collect();
    // Stable: of two equal names the later in the body comes second.
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let pairs = sorted.iter().zip(sorted.iter().skip(1));
    let second = pairs.filter(|((a, _), (b, _))| a == b).map(|(_, (_, member))| *member);
    second.min_by_key(|member| member.name.start)
}

fn model(body: &[u8], members: &[Member]) -> Result<String, ApiError> {
    let missing = |what: &'static str| {
        ApiError::bad_request("missing_required_parameter", what).param("model")
    };
    let Some(member) = field(body, members, "model") else {
        return Err(missing("The field `model` is missing; name the model to be used."));
    };
    match string(member.value.of(body)) {
        Some(model) if !model.is_empty() => Ok(model.into_owned()),
        Some(_) => Err(missing("The field `model` is empty; name the model to be used.")),
        None => Err(missing("The field `model` must be a string that names the model.")),
    }
}

/// Reads `stream_options`; `end` is where a member can be added to the body.
fn usage_ask(body: &[u8], members: &[Member], end: usize) -> Result<UsageAsk, ApiError> {
    let Some(member) = field(body, members, "stream_options") else {
        let text = r#","stream_options":{"include_usage":true}"#;
        return Ok(UsageAsk { state: StreamOptions::Absent, span: Span::at(end), text });
    };
    let raw = member.value.of(body);
    match raw.first() {
        Some(b'n') => {
            let text = r#"{"include_usage":true}"#;
            Ok(UsageAsk { state: StreamOptions::Null, span: member.value, text })
        }
        Some(b'{') => usage_in(body, raw, member.value.start),
        _ => Err(invalid_type("stream_options", "an object or null")),
    }
}

/// Reads the object `raw`, which stands at `start`, for `include_usage`.
fn usage_in(body: &[u8], raw: &[u8], start: usize) -> Result<UsageAsk, ApiError> {
    let moved = |span: Span| Span { start: start + span.start, end: start + span.end };
    let options = scan::members(raw)
        .map_err(|fault| invalid_json(body, Fault { at: start + fault.at, ..fault }))?;
    let asks = |option: &&Member| *unescape(option.name.of(raw)) == *b"include_usage";
    let mut asking = options.list.iter().filter(asks);
    let Some(option) = asking.next() else {
        let text = match options.list.is_empty() {
            true => r#""include_usage":true"#,
            false => r#","include_usage":true"#,
        };
        let span = moved(Span::at(options.end));
        return Ok(UsageAsk { state: StreamOptions::WithoutUsage, span, text });
    };
    if let Some(second) = asking.next() {
        let second = Member { name: moved(second.name), ..*second };
        let param = "stream_options.include_usage".to_owned();
        return Err(duplicate_key(body, &second, "This key", param));
    }
    let span = moved(option.value);
    Ok(match option.value.of(raw) {
        b"true" => UsageAsk { state: StreamOptions::UsageOn, span, text: "true" },
        _ => UsageAsk { state: StreamOptions::UsageOff, span, text: "true" },
    })
}

/// A key as far as it is worth showing.
fn shown(key: &str) -> String {
    key.chars().take(256).collect()
}

fn duplicate_key(body: &[u8], second: &Member, what: &str, param: String) -> ApiError {
    let place = place(body, second.name.start.saturating_sub(1));
    let message = format!("{what} is there twice, the second time at {place}; send it once.");
    ApiError::bad_request("duplicate_key", message).param(param)
}

fn invalid_type(param: &'static str, wanted: &str) -> ApiError {
    let message = format!("The field `{param}` must be {wanted}.");
    ApiError::bad_request("invalid_type", message).param(param)
}

/// Says what was wrong and where, and of the body at most the byte that stands there.
fn invalid_json(body: &[u8], fault: Fault) -> ApiError {
    if body.iter().all(u8::is_ascii_whitespace) {
        let message = "The body is empty; send a JSON object with the field `model`.";
        return ApiError::bad_request("invalid_json", message);
    }
    let found = match body.get(fault.at) {
        None => ", but the body ends there".to_owned(),
        Some(byte @ 0x21..=0x7E) => format!(", found `{}`", char::from(*byte)),
        Some(byte) => format!(", found the byte 0x{byte:02x}"),
    };
    let place = place(body, fault.at);
    let message = format!("The body is not valid JSON: {} at {place}{found}.", fault.what);
    ApiError::bad_request("invalid_json", message)
}

/// `byte 17`, counted from 0, with line and column from 1 when the body has more than one line.
fn place(body: &[u8], at: usize) -> String {
    let before = body.get(..at).unwrap_or(body);
    let Some(newline) = memchr::memrchr(b'\n', before) else {
        return match memchr::memchr(b'\n', body) {
            Some(_) => format!("byte {at} (line 1, column {})", at + 1),
            None => format!("byte {at}"),
        };
    };
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    format!("byte {at} (line {line}, column {})", at - newline)
}

// The scan's own message says this number in words.
const _: () = assert!(MAX_MEMBERS == 10_000);

#[cfg(test)]
mod tests;
