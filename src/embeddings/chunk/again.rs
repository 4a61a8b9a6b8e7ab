//! Where a page is cut that was cut before: in the same places, as far as the text around them is
//! still there. So an edit changes the passage that it is in, and moves no cut.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Range;

use super::Chunking;
use super::Page;
use super::split;
use super::tail;

/// Bytes of a passage that is known again wherever it is. Shorter ones may be there by chance, and
/// have to stand by themselves.
const LONG: usize = 200;

/// A stretch of the page: a passage as it was, or what is new between two of them.
struct Stretch {
    range: Range<usize>,
    is_new: bool,
}

/// Which of its neighbours something is joined to, with both together.
enum Side {
    Last(Range<usize>),
    Next(Range<usize>),
}

impl Page<'_> {
    /// The parts of the page, in order; `before` are the passages that it had, if it had any.
    pub(super) fn parts(&self, before: &[String]) -> Vec<Range<usize>> {
        let kept = self.kept(&bodies(before, self.chunking));
        if kept.is_empty() {
            return self.fresh(0..self.text.len());
        }
        let stretches = self.joined(self.stretches(kept));
        let most = u64::from(self.chunking.max_tokens);
        let parts = stretches.into_iter().flat_map(|Stretch { range, is_new }| {
            let is_whole = !is_new || self.tokens(&range) <= most;
            if is_whole { vec![range] } else { self.fresh(range) }
        });
        parts.collect()
    }

    /// Cuts a stretch of which nothing is known. Parts are a little shorter than they may be: so
    /// they may grow by an edit.
    fn fresh(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let tokens = self.tokens(&range);
        let parts = self.outline.parts(range, tokens, self.chunking.reach());
        let room = self.chunking.room();
        let pieces = parts.into_iter().flat_map(|part| {
            let is_short = self.tokens(&part) <= u64::from(room);
            if is_short { vec![part] } else { split(self, part, room) }
        });
        pieces.collect()
    }

    /// Where the passages of before still are, in the order of the page.
    fn kept(&self, bodies: &[&str]) -> Vec<Range<usize>> {
        let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
        let mut looked: HashMap<&str, usize> = HashMap::new();
        let mut last = Some(0);
        for body in bodies.iter().filter(|body| !body.is_empty()) {
            let is_free = |range: &Range<usize>| {
                let before = taken.range(..range.end).next_back();
                before.is_none_or(|(_, end)| *end <= range.start)
            };
            // Where the one before is, its place is behind it.
            let following = last.and_then(|end| self.follows(end, body)).filter(is_free);
            let found = following.or_else(|| {
                let from = looked.get(body).copied().unwrap_or(0);
                let rest = self.text.get(from..).unwrap_or_default();
                let mut all =
                    rest.match_indices(body).map(|(at, _)| from + at..from + at + body.len());
                all.find(|range| is_free(range) && self.is_known(range))
            });
            looked.insert(body, found.as_ref().map_or(self.text.len(), |found| found.end));
            last = found.as_ref().map(|found| found.end);
            taken.extend(found.map(|found| (found.start, found.end)));
        }
        taken.into_iter().map(|(start, end)| start..end).collect()
    }

    /// Where a passage is that begins behind `end`, blanks aside.
    fn follows(&self, end: usize, body: &str) -> Option<Range<usize>> {
        let rest = self.text.get(end..)?;
        let start = end + (rest.len() - rest.trim_start().len());
        self.text.get(start..)?.starts_with(body).then(|| start..start + body.len())
    }

    /// Whether a passage that was found somewhere is the one of before.
    fn is_known(&self, range: &Range<usize>) -> bool {
        let after = self.text.get(range.end..).unwrap_or_default();
        let is_whole = after.is_empty() || after.starts_with('\n');
        range.len() >= LONG || self.outline.is_place(range.start) && is_whole
    }

    /// What was kept, and what lies between.
    fn stretches(&self, kept: Vec<Range<usize>>) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        let mut at = 0;
        for range in kept {
            stretches.extend(self.new_between(at, range.start));
            at = range.end;
            stretches.push(Stretch { range, is_new: false });
        }
        stretches.extend(self.new_between(at, self.text.len()));
        stretches
    }

    fn new_between(&self, start: usize, end: usize) -> Option<Stretch> {
        let text = self.text.get(start..end)?;
        let start = start + (text.len() - text.trim_start().len());
        let end = end - (text.len() - text.trim_end().len());
        (start < end).then_some(Stretch { range: start..end, is_new: true })
    }

    /// The same, with what is new joined to the passage beside it whose paragraph it goes on, or
    /// which it is too short to stand beside; if that has room.
    fn joined(&self, stretches: Vec<Stretch>) -> Vec<Stretch> {
        let mut joined: Vec<Stretch> = Vec::new();
        let mut stretches = stretches.into_iter().peekable();
        while let Some(stretch) = stretches.next() {
            if !stretch.is_new {
                joined.push(stretch);
                continue;
            }
            match self.side(&stretch.range, joined.last(), stretches.peek()) {
                Some(Side::Last(range)) => {
                    joined.pop();
                    joined.push(Stretch { range, is_new: false });
                }
                Some(Side::Next(range)) => {
                    stretches.next();
                    joined.push(Stretch { range, is_new: false });
                }
                None => joined.push(stretch),
            }
        }
        joined
    }

    /// The passage that something new is joined to, and both together.
    fn side(
        &self,
        new: &Range<usize>,
        last: Option<&Stretch>,
        next: Option<&Stretch>,
    ) -> Option<Side> {
        let most = u64::from(self.chunking.max_tokens);
        let fits = |range: &Range<usize>| self.tokens(range) <= most;
        let with_last = last.map(|last| last.range.start..new.end).filter(fits);
        let with_next = next.map(|next| new.start..next.range.end).filter(fits);
        let goes_on = |from: usize, to: usize| {
            self.text.get(from..to).is_some_and(|between| !between.contains('\n'))
        };
        if last.is_some_and(|last| goes_on(last.range.end, new.start)) && with_last.is_some() {
            return with_last.map(Side::Last);
        }
        if next.is_some_and(|next| goes_on(new.end, next.range.start)) && with_next.is_some() {
            return with_next.map(Side::Next);
        }
        if self.tokens(new) >= u64::from(self.chunking.min_tokens / 4) {
            return None;
        }
        // What stands at the end of a section belongs to it.
        let is_other = next.is_some_and(|next| self.outline.begins_section(next.range.start));
        match (with_last, with_next) {
            (Some(last), _) if is_other => Some(Side::Last(last)),
            (_, Some(next)) => Some(Side::Next(next)),
            (last, None) => last.map(Side::Last),
        }
    }

    fn tokens(&self, range: &Range<usize>) -> u64 {
        self.encoding.count(self.text.get(range.clone()).unwrap_or_default())
    }
}

/// Passages without what they repeat of the ones before them.
fn bodies<'a>(passages: &'a [String], chunking: &Chunking) -> Vec<&'a str> {
    let mut bodies: Vec<&str> = Vec::with_capacity(passages.len());
    for passage in passages {
        let repeated = bodies.last().map(|before| tail(before, chunking)).unwrap_or_default();
        let rest = passage.strip_prefix(repeated).and_then(|rest| rest.strip_prefix("\n\n"));
        bodies.push(rest.filter(|_| !repeated.is_empty()).unwrap_or(passage));
    }
    bodies
}
