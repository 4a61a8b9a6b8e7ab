//! From captured calls to training data: a recipe takes rows through twelve stages to JSONL files
//! that do not change any more.
//!
//! [`dataset::build`] is the whole way: `gather` reads rows and has each examined alone
//! (`examine`: stages 1 to 9), `pool` keeps them, `select` decides what depends on other rows
//! (assembly, duplicates, split, balance), `emit` writes.

pub mod dataset;
mod digest;
mod emit;
mod examine;
mod example;
mod gather;
pub mod hint;
pub mod jobs;
pub mod jsonl;
mod manifest;
pub mod order;
pub mod poller;
mod pool;
mod preview;
pub mod provider;
pub mod publish;
mod read;
pub mod recipe;
mod responses;
mod select;
mod settings;
mod sip;
mod stages;
mod tally;
pub mod trainer;
mod upload;

pub use preview::preview;
