//! Prices, money and tokens: what a call costs and how large it is. No I/O, no clock.

mod builtin;
pub mod catalogue;
pub mod cost;
mod counter;
pub mod money;
mod prompt;
pub mod rates;
mod shape;
mod split;
pub mod tokens;
mod tools;
