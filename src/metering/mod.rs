//! Prices, money and tokens: what a call costs and how large it is. No I/O, no clock.

mod builtin;
mod cache;
#[cfg(test)]
mod calibration;
pub mod catalogue;
pub mod cost;
mod counter;
mod family;
mod images;
mod json;
pub mod lazy;
pub mod money;
mod outline;
pub mod parts;
mod prompt;
pub mod rates;
mod split;
pub mod tokens;
mod tools;
