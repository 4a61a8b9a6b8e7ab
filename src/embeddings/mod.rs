//! Documents to vectors: sources of pages, what is made of them, and when.

pub mod chunk;
pub mod embed;
pub mod schedule;
pub mod source;
pub mod tally;
