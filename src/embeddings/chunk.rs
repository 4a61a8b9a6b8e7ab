//! Markdown in chunks that are embedded one by one.
//!
//! A page that is new is cut where its outline says; what is still too long is split further by
//! `text_splitter`. One that was cut before is cut in the same places, as far as the text around
//! them is still there, and only what is new between two of them is cut anew. So an edit of a
//! paragraph changes the chunk that it is in and, where it is repeated there, the one that follows.
//! Three change where a chunk outgrows its bounds and has to be split. A heading is part of all
//! chunks below it.

mod again;
mod outline;

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

use outline::Outline;

/// To be counted up when the same text would be cut in another way.
const VERSION: u32 = 2;
/// Tokens: the bounds of a user's wishes. The longest leaves room for headings in what models take.
const SHORTEST: u32 = 40;
const LONGEST: u32 = 4096;

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

    /// The longest chunk of a page that is new: with an eighth to grow by edits.
    fn room(&self) -> u32 {
        self.max_tokens - self.max_tokens / 8
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

/// A page to be cut.
struct Page<'a> {
    text: &'a str,
    outline: &'a Outline,
    chunking: &'a Chunking,
    encoding: Encoding,
}

/// Cuts a page; `before` are the passages that it had, in their order, or none. Takes about 20 us
/// per KB: long pages are not for the reactor.
pub fn cut(
    title: &str,
    text: &str,
    chunking: &Chunking,
    shape: &IndexShape,
    before: &[String],
) -> Vec<Chunk> {
    let encoding = Encoding::of(&shape.model);
    let outline = Outline::of(text, encoding);
    let page = Page { text, outline: &outline, chunking, encoding };
    let mut chunks = Vec::new();
    let mut last = "";
    for part in page.parts(before) {
        let body = text.get(part.clone()).unwrap_or_default().trim();
        if body.is_empty() {
            continue;
        }
        let repeated = tail(last, chunking);
        let text = match repeated.is_empty() || outline.begins_section(part.start) {
            true => body.to_owned(),
            false => format!("{repeated}\n\n{body}"),
        };
        chunks.push(Chunk::new(outline.path(title, part.start), text, shape, encoding));
        last = body;
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

/// Splits what is too long into pieces of at most so many tokens.
fn split(page: &Page<'_>, part: Range<usize>, most: u32) -> Vec<Range<usize>> {
    let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
    let capacity = size(page.chunking.min_tokens.min(most))..=size(most);
    let config = ChunkConfig::new(capacity).with_sizer(Sizer(page.encoding));
    let body = page.text.get(part.clone()).unwrap_or_default();
    let splitter = MarkdownSplitter::new(config);
    let starts = splitter.chunk_indices(body).skip(1).map(|(at, _)| part.start + at);
    let starts: Vec<usize> = std::iter::once(part.start).chain(starts).collect();
    let ends = starts.iter().skip(1).copied().chain([part.end]);
    starts.iter().zip(ends).map(|(start, end)| *start..end).collect()
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn shape() -> IndexShape {
        IndexShape {
            model: "text-embedding-3-small".to_owned(),
            dimensions: 1536,
            chunker: Chunking::default().name(),
        }
    }

    fn cut(text: &str) -> Vec<Chunk> {
        cut_again(text, &[])
    }

    fn cut_again(text: &str, before: &[Chunk]) -> Vec<Chunk> {
        let before: Vec<String> = before.iter().map(|chunk| chunk.text.clone()).collect();
        super::cut("Guide", text, &Chunking::default(), &shape(), &before)
    }

    /// Chunks that have to be embedded after an edit.
    fn new(text: &str, before: &[Chunk]) -> usize {
        hashes(&cut_again(text, before)).difference(&hashes(before)).count()
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
        // About 9,000 tokens; chunks of some 300 to 700, a heading and an overlap.
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

    /// Documents that were written for people.
    fn documents() -> Vec<String> {
        let names = ["policies", "training", "decisions", "documents"];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
        let read = |name| std::fs::read_to_string(format!("{folder}/{name}.md")).unwrap();
        let texts: Vec<String> = names.into_iter().map(read).collect();
        // All of them as one page of some 40,000 tokens, and one without headings.
        let plain = |text: &String| {
            text.lines().map(|line| line.trim_start_matches('#')).collect::<Vec<_>>().join("\n")
        };
        let flat = texts.iter().map(plain).collect::<Vec<_>>().join("\n\n");
        texts.iter().cloned().chain([texts.join("\n\n"), flat]).collect()
    }

    /// The paragraphs of a page, each with what it is; joined by empty lines they are the page.
    fn paragraphs(text: &str) -> Vec<&str> {
        text.trim().split("\n\n").collect()
    }

    fn with(paragraphs: &[&str], at: usize, edited: &[&str]) -> String {
        [&paragraphs[..at], edited, &paragraphs[at + 1..]].concat().join("\n\n")
    }

    fn is_heading(paragraph: &str) -> bool {
        let title = |line: &str| line.starts_with('#');
        let underlined = |line: &str| underlines(line);
        paragraph.lines().any(|line| title(line) || underlined(line)) || paragraph.contains("```")
    }

    fn underlines(line: &str) -> bool {
        line.len() > 1 && (line.trim_matches('-').is_empty() || line.trim_matches('=').is_empty())
    }

    #[test]
    fn an_edit_of_a_paragraph_changes_one_or_two_chunks_wherever_it_is() {
        for document in documents() {
            let paragraphs = paragraphs(&document);
            let before = cut(&paragraphs.join("\n\n"));
            // Each of a page, and some of those that are all of them.
            let step = if paragraphs.len() > 300 { 29 } else { 1 };
            let words = (0..paragraphs.len()).filter(|at| !is_heading(paragraphs[*at]));
            for at in words.step_by(step) {
                let paragraph = paragraphs[at];
                let longer = format!("{paragraph} And this, of twenty tokens or so, is new in it.");
                let other = "Something else stands here now, and says it in one short sentence.";
                let one_word = paragraph.replacen(' ', " quite ", 1);
                let edits =
                    [&[longer.as_str()][..], &[&one_word], &[other], &[paragraph, other], &[]];
                // All of them at some places, and two at each: they take their time.
                for edited in [edits[at % 5], edits[(at + 1) % 5]] {
                    let after = with(&paragraphs, at, edited);
                    let count = new(&after, &before);
                    assert!(count <= 2, "{count} of {paragraph:?} to {edited:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_added_at_either_end_changes_two_chunks_at_most() {
        for document in documents() {
            let before = cut(&document);
            let two = [paragraph(1), paragraph(2)].join("\n\n");
            for added in ["A short note.".to_owned(), paragraph(1), two] {
                let ends = [format!("{added}\n\n{document}"), format!("{document}\n\n{added}")];
                let counts = ends.map(|text| new(&text, &before));
                let start: String = document.chars().take(40).collect();
                assert!(counts.iter().all(|count| *count <= 2), "{start}: {counts:?} for {added}");
            }
        }
    }

    #[test]
    fn what_moves_as_a_whole_is_not_cut_anew() {
        let section = |number: usize| {
            let body: Vec<_> = (0..6).map(|part| paragraph(number * 10 + part)).collect();
            format!("## Part {number}\n\n{}", body.join("\n\n"))
        };
        let mut sections: Vec<_> = (0..8).map(section).collect();
        let before = cut(&sections.join("\n\n"));
        let first = sections.remove(0);
        sections.push(first);
        assert_eq!(new(&sections.join("\n\n"), &before), 0);
    }

    #[test]
    fn a_chunk_that_outgrows_its_bounds_is_split_and_others_stay() {
        let text: Vec<_> = (0..60).map(paragraph).collect();
        let before = cut(&text.join("\n\n"));
        let mut longer = text.clone();
        longer[30] = (100..112).map(paragraph).collect::<Vec<_>>().join("\n\n");
        let after = cut_again(&longer.join("\n\n"), &before);
        assert!(after.iter().all(|chunk| chunk.tokens <= 910));
        // About 1,000 tokens more: two or three chunks, and the one behind them that repeats.
        assert!(new(&longer.join("\n\n"), &before) <= 4);
        assert!(new(&longer.join("\n\n"), &before) >= 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn after_many_edits_a_page_is_all_there_in_chunks_of_the_right_size(
            edits in prop::collection::vec((0..60_usize, 0..4_usize, any::<u16>()), 1..40)
        ) {
            let mut text: Vec<String> = (0..60).map(paragraph).collect();
            let mut chunks = cut(&text.join("\n\n"));
            for (at, kind, number) in edits {
                let at = at % text.len();
                let fresh = paragraph(usize::from(number) + 1_000);
                match kind {
                    0 => text[at] = fresh,
                    1 => text.insert(at, fresh),
                    2 if text.len() > 10 => drop(text.remove(at)),
                    _ => text[at].push_str(" And more."),
                }
                let whole = text.join("\n\n");
                let after = cut_again(&whole, &chunks);
                let count = hashes(&after).difference(&hashes(&chunks)).count();
                // Three where one is split.
                prop_assert!(count <= 2 || after.len() > chunks.len() && count == 3, "{count}");
                chunks = after;
            }
            for part in &text {
                prop_assert!(chunks.iter().any(|chunk| chunk.text.contains(part.as_str())), "{part}");
            }
            // 800, a heading, and what is repeated: 384 bytes, with many numbers in them.
            prop_assert!(chunks.iter().all(|chunk| chunk.tokens <= 960));
            prop_assert!(chunks.len() <= text.len().div_ceil(2) + 1, "{} of {}", chunks.len(), text.len());
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
            super::cut(title, "Text.", &Chunking::default(), shape, &[])[0].hash
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
        assert_eq!(given.checked().unwrap().name(), "md2:400-400+96");
    }
}
