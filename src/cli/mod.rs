//! The command line.

mod cost;
mod dataset;
mod erase;
mod finetune;
mod interactions;
mod key;
mod migrate;
mod models;
mod policy;
mod replay;
mod sources;
mod spend;
mod tokens;
mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::app;

pub(crate) use migrate::wait_for;

/// An OpenAI-compatible LLM gateway: point OPENAI_BASE_URL at it.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Prints for machines: log lines and errors as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway: the data plane on 127.0.0.1:8080, the control plane on 127.0.0.1:8081.
    Serve(Serve),
    /// Runs the stand-in for OpenAI alone.
    Simulate(Simulate),
    /// Looks at the policy folder: checks it, runs its tests, explains its decisions.
    Policy(policy::Policy),
    /// Makes, lists, renews and revokes virtual keys.
    Key(key::Keys),
    /// Shows what calls cost, from the store.
    Spend(spend::Spend),
    /// Shows what was captured of calls, from the store.
    Interactions(interactions::Shown),
    /// Makes training data of what was captured.
    Dataset(dataset::Dataset),
    /// Makes fine-tune jobs, which a running gateway moves on, and shows how they are.
    Finetune(finetune::Finetune),
    /// Sources of documents: where pages come from, and when.
    Sources(sources::Sources),
    /// Searches the documents of a source, by vectors and by words.
    Search(sources::Search),
    /// Brings the store's schema up to date; `serve` does it too.
    Migrate(migrate::Migrate),
    /// Counts a request's or a text's tokens, and what it costs to send them.
    Tokens(tokens::Tokens),
    /// Shows what is known of the models: prices, limits, last days, and where that is from.
    Models(models::Models),
    /// Prices a `usage` object.
    Cost(cost::Cost),
}

/// How the gateway is started.
#[derive(Debug, Default, clap::Args)]
pub struct Serve {
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Uses a built-in stand-in for OpenAI as every upstream: needs no key and no network.
    #[arg(long)]
    pub simulate: bool,
    /// What the stand-in does, such as "latency_ms=50 chunk_delay_ms=20".
    #[arg(long, value_name = "KNOBS", requires = "simulate", default_value = "")]
    pub knobs: String,
    /// Takes the listening sockets over from a running gateway, which then drains (send it SIGQUIT).
    #[arg(long)]
    pub upgrade: bool,
}

/// How the stand-in is started.
#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// Where it listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// What it does, such as "latency_ms=50 chunk_delay_ms=20".
    #[arg(long, value_name = "KNOBS", default_value = "")]
    pub knobs: String,
}

/// Runs the command that the arguments name. Exits with 0, 1 (refused, failed) or 2 (usage).
pub fn run() -> ExitCode {
    let Arguments { command, json } = Arguments::parse();
    let done = match command {
        Command::Serve(arguments) => app::serve(&arguments, json),
        Command::Simulate(arguments) => app::simulate(&arguments),
        Command::Policy(arguments) => policy::run(arguments, json),
        Command::Key(arguments) => key::run(&arguments, json),
        Command::Spend(arguments) => spend::run(&arguments, json),
        Command::Interactions(arguments) => interactions::run(&arguments, json),
        Command::Dataset(arguments) => dataset::run(&arguments, json),
        Command::Finetune(arguments) => finetune::run(&arguments, json),
        Command::Sources(arguments) => sources::run(&arguments, json),
        Command::Search(arguments) => sources::search(&arguments, json),
        Command::Migrate(arguments) => migrate::run(&arguments, json),
        Command::Tokens(arguments) => tokens::run(&arguments, json),
        Command::Models(arguments) => models::run(&arguments, json),
        Command::Cost(arguments) => cost::run(&arguments, json),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    if json {
        eprintln!("{}", serde_json::json!({ "error": { "message": error.to_string() } }));
    } else {
        eprintln!("weir: {error}");
    }
    ExitCode::FAILURE
}
