//! Who is judged, and what besides them a requirement may look at.
//!
//! Must not hold anything that was not verified, nor anything a decision did not need.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::{CanonicalPath, HostName, OrganizationNames, OrganizationRoles, PathPattern, RbacPolicy};
use crate::identity::{AppToken, MachineToken, MemberRef, OrganizationId};
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

/// What was looked up about the caller's organization and the project, as far as it was needed and could be had.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub policy: Option<Arc<RbacPolicy>>,
    pub organization_roles: Option<Arc<OrganizationRoles>>,
    pub organization_names: Option<Arc<OrganizationNames>>,
    /// Names, and which organization the directory says each is of.
    pub owners: Vec<(String, Option<OrganizationId>)>,
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
