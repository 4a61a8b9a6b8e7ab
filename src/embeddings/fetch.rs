//! The pages of a source, by its kind: a crawl, a site's map, one page, or what was uploaded.

use std::collections::HashMap;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;
use url::Url;

use crate::store::Source;
use crate::store::Sources;
use crate::store::StoreError;
use crate::upstream::outside::Outside;
use crate::upstream::outside::Refused;

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
    /// Which of them may be taken.
    pub outside: Outside,
}

/// Pages that have been fetched, and those that are meant to be.
pub type Counted = (u64, u64);

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
    /// The source leads where nobody may look, or nowhere.
    #[error("the source's URL cannot be used any more: {0}")]
    Refused(#[from] Refused),
    /// A pattern that cannot be read.
    #[error("`{0}` is no regular expression: {1}")]
    Pattern(String, String),
}

impl Fetcher {
    /// Begins the job that a source needs, if it needs one: `crawl/<id>` or `batch/scrape/<id>`.
    ///
    /// # Errors
    /// Firecrawl does not take it, or its URL leads into a network that is not public by now.
    pub async fn begin(&self, source: &Source) -> Result<Option<String>, FetchError> {
        let url = source.url.as_deref().unwrap_or_default();
        if source.kind != "files" {
            self.outside.check(url).await?;
        }
        match source.kind.as_str() {
            "crawl" => Ok(Some(format!("crawl/{}", self.firecrawl.crawl(source).await?))),
            "map" => {
                let mut urls = self.firecrawl.map(source).await?;
                let (include, exclude) = (patterns(&source.include)?, patterns(&source.exclude)?);
                let site = Url::parse(url).ok();
                urls.retain(|url| {
                    let Ok(url) = Url::parse(url) else { return false };
                    let any = |of: &[Regex]| of.iter().any(|pattern| pattern.is_match(url.path()));
                    let is_wanted = (include.is_empty() || any(&include)) && !any(&exclude);
                    is_wanted && site.as_ref().is_some_and(|site| is_within(&url, site))
                });
                urls.truncate(usize::try_from(source.page_limit).unwrap_or(usize::MAX));
                Ok(Some(format!("batch/scrape/{}", self.firecrawl.batch(&urls).await?)))
            }
            _ => Ok(None),
        }
    }

    /// Waits for the pages of a source, and reads them; tells how far it is.
    ///
    /// # Errors
    /// None came.
    pub async fn pages(
        &self,
        source: &Source,
        sources: &Sources,
        job: Option<&str>,
        tell: &watch::Sender<Counted>,
    ) -> Result<Fetched, FetchError> {
        match (job, source.kind.as_str()) {
            (Some(job), _) => self.of_job(source, job, tell).await,
            (None, "scrape") => {
                let url = source.url.as_deref().unwrap_or_default();
                let pages = self.taken(source, &[self.firecrawl.scrape(url).await?]).await;
                Ok(Fetched { pages, total: 1, complete: true, complaint: None })
            }
            _ => uploaded(source, sources).await,
        }
    }

    /// The documents as pages. One that was led into a network that is not public is left out: its
    /// words are not for everybody who searches.
    async fn taken(&self, source: &Source, documents: &[Value]) -> Vec<Result<Taken, Left>> {
        let site = source.url.as_deref().and_then(|url| Url::parse(url).ok());
        let mut looked: HashMap<String, bool> = HashMap::new();
        let mut pages = Vec::with_capacity(documents.len());
        for document in documents {
            let page = match take(document) {
                Ok(page) => page,
                Err(left) => {
                    pages.push(Err(left));
                    continue;
                }
            };
            let host = |url: &Url| url.host_str().unwrap_or_default().to_owned();
            let host = Url::parse(&page.url).map(|url| host(&url)).unwrap_or_default();
            // The source's own has been looked at before.
            let mut is_public = site.as_ref().is_some_and(|site| site.host_str() == Some(&host));
            if !is_public {
                is_public = match looked.get(&host) {
                    Some(known) => *known,
                    None => self.outside.check(&page.url).await.is_ok(),
                };
                looked.insert(host, is_public);
            }
            let left = || Left { url: page.url.clone(), reason: "not_public" };
            pages.push(if is_public { Ok(page) } else { Err(left()) });
        }
        pages
    }

    /// Ends a job.
    pub async fn cancel(&self, job: &str) {
        self.firecrawl.cancel(job).await;
    }

    async fn of_job(
        &self,
        source: &Source,
        job: &str,
        tell: &watch::Sender<Counted>,
    ) -> Result<Fetched, FetchError> {
        let mut pause = SOONEST;
        let last = loop {
            let seen = self.firecrawl.progress(&format!("/{job}")).await?;
            tell.send_if_modified(|told| {
                let now = (seen.completed, seen.total);
                std::mem::replace(told, now) != now
            });
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
        let pages = self.taken(source, &documents).await;
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

/// Whether a URL that a map names belongs to the site: on its host, or one below it.
fn is_within(url: &Url, site: &Url) -> bool {
    let (Some(host), Some(site)) = (url.host_str(), site.host_str()) else { return false };
    let is_below = |site: &str| host.strip_suffix(site).is_some_and(|rest| rest.ends_with('.'));
    matches!(url.scheme(), "http" | "https") && (host == site || is_below(site))
}

fn patterns(of: &[String]) -> Result<Vec<Regex>, FetchError> {
    let compiled = of.iter().map(|pattern| {
        Regex::new(pattern).map_err(|error| FetchError::Pattern(pattern.clone(), error.to_string()))
    });
    compiled.collect()
}
