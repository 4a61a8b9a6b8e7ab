//! The gateway as its users meet it: the real process between real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attempts;
mod bad_http;
mod bad_input;
mod canary;
mod capture;
mod control;
mod dashboards;
mod datasets;
mod documents;
mod erase;
mod events;
mod fees;
mod fidelity;
mod fine_tune;
mod fine_tune_crashes;
mod hooks;
mod http2;
mod keys;
mod ledger;
mod limits;
mod map;
mod models;
mod objects;
mod passthrough;
mod policies;
mod pressure;
mod process;
mod promotion;
mod reload;
mod replay;
mod routing;
mod secure;
mod shared_limits;
mod smuggling;
mod sources;
mod spool;
mod store;
mod streams;
mod suggest;
mod support;
mod token_corpus;
mod tokens;
mod unattended;
mod webhooks;
