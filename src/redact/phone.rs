//! Phone numbers: international, North American, and the national way of writing in Europe.

use super::Find;
use super::bytes::before;
use super::bytes::byte;
use super::bytes::digit;
use super::bytes::follows_word;
use super::bytes::word;
use super::label::Label;
use super::numbers::Gap;
use super::numbers::Group;
use super::numbers::ends_free;
use super::numbers::has_shape;
use super::numbers::starts_free;

const WORDS: &[&[u8]] = &[
    b"phone",
    b"call",
    b"mobile",
    b"cell",
    b"fax",
    b"tel",
    b"whatsapp",
    b"sms",
    b"text me",
    b"reach",
    b"handy",
    b"rufnummer",
    b"contact",
];

/// The number that starts with the first of `groups`.
pub(super) fn find(text: &[u8], groups: &[Group]) -> Option<Find> {
    let first = groups.first()?;
    let range = if before(text, first.start) == b'+' {
        first.start - 1..international(text, groups)?
    } else {
        // An area code in brackets starts with the bracket.
        let bracket = groups.get(1).is_some_and(|group| group.gap == Gap::Close)
            && before(text, first.start) == b'(';
        let start = first.start - usize::from(bracket);
        if !starts_free(text, start) {
            return None;
        }
        start..north_american(text, groups).or_else(|| national(text, groups))?
    };
    Some(Find { range, label: Label::Phone })
}

/// Behind `+`: 8 to 15 digits (E.164) that start with a country's code; the end of the number.
fn international(text: &[u8], groups: &[Group]) -> Option<usize> {
    let first = groups.first()?;
    let prior = before(text, first.start - 1);
    if word(prior) || b"+/.-".contains(&prior) || byte(text, first.start) == b'0' {
        return None;
    }
    // A number written in groups ends where it is long enough; +1 has 11 digits, always.
    let full = if byte(text, first.start) == b'1' { 11 } else { 13 };
    let mut digits = first.len();
    let mut last = first;
    let mut dots = 0;
    for group in groups.iter().skip(1) {
        if digits + group.len() > full {
            break;
        }
        digits += group.len();
        dots += usize::from(group.gap == Gap::Dot);
        last = group;
    }
    let shape = groups.get(1).zip(groups.get(2)).map(|(month, day)| [month, day]);
    let date = shape.is_some_and(|rest| rest.iter().all(|g| g.len() == 2 && g.gap == Gap::Dash));
    let sound = (8..=15).contains(&digits) && dots != 1 && !(date && groups.len() == 3);
    (sound && ends_free(text, last.end)).then_some(last.end)
}

/// `(555) 123-4567`, `555-123-4567`, `1-555-123-4567`; with spaces behind a word for it; the end.
fn north_american(text: &[u8], groups: &[Group]) -> Option<usize> {
    let trunk = groups.first()?.len() == 1 && byte(text, groups.first()?.start) == b'1';
    let number = groups.get(usize::from(trunk)..)?;
    let start = groups.first()?.start;
    let [area, exchange, line] = [number.first()?, number.get(1)?, number.get(2)?];
    if [area.len(), exchange.len(), line.len()] != [3, 3, 4] || byte(text, area.start) < b'2' {
        return None;
    }
    let written = match (exchange.gap, line.gap) {
        (Gap::Close, Gap::Dash | Gap::Space | Gap::Dot) => true,
        (Gap::Dash, Gap::Dash) | (Gap::Dot, Gap::Dot) => true,
        (Gap::Space, Gap::Space | Gap::Dash) => trunk || follows_word(text, start, 32, WORDS),
        _ => false,
    };
    let extended = byte(text, line.end) == b'x' && digit(byte(text, line.end + 1));
    (written && (extended || ends_free(text, line.end))).then_some(line.end)
}

/// A zero, an area code or the first pair, and 9 to 12 digits in all: `030 1234567`,
/// `0171/1234567`, `01 23 45 67 89`, `020 7946 0958`; with `00` 11 to 15. Not the rest of a longer
/// row of digits. The end.
fn national(text: &[u8], groups: &[Group]) -> Option<usize> {
    let first = groups.first()?;
    let rest = before(text, first.start) == b' ' && digit(before(text, first.start - 1));
    if byte(text, first.start) != b'0' || groups.len() < 2 || rest {
        return None;
    }
    let abroad = byte(text, first.start + 1) == b'0';
    let last = match first.len() {
        _ if abroad => abroad_end(text, groups)?,
        2 => paired(text, groups)?,
        3..=5 => spread(groups)?,
        _ => return None,
    };
    ends_free(text, last.end).then_some(last.end)
}

/// `0049 30 1234567`: the international form without its sign.
fn abroad_end<'a>(text: &[u8], groups: &'a [Group]) -> Option<&'a Group> {
    let first = groups.first()?;
    let country = (3..=5).contains(&first.len()) && byte(text, first.start + 2) != b'0';
    let (last, digits) = taken(groups, 15);
    (country && (11..=15).contains(&digits)).then_some(last?)
}

/// Five pairs as in France, and no more, or two digits and eight as in the Netherlands, Italy and Australia.
fn paired<'a>(text: &[u8], groups: &'a [Group]) -> Option<&'a Group> {
    for gap in [Gap::Space, Gap::Dot, Gap::Dash] {
        for shape in [&[2, 2, 2, 2, 2][..], &[2, 8], &[2, 4, 4]] {
            if has_shape(groups, shape, gap) && !(gap == Gap::Dot && shape.len() < 5) {
                let zeros = |group: &&Group| byte(text, group.start) == b'0';
                let listed = groups.iter().take(shape.len()).filter(zeros).count() > 2;
                let goes_on = groups.get(shape.len()).is_some_and(|group| group.len() == 2);
                return groups.get(shape.len() - 1).filter(|_| !listed && !goes_on);
            }
        }
    }
    None
}

/// An area code of three to five digits, then the rest.
fn spread(groups: &[Group]) -> Option<&Group> {
    let (last, digits) = taken(groups, 12);
    let closed = groups.get(1).is_some_and(|group| group.gap != Gap::Dot && group.gap != Gap::Open);
    (closed && (9..=12).contains(&digits)).then_some(last?)
}

/// The last of the groups that have `max` digits together, and how many they have.
fn taken(groups: &[Group], max: usize) -> (Option<&Group>, usize) {
    let mut digits = 0;
    let mut last = None;
    for (at, group) in groups.iter().enumerate() {
        let joined = match group.gap {
            Gap::None | Gap::Space | Gap::Dash => true,
            Gap::Slash | Gap::Close => at == 1,
            Gap::Dot | Gap::Open => false,
        };
        if !joined || digits + group.len() > max || (at > 0 && group.len() < 2) {
            break;
        }
        digits += group.len();
        last = Some(group);
    }
    (last, digits)
}
