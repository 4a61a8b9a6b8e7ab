//! Comparing and calculating as CEL does it: nothing wraps, and NaN has no order.

use std::cmp::Ordering;

use super::EvalError;

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A calculation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Compare {
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The same with its sides changed: `a < b` is `b > a`.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::NotEqual => Self::NotEqual,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    /// Whether it asks for equality alone.
    pub(super) fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }

    pub(super) fn texts(self, left: &str, right: &str) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            _ => self.holds(left.cmp(right)),
        }
    }

    pub(super) fn doubles(self, left: f64, right: f64) -> Result<bool, EvalError> {
        match left.partial_cmp(&right) {
            Some(order) => Ok(self.holds(order)),
            None if self.is_equality() => Ok(self == Self::NotEqual),
            None => Err(EvalError::NotANumber),
        }
    }
}

impl Arithmetic {
    pub(super) fn ints(self, left: i64, right: i64) -> Result<i64, EvalError> {
        let done = match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide | Self::Remainder if right == 0 => {
                return Err(EvalError::DivisionByZero);
            }
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
        };
        done.ok_or(EvalError::Overflow)
    }

    /// As IEEE 754 has it. CEL has no remainder of doubles: the checker refuses it.
    pub(super) fn doubles(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide => left / right,
            Self::Remainder => left % right,
        }
    }
}

/// `int(double)`: cut off towards zero.
pub(super) fn truncated(value: f64) -> Result<i64, EvalError> {
    // 2^63; CEL leaves both ends out.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if value.is_nan() {
        return Err(EvalError::NotANumber);
    }
    if value <= -END || value >= END {
        return Err(EvalError::Overflow);
    }
    #[expect(clippy::cast_possible_truncation, reason = "just compared with an i64's range")]
    Ok(value as i64)
}

/// An int as a double, to the nearest that there is.
pub(super) fn widened(value: i64) -> f64 {
    value as f64
}
