//! Markdown in chunks that are embedded one by one.
//!
//! Where a page is cut depends on what is near the cut alone: a place is one when it is the best of
//! all within a reach of tokens (three eighths of the longest chunk) around it, a heading before a
//! paragraph, and the outer heading before the inner one. So an edit changes the chunk that it is in, and seldom the one
//! beside it, but never moves all the cuts that follow. What is still too long is split further by
//! `text_splitter`.

use std::ops::Range;

use ring::digest;
use serde::Deserialize;
use serde::Serialize;
use text_splitter::ChunkConfig;
use text_splitter::ChunkSizer;
use text_splitter::MarkdownSplitter;

use crate::metering::tokens::Encoding;
use crate::store::ChunkHash;
use crate::store::IndexShape;

/// To be counted up when the same text would be cut in another way.
const VERSION: u32 = 1;
/// Tokens: the bounds of a user's wishes. The longest leaves room for headings in what models take.
const SHORTEST: u32 = 40;
const LONGEST: u32 = 4096;
/// A heading's path is cut after so many characters.
const LONGEST_PATH: usize = 300;
/// Class of a place that is no heading; headings have their level, 1 to 6.
const PARAGRAPH: u8 = 7;

/// How long chunks are, in tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chunking {
    /// What is split again is split into pieces of at least so many, where it can be.
    pub min_tokens: u32,
    /// No chunk has more, its overlap aside.
    pub max_tokens: u32,
    /// Of the chunk before, repeated where a section goes on.
    pub overlap_tokens: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        Self { min_tokens: 400, max_tokens: 800, overlap_tokens: 96 }
    }
}

impl Chunking {
    /// The same, when it can be used.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn checked(self) -> Result<Self, String> {
        let Self { min_tokens, max_tokens, overlap_tokens } = self;
        if !(SHORTEST..=LONGEST).contains(&max_tokens) {
            return Err(format!("max_tokens {max_tokens} is not between {SHORTEST} and {LONGEST}"));
        }
        if min_tokens > max_tokens || min_tokens == 0 {
            return Err(format!("min_tokens {min_tokens} is not between 1 and max_tokens"));
        }
        if overlap_tokens > min_tokens / 2 {
            return Err(format!("overlap_tokens {overlap_tokens} is more than half of min_tokens"));
        }
        Ok(self)
    }

    /// Names the chunker with its settings: another name is another index.
    pub fn name(&self) -> String {
        format!("md{VERSION}:{}-{}+{}", self.min_tokens, self.max_tokens, self.overlap_tokens)
    }

    /// Tokens around a cut in which there is no better one. Chunks are at least so long, and twice
    /// as long on average.
    fn reach(&self) -> u64 {
        u64::from(self.max_tokens) * 3 / 8
    }
}

/// A passage of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The page's title and the headings above, outermost first: `Guide > Install > Linux`.
    pub heading: String,
    /// The passage.
    pub text: String,
    /// What is embedded has so many tokens.
    pub tokens: u32,
    /// Equal where the vectors are.
    pub hash: ChunkHash,
}

impl Chunk {
    /// What is embedded: the passage below its headings.
    pub fn input(&self) -> String {
        match self.heading.as_str() {
            "" => self.text.clone(),
            heading => format!("{heading}\n\n{}", self.text),
        }
    }

    fn new(heading: String, text: String, shape: &IndexShape, encoding: Encoding) -> Self {
        let dimensions = shape.dimensions.to_string();
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [&shape.model, &dimensions, &shape.chunker, &heading, &text] {
            // With its length before it, no part can end in what begins the next.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        let mut chunk = Self { heading, text, tokens: 0, hash };
        chunk.tokens = u32::try_from(encoding.count(&chunk.input())).unwrap_or(u32::MAX);
        chunk
    }
}

/// Cuts a page. Takes about 20 us per KB: long pages are not for the reactor.
pub fn cut(title: &str, text: &str, chunking: &Chunking, shape: &IndexShape) -> Vec<Chunk> {
    let encoding = Encoding::of(&shape.model);
    let outline = Outline::of(text, encoding);
    let mut chunks = Vec::new();
    let mut before: Option<&str> = None;
    for (part, goes_on) in outline.parts(chunking.reach(), text.len()) {
        let body = text.get(part.clone()).unwrap_or_default();
        let most = u64::from(chunking.max_tokens);
        let pieces = match encoding.count_till(body, most) {
            Some(_) => vec![(part.start, body)],
            None => split(body, part.start, chunking, encoding),
        };
        let overlap = before.filter(|_| goes_on).map(|before| tail(before, chunking));
        for (index, (start, piece)) in pieces.into_iter().enumerate() {
            let heading = outline.path(title, start);
            let piece = piece.trim();
            let text = match overlap.filter(|overlap| index == 0 && !overlap.is_empty()) {
                Some(overlap) => format!("{overlap}\n\n{piece}"),
                None => piece.to_owned(),
            };
            if !piece.is_empty() {
                chunks.push(Chunk::new(heading, text, shape, encoding));
            }
        }
        before = Some(body);
    }
    chunks
}

/// Counts in the encoding of the model.
struct Sizer(Encoding);

impl ChunkSizer for Sizer {
    fn size(&self, chunk: &str) -> usize {
        usize::try_from(self.0.count(chunk)).unwrap_or(usize::MAX)
    }
}

/// Splits what is too long; each piece with its place in the page.
fn split<'a>(
    body: &'a str,
    start: usize,
    chunking: &Chunking,
    encoding: Encoding,
) -> Vec<(usize, &'a str)> {
    let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
    let capacity = size(chunking.min_tokens)..=size(chunking.max_tokens);
    let config = ChunkConfig::new(capacity).with_sizer(Sizer(encoding));
    let Ok(config) = config.with_overlap(size(chunking.overlap_tokens)) else {
        // Checked when the source was made: the overlap is less than a chunk.
        return vec![(start, body)];
    };
    let splitter = MarkdownSplitter::new(config);
    splitter.chunk_indices(body).map(|(at, piece)| (start + at, piece)).collect()
}

/// The end of a passage that the next one repeats: from the beginning of a sentence or a line where
/// there is one, else of a word. Four bytes are about a token.
fn tail<'a>(text: &'a str, chunking: &Chunking) -> &'a str {
    let bytes = usize::try_from(chunking.overlap_tokens).unwrap_or(0) * 4;
    let text = text.trim_end();
    let from = text.floor_char_boundary(text.len().saturating_sub(bytes));
    let (_, end) = text.split_at(from);
    if from == 0 {
        return end.trim();
    }
    let after = |mark: &str| end.find(mark).map(|at| at + mark.len());
    let sentence = [". ", "\n", "! ", "? "].into_iter().filter_map(after).min();
    let start = sentence.filter(|at| *at < end.len() / 2).or_else(|| after(" "));
    start.and_then(|at| end.get(at..)).unwrap_or_default().trim()
}

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
struct Outline {
    places: Vec<Place>,
    headings: Vec<Heading>,
    tokens: u64,
}

impl Outline {
    fn of(text: &str, encoding: Encoding) -> Self {
        let blocks = blocks(text);
        let mut outline = Self { places: Vec::new(), headings: Vec::new(), tokens: 0 };
        let mut under_heading = false;
        for block in blocks {
            let body = text.get(block.range.clone()).unwrap_or_default();
            let Range { start, end } = block.range;
            // Nothing is cut off from its heading.
            if !under_heading {
                let class = block.heading.as_ref().map_or(PARAGRAPH, |(level, _)| *level);
                let rank = (class, chance(body));
                outline.places.push(Place { start, position: outline.tokens, rank });
            }
            outline.tokens += encoding.count(body);
            under_heading = block.heading.is_some();
            if let Some((level, title)) = block.heading {
                outline.headings.push(Heading { start, level, title, end });
            }
        }
        outline
    }

    /// The parts that the page is cut into, and whether each goes on in the section of the one
    /// before.
    fn parts(&self, reach: u64, length: usize) -> Vec<(Range<usize>, bool)> {
        let mut starts: Vec<_> = self.cuts(reach).collect();
        starts.insert(0, (0, false));
        let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([length]);
        let parts = starts.iter().zip(ends);
        parts.map(|((start, goes_on), end)| (*start..end, *goes_on)).collect()
    }

    /// The places that are better than all others within reach; the page's ends are better still.
    fn cuts(&self, reach: u64) -> impl Iterator<Item = (usize, bool)> {
        let inside = move |place: &Place| {
            place.position >= reach && self.tokens.saturating_sub(place.position) >= reach
        };
        let best = move |at: usize, place: &Place| {
            let near = |other: &&Place| other.position.abs_diff(place.position) < reach;
            let (before, after) = self.places.split_at(at);
            let mut before = before.iter().rev().take_while(near);
            let mut after = after.iter().skip(1).take_while(near);
            before.all(|other| other.rank > place.rank)
                && after.all(|other| other.rank >= place.rank)
        };
        let all = self.places.iter().enumerate();
        let cuts = all.filter(move |(at, place)| inside(place) && best(*at, place));
        cuts.map(|(_, place)| (place.start, place.rank.0 == PARAGRAPH))
    }

    /// The headings above what begins at `start`, with those that it begins with.
    fn path(&self, title: &str, start: usize) -> String {
        let mut open: Vec<&Heading> = Vec::new();
        let mut begins = start;
        for heading in &self.headings {
            if heading.start > begins {
                break;
            }
            if heading.start == begins {
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shape() -> IndexShape {
        IndexShape {
            model: "text-embedding-3-small".to_owned(),
            dimensions: 1536,
            chunker: Chunking::default().name(),
        }
    }

    fn cut(text: &str) -> Vec<Chunk> {
        super::cut("Guide", text, &Chunking::default(), &shape())
    }

    /// About 85 tokens that are like no others.
    fn paragraph(number: usize) -> String {
        let words = (0..8).map(|word| {
            format!(
                "In part {number}.{word} the gateway number {} meets {}.",
                number * 31 + word,
                word * 7
            )
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn hashes(chunks: &[Chunk]) -> HashSet<ChunkHash> {
        chunks.iter().map(|chunk| chunk.hash).collect()
    }

    #[test]
    fn a_short_page_is_one_chunk_and_an_empty_one_none() {
        let chunks = cut("# Guide\n\nTake the second door.\n");
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].heading, "Guide");
        assert_eq!(chunks[0].input(), "Guide\n\n# Guide\n\nTake the second door.");
        assert!(cut("").is_empty() && cut(" \n\n").is_empty());
    }

    #[test]
    fn a_long_page_is_cut_into_chunks_of_the_wanted_size_and_nothing_is_lost() {
        let text: Vec<_> = (0..100).map(paragraph).collect();
        let chunks = cut(&text.join("\n\n"));
        // About 9,000 tokens; chunks of some 300 to 800, a heading and an overlap.
        assert!((11..=30).contains(&chunks.len()), "{}", chunks.len());
        for chunk in &chunks {
            // What is left over of a part that was split may be shorter.
            assert!((100..=910).contains(&chunk.tokens), "{}", chunk.tokens);
        }
        for part in &text {
            assert!(chunks.iter().any(|chunk| chunk.text.contains(part.as_str())));
        }
    }

    #[test]
    fn cuts_are_at_headings_where_there_are_any_and_say_where_they_are() {
        let section = |number: usize| {
            let body: Vec<_> = (0..6).map(|part| paragraph(number * 10 + part)).collect();
            format!("## Part {number}\n\n### Detail\n\n{}", body.join("\n\n"))
        };
        let text: Vec<_> = (0..8).map(section).collect();
        let chunks = cut(&format!("Guide\n=====\n\n{}", text.join("\n\n")));
        // Each section has about 510 tokens.
        let headings: Vec<_> = chunks.iter().map(|chunk| chunk.heading.as_str()).collect();
        for number in 0..8 {
            let path = format!("Guide > Part {number} > Detail");
            assert!(headings.contains(&path.as_str()), "{headings:?}");
        }
        assert!(chunks.iter().all(|chunk| chunk.tokens < 910));
    }

    #[test]
    fn an_edit_of_one_paragraph_changes_one_or_two_chunks_nearly_wherever_it_is() {
        for headings in [false, true] {
            let whole = |edited: Option<usize>| {
                let parts = (0..100).map(|number| {
                    let text = match edited {
                        Some(at) if at == number => {
                            format!("{} And this is new here.", paragraph(number))
                        }
                        _ => paragraph(number),
                    };
                    if headings && number % 4 == 0 {
                        format!("## At {number}\n\n{text}")
                    } else {
                        text
                    }
                });
                cut(&parts.collect::<Vec<_>>().join("\n\n"))
            };
            let before = hashes(&whole(None));
            let new = |edited| hashes(&whole(Some(edited))).difference(&before).count();
            let counts: Vec<_> = (0..100).map(new).collect();
            assert!(counts.iter().all(|count| (1..=4).contains(count)), "{counts:?}");
            // The edit may move a cut; then it is three, or four.
            let many = counts.iter().filter(|count| **count > 2).count();
            assert!(many <= 15, "{many}: {counts:?}");
        }
    }

    #[test]
    fn code_is_no_heading_and_a_line_without_end_is_cut_all_the_same() {
        let code = "```sh\n# no heading\n\n## none\n```\n\nText.";
        assert_eq!(cut(code)[0].heading, "Guide");
        let endless = "word ".repeat(5_000);
        let chunks = cut(&endless);
        assert!(chunks.len() >= 6 && chunks.iter().all(|chunk| chunk.tokens <= 810));
        let without_spaces = cut(&"x".repeat(50_000));
        assert!(without_spaces.iter().all(|chunk| chunk.tokens <= 810));
    }

    #[test]
    fn a_hash_tells_models_dimensions_chunkers_and_headings_apart() {
        let hash = |shape: &IndexShape, title: &str| {
            super::cut(title, "Text.", &Chunking::default(), shape)[0].hash
        };
        let all = [
            hash(&shape(), "Guide"),
            hash(&shape(), "Other"),
            hash(&IndexShape { dimensions: 512, ..shape() }, "Guide"),
            hash(&IndexShape { model: "m".to_owned(), ..shape() }, "Guide"),
            hash(&IndexShape { chunker: "c".to_owned(), ..shape() }, "Guide"),
        ];
        assert_eq!(HashSet::from(all).len(), 5);
        assert_eq!(all[0], hash(&shape(), "Guide"));
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        let checked = |min_tokens, max_tokens, overlap_tokens| {
            Chunking { min_tokens, max_tokens, overlap_tokens }.checked().unwrap_err()
        };
        assert!(checked(1, 10, 0).contains("max_tokens"));
        assert!(checked(801, 800, 0).contains("min_tokens"));
        assert!(checked(400, 800, 201).contains("overlap_tokens"));
        let given: Chunking = serde_json::from_str(r#"{"max_tokens": 400}"#).unwrap();
        assert_eq!(given.checked().unwrap().name(), "md1:400-400+96");
    }
}
