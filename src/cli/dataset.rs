//! `weir dataset`: builds, lists, exports and publishes training data, on the store directly.

use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use clap::Subcommand;
use clap::ValueEnum;
use futures_util::StreamExt as _;
use serde_json::Value;

use crate::app::AppError;
use crate::config::Environment;
use crate::store::DatasetQuery;
use crate::store::DatasetRow;
use crate::store::Datasets;
use crate::store::Objects;
use crate::training;
use crate::training::dataset;
use crate::training::dataset::BuildError;
use crate::training::publish::publish;
use crate::training::recipe::Recipe;

use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::policy::fail;
use super::policy::print;
use super::spend::text;
use super::validate;
use super::validate::Validate;

/// What is done with datasets.
#[derive(Debug, clap::Args)]
pub(super) struct Dataset {
    #[command(subcommand)]
    action: Action,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Builds a dataset by a recipe: a file of JSON, or - for standard input.
    Build {
        /// The recipe.
        recipe: PathBuf,
    },
    /// Shows what a recipe would make of the first rows, and what each stage would drop.
    Preview {
        /// The recipe.
        recipe: PathBuf,
        /// Rows that are read.
        #[arg(long, default_value_t = 10_000)]
        rows: u64,
    },
    /// Lists datasets, the newest first.
    List {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Writes the JSONL of a dataset to standard output, or to a file.
    Export {
        /// An id, a name (its last version), or a version such as support@3.
        dataset: String,
        /// Which side.
        #[arg(long, value_enum, default_value_t = Split::Train)]
        split: Split,
        /// The file.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Writes a manifest beside the files, or copies all of it to another object store.
    Publish {
        /// An id, a name (its last version), or a version such as support@3.
        dataset: String,
        /// Where to, as the setting `objects` has it; without it the gateway's own object store.
        #[arg(long, value_name = "OBJECTS")]
        to: Option<String>,
    },
    /// Holds a file of JSON lines against the rules of a method and a model; says what it costs.
    Validate(Validate),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Split {
    Train,
    Validation,
}

pub(super) fn run(arguments: &Dataset, json: bool) -> Result<(), AppError> {
    if let Action::Validate(asked) = &arguments.action {
        // Needs no store.
        return validate::run(asked, json);
    }
    let (_, database) = open_store(arguments.config.as_deref())?;
    wait_for(async {
        let datasets = Datasets::open(&database).await?;
        match &arguments.action {
            Action::Build { recipe } => build(&datasets, recipe, json).await,
            Action::Preview { recipe, rows } => preview(&datasets, recipe, *rows).await,
            Action::List { limit } => list(&datasets, *limit, json).await,
            Action::Export { dataset, split, output } => {
                export(&datasets, dataset, *split, output.as_deref()).await
            }
            Action::Publish { dataset, to } => {
                let to = to.as_deref().map(store_of).transpose()?;
                published(&datasets, dataset, to.as_ref()).await
            }
            // It has been done above.
            Action::Validate(_) => Ok(()),
        }
    })?
}

async fn build(datasets: &Datasets, recipe: &Path, json: bool) -> Result<(), AppError> {
    let recipe = read(recipe)?;
    let row = dataset::create(datasets, &recipe).await.map_err(|error| told(&error))?;
    let built = dataset::build(datasets, &row, &recipe, cores()).await;
    let row = built.map_err(|error| told(&error))?;
    if json {
        return print(&format!("{}\n", text(&row)?));
    }
    print(&format!("{}\n{}\n", line(&row), pretty(&row.stats)?))
}

async fn preview(datasets: &Datasets, recipe: &Path, rows: u64) -> Result<(), AppError> {
    let recipe = read(recipe)?;
    let seen = training::preview(datasets, &recipe, rows, cores()).await;
    print(&format!("{}\n", pretty(&seen.map_err(|error| told(&error))?)?))
}

async fn list(datasets: &Datasets, limit: u32, json: bool) -> Result<(), AppError> {
    let limit = limit.to_string();
    let query = DatasetQuery::parse([("limit", limit.as_str())]);
    let page = datasets.page(&query.map_err(|error| fail(error.to_string()))?).await?;
    if json {
        return print(&format!("{}\n", text(&page)?));
    }
    print(&page.data.iter().map(|row| line(row) + "\n").collect::<String>())
}

async fn export(
    datasets: &Datasets,
    named: &str,
    split: Split,
    output: Option<&Path>,
) -> Result<(), AppError> {
    let row = ready(datasets, named).await?;
    let file = match split {
        Split::Train => &row.train,
        Split::Validation => &row.validation,
    };
    let file = file.as_ref().ok_or_else(|| fail(format!("`{named}` has no files")))?;
    let objects = datasets.objects().ok_or_else(|| told(&BuildError::NoObjects))?;
    let other = |error: &dyn std::fmt::Display| fail(error.to_string());
    let Some(key) = &file.key else { return Ok(()) };
    let lines = objects.read(key).await.map_err(|error| other(&error))?;
    let mut lines = lines.ok_or_else(|| fail(format!("`{key}` is not in {objects}")))?;
    let mut out: Box<dyn std::io::Write> = match output {
        None => Box::new(std::io::stdout()),
        Some(path) => Box::new(std::fs::File::create(path).map_err(|error| other(&error))?),
    };
    while let Some(piece) = lines.next().await {
        let piece = piece.map_err(|error| other(&error))?;
        match out.write_all(&piece) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|error| fail(format!("cannot write: {error}")))?,
        }
    }
    out.flush().map_err(|error| fail(format!("cannot write: {error}")))
}

async fn published(datasets: &Datasets, named: &str, to: Option<&Objects>) -> Result<(), AppError> {
    let row = ready(datasets, named).await?;
    let done = publish(datasets, &row, to).await.map_err(|error| told(&error))?;
    print(&format!("{}\n", pretty(&done)?))
}

async fn ready(datasets: &Datasets, named: &str) -> Result<DatasetRow, AppError> {
    let row = datasets.find(named).await?;
    let row = row.ok_or_else(|| fail(format!("there is no dataset `{named}`")))?;
    if row.status == "ready" {
        return Ok(row);
    }
    let why = row.error.map_or_else(String::new, |error| format!(": {}", error.message));
    Err(fail(format!("the dataset `{named}` is {}{why}", row.status)))
}

fn read(path: &Path) -> Result<Recipe, AppError> {
    let mut text = Vec::new();
    let got = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text))
    };
    got.map_err(|error| fail(format!("cannot read {}: {error}", path.display())))?;
    Recipe::parse(&text).map_err(|error| fail(format!("{}: {error}", path.display())))
}

fn store_of(setting: &str) -> Result<Objects, AppError> {
    Objects::parse(setting, &Environment::of_process().object_credentials())
        .map_err(|message| fail(format!("--to: {message}")))
}

fn told(error: &BuildError) -> AppError {
    fail(error.to_string())
}

/// One dataset in one line.
fn line(row: &DatasetRow) -> String {
    let rows = |file: &Option<crate::store::SplitFile>| file.as_ref().map_or(0, |file| file.rows);
    let DatasetRow { id, name, version, status, created_at, .. } = row;
    let (train, validation) = (rows(&row.train), rows(&row.validation));
    format!(
        "{created_at}  {id}  {name}@{version}  {status}  train {train}  validation {validation}"
    )
}

fn pretty(value: &Value) -> Result<String, AppError> {
    serde_json::to_string_pretty(value).map_err(|error| fail(error.to_string()))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
