//! Numbers of persons: payment cards, IBANs, US social security numbers; and groups of digits.

use super::Find;
use super::bytes::alnum;
use super::bytes::before;
use super::bytes::byte;
use super::bytes::digit;
use super::bytes::follows_word;
use super::bytes::run_end;
use super::bytes::tail;
use super::bytes::word;
use super::label::Label;
use super::phone;

/// More groups than any number has that is looked for.
const MAX_GROUPS: usize = 8;

/// What stands between two groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nothing: the first group.
    #[default]
    None,
    Space,
    Dash,
    Dot,
    Slash,
    /// `(` with or without a space before it.
    Open,
    /// `)` with or without a space or dash behind it.
    Close,
}

/// Digits that stand together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Group {
    pub(super) gap: Gap,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Group {
    pub(super) fn len(self) -> usize {
        self.end - self.start
    }
}

/// The number whose first digit stands at `at`.
pub(super) fn find(text: &[u8], at: usize) -> Option<Find> {
    let mut store = [Group::default(); MAX_GROUPS];
    let groups = groups(text, at, &mut store);
    iban(text, at)
        .or_else(|| card(text, groups))
        .or_else(|| ssn(text, groups))
        .or_else(|| phone::find(text, groups))
}

/// Whether a number that ends at `end` is not part of something longer.
pub(super) fn ends_free(text: &[u8], end: usize) -> bool {
    let next = byte(text, end + 1);
    match byte(text, end) {
        b'.' | b',' => !digit(next),
        b'-' => !alnum(next),
        b':' => !digit(next),
        other => !word(other) && other != b'@',
    }
}

/// Whether a number can start at `at`: not behind what makes it the rest of something.
pub(super) fn starts_free(text: &[u8], at: usize) -> bool {
    let prior = before(text, at);
    !word(prior) && !b".-/#$%+,".contains(&prior)
}

/// The groups of digits from `at` on, with one separator between two.
fn groups<'a>(text: &[u8], mut at: usize, store: &'a mut [Group; MAX_GROUPS]) -> &'a [Group] {
    let mut gap = Gap::None;
    let mut count = 0;
    for group in store.iter_mut() {
        let end = run_end(text, at, 32, digit);
        *group = Group { gap, start: at, end };
        count += 1;
        let Some((next_gap, len)) = gap_at(tail(text, end)) else { break };
        if !digit(byte(text, end + len)) {
            break;
        }
        (gap, at) = (next_gap, end + len);
    }
    store.get(..count).unwrap_or_default()
}

/// The separator at the head of `rest` and its length; also the ones that typesetters use.
fn gap_at(rest: &[u8]) -> Option<(Gap, usize)> {
    Some(match rest {
        [b' ', b'(', ..] => (Gap::Open, 2),
        [b')', b' ' | b'-', ..] => (Gap::Close, 2),
        [b' ', b'-', b' ', ..] => (Gap::Dash, 3),
        [b' ', ..] => (Gap::Space, 1),
        [b'-', ..] => (Gap::Dash, 1),
        [b'.', ..] => (Gap::Dot, 1),
        [b'/', ..] => (Gap::Slash, 1),
        [b'(', ..] => (Gap::Open, 1),
        [b')', ..] => (Gap::Close, 1),
        [0xC2, 0xA0, ..] => (Gap::Space, 2),
        [0xE2, 0x80, 0x90..=0x93, ..] => (Gap::Dash, 3),
        [0xE2, 0x80, 0xAF, ..] => (Gap::Space, 3),
        _ => return None,
    })
}

/// The lengths of the first groups, which all have the gap `gap` between them.
pub(super) fn has_shape(groups: &[Group], shape: &[usize], gap: Gap) -> bool {
    groups.len() >= shape.len()
        && groups.iter().zip(shape).all(|(group, len)| group.len() == *len)
        && groups.iter().take(shape.len()).skip(1).all(|group| group.gap == gap)
}

/// 13 to 19 digits of a known network whose check digit is right (Luhn, ISO/IEC 7812).
fn card(text: &[u8], groups: &[Group]) -> Option<Find> {
    const SHAPES: &[&[usize]] = &[&[4, 4, 4, 4, 3], &[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4]];
    let first = groups.first()?;
    let spread = |gap| SHAPES.iter().find(|shape| has_shape(groups, shape, gap));
    let last = match spread(Gap::Space).or_else(|| spread(Gap::Dash)) {
        Some(shape) => groups.get(shape.len() - 1)?,
        None => first,
    };
    let mut digits = [0; 19];
    let mut count = 0;
    for byte in text.get(first.start..last.end)?.iter().filter(|byte| digit(**byte)) {
        *digits.get_mut(count)? = byte - b'0';
        count += 1;
    }
    let digits = digits.get(..count)?;
    // What has more digits without a space is a random id, or a limit of 64 bits.
    let written = count <= 16 || last.start > first.start;
    let sound = count >= 13 && written && is_network(digits) && luhn(digits);
    let free = starts_free(text, first.start) && ends_free(text, last.end);
    (sound && free).then_some(Find { range: first.start..last.end, label: Label::Card })
}

/// Whether a network issues numbers with these first digits in this length.
fn is_network(digits: &[u8]) -> bool {
    let head = |len| digits.iter().take(len).fold(0_u32, |sum, digit| sum * 10 + u32::from(*digit));
    match digits.len() {
        13 if head(1) == 4 => true,
        14 => matches!(head(4), 3000..=3059 | 3095 | 3600..=3699 | 3800..=3999),
        15 => matches!(head(2), 34 | 37),
        16 if matches!(head(4), 2200..=2204 | 2221..=2720 | 4000..=4999 | 5100..=5599) => true,
        16.. if matches!(head(4), 3528..=3589 | 6011 | 6200..=6299 | 6440..=6599) => true,
        19 if head(1) == 4 => true,
        _ => matches!(head(4), 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763),
    }
}

fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let weighed = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| u32::from(if at % 2 == 1 { doubled(*digit) } else { *digit }));
    weighed.sum::<u32>() % 10 == 0
}

/// Three, two and four digits that the authority could have given out. With dashes; with spaces or
/// without only behind words that say so.
fn ssn(text: &[u8], groups: &[Group]) -> Option<Find> {
    const WORDS: &[&[u8]] = &[b"ssn", b"social security", b"social-security", b"social_security"];
    let first = groups.first()?;
    let dashed = has_shape(groups, &[3, 2, 4], Gap::Dash);
    let last =
        if dashed || has_shape(groups, &[3, 2, 4], Gap::Space) { groups.get(2)? } else { first };
    let digits: Vec<u8> =
        text.get(first.start..last.end)?.iter().copied().filter(|b| digit(*b)).collect();
    let sound = match digits[..] {
        [b'9', ..] | [b'0', b'0', b'0', ..] | [b'6', b'6', b'6', ..] => false,
        [_, _, _, b'0', b'0', ..] | [.., b'0', b'0', b'0', b'0'] => false,
        _ => digits.len() == 9,
    };
    let free = starts_free(text, first.start) && ends_free(text, last.end);
    (sound && free && (dashed || follows_word(text, first.start, 40, WORDS)))
        .then_some(Find { range: first.start..last.end, label: Label::Ssn })
}

/// Countries with the length of their IBANs (SWIFT's registry, release 99).
const IBAN_LENGTHS: &[u8] = b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29\
ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21\
LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27\
SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20";

/// The IBAN whose check digits stand at `at`: the country's length, and 1 modulo 97.
fn iban(text: &[u8], at: usize) -> Option<Find> {
    let start = at.checked_sub(2)?;
    let country = text.get(start..at)?.to_ascii_uppercase();
    let free = !word(before(text, start)) && before(text, start) != b'-';
    if !free || !country.iter().all(u8::is_ascii_alphabetic) || !digit(byte(text, at + 1)) {
        return None;
    }
    let entry = IBAN_LENGTHS.chunks(4).find(|entry| entry.starts_with(&country))?;
    let len = entry.iter().skip(2).fold(0, |sum, byte| sum * 10 + usize::from(byte - b'0'));
    let (value, end) = without_gaps(text, start, len)?;
    let rest = value.iter().cycle().skip(4).take(len).fold(0_u32, |rest, byte| {
        let value = char::from(*byte).to_digit(36).unwrap_or_default();
        (rest * if value > 9 { 100 } else { 10 } + value) % 97
    });
    (rest == 1 && !word(byte(text, end))).then_some(Find { range: start..end, label: Label::Iban })
}

/// `len` letters and digits from `start`, and where they end; single spaces and dashes are passed.
fn without_gaps(text: &[u8], start: usize, len: usize) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::with_capacity(len);
    let mut at = start;
    while value.len() < len {
        match byte(text, at) {
            other if alnum(other) => value.push(other),
            b' ' | b'-' if alnum(before(text, at)) => {}
            _ => return None,
        }
        at += 1;
    }
    Some((value, at))
}
