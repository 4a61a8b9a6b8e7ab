//! Conditions (`when`): CEL, type-checked at load and compiled to a tree of typed nodes.
//!
//! The crate `cel` parses. Its interpreter wants every variable as a value of its own and finds
//! wrong types only while it runs; so the tree is checked and evaluated here, and the interpreter is
//! what the tests compare with.

mod calls;
mod check;
mod entry;
mod node;
mod op;
mod operators;
mod parse;
mod source;
mod suggest;
mod variables;

use std::ops::Range;
use std::sync::Arc;

use crate::metering::lazy::NeedsExact;
use crate::policy::facts::Facts;

use check::Checker;
use check::Input;
use node::Bool;
use node::Node;

pub use variables::variables;

/// A condition, checked and compiled.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    root: Bool,
    inputs: Vec<Input>,
    models: Vec<(String, Range<usize>)>,
}

/// Something wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where: bytes of the source. Empty at its end where something is missing.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// The cure, where one is known.
    pub help: Option<String>,
}

/// Why a condition could not be evaluated. It counts as not holding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It depends on `tokens.prompt`, which has to be counted exactly; then ask again.
    #[error("the prompt has to be counted first")]
    NeedsExact,
    /// An entry that the request does not have, such as `tag["app"]`.
    #[error("{0} is absent")]
    Missing(Arc<str>),
    /// A number beyond 64 bits.
    #[error("a number is out of range")]
    Overflow,
    /// `/` or `%` by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A list has no item there.
    #[error("an index is outside of its list")]
    OutOfRange,
    /// `int("x")`, or the order of something that is no number.
    #[error("something is not a number")]
    NotANumber,
}

impl From<NeedsExact> for EvalError {
    fn from(NeedsExact: NeedsExact) -> Self {
        Self::NeedsExact
    }
}

impl Expression {
    /// Parses and checks a condition.
    ///
    /// # Errors
    /// Everything found wrong, in order of place; of wrong syntax the first place alone.
    pub fn compile(source: &str) -> Result<Self, Vec<Complaint>> {
        let (tree, text) = parse::parse(source).map_err(|complaint| vec![complaint])?;
        let mut checker = Checker::new(&text);
        let root = checker.condition(&tree);
        let Checker { mut complaints, inputs, models, .. } = checker;
        match root {
            Some(root) if complaints.is_empty() => {
                Ok(Self { source: source.to_owned(), root, inputs, models })
            }
            _ => {
                complaints.sort_by_key(|complaint| complaint.span.start);
                Err(complaints)
            }
        }
    }

    /// Whether it holds. Operands of `&&` and `||` are asked in order of what they cost: those that
    /// read the body after those that do not, those that count the prompt last.
    ///
    /// # Errors
    /// See [`EvalError`]. As in CEL, an operand of `&&` or `||` that decides outweighs an error of
    /// another.
    pub fn eval(&self, facts: &Facts<'_>) -> Result<bool, EvalError> {
        self.root.eval(facts)
    }

    /// Its value where it is the same for every request.
    pub fn constant(&self) -> Option<bool> {
        match self.root {
            Bool::Const(value) => Some(value),
            _ => None,
        }
    }

    /// The models that it names in `model["…"]`, with the bytes of the source where it does.
    pub fn models(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.models.iter().map(|(name, span)| (name.as_str(), span.clone()))
    }

    /// Whether it may ask for `tokens.prompt`.
    pub fn reads_tokens(&self) -> bool {
        self.inputs.iter().any(Input::is_counted)
    }

    /// Whether it asks what is left of a budget.
    pub fn reads_budget(&self) -> bool {
        self.inputs.iter().any(|input| input.label.starts_with("key.budget_"))
    }

    /// The entries that it reads by a fixed key, as map and key: `("header", "user-agent")`. Those
    /// that hold secrets are left out.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs.iter().filter(|input| !input.is_secret).filter_map(|input| {
            let (map, key) = input.label.strip_suffix("\"]")?.split_once("[\"")?;
            Some((map, key))
        })
    }

    /// Whether it reads what no record may keep: the end user's name, a secret header.
    pub fn reads_private(&self) -> bool {
        self.inputs.iter().any(|input| input.is_secret || &*input.label == "request.user")
    }

    /// The variables that it reads, each with the value seen, in order of place. Asks for all of
    /// them, so it may count the prompt.
    pub fn inputs(&self, facts: &Facts<'_>) -> Vec<(String, String)> {
        self.inputs.iter().map(|input| (input.label.to_string(), input.show(facts))).collect()
    }

    /// The condition as it is written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl Complaint {
    fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

#[cfg(test)]
mod tests;
