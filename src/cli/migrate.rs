//! `weir migrate`: brings the store's schema up to date.

use std::path::Path;
use std::path::PathBuf;

use crate::app::AppError;
use crate::config::Config;
use crate::config::Environment;
use crate::store::Database;

/// How the schema is brought up to date.
#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Migrate, json: bool) -> Result<(), AppError> {
    let (_, database) = store(arguments.config.as_deref())?;
    let applied = wait_for(database.migrate())??;
    if json {
        println!("{}", serde_json::json!({ "store": database.to_string(), "applied": applied }));
    } else if applied.is_empty() {
        println!("{database} is up to date");
    } else {
        println!("{database} is up to date; applied: {}", applied.join(", "));
    }
    Ok(())
}

/// The settings and the store that they name.
pub(super) fn store(config: Option<&Path>) -> Result<(Config, Database), AppError> {
    let environment = Environment::of_process();
    let config = Config::load(config, &environment)?;
    let off = || AppError::Other("`store` is off: there is no ledger".to_owned());
    let database = config.open_store(&environment)?.ok_or_else(off)?;
    Ok((config, database))
}

/// Runs what waits for the store.
pub(crate) fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| AppError::Other(format!("no runtime: {error}")))?;
    Ok(runtime.block_on(work))
}
