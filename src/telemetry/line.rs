//! The one info line of a request, written by hand: formatting it field by field through the
//! general machinery costs more than a microsecond per request.

use std::cell::Cell;
use std::time::SystemTime;

use super::log::Format;

/// A field's name as either format writes it, made by `field!` when the gateway is compiled.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// With what stands around it in a line for people.
    pub text: &'static str,
    /// The same in JSON.
    pub json: &'static str,
}

/// The [`Field`] of a name.
macro_rules! field {
    ($name:literal) => {
        $crate::telemetry::line::Field {
            text: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
        }
    };
}

pub(crate) use field;

/// A log line in the making.
#[derive(Debug)]
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
}

impl<'a> Line<'a> {
    /// Begins an info line with its time and message at the end of `out`.
    pub(super) fn begin(out: &'a mut Vec<u8>, format: Format, message: &'static str) -> Self {
        let mut line = Self { out, format };
        match format {
            Format::Text => {
                line.time();
                line.out.extend_from_slice(b"  INFO ");
                line.out.extend_from_slice(message.as_bytes());
            }
            Format::Json => {
                line.out.extend_from_slice(b"{\"timestamp\":\"");
                line.time();
                line.out.extend_from_slice(b"\",\"level\":\"INFO\"");
                line.text(field!("message"), message);
            }
        }
        line
    }

    /// Appends a text field. Anything but plain letters is escaped: nobody can write a line of
    /// their own by a path or a model's name.
    pub fn text(&mut self, field: Field, value: &str) {
        if !value.is_empty() && value.bytes().all(plain) {
            return self.word(field, value);
        }
        self.name(field);
        // Writing to memory cannot fail, nor can text as JSON.
        let _ = serde_json::to_writer(&mut *self.out, value);
    }

    /// Appends a text field that is known to be made of plain letters.
    pub fn word(&mut self, field: Field, value: &str) {
        self.name(field);
        match self.format {
            Format::Text => self.out.extend_from_slice(value.as_bytes()),
            Format::Json => {
                self.out.push(b'"');
                self.out.extend_from_slice(value.as_bytes());
                self.out.push(b'"');
            }
        }
    }

    /// Appends a number.
    pub fn number(&mut self, field: Field, value: u64) {
        self.name(field);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Ends the line.
    pub(super) fn end(self) {
        if self.format == Format::Json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }

    fn name(&mut self, field: Field) {
        let written = match self.format {
            Format::Text => field.text,
            Format::Json => field.json,
        };
        self.out.extend_from_slice(written.as_bytes());
    }

    /// RFC 3339 in UTC, with microseconds. All but these is written once a second.
    fn time(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (second, mut text) = SECOND.get();
        if second != now.as_secs() {
            text = to_the_second(now.as_secs());
            SECOND.set((now.as_secs(), text));
        }
        let mut micros = *b".000000Z";
        let mut rest = now.subsec_micros();
        for digit in micros.iter_mut().skip(1).take(6).rev() {
            // A digit fits a byte.
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        self.out.extend_from_slice(&text);
        self.out.extend_from_slice(&micros);
    }
}

thread_local! {
    /// The second of the last line, and its text.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
}

/// `2026-11-23T13:21:09`; years of more than four digits do not come.
fn to_the_second(seconds: u64) -> [u8; 19] {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    text.as_bytes().try_into().unwrap_or([b'9'; 19])
}

/// Whether a byte may stand in a line without quotes.
fn plain(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let letters = b"-_.:/@0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < letters.len() {
        plain[letters[at] as usize] = true;
        at += 1;
    }
    plain
};

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
    }

    #[test]
    fn the_time_is_written_to_the_microsecond() {
        assert_eq!(&to_the_second(1_795_440_069), b"2026-11-23T13:21:09");
        let mut out = Vec::new();
        Line::begin(&mut out, Format::Text, "x").end();
        let text = String::from_utf8(out).unwrap();
        let (time, rest) = text.split_once("  INFO x").unwrap();
        assert_eq!((time.len(), rest), ("2026-11-23T13:21:09.123456Z".len(), "\n"));
        let digits = time.bytes().filter(u8::is_ascii_digit).count();
        assert!(digits == 20 && time.ends_with('Z') && time.starts_with("20"), "{time}");
    }

    #[test]
    fn nobody_writes_a_line_of_their_own() {
        for format in [Format::Text, Format::Json] {
            let mut out = Vec::new();
            let mut line = Line::begin(&mut out, format, "request");
            line.text(field!("model"), "x\n2026 INFO forged=\"1\"");
            line.number(field!("status"), 200);
            line.end();
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(text.ends_with("}\n") || text.ends_with(" status=200\n"), "{text}");
        }
    }

    #[test]
    fn a_json_line_is_json() {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, Format::Json, "request");
        line.text(field!("path"), "/v1/models");
        line.number(field!("took_ms"), 3);
        line.end();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["path"], "/v1/models");
        assert_eq!(value["took_ms"], 3);
    }
}
