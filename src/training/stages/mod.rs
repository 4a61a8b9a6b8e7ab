//! The stages that rows go through, each a pure function with a reason for whatever it drops or
//! rewrites.

pub(super) mod balance;
pub(super) mod chain;
pub(super) mod consent;
pub(super) mod contamination;
pub(super) mod near;
pub(super) mod normalise;
pub(super) mod outcome;
pub(super) mod quality;
pub(super) mod redact;
pub(super) mod schema;
pub(super) mod split;
pub(super) mod structure;
