//! What a security reviewer would ask about a configuration that can be run.
//!
//! Must not refuse anything: every finding is a warning with a code, and can be silenced where it stands.

use std::time::Duration;

use ipnet::IpNet;

use super::checked::Config;
use super::diagnostics::{Code, Problem};
use super::tree::Path;
use crate::policy::{
    Access, FactorRequirement, HostPattern, LetterCase, PathPattern, RbacPolicy, Requirement, Route,
    RouteTable, contradiction,
};

/// Words in names and paths of routes that lead to something worth a fresh factor.
const ADMIN_WORDS: [&str; 9] =
    ["admin", "settings", "billing", "internal", "manage", "console", "sudo", "superuser", "root"];
/// Longer than this and a revoked session may work through an outage that nobody noticed.
const LONG_OUTAGE: Duration = Duration::from_secs(300);

/// Everything worth a question.
pub(super) fn lint(config: &Config) -> Vec<Problem> {
    let table = RouteTable::new(config.routes.iter().cloned());
    let places: Vec<Place<'_>> =
        table.iter().map(|(host, path, route)| Place { host, path, route }).collect();
    let mut found = Vec::new();
    for (index, route) in config.routes.iter().enumerate() {
        let path = Path::default().key("routes").index(index);
        found.extend(public_shadow(route, &places, &path));
        found.extend(unreachable(route, &places, &path));
        found.extend(weaker_below(route, &places, &path));
        found.extend(other_methods(route, &places, &path));
        found.extend(case_twins(route, &places, &path));
        if let Access::Require(requirement) = &route.access {
            // Its parts stand elsewhere than they were written if a shadow was among them.
            let as_written = route.shadow.is_none();
            let warning = ageless_factor(route, requirement, &path.key("require"));
            found.extend(warning.map(|warning| match as_written {
                true => warning,
                false => Problem { path: path.key("require"), ..warning },
            }));
        }
        // A shadow among the parts of what is required is all of that and more; what was said of it is not said again.
        let mut is_wide = false;
        let mut is_impossible = false;
        for (requirement, key) in asked(route) {
            let wide = wide_network(requirement, &path.key(key)).filter(|_| !is_wide);
            is_wide |= wide.is_some();
            found.extend(wide);
            let why = contradiction(requirement, &route.matches.hosts).filter(|_| !is_impossible);
            is_impossible |= why.is_some();
            if let Some(why) = why {
                let what = if key == "shadow" { "tries" } else { "requires" };
                let message = format!("nobody can meet what route `{}` {what}: {why}", route.name);
                let hint = "`portcullis explain` shows each part";
                found.push(warn(Code::Contradiction, path.key(key), message, hint));
            }
        }
        if route.freshness.stale_if_error > LONG_OUTAGE
            && route.freshness.stale_if_error != config.freshness.stale_if_error
        {
            found.push(long_outage(path.key("stale_if_error")));
        }
    }
    if config.freshness.stale_if_error > LONG_OUTAGE {
        found.push(long_outage(Path::default().key("sessions").key("stale_if_error")));
    }
    found
}

/// What a route requires and what it tries, each with its key.
fn asked(route: &Route) -> Vec<(&Requirement, &'static str)> {
    let required = match &route.access {
        Access::Public => None,
        Access::Require(requirement) => Some((requirement, "require")),
    };
    required.into_iter().chain(route.shadow.iter().map(|shadow| (shadow, "shadow"))).collect()
}

/// Roles and permissions that the project's policy does not know.
pub(super) fn lint_roles(config: &Config, policy: &RbacPolicy) -> Vec<Problem> {
    let mut found = Vec::new();
    for (index, route) in config.routes.iter().enumerate() {
        let path = Path::default().key("routes").index(index);
        for (requirement, key) in asked(route) {
            for (leaf, _) in leaves(requirement, &path.key(key)) {
                let problem = match leaf {
                    Requirement::Role(role) if !policy.roles.contains(role) => Some((
                        format!(
                            "route `{}` asks for the role `{role}`, which the project's policy does not know",
                            route.name
                        ),
                        "a role of one organization's own policy is not in the project's; then silence this",
                    )),
                    Requirement::Permission(wanted) => {
                        let actions = policy.resources.get(&wanted.resource);
                        // Resources of Stytch's own are not always listed.
                        let own = wanted.resource.starts_with("stytch.");
                        (!own && !actions.is_some_and(|actions| actions.contains(&wanted.action))).then(|| {
                            let message = format!(
                                "route `{}` asks to `{}` `{}`, which is no action of a resource of the project's policy",
                                route.name, wanted.action, wanted.resource
                            );
                            (message, "nobody will ever be granted it")
                        })
                    }
                    _ => None,
                };
                if let Some((message, hint)) = problem {
                    found.push(warn(Code::UnknownRole, path.key(key), message, hint));
                }
            }
        }
    }
    found
}

/// One place of the route table, in the order it is tried.
#[derive(Clone, Copy)]
struct Place<'a> {
    host: &'a HostPattern,
    path: &'a PathPattern,
    route: &'a Route,
}

/// A public route that takes requests which a route with a requirement was written for.
fn public_shadow(route: &Route, places: &[Place<'_>], path: &Path) -> Option<Problem> {
    if !matches!(route.access, Access::Public) {
        return None;
    }
    let mut before: Vec<Place<'_>> = Vec::new();
    for place in places {
        if place.route.name == route.name {
            before.push(*place);
        }
        // What takes everything is there to be excepted from.
        let guarded = matches!(place.route.access, Access::Require(_)) && !place.path.is_catch_all();
        let taken = before.iter().find(|earlier| {
            earlier.host.overlaps(place.host)
                && earlier.path.overlaps(place.path)
                && methods_meet(earlier.route, place.route)
        });
        if let Some(earlier) = taken.filter(|_| guarded) {
            let message = format!(
                "public route `{}` ({}) takes requests that `{}` ({}) would ask for a session",
                route.name, earlier.path, place.route.name, place.path
            );
            let hint = "make the public path narrower, or say that it is meant: `# allow W101: why`";
            return Some(warn(Code::PublicShadow, path.key("public"), message, hint));
        }
    }
    None
}

/// An exact path that asks for more than the route that takes what lies below it, or that opens an administrator's path.
fn weaker_below(route: &Route, places: &[Place<'_>], path: &Path) -> Option<Problem> {
    places.iter().filter(|place| place.route.name == route.name).find_map(|place| {
        // `/report.csv` has nothing below it.
        let is_file = place.path.as_str().rsplit('/').next().is_some_and(|last| last.contains('.'));
        let exact = place.path.exact().filter(|text| *text != "/" && !is_file)?;
        let bare = exact.strip_suffix('/').unwrap_or(exact);
        let below = PathPattern::parse(&format!("{bare}/**")).ok()?;
        let around = places.iter().find(|other| {
            other.host.overlaps(place.host) && other.path.covers(&below) && methods_meet(other.route, route)
        })?;
        let (message, hint) = match (route.access.requirement(), around.route.access.requirement()) {
            (Some(here), there) if asks_more(here, there) => {
                let by = if there.is_none() { "public" } else { "weaker" };
                let message = format!(
                    "`{exact}/…` is not covered by route `{}` ({exact}): the {by} route `{}` ({}) takes it",
                    route.name, around.route.name, around.path
                );
                let is_there = *around.path == below;
                let hint = if is_there {
                    format!("let `{bare}/**` ask for the same")
                } else {
                    format!("did you mean `{bare}/**`?")
                };
                (message, hint)
            }
            (None, Some(_)) if sounds_administrative(route) => {
                let message = format!(
                    "`{exact}` is public, and what lies below it asks for more: route `{}` ({}) takes it",
                    around.route.name, around.path
                );
                (message, format!("say that it is meant: `# allow {}: why`", Code::WeakerBelow.text()))
            }
            _ => return None,
        };
        Some(warn(Code::WeakerBelow, path.key("match").key("path"), message, &hint))
    })
}

/// Returns true if `one` asks for everything that `other` asks for and for more, or for something fresher. A public route asks
/// for nothing.
fn asks_more(one: &Requirement, other: Option<&Requirement>) -> bool {
    fn parts(requirement: &Requirement) -> Vec<&Requirement> {
        match requirement {
            Requirement::All(all) => all.iter().flat_map(parts).collect(),
            Requirement::Named { requirement, .. } => parts(requirement),
            // Whatever is asked, the caller is somebody.
            Requirement::Authenticated => Vec::new(),
            part => vec![part],
        }
    }
    let Some(other) = other else { return true };
    let one = parts(one);
    let other = parts(other);
    let contains_or_exceeds =
        |part: &&Requirement| one.contains(part) || one.iter().any(|own| is_fresher(own, part));
    let exceeds = |part: &&Requirement| !one.contains(part);
    other.iter().all(contains_or_exceeds) && (one.len() > other.len() || other.iter().any(exceeds))
}

/// Whether `one` asks for the same as `other`, proven or begun later.
fn is_fresher(one: &Requirement, other: &Requirement) -> bool {
    let is_shorter = |one: Option<Duration>, other: Option<Duration>| {
        one.is_some_and(|one| other.is_none_or(|other| one < other))
    };
    match (one, other) {
        (Requirement::Mfa { max_age: one }, Requirement::Mfa { max_age: other }) => is_shorter(*one, *other),
        (Requirement::SessionAge { max: one }, Requirement::SessionAge { max: other }) => one < other,
        (Requirement::Factor(one), Requirement::Factor(other)) => {
            let ageless = |factor: &FactorRequirement| FactorRequirement { max_age: None, ..factor.clone() };
            ageless(one) == ageless(other) && is_shorter(one.max_age, other.max_age)
        }
        _ => false,
    }
}

/// A public route for some methods whose path a wider route would take for the others: those are refused with 405.
fn other_methods(route: &Route, places: &[Place<'_>], path: &Path) -> Option<Problem> {
    if !matches!(route.access, Access::Public) || route.matches.methods.is_empty() {
        return None;
    }
    let own = |place: &&Place<'_>| place.route.name == route.name;
    places.iter().filter(own).find_map(|place| {
        let siblings = places.iter().filter(|other| other.host == place.host && other.path == place.path);
        if siblings.clone().any(|other| other.route.name != route.name) {
            return None;
        }
        let wider = places.iter().find(|other| {
            other.route.name != route.name
                && other.host.overlaps(place.host)
                && other.path.covers(place.path)
                && !route.matches.takes_methods_of(&other.route.matches)
        })?;
        let methods: Vec<&str> = route.matches.methods.iter().map(http::Method::as_str).collect();
        let message = format!(
            "other methods than {} of `{}` are refused with 405, although route `{}` ({}) would take them",
            methods.join(", "),
            place.path,
            wider.route.name,
            wider.path
        );
        let hint = "methods never rank: add a route of the same path for the other methods";
        Some(warn(Code::OtherMethods, path.key("match").key("methods"), message, hint))
    })
}

/// Two patterns that differ in letter case alone: where the origin's way with case is not known, both are refused.
fn case_twins(route: &Route, places: &[Place<'_>], path: &Path) -> Option<Problem> {
    let own: Vec<&Place<'_>> = places.iter().filter(|place| place.route.name == route.name).collect();
    let twin = own.iter().find_map(|place| {
        let twin = places.iter().find(|other| {
            other.route.name != route.name
                && other.host == place.host
                && other.path != place.path
                && other.path.is_same_ignoring_case(place.path)
        });
        twin.map(|twin| (place.path, twin))
    });
    let (pattern, twin) = twin.filter(|_| route.letter_case != LetterCase::Sensitive)?;
    let message = format!(
        "`{pattern}` and `{}` of route `{}` differ in letter case alone: requests for them are refused",
        twin.path, twin.route.name
    );
    let hint = "if the application tells cases apart, give its upstream `letter_case: sensitive`";
    Some(warn(Code::CaseTwins, path.key("match").key("path"), message, hint))
}

fn methods_meet(one: &Route, other: &Route) -> bool {
    let one = &one.matches.methods;
    let other = &other.matches.methods;
    one.is_empty() || other.is_empty() || one.iter().any(|method| other.contains(method))
}

/// A route no request reaches: what it matches is reserved, or taken by others that are tried before it.
fn unreachable(route: &Route, places: &[Place<'_>], path: &Path) -> Option<Problem> {
    let own = || places.iter().enumerate().filter(|(_, place)| place.route.name == route.name);
    let mut taker = None;
    for (index, place) in own() {
        let reserved = place
            .path
            .as_str()
            .split('/')
            .nth(1)
            .is_some_and(|first| first.eq_ignore_ascii_case(".portcullis"));
        if reserved {
            taker = taker.or_else(|| Some("the gateway's own pages".to_owned()));
            continue;
        }
        let earlier = places.get(..index).unwrap_or_default();
        let by = taken_by(place, earlier, places)?;
        taker = taker.or(Some(by));
    }
    let taker = taker?;
    let message = format!("no request reaches route `{}`: all it would take is taken by {taker}", route.name);
    Some(warn(
        Code::Unreachable,
        path.key("match"),
        message,
        "`portcullis routes` shows the order they are tried in",
    ))
}

/// Who takes everything a place would, if somebody does.
fn taken_by(place: &Place<'_>, earlier: &[Place<'_>], all: &[Place<'_>]) -> Option<String> {
    let covering = |candidate: &Place<'_>, host_covers: bool| {
        host_covers && candidate.route.name != place.route.name && candidate.path.covers(place.path)
    };
    let any = |host: &HostPattern| matches!(host, HostPattern::Any | HostPattern::Unnamed);
    let same_host: Vec<&Place<'_>> = earlier
        .iter()
        .filter(|earlier| {
            covering(earlier, earlier.host == place.host || (any(earlier.host) && any(place.host)))
        })
        .collect();
    if let Some(one) =
        same_host.iter().find(|earlier| earlier.route.matches.takes_methods_of(&place.route.matches))
    {
        return Some(format!("`{}`", one.route.name));
    }
    // Several of the same place, each for some of the methods: with none left over, nothing comes through.
    let methods = &place.route.matches.methods;
    let same_place = || same_host.iter().filter(|earlier| earlier.path == place.path);
    let each_taken = |method: &http::Method| {
        same_place().any(|earlier| {
            earlier.route.matches.methods.is_empty() || earlier.route.matches.methods.contains(method)
        })
    };
    if !methods.is_empty() && methods.iter().all(each_taken) {
        let names: Vec<String> = same_place().map(|earlier| format!("`{}`", earlier.route.name)).collect();
        return Some(names.join(" and "));
    }
    // Where hosts are named and this one names none, it answers only for those; if each takes the path, nobody is left.
    let named: Vec<&Place<'_>> = all.iter().filter(|other| other.host.is_named()).collect();
    let open = all.iter().any(|other| *other.host == HostPattern::Any);
    if *place.host != HostPattern::Unnamed || named.is_empty() || open {
        return None;
    }
    let takes = |candidate: &&&Place<'_>| {
        candidate.path.covers(place.path) && candidate.route.matches.takes_methods_of(&place.route.matches)
    };
    let all_taken = named
        .iter()
        .all(|host| named.iter().filter(|other| other.host == host.host).any(|other| takes(&other)));
    all_taken.then(|| "every route that names a host".to_owned())
}

/// A factor of whatever age where one would want a fresh one.
fn ageless_factor(route: &Route, requirement: &Requirement, path: &Path) -> Option<Problem> {
    if !sounds_administrative(route) {
        return None;
    }
    let (ageless, at) = leaves(requirement, path).into_iter().find(|(leaf, _)| match leaf {
        Requirement::Factor(factor) => factor.max_age.is_none(),
        Requirement::Mfa { max_age } => max_age.is_none(),
        _ => false,
    })?;
    let message = format!("route `{}` takes {ageless} however long ago it was proven", route.name);
    Some(warn(Code::AgelessFactor, at, message, "add `max_age`, such as `max_age: 15m`"))
}

fn sounds_administrative(route: &Route) -> bool {
    let mut texts = route.matches.paths.iter().map(PathPattern::as_str).chain([&*route.name]);
    texts.any(|text| {
        let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
        words.any(|word| {
            let word = word.to_ascii_lowercase();
            // `admins` and `administration` too.
            word.starts_with("admin") || ADMIN_WORDS.contains(&word.as_str())
        })
    })
}

fn wide_network(requirement: &Requirement, path: &Path) -> Option<Problem> {
    leaves(requirement, path).into_iter().find_map(|(leaf, at)| match leaf {
        Requirement::ClientIp(networks) if covers_half(networks) => {
            let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
            Some(wide_warning(at, &texts.join(", ")))
        }
        _ => None,
    })
}

/// Whether half of all addresses of either version are in them.
fn covers_half(networks: &[IpNet]) -> bool {
    let share = |of_version: fn(&IpNet) -> bool| -> f64 {
        let shares = networks.iter().filter(|network| of_version(network));
        shares.map(|network| 0.5_f64.powi(i32::from(network.prefix_len()))).sum()
    };
    share(|network| network.addr().is_ipv4()) >= 0.5 || share(|network| network.addr().is_ipv6()) >= 0.5
}

/// For networks that nearly everybody is in.
pub(super) fn wide_warning(path: Path, network: &str) -> Problem {
    let message = format!("`{network}` is half of all addresses, or more");
    warn(Code::WideNetwork, path, message, "name the networks that are meant")
}

fn long_outage(path: Path) -> Problem {
    let message = "a session revoked during an outage may work for as long as that";
    warn(Code::LongOutage, path, message.to_owned(), "five minutes are the usual compromise")
}

/// The requirements that hold no others, each where it is written; those under `not` left out: what must not be there has
/// no age to ask for.
fn leaves<'a>(requirement: &'a Requirement, path: &Path) -> Vec<(&'a Requirement, Path)> {
    let of_parts = |parts: &'a [Requirement], key: &str| {
        let parts = parts.iter().enumerate();
        parts.flat_map(|(index, part)| leaves(part, &path.key(key).index(index))).collect()
    };
    match requirement {
        Requirement::Not(_) => Vec::new(),
        Requirement::All(parts) => of_parts(parts, "all"),
        Requirement::Any(parts) => of_parts(parts, "any"),
        // Where it is used: there it is looked at, and silenced.
        Requirement::Named { requirement, .. } => {
            leaves(requirement, path).into_iter().map(|(leaf, _)| (leaf, path.clone())).collect()
        }
        leaf => vec![(leaf, path.clone())],
    }
}

fn warn(code: Code, path: Path, message: String, hint: &str) -> Problem {
    Problem { code, path, at_key: true, message, hint: Some(hint.to_owned()) }
}
