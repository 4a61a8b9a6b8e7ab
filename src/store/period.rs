//! A period of time as people write it: `24h` ago, or a date and time of RFC 3339.

use chrono::DateTime;
use chrono::SecondsFormat;
use uuid::Uuid;

/// From `since` until before `until`, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its begin.
    pub since: i64,
    /// Its end, which is not in it.
    pub until: i64,
}

impl Default for Period {
    /// All of time, as far as dates have four digits.
    fn default() -> Self {
        Self { since: 0, until: 253_402_300_800_000 }
    }
}

/// The smallest id of a moment, in milliseconds since 1970: ids begin with their time.
pub(super) fn first_id(millis: i64) -> Uuid {
    let millis = u64::try_from(millis).unwrap_or(0).min(0xffff_ffff_ffff);
    Uuid::from_u128(u128::from(millis) << 80)
}

/// Reads a point in time: RFC 3339, a date (its midnight in UTC), or a duration before `now` such
/// as `90s`, `30m`, `24h`, `7d`, `2w`.
pub(super) fn instant(text: &str, now: i64) -> Option<i64> {
    if let Some(before) = duration(text) {
        return now.checked_sub(before);
    }
    // In a query string `+` is a space.
    let text = text.replace(' ', "+");
    let text = if text.len() == "2026-11-23".len() { format!("{text}T00:00:00Z") } else { text };
    DateTime::parse_from_rfc3339(&text).ok().map(|time| time.timestamp_millis())
}

/// The same to come: a duration after `now`, or a time.
pub(super) fn ahead(text: &str, now: i64) -> Option<i64> {
    match duration(text) {
        Some(after) => now.checked_add(after),
        None => instant(text, now),
    }
}

/// A point in time, in milliseconds since 1970, as RFC 3339 has it.
pub(super) fn written(millis: i64) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// How a point in time may be written, for messages.
pub(super) const HOW: &str = "write a time such as 2026-11-23T00:00:00Z, or a duration before now such as 90s, 30m, 24h or 7d";

/// Reads a duration such as `24h`, in milliseconds.
pub(super) fn duration(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    i64::from(number).checked_mul(seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = 1_795_000_000_000;
        assert_eq!(instant("24h", now), Some(now - 86_400_000));
        assert_eq!(instant("2w", now), Some(now - 1_209_600_000));
        // 2026-11-23 is day 20780 since 1970: 20780 x 86400 = 1795392000
        assert_eq!(instant("2026-11-23", now), Some(1_795_392_000_000));
        assert_eq!(instant("2026-11-23T00:00:00.250Z", now), Some(1_795_392_000_250));
        assert_eq!(instant("2026-11-23T02:00:00+02:00", now), Some(1_795_392_000_000));
        assert_eq!(instant("2026-11-23T02:00:00 02:00", now), Some(1_795_392_000_000));
        for wrong in ["", "h", "yesterday", "-1h", "1y", "2026-13-01", "5000000000d", "24", "é"] {
            assert_eq!(instant(wrong, now), None, "{wrong}");
        }
    }
}
