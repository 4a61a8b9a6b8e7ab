//! `weir spend`: the ledger on the command line.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Subcommand;

use crate::app::AppError;
use crate::config::Environment;
use crate::policy::Policy;
use crate::store;
use crate::store::Ledger;
use crate::store::Recosted;
use crate::store::SpendLine;
use crate::store::SpendPage;
use crate::store::SpendQuery;

use super::migrate::store as open_store;
use super::migrate::wait_for;

/// What of the ledger is shown.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Spend {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    period: PeriodArguments,
    /// What to group by, with commas: team, key, model, requested_model, response_model, upstream,
    /// route, endpoint, policy, price_status, user, session, hour, day, month, tag:<name>.
    #[arg(long, value_name = "LIST", default_value = "model")]
    group_by: String,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prices recorded calls again, at today's prices. What was recorded stays beside it.
    Recost(PeriodArguments),
}

#[derive(Debug, clap::Args)]
struct PeriodArguments {
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// RFC 3339, or a duration before now such as 24h; all there is when left out.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The same; not part of the period.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

pub(super) fn run(arguments: &Spend, json: bool) -> Result<(), AppError> {
    match &arguments.action {
        None => show(arguments, json),
        Some(Action::Recost(period)) => recost(period, json),
    }
}

fn show(arguments: &Spend, json: bool) -> Result<(), AppError> {
    let query = query(&arguments.period, Some(&arguments.group_by), now())?;
    let (_, database) = open_store(arguments.period.config.as_deref())?;
    let page = wait_for(async { Ledger::of(&database)?.spend(&query).await })??;
    if json {
        println!("{}", text(&page)?);
    } else {
        print!("{}", table(&arguments.group_by, &page));
    }
    Ok(())
}

fn recost(period: &PeriodArguments, json: bool) -> Result<(), AppError> {
    let query = query(period, None, now())?;
    let (config, database) = open_store(period.config.as_deref())?;
    let policy = Policy::load(&config.policies, &Environment::of_process().for_policies())?;
    let version = policy.revision();
    let work = store::recost(&database, query.period(), policy.catalogue(), version, now());
    let done = wait_for(work)??;
    if json {
        println!("{}", text(&done)?);
        return Ok(());
    }
    let Recosted { requests, changed, unpriced, cost_usd, cost_recosted_usd } = done;
    println!(
        "{requests} requests priced again by policy {version}: {changed} changed, {unpriced} \
         without a price\nrecorded {cost_usd} USD, at today's prices {cost_recosted_usd} USD"
    );
    Ok(())
}

fn query(
    period: &PeriodArguments,
    group_by: Option<&str>,
    now: i64,
) -> Result<SpendQuery, AppError> {
    let parameters = [
        ("since", period.since.as_deref()),
        ("until", period.until.as_deref()),
        ("group_by", group_by),
        ("limit", Some("10000")),
    ];
    let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    SpendQuery::parse(given, now).map_err(|error| AppError::Other(error.to_string()))
}

pub(super) fn text(value: &impl serde::Serialize) -> Result<String, AppError> {
    serde_json::to_string(value).map_err(|error| AppError::Other(error.to_string()))
}

pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The lines in columns as wide as what is in them.
fn table(group_by: &str, page: &SpendPage) -> String {
    let names = group_by.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<&str> = names.collect();
    let figures =
        ["requests", "cost_usd", "estimated", "unpriced", "input", "output", "unpriced tokens"];
    let head = names.iter().copied().chain(figures).map(str::to_owned).collect();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(page.data.iter().map(|line| row(&names, line))).collect();
    let mut text = aligned(&rows, names.len());
    if page.has_more {
        text.push_str("more lines are left out; group by less, or ask for a shorter period\n");
    }
    text
}

/// Rows in columns; the first `names` of them are texts, the others numbers.
pub(super) fn aligned(rows: &[Vec<String>], names: usize) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            if column < names { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(names: &[&str], line: &SpendLine) -> Vec<String> {
    let group = names.iter().map(|&name| {
        let value = line.group.get(name).and_then(Option::as_deref);
        // A client chose the name; a terminal must not take orders from it.
        value.unwrap_or("-").chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    });
    let cost = line.cost_usd.map_or_else(|| "unpriced".to_owned(), |cost| cost.to_string());
    let unpriced_tokens = line.unpriced_input_tokens + line.unpriced_output_tokens;
    let figures = [
        line.requests.to_string(),
        cost,
        line.estimated_requests.to_string(),
        line.unpriced_requests.to_string(),
        line.input_tokens.to_string(),
        line.output_tokens.to_string(),
        unpriced_tokens.to_string(),
    ];
    group.chain(figures).collect()
}
