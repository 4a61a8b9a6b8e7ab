//! `weir key`: virtual keys, in the store. Running gateways follow within 2 s.

use std::path::PathBuf;

use clap::Subcommand;

use crate::app::AppError;
use crate::store;
use crate::store::IssuedKey;
use crate::store::Key;
use crate::store::KeyError;
use crate::store::NewKey;

use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::spend::aligned;
use super::spend::now;
use super::spend::text;

/// What is done about keys.
#[derive(Debug, clap::Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    action: Action,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Makes a key and prints its secret, which nobody can see again.
    Create(Create),
    /// Lists keys, the newest first.
    List {
        /// Those that are revoked, too.
        #[arg(long)]
        all: bool,
    },
    /// Revokes a key, by its id or its name.
    Revoke {
        /// The key.
        #[arg(value_name = "ID|NAME")]
        key: String,
    },
    /// Renews a key's secret and prints the new one.
    Rotate {
        /// The key, by its id or its name.
        #[arg(value_name = "ID|NAME")]
        key: String,
        /// For how long the old secret stays valid; 0 for not at all.
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        grace: String,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What metrics, the ledger and rules call it.
    #[arg(long)]
    name: String,
    /// Whose it is.
    #[arg(long)]
    team: Option<String>,
    /// Tags, with commas.
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
    /// Patterns of the models that it may use, with commas, such as 'gpt-*'; all when left out.
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// What may become of what is said with it: none (only the bill is kept), log, or train.
    #[arg(long, default_value = "train")]
    consent: String,
    /// How much its requests matter where they do not say so: low, normal or high.
    #[arg(long, default_value = "normal")]
    importance: String,
    /// When it ends: a duration such as 90d, or a time of RFC 3339; never when left out.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

pub(super) fn run(arguments: &Keys, json: bool) -> Result<(), AppError> {
    let (_, database) = open_store(arguments.config.as_deref())?;
    match &arguments.action {
        Action::Create(create) => {
            let new = new_key(create)?;
            let made = wait_for(store::create_key(&database, &new, now()))?;
            issued(&made.map_err(told)?, json)
        }
        Action::List { all } => {
            let keys = wait_for(store::list_keys(&database, *all, now()))??;
            list(&keys, json)
        }
        Action::Revoke { key } => {
            let revoked = wait_for(store::revoke_key(&database, key, now()))?.map_err(told)?;
            if json {
                println!("{}", text(&revoked)?);
            } else {
                let ids =
                    revoked.iter().map(|key| format!("revoked {} {}", key.grant.name, key.id));
                println!("{}", ids.collect::<Vec<_>>().join("\n"));
            }
            Ok(())
        }
        Action::Rotate { key, grace } => {
            let grace = store::grace(grace).map_err(|error| AppError::Other(error.to_string()))?;
            let made = wait_for(store::rotate_key(&database, key, grace, now()))?;
            issued(&made.map_err(told)?, json)
        }
    }
}

/// The same as the body of `POST /api/keys`, so that both are read and refused alike.
fn new_key(create: &Create) -> Result<NewKey, AppError> {
    let Create { name, team, tags, models, consent, importance, expires } = create;
    let body = serde_json::json!({
        "name": name, "team": team, "tags": tags, "models": models,
        "consent": consent, "importance": importance, "expires": expires,
    });
    serde_json::from_value(body).map_err(|error| AppError::Other(error.to_string()))
}

fn told(error: KeyError) -> AppError {
    AppError::Other(error.to_string())
}

/// The secret alone goes to standard output: `KEY=$(weir key create --name app)`.
fn issued(made: &IssuedKey, json: bool) -> Result<(), AppError> {
    if json {
        println!("{}", text(made)?);
        return Ok(());
    }
    let Key { id, grant, expires_at, .. } = &made.about;
    let end = expires_at.as_deref().map_or_else(|| "never".to_owned(), |end| format!("at {end}"));
    eprintln!("key {} ({id}), ends {end}; the secret is shown this once:", grant.name);
    println!("{}", made.key);
    Ok(())
}

fn list(keys: &[Key], json: bool) -> Result<(), AppError> {
    if json {
        println!("{}", serde_json::json!({ "object": "list", "data": keys }));
        return Ok(());
    }
    let head = ["name", "status", "team", "tags", "models", "consent", "importance", "secret"];
    let head = head.into_iter().chain(["ends", "last used", "id"]).map(str::to_owned);
    let rows: Vec<Vec<String>> =
        std::iter::once(head.collect()).chain(keys.iter().map(row)).collect();
    print!("{}", aligned(&rows, usize::MAX));
    Ok(())
}

fn row(key: &Key) -> Vec<String> {
    let or = |text: String, none: &str| if text.is_empty() { none.to_owned() } else { text };
    let grant = &key.grant;
    let ends = key.revoked_at.as_ref().or(key.grace_until.as_ref()).or(key.expires_at.as_ref());
    vec![
        grant.name.clone(),
        key.status.to_owned(),
        or(grant.team.clone(), "-"),
        or(grant.tags.join(","), "-"),
        or(grant.models.join(","), "*"),
        grant.consent.as_str().to_owned(),
        grant.importance.as_str().to_owned(),
        key.hint.clone(),
        ends.cloned().unwrap_or_else(|| "never".to_owned()),
        key.last_used_at.clone().unwrap_or_else(|| "never".to_owned()),
        key.id.to_string(),
    ]
}
