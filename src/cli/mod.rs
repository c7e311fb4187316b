//! The commands, one file each.
//!
//! Must not decide or check anything itself; commands call the same code the gateway runs.

mod admin;
mod callers;
mod cases;
mod check;
mod config;
mod coverage;
mod demo;
mod emulate;
mod explain;
mod health;
mod inject;
mod manual;
mod report;
mod routes;
mod run;
mod schema;
mod test;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, Invalid, LoadOptions, Loaded, SecretPolicy, load_with_warnings};

/// An authenticating reverse proxy and sidecar for teams that sign in with Stytch B2B.
#[derive(Parser)]
#[command(name = "portcullis", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Run(ConfigArgs),
    /// Check a configuration: every mistake at once, exit code 1 if there is one.
    Check(check::CheckArgs),
    /// Print the configuration as it would be in force: every value and where it is from, secrets hidden.
    Config(config::ShowArgs),
    /// Say which route a request takes, what it requires, and what would come of it.
    Explain(Box<explain::ExplainArgs>),
    /// Hold case files against the policy: who asks for what, and what shall come of it. Exit code 1 if anything differs.
    Test(test::TestArgs),
    /// List the routes in the order they are tried.
    Routes(ConfigArgs),
    /// Run everything in one process: API stand-in, echo origin, gateway. Prints ready-made requests.
    Demo(demo::DemoArgs),
    /// Run the stand-in of the Stytch B2B API alone.
    Emulate(emulate::EmulateArgs),
    /// Print the JSON Schema of the configuration.
    Schema(schema::SchemaArgs),
    /// Ask a running gateway whether it is ready; exit code 1 if it is not. For health checks in containers.
    Health(health::HealthArgs),
    /// Put the sidecar into the Deployments of a manifest, and print it.
    Inject(inject::InjectArgs),
    /// Print completions for a shell.
    Completions(manual::CompletionArgs),
    /// Write the manual pages into a folder.
    Man(manual::ManArgs),
    /// Tell how a running gateway is; exit code 1 unless it is healthy.
    Status(admin::StatusArgs),
    /// Have a running gateway read its configuration again, and tell what became of it.
    Reload(admin::AdminArgs),
    /// Have a running gateway say that it will leave, and wait until nothing is under way. It goes on answering; what ends
    /// it is a signal. For `preStop`.
    Drain(admin::DrainArgs),
    /// Print the version.
    Version,
}

/// Where the configuration is.
#[derive(Args, Clone)]
struct ConfigArgs {
    /// The configuration file: YAML, TOML or JSON by its ending.
    #[arg(short, long, env = "PORTCULLIS_CONFIG", default_value = "portcullis.yaml")]
    config: PathBuf,
    /// Set a value: `--set sessions.fresh_for=5s`. Outranks the file and the environment.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
}

/// A command that did not do what it was asked for, told already.
struct Failed;

type Outcome = Result<(), Failed>;

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    // Cannot fail: nothing else installs one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Routes(args) => routes::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Emulate(args) => emulate::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::pages(&args),
        Command::Status(args) => admin::status(&args),
        Command::Reload(args) => admin::reload(&args),
        Command::Drain(args) => admin::drain(&args),
        Command::Version => {
            say(concat!("portcullis ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed) => ExitCode::FAILURE,
    }
}

/// The command line as it is described.
fn described() -> clap::Command {
    Cli::command()
}

impl ConfigArgs {
    /// The configuration, or its mistakes on standard error.
    fn load(&self, secrets: SecretPolicy) -> Result<Config, Failed> {
        self.load_whole(secrets).map(|loaded| loaded.config)
    }

    /// As [`load`](Self::load), with what it was read from.
    fn load_whole(&self, secrets: SecretPolicy) -> Result<Loaded, Failed> {
        load_with_warnings(&self.options(secrets)).map_err(|invalid| self.complain_about(&invalid))
    }

    fn complain_about(&self, invalid: &Invalid) -> Failed {
        complain(&invalid.render(wants_colour()));
        let count = invalid.diagnostics.len();
        complain(&format!("\n{count} {} found", if count == 1 { "mistake" } else { "mistakes" }));
        Failed
    }

    fn options(&self, secrets: SecretPolicy) -> LoadOptions {
        LoadOptions { file: self.config.clone(), overrides: self.overrides.clone(), secrets }
    }
}

/// A line on standard output. A reader that went away is no error of ours.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// A line on standard error.
fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn fail(error: impl std::fmt::Display) -> Failed {
    complain(&format!("error: {error}"));
    Failed
}

fn wants_colour() -> bool {
    let off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !off && std::io::stderr().is_terminal()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A runtime for commands that need one.
const LOOK_EVERY: u32 = 7;

fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    // With a core to itself, as beside an application it often has, it needs nothing of what lets several threads share
    // work: affinity and the quota of a container are heeded.
    let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let mut builder = if alone {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder
        .enable_all()
        // How many turns of tasks go by before sockets are looked at again: while some keep a core busy without a pause, and
        // a turn takes long, everybody else waits for that.
        .event_interval(LOOK_EVERY)
        .build()
        .map_err(fail)
}

/// What tells the process to end. From its making on no such signal is lost, nor ends the process by itself.
struct Ending {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Ending {
    /// Must be called inside a runtime.
    fn new() -> Self {
        let of = |kind| signal(kind).ok();
        Self { terminate: of(SignalKind::terminate()), interrupt: of(SignalKind::interrupt()) }
    }

    /// Resolves when the process is told to end; each telling counts once.
    async fn told(&mut self) {
        let next = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            _ = next(&mut self.terminate) => {}
            _ = next(&mut self.interrupt) => {}
        }
    }
}
