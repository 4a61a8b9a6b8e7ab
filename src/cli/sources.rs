//! `weir sources` and `weir search`: sources of documents, in the store, which a running gateway
//! refreshes; and their search, which needs no running gateway.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::app::AppError;
use crate::app::search_once;
use crate::embeddings::page::read_file;
use crate::embeddings::source;
use crate::store::Documents;
use crate::store::Source;
use crate::store::SourceFile;
use crate::store::SourceRun;
use crate::store::Sources as Rows;

use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::policy::fail;
use super::policy::print;
use super::spend::text;

/// Sources that are listed and searched at most.
const MOST_SOURCES: u32 = 10_000;
/// How often a run is looked at while somebody waits.
const LOOK: Duration = Duration::from_millis(500);
/// How long the store may be away meanwhile.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is done with sources.
#[derive(Debug, clap::Args)]
pub(super) struct Sources {
    #[command(subcommand)]
    action: Action,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Adds a source; files may be given at once.
    Add(Box<Add>),
    /// Lists sources with their last runs.
    List,
    /// Puts a run in line; a running gateway takes it within 2 s.
    Refresh {
        /// Its name or id.
        source: String,
        /// Embeds everything again.
        #[arg(long)]
        full: bool,
        /// Waits for its end and shows how far it is.
        #[arg(long)]
        wait: bool,
    },
    /// Lists the last runs of a source.
    Runs {
        /// Its name or id.
        source: String,
    },
    /// Deletes a source with its documents.
    Delete {
        /// Its name or id.
        source: String,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Its name.
    name: String,
    /// crawl, map, scrape or files.
    #[arg(long, default_value = "crawl")]
    kind: String,
    /// Where to begin.
    #[arg(long)]
    url: Option<String>,
    /// Patterns of paths; only these.
    #[arg(long, value_delimiter = ',')]
    include: Vec<String>,
    /// Patterns of paths; not these.
    #[arg(long, value_delimiter = ',')]
    exclude: Vec<String>,
    /// Most pages.
    #[arg(long)]
    limit: Option<u64>,
    /// Cron, such as "0 3 * * *".
    #[arg(long)]
    schedule: Option<String>,
    /// The embedding model.
    #[arg(long)]
    model: Option<String>,
    /// Numbers of a vector.
    #[arg(long)]
    dimensions: Option<u32>,
    /// Markdown, HTML or text, for a source of the kind files.
    files: Vec<PathBuf>,
}

/// What is searched for.
#[derive(Debug, clap::Args)]
pub(super) struct Search {
    /// A question.
    query: String,
    /// The source's name or id; all of them when left out.
    #[arg(long)]
    source: Option<String>,
    /// How many passages.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=100))]
    top_k: u8,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Sources, json: bool) -> Result<(), AppError> {
    let (config, database) = open_store(arguments.config.as_deref())?;
    wait_for(async {
        database.migrate().await?;
        let sources = Rows::of(&database)?;
        match &arguments.action {
            Action::Add(asked) => {
                let body = definition(asked);
                let made = source::define(&body, &config.outbound.allow, now()).await;
                let made = made.map_err(|error| fail(error.message.to_string()))?;
                add(&sources, &made, &asked.files, json).await
            }
            Action::List => list(&sources, json).await,
            Action::Refresh { source, full, wait } => {
                let row = found(&sources, source).await?;
                let asked = SourceRun::queued(row.id, "manual", *full, now());
                let run = sources.enqueue(asked).await?;
                if *wait { follow(&sources, run, json).await } else { tell(&run, json) }
            }
            Action::Runs { source } => {
                let row = found(&sources, source).await?;
                let runs = sources.runs(row.id, (None, false), 20).await?;
                runs.iter().try_for_each(|run| tell(run, json))
            }
            Action::Delete { source } => {
                let row = found(&sources, source).await?;
                sources.delete(row.id).await?;
                let documents = Documents::of(&database)?;
                let gone = documents.delete_source(&row.id.to_string()).await?;
                if json {
                    let told = json!({ "object": "embedding.source.deleted", "id": row.id,
                        "deleted": true, "documents": gone });
                    return print(&format!("{}\n", text(&told)?));
                }
                print(&format!("{} is gone, and {gone} documents with it\n", row.name))
            }
        }
    })?
}

/// Searches as a gateway does, by vectors and by words.
pub(super) fn search(arguments: &Search, json: bool) -> Result<(), AppError> {
    let Search { query, source, top_k, config } = arguments;
    let answer = search_once(config.as_deref(), (query, source.as_deref(), *top_k))?;
    if json {
        return print(&format!("{}\n", text(&answer)?));
    }
    if answer.get("degraded").is_some() {
        eprintln!("weir: no vector could be made of the question: only its words were compared");
    }
    let data = answer["data"].as_array();
    let shown = data.into_iter().flatten().map(|hit| {
        let of = |name: &str| hit[name].as_str().unwrap_or_default();
        let start: String = of("text").split_whitespace().collect::<Vec<_>>().join(" ");
        let start: String = start.chars().take(200).collect();
        let score = hit["score"].as_f64().unwrap_or_default();
        format!("{score:.4}  {}  {}\n  {start}\n", of("url"), of("heading"))
    });
    print(&shown.collect::<String>())
}

fn definition(asked: &Add) -> Value {
    let mut body = json!({ "name": asked.name, "kind": asked.kind, "include": asked.include,
        "exclude": asked.exclude });
    let optional = [
        ("url", asked.url.clone().map(Value::from)),
        ("limit", asked.limit.map(Value::from)),
        ("schedule", asked.schedule.clone().map(Value::from)),
        ("model", asked.model.clone().map(Value::from)),
        ("dimensions", asked.dimensions.map(Value::from)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    body
}

async fn add(sources: &Rows, made: &Source, paths: &[PathBuf], json: bool) -> Result<(), AppError> {
    let files: Vec<SourceFile> = paths.iter().map(read).collect::<Result<_, _>>()?;
    if !files.is_empty() && made.kind != "files" {
        return Err(fail("files are for a source of the kind files: --kind files".to_owned()));
    }
    if !sources.insert(made).await? {
        return Err(fail(format!("there is a source `{}` already", made.name)));
    }
    if !files.is_empty() {
        sources.put_files(made.id, &files, true, now()).await?;
    }
    let mut last = None;
    if made.kind != "files" || !files.is_empty() {
        last = Some(sources.enqueue(SourceRun::queued(made.id, "manual", false, now())).await?);
    }
    if json {
        let shown = source::show(made, last.as_ref());
        return print(&format!("{}\n", text(&shown)?));
    }
    print(&format!("{} is added\n", made.name))
}

fn read(path: &PathBuf) -> Result<SourceFile, AppError> {
    let bytes = std::fs::read(path)
        .map_err(|error| fail(format!("cannot read {}: {error}", path.display())))?;
    let name = path.display().to_string();
    let (title, text) = read_file(&name, &bytes).map_err(fail)?;
    Ok(SourceFile { name, title, text })
}

async fn list(sources: &Rows, json: bool) -> Result<(), AppError> {
    let mut data = Vec::new();
    for row in sources.list("", MOST_SOURCES).await? {
        let last = sources.runs(row.id, (None, false), 1).await?;
        data.push(source::show(&row, last.first()));
    }
    if json {
        let list = json!({ "object": "list", "data": data });
        return print(&format!("{}\n", text(&list)?));
    }
    let line = |one: &Value| {
        let of = |name: &str| one.pointer(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        format!("{}  {}  {}  {}\n", of("/name"), of("/kind"), of("/url"), of("/last_run/state"))
    };
    print(&data.iter().map(line).collect::<String>())
}

/// Shows how far a run is until its end.
async fn follow(sources: &Rows, mut run: SourceRun, json: bool) -> Result<(), AppError> {
    let mut before = String::new();
    while !run.has_ended() {
        let now = line(&run);
        if now != before && !json {
            print(&now)?;
        }
        before = now;
        tokio::time::sleep(LOOK).await;
        run = look_again(sources, run).await?;
    }
    tell(&run, json)?;
    if run.state == "failed" {
        return Err(fail(run.error.unwrap_or_else(|| "the run failed".to_owned())));
    }
    Ok(())
}

/// The run as it is now. A store that is busy or restarted for a while is waited for: the run goes on
/// without who watches it.
async fn look_again(sources: &Rows, run: SourceRun) -> Result<SourceRun, AppError> {
    let asked = Instant::now();
    loop {
        match sources.run(run.id).await {
            Ok(now) => return Ok(now.unwrap_or(run)),
            Err(error) if asked.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn tell(run: &SourceRun, json: bool) -> Result<(), AppError> {
    if json { print(&format!("{}\n", text(&source::show_run(run))?)) } else { print(&line(run)) }
}

fn line(run: &SourceRun) -> String {
    let shown = source::show_run(run);
    let count = |name: &str| shown["counts"][name].as_u64().unwrap_or(0);
    let error = run.error.as_ref().map_or_else(String::new, |error| format!("  {error}"));
    if !run.has_ended() && count("pages_seen") == 0 {
        let (fetched, total) = (count("pages_fetched"), count("pages_total"));
        return format!("{}  {}  {fetched} of {total} pages fetched\n", run.id, run.state);
    }
    format!(
        "{}  {}  {} pages: {} new, {} changed, {} unchanged, {} removed; {} chunks embedded{error}\n",
        run.id,
        run.state,
        count("pages_seen"),
        count("pages_new"),
        count("pages_changed"),
        count("pages_unchanged"),
        count("pages_removed"),
        count("chunks_embedded"),
    )
}

async fn found(sources: &Rows, named: &str) -> Result<Source, AppError> {
    let row = sources.find(named).await?;
    row.ok_or_else(|| fail(format!("there is no source `{named}`")))
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
