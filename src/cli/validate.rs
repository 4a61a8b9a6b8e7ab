//! `weir dataset validate`: whether a trainer would take a file, and what training on it would cost.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;

use crate::app::AppError;
use crate::training::jsonl::Checker;
use crate::training::jsonl::Report;
use crate::training::provider::Profile;

use super::policy::fail;
use super::policy::print;
use super::spend::text;

/// Which file is held against which rules.
#[derive(Debug, clap::Args)]
pub(super) struct Validate {
    /// A file of JSON lines, or - for standard input.
    file: PathBuf,
    /// How it is to be trained on.
    #[arg(long, default_value = "supervised", value_parser = ["supervised", "dpo", "reinforcement"])]
    method: String,
    /// The model to be trained.
    #[arg(long, default_value = "gpt-4.1-mini")]
    model: String,
    /// Whose limits and prices: openai, azure, together, fireworks or self-hosted.
    #[arg(long, default_value = "openai")]
    trainer: String,
}

pub(super) fn run(asked: &Validate, json: bool) -> Result<(), AppError> {
    let profile = Profile::named(&asked.trainer).ok_or_else(|| {
        let names = Profile::names().collect::<Vec<_>>().join(", ");
        fail(format!("there is no trainer `{}`; there are {names}", asked.trainer))
    })?;
    let mut checker = Checker::new(profile, &asked.model, &asked.method).map_err(fail)?;
    let unread = |error: std::io::Error| fail(format!("{}: {error}", asked.file.display()));
    if asked.file == Path::new("-") {
        read(std::io::stdin().lock(), &mut checker).map_err(unread)?;
    } else {
        read(BufReader::new(File::open(&asked.file).map_err(unread)?), &mut checker)
            .map_err(unread)?;
    }
    let report = checker.finish();
    print(&if json { text(&report)? + "\n" } else { shown(&report) })?;
    if report.valid {
        return Ok(());
    }
    Err(fail(format!("{}: {} faults", asked.file.display(), report.fault_count)))
}

fn read(mut from: impl BufRead, checker: &mut Checker<'_>) -> std::io::Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        checker.line(line.trim_ascii_end());
        line.clear();
    }
    Ok(())
}

fn shown(report: &Report) -> String {
    let mut shown = String::new();
    for fault in &report.faults {
        let place = fault.line.map_or_else(String::new, |line| format!("line {line}: "));
        shown += &format!("{place}{}\n", fault.message);
    }
    let Report { rows, tokens, longest, epochs, billable_tokens, .. } = report;
    let cost = match (report.cost_usd, &report.price) {
        (Some(cost), Some(price)) => format!("${cost} ({price})"),
        _ => "unknown: no price for this model".to_owned(),
    };
    shown += &format!(
        "{rows} examples, {tokens} tokens (the longest {longest})\n\
         {epochs} epochs, {billable_tokens} billable tokens\ncost: {cost}\n"
    );
    shown
}
