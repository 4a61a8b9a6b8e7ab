//! Documents to vectors: sources of pages, what is made of them, and when.

pub mod chunk;
pub mod embed;
pub mod fetch;
pub mod firecrawl;
pub mod page;
pub mod refresh;
pub mod schedule;
pub mod search;
pub mod source;
pub mod tally;
