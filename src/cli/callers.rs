//! Callers of case files: members with their sessions, machines and apps, as somebody wrote them.
//!
//! Must not know what is asked of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::did_you_mean;
use crate::identity::{
    AppToken, Bound, ClientId, CredentialDigest, MachineToken, MemberId, MemberPrincipal, MemberRef,
    OrganizationId, Principal, Scopes, Secret, SessionId,
};
use crate::policy::OrganizationNames;
use crate::session::FactorKind;
use crate::stytch::{WrittenFacts, read_organization_roles, read_policy};

/// A member with a session or several, a machine, or an app.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CallerForm {
    member: Option<String>,
    organization: Option<String>,
    organization_slug: Option<String>,
    organization_external_id: Option<String>,
    /// The organization's own RBAC roles, as the API answers them.
    organization_roles: Option<Value>,
    machine: Option<String>,
    app: Option<String>,
    /// An app's token that was revoked.
    revoked: bool,
    scopes: Vec<String>,
    /// An answer of `GET /v1/b2b/sessions` in a file beside this one, in place of what is written here.
    sessions: Option<PathBuf>,
    /// Several sessions, any one of which may answer, as for a trusted identity.
    any_of: Vec<SessionForm>,
    roles: Option<Vec<String>>,
    factors: Vec<FactorForm>,
    started_ago: Option<String>,
    expires_in: Option<String>,
    claims: Option<Value>,
}

/// One session of several.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SessionForm {
    /// Left out: not told.
    roles: Option<Vec<String>>,
    factors: Vec<FactorForm>,
    started_ago: Option<String>,
    expires_in: Option<String>,
    claims: Option<Value>,
}

/// A factor: a type, a delivery method, how long ago, and what else the API says of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FactorForm {
    #[serde(rename = "type")]
    kind: String,
    delivery_method: Option<String>,
    /// Left out: no date is told.
    ago: Option<String>,
    connection_id: Option<String>,
    email: Option<String>,
    impersonator: Option<String>,
}

/// A caller as the engine is told of one.
pub(super) struct KnownCaller {
    pub(super) principal: Option<Principal>,
    pub(super) sessions: Vec<u8>,
    pub(super) facts: WrittenFacts,
}

impl CallerForm {
    /// The caller at `now`. Files it names lie in `folder`.
    pub(super) fn at(
        &self,
        now: Timestamp,
        policy: Option<&[u8]>,
        folder: &Path,
    ) -> Result<KnownCaller, String> {
        let policy =
            policy.map(read_policy).transpose().map_err(|error| format!("the RBAC policy: {error}"))?;
        let own = self
            .organization_roles
            .as_ref()
            .map(|roles| json!({ "org_policy": { "roles": roles } }).to_string());
        let own = own.map(|text| read_organization_roles(text.as_bytes())).transpose();
        let named = |name: &Option<String>| name.as_deref().map(Arc::from);
        let facts = WrittenFacts {
            policy: policy.map(Arc::new),
            organization_roles: Some(Arc::new(
                own.map_err(|error| format!("`organization_roles`: {error}"))?.unwrap_or_default(),
            )),
            organization_names: Some(Arc::new(OrganizationNames {
                slug: named(&self.organization_slug),
                external_id: named(&self.organization_external_id),
            })),
            organization: Some(self.member()?.organization_id),
            revoked: self.revoked,
        };
        self.check_what_fits()?;
        let hour = Duration::from_secs(3_600);
        let scopes = Scopes::parse(&self.scopes.join(" "));
        let client = |id: &str| ClientId::parse(id).map_err(|_| format!("`{id}` is no client id"));
        let expires_at = later(now, hour);
        let (principal, sessions) = match (&self.machine, &self.app) {
            (Some(id), None) => {
                let token = MachineToken { client_id: client(id)?, scopes, issued_at: now, expires_at };
                (Principal::Machine(Arc::new(token)), Vec::new())
            }
            (None, Some(id)) => {
                let token = AppToken {
                    client_id: client(id)?,
                    member: self.member()?,
                    scopes,
                    issued_at: now,
                    expires_at,
                    token: Secret::new("written".to_owned()),
                    digest: CredentialDigest::of("written"),
                };
                (Principal::App(Arc::new(token)), Vec::new())
            }
            (Some(_), Some(_)) => return Err("a caller is a machine or an app, not both".to_owned()),
            (None, None) => {
                let mut member = self.member()?;
                let sessions = self.session_list(&member, now, folder)?;
                if self.sessions.is_some() && self.member.is_none() && self.organization.is_none() {
                    member = first_member(&sessions)?;
                }
                let bound = if self.sessions.is_some() || !self.any_of.is_empty() {
                    Bound::AnySession
                } else {
                    Bound::Session(SessionId::parse("session-1").map_err(|error| error.to_string())?)
                };
                let principal = MemberPrincipal { member, bound, issued_at: None, seen_at: None };
                (principal.into(), sessions)
            }
        };
        Ok(KnownCaller { principal: Some(principal), sessions, facts })
    }

    /// What says nothing of a caller of its kind would be there for nothing.
    fn check_what_fits(&self) -> Result<(), String> {
        let own_session = self.roles.is_some()
            || !self.factors.is_empty()
            || self.started_ago.is_some()
            || self.expires_in.is_some()
            || self.claims.is_some();
        let has_session = own_session || self.sessions.is_some() || !self.any_of.is_empty();
        let named = self.member.is_some() || self.organization.is_some() || self.organization_roles.is_some();
        let is_token = self.machine.is_some() || self.app.is_some();
        for (is_wrong, why) in [
            (has_session && is_token, "a machine or an app has no session, so no roles, factors or claims"),
            (named && self.machine.is_some(), "a machine has no organization and is no member"),
            (
                self.revoked && self.app.is_none(),
                "`revoked` is for apps; a session that was ended is not listed",
            ),
            (!self.scopes.is_empty() && !is_token, "a member has roles and no scopes"),
            (own_session && !self.any_of.is_empty(), "beside `any_of` nothing is told of one session"),
            (
                (own_session || !self.any_of.is_empty()) && self.sessions.is_some(),
                "`sessions` tells of them all",
            ),
        ] {
            if is_wrong {
                return Err(why.to_owned());
            }
        }
        Ok(())
    }

    fn member(&self) -> Result<MemberRef, String> {
        let organization = self.organization.as_deref().unwrap_or("organization-1");
        let member = self.member.as_deref().unwrap_or("member-1");
        Ok(MemberRef {
            organization_id: OrganizationId::parse(organization)
                .map_err(|_| format!("`{organization}` is no id"))?,
            member_id: MemberId::parse(member).map_err(|_| format!("`{member}` is no id"))?,
        })
    }

    /// The member's sessions as the API would list them.
    fn session_list(&self, member: &MemberRef, now: Timestamp, folder: &Path) -> Result<Vec<u8>, String> {
        if let Some(file) = &self.sessions {
            let path = folder.join(file);
            return std::fs::read(&path)
                .map_err(|error| format!("`{}` cannot be read: {error}", path.display()));
        }
        let own = SessionForm {
            roles: self.roles.clone(),
            factors: self.factors.clone(),
            started_ago: self.started_ago.clone(),
            expires_in: self.expires_in.clone(),
            claims: self.claims.clone(),
        };
        let forms = if self.any_of.is_empty() { std::slice::from_ref(&own) } else { &self.any_of };
        let mut sessions = Vec::new();
        for (index, form) in forms.iter().enumerate() {
            let started = span(form.started_ago.as_deref(), Duration::from_secs(60))?;
            let expires = span(form.expires_in.as_deref(), Duration::from_secs(3_600))?;
            let factors = form.factors.iter().map(|factor| factor.at(now)).collect::<Result<Vec<_>, _>>()?;
            sessions.push(json!({
                "member_session_id": format!("session-{}", index + 1),
                "member_id": member.member_id.as_str(),
                "organization_id": member.organization_id.as_str(),
                "organization_slug": self.organization_slug,
                "started_at": earlier(now, started),
                "expires_at": later(now, expires),
                "roles": form.roles,
                "authentication_factors": factors,
                "custom_claims": form.claims,
            }));
        }
        Ok(json!({ "member_sessions": sessions }).to_string().into_bytes())
    }
}

/// Whose a written session list is.
pub(super) fn first_member(list: &[u8]) -> Result<MemberRef, String> {
    let list: Value = serde_json::from_slice(list).map_err(|error| format!("the session list: {error}"))?;
    let text = |name: &str| list.pointer(&format!("/member_sessions/0/{name}")).and_then(Value::as_str);
    let member = text("organization_id").zip(text("member_id"));
    let (organization, member) =
        member.ok_or("the session list holds no `member_sessions` with an organization and a member")?;
    MemberRef::parse(&format!("{organization}/{member}")).map_err(|_| "its ids cannot be read".to_owned())
}

impl FactorForm {
    fn at(&self, now: Timestamp) -> Result<Value, String> {
        // One that is nothing like any may be one that comes to be.
        if !FactorKind::known_names().any(|known| known == self.kind)
            && let Some(hint) = did_you_mean(&self.kind, FactorKind::known_names())
        {
            return Err(format!("there is no factor `{}`; {hint}", self.kind));
        }
        let mut factor = json!({ "type": self.kind });
        let mut put = |name: &str, value: Value| {
            if let Value::Object(fields) = &mut factor {
                fields.insert(name.to_owned(), value);
            }
        };
        if let Some(delivery) = &self.delivery_method {
            put("delivery_method", json!(delivery));
        }
        if let Some(ago) = &self.ago {
            put("last_authenticated_at", json!(earlier(now, span(Some(ago), Duration::ZERO)?)));
        }
        if let Some(id) = &self.connection_id {
            put("saml_sso_factor", json!({ "provider_id": id }));
        }
        if let Some(address) = &self.email {
            put("email_factor", json!({ "email_address": address }));
        }
        if let Some(who) = &self.impersonator {
            put("impersonated_factor", json!({ "impersonator_email_address": who }));
        }
        Ok(factor)
    }
}

/// A length of time with its unit.
pub(super) fn span(text: Option<&str>, default: Duration) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(default) };
    let parsed = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    parsed.ok_or_else(|| format!("`{text}` is not a length of time, such as `15m`"))
}

fn earlier(now: Timestamp, span: Duration) -> Timestamp {
    now.saturating_sub(span).unwrap_or(now)
}

fn later(now: Timestamp, span: Duration) -> Timestamp {
    now.saturating_add(span).unwrap_or(now)
}
