//! `portcullis completions` and `portcullis man`: what packages install beside the program, and the reference under `docs/`.
//!
//! Must not describe anything by hand: both are made of the command line's own description.

use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{Arg, Args, Command};
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
    #[arg(required_unless_present = "markdown")]
    folder: Option<PathBuf>,
    /// Print one page of Markdown instead.
    #[arg(long, conflicts_with = "folder")]
    markdown: bool,
}

pub(super) fn completions(args: &CompletionArgs) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut described(), "portcullis", &mut text);
    say(String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

pub(super) fn pages(args: &ManArgs) -> Outcome {
    let Some(folder) = &args.folder else {
        say(markdown(&described()).trim_end());
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(described(), folder))
        .map_err(|error| fail(format!("`{}` cannot be written to: {error}", folder.display())))
}

/// The reference of the command line.
fn markdown(program: &Command) -> String {
    let mut page = String::from(
        "# Command line\n\nMade by `portcullis man --markdown`; a test compares. Every command has `--help`, and a manual page by \
         `portcullis man FOLDER`.\n\n| command | |\n|---|---|\n",
    );
    for command in program.get_subcommands() {
        let name = command.get_name();
        page += &format!("| [`{name}`](#portcullis-{name}) | {} |\n", told(command.get_about()));
    }
    for command in program.get_subcommands() {
        let mut command = command.clone().bin_name(format!("portcullis {}", command.get_name()));
        let usage = command.render_usage().to_string();
        page += &format!("\n## portcullis {}\n\n{}\n\n", command.get_name(), told(command.get_about()));
        page += &format!("```text\n{}\n```\n", usage.trim_start_matches("Usage: "));
        let mut rows = command.get_arguments().filter(|argument| argument.get_id() != "help").peekable();
        if rows.peek().is_some() {
            page += "\n| | | default |\n|---|---|---|\n";
        }
        for argument in rows {
            page += &format!("| {} | {} | {} |\n", name(argument), meaning(argument), default(argument));
        }
    }
    page
}

fn name(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default().join(" ");
    if argument.is_positional() {
        return format!("`{values}`");
    }
    let takes_values = argument.get_action().takes_values();
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let long = argument.get_long().unwrap_or_default();
    let value = if takes_values { format!(" {values}") } else { String::new() };
    format!("{short}`--{long}{value}`")
}

fn meaning(argument: &Arg) -> String {
    let mut meaning = told(argument.get_help());
    let possible = argument.get_possible_values();
    if argument.get_action().takes_values() && !possible.is_empty() {
        let names: Vec<String> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
        meaning += &format!(". One of {}", names.join(", "));
    }
    meaning
}

fn default(argument: &Arg) -> String {
    let mut default: Vec<String> =
        argument.get_env().map(|variable| format!("`${}`", variable.to_string_lossy())).into_iter().collect();
    if argument.get_action().takes_values() {
        default.extend(
            argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())),
        );
    }
    default.join(", else ")
}

/// In one cell of a table.
fn told(text: Option<&StyledStr>) -> String {
    text.map(|text| text.to_string().replace('\n', " ").replace('|', "\\|")).unwrap_or_default()
}
