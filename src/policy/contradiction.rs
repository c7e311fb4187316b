//! Requirements that nobody could ever meet.
//!
//! Must not call a requirement impossible that somebody could meet: when in doubt it can be met.

use std::time::Duration;

use ipnet::IpNet;

use super::requirement::{ClaimTest, OrganizationPlace};
use super::{HostPattern, Requirement};
use crate::session::FactorCategory;

/// The most combinations of alternatives that are looked at.
const MAX_COMBINATIONS: usize = 512;

/// One requirement and whether it must hold, or must not.
type Literal<'a> = (&'a Requirement, bool);

/// Why nobody could meet `requirement` on a route for `hosts`; nothing if somebody might.
pub fn contradiction(requirement: &Requirement, hosts: &[HostPattern]) -> Option<String> {
    let combinations = combine(requirement, true)?;
    let mut why = None;
    for combination in &combinations {
        why = Some(conflict(combination, hosts)?);
    }
    why
}

/// The ways to meet `requirement`: each a list of what must hold together. Nothing if there are too many to look at.
fn combine(requirement: &Requirement, wanted: bool) -> Option<Vec<Vec<Literal<'_>>>> {
    match (requirement, wanted) {
        (Requirement::Named { requirement, .. }, _) => combine(requirement, wanted),
        (Requirement::Not(part), _) => combine(part, !wanted),
        (Requirement::All(parts), true) | (Requirement::Any(parts), false) => {
            let mut ways: Vec<Vec<Literal<'_>>> = vec![Vec::new()];
            for part in parts {
                let of_part = combine(part, wanted)?;
                let joined = ways
                    .iter()
                    .flat_map(|way| of_part.iter().map(move |more| [way.as_slice(), more].concat()));
                ways = joined.take(MAX_COMBINATIONS + 1).collect();
                if ways.len() > MAX_COMBINATIONS {
                    return None;
                }
            }
            Some(ways)
        }
        (Requirement::Any(parts), true) | (Requirement::All(parts), false) => {
            let mut ways = Vec::new();
            for part in parts {
                ways.extend(combine(part, wanted)?);
                if ways.len() > MAX_COMBINATIONS {
                    return None;
                }
            }
            Some(ways)
        }
        (leaf, _) => Some(vec![vec![(leaf, wanted)]]),
    }
}

/// Why these cannot hold together.
fn conflict(literals: &[Literal<'_>], hosts: &[HostPattern]) -> Option<String> {
    if literals.is_empty() {
        return None;
    }
    for (index, (one, wanted)) in literals.iter().enumerate() {
        if *wanted && let Some(why) = impossible(one, hosts) {
            return Some(why);
        }
        for (other, other_wanted) in literals.get(index + 1..).unwrap_or_default() {
            if one == other && wanted != other_wanted {
                return Some(format!("{one} must hold and must not"));
            }
            if *wanted && *other_wanted && excludes(one, other) {
                return Some(format!("{one} and {other} never hold together"));
            }
            for ((one, wanted), (other, other_wanted)) in
                [((one, wanted), (other, other_wanted)), ((other, other_wanted), (one, wanted))]
            {
                if *wanted && !other_wanted && implies(one, other) {
                    return Some(format!("whoever meets {one} meets {other}, which must not hold"));
                }
            }
        }
    }
    nobody_left(literals).then(|| "no kind of caller is left that it lets through".to_owned())
}

/// Whether members, machines and apps are each kept out.
fn nobody_left(literals: &[Literal<'_>]) -> bool {
    let asks = |wanted: bool, test: fn(&Requirement) -> bool| {
        literals.iter().any(|(requirement, asked)| *asked == wanted && test(requirement))
    };
    let machine = |requirement: &Requirement| matches!(requirement, Requirement::Machine { .. });
    let app = |requirement: &Requirement| matches!(requirement, Requirement::App { .. });
    let members =
        !asks(true, machine) && !asks(true, app) && !asks(false, |one| *one == Requirement::Authenticated);
    // Those two come in only where they are asked for; of an app's session nothing is known either way.
    let machines = asks(true, machine) && !asks(true, |one| kind(one) == Some(0));
    let of_session = |one: &Requirement| kind(one) == Some(0) && *one != Requirement::Authenticated;
    let apps = asks(true, app)
        && !asks(true, |one| kind(one) == Some(0))
        && !asks(false, of_session)
        && !asks(true, |one| *one == Requirement::Impersonated(false));
    !members && !machines && !apps
}

/// Whether whoever meets `one` meets `other`.
fn implies(one: &Requirement, other: &Requirement) -> bool {
    let at_most = |one: Option<Duration>, other: Option<Duration>| {
        other.is_none_or(|other| one.is_some_and(|one| one <= other))
    };
    match (one, other) {
        (kind_alone, Requirement::Authenticated) => kind(kind_alone) == Some(0),
        (Requirement::SessionAge { max: one }, Requirement::SessionAge { max: other }) => one <= other,
        (Requirement::Mfa { max_age: one }, Requirement::Mfa { max_age: other }) => at_most(*one, *other),
        (Requirement::Mfa { max_age }, Requirement::Factor(factor)) => {
            let bare = factor.kind.is_none() && factor.delivery.is_none() && factor.connection_id.is_none();
            bare && match factor.category {
                Some(FactorCategory::Primary) => factor.max_age.is_none(),
                Some(FactorCategory::Secondary) => at_most(*max_age, factor.max_age),
                Some(FactorCategory::Neither) | None => false,
            }
        }
        (Requirement::Factor(one), Requirement::Factor(other)) => {
            // Not from a kind to its category: of codes by e-mail not all are in one.
            (other.kind.is_none() && other.category.is_some() || one.kind == other.kind)
                && (other.category.is_none() || one.category == other.category)
                && (other.delivery.is_none() && one.delivery.is_none() || one.delivery == other.delivery)
                && (other.connection_id.is_none() || one.connection_id == other.connection_id)
                && at_most(one.max_age, other.max_age)
        }
        (Requirement::Organization(one), Requirement::Organization(other)) => {
            one.iter().all(|name| other.contains(name))
        }
        (Requirement::ClientCertificate(one), Requirement::ClientCertificate(other)) => {
            one.iter().all(|name| other.contains(name))
        }
        (Requirement::ClientIp(one), Requirement::ClientIp(other)) => {
            one.iter().all(|network| other.iter().any(|wider| wider.contains(network)))
        }
        (Requirement::Machine { scopes: one }, Requirement::Machine { scopes: other })
        | (Requirement::App { scopes: one }, Requirement::App { scopes: other }) => {
            other.iter().all(|scope| one.contains(scope))
        }
        _ => false,
    }
}

/// Why one requirement alone can never hold.
fn impossible(requirement: &Requirement, hosts: &[HostPattern]) -> Option<String> {
    let none = |age: Option<Duration>| age.is_some_and(|age| age.is_zero());
    match requirement {
        Requirement::Factor(factor) if none(factor.max_age) => {
            Some(format!("{requirement}: no factor is that fresh"))
        }
        Requirement::Factor(factor) if factor.examples().is_empty() => {
            Some(format!("{requirement}: there is no such factor"))
        }
        Requirement::Mfa { max_age } if none(*max_age) => {
            Some(format!("{requirement}: no factor is that fresh"))
        }
        Requirement::SessionAge { max } if max.is_zero() => {
            Some(format!("{requirement}: no session is that young"))
        }
        Requirement::OrganizationFrom(from) => match &from.place {
            OrganizationPlace::HostLabel { before, after } => {
                let could_be = |host: &HostPattern| could_name(host, before, after);
                (!hosts.iter().any(could_be))
                    .then(|| format!("{requirement}: no host of the route has that form"))
            }
            OrganizationPlace::PathParameter(_) => None,
        },
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Permission(_)
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::Organization(_)
        | Requirement::SessionAge { .. }
        | Requirement::Claim(_)
        | Requirement::Impersonated(_)
        | Requirement::Machine { .. }
        | Requirement::App { .. }
        | Requirement::ClientIp(_)
        | Requirement::ClientCertificate(_)
        | Requirement::All(_)
        | Requirement::Any(_)
        | Requirement::Not(_)
        | Requirement::Named { .. } => None,
    }
}

/// Whether some host the pattern matches has one label between the two parts.
fn could_name(host: &HostPattern, before: &str, after: &str) -> bool {
    match host {
        HostPattern::Any | HostPattern::Unnamed => true,
        HostPattern::Exact(host) => {
            let label = host.as_str().strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
        }
        HostPattern::Below(suffix) => after.ends_with(suffix.as_str()) || suffix.ends_with(after),
    }
}

/// The kind of caller a requirement can be true of, if it is one kind alone.
fn kind(requirement: &Requirement) -> Option<u8> {
    match requirement {
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::SessionAge { .. }
        | Requirement::Claim(_)
        | Requirement::Impersonated(true) => Some(0),
        Requirement::Machine { .. } => Some(1),
        Requirement::App { .. } => Some(2),
        Requirement::Permission(_)
        | Requirement::Organization(_)
        | Requirement::OrganizationFrom(_)
        | Requirement::Impersonated(false)
        | Requirement::ClientIp(_)
        | Requirement::ClientCertificate(_)
        | Requirement::All(_)
        | Requirement::Any(_)
        | Requirement::Not(_)
        | Requirement::Named { .. } => None,
    }
}

fn excludes(one: &Requirement, other: &Requirement) -> bool {
    if kind(one).zip(kind(other)).is_some_and(|(one, other)| one != other) {
        return true;
    }
    let has_no_organization = |requirement: &Requirement| matches!(requirement, Requirement::Machine { .. });
    let asks_organization = |requirement: &Requirement| {
        matches!(
            requirement,
            Requirement::Organization(_) | Requirement::OrganizationFrom(_) | Requirement::Permission(_)
        )
    };
    if (has_no_organization(one) && asks_organization(other))
        || (has_no_organization(other) && asks_organization(one))
    {
        return true;
    }
    match (one, other) {
        (Requirement::Impersonated(one), Requirement::Impersonated(other)) => one != other,
        (Requirement::Organization(one), Requirement::Organization(other)) => {
            // A slug and an id may be the same organization's; two lists of one sort that share nothing are not.
            let ids =
                |names: &[std::sync::Arc<str>]| names.iter().all(|name| name.starts_with("organization-"));
            let slugs =
                |names: &[std::sync::Arc<str>]| names.iter().all(|name| !name.starts_with("organization-"));
            let comparable = (ids(one) && ids(other)) || (slugs(one) && slugs(other));
            comparable && !one.iter().any(|name| other.contains(name))
        }
        (Requirement::Claim(one), Requirement::Claim(other)) if one.pointer == other.pointer => {
            match (&one.test, &other.test) {
                (ClaimTest::OneOf(one), ClaimTest::OneOf(other)) => {
                    !one.iter().any(|value| other.contains(value))
                }
                (ClaimTest::Exists(false), ClaimTest::OneOf(_))
                | (ClaimTest::OneOf(_), ClaimTest::Exists(false)) => true,
                (ClaimTest::Exists(one), ClaimTest::Exists(other)) => one != other,
                _ => false,
            }
        }
        (Requirement::ClientIp(one), Requirement::ClientIp(other)) => {
            let meet = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
            !one.iter().any(|network| other.iter().any(|another| meet(network, another)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::{FactorRequirement, PermissionRequirement};
    use crate::session::{DeliveryMethod, FactorKind};

    fn role(name: &str) -> Requirement {
        Requirement::Role(Arc::from(name))
    }

    fn organizations(names: &[&str]) -> Requirement {
        Requirement::Organization(names.iter().map(|name| Arc::from(*name)).collect())
    }

    fn networks(texts: &[&str]) -> Requirement {
        Requirement::ClientIp(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn factor(kind: &str, delivery: Option<&str>, connection: Option<&str>) -> Requirement {
        Requirement::Factor(FactorRequirement {
            kind: Some(FactorKind::from_name(kind)),
            category: None,
            delivery: delivery.map(DeliveryMethod::new),
            connection_id: connection.map(Arc::from),
            max_age: None,
        })
    }

    #[test]
    fn what_nobody_can_meet_is_found_and_what_somebody_can_is_not() {
        use Requirement::{All, Any, Authenticated, Impersonated, Not};
        let not = |part| Not(Box::new(part));
        let machine = || Requirement::Machine { scopes: Vec::new() };
        let app = || Requirement::App { scopes: Vec::new() };
        let age = |seconds| Requirement::SessionAge { max: Duration::from_secs(seconds) };
        let permission = || {
            let resource = Arc::from("reports");
            let action = Arc::from("write");
            Requirement::Permission(PermissionRequirement { resource, action, organization: None })
        };
        let second = || {
            Requirement::Factor(FactorRequirement {
                kind: None,
                category: Some(FactorCategory::Secondary),
                delivery: None,
                connection_id: None,
                max_age: None,
            })
        };
        for (name, requirement, impossible) in [
            ("a role and not it", All(vec![role("a"), not(role("a"))]), true),
            ("a role and not another", All(vec![role("a"), not(role("b"))]), false),
            ("a machine and a member", All(vec![machine(), Authenticated]), true),
            ("a machine or a member", Any(vec![machine(), Authenticated]), false),
            ("a machine of an organization", All(vec![machine(), organizations(&["acme"])]), true),
            ("one way of two", All(vec![Any(vec![machine(), role("a")]), not(machine())]), false),
            (
                "neither way of two",
                All(vec![Any(vec![machine(), role("a")]), not(machine()), not(role("a"))]),
                true,
            ),
            ("two organizations", All(vec![organizations(&["a"]), organizations(&["b"])]), true),
            ("a slug and an id", All(vec![organizations(&["a"]), organizations(&["organization-1"])]), false),
            ("impersonated and not", All(vec![Impersonated(true), Impersonated(false)]), true),
            ("networks apart", All(vec![networks(&["10.0.0.0/8"]), networks(&["192.0.2.0/24"])]), true),
            ("networks within", All(vec![networks(&["10.0.0.0/8"]), networks(&["10.1.0.0/16"])]), false),
            ("a fresh factor of no age", Requirement::Mfa { max_age: Some(Duration::ZERO) }, true),
            ("a factor there is not", factor("totp", Some("sms"), None), true),
            ("a password of a connection", factor("password", None, Some("saml-1")), true),
            ("one of a kind nobody knows", factor("retina", Some("camera"), None), false),
            ("one of a kind nobody knows, of a connection", factor("retina", None, Some("saml-1")), false),
            ("one that says little of how it came", factor("signature_challenge", None, None), false),
            ("one that is never asked for", factor("impersonated", None, None), false),
            ("nobody with a session", not(Authenticated), true),
            ("nobody with a session but a machine", All(vec![not(Authenticated), machine()]), false),
            ("neither members nor machines", not(Any(vec![Authenticated, machine()])), true),
            ("an app whose member lacks a role", All(vec![app(), not(role("a"))]), true),
            ("a machine without a role", All(vec![machine(), not(role("a"))]), false),
            ("an app that may write", All(vec![app(), permission()]), false),
            ("a session young and not younger", All(vec![age(300), not(age(3_600))]), true),
            ("a session neither new nor old", All(vec![age(3_600), not(age(300))]), false),
            (
                "one of few organizations and none of more",
                All(vec![organizations(&["a"]), not(organizations(&["a", "b"]))]),
                true,
            ),
            (
                "one of more but not one of few",
                All(vec![organizations(&["a", "b"]), not(organizations(&["a"]))]),
                false,
            ),
            (
                "both factors and no second",
                All(vec![Requirement::Mfa { max_age: None }, not(second())]),
                true,
            ),
            ("a second factor alone", All(vec![second(), not(Requirement::Mfa { max_age: None })]), false),
            ("nothing at all", Any(vec![]), false),
        ] {
            assert_eq!(contradiction(&requirement, &[HostPattern::Any]).is_some(), impossible, "{name}");
        }
    }

    #[test]
    fn a_host_that_never_names_an_organization_is_found() {
        let from = Requirement::OrganizationFrom(super::super::OrganizationFrom {
            place: OrganizationPlace::HostLabel {
                before: Arc::from(""),
                after: Arc::from(".app.example.com"),
            },
            by: super::super::OrganizationNaming { id: true, slug: true, external_id: true },
        });
        let on = |host: &str| contradiction(&from, &[HostPattern::parse(host).unwrap()]).is_some();
        assert!(on("app.example.com") && on("*.other.example") && on("a.b.app.example.com"));
        assert!(!on("acme.app.example.com") && !on("*.app.example.com") && !on("*.example.com") && !on("*"));
    }
}
