//! Builds datasets: rows, through the stages, to JSONL in the object store and a frozen row.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::background::note;
use crate::store::DatasetRow;
use crate::store::Datasets;
use crate::store::NewDataset;
use crate::store::ObjectError;
use crate::store::StoreError;

use super::emit::Emitted;
use super::emit::Side;
use super::emit::emit;
use super::examine::Examiner;
use super::gather;
use super::gather::Reading;
use super::manifest;
use super::pool::Pool;
use super::recipe::BadRecipe;
use super::recipe::Recipe;
use super::select::select;

/// Rows that a dataset needs: OpenAI takes no fewer (its fine-tuning guide, 2026).
pub const LEAST_ROWS: u64 = 10;
/// How often a build gives a sign of life.
const BEAT: Duration = Duration::from_secs(5);
/// A build that is silent for so long has died.
const SILENCE_MS: i64 = 60_000;
/// How often those are looked for.
const LOOK: Duration = Duration::from_secs(15);
/// A build whose process died so often is given up.
const MOST_ATTEMPTS: u64 = 3;
/// Items that are written between two signs of life.
const ITEMS: usize = 20_000;

/// Why a dataset was not built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The recipe asks for what is not there.
    #[error(transparent)]
    Recipe(#[from] BadRecipe),
    /// Too little is left behind the stages.
    #[error("{rows} rows are left after cleaning, and {LEAST_ROWS} are needed; {reasons}")]
    TooFewRows {
        /// How many are left.
        rows: u64,
        /// What became of the others, the most frequent first.
        reasons: String,
        /// The manifest of what would have been.
        stats: Box<Value>,
    },
    /// Words in it were erased while it was built, or it was deleted.
    #[error("it was archived or deleted while it was built; build it again")]
    Gone,
    /// The processes that built it died.
    #[error("{MOST_ATTEMPTS} processes died while they built it; look at their memory and logs")]
    Died,
    /// There is nowhere to put its files.
    #[error("there is no object store to put the files into; set `objects`")]
    NoObjects,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// This machine's disk.
    #[error("this machine's disk: {0}")]
    Disk(#[from] std::io::Error),
}

impl BuildError {
    /// For programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Recipe(_) => "invalid_recipe",
            Self::TooFewRows { .. } => "too_few_rows",
            Self::Gone => "gone",
            Self::Died => "died",
            Self::NoObjects => "no_object_store",
            Self::Store(_) => "store_unavailable",
            Self::Objects(_) => "objects_unavailable",
            Self::Disk(_) => "disk",
        }
    }
}

/// Makes the row of a dataset that [`build`] is to build next.
///
/// # Errors
/// The recipe asks for what is not there, or the store is away.
pub async fn create(datasets: &Datasets, recipe: &Recipe) -> Result<DatasetRow, BuildError> {
    let now = now();
    gather::query(recipe, now)?;
    gather::holdout_keys(datasets, recipe).await?;
    let (json, hash) = (recipe.to_json(), recipe.hash());
    let new = NewDataset {
        id: Uuid::now_v7(),
        created_at: now,
        team: recipe.team.as_deref(),
        name: &recipe.name,
        method: recipe.method.as_str(),
        recipe: &json,
        recipe_hash: &hash,
    };
    Ok(datasets.create(&new).await?)
}

/// Builds a dataset on `workers` cores; whatever comes of it is in its row. To be run where waiting
/// is allowed: it reads and writes files.
///
/// # Errors
/// It was not built. The row says why.
pub async fn build(
    datasets: &Datasets,
    row: &DatasetRow,
    recipe: &Recipe,
    workers: usize,
) -> Result<DatasetRow, BuildError> {
    let built = build_row(datasets, row, recipe, workers).await;
    if let Err(error) = &built
        && !matches!(error, BuildError::Gone)
    {
        let none = json!({});
        let stats = if let BuildError::TooFewRows { stats, .. } = error { stats } else { &none };
        datasets.fail((row.id, attempt(row)), error.code(), &error.to_string(), stats).await?;
    }
    built?;
    datasets.find(&row.id.to_string()).await?.ok_or(BuildError::Gone)
}

async fn build_row(
    datasets: &Datasets,
    row: &DatasetRow,
    recipe: &Recipe,
    workers: usize,
) -> Result<(), BuildError> {
    let began = millis_of(row);
    let reading = Reading { until: began, most: u64::MAX, workers };
    let heart = Heart { id: row.id, attempt: attempt(row) };
    let mut pool = run(datasets, recipe, reading, false, Some(heart)).await?;
    let chosen = select(&mut pool, recipe)?;
    let mut emitted = emit(&mut pool, &chosen)?;
    let stats = manifest::of(&pool, recipe, began, &emitted);
    let rows = emitted.train.about.rows + emitted.validation.about.rows;
    if rows < LEAST_ROWS {
        let reasons = manifest::reasons(&pool.tally);
        return Err(BuildError::TooFewRows { rows, reasons, stats: Box::new(stats) });
    }
    drop(pool);
    let kept = keep(datasets, heart, &mut emitted).await;
    let files = [&emitted.train.about, &emitted.validation.about];
    let frozen = match kept {
        Ok(()) => {
            let attempt = (heart.id, heart.attempt);
            datasets.freeze(attempt, began, now(), &stats, files).await.map_err(BuildError::from)
        }
        Err(error) => Err(error),
    };
    if matches!(frozen, Ok(true)) {
        return Ok(());
    }
    // Nobody else knows of these files.
    for key in files.iter().filter_map(|file| file.key.as_deref()) {
        if let Err(error) = datasets.drop_file(key).await {
            tracing::warn!(%error, key, "a file of a dataset that was not built is left behind");
        }
    }
    Err(frozen.err().unwrap_or(BuildError::Gone))
}

/// Whose build it is, and which attempt at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heart {
    id: Uuid,
    attempt: u64,
}

impl Heart {
    async fn beat(self, datasets: &Datasets, read: u64) -> Result<(), BuildError> {
        let wanted = datasets.beat(self.id, self.attempt, read, now()).await?;
        if wanted { Ok(()) } else { Err(BuildError::Gone) }
    }
}

fn attempt(row: &DatasetRow) -> u64 {
    row.stats.get("attempt").and_then(Value::as_u64).unwrap_or(1)
}

/// Reads and examines rows. With a heart, the dataset's row hears of it.
pub(super) async fn run(
    datasets: &Datasets,
    recipe: &Recipe,
    reading: Reading,
    shows: bool,
    heart: Option<Heart>,
) -> Result<Pool, BuildError> {
    let holdout = gather::holdout(datasets, recipe).await?;
    let examiner = Arc::new(Examiner { recipe: recipe.clone(), holdout, shows });
    let mut last = Instant::now();
    let tell = async |read: u64| {
        let Some(heart) = heart.filter(|_| last.elapsed() > BEAT) else { return Ok(()) };
        last = Instant::now();
        heart.beat(datasets, read).await
    };
    gather::gather(datasets, &examiner, reading, tell).await
}

/// Puts the files into the object store, and what they are made of into the database.
async fn keep(datasets: &Datasets, heart: Heart, emitted: &mut Emitted) -> Result<(), BuildError> {
    let objects = datasets.objects().ok_or(BuildError::NoObjects)?;
    heart.beat(datasets, 0).await?;
    datasets.forget_items(heart.id).await?;
    for items in emitted.items.chunks(ITEMS) {
        datasets.add_items(heart.id, items).await?;
        heart.beat(datasets, 0).await?;
    }
    for Side { file, about } in [&mut emitted.train, &mut emitted.validation] {
        if let Some(key) = &about.key {
            objects.put_file(key, file, about.bytes).await?;
        }
    }
    Ok(())
}

/// Takes up builds whose process has died, one after the other, until it is dropped.
pub async fn adopt_abandoned(datasets: Datasets) {
    loop {
        match note(datasets.adopt(now() - SILENCE_MS, now()).await) {
            Ok(Some(row)) => {
                tracing::warn!(dataset = %row.id, "a build whose process died is taken up again");
                if let Err(error) = in_background(datasets.clone(), row).await {
                    tracing::error!(%error, "a build stopped");
                }
            }
            Ok(None) => tokio::time::sleep(LOOK).await,
            Err(error) => {
                tracing::debug!(%error, "abandoned builds cannot be looked for");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Builds a dataset by its row's recipe on threads that may wait; whatever comes of it is in the row.
pub fn in_background(
    datasets: Datasets,
    row: DatasetRow,
) -> JoinHandle<Result<DatasetRow, BuildError>> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let built = runtime.block_on(by_row(&datasets, &row));
        match &built {
            Ok(row) => tracing::info!(dataset = %row.id, "a dataset is ready"),
            Err(error) => tracing::warn!(dataset = %row.id, %error, "a dataset was not built"),
        }
        built
    })
}

async fn by_row(datasets: &Datasets, row: &DatasetRow) -> Result<DatasetRow, BuildError> {
    let recipe = Recipe::parse(row.recipe.to_string().as_bytes()).map_err(BuildError::from);
    let recipe = if attempt(row) > MOST_ATTEMPTS { Err(BuildError::Died) } else { recipe };
    match recipe {
        Ok(recipe) => build(datasets, row, &recipe, beside_traffic()).await,
        Err(error) => {
            let attempt = (row.id, attempt(row));
            datasets.fail(attempt, error.code(), &error.to_string(), &json!({})).await?;
            Err(error)
        }
    }
}

/// Half of the cores: the other half is for traffic.
pub fn beside_traffic() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// When the row was made, in milliseconds since 1970.
fn millis_of(row: &DatasetRow) -> i64 {
    let time = chrono::DateTime::parse_from_rfc3339(&row.created_at);
    time.map_or_else(|_| now(), |time| time.timestamp_millis())
}

/// Milliseconds since 1970.
pub(in crate::training) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
