//! What a route may ask of a caller.
//!
//! Must not hold anything unresolved: the configuration's words are parsed before they get here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::session::{DeliveryMethod, FactorKind};

/// A requirement, alone or joined with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// A member session, whoever's.
    Authenticated,
    /// A role of the session.
    Role(Arc<str>),
    Factor(FactorRequirement),
    /// A primary and a secondary factor; the age is the secondary's.
    Mfa {
        max_age: Option<Duration>,
    },
    /// One of these organizations, by id or slug.
    Organization(Vec<Arc<str>>),
    /// The session began at most this long ago.
    SessionAge {
        max: Duration,
    },
    /// What a custom claim of the session holds.
    Claim(ClaimRequirement),
    /// Whether somebody may, or may not, be acting as the member.
    Impersonated(bool),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
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
    /// Every claim pointer the requirement asks about, in its parts too.
    pub fn claim_pointers(&self) -> Vec<Arc<str>> {
        match self {
            Self::Claim(claim) => vec![Arc::clone(&claim.pointer)],
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::claim_pointers).collect(),
            Self::Not(part) => part.claim_pointers(),
            _ => Vec::new(),
        }
    }
}

/// A factor a session must hold; at least one of kind, delivery and connection is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactorRequirement {
    pub kind: Option<FactorKind>,
    pub delivery: Option<DeliveryMethod>,
    pub connection_id: Option<Arc<str>>,
    pub max_age: Option<Duration>,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated => f.write_str("authenticated"),
            Self::Role(role) => write!(f, "role `{role}`"),
            Self::Factor(factor) => write!(f, "{factor}"),
            Self::Mfa { max_age } => {
                f.write_str("multi-factor authentication")?;
                write_age(f, *max_age)
            }
            Self::Organization(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "organization {}", names.join(" or "))
            }
            Self::SessionAge { max } => write!(f, "session begun at most {max:?} ago"),
            Self::Claim(claim) => write!(f, "{claim}"),
            Self::Impersonated(true) => f.write_str("impersonated"),
            Self::Impersonated(false) => f.write_str("not impersonated"),
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
        if let Some(delivery) = &self.delivery {
            write!(f, " by `{}`", delivery.name())?;
        }
        if let Some(connection) = &self.connection_id {
            write!(f, " through `{connection}`")?;
        }
        write_age(f, self.max_age)
    }
}

fn write_age(f: &mut fmt::Formatter<'_>, max_age: Option<Duration>) -> fmt::Result {
    max_age.map_or(Ok(()), |age| write!(f, " proven at most {age:?} ago"))
}
