//! `weir interactions`: what was captured, on the command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Map;
use serde_json::Value;

use crate::app::AppError;
use crate::store::Database;
use crate::store::InteractionQuery;
use crate::store::Interactions;
use crate::store::Ledger;

use super::erase;
use super::erase::Erase;
use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::policy::print;
use super::spend::now;
use super::spend::text;

/// How often new interactions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What of the captured calls is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Shown {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shows the last interactions, a line each, the newest at the end.
    Tail(Tail),
    /// Shows one interaction with its bodies and what people think of it.
    Show(Show),
    /// Erases what was said by a user, by a key or in a session until now; the bills stay.
    Erase(Erase),
}

#[derive(Debug, clap::Args)]
struct Tail {
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    lines: u32,
    /// Goes on with those that come.
    #[arg(short, long)]
    follow: bool,
    /// Only those for which this holds: a parameter of GET /api/interactions, such as model=gpt-5,
    /// status=429, tag=app:chat, since=1h or q=refund. May be given several times.
    #[arg(long = "where", value_name = "NAME=VALUE")]
    conditions: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// An x-weir-id, or the answer's own id such as chatcmpl-….
    id: String,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Shown, json: bool) -> Result<(), AppError> {
    match &arguments.action {
        Action::Tail(tail) => follow(tail, json),
        Action::Show(show) => one(show),
        Action::Erase(arguments) => erase::run(arguments, json),
    }
}

fn follow(tail: &Tail, json: bool) -> Result<(), AppError> {
    let (_, database) = open_store(tail.config.as_deref())?;
    wait_for(async {
        let store = reader(&database)?;
        let mut last = None;
        loop {
            let page = store.page(&query(tail, last.as_deref())?).await?;
            let mut lines = page.data;
            if last.is_none() {
                lines.reverse();
            }
            for interaction in &lines {
                let shown = if json { text(interaction)? } else { line(interaction) };
                let said = std::io::stdout().lock().write_all(format!("{shown}\n").as_bytes());
                if said.is_err() {
                    // The reader has left.
                    return Ok(());
                }
            }
            let newest = lines.last().and_then(|interaction| interaction.get("id")?.as_str());
            // With nothing to begin behind, everything that comes is new.
            last = newest.map(str::to_owned).or(last).or_else(|| Some(FIRST.to_owned()));
            if !tail.follow {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })?
}

/// Before every id.
const FIRST: &str = "00000000-0000-0000-0000-000000000000";

fn reader(database: &Database) -> Result<Interactions, AppError> {
    Ok(Interactions::of(&Ledger::of(database)?))
}

/// The last ones, or those after an id.
fn query(tail: &Tail, after: Option<&str>) -> Result<InteractionQuery, AppError> {
    let lines = tail.lines.to_string();
    let mut parameters = vec![("limit", lines.as_str())];
    if let Some(after) = after {
        parameters.extend([("order", "asc"), ("after", after)]);
    }
    for condition in &tail.conditions {
        let pair = condition.split_once('=').filter(|(name, _)| *name != "user");
        parameters.push(pair.ok_or_else(|| {
            AppError::Other(format!(
                "--where `{condition}`: write it as name=value, such as model=gpt-5; users are \
                 asked for by GET /api/interactions?user="
            ))
        })?);
    }
    InteractionQuery::parse(parameters, now(), str::to_owned)
        .map_err(|error| AppError::Other(format!("--where {error}")))
}

fn one(show: &Show) -> Result<(), AppError> {
    let (_, database) = open_store(show.config.as_deref())?;
    let found = wait_for(async { reader(&database)?.find(&show.id).await.map_err(AppError::from) });
    let Some(interaction) = found?? else {
        return Err(AppError::Other(format!(
            "there is no interaction `{}` in {database}",
            show.id
        )));
    };
    let pretty = serde_json::to_string_pretty(&interaction);
    print(&format!("{}\n", pretty.map_err(|error| AppError::Other(error.to_string()))?))
}

/// One interaction in one line.
fn line(interaction: &Map<String, Value>) -> String {
    let fields = [
        "created_at",
        "id",
        "status_code",
        "key_name",
        "route",
        "requested_model",
        "model",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "latency_ms",
        "capture",
        "error_code",
    ];
    let shown = |name: &str| match interaction.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        // A client chose the name; a terminal must not take orders from it.
        Some(Value::String(text)) => {
            text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
        }
        Some(value) => value.to_string(),
    };
    fields.map(shown).join("  ")
}
