//! `portcullis schema`: what the configuration may hold, for editors and for reading.
//!
//! Must not differ from what is read.

use clap::Args;

use super::{Outcome, say};
use crate::config::{json_schema, markdown_reference};

#[derive(Args)]
pub(super) struct SchemaArgs {
    /// Print the reference as Markdown instead.
    #[arg(long)]
    markdown: bool,
}

pub(super) fn run(args: &SchemaArgs) -> Outcome {
    let text = if args.markdown { markdown_reference() } else { json_schema() };
    say(text.trim_end());
    Ok(())
}
