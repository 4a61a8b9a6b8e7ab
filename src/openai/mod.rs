//! The OpenAI API as data: no I/O, no clock, no settings.

pub mod error;
pub mod usage;
