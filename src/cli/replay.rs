//! `weir policy replay`: what a policy would have done with the calls of the store.

use std::io::IsTerminal as _;
use std::io::Write as _;
use std::path::PathBuf;

use crate::admin;
use crate::app::AppError;
use crate::metering::money::Usd;
use crate::policy::Figures;
use crate::policy::ReplayReport;
use crate::store::Ledger;
use crate::store::SpendQuery;

use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::policy::fail;
use super::policy::of_folder;
use super::policy::print;
use super::spend::aligned;
use super::spend::now;
use super::spend::text;

/// Which calls, and which policy.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The policy folder; without it the one of the settings.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// RFC 3339, or a duration before now such as 24h; all there is when left out.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The same; not part of the period.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Exits with 1 when the calls would have cost more by that share.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_if_cost_rises: Option<f64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
    number
        .filter(|percent| percent.is_finite() && *percent >= 0.0)
        .ok_or_else(|| "write it as a share such as 5%".to_owned())
}

pub(super) fn run(arguments: &Replay, json: bool) -> Result<(), AppError> {
    let (config, database) = open_store(arguments.config.as_deref())?;
    let folder = arguments.policies.as_deref().unwrap_or(&config.policies);
    let policy = of_folder(Some(folder), json)?;
    let given = [("since", &arguments.since), ("until", &arguments.until)];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let query = SpendQuery::parse(given, now()).map_err(|error| fail(error.to_string()))?;
    let shows = std::io::stderr().is_terminal();
    let progress = |done: u64, all: u64| {
        if shows {
            let share = done * 100 / all.max(1);
            // Whoever does not see it needs no progress.
            let _ = write!(std::io::stderr(), "\r{done} of {all} calls ({share} %)");
        }
    };
    let work =
        async { admin::replay(&Ledger::of(&database)?, &policy, query.period(), progress).await };
    let report = wait_for(work)?;
    if shows {
        eprint!("\r\x1b[K");
    }
    let report = report?;
    print(&if json { format!("{}\n", text(&report)?) } else { table(&report) })?;
    match arguments.fail_if_cost_rises {
        Some(percent) => check(&report.total, percent),
        None => Ok(()),
    }
}

/// Refuses a policy that costs more than that.
fn check(total: &Figures, percent: f64) -> Result<(), AppError> {
    let Some(rise) = rise(total) else { return Ok(()) };
    if rise <= percent {
        return Ok(());
    }
    let (before, after) = (total.recorded_cost_usd, total.projected_cost_usd);
    Err(fail(format!(
        "the cost rises by {rise:.1} %, from {before} to {after} USD; {percent} % are allowed"
    )))
}

/// By how many percent the cost rises; `None` where there was none, and is none.
#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn rise(total: &Figures) -> Option<f64> {
    let (before, more) =
        (total.recorded_cost_usd.picodollars(), total.difference_usd.picodollars());
    match (before, more) {
        (_, 0) => None,
        (0, _) => Some(f64::INFINITY),
        (before, more) => Some(more as f64 * 100.0 / before as f64),
    }
}

fn table(report: &ReplayReport) -> String {
    let head = [
        "route",
        "model",
        "requests",
        "changed",
        "refused",
        "recorded",
        "projected",
        "difference",
        "band",
        "to",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in &report.lines {
        let to: Vec<_> =
            line.to.iter().map(|(place, count)| format!("{place} ({count})")).collect();
        let to = if line.figures.changed > 0 { to.join(", ") } else { String::new() };
        rows.push(row([&line.route, &line.model], &line.figures, &to));
    }
    rows.push(row(["total", ""], &report.total, ""));
    let mut text = aligned(&rows, 2);
    let ReplayReport { revision, own, reproduced, approximate, skipped, total, .. } = report;
    text.push_str(&format!(
        "policy {revision}: {own} of the calls are its own, of which it decides {reproduced} alike\n"
    ));
    if *approximate > 0 {
        text.push_str(&format!("{approximate} calls: less was recorded than rules may ask for\n"));
    }
    if *skipped > 0 {
        text.push_str(&format!("{skipped} calls cannot be decided again\n"));
    }
    if total.unpriced > 0 {
        text.push_str(&format!("{} calls have no price and are in no sum\n", total.unpriced));
    }
    if total.without_history > 0 {
        text.push_str(&format!(
            "{} calls move to a model with fewer than 20 answers of its own: no band for them\n",
            total.without_history
        ));
    }
    text
}

fn row(names: [&str; 2], figures: &Figures, to: &str) -> Vec<String> {
    // A client chose the names; a terminal must not take orders from them.
    let plain = |name: &str| match name {
        "" => "-".to_owned(),
        name => name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
    };
    let band = match (figures.projected_low_usd, figures.projected_high_usd) {
        (low, high) if low == high => "-".to_owned(),
        (low, high) => format!("{low} to {high}"),
    };
    let money = |amount: Usd| amount.to_string();
    [
        plain(names[0]),
        plain(names[1]),
        figures.requests.to_string(),
        figures.changed.to_string(),
        figures.refused.to_string(),
        money(figures.recorded_cost_usd),
        money(figures.projected_cost_usd),
        money(figures.difference_usd),
        band,
        plain(to),
    ]
    .to_vec()
}
