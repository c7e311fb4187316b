//! `portcullis emulate`: the stand-in of the API alone.
//!
//! Must not be mistaken for the real thing; it says what it is when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{Ending, Outcome, fail, runtime, say};
use crate::emulator::{Emulator, EmulatorSettings};

#[derive(Args)]
pub(super) struct EmulateArgs {
    /// Where to answer.
    #[arg(long, default_value = "127.0.0.1:9182")]
    address: SocketAddr,
    /// What it knows, in YAML; absent: two organizations and a session for each persona of the demo.
    #[arg(long)]
    seed: Option<PathBuf>,
}

pub(super) fn run(args: &EmulateArgs) -> Outcome {
    let seed = match &args.seed {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .map_err(|error| fail(format!("`{}` cannot be read: {error}", file.display())))?,
        ),
        None => None,
    };
    runtime()?.block_on(async {
        let emulator = Emulator::start(EmulatorSettings { address: args.address, seed })
            .await
            .map_err(|error| fail(format!("`{}` cannot be listened on: {error}", args.address)))?;
        say(&format!("a stand-in of the Stytch B2B API answers on {}", emulator.url()));
        say(&format!("  project id  {}", emulator.project_id()));
        say(&format!("  secret      {}", emulator.secret()));
        say(&format!("  personas    curl -s {}/_emulator/personas", emulator.url()));
        Ending::new().told().await;
        Ok(())
    })
}
