//! A page's headings, and the places where it may be cut.
//!
//! A place is a cut when it is the best of all within a reach of tokens around it, a heading before
//! a paragraph, and the outer heading before the inner one: what is far away does not move it.

use std::ops::Range;

use ring::digest;

use crate::metering::tokens::Encoding;

/// A heading's path is cut after so many characters.
const LONGEST_PATH: usize = 300;
/// Class of a place that is no heading; headings have their level, 1 to 6.
const PARAGRAPH: u8 = 7;

/// A place where a page may be cut.
struct Place {
    start: usize,
    /// Tokens before it.
    position: u64,
    /// The best has the least: class, then chance.
    rank: (u8, [u8; 8]),
}

/// A heading of the page.
struct Heading {
    start: usize,
    level: u8,
    title: String,
    /// Where the text below it begins, or the next heading.
    end: usize,
}

/// Where a page may be cut, and what its headings are.
pub(super) struct Outline {
    places: Vec<Place>,
    headings: Vec<Heading>,
}

impl Outline {
    pub(super) fn of(text: &str, encoding: Encoding) -> Self {
        let mut outline = Self { places: Vec::new(), headings: Vec::new() };
        let mut under_heading = false;
        let mut position = 0;
        for block in blocks(text) {
            let body = text.get(block.range.clone()).unwrap_or_default();
            let Range { start, end } = block.range;
            // Nothing is cut off from its heading.
            if !under_heading {
                let class = block.heading.as_ref().map_or(PARAGRAPH, |(level, _)| *level);
                let rank = (class, chance(body));
                outline.places.push(Place { start, position, rank });
            }
            position += encoding.count(body);
            under_heading = block.heading.is_some();
            if let Some((level, title)) = block.heading {
                outline.headings.push(Heading { start, level, title, end });
            }
        }
        outline
    }

    /// Whether a section begins there, rather than goes on.
    pub(super) fn begins_section(&self, start: usize) -> bool {
        self.headings.iter().any(|heading| heading.start == start)
    }

    /// Whether a heading or a paragraph begins there.
    pub(super) fn is_place(&self, start: usize) -> bool {
        self.places.binary_search_by_key(&start, |place| place.start).is_ok()
    }

    /// A stretch of so many tokens in parts, at the places that are better than all others within
    /// reach; the ends of the stretch are better still.
    pub(super) fn parts(&self, of: Range<usize>, tokens: u64, reach: u64) -> Vec<Range<usize>> {
        let first = self.places.partition_point(|place| place.start < of.start);
        let end = self.places.partition_point(|place| place.start < of.end);
        let places = self.places.get(first..end).unwrap_or_default();
        // Where the stretch begins between two places, what it has before the first one counts.
        let begins = places.first().map_or(0, |place| place.position);
        let inside = |place: &Place| {
            let before = place.position.saturating_sub(begins);
            before >= reach && tokens.saturating_sub(before) >= reach
        };
        let cuts = (0..places.len()).filter(|at| is_best(places, *at, reach));
        let cuts = cuts.filter_map(|at| places.get(at)).filter(|place| inside(place));
        let starts: Vec<usize> =
            std::iter::once(of.start).chain(cuts.map(|place| place.start)).collect();
        let ends = starts.iter().skip(1).copied().chain([of.end]);
        starts.iter().zip(ends).map(|(start, end)| *start..end).collect()
    }

    /// The headings above what begins at `start`, with those that it begins with.
    pub(super) fn path(&self, title: &str, start: usize) -> String {
        let mut open: Vec<&Heading> = Vec::new();
        let mut begins = start;
        for heading in &self.headings {
            if heading.start > begins {
                break;
            }
            if (heading.start..heading.end).contains(&begins) {
                begins = heading.end;
            }
            open.retain(|outer| outer.level < heading.level);
            open.push(heading);
        }
        let mut path: Vec<_> = open.iter().map(|heading| heading.title.as_str()).collect();
        if path.first() != Some(&title) && !title.is_empty() {
            path.insert(0, title);
        }
        path.join(" > ").chars().take(LONGEST_PATH).collect()
    }
}

/// Whether no place within reach is better.
fn is_best(places: &[Place], at: usize, reach: u64) -> bool {
    let (before, from) = places.split_at(at);
    let Some((place, after)) = from.split_first() else { return false };
    let near = |other: &&Place| other.position.abs_diff(place.position) < reach;
    let mut before = before.iter().rev().take_while(near);
    let mut after = after.iter().take_while(near);
    before.all(|other| other.rank > place.rank) && after.all(|other| other.rank >= place.rank)
}

/// Equal for equal texts, and without order otherwise.
fn chance(text: &str) -> [u8; 8] {
    let digest = digest::digest(&digest::SHA256, text.trim().as_bytes());
    let mut chance = [0; 8];
    chance.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    chance
}

/// A heading, or what lies between empty lines. Its range ends where the next one begins.
struct Block {
    range: Range<usize>,
    heading: Option<(u8, String)>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence: Option<&str> = None;
    let mut begins = true;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let plain = line.trim();
        if let Some(mark) = fence {
            fence = fence.filter(|_| {
                !(plain.starts_with(mark) && plain.trim_matches(['`', '~']).is_empty())
            });
            continue;
        }
        if plain.is_empty() {
            begins = true;
            continue;
        }
        if let Some(heading) = atx(line) {
            blocks.push(Block { range: start..at, heading: Some(heading) });
            begins = true;
            continue;
        }
        if let Some(level) = underline(plain)
            && let Some(block) =
                blocks.last_mut().filter(|block| block.heading.is_none() && !begins)
            && let Some(title) = one_line(text.get(block.range.start..start))
        {
            block.heading = Some((level, title));
            begins = true;
            continue;
        }
        if begins {
            blocks.push(Block { range: start..at, heading: None });
            begins = false;
        }
        fence = ["```", "~~~"].into_iter().find(|mark| plain.starts_with(mark));
    }
    let starts: Vec<_> = blocks.iter().map(|block| block.range.start).collect();
    let ends = starts.into_iter().skip(1).chain([text.len()]);
    blocks.iter_mut().zip(ends).for_each(|(block, end)| block.range.end = end);
    blocks
}

/// `## Title`
fn atx(line: &str) -> Option<(u8, String)> {
    let line = line.strip_prefix(['#'].as_slice()).map(|_| line.trim_end())?;
    let rest = line.trim_start_matches('#');
    let level = u8::try_from(line.len() - rest.len()).ok().filter(|level| *level <= 6)?;
    let title = rest.starts_with([' ', '\t']).then(|| rest.trim().trim_end_matches('#').trim())?;
    (!title.is_empty()).then(|| (level, title.to_owned()))
}

/// The line below a title.
fn underline(line: &str) -> Option<u8> {
    let all = |mark| line.len() >= 2 && line.bytes().all(|byte| byte == mark);
    if all(b'=') {
        return Some(1);
    }
    all(b'-').then_some(2)
}

fn one_line(text: Option<&str>) -> Option<String> {
    let text = text?.trim();
    let starts_list = text.starts_with(['-', '*', '>', '|']);
    (!text.is_empty() && !text.contains('\n') && !starts_list).then(|| text.to_owned())
}
