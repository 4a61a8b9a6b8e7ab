//! Money in US dollars, exact to 10^-12: what the price of one token needs.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;
use std::ops::AddAssign;
use std::ops::Sub;
use std::str::FromStr;

use serde::Serialize;
use serde::Serializer;

/// Decimals that are kept: picodollars.
const SCALE: u32 = 12;
const PICODOLLARS_PER_DOLLAR: i128 = 10_i128.pow(SCALE);
const PICODOLLARS: u64 = 10_u64.pow(SCALE);
/// A decimal text longer than this is no amount that anybody means.
const LONGEST_TEXT: usize = 64;

/// An exact amount of US dollars, in picodollars (10^-12 USD). A rate of up to six decimals per
/// million tokens is a whole number of picodollars per token, so sums of bills never round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i128);

/// Why a text is no exact amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("not a decimal number")]
    NotANumber,
    /// More digits than picodollars can hold.
    #[error("finer than 10^-12 USD, or beyond what money can be")]
    OutOfRange,
}

impl Usd {
    /// No money at all.
    pub const ZERO: Self = Self(0);

    /// An amount of picodollars.
    pub const fn from_picodollars(picodollars: i128) -> Self {
        Self(picodollars)
    }

    /// The amount in picodollars.
    pub const fn picodollars(self) -> i128 {
        self.0
    }

    /// The price of one token, from a price in USD per million tokens such as `0.0625`.
    ///
    /// # Errors
    /// When the text is no decimal, or has more than six decimals: such a rate could not be added
    /// up exactly.
    pub fn per_token(usd_per_million: &str) -> Result<Self, MoneyError> {
        let Self(million) = usd_per_million.parse()?;
        match (million / 1_000_000, million % 1_000_000) {
            (token, 0) => Ok(Self(token)),
            _ => Err(MoneyError::OutOfRange),
        }
    }

    /// The price of `count` units at this price each.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(i128::from(count)))
    }

    /// The price of `count` thousandths of a unit, at a decimal price such as `0.000283333333333` a
    /// unit; rounded to the nearest picodollar, half up, once.
    ///
    /// # Errors
    /// When the price is no decimal, is negative, or is finer than 10^-24 USD.
    pub fn of_units(price: &str, thousandths: u64) -> Result<Self, MoneyError> {
        // Twelve more digits than money has, so that the price is exact until it is multiplied.
        let (mantissa, exponent) =
            price.trim().split_once(['e', 'E']).unwrap_or((price.trim(), "0"));
        let exponent: i32 = exponent.parse().map_err(|_| MoneyError::NotANumber)?;
        let shifted = format!("{mantissa}e{}", exponent.saturating_add(12));
        let Self(fine) = shifted.parse()?;
        if fine < 0 {
            return Err(MoneyError::OutOfRange);
        }
        let whole = fine.checked_mul(i128::from(thousandths)).ok_or(MoneyError::OutOfRange)?;
        let unit = 1_000 * PICODOLLARS_PER_DOLLAR;
        Ok(Self((whole + unit / 2) / unit))
    }

    /// The nearest float, for the Prometheus export alone. Never add these up.
    #[expect(clippy::cast_precision_loss, reason = "an export of at most 15 digits")]
    pub fn to_f64(self) -> f64 {
        // Dollars and the rest apart, so that large sums keep their cents.
        let dollars = (self.0 / PICODOLLARS_PER_DOLLAR) as f64;
        let rest = (self.0 % PICODOLLARS_PER_DOLLAR) as f64;
        dollars + rest / PICODOLLARS_PER_DOLLAR as f64
    }
}

impl FromStr for Usd {
    type Err = MoneyError;

    /// Reads a decimal such as `12`, `-0.5` or `3e-05`; never through a float.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        if text.len() > LONGEST_TEXT {
            return Err(MoneyError::OutOfRange);
        }
        let (negative, number) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match number.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                (mantissa, exponent.parse::<i32>().map_err(|_| MoneyError::NotANumber)?)
            }
            None => (number, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = digits(whole, fraction)?;
        let decimals = i32::try_from(fraction.len()).map_err(|_| MoneyError::OutOfRange)?;
        let amount = scaled(digits, exponent.saturating_sub(decimals))?;
        Ok(Self(if negative { -amount } else { amount }))
    }
}

/// The digits before and after the point as one number.
fn digits(whole: &str, fraction: &str) -> Result<i128, MoneyError> {
    if whole.is_empty() && fraction.is_empty() {
        return Err(MoneyError::NotANumber);
    }
    whole.bytes().chain(fraction.bytes()).try_fold(0_i128, |number, byte| {
        if !byte.is_ascii_digit() {
            return Err(MoneyError::NotANumber);
        }
        let digit = i128::from(byte - b'0');
        number.checked_mul(10).and_then(|n| n.checked_add(digit)).ok_or(MoneyError::OutOfRange)
    })
}

/// `digits` x 10^`exponent` dollars in picodollars; an error when it would have to be rounded.
fn scaled(digits: i128, exponent: i32) -> Result<i128, MoneyError> {
    if digits == 0 {
        return Ok(0);
    }
    let shift = exponent.saturating_add_unsigned(SCALE);
    let factor = 10_i128.checked_pow(shift.unsigned_abs()).ok_or(MoneyError::OutOfRange)?;
    if shift >= 0 {
        return digits.checked_mul(factor).ok_or(MoneyError::OutOfRange);
    }
    if digits % factor == 0 { Ok(digits / factor) } else { Err(MoneyError::OutOfRange) }
}

impl fmt::Display for Usd {
    /// A decimal without an exponent and without trailing zeros: `0`, `12`, `0.0033475`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let (sign, digits) = match text.as_str().strip_prefix('-') {
            Some(digits) => (false, digits),
            None => (true, text.as_str()),
        };
        f.pad_integral(sign, "", digits)
    }
}

/// An amount as text, without memory of its own on the heap.
#[derive(Clone, Copy, Debug)]
pub struct UsdText {
    bytes: [u8; LONGEST_TEXT],
    from: usize,
    to: usize,
}

impl UsdText {
    /// The text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(self.from..self.to);
        bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// Writes a byte before all others.
    fn push_front(&mut self, byte: u8) {
        self.from = self.from.saturating_sub(1);
        if let Some(place) = self.bytes.get_mut(self.from) {
            *place = byte;
        }
    }
}

impl Usd {
    /// The amount as [`Display`](fmt::Display) writes it. By hand and from the last digit: this is written
    /// for every call twice.
    pub fn text(self) -> UsdText {
        let mut text =
            UsdText { bytes: [b'0'; LONGEST_TEXT], from: LONGEST_TEXT, to: LONGEST_TEXT };
        let amount = self.0.unsigned_abs();
        let unit = PICODOLLARS_PER_DOLLAR.unsigned_abs();
        // Nearly every amount fits a word, and is divided ten times as fast.
        let (mut whole, mut decimals) = match u64::try_from(amount) {
            Ok(small) => (u128::from(small / PICODOLLARS), small % PICODOLLARS),
            Err(_) => (amount / unit, u64::try_from(amount % unit).unwrap_or_default()),
        };
        if decimals > 0 {
            let mut left = SCALE;
            while decimals % 10 == 0 {
                decimals /= 10;
                left -= 1;
            }
            for _ in 0..left {
                text.push_front(digit(decimals % 10));
                decimals /= 10;
            }
            text.push_front(b'.');
        }
        while let Err(_) | Ok(10..) = u64::try_from(whole) {
            text.push_front(digit(u64::try_from(whole % 10).unwrap_or_default()));
            whole /= 10;
        }
        text.push_front(digit(u64::try_from(whole).unwrap_or_default()));
        if self.0 < 0 {
            text.push_front(b'-');
        }
        text
    }
}

/// The digit of a number below 10.
fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value).unwrap_or_default()
}

impl Serialize for Usd {
    /// Money in JSON is a decimal string.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Usd {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> Usd {
        text.parse().unwrap()
    }

    #[test]
    fn an_amount_reads_and_prints_exactly() {
        for text in
            ["0", "12", "0.0033475", "0.000000000001", "1234567890.123456789012", "-0.5", "20"]
        {
            assert_eq!(usd(text).to_string(), text);
        }
        assert_eq!(format!("{:>6}|{:<4}|", usd("-0.5"), usd("7")), "  -0.5|7   |");
        let most = Usd::from_picodollars(i128::MIN);
        assert_eq!(most.to_string(), "-170141183460469231731687303.715884105728");
        assert_eq!(usd("10.500").to_string(), "10.5");
        assert_eq!(usd("3e-05").to_string(), "0.00003");
        assert_eq!(usd("1.5E2").to_string(), "150");
        assert_eq!(usd(".5"), usd("0.50"));
        assert_eq!(usd("0.00000000000000000"), Usd::ZERO);
    }

    #[test]
    fn a_text_that_is_no_exact_amount_is_refused() {
        for text in ["", "-", ".", "1,5", "1.2.3", "0x1", "NaN", "inf", "1e", "e5", "+1", " 1"] {
            assert_eq!(text.parse::<Usd>(), Err(MoneyError::NotANumber), "{text}");
        }
        let long = "1".repeat(65);
        for text in ["0.0000000000001", "1e40", "1e-13", "1e2147483647", "1e-2147483648", &long] {
            assert_eq!(text.parse::<Usd>(), Err(MoneyError::OutOfRange), "{text}");
        }
    }

    #[test]
    fn a_rate_per_million_tokens_is_a_whole_number_of_picodollars_per_token() {
        // 1.25 USD per 10^6 tokens = 1.25e-6 USD = 1,250,000 picodollars each.
        assert_eq!(Usd::per_token("1.25"), Ok(Usd::from_picodollars(1_250_000)));
        assert_eq!(Usd::per_token("0.000001"), Ok(Usd::from_picodollars(1)));
        assert_eq!(Usd::per_token("0.0000001"), Err(MoneyError::OutOfRange));
    }

    #[test]
    fn sums_do_not_drift() {
        // A float sum of ten times 0.1 is 0.9999999999999999.
        let sum: Usd = std::iter::repeat_n(usd("0.1"), 10).sum();
        assert_eq!(sum, usd("1"));
        assert_eq!((sum - usd("1.25")).to_string(), "-0.25");
        assert_eq!(usd("0.1").times(3).to_string(), "0.3");
        assert_eq!(serde_json::to_string(&usd("0.30")).unwrap(), "\"0.3\"");
    }

    #[test]
    fn the_export_to_a_float_is_the_nearest_one() {
        assert!((usd("0.0033475").to_f64() - 0.003_347_5).abs() < f64::EPSILON);
        assert!((usd("123456789.25").to_f64() - 123_456_789.25).abs() < 1e-6);
    }
    #[test]
    fn a_price_finer_than_money_is_rounded_once_for_all_units() {
        let cost = |price, thousandths| Usd::of_units(price, thousandths).map(|c| c.to_string());
        assert_eq!(cost("0.0001", 9_000), Ok("0.0009".to_owned()));
        assert_eq!(cost("1.5e-05", 12_000), Ok("0.00018".to_owned()));
        // 3 s at 0.000283333333333: 0.000849999999999, to the picodollar.
        assert_eq!(cost("0.000283333333333", 3_000), Ok("0.00085".to_owned()));
        assert_eq!(cost("0.000283333333333", 1_000), Ok("0.000283333333".to_owned()));
        assert!(cost("-1", 1).is_err() && cost("x", 1).is_err() && cost("1", u64::MAX).is_err());
    }
}
