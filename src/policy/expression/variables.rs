//! What conditions can name: one table for the checker, for `explain`, for messages and for docs.

use std::borrow::Cow;

use crate::policy::facts::Facts;
use crate::policy::facts::ModelState;

/// A variable: its name, how it is read, and what to say about it.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) cost: Cost,
    pub(super) read: Read,
    pub(super) about: &'static str,
}

/// What it takes to read a variable. `&&` and `||` ask cheap operands first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    /// It is there.
    Head,
    /// Fields of the body are looked for.
    Body,
    /// The prompt is counted.
    Count,
}

pub(super) type ReadStr = for<'a> fn(&'a Facts<'_>) -> &'a str;
pub(super) type ReadText = for<'a> fn(&'a Facts<'_>) -> Cow<'a, str>;
pub(super) type ReadTexts = for<'a> fn(&'a Facts<'_>) -> &'a [String];

/// How a variable is read; says its type too.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    Bool(fn(&Facts<'_>) -> bool),
    Int(fn(&Facts<'_>) -> i64),
    /// `tokens.prompt`, an int that is counted no further than needed.
    Prompt,
    Double(fn(&Facts<'_>) -> f64),
    /// A string that lies there.
    Str(ReadStr),
    /// A string that has to be decoded.
    Text(ReadText),
    Texts(ReadTexts),
    Map(Map),
    /// `model`, indexed by name.
    Models,
}

/// The maps from string to string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    Header,
    Metadata,
    Tag,
}

/// How a field of `model["…"]` is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReadModel {
    Bool(fn(&ModelState) -> bool),
    Int(fn(&ModelState) -> i64),
    Double(fn(&ModelState) -> f64),
}

/// A field of `model["…"]`.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) read: ReadModel,
    pub(super) about: &'static str,
}

pub(super) const VARIABLES: &[Variable] = &[
    Variable {
        name: "request.model",
        cost: Cost::Head,
        read: Read::Str(|facts| facts.view.model()),
        about: "the model asked for",
    },
    Variable {
        name: "request.endpoint",
        cost: Cost::Head,
        read: Read::Str(|facts| facts.endpoint.name()),
        about: "the path below `/v1/`, such as `chat/completions`",
    },
    Variable {
        name: "request.user",
        cost: Cost::Body,
        read: Read::Text(|facts| facts.user()),
        about: "`safety_identifier`, else `user`; empty when absent",
    },
    Variable {
        name: "request.service_tier",
        cost: Cost::Body,
        read: Read::Text(|facts| facts.view.service_tier(facts.body).unwrap_or_default()),
        about: "the tier asked for; empty when absent",
    },
    Variable {
        name: "request.stream",
        cost: Cost::Head,
        read: Read::Bool(|facts| facts.view.stream()),
        about: "whether the answer is to be a stream",
    },
    Variable {
        name: "request.json_schema",
        cost: Cost::Body,
        read: Read::Bool(|facts| facts.shape().json_schema),
        about: "whether the answer has to fit a JSON schema",
    },
    Variable {
        name: "request.messages",
        cost: Cost::Body,
        read: Read::Int(|facts| int(facts.shape().messages)),
        about: "how many messages or input items there are",
    },
    Variable {
        name: "request.images",
        cost: Cost::Body,
        read: Read::Int(|facts| int(facts.shape().images)),
        about: "how many images there are",
    },
    Variable {
        name: "request.tools",
        cost: Cost::Body,
        read: Read::Int(|facts| int(facts.shape().tools)),
        about: "how many tools are offered",
    },
    Variable {
        name: "request.max_tokens",
        cost: Cost::Body,
        read: Read::Int(|facts| int(facts.view.max_output_tokens(facts.body).unwrap_or_default())),
        about: "the most output tokens that the client lets be made; 0 when absent",
    },
    Variable {
        name: "request.metadata",
        cost: Cost::Body,
        read: Read::Map(Map::Metadata),
        about: "the request's `metadata`",
    },
    Variable {
        name: "tokens.prompt",
        cost: Cost::Count,
        read: Read::Prompt,
        about: "the prompt's tokens, counted when a rule that is reached asks",
    },
    Variable {
        name: "importance",
        cost: Cost::Head,
        read: Read::Str(|facts| facts.importance()),
        about: "`low`, `normal` or `high`, from `x-weir-importance`",
    },
    Variable {
        name: "key.name",
        cost: Cost::Head,
        read: Read::Str(|facts| facts.key.name),
        about: "the calling key's name",
    },
    Variable {
        name: "key.team",
        cost: Cost::Head,
        read: Read::Str(|facts| facts.key.team),
        about: "its team; empty for none",
    },
    Variable {
        name: "key.tags",
        cost: Cost::Head,
        read: Read::Texts(|facts| facts.key.tags),
        about: "its tags",
    },
    Variable {
        name: "key.budget_left_usd",
        cost: Cost::Head,
        read: Read::Double(|facts| facts.key.budget_left_usd),
        about: "what is left of its tightest budget in USD; infinite without one",
    },
    Variable {
        name: "key.budget_used",
        cost: Cost::Head,
        read: Read::Double(|facts| facts.key.budget_used),
        about: "how much of that budget is used, 0 to 1",
    },
    Variable {
        name: "tag",
        cost: Cost::Head,
        read: Read::Map(Map::Tag),
        about: "the headers `x-weir-tag-<name>`",
    },
    Variable {
        name: "header",
        cost: Cost::Head,
        read: Read::Map(Map::Header),
        about: "the client's headers, in whatever case",
    },
    Variable {
        name: "time.hour",
        cost: Cost::Head,
        read: Read::Int(|facts| facts.hour()),
        about: "hour of the day, 0 to 23, UTC",
    },
    Variable {
        name: "time.weekday",
        cost: Cost::Head,
        read: Read::Int(|facts| facts.weekday()),
        about: "day of the week, 0 is Sunday, UTC",
    },
    Variable {
        name: "model",
        cost: Cost::Head,
        read: Read::Models,
        about: "how a model is doing: `model[\"name\"].p95_ms` and so on",
    },
];

pub(super) const FIELDS: &[Field] = &[
    Field {
        name: "p50_ms",
        read: ReadModel::Double(|model| model.p50_ms),
        about: "median time to an answer's end in ms; 0 as long as nothing is known",
    },
    Field {
        name: "p95_ms",
        read: ReadModel::Double(|model| model.p95_ms),
        about: "95th percentile of it",
    },
    Field {
        name: "error_rate",
        read: ReadModel::Double(|model| model.error_rate),
        about: "share of calls that failed, 0 to 1",
    },
    Field {
        name: "in_flight",
        read: ReadModel::Int(|model| int(model.in_flight)),
        about: "calls that are running",
    },
    Field {
        name: "available",
        read: ReadModel::Bool(|model| model.available),
        about: "whether its provider takes requests",
    },
    Field {
        name: "days_to_shutdown",
        read: ReadModel::Int(|model| model.days_to_shutdown),
        about: "days until it stops to answer",
    },
];

/// Name, type and meaning of every variable, for documentation.
pub fn variables() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    let plain = VARIABLES.iter().filter(|variable| !matches!(variable.read, Read::Models));
    let plain =
        plain.map(|variable| (variable.name.to_owned(), variable.read.type_name(), variable.about));
    let of_model = FIELDS.iter().map(|field| {
        (format!("model[\"name\"].{}", field.name), field.read.type_name(), field.about)
    });
    plain.chain(of_model)
}

/// A count as CEL's int.
pub(super) fn int(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

pub(super) fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

/// Whether `name` is a group, such as `request`: the variables in it.
pub(super) fn group(name: &str) -> Vec<&'static str> {
    let inside = |full: &&str| full.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    VARIABLES.iter().map(|variable| variable.name).filter(inside).collect()
}

/// The first words of all names.
pub(super) fn roots() -> Vec<&'static str> {
    let mut roots: Vec<_> =
        VARIABLES.iter().filter_map(|variable| variable.name.split('.').next()).collect();
    roots.dedup();
    roots
}

impl Read {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Prompt => "int",
            Self::Double(_) => "double",
            Self::Str(_) | Self::Text(_) => "string",
            Self::Texts(_) => "list(string)",
            Self::Map(_) | Self::Models => "map(string, string)",
        }
    }
}

impl ReadModel {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
        }
    }
}

impl Map {
    /// The variable's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Metadata => "request.metadata",
            Self::Tag => "tag",
        }
    }
}
