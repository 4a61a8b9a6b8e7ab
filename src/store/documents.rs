//! Documents as passages with vectors, in versioned indexes: SQLite with an index of signs in memory,
//! Postgres with pgvector.
//!
//! A source has at most one index that answers, and at most one that is built beside it for another
//! model, other dimensions or another chunker. [`Documents::go_live`] swaps them.

mod indexes;
mod list;
mod pages;
mod put;
mod resident;
mod search;
mod signs;
mod vectors;
mod words;

use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;
use sqlx::AnyPool;
use thiserror::Error;

use super::database::Database;
use super::database::StoreError;

pub use list::DocumentPage;
pub use list::DocumentQuery;
pub use list::DocumentRow;
use resident::Residents;

/// What tells chunks apart that need vectors of their own.
pub type ChunkHash = [u8; 32];

/// What all vectors of an index have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// The embedding model.
    pub model: String,
    /// Numbers of a vector.
    pub dimensions: u32,
    /// Which chunker, in which version, with which settings.
    pub chunker: String,
}

/// What becomes of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexStatus {
    /// It is filled, and not asked yet.
    Building,
    /// It answers.
    Live,
    /// It answered before, and can again.
    Previous,
    /// It never answered, and has nothing in it any more.
    Failed,
}

/// One version of a source's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// A UUID of version 7.
    pub id: String,
    /// Whose documents.
    pub source_id: String,
    /// Counts the source's indexes from 1.
    pub generation: u32,
    /// What its vectors are.
    pub shape: IndexShape,
    /// What has become of it, when it was read.
    pub status: IndexStatus,
}

/// A page that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Of the text that its chunks were made of.
    pub content_hash: String,
    /// Complete runs in a row that did not find it.
    pub missing_runs: u32,
    /// How many it has.
    pub chunks: u32,
}

/// A page to be put into an index.
#[derive(Clone, Debug)]
pub struct NewPage {
    /// Normalised; at most 2000 bytes.
    pub url: String,
    /// Its title.
    pub title: String,
    /// Of the text that its chunks are made of.
    pub content_hash: String,
    /// A JSON object; strings, numbers and booleans in it can be filtered by.
    pub metadata: Value,
    /// The run that found it.
    pub run_id: String,
}

/// A passage of it.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// The headings above it, outermost first.
    pub heading: String,
    /// The passage.
    pub text: String,
    /// As its embedding model counts them.
    pub tokens: u32,
    /// Equal where the vectors are.
    pub hash: ChunkHash,
    /// Of any length but 0; without one, that of the same hash in the index is taken.
    pub vector: Option<Vec<f32>>,
}

/// Which pages a search is about: those for which all of it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// What their URLs begin with.
    pub url_prefix: Option<String>,
    /// Fields of their metadata, with the values that they must have: strings, numbers, booleans.
    pub metadata: Map<String, Value>,
}

/// What is searched for.
#[derive(Clone, Debug)]
pub struct SearchQuery {
    /// In any language; no syntax.
    pub text: String,
    /// The text's vector; without one only words are compared.
    pub vector: Option<Vec<f32>>,
    /// How many passages are wanted, 1 to 100.
    pub top_k: usize,
    /// Where.
    pub filter: Filter,
}

/// A passage that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its page.
    pub url: String,
    /// Its page's title.
    pub title: String,
    /// The headings above it.
    pub heading: String,
    /// The passage.
    pub text: String,
    /// As its embedding model counts them.
    pub tokens: u32,
    /// The sum of 1 / (60 + rank) over both lists that it may be in; ranks begin with 1.
    pub score: f64,
    /// The cosine of the angle between the vectors.
    pub vector_score: Option<f32>,
    /// Its place among those found by vector.
    pub vector_rank: Option<u32>,
    /// How well the words match; the more the better, and comparable within one search only.
    pub text_score: Option<f32>,
    /// Its place among those found by words.
    pub text_rank: Option<u32>,
}

/// Why an index does not become the one that answers.
#[derive(Debug, Error)]
pub enum GoLiveError {
    /// It has nothing in it.
    #[error("the new index is empty; the one before it keeps answering")]
    Empty,
    /// It lacks something, or has too much.
    #[error(
        "the new index has {found} {what} where {expected} are expected; the one before it keeps answering"
    )]
    Counts {
        /// pages, chunks or vectors.
        what: &'static str,
        /// As its builder says.
        expected: u64,
        /// As the store says.
        found: u64,
    },
    /// Its vectors do not find themselves.
    #[error(
        "only {found} of {asked} passages of the new index find themselves; the one before it keeps answering"
    )]
    NotFound {
        /// Passages that were searched for by their own vectors.
        asked: u64,
        /// Those that were found.
        found: u64,
    },
    /// Somebody else has replaced it meanwhile.
    #[error("the index is not being built any more")]
    NotBuilding,
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads, writes and searches documents. A clone is the same.
#[derive(Clone, Debug)]
pub struct Documents {
    database: Database,
    pool: AnyPool,
    residents: Arc<Residents>,
}

impl Documents {
    /// Those of a store that is in use. Clones share what they keep in memory. To be called on a
    /// runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        let pool = database.pool()?;
        Ok(Self { pool, database: database.clone(), residents: Arc::default() })
    }
}

impl IndexStatus {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Live => "live",
            Self::Previous => "previous",
            Self::Failed => "failed",
        }
    }
}
