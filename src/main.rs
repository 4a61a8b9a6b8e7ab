//! The `weir` command.

use std::process::ExitCode;

// Measured beside the system's allocator: about 1 us less CPU per request, the same memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything opens a TLS connection: one provider for the whole process. It fails only
    // when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    weir::cli::run()
}
