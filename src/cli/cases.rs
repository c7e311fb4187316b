//! Case files of `portcullis test`: who asks for what, and what shall come of it.
//!
//! Must not decide anything; a case that cannot be understood is an error with its place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::identity::{
    AppToken, Bound, ClientId, CredentialDigest, MachineToken, MemberId, MemberPrincipal, MemberRef,
    OrganizationId, Principal, Scopes, Secret, SessionId,
};
use crate::policy::OrganizationNames;
use crate::stytch::{WrittenFacts, read_organization_roles, read_policy};

/// One file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseFile {
    /// What time it is; now, if nothing is said.
    pub(super) now: Option<Timestamp>,
    /// The project's RBAC policy, as the API answers it, in a file beside this one.
    pub(super) rbac: Option<PathBuf>,
    /// Callers by name.
    #[serde(default)]
    pub(super) callers: BTreeMap<String, CallerForm>,
    pub(super) cases: Vec<Case>,
}

/// One request and what shall come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) request: RequestForm,
    /// A caller's name, `nobody`, or a caller as it is written under `callers`.
    #[serde(default, rename = "as")]
    pub(super) caller: WhoForm,
    pub(super) expect: Expectation,
}

/// `GET https://app.example.com/admin`, or with its parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RequestForm {
    Line(String),
    Parts(RequestParts),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestParts {
    #[serde(default = "get")]
    method: String,
    url: String,
    client_ip: Option<IpAddr>,
}

fn get() -> String {
    "GET".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum WhoForm {
    Named(String),
    Written(Box<CallerForm>),
}

impl Default for WhoForm {
    fn default() -> Self {
        Self::Named("nobody".to_owned())
    }
}

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
    #[serde(flatten)]
    session: SessionForm,
}

/// One session.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct SessionForm {
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

/// What shall come of it: a word, or more than that.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Expectation {
    /// `allow`, `refuse`, or the code of a reason.
    Word(String),
    Whole(ExpectationParts),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExpectationParts {
    pub(super) decision: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) route: Option<String>,
    /// Headers the origin receives: a value, `"*"` for any, null for none.
    pub(super) headers: BTreeMap<String, Option<String>>,
    pub(super) max_age: Option<String>,
    pub(super) acr_values: Option<Vec<String>>,
}

/// A caller as the engine is told of one.
pub(super) struct KnownCaller {
    pub(super) principal: Option<Principal>,
    pub(super) sessions: Vec<u8>,
    pub(super) facts: WrittenFacts,
}

/// Method, URL and client address.
pub(super) struct AskedFor {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) client_ip: Option<IpAddr>,
}

impl CaseFile {
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        serde_saphyr::from_str(&text).map_err(|error| error.to_string())
    }
}

impl RequestForm {
    pub(super) fn read(&self) -> AskedFor {
        match self {
            Self::Parts(parts) => {
                AskedFor { method: parts.method.clone(), url: parts.url.clone(), client_ip: parts.client_ip }
            }
            Self::Line(line) => {
                let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
                AskedFor { method: method.to_owned(), url: url.trim().to_owned(), client_ip: None }
            }
        }
    }
}

impl Expectation {
    pub(super) fn parts(self) -> ExpectationParts {
        match self {
            Self::Whole(parts) => parts,
            Self::Word(word) if word == "allow" || word == "refuse" => {
                ExpectationParts { decision: Some(word), ..ExpectationParts::default() }
            }
            Self::Word(reason) => {
                let decision = Some("refuse".to_owned());
                ExpectationParts { decision, reason: Some(reason), ..ExpectationParts::default() }
            }
        }
    }
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
                let member = self.member()?;
                let sessions = self.session_list(&member, now, folder)?;
                let bound = if self.sessions.is_some() || !self.any_of.is_empty() {
                    Bound::AnySession
                } else {
                    Bound::Session(SessionId::parse("session-1").map_err(|error| error.to_string())?)
                };
                let principal = MemberPrincipal { member, bound, issued_at: None, seen_at: None };
                (Principal::Member(principal), sessions)
            }
        };
        Ok(KnownCaller { principal: Some(principal), sessions, facts })
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
        let forms = if self.any_of.is_empty() { std::slice::from_ref(&self.session) } else { &self.any_of };
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

impl FactorForm {
    fn at(&self, now: Timestamp) -> Result<Value, String> {
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
