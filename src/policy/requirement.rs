//! What a route may ask of a caller.
//!
//! Must not hold anything unresolved: the configuration's words are parsed before they get here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::session::{DeliveryMethod, FactorCategory, FactorKind};

/// A requirement, alone or joined with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// A member session, whoever's. Never a machine or an app.
    Authenticated,
    /// A role of the session.
    Role(Arc<str>),
    /// What the RBAC policy grants the session's roles, or an app's scopes.
    Permission(PermissionRequirement),
    Factor(FactorRequirement),
    /// A primary and a secondary factor; the age is the secondary's.
    Mfa {
        max_age: Option<Duration>,
    },
    /// One of these organizations, by id or slug.
    Organization(Vec<Arc<str>>),
    /// The organization that the request itself names.
    OrganizationFrom(OrganizationFrom),
    /// The session began at most this long ago.
    SessionAge {
        max: Duration,
    },
    /// What a custom claim of the session holds.
    Claim(ClaimRequirement),
    /// Whether somebody may, or may not, be acting as the member.
    Impersonated(bool),
    /// A machine whose token holds all of these scopes.
    Machine {
        scopes: Vec<Arc<str>>,
    },
    /// A connected app whose token holds all of these scopes and is still active.
    App {
        scopes: Vec<Arc<str>>,
    },
    /// The client's address lies in one of these networks.
    ClientIp(Vec<IpNet>),
    /// The client showed a certificate that was verified and is for one of these names.
    ClientCertificate(Vec<String>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    /// One that the configuration gave a name, and which routes share.
    Named {
        name: Arc<str>,
        requirement: Arc<Self>,
    },
}

/// How a requirement joins others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    All(&'a [Requirement]),
    Any(&'a [Requirement]),
    Not(&'a Requirement),
    Named(&'a Requirement),
    /// Joins none: it asks something of the request itself.
    Leaf,
}

/// A permission of the RBAC policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionRequirement {
    pub resource: Arc<str>,
    pub action: Arc<str>,
    /// The organization the permission must be held in, by id; the caller's own if none is named.
    pub organization: Option<Arc<str>>,
}

/// Where a request names the organization that its caller must belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationFrom {
    pub place: OrganizationPlace,
    /// What the name may be.
    pub by: OrganizationNaming,
}

/// The place of an organization's name in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrganizationPlace {
    /// One label of the host, between what comes before it and what comes after.
    HostLabel { before: Arc<str>, after: Arc<str> },
    /// The `{name}` segment of the route's path patterns.
    PathParameter(Arc<str>),
}

/// Which names of an organization count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrganizationNaming {
    pub id: bool,
    pub slug: bool,
    pub external_id: bool,
}

/// What must be at one place of the session's custom claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequirement {
    /// RFC 6901.
    pub pointer: Arc<str>,
    pub test: ClaimTest,
}

/// How a claim is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimTest {
    Exists(bool),
    /// Equal to one of these, type and all.
    OneOf(Vec<serde_json::Value>),
}

impl Requirement {
    /// How this requirement joins others, if it does. The one list of the kinds that join none.
    pub(super) fn form(&self) -> Form<'_> {
        match self {
            Self::All(parts) => Form::All(parts),
            Self::Any(parts) => Form::Any(parts),
            Self::Not(part) => Form::Not(part),
            Self::Named { requirement, .. } => Form::Named(requirement),
            Self::Authenticated
            | Self::Role(_)
            | Self::Permission(_)
            | Self::Factor(_)
            | Self::Mfa { .. }
            | Self::Organization(_)
            | Self::OrganizationFrom(_)
            | Self::SessionAge { .. }
            | Self::Claim(_)
            | Self::Impersonated(_)
            | Self::Machine { .. }
            | Self::App { .. }
            | Self::ClientIp(_)
            | Self::ClientCertificate(_) => Form::Leaf,
        }
    }

    /// The requirements directly below this one.
    pub fn parts(&self) -> &[Self] {
        match self.form() {
            Form::All(parts) | Form::Any(parts) => parts,
            Form::Not(part) | Form::Named(part) => std::slice::from_ref(part),
            Form::Leaf => &[],
        }
    }

    /// Whether `test` holds for this requirement or for any below it.
    pub fn any_part(&self, test: &impl Fn(&Self) -> bool) -> bool {
        test(self) || self.parts().iter().any(|part| part.any_part(test))
    }

    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Permission(_))
    }

    pub fn is_organization(&self) -> bool {
        matches!(self, Self::Organization(_) | Self::OrganizationFrom(_))
    }

    /// Whether it asks for a connected app anywhere but under `not`.
    pub fn takes_apps(&self) -> bool {
        let is_app = matches!(self, Self::App { .. });
        is_app || !matches!(self, Self::Not(_)) && self.parts().iter().any(Self::takes_apps)
    }

    /// Every claim pointer the requirement asks about, in its parts too.
    pub fn claim_pointers(&self) -> Vec<Arc<str>> {
        if let Self::Claim(claim) = self {
            return vec![Arc::clone(&claim.pointer)];
        }
        self.parts().iter().flat_map(Self::claim_pointers).collect()
    }
}

/// A length of time as the configuration writes it: `1h 30m`.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let rest = self.0.subsec_millis();
        let units = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
        ];
        let told: Vec<String> = units
            .into_iter()
            .chain([(u64::from(rest), "ms")])
            .filter(|(count, _)| *count > 0)
            .map(|(count, unit)| format!("{count}{unit}"))
            .collect();
        f.write_str(if told.is_empty() { "0s".to_owned() } else { told.join(" ") }.as_str())
    }
}

/// A factor a session must hold; at least one of kind, category, delivery and connection is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactorRequirement {
    pub kind: Option<FactorKind>,
    /// Primary or secondary, as multi-factor authentication counts them.
    pub category: Option<FactorCategory>,
    pub delivery: Option<DeliveryMethod>,
    pub connection_id: Option<Arc<str>>,
    pub max_age: Option<Duration>,
}

impl Requirement {
    /// The whole of it in one line; what has a name by its name.
    pub fn sentence(&self) -> String {
        let join = |parts: &[Self]| parts.iter().map(Self::sentence).collect::<Vec<_>>().join(", ");
        match self.form() {
            Form::All(parts) => format!("all({})", join(parts)),
            Form::Any(parts) => format!("any({})", join(parts)),
            Form::Not(part) => format!("not({})", part.sentence()),
            Form::Named(_) | Form::Leaf => self.to_string(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated => f.write_str("authenticated"),
            Self::Role(role) => write!(f, "role `{role}`"),
            Self::Permission(wanted) => {
                write!(f, "permission to `{}` `{}`", wanted.action, wanted.resource)?;
                wanted.organization.as_ref().map_or(Ok(()), |id| write!(f, " in `{id}`"))
            }
            Self::Factor(factor) => write!(f, "{factor}"),
            Self::Mfa { max_age } => {
                f.write_str("multi-factor authentication")?;
                write_age(f, *max_age)
            }
            Self::Organization(names) => {
                write!(f, "organization {}", quoted(names, " or "))
            }
            Self::OrganizationFrom(from) => match &from.place {
                OrganizationPlace::HostLabel { before, after } => {
                    write!(f, "organization of the host `{before}{{org}}{after}`")
                }
                OrganizationPlace::PathParameter(name) => {
                    write!(f, "organization of the path's `{{{name}}}`")
                }
            },
            Self::SessionAge { max } => write!(f, "session begun at most {} ago", Span(*max)),
            Self::Claim(claim) => write!(f, "{claim}"),
            Self::Impersonated(true) => f.write_str("impersonated"),
            Self::Impersonated(false) => f.write_str("not impersonated"),
            Self::Machine { scopes } if scopes.is_empty() => f.write_str("machine"),
            Self::Machine { scopes } => write!(f, "machine with {}", quoted(scopes, " and ")),
            Self::App { scopes } if scopes.is_empty() => f.write_str("connected app"),
            Self::App { scopes } => write!(f, "connected app with {}", quoted(scopes, " and ")),
            Self::ClientIp(networks) => write!(f, "client in {}", quoted(networks, " or ")),
            Self::ClientCertificate(names) => write!(f, "client certificate for {}", quoted(names, " or ")),
            Self::Named { name, .. } => write!(f, "requirement `{name}`"),
            Self::All(parts) => write!(f, "all of {}", parts.len()),
            Self::Any(parts) => write!(f, "any of {}", parts.len()),
            Self::Not(_) => f.write_str("not"),
        }
    }
}

impl fmt::Display for ClaimRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim `{}`", self.pointer)?;
        match &self.test {
            ClaimTest::Exists(true) => f.write_str(" exists"),
            ClaimTest::Exists(false) => f.write_str(" does not exist"),
            ClaimTest::OneOf(values) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, " is {}", values.join(" or "))
            }
        }
    }
}

impl fmt::Display for FactorRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("factor")?;
        if let Some(kind) = &self.kind {
            write!(f, " `{}`", kind.name())?;
        }
        if let Some(category) = self.category {
            write!(f, " {}", category.name())?;
        }
        if let Some(delivery) = &self.delivery {
            write!(f, " by `{}`", delivery.name())?;
        }
        if let Some(connection) = &self.connection_id {
            write!(f, " through `{connection}`")?;
        }
        write_age(f, self.max_age)
    }
}

fn quoted(names: &[impl fmt::Display], between: &str) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(between)
}

fn write_age(f: &mut fmt::Formatter<'_>, max_age: Option<Duration>) -> fmt::Result {
    max_age.map_or(Ok(()), |age| write!(f, " proven at most {} ago", Span(age)))
}
