//! The rows that may be learned from, all of them at once: some 300 bytes of each in memory, the
//! words in a file that is gone when the process ends.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use uuid::Uuid;

use super::digest::hex;
use super::examine::Examined;
use super::examine::Fit;
use super::sip::sip;
use super::stages::near::Sketch;
use super::stages::split::Families;
use super::tally::Reason;
use super::tally::Tally;

const KEY: [u64; 2] = [0x7765_6972, 0x706f_6f6c];
/// Bytes that wait to be written.
const BUFFER: usize = 1 << 20;
/// What a preview shows for one reason.
const SAMPLES: usize = 3;

/// Where a line stands in the file of lines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    offset: u64,
    len: u32,
}

/// A row that may be learned from.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The call; nil of what was imported.
    pub(super) id: Uuid,
    pub(super) place: Place,
    pub(super) content: [u8; 16],
    /// Its node among the families.
    pub(super) node: u32,
    /// Names the conversation.
    pub(super) conversation: u64,
    pub(super) user: Option<u32>,
    pub(super) whole: u64,
    pub(super) prompt: u64,
    pub(super) rating: Option<f32>,
    pub(super) tokens: u64,
    pub(super) team: u32,
    pub(super) key: u32,
    pub(super) model: u32,
    pub(super) system: u64,
    /// Which set of tools it calls.
    pub(super) tools: u32,
    pub(super) refuses: bool,
    pub(super) demonstrated: bool,
    /// Why it does not go on.
    pub(super) dropped: Option<Reason>,
}

/// A row that a stage dropped, for somebody to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) id: Option<Uuid>,
    pub(super) reason: Reason,
    pub(super) excerpt: String,
}

/// Rows as they come.
pub(super) struct Pool {
    pub(super) entries: Vec<Entry>,
    pub(super) sketches: Vec<(u32, Sketch)>,
    /// Where conversations stood before their last row.
    pub(super) earlier: Vec<u64>,
    /// Rows of conversations that later stages dropped, and why.
    pub(super) late: Vec<(u64, Reason)>,
    pub(super) families: Families,
    /// What names families, by node.
    pub(super) names: Vec<u64>,
    pub(super) tally: Tally,
    pub(super) samples: Vec<Sample>,
    pub(super) texts: Interned<String>,
    pub(super) tools: Interned<Vec<u32>>,
    /// Rows that were read.
    pub(super) read: u64,
    /// Whether somebody wants to see what is dropped.
    pub(super) shows: bool,
    nodes: HashMap<u64, u32>,
    lines: Lines,
}

impl Pool {
    pub(super) fn new(shows: bool) -> std::io::Result<Self> {
        Ok(Self {
            entries: Vec::new(),
            sketches: Vec::new(),
            earlier: Vec::new(),
            late: Vec::new(),
            families: Families::default(),
            names: Vec::new(),
            tally: Tally::default(),
            samples: Vec::new(),
            texts: Interned::default(),
            tools: Interned::default(),
            read: 0,
            shows,
            nodes: HashMap::new(),
            lines: Lines::new()?,
        })
    }

    /// Takes a row. Rows come in the order of their times.
    pub(super) fn take(&mut self, examined: Examined) -> std::io::Result<()> {
        self.read += 1;
        self.tally.merge(&examined.tally);
        if let Some(chain) = &examined.chain {
            self.earlier.extend_from_slice(&chain.earlier);
        }
        match &examined.outcome {
            Some(Ok(_)) => self.keep(examined),
            Some(Err(reason)) => {
                let reason = *reason;
                if let Some(chain) = &examined.chain {
                    self.late.push((chain.whole, reason));
                }
                self.show(examined.about.id, reason, examined.excerpt);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn keep(&mut self, examined: Examined) -> std::io::Result<()> {
        let Examined { about, chain, outcome: Some(Ok(fit)), rating, .. } = examined else {
            return Ok(());
        };
        let chain = chain.unwrap_or_default();
        let named = about.conversation.map(|name| sip(KEY, name.as_bytes()));
        let conversation = named.unwrap_or(chain.opening);
        let node = self.node(conversation);
        // What begins alike is one family, whatever it is called.
        let opening = self.node(chain.opening);
        self.families.join(node, opening);
        let Fit { line, content, sketch, tokens, system, tools, refuses, demonstrated } = fit;
        let index = u32::try_from(self.entries.len()).map_err(std::io::Error::other)?;
        let tools = tools.into_iter().map(|tool| self.texts.number(tool)).collect();
        let entry = Entry {
            id: about.id.unwrap_or_default(),
            place: self.lines.add(&line)?,
            content,
            node,
            conversation,
            user: about.user.map(|user| self.texts.number(user)),
            whole: chain.whole,
            prompt: chain.prompt,
            rating: rating.and_then(narrow),
            tokens,
            team: self.texts.number(about.team.unwrap_or_default()),
            key: self.texts.number(about.key),
            model: self.texts.number(about.model.unwrap_or_default()),
            system,
            tools: self.tools.number(tools),
            refuses,
            demonstrated,
            dropped: None,
        };
        self.entries.push(entry);
        self.sketches.push((index, sketch));
        Ok(())
    }

    /// The node of what names a family.
    pub(super) fn node(&mut self, name: u64) -> u32 {
        let Self { nodes, families, names, .. } = self;
        *nodes.entry(name).or_insert_with(|| {
            names.push(name);
            families.add()
        })
    }

    /// Keeps a few rows of each reason for those who want to see them.
    pub(super) fn show(&mut self, id: Option<Uuid>, reason: Reason, excerpt: Option<String>) {
        if let Some(excerpt) = excerpt.filter(|_| self.wants(reason)) {
            self.samples.push(Sample { id, reason, excerpt });
        }
    }

    /// Whether too few rows of a reason are kept to be seen.
    pub(super) fn wants(&self, reason: Reason) -> bool {
        self.samples.iter().filter(|sample| sample.reason == reason).count() < SAMPLES
    }

    /// The words of a row.
    pub(super) fn line(&mut self, place: Place) -> std::io::Result<String> {
        self.lines.read(place)
    }
}

/// Numbers for values that come again and again.
#[derive(Debug)]
pub(super) struct Interned<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    pub(super) fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    pub(super) fn value(&self, number: u32) -> Option<&T> {
        self.values.get(usize::try_from(number).ok()?)
    }
}

/// A file of lines without a name.
struct Lines {
    file: BufWriter<File>,
    len: u64,
}

impl Lines {
    fn new() -> std::io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(BUFFER, tempfile::tempfile()?), len: 0 })
    }

    fn add(&mut self, line: &str) -> std::io::Result<Place> {
        self.file.write_all(line.as_bytes())?;
        let len = u32::try_from(line.len()).map_err(std::io::Error::other)?;
        let place = Place { offset: self.len, len };
        self.len += u64::from(len);
        Ok(place)
    }

    fn read(&mut self, place: Place) -> std::io::Result<String> {
        if !self.file.buffer().is_empty() {
            self.file.flush()?;
        }
        let len = usize::try_from(place.len).map_err(std::io::Error::other)?;
        let mut line = vec![0; len];
        self.file.get_ref().read_exact_at(&mut line, place.offset)?;
        String::from_utf8(line).map_err(std::io::Error::other)
    }
}

/// Half of the digits are enough for a comparison.
fn narrow(rating: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "precision is not needed")]
    let narrow = rating as f32;
    narrow.is_finite().then_some(narrow)
}

impl Entry {
    /// As rows show the conversation: 16 hex digits.
    pub(super) fn conversation_id(&self) -> String {
        hex(&self.conversation.to_be_bytes())
    }
}
