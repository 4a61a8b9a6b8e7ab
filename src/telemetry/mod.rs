//! What operators see: every metric series, and the log.

pub mod line;
pub mod log;
pub mod metrics;

mod cost;
mod room;
mod shelf;
