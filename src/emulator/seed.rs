//! Reading the file that says what the stand-in knows when it starts.
//!
//! Must not invent a member or an organization a session does not have.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::objects;
use super::signing::SigningKey;
use super::state::{ConnectedApp, MachineClient, Member, Organization, Session, State};
use super::tokens::{opaque, uuid};

/// The built-in seed: two organizations and a session for each persona of the demo.
pub(super) const BUILT_IN: &str = include_str!("seed.yaml");

/// Why a seed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("the seed is not valid: {0}")]
    Syntax(String),
    #[error("`{0}` names no {1} of the seed")]
    Unknown(String, &'static str),
    #[error("a signing key could not be made: {0}")]
    Key(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seed {
    project_id: String,
    secret: String,
    #[serde(default)]
    organizations: Vec<SeedOrganization>,
    #[serde(default)]
    members: Vec<SeedMember>,
    #[serde(default)]
    sessions: Vec<SeedSession>,
    #[serde(default)]
    clients: Vec<SeedClient>,
    #[serde(default)]
    apps: Vec<SeedApp>,
    #[serde(default = "empty_policy")]
    policy: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeedOrganization {
    id: Option<String>,
    slug: String,
    external_id: Option<String>,
    name: Option<String>,
    #[serde(default)]
    roles: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeedMember {
    id: Option<String>,
    organization: String,
    external_id: Option<String>,
    email: Option<String>,
    name: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeedSession {
    id: Option<String>,
    persona: Option<String>,
    member: String,
    token: Option<String>,
    started_ago: Option<String>,
    expires_in: Option<String>,
    /// The member's own if absent.
    roles: Option<Vec<String>>,
    #[serde(default)]
    factors: Vec<SeedFactor>,
    #[serde(default)]
    custom_claims: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum SeedFactor {
    /// Short: the sub-object is made up.
    Short {
        #[serde(rename = "type")]
        kind: String,
        delivery_method: String,
        proven_ago: Option<String>,
        #[serde(default)]
        details: Value,
    },
    /// Anything else is taken as it stands, for factors no version knows yet.
    Verbatim(Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedClient {
    client_id: String,
    client_secret: String,
    #[serde(default)]
    scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedApp {
    client_id: String,
    client_secret: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
}

fn empty_policy() -> Value {
    json!({ "roles": [], "resources": [], "scopes": [] })
}

/// Reads a seed and makes a first signing key.
pub(super) fn plant(yaml: &str, now: Timestamp) -> Result<State, SeedError> {
    let seed: Seed = serde_saphyr::from_str(yaml).map_err(|error| SeedError::Syntax(error.to_string()))?;
    let mut state = State {
        project_id: seed.project_id,
        secret: seed.secret,
        organizations: BTreeMap::new(),
        members: BTreeMap::new(),
        sessions: BTreeMap::new(),
        clients: Vec::new(),
        apps: Vec::new(),
        revoked_app_tokens: BTreeSet::new(),
        policy: seed.policy,
        keys: vec![SigningKey::generate().map_err(SeedError::Key)?],
        faults: Vec::new(),
        calls: BTreeMap::new(),
    };
    for organization in seed.organizations {
        state.add_organization(organization, now);
    }
    for member in seed.members {
        state.add_member(member, now)?;
    }
    for session in seed.sessions {
        state.add_session(session, now)?;
    }
    for client in seed.clients {
        let SeedClient { client_id, client_secret, scopes } = client;
        state.clients.push(MachineClient { client_id, client_secret, scopes });
    }
    for app in seed.apps {
        let SeedApp { client_id, client_secret, scopes } = app;
        state.apps.push(ConnectedApp { client_id, client_secret, scopes });
    }
    Ok(state)
}

impl State {
    pub(super) fn add_organization(&mut self, seed: SeedOrganization, now: Timestamp) -> String {
        let id = seed.id.unwrap_or_else(|| format!("organization-test-{}", uuid()));
        let organization = Organization {
            id: id.clone(),
            name: seed.name.unwrap_or_else(|| seed.slug.clone()),
            slug: seed.slug,
            external_id: seed.external_id,
            roles: seed.roles,
            created_at: now,
        };
        self.organizations.insert(id.clone(), organization);
        id
    }

    pub(super) fn add_member(&mut self, seed: SeedMember, now: Timestamp) -> Result<String, SeedError> {
        let unknown = || SeedError::Unknown(seed.organization.clone(), "organization");
        let organization_id = self.organization(&seed.organization).ok_or_else(unknown)?.id.clone();
        let id = seed.id.unwrap_or_else(|| format!("member-test-{}", uuid()));
        let member = Member {
            id: id.clone(),
            organization_id,
            external_id: seed.external_id,
            email: seed.email.unwrap_or_else(|| "member@example.com".to_owned()),
            name: seed.name.unwrap_or_default(),
            roles: seed.roles,
            created_at: now,
        };
        self.members.insert(id.clone(), member);
        Ok(id)
    }

    pub(super) fn add_session(&mut self, seed: SeedSession, now: Timestamp) -> Result<String, SeedError> {
        let member = self
            .members
            .get(&seed.member)
            .ok_or_else(|| SeedError::Unknown(seed.member.clone(), "member"))?;
        let started_at = before(now, seed.started_ago.as_deref())?;
        let factors = seed.factors.into_iter().map(|factor| match factor {
            SeedFactor::Short { kind, delivery_method, proven_ago, details } => {
                let proven = proven_ago.map(|ago| before(now, Some(&ago))).transpose()?;
                Ok(objects::factor(&kind, &delivery_method, proven, &details))
            }
            SeedFactor::Verbatim(value) => Ok(value),
        });
        let id = seed.id.unwrap_or_else(|| format!("session-test-{}", uuid()));
        let session = Session {
            id: id.clone(),
            persona: seed.persona.unwrap_or_default(),
            member_id: member.id.clone(),
            organization_id: member.organization_id.clone(),
            token: seed.token.unwrap_or_else(opaque),
            started_at,
            last_accessed_at: now,
            expires_at: now + length(seed.expires_in.as_deref().unwrap_or("8h"))?,
            roles: seed.roles.unwrap_or_else(|| member.roles.clone()),
            factors: factors.collect::<Result<_, SeedError>>()?,
            custom_claims: seed.custom_claims,
            revoked: false,
        };
        self.sessions.insert(id.clone(), session);
        Ok(id)
    }
}

/// A moment so long before `now`; `now` itself if nothing is said.
pub(super) fn before(now: Timestamp, ago: Option<&str>) -> Result<Timestamp, SeedError> {
    Ok(now - length(ago.unwrap_or("0s"))?)
}

fn length(text: &str) -> Result<SignedDuration, SeedError> {
    text.parse()
        .map_err(|_| SeedError::Syntax(format!("`{text}` is no length of time such as `5m` or `2h 30m`")))
}
