//! Documents to vectors: sources of pages, what is made of them, and when.

pub mod embed;
