//! A checked condition as a tree of typed nodes, and how they are evaluated.

use std::borrow::Cow;
use std::sync::Arc;

use regex::Regex;

use super::EvalError;
use super::entry::Entry;
use super::op;
use super::op::Arithmetic;
use super::op::Compare;
use super::variables;
use super::variables::ReadStr;
use super::variables::ReadText;
use super::variables::ReadTexts;
use crate::policy::facts::Facts;
use crate::policy::facts::ModelState;

/// Something that has a value of one type.
pub(super) trait Node {
    type Value<'a>
    where
        Self: 'a;

    fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<Self::Value<'a>, EvalError>;
}

#[derive(Clone, Debug)]
pub(super) enum Bool {
    Const(bool),
    Read(fn(&Facts<'_>) -> bool),
    Model(OfModel<bool>),
    Not(Box<Bool>),
    /// `&&` (decided by false) or `||` (decided by true).
    Logic {
        clauses: Box<[Bool]>,
        decider: bool,
    },
    If(Box<If<Bool>>),
    Bools(Compare, Box<(Bool, Bool)>),
    Ints(Compare, Box<(Int, Int)>),
    Doubles(Compare, Box<(Double, Double)>),
    Texts(Compare, Box<(Text, Text)>),
    /// `tokens.prompt > limit`.
    PromptExceeds(u64),
    AmongInts(Box<(Int, Box<[Int]>)>),
    AmongDoubles(Box<(Double, Box<[Double]>)>),
    AmongTexts(Box<(Text, Texts)>),
    Has(Box<Entry>),
    Test(TextTest, Box<(Text, Text)>),
    Matches(Box<(Text, Regex)>),
}

#[derive(Clone, Debug)]
pub(super) enum Int {
    Const(i64),
    Read(fn(&Facts<'_>) -> i64),
    Prompt,
    Model(OfModel<i64>),
    Negated(Box<Int>),
    Calculated(Arithmetic, Box<(Int, Int)>),
    If(Box<If<Int>>),
    Item(Box<(Box<[Int]>, Int)>),
    LengthOf(Box<Text>),
    CountOf(Box<Texts>),
    OfDouble(Box<Double>),
    OfText(Box<Text>),
}

#[derive(Clone, Debug)]
pub(super) enum Double {
    Const(f64),
    Read(fn(&Facts<'_>) -> f64),
    Model(OfModel<f64>),
    Negated(Box<Double>),
    Calculated(Arithmetic, Box<(Double, Double)>),
    If(Box<If<Double>>),
    Item(Box<(Box<[Double]>, Int)>),
    OfInt(Box<Int>),
    OfText(Box<Text>),
}

#[derive(Clone, Debug)]
pub(super) enum Text {
    Const(Box<str>),
    Str(ReadStr),
    Read(ReadText),
    Entry(Box<Entry>),
    Joined(Box<(Text, Text)>),
    If(Box<If<Text>>),
    Item(Box<(Texts, Int)>),
    Lower(Box<Text>),
    Upper(Box<Text>),
    OfBool(Box<Bool>),
    OfInt(Box<Int>),
    OfDouble(Box<Double>),
}

/// A list of strings.
#[derive(Clone, Debug)]
pub(super) enum Texts {
    Read(ReadTexts),
    Items(Box<[Text]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

/// `test ? then : otherwise`.
#[derive(Clone, Debug)]
pub(super) struct If<N> {
    pub(super) test: Bool,
    pub(super) then: N,
    pub(super) otherwise: N,
}

/// A field of `model["name"]`.
#[derive(Clone, Debug)]
pub(super) struct OfModel<T> {
    pub(super) name: Arc<str>,
    pub(super) read: fn(&ModelState) -> T,
}

impl Node for Bool {
    type Value<'a> = bool;

    fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<bool, EvalError> {
        Ok(match self {
            Self::Const(value) => *value,
            Self::Read(read) => read(facts),
            Self::Model(model) => model.eval(facts),
            Self::Not(inner) => !inner.eval(facts)?,
            Self::Logic { clauses, decider } => {
                logic(clauses.iter().map(|clause| clause.eval(facts)), *decider)?
            }
            Self::If(choice) => choice.eval(facts)?,
            Self::Bools(op, sides) => op.holds(sides.0.eval(facts)?.cmp(&sides.1.eval(facts)?)),
            Self::Ints(op, sides) => op.holds(sides.0.eval(facts)?.cmp(&sides.1.eval(facts)?)),
            Self::Doubles(op, sides) => op.doubles(sides.0.eval(facts)?, sides.1.eval(facts)?)?,
            Self::Texts(op, sides) => both(sides, facts, |a, b| op.texts(a, b))?,
            Self::PromptExceeds(limit) => facts.prompt.exceeds(*limit)?,
            Self::AmongInts(sides) => among(&sides.0, &sides.1, facts)?,
            Self::AmongDoubles(sides) => among(&sides.0, &sides.1, facts)?,
            Self::AmongTexts(sides) => sides.1.contains(&sides.0, facts)?,
            Self::Has(entry) => entry.find(facts)?.is_some(),
            Self::Test(test, sides) => both(sides, facts, |a, b| test.holds(a, b))?,
            Self::Matches(sides) => sides.0.with(facts, |text| sides.1.is_match(text))?,
        })
    }
}

impl Node for Int {
    type Value<'a> = i64;

    fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<i64, EvalError> {
        Ok(match self {
            Self::Const(value) => *value,
            Self::Read(read) => read(facts),
            Self::Prompt => variables::int(facts.prompt.tokens()?),
            Self::Model(model) => model.eval(facts),
            Self::Negated(inner) => Arithmetic::Subtract.ints(0, inner.eval(facts)?)?,
            Self::Calculated(op, sides) => op.ints(sides.0.eval(facts)?, sides.1.eval(facts)?)?,
            Self::If(choice) => choice.eval(facts)?,
            Self::Item(of) => item(&of.0, &of.1, facts)?,
            Self::LengthOf(text) => variables::int(text.eval(facts)?.chars().count()),
            Self::CountOf(texts) => variables::int(texts.count(facts)?),
            Self::OfDouble(value) => op::truncated(value.eval(facts)?)?,
            Self::OfText(text) => {
                text.eval(facts)?.parse().map_err(|_not_an_int| EvalError::NotANumber)?
            }
        })
    }
}

impl Node for Double {
    type Value<'a> = f64;

    fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<f64, EvalError> {
        Ok(match self {
            Self::Const(value) => *value,
            Self::Read(read) => read(facts),
            Self::Model(model) => model.eval(facts),
            Self::Negated(inner) => -inner.eval(facts)?,
            Self::Calculated(op, sides) => op.doubles(sides.0.eval(facts)?, sides.1.eval(facts)?),
            Self::If(choice) => choice.eval(facts)?,
            Self::Item(of) => item(&of.0, &of.1, facts)?,
            Self::OfInt(value) => op::widened(value.eval(facts)?),
            Self::OfText(text) => {
                text.eval(facts)?.parse().map_err(|_not_a_double| EvalError::NotANumber)?
            }
        })
    }
}

impl Node for Text {
    type Value<'a> = Cow<'a, str>;

    fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<Cow<'a, str>, EvalError> {
        Ok(match self {
            Self::Const(text) => Cow::Borrowed(text),
            Self::Str(read) => Cow::Borrowed(read(facts)),
            Self::Read(read) => read(facts),
            Self::Entry(entry) => entry.get(facts)?,
            Self::Joined(sides) => sides.0.eval(facts)? + sides.1.eval(facts)?,
            Self::If(choice) => choice.eval(facts)?,
            Self::Item(of) => of.0.item(&of.1, facts)?,
            Self::Lower(text) => text.eval(facts)?.to_ascii_lowercase().into(),
            Self::Upper(text) => text.eval(facts)?.to_ascii_uppercase().into(),
            Self::OfBool(value) => value.eval(facts)?.to_string().into(),
            Self::OfInt(value) => value.eval(facts)?.to_string().into(),
            Self::OfDouble(value) => value.eval(facts)?.to_string().into(),
        })
    }
}

impl Text {
    /// Hands the text over where it lies: half the time of [`Node::eval`] for what is compared most.
    fn with<R>(&self, facts: &Facts<'_>, test: impl FnOnce(&str) -> R) -> Result<R, EvalError> {
        Ok(match self {
            Self::Const(text) => test(text),
            Self::Str(read) => test(read(facts)),
            other => test(&other.eval(facts)?),
        })
    }
}

impl Texts {
    fn contains(&self, wanted: &Text, facts: &Facts<'_>) -> Result<bool, EvalError> {
        wanted.with(facts, |wanted| match self {
            Self::Read(read) => Ok(read(facts).iter().any(|text| text == wanted)),
            // All are looked at, as in `among`.
            Self::Items(items) => items.iter().try_fold(false, |found, item| {
                Ok(item.with(facts, |text| text == wanted)? || found)
            }),
        })?
    }

    fn count(&self, facts: &Facts<'_>) -> Result<usize, EvalError> {
        match self {
            Self::Read(read) => Ok(read(facts).len()),
            Self::Items(items) => {
                items.iter().try_for_each(|item| item.eval(facts).map(drop))?;
                Ok(items.len())
            }
        }
    }

    fn item<'a>(&'a self, index: &Int, facts: &'a Facts<'_>) -> Result<Cow<'a, str>, EvalError> {
        match self {
            Self::Read(read) => {
                let items = read(facts);
                let text = items.get(place(index.eval(facts)?)?).ok_or(EvalError::OutOfRange)?;
                Ok(Cow::Borrowed(text))
            }
            Self::Items(items) => item(items, index, facts),
        }
    }

    /// All of them, for `explain`.
    pub(super) fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<Vec<Cow<'a, str>>, EvalError> {
        match self {
            Self::Read(read) => Ok(read(facts).iter().map(|text| text.as_str().into()).collect()),
            Self::Items(items) => items.iter().map(|item| item.eval(facts)).collect(),
        }
    }
}

impl TextTest {
    fn holds(self, text: &str, part: &str) -> bool {
        match self {
            Self::Contains => text.contains(part),
            Self::StartsWith => text.starts_with(part),
            Self::EndsWith => text.ends_with(part),
        }
    }
}

impl<N: Node> If<N> {
    fn eval<'a>(&'a self, facts: &'a Facts<'_>) -> Result<N::Value<'a>, EvalError> {
        if self.test.eval(facts)? { self.then.eval(facts) } else { self.otherwise.eval(facts) }
    }
}

impl<T> OfModel<T> {
    fn eval(&self, facts: &Facts<'_>) -> T {
        (self.read)(&facts.live.model(&self.name))
    }
}

/// `&&` and `||`: one deciding clause outweighs all errors. Among errors `NeedsExact` is told: it is
/// the only one after which asking again may give another answer.
fn logic(
    clauses: impl Iterator<Item = Result<bool, EvalError>>,
    decider: bool,
) -> Result<bool, EvalError> {
    let mut failed = None;
    for clause in clauses {
        match clause {
            Ok(value) if value == decider => return Ok(decider),
            Ok(_) => {}
            Err(EvalError::NeedsExact) => failed = Some(EvalError::NeedsExact),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(!decider), Err)
}

fn both(
    sides: &(Text, Text),
    facts: &Facts<'_>,
    test: impl FnOnce(&str, &str) -> bool,
) -> Result<bool, EvalError> {
    sides.0.with(facts, |left| sides.1.with(facts, |right| test(left, right)))?
}

/// Whether `wanted` is one of `items`. All are evaluated: an error in one is an error of the list.
fn among<'a, N>(wanted: &'a N, items: &'a [N], facts: &'a Facts<'_>) -> Result<bool, EvalError>
where
    N: Node<Value<'a>: PartialEq>,
{
    let wanted = wanted.eval(facts)?;
    items.iter().try_fold(false, |found, item| Ok(item.eval(facts)? == wanted || found))
}

/// The item at `index`. All are evaluated, as above.
fn item<'a, N: Node>(
    items: &'a [N],
    index: &Int,
    facts: &'a Facts<'_>,
) -> Result<N::Value<'a>, EvalError> {
    let mut items = items.iter().map(|item| item.eval(facts)).collect::<Result<Vec<_>, _>>()?;
    let at = place(index.eval(facts)?)?;
    if at < items.len() { Ok(items.swap_remove(at)) } else { Err(EvalError::OutOfRange) }
}

fn place(index: i64) -> Result<usize, EvalError> {
    usize::try_from(index).map_err(|_negative| EvalError::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: Result<bool, EvalError> = Err(EvalError::OutOfRange);
    const COUNT: Result<bool, EvalError> = Err(EvalError::NeedsExact);

    #[test]
    fn a_deciding_clause_outweighs_errors_on_either_side() {
        for error in [MISSING, COUNT] {
            assert_eq!(logic([error.clone(), Ok(false)].into_iter(), false), Ok(false));
            assert_eq!(logic([Ok(false), error.clone()].into_iter(), false), Ok(false));
            assert_eq!(logic([error.clone(), Ok(true)].into_iter(), true), Ok(true));
            assert_eq!(logic([error.clone(), Ok(true)].into_iter(), false), error);
            assert_eq!(logic([Ok(false), error.clone()].into_iter(), true), error);
        }
    }

    #[test]
    fn a_count_that_could_still_decide_is_told_before_other_errors() {
        assert_eq!(logic([MISSING, COUNT].into_iter(), true), COUNT);
        assert_eq!(logic([COUNT, MISSING].into_iter(), false), COUNT);
    }
}
