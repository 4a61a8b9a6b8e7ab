//! Types: turns CEL's untyped tree into nodes and says what does not fit.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use cel::common::ast::Expr;
use cel::common::ast::ListExpr;
use cel::common::ast::LiteralValue;
use cel::common::ast::SelectExpr;
use cel::parser::Expression as Parsed;

use super::Complaint;
use super::EvalError;
use super::entry;
use super::entry::Entry;
use super::node::Bool;
use super::node::Double;
use super::node::Int;
use super::node::Node;
use super::node::OfModel;
use super::node::Text;
use super::node::Texts;
use super::source::Source;
use super::suggest;
use super::variables;
use super::variables::Cost;
use super::variables::Map;
use super::variables::Read;
use super::variables::ReadModel;
use super::variables::VARIABLES;
use super::variables::Variable;
use crate::policy::facts::Facts;

/// A part of a condition, of the type that it was found to have.
#[derive(Clone, Debug)]
pub(super) enum Typed {
    Bool(Bool),
    Int(Int),
    /// Only literals are uints, and only comparisons take them.
    Uint(i64),
    Double(Double),
    Text(Text),
    Ints(Box<[Int]>),
    Doubles(Box<[Double]>),
    Texts(Texts),
    Map(Map),
    Models,
    Model(Arc<str>),
}

/// Something that a condition reads.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) label: Arc<str>,
    cost: Cost,
    value: Typed,
    pub(super) is_secret: bool,
}

/// Walks the tree. Its methods return `None` where they complained.
pub(super) struct Checker<'s> {
    pub(super) source: &'s Source<'s>,
    pub(super) complaints: Vec<Complaint>,
    pub(super) inputs: Vec<Input>,
    pub(super) models: Vec<(String, Range<usize>)>,
}

impl<'s> Checker<'s> {
    pub(super) fn new(source: &'s Source<'s>) -> Self {
        Self { source, complaints: Vec::new(), inputs: Vec::new(), models: Vec::new() }
    }

    /// The whole condition.
    pub(super) fn condition(&mut self, tree: &Parsed) -> Option<Bool> {
        let typed = self.check(tree)?;
        let mut seen = Vec::new();
        self.inputs.retain(|input| {
            let is_new = !seen.contains(&input.label);
            seen.push(Arc::clone(&input.label));
            is_new
        });
        if let Typed::Bool(root) = typed {
            return Some(root);
        }
        let is = format!("{} is {}", self.source.quote(tree), typed.described());
        let complaint =
            Complaint::new(self.source.span(tree), format!("a condition is a bool; {is}"));
        self.complaints.push(complaint.help("compare it with something"));
        None
    }

    pub(super) fn check(&mut self, part: &Parsed) -> Option<Typed> {
        let known = self.inputs.len();
        let typed = match &part.expr {
            Expr::Literal(literal) => self.literal(part, literal),
            Expr::Ident(_) => self.name(part, None),
            Expr::Select(select) => self.name(part, Some(select)),
            Expr::Call(call) => self.call(part, call),
            Expr::List(list) => self.list(part, list),
            Expr::Map(_) => self.refuse(part, "maps cannot be written in policies"),
            Expr::Struct(_) => self.refuse(part, "messages cannot be written in policies"),
            Expr::Comprehension(_) | Expr::Unspecified => {
                self.refuse(part, "this is not allowed in policies")
            }
        }?;
        if typed.is_constant() {
            self.inputs.truncate(known);
        }
        Some(typed)
    }

    /// Complains about `part`.
    pub(super) fn refuse<T>(&mut self, part: &Parsed, message: impl Into<String>) -> Option<T> {
        self.complaints.push(Complaint::new(self.source.span(part), message));
        None
    }

    /// Complains about `part` and says how to do better.
    pub(super) fn refuse_with<T>(
        &mut self,
        part: &Parsed,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Option<T> {
        let complaint = Complaint::new(self.source.span(part), message);
        self.complaints.push(complaint.help(help));
        None
    }

    /// What the dearest of the inputs from `first` on costs.
    pub(super) fn cost_since(&self, first: usize) -> Cost {
        self.inputs.iter().skip(first).map(|input| input.cost).max().unwrap_or(Cost::Head)
    }

    /// An entry of a map under the key that `key` gives.
    pub(super) fn entry_of(
        &mut self,
        part: &Parsed,
        map: Map,
        (key, typed): (&Parsed, Typed),
    ) -> Option<Entry> {
        match typed {
            Typed::Text(Text::Const(key)) => self.entry(part, map, &key),
            Typed::Text(text) => {
                let written = self.source.text.get(self.source.span(key)).unwrap_or_default();
                let label = format!("{}[{written}]", map.name()).into();
                Some(self.entry_read(Entry::Computed { map, key: text }, map, label))
            }
            other => {
                let name = map.name();
                let found = format!("{} is {}", self.source.quote(key), other.described());
                self.refuse(key, format!("the keys of `{name}` are strings; {found}"))
            }
        }
    }

    pub(super) fn entry(&mut self, part: &Parsed, map: Map, key: &str) -> Option<Entry> {
        match Entry::named(map, key) {
            Some(entry) => Some(self.entry_read(entry, map, entry::label(map, key))),
            None => self.refuse(part, format!("no header can have the name {key:?}")),
        }
    }

    fn entry_read(&mut self, entry: Entry, map: Map, label: Arc<str>) -> Entry {
        let cost = if map == Map::Metadata { Cost::Body } else { Cost::Head };
        let is_secret = entry.is_secret();
        let value = Typed::Text(Text::Entry(Box::new(entry.clone())));
        self.inputs.push(Input { label, cost, value, is_secret });
        entry
    }

    fn literal(&mut self, part: &Parsed, literal: &LiteralValue) -> Option<Typed> {
        Some(match literal {
            LiteralValue::Boolean(value) => Typed::Bool(Bool::Const(*value.inner())),
            LiteralValue::Int(value) => Typed::Int(Int::Const(*value.inner())),
            LiteralValue::Double(value) => Typed::Double(Double::Const(*value.inner())),
            LiteralValue::String(value) => Typed::Text(Text::Const(value.inner().into())),
            LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
                Ok(value) => Typed::Uint(value),
                Err(_too_large) => return self.refuse(part, "this number is out of range"),
            },
            LiteralValue::Bytes(_) => {
                let message = "bytes are not allowed in policies";
                return self.refuse_with(part, message, "write a string, without the b");
            }
            LiteralValue::Null => {
                let message = "nothing is null in policies";
                return self.refuse_with(
                    part,
                    message,
                    "absent fields are empty or 0; `\"x\" in tag` tells whether an entry is there",
                );
            }
        })
    }

    fn list(&mut self, part: &Parsed, list: &ListExpr) -> Option<Typed> {
        let items: Vec<_> = list.elements.iter().map(|item| self.check(item)).collect();
        let items = items.into_iter().collect::<Option<Vec<_>>>()?;
        let Some(first) = items.first() else {
            return self.refuse(part, "this list is empty");
        };
        let kind = first.described();
        let odd = items.iter().zip(&list.elements).find(|(item, _)| item.described() != kind);
        if let Some((odd, odd_part)) = odd {
            let (quoted, is) = (self.source.quote(odd_part), odd.described());
            let message = format!("a list holds one type: its first item is {kind}, {quoted} {is}");
            return self.refuse(odd_part, message);
        }
        match first {
            Typed::Text(_) => Some(Typed::Texts(Texts::Items(
                items.into_iter().filter_map(Typed::text).collect(),
            ))),
            Typed::Int(_) => Some(Typed::Ints(items.into_iter().filter_map(Typed::int).collect())),
            Typed::Double(_) => {
                Some(Typed::Doubles(items.into_iter().filter_map(Typed::double).collect()))
            }
            _ => self.refuse(part, format!("lists hold strings, ints or doubles, not {kind}")),
        }
    }

    /// A variable, or a field of one.
    fn name(&mut self, part: &Parsed, select: Option<&SelectExpr>) -> Option<Typed> {
        if let Some(path) = path(part) {
            if let Some(variable) = variables::variable(&path) {
                return Some(self.read(variable));
            }
            let goes_on = |rest: &str| rest.starts_with('.');
            let is_part = |known: &Variable| path.strip_prefix(known.name).is_some_and(goes_on);
            if !VARIABLES.iter().any(is_part) {
                return self.unknown(part, &path);
            }
        }
        let select = select?;
        let name = &select.field;
        match self.check(&select.operand)? {
            Typed::Map(map) => {
                let entry = self.entry(part, map, name)?;
                Some(Typed::Text(Text::Entry(Box::new(entry))))
            }
            Typed::Model(model) => self.model_field(part, model, name),
            Typed::Models => {
                self.refuse_with(part, "`model` needs a name in brackets", MODEL_EXAMPLE)
            }
            other => {
                let (quoted, is) = (self.source.quote(&select.operand), other.described());
                self.refuse(part, format!("{quoted} is {is} and has no field `{name}`"))
            }
        }
    }

    fn read(&mut self, variable: &'static Variable) -> Typed {
        let value = match variable.read {
            Read::Bool(read) => Typed::Bool(Bool::Read(read)),
            Read::Int(read) => Typed::Int(Int::Read(read)),
            Read::Prompt => Typed::Int(Int::Prompt),
            Read::Double(read) => Typed::Double(Double::Read(read)),
            Read::Str(read) => Typed::Text(Text::Str(read)),
            Read::Text(read) => Typed::Text(Text::Read(read)),
            Read::Texts(read) => Typed::Texts(Texts::Read(read)),
            Read::Map(map) => return Typed::Map(map),
            Read::Models => return Typed::Models,
        };
        let (label, cost) = (variable.name.into(), variable.cost);
        self.inputs.push(Input { label, cost, value: value.clone(), is_secret: false });
        value
    }

    fn unknown(&mut self, part: &Parsed, path: &str) -> Option<Typed> {
        let group = variables::group(path);
        if !group.is_empty() {
            let message = format!("`{path}` is a group of variables");
            return self.refuse_with(part, message, format!("there are {}", group.join(", ")));
        }
        let help = match suggest::nearest(path, VARIABLES.iter().map(|variable| variable.name)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                let group = variables::group(path.split('.').next().unwrap_or_default());
                let known = if group.is_empty() { variables::roots() } else { group };
                format!("there are {}", known.join(", "))
            }
        };
        self.refuse_with(part, format!("there is no variable `{path}`"), help)
    }

    /// `model["name"]`.
    pub(super) fn model(&mut self, key: &Parsed) -> Option<Typed> {
        let Typed::Text(Text::Const(name)) = self.check(key)? else {
            let message =
                "a model has to be named by a string, which is checked when policies load";
            return self.refuse_with(key, message, MODEL_EXAMPLE);
        };
        self.models.push((name.to_string(), self.source.span(key)));
        Some(Typed::Model(name.into()))
    }

    fn model_field(&mut self, part: &Parsed, name: Arc<str>, field: &str) -> Option<Typed> {
        let Some(known) = variables::FIELDS.iter().find(|known| known.name == field) else {
            let names = || variables::FIELDS.iter().map(|known| known.name);
            let help = match suggest::nearest(field, names()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
            };
            return self.refuse_with(part, format!("models have no field `{field}`"), help);
        };
        let label = format!("model[{name:?}].{field}").into();
        let value = match known.read {
            ReadModel::Bool(read) => Typed::Bool(Bool::Model(OfModel { name, read })),
            ReadModel::Int(read) => Typed::Int(Int::Model(OfModel { name, read })),
            ReadModel::Double(read) => Typed::Double(Double::Model(OfModel { name, read })),
        };
        self.inputs.push(Input { label, cost: Cost::Head, value: value.clone(), is_secret: false });
        Some(value)
    }
}

const MODEL_EXAMPLE: &str = "such as model[\"gpt-6-luna\"].p95_ms";

/// `a.b.c` where the part is a name and nothing else.
pub(super) fn path(part: &Parsed) -> Option<String> {
    match &part.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        _ => None,
    }
}

impl Typed {
    /// Its type, with an article.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Uint(_) => "a uint",
            Self::Double(_) => "a double",
            Self::Text(_) => "a string",
            Self::Ints(_) => "a list of ints",
            Self::Doubles(_) => "a list of doubles",
            Self::Texts(_) => "a list of strings",
            Self::Map(_) => "a map",
            Self::Models => "a map of models",
            Self::Model(_) => "a model",
        }
    }

    fn is_constant(&self) -> bool {
        matches!(
            self,
            Self::Bool(Bool::Const(_))
                | Self::Int(Int::Const(_))
                | Self::Double(Double::Const(_))
                | Self::Text(Text::Const(_))
        )
    }

    pub(super) fn int(self) -> Option<Int> {
        if let Self::Int(node) = self { Some(node) } else { None }
    }

    pub(super) fn double(self) -> Option<Double> {
        if let Self::Double(node) = self { Some(node) } else { None }
    }

    pub(super) fn text(self) -> Option<Text> {
        if let Self::Text(node) = self { Some(node) } else { None }
    }
}

impl Input {
    pub(super) fn is_counted(&self) -> bool {
        self.cost == Cost::Count
    }

    /// Its value for people.
    pub(super) fn show(&self, facts: &Facts<'_>) -> String {
        fn or_why(value: Result<impl Display, EvalError>) -> String {
            match value {
                Ok(value) => value.to_string(),
                Err(EvalError::Missing(_)) => "absent".into(),
                Err(EvalError::NeedsExact) => "not counted".into(),
                Err(error) => error.to_string(),
            }
        }
        match &self.value {
            Typed::Bool(node) => or_why(node.eval(facts)),
            Typed::Int(node) => or_why(node.eval(facts)),
            Typed::Double(node) => or_why(node.eval(facts)),
            Typed::Text(node) => or_why(node.eval(facts).map(|text| match self.is_secret {
                true => "hidden".into(),
                false => format!("{text:?}"),
            })),
            Typed::Texts(node) => or_why(node.eval(facts).map(|texts| format!("{texts:?}"))),
            // Never read as a whole.
            _ => String::new(),
        }
    }
}
