//! The pages of a source, by its kind: a crawl, a site's map, one page, or what was uploaded.

use std::time::Duration;

use regex::Regex;
use thiserror::Error;

use crate::store::Source;
use crate::store::Sources;
use crate::store::StoreError;

use super::firecrawl::CrawlError;
use super::firecrawl::Firecrawl;
use super::firecrawl::Progress;
use super::page::Left;
use super::page::Taken;
use super::page::take;
use super::page::take_file;

/// Between two looks at a crawl: short at first, since small sites are fetched in seconds.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(15);
/// Files that are read together.
const FILES: u32 = 200;
/// Pages of a crawl's answer that are followed at most.
const MOST_NEXT: usize = 10_000;

/// Gets pages.
pub struct Fetcher {
    /// Where web pages come from.
    pub firecrawl: Firecrawl,
}

/// The pages that came.
#[derive(Debug, Default)]
pub struct Fetched {
    /// In the order that they came in.
    pub pages: Vec<Result<Taken, Left>>,
    /// How many were meant to come.
    pub total: u64,
    /// Whether all came that there are: what is missing then is gone.
    pub complete: bool,
    /// Why not, in a sentence.
    pub complaint: Option<String>,
}

/// Why no pages came.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Firecrawl did not bring them.
    #[error(transparent)]
    Crawl(#[from] CrawlError),
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pattern that cannot be read.
    #[error("`{0}` is no regular expression: {1}")]
    Pattern(String, String),
}

impl Fetcher {
    /// Begins the job that a source needs, if it needs one: `crawl/<id>` or `batch/scrape/<id>`.
    ///
    /// # Errors
    /// Firecrawl does not take it.
    pub async fn begin(&self, source: &Source) -> Result<Option<String>, FetchError> {
        match source.kind.as_str() {
            "crawl" => Ok(Some(format!("crawl/{}", self.firecrawl.crawl(source).await?))),
            "map" => {
                let mut urls = self.firecrawl.map(source).await?;
                let (include, exclude) = (patterns(&source.include)?, patterns(&source.exclude)?);
                let path = |url: &str| url::Url::parse(url).map(|url| url.path().to_owned());
                urls.retain(|url| {
                    let Ok(path) = path(url) else { return false };
                    let any = |of: &[Regex]| of.iter().any(|pattern| pattern.is_match(&path));
                    (include.is_empty() || any(&include)) && !any(&exclude)
                });
                urls.truncate(usize::try_from(source.page_limit).unwrap_or(usize::MAX));
                Ok(Some(format!("batch/scrape/{}", self.firecrawl.batch(&urls).await?)))
            }
            _ => Ok(None),
        }
    }

    /// Waits for the pages of a source, and reads them.
    ///
    /// # Errors
    /// None came.
    pub async fn pages(
        &self,
        source: &Source,
        sources: &Sources,
        job: Option<&str>,
    ) -> Result<Fetched, FetchError> {
        match (job, source.kind.as_str()) {
            (Some(job), _) => self.of_job(source, job).await,
            (None, "scrape") => {
                let url = source.url.as_deref().unwrap_or_default();
                let page = take(&self.firecrawl.scrape(url).await?);
                Ok(Fetched { pages: vec![page], total: 1, complete: true, complaint: None })
            }
            _ => uploaded(source, sources).await,
        }
    }

    /// Ends a job.
    pub async fn cancel(&self, job: &str) {
        self.firecrawl.cancel(job).await;
    }

    async fn of_job(&self, source: &Source, job: &str) -> Result<Fetched, FetchError> {
        let mut pause = SOONEST;
        let last = loop {
            let seen = self.firecrawl.progress(&format!("/{job}")).await?;
            match seen.status.as_str() {
                "completed" | "failed" | "cancelled" => break seen,
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LATEST);
        };
        let Progress { status, total, mut documents, mut next, .. } = last;
        for _ in 0..MOST_NEXT {
            let Some(path) = next else { break };
            let more = self.firecrawl.progress(&path).await?;
            // An answer without pages that names a next one would be asked for ever.
            next = more.next.filter(|_| !more.documents.is_empty());
            documents.extend(more.documents);
        }
        let failed = match status.as_str() {
            "completed" => self.firecrawl.errors(job).await.unwrap_or(0),
            _ => 0,
        };
        let came = u64::try_from(documents.len()).unwrap_or(u64::MAX);
        let capped = source.kind == "crawl" && came >= source.page_limit;
        let complaint = match status.as_str() {
            "completed" if failed > 0 => Some(format!("{failed} pages could not be fetched")),
            "completed" if capped => {
                Some(format!("the crawl ended at its limit of {} pages", source.page_limit))
            }
            "completed" => None,
            other => Some(format!("the crawl was {other} before its end")),
        };
        let pages = documents.iter().map(take).collect();
        Ok(Fetched { pages, total: total.max(came), complete: complaint.is_none(), complaint })
    }
}

async fn uploaded(source: &Source, sources: &Sources) -> Result<Fetched, FetchError> {
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let files = sources.files(source.id, &after, FILES).await?;
        let Some(last) = files.last() else { break };
        after.clone_from(&last.name);
        pages.extend(files.iter().map(|file| take_file(&file.name, &file.title, &file.text)));
    }
    let total = u64::try_from(pages.len()).unwrap_or(u64::MAX);
    Ok(Fetched { pages, total, complete: true, complaint: None })
}

fn patterns(of: &[String]) -> Result<Vec<Regex>, FetchError> {
    let compiled = of.iter().map(|pattern| {
        Regex::new(pattern).map_err(|error| FetchError::Pattern(pattern.clone(), error.to_string()))
    });
    compiled.collect()
}
