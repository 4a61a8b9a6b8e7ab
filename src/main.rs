//! The `weir` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything opens a TLS connection: one provider for the whole process. It fails only
    // when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    weir::cli::run()
}
