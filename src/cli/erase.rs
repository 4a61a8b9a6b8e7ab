//! `weir interactions erase`: makes the store forget what somebody said.

use std::path::PathBuf;

use crate::app::AppError;
use crate::config::Config;
use crate::config::Environment;
use crate::store;
use crate::store::Erasure;
use crate::store::Subject;

use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::spend::now;
use super::spend::text;

/// Whose words are erased.
#[derive(Debug, clap::Args)]
pub(super) struct Erase {
    #[command(flatten)]
    whose: Whose,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// An end user, as the platform names it.
    #[arg(long)]
    user: Option<String>,
    /// The name of a key.
    #[arg(long)]
    key: Option<String>,
    /// A session.
    #[arg(long)]
    session: Option<String>,
}

pub(super) fn run(arguments: &Erase, json: bool) -> Result<(), AppError> {
    let (config, database) = open_store(arguments.config.as_deref())?;
    let subject = subject(&arguments.whose, &config)?;
    let erasure = wait_for(store::erase(&database, &subject, now()))??;
    if json {
        println!("{}", text(&erasure)?);
    } else {
        println!("{}", told(&erasure));
    }
    Ok(())
}

fn subject(whose: &Whose, config: &Config) -> Result<Subject, AppError> {
    let Whose { user, key, session } = whose;
    let mut hash = String::new();
    if let Some(user) = user {
        let secret = Environment::of_process().user_secret();
        let hashed = store::hash_user(user, &config.spool.dir, secret.as_ref());
        let no_secret = |error| {
            AppError::Other(format!(
                "the secret of the users' hashes, user.key beside {}, cannot be read: {error}; run \
                 this where the gateway runs, or set WEIR_USER_SECRET",
                config.spool.dir.display()
            ))
        };
        hash = hashed.map_err(no_secret)?.to_string();
    }
    let given = [("user", user), ("key", key), ("session", session)];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    Subject::parse(given, |_| hash.clone()).map_err(|error| AppError::Other(error.to_string()))
}

fn told(erasure: &Erasure) -> String {
    let Erasure { erased, bodies, feedback, .. } = erasure;
    let datasets: Vec<_> = erasure.datasets().collect();
    let datasets = if datasets.is_empty() { "none".to_owned() } else { datasets.join(", ") };
    format!(
        "erased {erased} calls, {bodies} of them with bodies, and {feedback} verdicts; datasets \
         archived: {datasets}\nwhat comes later from a spool is erased, too; bills stay"
    )
}
