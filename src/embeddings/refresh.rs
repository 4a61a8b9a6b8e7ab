//! Refreshes sources: fetches their pages, embeds what is new in them, and takes away what is gone.
//!
//! A run can be done twice: pages that are in the index with the same text are only noted as seen,
//! and a run whose gateway died is taken up by another one with the crawl that it began.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use uuid::Uuid;

use crate::background::note;
use crate::store::Documents;
use crate::store::GoLiveError;
use crate::store::Index;
use crate::store::IndexShape;
use crate::store::IndexStatus;
use crate::store::NewChunk;
use crate::store::NewPage;
use crate::store::Page;
use crate::store::Source;
use crate::store::SourceRun;
use crate::store::Sources;
use crate::store::StoreError;
use crate::telemetry::metrics::Metrics;

use super::chunk::Chunk;
use super::chunk::Chunking;
use super::chunk::cut;
use super::embed::EmbedError;
use super::embed::Embedder;
use super::fetch::Counted;
use super::fetch::FetchError;
use super::fetch::Fetched;
use super::fetch::Fetcher;
use super::page::Left;
use super::page::Taken;
use super::source::next_run;
use super::tally::Tally;

const TICK: Duration = Duration::from_secs(1);
/// A gateway that is silent for so long has lost its run to others.
const LEASE_MS: i64 = 30_000;
const BEAT: Duration = Duration::from_secs(10);
/// Runs of one gateway at the same time.
const AT_ONCE: usize = 2;
/// Gateways that may die of one run before it is given up.
const MOST_ATTEMPTS: u32 = 5;
/// Chunks that are embedded together, and pages that are noted as seen together.
const CHUNKS: usize = 256;
const PAGES: usize = 500;

/// Refreshes sources until it is dropped.
pub struct Refresher {
    /// Their rows and runs.
    pub sources: Sources,
    /// Their index.
    pub documents: Documents,
    /// Makes vectors.
    pub embedder: Embedder,
    /// Gets pages.
    pub fetcher: Fetcher,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells this gateway from others.
    pub owner: String,
}

/// Why a run does not go on.
#[derive(Debug, Error)]
enum Stop {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    GoLive(#[from] GoLiveError),
    #[error("it took more than {0} s and was cut off; the index keeps what it had")]
    Deadline(u64),
    #[error("another gateway goes on with it")]
    Lost,
}

/// A run on its way.
struct Work<'a> {
    this: &'a Refresher,
    source: &'a Source,
    run: SourceRun,
    index: Index,
    chunking: Chunking,
    known: HashMap<String, Page>,
    seen: HashSet<String>,
    unchanged: Vec<String>,
    gone: Vec<String>,
    /// Pages whose chunks wait to be embedded.
    waiting: Vec<(NewPage, Vec<Chunk>)>,
    tally: Tally,
}

impl Refresher {
    /// Looks every second for what is due.
    pub async fn run(self) {
        let (this, room) = (Arc::new(self), Arc::new(Semaphore::new(AT_ONCE)));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = note(Self::look(&this, &room).await) {
                tracing::debug!(%error, "sources cannot be looked for");
            }
        }
    }

    async fn look(this: &Arc<Self>, room: &Arc<Semaphore>) -> Result<(), StoreError> {
        this.schedule().await?;
        while let Ok(place) = Arc::clone(room).try_acquire_owned() {
            let now = now();
            let claimed = this.sources.claim_run(&this.owner, now, now + LEASE_MS).await?;
            let Some(run) = claimed else { break };
            let this = Arc::clone(this);
            tokio::spawn(async move {
                this.attend(run).await;
                drop(place);
            });
        }
        Ok(())
    }

    /// Puts the runs that are due by the clock in line. However many were missed, it is one.
    async fn schedule(&self) -> Result<(), StoreError> {
        for source in self.sources.due(now()).await? {
            let next = next_run(&source, now()).unwrap_or_else(|error| {
                tracing::error!(source = source.name, error, "a schedule cannot be used any more");
                None
            });
            let run = SourceRun::queued(source.id, "schedule", false, now());
            self.sources.on_schedule(&source, next, &run).await?;
        }
        let counts = self.documents.counts().await.unwrap_or_default();
        let names = self.sources.list("", 1_000).await?;
        let named = |id: &str| names.iter().find(|source| source.id.to_string() == id);
        let counts = counts.iter().filter_map(|(id, state, count)| {
            Some((named(id)?.name.as_str(), state.as_str(), *count))
        });
        self.metrics.documents(counts);
        Ok(())
    }

    /// Does a run, as long as it is ours, and writes down what became of it.
    async fn attend(&self, mut run: SourceRun) {
        let id = run.id;
        let done = tokio::select! {
            done = self.go(&mut run) => done,
            () = self.lose(id) => Err(Stop::Lost),
        };
        let state = match &done {
            Ok(state) => state,
            Err(Stop::Lost) => {
                tracing::warn!(run = %id, "a refresh went to another gateway");
                return;
            }
            // What the store does not take now is taken up when the lease is over.
            Err(Stop::Store(error @ StoreError::Unavailable { .. }))
                if run.attempts < MOST_ATTEMPTS =>
            {
                tracing::warn!(run = %id, %error, "a refresh waits for the store");
                return;
            }
            Err(_) => "failed",
        };
        state.clone_into(&mut run.state);
        if let Err(error) = &done {
            tracing::warn!(run = %id, %error, "a refresh failed; the index keeps what it had");
            run.error = Some(error.to_string());
        }
        run.finished_at = Some(now());
        self.metrics.source_run(state);
        match self.save(&mut run).await {
            Ok(()) => tracing::info!(run = %id, state, "a refresh ended"),
            Err(error) => tracing::warn!(run = %id, %error, "how a refresh ended is not kept"),
        }
    }

    /// Keeps the lease; returns once it is somebody else's.
    async fn lose(&self, id: Uuid) {
        loop {
            tokio::time::sleep(BEAT).await;
            match self.sources.renew_run(id, &self.owner, now() + LEASE_MS).await {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => tracing::debug!(run = %id, %error, "a lease cannot be renewed"),
            }
        }
    }

    async fn save(&self, run: &mut SourceRun) -> Result<(), Stop> {
        run.updated_at = now();
        if self.sources.save_run(run, &self.owner).await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// The run as a whole; returns its state.
    async fn go(&self, run: &mut SourceRun) -> Result<&'static str, Stop> {
        let Some(source) = self.sources.find(&run.source_id.to_string()).await? else {
            return Ok("cancelled");
        };
        if run.attempts > MOST_ATTEMPTS {
            let many = "gateways died of it again and again; see their logs".to_owned();
            run.error = Some(many);
            return Ok("failed");
        }
        let deadline = Duration::from_secs(source.deadline_s);
        let fetching = self.fetch(&source, run);
        let fetched = match tokio::time::timeout(deadline, fetching).await {
            Ok(fetched) => fetched?,
            Err(_) => {
                for job in &run.jobs {
                    self.fetcher.cancel(job).await;
                }
                return Err(Stop::Deadline(source.deadline_s));
            }
        };
        let work = Work::begin(self, &source, run.clone()).await?;
        let (state, after) = work.through(fetched).await?;
        *run = after;
        Ok(state)
    }

    /// Gets the pages; a crawl that was begun before is waited for, not begun again.
    async fn fetch(&self, source: &Source, run: &mut SourceRun) -> Result<Fetched, Stop> {
        if run.jobs.is_empty()
            && let Some(job) = self.fetcher.begin(source).await?
        {
            run.jobs.push(job);
            self.save(run).await?;
        }
        match self.pages(source, run).await {
            // Firecrawl keeps results for a day.
            Err(Stop::Fetch(FetchError::Crawl(error)))
                if error.is_unknown_job() && run.attempts > 1 =>
            {
                run.jobs.clear();
                run.jobs.extend(self.fetcher.begin(source).await?);
                self.save(run).await?;
                self.pages(source, run).await
            }
            fetched => fetched,
        }
    }

    /// Waits for the pages, and writes down how many there are meanwhile.
    async fn pages(&self, source: &Source, run: &mut SourceRun) -> Result<Fetched, Stop> {
        let job = run.jobs.first().cloned();
        let (tell, mut told) = watch::channel(Counted::default());
        let mut pages =
            std::pin::pin!(self.fetcher.pages(source, &self.sources, job.as_deref(), &tell));
        loop {
            tokio::select! {
                fetched = &mut pages => return Ok(fetched?),
                Ok(()) = told.changed() => {
                    let (pages_fetched, pages_total) = *told.borrow_and_update();
                    let tally = Tally { pages_fetched, pages_total, ..Tally::default() };
                    run.counts = serde_json::to_value(&tally).unwrap_or(Value::Null);
                    self.save(run).await?;
                }
            }
        }
    }

    /// What an index of this source looks like.
    async fn shape(&self, source: &Source, chunking: &Chunking) -> Result<IndexShape, Stop> {
        let (model, chunker) = (source.model.clone(), chunking.name());
        if let Some(dimensions) = source.dimensions {
            return Ok(IndexShape { model, dimensions, chunker });
        }
        // As many as the model makes: the index knows, or the model tells.
        let live = self.documents.live(&source.id.to_string()).await?;
        if let Some(live) = live.filter(|live| live.shape.model == model) {
            return Ok(IndexShape { model, dimensions: live.shape.dimensions, chunker });
        }
        let probe = ["weir".to_owned()];
        let made = self
            .embedder
            .embed(&source.name, &model, None, &probe)
            .await?
            .vectors
            .first()
            .map_or(0, Vec::len);
        Ok(IndexShape { model, dimensions: u32::try_from(made).unwrap_or(u32::MAX), chunker })
    }
}

impl<'a> Work<'a> {
    async fn begin(this: &'a Refresher, source: &'a Source, run: SourceRun) -> Result<Self, Stop> {
        let chunking: Chunking =
            serde_json::from_value(source.chunking.clone()).unwrap_or_default();
        let shape = this.shape(source, &chunking).await?;
        let index = this.documents.open(&source.id.to_string(), &shape).await?;
        let known = this.documents.pages(&index).await?;
        Ok(Self {
            this,
            source,
            run,
            index,
            chunking,
            known,
            seen: HashSet::new(),
            unchanged: Vec::new(),
            gone: Vec::new(),
            waiting: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// Takes all pages in; returns the run's state and its row.
    async fn through(mut self, fetched: Fetched) -> Result<(&'static str, SourceRun), Stop> {
        self.tally.pages_total = fetched.total;
        self.tally.pages_fetched = u64::try_from(fetched.pages.len()).unwrap_or(u64::MAX);
        for page in fetched.pages {
            match page {
                Ok(page) => self.take(page).await?,
                Err(left) => self.leave(left),
            }
        }
        self.embed().await?;
        self.touch().await?;
        let documents = &self.this.documents;
        self.tally.pages_removed += documents.remove(&self.index, &self.gone).await?;
        let run_id = self.run.id.to_string();
        // Half of the pages gone at once is a site that is broken, not one that has shrunk.
        let enough = self.seen.len() * 2 >= self.known.len();
        if fetched.complete && enough {
            self.tally.pages_removed += match self.source.kind.as_str() {
                // What was taken away by hand is gone.
                "files" => documents.remove(&self.index, &self.missing()).await?,
                _ => documents.age_missing(&self.index, &run_id).await?,
            };
        }
        if self.index.status == IndexStatus::Building {
            let pages = documents.pages(&self.index).await?.len();
            let pages = u64::try_from(pages).unwrap_or(u64::MAX);
            if fetched.complete && pages > 0 {
                documents.go_live(&self.index, pages).await?;
            }
        }
        let error = fetched.complaint.or_else(|| self.tally.complaint());
        let whole = fetched.complete && self.tally.pages_failed.is_empty() && enough;
        let state = match (whole, self.seen.is_empty()) {
            (true, _) => "succeeded",
            (false, false) => "partial",
            (false, true) => "failed",
        };
        self.progress();
        self.run.error = error.filter(|_| state != "succeeded");
        Ok((state, self.run))
    }

    fn missing(&self) -> Vec<String> {
        self.known.keys().filter(|url| !self.seen.contains(*url)).cloned().collect()
    }

    fn leave(&mut self, left: Left) {
        self.tally.fail(left.reason);
        if left.is_gone() && self.known.contains_key(&left.url) {
            self.seen.insert(left.url.clone());
            self.gone.push(left.url);
        } else if self.known.contains_key(&left.url) {
            // What could not be fetched now is not missing.
            self.seen.insert(left.url.clone());
            self.unchanged.push(left.url);
        }
    }

    async fn take(&mut self, page: Taken) -> Result<(), Stop> {
        if !self.seen.insert(page.url.clone()) {
            return Ok(());
        }
        self.tally.pages_seen += 1;
        let known = self.known.get(&page.url);
        if self.run.is_full == 0 && known.is_some_and(|known| known.content_hash == page.hash) {
            self.tally.pages_unchanged += 1;
            self.unchanged.push(page.url);
            return if self.unchanged.len() >= PAGES { self.touch().await } else { Ok(()) };
        }
        *if known.is_some() { &mut self.tally.pages_changed } else { &mut self.tally.pages_new } +=
            1;
        let new = NewPage {
            url: page.url,
            title: page.title.clone(),
            content_hash: page.hash,
            metadata: page.metadata,
            run_id: self.run.id.to_string(),
        };
        let before = match known.is_some() && self.run.is_full == 0 {
            true => self.this.documents.passages(&self.index, &new.url).await?,
            false => Vec::new(),
        };
        let (chunking, shape) = (self.chunking.clone(), self.index.shape.clone());
        let cutting = tokio::task::spawn_blocking(move || {
            cut(&page.title, &page.text, &chunking, &shape, &before)
        });
        // It does not panic; were it to, the page would have nothing to find.
        self.waiting.push((new, cutting.await.unwrap_or_default()));
        let chunks: usize = self.waiting.iter().map(|(_, chunks)| chunks.len()).sum();
        if chunks >= CHUNKS { self.embed().await } else { Ok(()) }
    }

    /// Embeds what waits and puts it into the index. Together first; where a text is refused, page by
    /// page, so that one page is no trouble for others.
    async fn embed(&mut self) -> Result<(), Stop> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        match self.put(&waiting).await {
            Err(Stop::Embed(error)) if error.is_of_text() => {}
            done => return done,
        }
        for page in waiting {
            match self.put(std::slice::from_ref(&page)).await {
                Err(Stop::Embed(error)) if error.is_of_text() => {
                    tracing::warn!(url = page.0.url, %error, "a page is not embedded");
                    self.tally.fail("refused_by_model");
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn put(&mut self, pages: &[(NewPage, Vec<Chunk>)]) -> Result<(), Stop> {
        let documents = &self.this.documents;
        let all = || pages.iter().flat_map(|(_, chunks)| chunks);
        let hashes: Vec<_> = all().map(|chunk| chunk.hash).collect();
        let there = match self.run.is_full {
            0 => documents.known(&self.index, &hashes).await?,
            _ => HashSet::new(),
        };
        let mut fresh: HashMap<_, Option<Vec<f32>>> = HashMap::new();
        let mut inputs = Vec::new();
        for chunk in all().filter(|chunk| !there.contains(&chunk.hash)) {
            if fresh.insert(chunk.hash, None).is_none() {
                inputs.push((chunk.hash, chunk.input()));
            }
        }
        let texts: Vec<String> = inputs.iter().map(|(_, input)| input.clone()).collect();
        let shape = &self.index.shape;
        let asked = self.source.dimensions;
        let made = match texts.is_empty() {
            true => Default::default(),
            false => {
                self.this.embedder.embed(&self.source.name, &shape.model, asked, &texts).await?
            }
        };
        self.tally.tokens += made.tokens;
        self.tally.cost_usd += made.cost;
        let embedded = u64::try_from(made.vectors.len()).unwrap_or(u64::MAX);
        self.tally.chunks_embedded += embedded;
        self.tally.chunks_reused +=
            u64::try_from(hashes.len()).unwrap_or(0).saturating_sub(embedded);
        self.this.metrics.chunks_embedded(embedded);
        for ((hash, _), vector) in inputs.into_iter().zip(made.vectors) {
            fresh.insert(hash, Some(vector));
        }
        for (page, chunks) in pages {
            let chunk = |chunk: &Chunk| NewChunk {
                heading: chunk.heading.clone(),
                text: chunk.text.clone(),
                tokens: chunk.tokens,
                hash: chunk.hash,
                vector: fresh.get(&chunk.hash).cloned().flatten(),
            };
            documents.put(&self.index, page, chunks.iter().map(chunk).collect()).await?;
        }
        self.progress();
        let mut run = self.run.clone();
        self.this.save(&mut run).await
    }

    async fn touch(&mut self) -> Result<(), Stop> {
        let urls = std::mem::take(&mut self.unchanged);
        let run_id = self.run.id.to_string();
        for some in urls.chunks(PAGES) {
            self.this.documents.touch(&self.index, some, &run_id).await?;
        }
        Ok(())
    }

    fn progress(&mut self) {
        self.run.counts = serde_json::to_value(&self.tally).unwrap_or(Value::Null);
    }
}

/// In milliseconds since 1970.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
