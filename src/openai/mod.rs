//! The OpenAI API as data: no I/O, no clock, no settings.

pub mod endpoint;
pub mod error;
mod events;
pub mod fold;
#[cfg(test)]
mod fuzzed;
mod keys;
pub mod prune;
pub mod question;
pub mod realtime;
pub mod request;
pub mod response;
pub(crate) mod scan;
pub mod shape;
mod splice;
pub mod stream;
pub(crate) mod unescape;
pub mod usage;
mod walk;
