//! `portcullis config`: the configuration as it would be in force.
//!
//! Must not show a secret.

use clap::{Args, ValueEnum};

use super::{ConfigArgs, Outcome, fail, say};
use crate::config::{SecretPolicy, with_defaults};

#[derive(Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Output format.
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Leave out what nobody set.
    #[arg(long)]
    set_only: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Human,
    Json,
}

pub(super) fn run(args: &ShowArgs) -> Outcome {
    let loaded = args.config.load_whole(SecretPolicy::NotNeeded)?;
    let values = if args.set_only { loaded.set } else { with_defaults(&loaded.set, &loaded.derived) };
    if matches!(args.format, Format::Json) {
        say(&serde_json::to_string_pretty(&values).map_err(fail)?);
        return Ok(());
    }
    let width = values.iter().map(|value| value.path.chars().count()).max().unwrap_or_default();
    for value in &values {
        let shown = value.value.as_str().map_or_else(|| value.value.to_string(), str::to_owned);
        say(&format!("{:width$}  {shown}  # {}", value.path, value.origin));
    }
    Ok(())
}
