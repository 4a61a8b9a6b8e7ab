//! W3C Trace Context: what a request says of the trace that it belongs to, and what is said to
//! whom it is passed on.

use std::fmt;
use std::fmt::Display;
use std::fmt::Formatter;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use opentelemetry::trace::SpanId;
use opentelemetry::trace::TraceId;

/// Who called, and in which trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What other systems wrote about it; passed on as it is.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 0b01;
/// The id was made by chance in all its bits (level 2); handed on as it came.
const RANDOM: u8 = 0b10;

/// A caller's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    flags: u8,
}

impl Parent {
    /// What the headers say; `None` without a `traceparent`, and for one that cannot be read, which
    /// is as good as none.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let (Some(only), None) = (all.next(), all.next()) else { return None };
        Self::parse(only.as_bytes())
    }

    /// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`. A version of the future may have
    /// more behind it.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [version, trace, span, flags] = fields(known)?;
        let version = number(version)?;
        let ends = rest.is_empty() || version > 0 && rest.starts_with(b"-");
        if version == 255 || !ends {
            return None;
        }
        let (trace, span) = (TraceId::from(number(trace)?), number(span)?);
        let (span, flags) = (SpanId::from(u64::try_from(span).ok()?), number(flags)?);
        let flags = u8::try_from(flags).ok()?;
        let known = trace != TraceId::INVALID && span != SpanId::INVALID;
        known.then_some(Self { trace, span, flags })
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags that go on from here.
    pub(super) fn flags(&self) -> u8 {
        self.flags & (SAMPLED | RANDOM)
    }
}

/// The flags of a trace that begins here.
pub(super) fn first_flags(sampled: bool) -> u8 {
    RANDOM | if sampled { SAMPLED } else { 0 }
}

/// The four fields between the dashes of 55 bytes.
fn fields(text: &[u8]) -> Option<[&[u8]; 4]> {
    let dashes = [2, 35, 52].map(|at| text.get(at) == Some(&b'-'));
    let fields = [text.get(..2)?, text.get(3..35)?, text.get(36..52)?, text.get(53..55)?];
    (dashes == [true; 3]).then_some(fields)
}

/// Hexadecimal digits in lower case.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

/// A `traceparent` as it is sent.
pub(super) struct Traceparent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) flags: u8,
}

impl Display for Traceparent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl Traceparent {
    /// Writes it over what the client sent. The client's `tracestate` belongs to the client's
    /// `traceparent`: it goes where that one could not be used.
    pub(super) fn write(&self, headers: &mut HeaderMap, keeps_state: bool) {
        // Digits and dashes are a header value.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if !keeps_state {
            headers.remove(TRACESTATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_read_as_the_standard_writes_it() {
        let parent = Parent::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span.to_string(), "b7ad6b7169203331");
        assert!(parent.is_sampled());
        let Parent { trace, span, flags } = parent;
        assert_eq!(Traceparent { trace, span, flags }.to_string(), EXAMPLE);
        let unsampled = EXAMPLE.replace("-01", "-02");
        let parent = Parent::parse(unsampled.as_bytes()).unwrap();
        assert!(!parent.is_sampled() && parent.flags() == 2);
        // Flags that nobody knows yet are not handed on.
        assert_eq!(Parent::parse(EXAMPLE.replace("-01", "-ff").as_bytes()).unwrap().flags(), 3);
        for future in ["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what", "01"] {
            let read = Parent::parse(future.as_bytes());
            assert_eq!(read.is_some(), future.len() > 55, "{future}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_parent() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01what",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
        ] {
            assert_eq!(Parent::parse(bad.as_bytes()), None, "{bad}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert!(Parent::of(&twice).is_some());
        twice.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert_eq!(Parent::of(&twice), None);
    }
}
