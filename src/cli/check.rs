//! `portcullis check`: every mistake of a configuration at once, and what a reviewer would ask about.
//!
//! Must not need anything a configuration names but does not hold to be running.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{ConfigArgs, Failed, Outcome, complain, fail, runtime, say, wants_colour};
use crate::app::{ask_for_policy, check_files};
use crate::config::{Config, SecretPolicy, load_with_warnings, render_json};
use crate::policy::{RbacPolicy, Requirement, Route, Span};
use crate::stytch::read_policy;

/// The default `sessions.fresh_for` and `stale_while_revalidate` together.
const USUAL_STALENESS: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How mistakes are told.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Fail on warnings too.
    #[arg(long)]
    strict: bool,
    /// Hold roles and permissions against the project's RBAC policy, asked of the API.
    #[arg(long, conflicts_with = "rbac")]
    ask: bool,
    /// The same against a policy in a file, as the API answers it.
    #[arg(long, value_name = "FILE")]
    rbac: Option<PathBuf>,
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
    let mut loaded = match (load_with_warnings(&args.config.options(secrets)), args.format) {
        (Ok(loaded), _) => loaded,
        (Err(invalid), Format::Human) => return Err(args.config.complain_about(&invalid)),
        (Err(invalid), Format::Json) => {
            say(&render_json(&invalid.diagnostics));
            return Err(Failed);
        }
    };
    if let Some(policy) = policy(args, &loaded.config)? {
        loaded.hold_against(&policy);
    }
    let config = &loaded.config;
    let unusable = if args.without_secrets { Vec::new() } else { check_files(config) };
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
    let count = loaded.warnings.len();
    match args.format {
        Format::Human => {
            if count > 0 {
                complain(&loaded.render(wants_colour()));
                complain(&format!("\n{count} {}", if count == 1 { "warning" } else { "warnings" }));
            }
            let count = config.routes.len();
            let routes = if count == 1 { "route" } else { "routes" };
            say(&format!("{}: {count} {routes}, no mistakes", args.config.config.display()));
            config.routes.iter().filter_map(|route| cost(route, config)).for_each(|line| say(&line));
        }
        Format::Json => say(&render_json(&loaded.warnings)),
    }
    if args.strict && count > 0 { Err(Failed) } else { Ok(()) }
}

/// The policy to hold roles against, if one is asked for.
fn policy(args: &CheckArgs, config: &Config) -> Result<Option<Arc<RbacPolicy>>, Failed> {
    if let Some(file) = &args.rbac {
        let body = std::fs::read(file)
            .map_err(|error| fail(format!("`{}` cannot be read: {error}", file.display())))?;
        let policy = read_policy(&body)
            .map_err(|error| fail(format!("`{}` is no RBAC policy: {error}", file.display())))?;
        return Ok(Some(Arc::new(policy)));
    }
    if !args.ask {
        return Ok(None);
    }
    let asked = runtime()?.block_on(ask_for_policy(config)).map_err(fail)?;
    asked.map(Some).map_err(|error| fail(format!("the RBAC policy cannot be asked for: {error}")))
}

/// The most lookups that a route with a shorter `max_staleness` than usual costs, in calls a minute.
fn cost(route: &Route, config: &Config) -> Option<String> {
    let requirement = route.access.requirement()?;
    // What is only tried looks up the same.
    let asks = |part: &dyn Fn(&Requirement) -> bool| {
        requirement.any_part(&part) || route.shadow.as_ref().is_some_and(|shadow| shadow.any_part(&part))
    };
    let ages = route.freshness;
    if ages.max_staleness >= USUAL_STALENESS {
        return None;
    }
    let per_minute = |every: Duration| format!("{:.3}", 60.0 / every.as_secs_f64().max(0.001));
    let per_minute = |every| per_minute(every).trim_end_matches('0').trim_end_matches('.').to_owned();
    let of_list = per_minute(ages.fresh_for.min(ages.max_staleness));
    let of_fact = per_minute(config.stytch.rbac.ages().within(ages).fresh_for);
    let mut organization = Vec::new();
    let mut project = String::new();
    if asks(&Requirement::is_permission) {
        organization.push(format!("{of_fact} for its policy"));
        project = format!("; {of_fact} for the project's policy");
    }
    if asks(&Requirement::is_organization) {
        organization.push(format!("{of_fact} for its names"));
        let either = |part: &Requirement| matches!(part, Requirement::OrganizationFrom(from) if from.by.slug && from.by.external_id);
        if asks(&either) {
            organization.push(format!("{of_fact} for each name it is called by"));
        }
    }
    let organization = if organization.is_empty() {
        String::new()
    } else {
        format!("; per organization {}", organization.join(" and "))
    };
    Some(format!(
        "cost: route `{}` (evidence at most {} old) makes at most these calls a minute: per member {of_list} for the \
         session list; per token of an app {of_list} for its introspection{organization}{project}",
        route.name,
        Span(ages.max_staleness),
    ))
}
