//! A strict JSON scan (RFC 8259) that builds nothing: it says where the members of an object stand.
//!
//! Own code because of what must hold at once: every byte is judged by one parser (a second opinion
//! about which `model` counts would be a way around the policy), depth is bounded without recursion,
//! lone surrogates and numbers of any size pass, and a long conversation costs little more than
//! reading it.

/// Containers inside one another, the outermost object included.
pub(super) const MAX_DEPTH: usize = 200;
/// Members of one object that is listed.
pub(super) const MAX_MEMBERS: usize = 10_000;

/// A half-open range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// No bytes, at a place where some can be written.
    pub(super) fn at(at: usize) -> Self {
        Self { start: at, end: at }
    }

    /// The bytes of this range; empty when `body` is not the one that was scanned.
    pub(super) fn of(self, body: &[u8]) -> &[u8] {
        body.get(self.start..self.end).unwrap_or_default()
    }
}

/// One `"name": value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// What stands between the quotes.
    pub(crate) name: Span,
    /// Whether `name` holds escapes.
    pub(crate) escaped: bool,
    /// The value's JSON text without the whitespace around it.
    pub(crate) value: Span,
}

/// The members of an object, in the order written.
#[derive(Clone, Debug)]
pub(super) struct Members {
    pub(super) list: Vec<Member>,
    /// Where one more member can be written: behind the last one, or behind the `{`.
    pub(super) end: usize,
}

/// Why a text is refused, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// Scans a text that must be one JSON object and nothing else.
pub(super) fn members(text: &[u8]) -> Result<Members, Fault> {
    whole(Scanner::new(text), b"").map(|(members, _)| members)
}

/// Scans an answer, and in the same pass the members of the one called `inner`, where that is an object.
///
/// Of the values only those of `inner` are judged: nobody is told what is wrong with an answer, and its
/// client reads it, too.
pub(super) fn answer_with(text: &[u8], inner: &[u8]) -> Result<(Members, Option<Members>), Fault> {
    whole(Scanner { trusts: true, ..Scanner::new(text) }, inner)
}

fn whole(mut scan: Scanner<'_>, inner: &[u8]) -> Result<(Members, Option<Members>), Fault> {
    let text = scan.text;
    if text.starts_with(b"\xEF\xBB\xBF") {
        return Err(scan.fault("a byte order mark (BOM) is not allowed"));
    }
    let members = scan.object(inner)?;
    if scan.next().is_some() {
        return Err(scan.fault("expected nothing more behind the object"));
    }
    // Outside of strings the grammar lets only ASCII pass, so `high` has seen all there is.
    if scan.high & HIGHS != 0
        && let Err(bad) = std::str::from_utf8(text)
    {
        scan.at = bad.valid_up_to();
        return Err(scan.fault("the text is not valid UTF-8"));
    }
    Ok(members)
}

/// The members of the object that `text` is, however many; None for anything else. For a part of
/// a text that is scanned as a whole elsewhere: bytes outside of ASCII are not looked at.
pub(crate) fn object(text: &[u8]) -> Option<Vec<Member>> {
    let mut scan = Scanner { most: usize::MAX, ..Scanner::new(text) };
    let (members, _) = scan.object(b"").ok()?;
    scan.next().is_none().then_some(members.list)
}

/// Shows where each element of an array stands, in the order written, up to the first fault;
/// nothing for any other value. For parts of a text, as [`object`] is.
pub(crate) fn each(text: &[u8], mut look: impl FnMut(Span)) {
    // What was seen until a fault stays seen.
    let _ = Scanner::new(text).array(|scan| {
        let start = scan.at;
        scan.value()?;
        look(Span { start, end: scan.at });
        Ok(())
    });
}

/// Shows the members of each element that is an object, in one pass; otherwise as [`each`]. Values are passed
/// over: the text as a whole was judged before.
pub(crate) fn each_object(text: &[u8], mut look: impl FnMut(Vec<Member>)) {
    let mut scan = Scanner { most: usize::MAX, trusts: true, ..Scanner::new(text) };
    let _ = scan.array(|scan| {
        if scan.peek() != Some(b'{') {
            return scan.pass();
        }
        look(scan.object(b"")?.0.list);
        Ok(())
    });
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Most members of an object that is listed.
    most: usize,
    /// Whether the values of the outermost object are passed over without judging them.
    trusts: bool,
    /// All bytes of strings OR'ed together, eight lanes wide.
    high: u64,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, most: MAX_MEMBERS, trusts: false, high: 0 }
    }

    fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// The next byte that is not whitespace, not taken.
    fn next(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Takes `byte` behind whitespace when it is there.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.next() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn object(&mut self, inner: &[u8]) -> Result<(Members, Option<Members>), Fault> {
        if !self.take(b'{') {
            return Err(self.fault("expected a JSON object"));
        }
        let mut members = Members { list: Vec::with_capacity(16), end: self.at };
        let mut nested = None;
        if self.take(b'}') {
            return Ok((members, nested));
        }
        loop {
            if members.list.len() >= self.most {
                return Err(self.fault("an object of more than 10000 members is not accepted"));
            }
            let (name, escaped) = self.name()?;
            self.next();
            let start = self.at;
            if self.peek() == Some(b'{') && !inner.is_empty() && name.of(self.text) == inner {
                let trusts = std::mem::take(&mut self.trusts);
                nested = Some(self.object(b"")?.0);
                self.trusts = trusts;
            } else if self.trusts {
                self.pass()?;
            } else {
                self.value()?;
            }
            members.end = self.at;
            members.list.push(Member { name, escaped, value: Span { start, end: self.at } });
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.fault("expected `,` or `}`")),
            }
        }
        self.at += 1;
        Ok((members, nested))
    }

    /// An array, whose elements `element` takes; it stands at the first byte of each.
    fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if !self.take(b'[') {
            return Err(self.fault("expected a JSON array"));
        }
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.next();
            element(self)?;
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.fault("expected `,` or `]`")),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<(Span, bool), Fault> {
        if self.next() != Some(b'"') {
            return Err(self.fault("expected a key in double quotes"));
        }
        let start = self.at + 1;
        let escaped = self.string()?;
        let name = Span { start, end: self.at - 1 };
        if !self.take(b':') {
            return Err(self.fault("expected `:`"));
        }
        Ok((name, escaped))
    }

    /// Passes over one value by its brackets and quotes alone.
    fn pass(&mut self) -> Result<(), Fault> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => self.pass_string()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(b'-' | b'0'..=b'9' | b'a'..=b'z') => self.pass_word(),
                _ => return Err(self.fault("expected a value")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// A number or a literal, as far as its letters and digits go.
    fn pass_word(&mut self) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        self.at += rest.iter().take_while(|byte| part(byte)).count();
    }

    /// A string from its opening to its closing quote, whatever stands between.
    fn pass_string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            self.at += quiet(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => break,
                Some(_) => self.at += 2,
                None => return Err(self.fault("expected `\"` to end the string")),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// One value of the outermost object, with all that it contains.
    fn value(&mut self) -> Result<(), Fault> {
        let mut nest = Nest { objects: [0; 4], depth: 1 };
        loop {
            let opened = match self.next() {
                Some(b'"') => self.string().map(|_| false)?,
                Some(b'{') => self.open(&mut nest, true)?,
                Some(b'[') => self.open(&mut nest, false)?,
                Some(b't') => self.word(b"true")?,
                Some(b'f') => self.word(b"false")?,
                Some(b'n') => self.word(b"null")?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => return Err(self.fault("expected a value")),
            };
            if !opened && self.close(&mut nest)? {
                return Ok(());
            }
        }
    }

    /// Takes `{` or `[`; false when it was closed again at once.
    fn open(&mut self, nest: &mut Nest, object: bool) -> Result<bool, Fault> {
        if nest.depth == MAX_DEPTH {
            return Err(self.fault("nested deeper than the limit of 200 levels"));
        }
        self.at += 1;
        if self.take(if object { b'}' } else { b']' }) {
            return Ok(false);
        }
        nest.push(object);
        if object {
            self.name()?;
        }
        Ok(true)
    }

    /// Behind a value: goes on to the next one (false) or up to the end of the whole (true).
    fn close(&mut self, nest: &mut Nest) -> Result<bool, Fault> {
        while nest.depth > 1 {
            let object = nest.in_object();
            match (self.next(), object) {
                (Some(b','), _) => {
                    self.at += 1;
                    if object {
                        self.name()?;
                    }
                    return Ok(false);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.at += 1;
                    nest.depth -= 1;
                }
                (_, true) => return Err(self.fault("expected `,` or `}`")),
                (_, false) => return Err(self.fault("expected `,` or `]`")),
            }
        }
        Ok(true)
    }

    /// A string from its opening to its closing quote; true when it holds escapes.
    fn string(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain(self.text.get(self.at..).unwrap_or_default(), &mut self.high);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.fault("a control character must be escaped")),
                None => return Err(self.fault("expected `\"` to end the string")),
            }
            escaped = true;
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.fault("expected four hex digits behind `\\u`"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.fault("expected one of `\"\\/bfnrtu` behind `\\`")),
        }
        Ok(())
    }

    /// A literal; false as in "opened nothing".
    fn word(&mut self, word: &[u8]) -> Result<bool, Fault> {
        for byte in word {
            if self.peek() != Some(*byte) {
                return Err(self.fault("expected `true`, `false` or `null`"));
            }
            self.at += 1;
        }
        Ok(false)
    }

    /// A number of any size; false as in "opened nothing".
    fn number(&mut self) -> Result<bool, Fault> {
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(false)
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("expected a digit")) } else { Ok(()) }
    }
}

/// The containers around a value: one bit each, set for objects.
struct Nest {
    objects: [u64; 4],
    depth: usize,
}

impl Nest {
    fn push(&mut self, object: bool) {
        let bit = 1 << (self.depth % 64);
        if let Some(word) = self.objects.get_mut(self.depth / 64) {
            *word = if object { *word | bit } else { *word & !bit };
        }
        self.depth += 1;
    }

    fn in_object(&self) -> bool {
        let top = self.depth - 1;
        self.objects.get(top / 64).is_some_and(|word| word >> (top % 64) & 1 == 1)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const QUOTES: u64 = ONES * 0x22;
const SLASHES: u64 = ONES * 0x5C;
/// Bytes of a long string that are looked through twice: they stay in the nearest cache.
const BLOCK: usize = 4096;

/// How many bytes at the head of `text` stand for themselves in a string: up to `"`, `\` or a
/// control character. `high` collects the bytes that were looked at.
///
/// Most strings are short: one word first, in place, then two more; only what is longer is worth starting
/// vector instructions for.
#[inline]
pub(super) fn plain(text: &[u8], high: &mut u64) -> usize {
    let Some((first, rest)) = text.split_first_chunk::<8>() else {
        return first_stop(text, high).unwrap_or(text.len());
    };
    if let Some(stop) = stop_in(*first, high) {
        return stop;
    }
    8 + long_plain(rest, high)
}

fn long_plain(text: &[u8], high: &mut u64) -> usize {
    let (head, rest) = text.split_at_checked(16).unwrap_or((text, &[]));
    if let Some(stop) = first_stop(head, high) {
        return stop;
    }
    let mut plain = head.len();
    for block in rest.chunks(BLOCK) {
        let stop = memchr::memchr2(b'"', b'\\', block);
        let run = block.get(..stop.unwrap_or(BLOCK)).unwrap_or(block);
        // Both at once in a form that the compiler turns into vector instructions.
        let least_and_all = |(least, all): (u8, u8), byte: &u8| (least.min(*byte), all | byte);
        let (least, all) = run.iter().fold((u8::MAX, 0), least_and_all);
        *high |= u64::from(all);
        if least < 0x20 {
            return plain + run.iter().position(|byte| *byte < 0x20).unwrap_or(run.len());
        }
        plain += run.len();
        if stop.is_some() {
            break;
        }
    }
    plain
}

/// How many bytes at the head of `text` are neither `"` nor `\`. Short strings first, as in [`plain`].
fn quiet(text: &[u8]) -> usize {
    let (head, rest) = text.split_at_checked(24).unwrap_or((text, &[]));
    let (words, tail) = head.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let stops = (has_zero(word ^ QUOTES) | has_zero(word ^ SLASHES)) & HIGHS;
        if stops != 0 {
            return 8 * index + stops.trailing_zeros() as usize / 8;
        }
    }
    let tail_at = head.len() - tail.len();
    match tail.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(at) => tail_at + at,
        None => head.len() + memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len()),
    }
}

fn ends_run(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

fn first_stop(text: &[u8], high: &mut u64) -> Option<usize> {
    let (words, tail) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        if let Some(stop) = stop_in(*word, high) {
            return Some(8 * index + stop);
        }
    }
    *high |= tail.iter().fold(0, |all, byte| all | u64::from(*byte));
    tail.iter().position(|byte| ends_run(*byte)).map(|at| 8 * words.len() + at)
}

#[inline]
fn stop_in(word: [u8; 8], high: &mut u64) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    *high |= word;
    let stops = stops(word);
    (stops != 0).then(|| stops.trailing_zeros() as usize / 8)
}

/// The high bit of each byte that ends a run. A borrow can set bits above a true one, never below
/// the first: only the lowest bit may be believed.
fn stops(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (has_zero(word ^ QUOTES) | has_zero(word ^ SLASHES) | control) & HIGHS
}

/// The high bit of each byte that is 0, with the same reservation; the other bits say nothing.
fn has_zero(lanes: u64) -> u64 {
    lanes.wrapping_sub(ONES) & !lanes
}

#[cfg(test)]
mod tests;
