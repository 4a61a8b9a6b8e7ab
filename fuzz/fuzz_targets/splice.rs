//! A request into which the gateway writes its fields.
#![no_main]

use weir::openai;

#[allow(dead_code, reason = "each target runs one of the bodies")]
#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::splice(data));
