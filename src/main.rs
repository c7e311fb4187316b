//! The program: runs a command and turns its outcome into an exit code.
//!
//! Must not do anything else.

use std::process::ExitCode;

/// Chosen by measurement: docs/decisions has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
