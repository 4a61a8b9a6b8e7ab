//! Durations and sizes as people write them in YAML: `250ms`, `2s`, `5m`, `64KiB`, `100MiB`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::Visitor;

/// A duration such as `2s`; a bare number counts seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

/// A size in bytes such as `100MiB`; a bare number counts bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A rate such as `600/min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMinute(pub u64);

/// A point in time, in whole seconds since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub u64);

impl Moment {
    /// Reads RFC 3339, such as `2026-11-23T13:21:09Z` or `2026-11-23T15:21:09.5+02:00`; `None` for
    /// anything else, and for what is before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        u64::try_from(time.timestamp()).ok().map(Self)
    }
}

impl PerMinute {
    /// Reads `600/min` (also `/m`, `/minute`); `None` for anything else and for 0.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = text.split_once('/')?;
        let number = number.trim().replace('_', "").parse().ok()?;
        (matches!(unit.trim(), "min" | "m" | "minute") && number > 0).then_some(Self(number))
    }
}

impl Seconds {
    /// Reads `250ms`, `2s`, `5m`, `1h`, `90d` or whole seconds; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" | "" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        Some(Self(Duration::from_millis(number.checked_mul(millis)?)))
    }
}

impl Size {
    /// Reads `512`, `64KiB`, `100MiB`, `2GiB` (and `KB`, `MB`, `GB` in thousands).
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let factor = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim()))
}

/// Reads a scalar of either kind, text or number, as text.
struct Scalar(&'static str);

impl Visitor<'_> for Scalar {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = input.deserialize_any(Scalar("a duration such as 250ms, 2s or 5m"))?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no duration; write it as 250ms, 2s or 5m"))
        })
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no time; write it as 2026-11-23T13:21:09Z"))
        })
    }
}

impl<'de> Deserialize<'de> for PerMinute {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = input.deserialize_any(Scalar("a rate such as 600/min"))?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no rate; write it as 600/min")))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = input.deserialize_any(Scalar("a size such as 64KiB or 100MiB"))?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no size; write it as 64KiB, 100MiB or 2GiB"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [("250ms", 250), ("2s", 2_000), ("5m", 300_000), ("7", 7_000)] {
            assert_eq!(
                Seconds::parse(text),
                Some(Seconds(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for wrong in ["", "s", "2 days", "-1s", "1.5s", "99999999999999999999s"] {
            assert_eq!(Seconds::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!(PerMinute::parse("600/min"), Some(PerMinute(600)));
        assert_eq!(PerMinute::parse("1_000_000 / m"), Some(PerMinute(1_000_000)));
        for wrong in ["600", "0/min", "-1/min", "600/s", "/min", "1.5/min"] {
            assert_eq!(PerMinute::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_read_as_rfc_3339_has_them() {
        // Worked out with `date -u -d 2026-11-23T13:21:09Z +%s`.
        for text in [
            "2026-11-23T13:21:09Z",
            "2026-11-23t13:21:09.999z",
            "2026-11-23 15:21:09+02:00",
            "2026-11-23T08:51:09-04:30",
        ] {
            assert_eq!(Moment::parse(text), Some(Moment(1_795_440_069)), "{text}");
        }
        for wrong in [
            "",
            "2026-11-23",
            "2026-11-23T13:21:09",
            "2026-13-23T13:21:09Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T13:21:09.Z",
            "2026-11-23T1:21:09Z",
            "1969-12-31T23:59:59Z",
            "2026-11-23T13:21:09+2",
        ] {
            assert_eq!(Moment::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("64KiB", 65_536), ("100MiB", 104_857_600), ("1 GB", 1_000_000_000)] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for wrong in ["", "MiB", "1TiBs", "-5"] {
            assert_eq!(Size::parse(wrong), None, "{wrong}");
        }
    }
}
