//! A decision's report as people read it.
//!
//! Must not know where the report came from, nor leave out what the JSON has.

use super::say;
use crate::engine::{Asked, Considered, Report, ReportedRefusal};
use crate::policy::{Explanation, Truth};

/// Tells the whole report.
pub(super) fn tell(report: &Report) {
    told(report, &mut |line| say(line));
}

/// Tells the whole report, every line behind `indent`.
pub(super) fn tell_indented(report: &Report, indent: &str) {
    told(report, &mut |line| say(&format!("{indent}{line}")));
}

/// Where lines go.
type Say<'a> = &'a mut dyn FnMut(&str);

fn told(report: &Report, say: Say<'_>) {
    say(&format!("request   {} {}{}", report.method, report.host, report.path));
    match &report.route {
        Some(route) => {
            say(&format!("route     {} -> upstream `{}`", route.name, route.upstream));
            say(&format!(
                "          evidence at most {} old, {} more while the directory fails",
                route.max_staleness, route.stale_if_error
            ));
        }
        None => say("route     none"),
    }
    tell_considered(&report.considered, say);
    if let Some(caller) = &report.caller {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let who = match caller.kind {
            "machine" => format!("machine `{}`", of(&caller.client_id)),
            "app" => format!(
                "app `{}` for member `{}` of `{}`",
                of(&caller.client_id),
                of(&caller.member_id),
                of(&caller.organization_id)
            ),
            _ => {
                let judged = caller
                    .session_id
                    .as_ref()
                    .map_or_else(|| "any one active session".to_owned(), |id| format!("session `{id}`"));
                format!(
                    "member `{}` of `{}`, judged on {judged}",
                    of(&caller.member_id),
                    of(&caller.organization_id)
                )
            }
        };
        say(&format!("caller    {who}"));
    }
    if let Some(age) = report.evidence_age_ms {
        say(&format!("evidence  {} old", seconds(age)));
        // One lookup alone is what the line above is about.
        if report.facts.len() > 1 {
            for fact in &report.facts {
                say(&format!("          {} {} old", fact.fact, seconds(fact.age_ms)));
            }
        }
    }
    if report.route.as_ref().is_some_and(|route| route.public) {
        say("requires  nothing: the route is public");
    }
    if let Some(asked) = &report.asked {
        say(if report.caller.is_some() {
            "requires  (nothing active to hold it against)"
        } else {
            "requires"
        });
        tell_asked(asked, "          ", (true, true), say);
    }
    for held in &report.held {
        say(&format!("requires  (held against {})", held.against));
        tell_part(&held.requirement, "          ", (true, true), say);
        if let Some(shadow) = &held.shadow {
            let would = if shadow.truth == Truth::True { "would allow" } else { "would refuse" };
            say(&format!("shadow    (tried, not enforced: it {would})"));
            tell_part(shadow, "          ", (true, true), say);
        }
    }
    match &report.refusal {
        None => say("decision  allow"),
        Some(refusal) => refused(refusal, say),
    }
    let readings = "an origin may read this path in another way, and that is not this route's";
    let ambiguous = report.refusal.as_ref().is_some_and(|refusal| refusal.reason == "path_ambiguous");
    if let Some(detail) = report.detail.as_deref().or_else(|| ambiguous.then_some(readings)) {
        say(&format!("          {detail}"));
    }
    for (name, value) in &report.headers {
        say(&format!("injects   {name}: {value}"));
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}s", millis / 1000, millis % 1000)
}

fn refused(refusal: &ReportedRefusal, say: Say<'_>) {
    say(&format!("decision  refuse {} {}: {}", refusal.status, refusal.reason, refusal.title));
    say(&format!("remedy    {}", refusal.remedy));
    if !refusal.acr_values.is_empty() || refusal.max_age_seconds.is_some() {
        let age =
            refusal.max_age_seconds.map_or_else(String::new, |age| format!(", proven at most {age}s ago"));
        say(&format!("          {}{age}", refusal.acr_values.join(" ")));
    }
}

/// Those that nearly matched by name, and how many did not come near.
fn tell_considered(considered: &[Considered], say: Say<'_>) {
    for place in considered.iter().filter(|place| matches!(place.standing, "outranked" | "other_method")) {
        let why = match place.standing {
            "outranked" => "matches, and is outranked",
            _ => "does not take the method",
        };
        say(&format!("          not `{}` ({}{}): {why}", place.route, host(place), place.path));
    }
    let count = |standing: &str| considered.iter().filter(|place| place.standing == standing).count();
    let hosts = count("other_host");
    let paths = count("other_path");
    if hosts + paths > 0 {
        let of_hosts = if hosts > 0 { format!(", {hosts} for another host") } else { String::new() };
        say(&format!("          not {} others: {paths} for another path{of_hosts}", hosts + paths));
    }
}

fn host(place: &Considered) -> &str {
    if place.host == "-" { "" } else { &place.host }
}

fn tell_part(part: &Explanation, indent: &str, (is_root, is_last): (bool, bool), say: Say<'_>) {
    let mark = match part.truth {
        Truth::True => "met",
        Truth::False => "not met",
        Truth::Unknown => "unknown",
    };
    let observed = if part.observed.is_empty() { String::new() } else { format!("  — {}", part.observed) };
    let (branch, below) = branches(indent, is_root, is_last);
    say(&format!("{branch}[{mark}] {}{observed}", part.requirement));
    for (index, inner) in part.parts.iter().enumerate() {
        tell_part(inner, &below, (false, index + 1 == part.parts.len()), say);
    }
}

fn tell_asked(asked: &Asked, indent: &str, (is_root, is_last): (bool, bool), say: Say<'_>) {
    let (branch, below) = branches(indent, is_root, is_last);
    say(&format!("{branch}{}", asked.requirement));
    for (index, inner) in asked.parts.iter().enumerate() {
        tell_asked(inner, &below, (false, index + 1 == asked.parts.len()), say);
    }
}

/// What stands before a line, and before those below it.
fn branches(indent: &str, is_root: bool, is_last: bool) -> (String, String) {
    match (is_root, is_last) {
        (true, _) => (indent.to_owned(), indent.to_owned()),
        (false, true) => (format!("{indent}└─ "), format!("{indent}   ")),
        (false, false) => (format!("{indent}├─ "), format!("{indent}│  ")),
    }
}
