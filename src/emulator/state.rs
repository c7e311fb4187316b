//! What the stand-in knows: organizations, members, sessions, keys, faults to come and calls so far.
//!
//! Must not answer a request; it is only changed and read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::faults::Fault;
use super::signing::SigningKey;

/// All of it, behind one lock.
pub(super) struct State {
    pub(super) project_id: String,
    pub(super) secret: String,
    pub(super) organizations: BTreeMap<String, Organization>,
    pub(super) members: BTreeMap<String, Member>,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) clients: Vec<MachineClient>,
    pub(super) apps: Vec<ConnectedApp>,
    /// Tokens of connected apps that were revoked, or whose member withdrew consent.
    pub(super) revoked_app_tokens: BTreeSet<String>,
    /// The project's RBAC policy as the API returns it.
    pub(super) policy: Value,
    /// The last one signs; all are published.
    pub(super) keys: Vec<SigningKey>,
    pub(super) faults: Vec<Fault>,
    pub(super) calls: BTreeMap<&'static str, u64>,
}

/// An organization.
pub(super) struct Organization {
    pub(super) id: String,
    pub(super) slug: String,
    pub(super) external_id: Option<String>,
    pub(super) name: String,
    /// Roles of the organization's own policy.
    pub(super) roles: Vec<Value>,
    pub(super) created_at: Timestamp,
}

/// A member of an organization.
pub(super) struct Member {
    pub(super) id: String,
    pub(super) organization_id: String,
    pub(super) external_id: Option<String>,
    pub(super) email: String,
    pub(super) name: String,
    pub(super) roles: Vec<String>,
    pub(super) created_at: Timestamp,
}

/// A session of a member.
pub(super) struct Session {
    pub(super) id: String,
    pub(super) persona: String,
    pub(super) member_id: String,
    pub(super) organization_id: String,
    pub(super) token: String,
    pub(super) started_at: Timestamp,
    pub(super) last_accessed_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) roles: Vec<String>,
    pub(super) factors: Vec<Value>,
    pub(super) custom_claims: Map<String, Value>,
    pub(super) revoked: bool,
}

/// A machine that fetches tokens for itself.
pub(super) struct MachineClient {
    pub(super) client_id: String,
    pub(super) client_secret: String,
    pub(super) scopes: Vec<String>,
}

/// An app that acts for members who agreed to it.
pub(super) struct ConnectedApp {
    pub(super) client_id: String,
    /// One without a secret is public.
    pub(super) client_secret: Option<String>,
    pub(super) scopes: Vec<String>,
}

impl Session {
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        !self.revoked && self.expires_at > now
    }
}

impl State {
    /// By id, slug or external id, as the API takes them.
    pub(super) fn organization(&self, spelled: &str) -> Option<&Organization> {
        self.organizations.values().find(|organization| {
            organization.id == spelled
                || organization.slug == spelled
                || organization.external_id.as_deref() == Some(spelled)
        })
    }

    /// By id or external id, within one organization.
    pub(super) fn member(&self, organization: &Organization, spelled: &str) -> Option<&Member> {
        self.members.values().find(|member| {
            member.organization_id == organization.id
                && (member.id == spelled || member.external_id.as_deref() == Some(spelled))
        })
    }

    pub(super) fn live_sessions(&self, member_id: &str, now: Timestamp) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(move |session| session.member_id == member_id && session.is_live(now))
    }

    pub(super) fn session_by_token(&self, token: &str) -> Option<&Session> {
        self.sessions.values().find(|session| session.token == token)
    }
}
