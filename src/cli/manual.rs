//! `portcullis completions` and `portcullis man`: what packages install beside the program.
//!
//! Must not describe anything by hand: both are made of the command line's own description.

use std::io;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::{Outcome, described, fail, say};

#[derive(Args)]
pub(super) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// The folder; it is made if it is not there.
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionArgs) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut described(), "portcullis", &mut text);
    say(String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

pub(super) fn pages(args: &ManArgs) -> Outcome {
    std::fs::create_dir_all(&args.folder)
        .and_then(|()| write_pages(args))
        .map_err(|error| fail(format!("`{}` cannot be written to: {error}", args.folder.display())))
}

fn write_pages(args: &ManArgs) -> io::Result<()> {
    clap_mangen::generate_to(described(), &args.folder)
}
