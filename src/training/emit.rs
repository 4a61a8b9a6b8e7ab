//! Stage 12: writes the lines, each of them read again, and says what the files hold.

use std::fs::File;
use std::io::BufWriter;
use std::io::Write as _;

use serde_json::Value;

use crate::store::DatasetItem;
use crate::store::SplitFile;

use super::digest::Growing;
use super::digest::hex;
use super::digest::sha256;
use super::example::pair;
use super::example::role;
use super::pool::Pool;
use super::select::Chosen;

/// One side of the split, on this machine's disk.
pub(super) struct Side {
    pub(super) file: File,
    pub(super) about: SplitFile,
}

/// Both sides, and what each line is made of.
pub(super) struct Emitted {
    pub(super) train: Side,
    pub(super) validation: Side,
    pub(super) items: Vec<DatasetItem>,
}

/// Writes what was chosen.
pub(super) fn emit(pool: &mut Pool, chosen: &[Chosen]) -> std::io::Result<Emitted> {
    let mut sides = [Writer::new()?, Writer::new()?];
    let mut items = Vec::with_capacity(chosen.len());
    for one in chosen {
        let Some(entry) = pool.entries.get(one.entry).cloned() else { continue };
        let mut line = pool.line(entry.place)?;
        let (mut content, mut tokens) = (entry.content, entry.tokens);
        if let Some(worse) = one.rejected.and_then(|at| pool.entries.get(at)) {
            let (place, more) = (worse.place, worse.tokens);
            line = paired(&line, &pool.line(place)?)?;
            content = sha256(line.as_bytes()).half();
            tokens += more;
        }
        if !reads(&line) {
            pool.tally.drop("emit.unreadable");
            continue;
        }
        let [train, validation] = &mut sides;
        let side = if one.validation { validation } else { train };
        side.write(&line, tokens)?;
        items.push(DatasetItem {
            interaction_id: Some(entry.id).filter(|id| !id.is_nil()),
            conversation_id: entry.conversation_id(),
            split: if one.validation { "valid" } else { "train" },
            origin: match (entry.id.is_nil(), entry.demonstrated) {
                (true, _) => "import",
                (false, true) => "relabelled_human",
                (false, false) => "captured",
            },
            content_hash: hex(&content),
            tokens,
            ordinal: u64::try_from(items.len()).unwrap_or(u64::MAX),
        });
    }
    let [train, validation] = sides;
    Ok(Emitted { train: train.finish()?, validation: validation.finish()?, items })
}

/// Two answers to one question as one line of preferences.
fn paired(better: &str, worse: &str) -> std::io::Result<String> {
    let (mut better, mut worse): (Value, Value) =
        (serde_json::from_str(better)?, serde_json::from_str(worse)?);
    let answer = |line: &mut Value| {
        let messages = line.get_mut("messages").and_then(Value::as_array_mut);
        messages.and_then(Vec::pop).unwrap_or_default()
    };
    let (chosen, rejected) = (answer(&mut better), answer(&mut worse));
    Ok(pair(better, chosen, rejected).to_string())
}

/// Whether a written line is what a trainer reads: messages that end with an answer, or a question
/// with two answers.
fn reads(line: &str) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
    let messages = |at: &str| line.pointer(at).and_then(Value::as_array);
    let is_answer = |message: &Value| {
        role(message) == "assistant"
            && (message.get("content").is_some() || message.get("tool_calls").is_some())
    };
    match messages("/messages") {
        Some(messages) => messages.last().is_some_and(is_answer),
        None => {
            messages("/input/messages").is_some_and(|question| !question.is_empty())
                && ["/preferred_output", "/non_preferred_output"].iter().all(|side| {
                    messages(side).is_some_and(|side| matches!(&side[..], [one] if is_answer(one)))
                })
        }
    }
}

struct Writer {
    file: BufWriter<File>,
    digest: Growing,
    about: SplitFile,
}

impl Writer {
    fn new() -> std::io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 20, tempfile::tempfile()?);
        Ok(Self { file, digest: Growing::new(), about: SplitFile::default() })
    }

    fn write(&mut self, line: &str, tokens: u64) -> std::io::Result<()> {
        for piece in [line.as_bytes(), b"\n"] {
            self.file.write_all(piece)?;
            self.digest.add(piece);
            self.about.bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
        self.about.rows += 1;
        self.about.tokens += tokens;
        Ok(())
    }

    /// The file's key says what is in it: the same lines are one object, however often they are built.
    fn finish(mut self) -> std::io::Result<Side> {
        let sha256 = self.digest.finish().hex();
        self.about.key = (self.about.rows > 0).then(|| format!("datasets/{sha256}.jsonl"));
        self.about.sha256 = sha256;
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(Side { file, about: self.about })
    }
}
