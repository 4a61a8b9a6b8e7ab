//! `weir tokens`: counts what a request, a file of requests or a text has, and what it costs to send.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::io::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::AppError;
use crate::metering::catalogue::Catalogue;
use crate::metering::cost::UsageSource;
use crate::metering::cost::price;
use crate::metering::lazy::LazyPrompt;
use crate::metering::lazy::same_rules;
use crate::metering::parts::Flag;
use crate::metering::parts::Part;
use crate::metering::tokens::Encoding;
use crate::openai::usage::Usage;

/// What is compared beside the models asked for; the first counts where nobody names a model.
const COMPARED: [&str; 4] = ["gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "gpt-4o-mini"];
const COMPARED_EMBEDDINGS: [&str; 2] = ["text-embedding-3-small", "text-embedding-3-large"];

/// What is counted, and for whom.
#[derive(Debug, clap::Args)]
pub(super) struct Tokens {
    /// A request, JSON lines of requests or of fine-tuning examples, or a text; - is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
    /// Counts for this model; may be given several times. Without it the request's own.
    #[arg(long, value_name = "M")]
    model: Vec<String>,
    /// Counts the file as a text, whatever it looks like.
    #[arg(long)]
    text: bool,
}

/// What the bytes turned out to be.
enum Input<'a> {
    Text(&'a str),
    One(Request<'a>),
    Lines(Vec<Request<'a>>),
}

/// One request, as far as the command has to know it.
struct Request<'a> {
    kind: &'static str,
    model: Option<String>,
    body: &'a str,
}

/// Fields that tell what a JSON object is.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    /// A line of a batch holds the request in here.
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// The tokens of the whole input for one model.
#[derive(Clone, Default)]
struct Sum {
    tokens: u64,
    /// In the order of [`Part::ALL`].
    parts: [u64; Part::ALL.len()],
    flags: Vec<Flag>,
}

/// Counts and prints.
///
/// # Errors
/// A sentence: the file cannot be read, is not UTF-8, or has a line that is not JSON.
pub(super) fn run(arguments: &Tokens, json: bool) -> Result<(), AppError> {
    let bytes = read(&arguments.file)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        fail(format!("{} is not UTF-8: byte {}", shown(&arguments.file), error.valid_up_to() + 1))
    })?;
    let input = if arguments.text { Input::Text(text) } else { Input::of(text, &arguments.file)? };
    let catalogue = Catalogue::builtin();
    let models = models(&input, &arguments.model);
    let mut counted: Vec<(&String, Sum)> = Vec::new();
    for model in &models {
        let sum = input.count_or_recall(&catalogue, model, &counted);
        counted.push((model, sum));
    }
    let report = if json {
        machine(&input, &catalogue, &counted)
    } else {
        human(&input, &catalogue, &counted)
    };
    // A reader that went away, such as `head`, has what it wanted.
    let _ = std::io::stdout().write_all(report.as_bytes());
    Ok(())
}

fn fail(sentence: String) -> AppError {
    AppError::Other(sentence)
}

fn shown(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

fn read(file: &str) -> Result<Vec<u8>, AppError> {
    let mut bytes = Vec::new();
    let done = match file {
        "-" => std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ()),
        _ => std::fs::read(file).map(|read| bytes = read),
    };
    done.map_err(|error| fail(format!("cannot read {}: {error}", shown(file))))?;
    Ok(bytes)
}

/// The models to count for: those asked for, or the request's own, and some to compare.
fn models(input: &Input<'_>, asked: &[String]) -> Vec<String> {
    let own = || input.requests().iter().find_map(|request| request.model.clone());
    let mut models = asked.to_vec();
    if models.is_empty() {
        models.extend(own());
    }
    let embeds = input.requests().first().is_some_and(|request| request.kind == "embeddings");
    let compared: &[&str] = if embeds { &COMPARED_EMBEDDINGS } else { &COMPARED };
    for model in compared {
        if !models.iter().any(|known| known == model) {
            models.push((*model).to_owned());
        }
    }
    models
}

impl<'a> Input<'a> {
    fn of(text: &'a str, file: &str) -> Result<Self, AppError> {
        let is_json =
            Path::new(file).extension().is_some_and(|ext| ext == "json" || ext == "jsonl");
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix('{').map(str::trim_start);
        // `{name}` opens a text, `{"` an object.
        let looks_like_json = inner.is_some_and(|inner| inner.starts_with(['"', '}']));
        if !is_json && !looks_like_json {
            return Ok(Self::Text(text));
        }
        match Request::of(trimmed) {
            Ok(request) => return Ok(Self::One(request)),
            // One object over many lines, unless the first of them is one.
            Err(error)
                if trimmed.lines().next().is_none_or(|line| Request::of(line.trim()).is_err()) =>
            {
                return Err(fail(format!("{}: {error}", shown(file))));
            }
            Err(_) => {}
        }
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let requests = lines.map(|(at, line)| {
            let wrong = |error| fail(format!("{}, line {}: {error}", shown(file), at + 1));
            Request::of(line.trim()).map_err(wrong)
        });
        Ok(Self::Lines(requests.collect::<Result<_, _>>()?))
    }

    fn requests(&self) -> &[Request<'a>] {
        match self {
            Self::Text(_) => &[],
            Self::One(request) => std::slice::from_ref(request),
            Self::Lines(requests) => requests,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::One(request) => request.kind,
            Self::Lines(_) => "jsonl",
        }
    }

    /// Counts for a model, unless it was done for one whose counts are the same.
    fn count_or_recall(&self, catalogue: &Catalogue, model: &str, done: &[(&String, Sum)]) -> Sum {
        let encoding = encoding(catalogue, model);
        let alike =
            |known: &str| self::encoding(catalogue, known) == encoding && same_rules(known, model);
        let known = done.iter().find(|(known, _)| alike(known));
        known.map_or_else(|| self.count(encoding, model), |(_, sum)| sum.clone())
    }

    fn count(&self, encoding: Encoding, model: &str) -> Sum {
        let mut sum = Sum::default();
        if let Self::Text(text) = self {
            sum.tokens = encoding.count(text);
            // What can be said of the model alone.
            sum.flags.extend(LazyPrompt::new(encoding, model, b"").count().flags.iter());
        }
        for request in self.requests() {
            let count = LazyPrompt::new(encoding, model, request.body.as_bytes()).count();
            sum.tokens += count.tokens;
            for (part, tokens) in Part::ALL.into_iter().zip(&mut sum.parts) {
                *tokens += count.parts.get(part);
            }
            let new =
                count.flags.iter().filter(|flag| !sum.flags.contains(flag)).collect::<Vec<_>>();
            sum.flags.extend(new);
        }
        sum
    }
}

impl Sum {
    /// The parts that have tokens, by name.
    fn shown_parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let parts = Part::ALL.into_iter().zip(self.parts).filter(|(_, tokens)| *tokens > 0);
        parts.map(|(part, tokens)| (part.as_str(), tokens))
    }
}

impl<'a> Request<'a> {
    fn of(text: &'a str) -> Result<Self, String> {
        let shape: Shape<'a> = match text.starts_with('{') {
            true => {
                serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?
            }
            false => return Err("expected a JSON object".to_owned()),
        };
        if let Some(body) = shape.body.filter(|body| body.get().starts_with('{')) {
            return Self::of(body.get());
        }
        let model = shape.model.and_then(|model| serde_json::from_str::<String>(model.get()).ok());
        let embeds = model.as_ref().is_some_and(|model| model.contains("embedding"));
        let kind = match shape {
            Shape { messages: Some(_), model: Some(_), .. } => "chat",
            Shape { messages: Some(_), .. } => "example",
            Shape { input: Some(_), .. } if embeds => "embeddings",
            Shape { input: None, instructions: None, prompt: Some(_), .. } => "completion",
            Shape { input: Some(_), .. } | Shape { instructions: Some(_), .. } => "response",
            _ => {
                let cure =
                    "a request has `messages`, `input` or `prompt`; --text counts it as a text";
                return Err(format!("nothing to count: {cure}"));
            }
        };
        Ok(Self { kind, model, body: text })
    }
}

fn encoding(catalogue: &Catalogue, model: &str) -> Encoding {
    let listed = catalogue.get(model).and_then(|model| model.encoding);
    listed.unwrap_or_else(|| Encoding::of(model))
}

/// The cost of sending that many tokens, or why there is none.
fn cost(catalogue: &Catalogue, model: &str, tokens: u64) -> Option<String> {
    let usage = Usage { input: tokens, ..Usage::default() };
    let bill = price(catalogue.get(model), &usage, UsageSource::Estimated, None);
    Some(bill.cost?.to_string())
}

fn machine(input: &Input<'_>, catalogue: &Catalogue, counted: &[(&String, Sum)]) -> String {
    let rows: Vec<_> = counted
        .iter()
        .map(|(model, sum)| {
            json!({
                "model": model,
                "encoding": encoding(catalogue, model).as_str(),
                "tokens": sum.tokens,
                "parts": sum.shown_parts().collect::<BTreeMap<_, _>>(),
                "flags": sum.flags.iter().map(|flag| flag.as_str()).collect::<Vec<_>>(),
                "input_cost_usd": cost(catalogue, model, sum.tokens),
            })
        })
        .collect();
    let mut report = json!({
        "kind": input.kind(),
        "requests": input.requests().len(),
        "models": rows,
    });
    if let (Some(all), Some(first)) =
        (report.as_object_mut(), rows.first().and_then(|row| row.as_object()))
    {
        all.extend(first.clone());
    }
    format!("{report}\n")
}

fn human(input: &Input<'_>, catalogue: &Catalogue, counted: &[(&String, Sum)]) -> String {
    let mut out = String::new();
    let Some((model, sum)) = counted.first() else { return out };
    let mut row = |name: &str, value: &dyn std::fmt::Display| {
        // Text is always written.
        let _ = writeln!(out, "{name:<11} {value}");
    };
    match input {
        Input::Lines(requests) => row("input", &format_args!("{} JSON lines", requests.len())),
        _ => row("input", &input.kind()),
    }
    row("model", &format_args!("{model} ({})", encoding(catalogue, model).as_str()));
    row("tokens", &sum.tokens);
    for (part, tokens) in sum.shown_parts() {
        row(&format!("  {part}"), &tokens);
    }
    for flag in &sum.flags {
        row("flag", &format_args!("{}: {}", flag.as_str(), flag.meaning()));
    }
    let width = counted.iter().map(|(model, _)| model.len()).max().unwrap_or(0);
    let _ = writeln!(out, "\n{:<width$} {:>11}  input cost", "model", "tokens");
    for (model, sum) in counted {
        let cost = cost(catalogue, model, sum.tokens)
            .map_or_else(|| "unpriced".to_owned(), |usd| format!("${usd}"));
        let _ = writeln!(out, "{model:<width$} {:>11}  {cost}", sum.tokens);
    }
    out
}
