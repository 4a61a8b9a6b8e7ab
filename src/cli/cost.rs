//! `weir cost`: what a reported usage costs.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::AppError;
use crate::metering::cost::Bill;
use crate::metering::cost::UsageSource;
use crate::metering::cost::price;
use crate::openai::usage::Usage;
use crate::policy::Policy;

use super::policy::fail;
use super::policy::of_folder;
use super::policy::print;
use super::policy::print_json;
use super::policy::read;

/// What is priced.
#[derive(Debug, clap::Args)]
pub(super) struct Cost {
    /// The model, or the policy's name for it.
    #[arg(long, value_name = "M", required_unless_present = "jsonl")]
    model: Option<String>,
    /// The JSON of one `usage` object; - is standard input.
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    usage: PathBuf,
    /// The `service_tier` of the answer, or batch; standard without it.
    #[arg(long, value_name = "T")]
    tier: Option<String>,
    /// Reads JSON lines of {"model", "tier", "usage"} instead, and writes one line for each.
    #[arg(long, conflicts_with_all = ["model", "tier"])]
    jsonl: bool,
    /// The policy folder; without it `policies` of ./weir.yaml, else ./policies.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
}

/// One line of many.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    model: String,
    tier: Option<String>,
    #[serde(borrow)]
    usage: &'a RawValue,
}

/// Runs the command. What has no price is no error.
///
/// # Errors
/// The policy folder or the usage cannot be used.
pub(super) fn run(arguments: &Cost, json: bool) -> Result<(), AppError> {
    let policy = of_folder(arguments.policies.as_deref(), json)?;
    let from = match arguments.usage.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => arguments.usage.display().to_string(),
    };
    let bytes = read(&arguments.usage)?;
    if arguments.jsonl {
        return print(&lines(&policy, &bytes).map_err(|error| fail(format!("{from}, {error}")))?);
    }
    let model = arguments.model.as_deref().unwrap_or_default();
    let tier = arguments.tier.as_deref();
    let bill = bill(&policy, model, tier, &bytes);
    let bill = bill.map_err(|error| fail(format!("{from}: {error}")))?;
    match json {
        true => print_json(&machine(model, tier, &bill)),
        false => print(&human(model, &bill)),
    }
}

fn bill(policy: &Policy, model: &str, tier: Option<&str>, usage: &[u8]) -> Result<Bill, String> {
    if let Err(error) = serde_json::from_slice::<&RawValue>(usage) {
        return Err(format!("this is no JSON: {error}"));
    }
    let usage = Usage::from_json(usage).ok_or(
        "this is no `usage` object: it names neither input nor output tokens (prompt_tokens, \
         completion_tokens, input_tokens, output_tokens), or a count is no whole number from 0 to \
         2^40",
    )?;
    let target = policy.target(model);
    Ok(price(policy.model_of(&target), &usage, UsageSource::Reported, tier))
}

fn lines(policy: &Policy, bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("no UTF-8: {error}"))?;
    let mut out = String::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |error: String| format!("line {}: {error}", at + 1);
        let line: Line<'_> =
            serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let tier = line.tier.as_deref();
        let bill = bill(policy, &line.model, tier, line.usage.get().as_bytes()).map_err(wrong)?;
        let _ = writeln!(out, "{}", machine(&line.model, tier, &bill));
    }
    Ok(out)
}

fn machine(model: &str, tier: Option<&str>, bill: &Bill) -> Value {
    let parts = bill.parts.iter().map(|part| {
        json!({
            "kind": part.kind.as_str(),
            "tokens": part.tokens,
            "usd_per_million_tokens": part.price.map(|price| price.times(1_000_000)),
            "cost_usd": part.cost(),
        })
    });
    let fees = bill.fees.iter().map(|fee| {
        json!({ "unit": fee.unit.as_str(), "thousandths": fee.thousandths, "cost_usd": fee.cost })
    });
    json!({
        "model": model,
        "tier": tier,
        "cost_usd": bill.cost,
        "status": bill.status.as_str(),
        "parts": parts.collect::<Vec<_>>(),
        "fees": fees.collect::<Vec<_>>(),
    })
}

fn human(model: &str, bill: &Bill) -> String {
    let mut out = format!("{model}\n");
    for part in &bill.parts {
        let (kind, tokens) = (part.kind.as_str(), part.tokens);
        let _ = match (part.price, part.cost()) {
            (Some(price), Some(cost)) => {
                let price = price.times(1_000_000);
                writeln!(out, "  {kind:<20} {tokens:>11} x {price:>9} / 10^6 = {cost} USD")
            }
            _ => writeln!(out, "  {kind:<20} {tokens:>11} without a price"),
        };
    }
    for fee in &bill.fees {
        let (unit, count) = (fee.unit.as_str(), fee.thousandths as f64 / 1e3);
        let _ = match fee.cost {
            Some(cost) => writeln!(out, "  {unit:<20} {count:>11} = {cost} USD"),
            None => writeln!(out, "  {unit:<20} {count:>11} without a price"),
        };
    }
    let cost = bill.cost.map_or_else(|| "null".to_owned(), |cost| format!("{cost} USD"));
    let _ = writeln!(out, "total {cost}, {}", bill.status.as_str());
    out
}
