//! `portcullis check`: every mistake of a configuration at once.
//!
//! Must not need anything a configuration names but does not hold to be running.

use clap::{Args, ValueEnum};

use super::{ConfigArgs, Failed, Outcome, complain, say};
use crate::app::check_files;
use crate::config::{SecretPolicy, load, render_json};

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How mistakes are told.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Take secrets, keys and certificates that are not there as given: for checking where they are not at hand.
    #[arg(long)]
    without_secrets: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

pub(super) fn run(args: &CheckArgs) -> Outcome {
    let secrets = if args.without_secrets { SecretPolicy::NotNeeded } else { SecretPolicy::Required };
    let config = match args.format {
        Format::Human => args.config.load(secrets)?,
        Format::Json => match load(&args.config.options(secrets)) {
            Ok(config) => config,
            Err(invalid) => {
                say(&render_json(&invalid.diagnostics));
                return Err(Failed);
            }
        },
    };
    let unusable = if args.without_secrets { Vec::new() } else { check_files(&config) };
    if !unusable.is_empty() {
        match args.format {
            Format::Human => unusable.iter().for_each(|message| complain(&format!("error: {message}"))),
            Format::Json => {
                let told =
                    unusable.iter().map(|message| serde_json::json!({ "code": "C004", "message": message, "file": args.config.config }));
                say(&serde_json::Value::from_iter(told).to_string());
            }
        }
        return Err(Failed);
    }
    match args.format {
        Format::Human => {
            say(&format!("{}: {} routes, no mistakes", args.config.config.display(), config.routes.len()));
        }
        Format::Json => say("[]"),
    }
    Ok(())
}
