//! From captured calls to training data: a recipe takes rows through twelve stages to JSONL files
//! that do not change any more.
//!
//! [`dataset::build`] is the whole way: `gather` reads rows and has each examined alone
//! (`examine`: stages 1 to 9), `pool` keeps them, `select` decides what depends on other rows
//! (assembly, duplicates, split, balance), `emit` writes.
//!
//! And on to tuned models: [`order`] puts a job in line, [`poller`] moves it on by the states of [`jobs`]
//! at a [`trainer`].

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
pub mod promotion;
pub mod provider;
pub mod publish;
mod read;
pub mod recipe;
mod responses;
mod select;
mod settings;
pub mod show;
mod sip;
mod stages;
pub mod suggest;
mod tally;
pub mod trainer;
mod upload;

pub use preview::preview;
