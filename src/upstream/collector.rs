//! The way to the operator's own collector of traces.

use std::time::Duration;

/// A client that gives up on a call after `patience`. Redirects are answers like any other: what is
/// sent along may be a secret.
///
/// # Errors
/// A sentence, when TLS cannot be set up.
pub fn client(patience: Duration) -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(patience)
        .timeout(patience)
        .build()
        .map_err(|error| format!("no client for traces: {error}"))
}
