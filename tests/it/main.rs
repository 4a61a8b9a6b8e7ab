//! The gateway as its users meet it: the real process between real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attempts;
mod bad_http;
mod bad_input;
mod control;
mod events;
mod fidelity;
mod http2;
mod map;
mod passthrough;
mod pressure;
mod process;
mod secure;
mod smuggling;
mod streams;
mod support;
mod tokens;
