//! The program: runs a command and turns its outcome into an exit code.
//!
//! Must not do anything else.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
