//! When a source is fetched again: cron in a time zone, a little later for each source by itself.

use chrono::DateTime;
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::CronParser;
use croner::parser::Seconds;
use croner::parser::Year;
use ring::digest;

/// The most that a run comes later than the clock says, in milliseconds; and the part of the time
/// between two runs.
const MOST_JITTER: i64 = 300_000;
const JITTER_PART: i64 = 10;

/// Points in time that come again.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Reads five fields of cron, or a name such as `@daily`, and an IANA time zone; UTC without.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(cron: &str, zone: Option<&str>) -> Result<Self, String> {
        let zone = zone.unwrap_or("UTC");
        let zone: Tz = zone.parse().map_err(|_| {
            format!("`{zone}` is no time zone; write it as Europe/Berlin or leave it out for UTC")
        })?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let parsed = parser.build().parse(cron).map_err(|error| {
            format!("`{cron}` is no cron schedule ({error}); write it as \"0 3 * * *\" or @daily")
        })?;
        let schedule = Self { cron: parsed, zone };
        match schedule.clock(0) {
            Some(_) => Ok(schedule),
            None => Err(format!("`{cron}` never comes")),
        }
    }

    /// The next time after one, both in milliseconds since 1970. The same for the same `seed`, which
    /// tells sources apart: they do not all begin at once.
    pub fn next(&self, after: i64, seed: &[u8]) -> Option<i64> {
        let next = self.clock(after)?;
        let then = self.clock(next).unwrap_or(i64::MAX);
        let room = (then.saturating_sub(next) / JITTER_PART).clamp(1, MOST_JITTER);
        let digest = digest::digest(&digest::SHA256, seed);
        let chance =
            digest.as_ref().iter().take(4).fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte));
        Some(next + chance % room)
    }

    fn clock(&self, after: i64) -> Option<i64> {
        let after = DateTime::from_timestamp_millis(after)?.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(next.timestamp_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> i64 {
        DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis()
    }

    #[test]
    fn a_schedule_is_meant_in_its_time_zone_and_keeps_the_clock_when_that_changes() {
        let berlin = Schedule::parse("0 3 * * *", Some("Europe/Berlin")).unwrap();
        // 3 o'clock is 2:00 UTC in winter and 1:00 in summer; the clocks change on 29 March 2026.
        assert_eq!(berlin.clock(at("2026-03-27T12:00:00Z")), Some(at("2026-03-28T02:00:00Z")));
        assert_eq!(berlin.clock(at("2026-03-29T12:00:00Z")), Some(at("2026-03-30T01:00:00Z")));
        let utc = Schedule::parse("@hourly", None).unwrap();
        assert_eq!(utc.clock(at("2026-03-27T12:00:00Z")), Some(at("2026-03-27T13:00:00Z")));
    }

    #[test]
    fn sources_with_the_same_schedule_do_not_begin_at_once() {
        let daily = Schedule::parse("0 3 * * *", None).unwrap();
        let after = at("2026-03-27T12:00:00Z");
        let later =
            |seed: &str| daily.next(after, seed.as_bytes()).unwrap() - at("2026-03-28T03:00:00Z");
        let all: Vec<_> = ["a", "b", "c", "d"].map(later).into();
        assert!(all.iter().all(|later| (0..300_000).contains(later)), "{all:?}");
        assert!(all.windows(2).any(|two| two[0] != two[1]) && later("a") == all[0]);
        // A tenth of a minute at most where it comes each minute.
        let often = Schedule::parse("* * * * *", None).unwrap();
        let later = often.next(after, b"a").unwrap() - at("2026-03-27T12:01:00Z");
        assert!((0..6_000).contains(&later), "{later}");
    }

    #[test]
    fn what_is_no_schedule_is_told_with_the_cure() {
        for (cron, zone, said) in [
            ("every day", None, "write it as"),
            ("", None, "write it as"),
            ("0 0 3 * * *", None, "write it as"),
            ("61 3 * * *", None, "write it as"),
            ("0 3 * * *", Some("Berlin"), "no time zone"),
            ("0 0 30 2 *", None, "never comes"),
        ] {
            let wrong = Schedule::parse(cron, zone).unwrap_err();
            assert!(wrong.contains(said), "{cron}: {wrong}");
        }
    }
}
