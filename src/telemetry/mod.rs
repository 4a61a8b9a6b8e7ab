//! What operators see: every metric series, the log, traces.

pub mod line;
pub mod log;
pub mod metrics;
pub mod traces;

mod cost;
mod exemplars;
mod openmetrics;
mod room;
mod shelf;
