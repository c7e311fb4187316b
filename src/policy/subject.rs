//! Who is judged, and what besides them a requirement may look at.
//!
//! Must not hold anything that was not verified, nor anything a decision did not need.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    CanonicalPath, HostName, OrganizationNames, OrganizationRoles, PathPattern, RbacPolicy, Requirement,
};
use crate::identity::{AppToken, MachineToken, MemberRef, Monotonic, Now, OrganizationId};
use crate::session::MemberSession;

/// The one caller a requirement is held against.
#[derive(Debug, Clone)]
pub enum Subject {
    Member(Arc<MemberSession>),
    Machine(Arc<MachineToken>),
    App(Arc<AppToken>),
}

impl Subject {
    /// What `x-auth-kind` says.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Member(_) => "member",
            Self::Machine(_) => "machine",
            Self::App(_) => "app",
        }
    }

    pub fn session(&self) -> Option<&Arc<MemberSession>> {
        match self {
            Self::Member(session) => Some(session),
            Self::Machine(_) | Self::App(_) => None,
        }
    }

    /// Whose doing it is; a machine is no member's.
    pub fn member(&self) -> Option<&MemberRef> {
        match self {
            Self::Member(session) => Some(&session.member),
            Self::App(app) => Some(&app.member),
            Self::Machine(_) => None,
        }
    }

    /// When the session or token ends.
    pub fn expires_at(&self) -> Timestamp {
        match self {
            Self::Member(session) => session.expires_at,
            Self::Machine(token) => token.expires_at,
            Self::App(token) => token.expires_at,
        }
    }
}

/// A value that was looked up, with its age and how long it may be used on the route it was looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact<V> {
    pub value: V,
    /// When the lookup was sent.
    pub sent: Now,
    pub good_until: Monotonic,
}

impl<V> Fact<V> {
    /// A fact that was written down, as if it was looked up just now; it never grows too old.
    pub fn written(value: V, now: Now) -> Self {
        Self { value, sent: now, good_until: Monotonic::at(Duration::MAX) }
    }

    pub fn age(&self, now: Monotonic) -> Duration {
        now.since(self.sent.monotonic)
    }

    pub fn map<U>(self, change: impl FnOnce(V) -> U) -> Fact<U> {
        Fact { value: change(self.value), sent: self.sent, good_until: self.good_until }
    }
}

/// What was looked up about the caller's organization and the project, as far as it was needed and could be had.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub policy: Option<Fact<Arc<RbacPolicy>>>,
    pub organization_roles: Option<Fact<Arc<OrganizationRoles>>>,
    pub organization_names: Option<Fact<Arc<OrganizationNames>>>,
    /// Names, and which organization the directory says each is of.
    pub owners: Vec<(String, Fact<Option<OrganizationId>>)>,
}

/// A caller and what is around them, at one moment.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) subject: &'a Subject,
    pub(super) environment: Environment<'a>,
    pub(super) now: Now,
}

impl Facts {
    /// Drops facts that grew too old for the route while something else was waited for: they are unknown again.
    pub fn expire(&mut self, now: Monotonic) {
        fn keep<V>(fact: &mut Option<Fact<V>>, now: Monotonic) {
            if fact.as_ref().is_some_and(|fact| fact.good_until < now) {
                *fact = None;
            }
        }
        keep(&mut self.policy, now);
        keep(&mut self.organization_roles, now);
        keep(&mut self.organization_names, now);
        self.owners.retain(|(_, owner)| owner.good_until >= now);
    }

    /// The lookups that `requirement` rests on, each with a name: its policies where it asks for a permission, the names of
    /// organizations where it asks for one.
    pub fn used_by<'a>(
        &'a self,
        requirement: &Requirement,
    ) -> impl Iterator<Item = (&'static str, Fact<()>)> + use<'a> {
        let permission = requirement.any_part(&Requirement::is_permission);
        let organization = requirement.any_part(&Requirement::is_organization);
        fn dated<V>(fact: &Option<Fact<V>>) -> Option<Fact<()>> {
            fact.as_ref().map(|fact| Fact { value: (), sent: fact.sent, good_until: fact.good_until })
        }
        let policies = [
            ("project policy", dated(&self.policy)),
            ("organization policy", dated(&self.organization_roles)),
        ];
        let names = [("organization names", dated(&self.organization_names))];
        let owners = self.owners.iter().map(|(_, owner)| {
            ("organization by name", Some(Fact { value: (), sent: owner.sent, good_until: owner.good_until }))
        });
        let policies = policies.into_iter().filter(move |_| permission);
        let names = names.into_iter().chain(owners).filter(move |_| organization);
        policies.chain(names).filter_map(|(name, fact)| Some((name, fact?)))
    }

    /// The age of the oldest lookup that `requirement` rests on; nothing if it rests on none.
    pub fn oldest_age(&self, requirement: &Requirement, now: Monotonic) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        self.used_by(requirement).map(|(_, fact)| fact.age(now)).max()
    }

    fn is_empty(&self) -> bool {
        self.policy.is_none()
            && self.organization_roles.is_none()
            && self.organization_names.is_none()
            && self.owners.is_empty()
    }
}

/// What a requirement may look at besides the caller.
#[derive(Debug, Clone, Copy)]
pub struct Environment<'a> {
    /// The client's address, if it is known.
    pub client_ip: Option<IpAddr>,
    /// What the client's verified certificate is for; empty if it showed none.
    pub certificate_names: &'a [String],
    pub host: &'a HostName,
    pub path: &'a CanonicalPath,
    /// The path patterns of the route, for what they capture.
    pub patterns: &'a [PathPattern],
    pub facts: &'a Facts,
}
