//! Brings the rows of a recipe together: reads them from the store or a file, and has them
//! examined on several cores, in the order of their times.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::sync::Arc;

use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::store::Candidate;
use crate::store::Datasets;
use crate::store::InteractionQuery;
use crate::store::Interactions;
use crate::store::Ledger;

use super::dataset::BuildError;
use super::examine::Examined;
use super::examine::Examiner;
use super::pool::Pool;
use super::recipe::BadRecipe;
use super::recipe::FileSource;
use super::recipe::Recipe;
use super::recipe::Source;
use super::stages::contamination::Holdout;

/// Lines of a file that are examined together.
const LINES: usize = 250;

/// How much is read, and who hears of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Only calls from before, in milliseconds since 1970.
    pub(super) until: i64,
    /// Rows at most.
    pub(super) most: u64,
    /// Pages that are examined at the same time.
    pub(super) workers: usize,
}

/// What of a recipe's filter the store can use.
pub(super) fn query(recipe: &Recipe, now: i64) -> Result<InteractionQuery, BadRecipe> {
    let mut parameters = Vec::new();
    for (name, value) in &recipe.filter {
        let one = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => (name.as_str(), text.clone()),
            other => (name.as_str(), other.to_string()),
        };
        match value.as_array() {
            Some(list) => parameters.extend(list.iter().map(one)),
            None => parameters.push(one(value)),
        }
    }
    let parameters = parameters.iter().map(|(name, value)| (*name, value.as_str()));
    InteractionQuery::parse(parameters, now, str::to_owned)
        .map_err(|error| BadRecipe::at(format!("filter.{}", error.name), error.message))
}

/// Reads and examines all rows. `tell` hears how many were read, and says whether to go on.
pub(super) async fn gather(
    datasets: &Datasets,
    examiner: &Arc<Examiner>,
    reading: Reading,
    tell: impl AsyncFnMut(u64) -> Result<(), BuildError>,
) -> Result<Pool, BuildError> {
    let pool = Pool::new(examiner.shows)?;
    let mut crew = Crew { pool, busy: VecDeque::new(), reading, tell };
    match &examiner.recipe.source {
        Source::Rows => read_calls(datasets, examiner, &mut crew).await?,
        Source::File(file) => read_file(file, examiner, &mut crew).await?,
    }
    while !crew.busy.is_empty() {
        crew.take_first().await?;
    }
    Ok(crew.pool)
}

/// Pages on their way through the cores, the first in front.
struct Crew<T> {
    pool: Pool,
    busy: VecDeque<JoinHandle<Vec<Examined>>>,
    reading: Reading,
    tell: T,
}

impl<T: AsyncFnMut(u64) -> Result<(), BuildError>> Crew<T> {
    async fn give(
        &mut self,
        work: impl FnOnce() -> Vec<Examined> + Send + 'static,
    ) -> Result<(), BuildError> {
        if self.busy.len() > self.reading.workers {
            self.take_first().await?;
        }
        self.busy.push_back(tokio::task::spawn_blocking(work));
        Ok(())
    }

    async fn take_first(&mut self) -> Result<(), BuildError> {
        let Some(first) = self.busy.pop_front() else { return Ok(()) };
        for examined in first.await.map_err(std::io::Error::other)? {
            self.pool.take(examined)?;
        }
        (self.tell)(self.pool.read).await
    }
}

async fn read_calls<T: AsyncFnMut(u64) -> Result<(), BuildError>>(
    datasets: &Datasets,
    examiner: &Arc<Examiner>,
    crew: &mut Crew<T>,
) -> Result<(), BuildError> {
    let recipe = &examiner.recipe;
    let interactions = Interactions::of(&Ledger::of(datasets.database())?);
    let query = query(recipe, crew.reading.until)?;
    let (mut after, mut left): (Option<Uuid>, u64) = (None, crew.reading.most);
    loop {
        let team = recipe.team.as_deref();
        let page = interactions.candidates(&query, team, crew.reading.until, after).await?;
        let mut calls = page.calls;
        calls.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left = left.saturating_sub(u64::try_from(calls.len()).unwrap_or(u64::MAX));
        let examiner = Arc::clone(examiner);
        crew.give(move || calls.iter().map(|call: &Candidate| examiner.call(call)).collect())
            .await?;
        match page.next {
            Some(next) if left > 0 => after = Some(next),
            _ => return Ok(()),
        }
    }
}

async fn read_file<T: AsyncFnMut(u64) -> Result<(), BuildError>>(
    source: &FileSource,
    examiner: &Arc<Examiner>,
    crew: &mut Crew<T>,
) -> Result<(), BuildError> {
    let mut lines = open(&source.path, "source.file.path")?.lines();
    let mut left = crew.reading.most;
    loop {
        let most = LINES.min(usize::try_from(left).unwrap_or(LINES));
        let batch: Vec<String> = lines.by_ref().take(most).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            return Ok(());
        }
        left = left.saturating_sub(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        let (examiner, source) = (Arc::clone(examiner), source.clone());
        let full = move |line: &&String| !line.trim().is_empty();
        crew.give(move || {
            batch.iter().filter(full).map(|line| examiner.line(line, &source)).collect()
        })
        .await?;
    }
}

/// What a model is judged by, as far as the recipe names it.
pub(super) async fn holdout(datasets: &Datasets, recipe: &Recipe) -> Result<Holdout, BuildError> {
    let settings = &recipe.stages.contamination;
    let mut holdout = Holdout::new(settings.ngram);
    for (place, path) in recipe.files().iter().filter(|(place, _)| place.starts_with("stages")) {
        for line in open(path, place)?.lines() {
            holdout.add(&line?);
        }
    }
    for key in holdout_keys(datasets, recipe).await? {
        let objects = datasets.objects().ok_or(BuildError::NoObjects)?;
        let bytes = objects.get(&key).await?.unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().for_each(|line| holdout.add(line));
    }
    Ok(holdout)
}

/// The validation sets that the recipe names.
pub(super) async fn holdout_keys(
    datasets: &Datasets,
    recipe: &Recipe,
) -> Result<Vec<String>, BuildError> {
    let mut keys = Vec::new();
    for (at, id) in recipe.stages.contamination.datasets.iter().enumerate() {
        let row = datasets.find(&id.to_string()).await?;
        let file = row.and_then(|row| row.validation).ok_or_else(|| {
            let place = recipe.place_of("contamination", &format!("datasets[{at}]"));
            BadRecipe::at(place, format!("there is no dataset {id} that is ready"))
        })?;
        keys.extend(file.key);
    }
    Ok(keys)
}

fn open(path: &str, place: &str) -> Result<BufReader<File>, BadRecipe> {
    let file = File::open(path)
        .map_err(|error| BadRecipe::at(place, format!("cannot read {path}: {error}")))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}
