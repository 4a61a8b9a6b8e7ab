//! The windows in which is counted: any 60 seconds, and hours, days, weeks and months in UTC.

use chrono::DateTime;
use chrono::Datelike as _;
use chrono::Months;
use chrono::NaiveDate;
use chrono::NaiveTime;

use crate::policy::Every;

use super::clock::Now;

/// Length of a slot in milliseconds. What is counted leaves the window slot by slot: 60 to 65 s
/// after it came, so that no 60 seconds ever hold more than the limit.
pub(super) const SLOT_MS: u64 = 5_000;
/// The window of `…/min`.
pub(super) const MINUTE_MS: u64 = 60_000;
/// Slots that reach into the last 60 seconds: twelve, and the one that is being filled.
const SLOTS: usize = 13;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What was counted in the last 60 seconds, by slots of the steady clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Minute {
    slots: [i64; SLOTS],
    newest: u64,
    sum: i64,
}

impl Minute {
    /// The slot of a moment.
    pub(super) fn slot(now: Now) -> u64 {
        now.steady_ms / SLOT_MS
    }

    /// Forgets what is older than 60 seconds.
    pub(super) fn roll(&mut self, now: Now) {
        let slot = Self::slot(now);
        let passed = slot.saturating_sub(self.newest).min(SLOTS as u64);
        for step in 1..=passed {
            let gone = self.at_mut(slot - passed + step);
            let amount = std::mem::take(gone);
            self.sum = self.sum.saturating_sub(amount);
        }
        self.newest = self.newest.max(slot);
    }

    /// All that counts now.
    pub(super) fn sum(&self) -> i64 {
        self.sum
    }

    /// The slot that is being filled.
    pub(super) fn newest_slot(&self) -> u64 {
        self.newest
    }

    /// When a slot leaves the window, on the steady clock.
    pub(super) fn leaves(&self, slot: u64) -> u64 {
        (slot + 1) * SLOT_MS + MINUTE_MS
    }

    /// What was counted in the newest slot.
    pub(super) fn newest(&self) -> i64 {
        self.at(self.newest)
    }

    /// Adds to a slot, or takes from it; one that is forgotten stays so.
    pub(super) fn add(&mut self, slot: u64, amount: i64) {
        if slot <= self.newest && self.newest - slot < SLOTS as u64 {
            let at = self.at_mut(slot);
            *at = at.saturating_add(amount);
            self.sum = self.sum.saturating_add(amount);
        }
    }

    /// The slots that hold something, the oldest first: when each leaves the window, on the steady
    /// clock, and how much.
    pub(super) fn leaving(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        let oldest = self.newest.saturating_sub(SLOTS as u64 - 1);
        (oldest..=self.newest)
            .map(|slot| (self.leaves(slot), self.at(slot)))
            .filter(|(_, amount)| *amount != 0)
    }

    fn at(&self, slot: u64) -> i64 {
        self.slots[place(slot)]
    }

    fn at_mut(&mut self, slot: u64) -> &mut i64 {
        &mut self.slots[place(slot)]
    }
}

/// Below [`SLOTS`].
fn place(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or_default()
}

/// The beginning of the window that holds a moment, in milliseconds since 1970.
pub(super) fn start_of(every: Every, unix_ms: u64) -> u64 {
    let days = unix_ms / DAY_MS;
    match every {
        Every::Hour => unix_ms / HOUR_MS * HOUR_MS,
        Every::Day => days * DAY_MS,
        // 1970-01-01 was a Thursday; weeks begin on Monday.
        Every::Week => ((days + 3) / 7 * 7).saturating_sub(3) * DAY_MS,
        Every::Month => date(unix_ms).and_then(|date| date.with_day(1)).map_or(0, millis),
    }
}

/// The end of the window that begins at `start`.
pub(super) fn end_of(every: Every, start: u64) -> u64 {
    match every {
        Every::Hour => start + HOUR_MS,
        Every::Day => start + DAY_MS,
        // The first week of all has only four days.
        Every::Week if start == 0 => 4 * DAY_MS,
        Every::Week => start + 7 * DAY_MS,
        Every::Month => {
            let next = date(start).and_then(|date| date.checked_add_months(Months::new(1)));
            next.map_or(start.saturating_add(31 * DAY_MS), millis)
        }
    }
}

fn date(unix_ms: u64) -> Option<NaiveDate> {
    DateTime::from_timestamp_millis(i64::try_from(unix_ms).ok()?).map(|time| time.date_naive())
}

fn millis(date: NaiveDate) -> u64 {
    u64::try_from(date.and_time(NaiveTime::MIN).and_utc().timestamp_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steady_ms: u64) -> Now {
        Now { unix_ms: 0, steady_ms }
    }

    /// Milliseconds of an RFC 3339 time.
    fn ms(text: &str) -> u64 {
        u64::try_from(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()).unwrap()
    }

    #[test]
    fn what_was_counted_leaves_after_sixty_to_sixty_five_seconds() {
        let mut minute = Minute::default();
        minute.roll(at(1_000_000));
        minute.add(200, 5);
        // The slot 1,000,000 / 5,000 = 200 ends at 1,005,000 and leaves 60 s after that.
        minute.roll(at(1_064_999));
        assert_eq!(minute.sum(), 5);
        minute.roll(at(1_065_000));
        assert_eq!(minute.sum(), 0);
    }

    #[test]
    fn no_sixty_seconds_hold_more_than_was_let_in() {
        let mut minute = Minute::default();
        let mut taken: Vec<u64> = Vec::new();
        for moment in (1_000_000..1_400_000).step_by(317) {
            minute.roll(at(moment));
            if minute.sum() < 10 {
                minute.add(Minute::slot(at(moment)), 1);
                taken.push(moment);
            }
        }
        let most = taken
            .iter()
            .map(|from| taken.iter().filter(|at| (*from..from + 60_000).contains(*at)).count());
        assert_eq!(most.max(), Some(10));
        // 400 s hold six full windows of at most 65 s.
        assert!(taken.len() >= 60, "{}", taken.len());
    }

    #[test]
    fn a_gap_of_any_length_empties_the_minute() {
        let mut minute = Minute::default();
        minute.roll(at(5_000));
        minute.add(1, 3);
        minute.roll(at(10_000_000));
        assert_eq!((minute.sum(), minute.newest()), (0, 0));
        minute.add(1, -3);
        assert_eq!(minute.sum(), 0);
    }

    #[test]
    fn windows_begin_and_end_in_utc() {
        let moment = ms("2026-11-26T13:21:09Z");
        let window = |every| {
            let start = start_of(every, moment);
            (start, end_of(every, start))
        };
        let of = |from: &str, to: &str| (ms(from), ms(to));
        assert_eq!(window(Every::Hour), of("2026-11-26T13:00:00Z", "2026-11-26T14:00:00Z"));
        assert_eq!(window(Every::Day), of("2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z"));
        // The 26th is a Thursday.
        assert_eq!(window(Every::Week), of("2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"));
        assert_eq!(window(Every::Month), of("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"));
        assert_eq!(start_of(Every::Week, ms("2026-11-23T00:00:00Z")), ms("2026-11-23T00:00:00Z"));
        assert_eq!(start_of(Every::Week, ms("2026-11-22T23:59:59Z")), ms("2026-11-16T00:00:00Z"));
    }
}
