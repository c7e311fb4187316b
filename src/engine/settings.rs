//! The values the decision point is built with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

use http::HeaderName;

use crate::identity::Secret;
use crate::policy::{AttributeFormat, IdentityAttribute};

/// What the decision point keeps and how often it looks.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Verified tokens that are remembered.
    pub max_tokens: u64,
    /// How often the streams of a member are looked at again without any event.
    pub recheck_every: Duration,
    /// Members whose streams are looked at at once, and as many again whom an event names: more would keep requests
    /// waiting.
    pub max_rechecks: usize,
}

/// What the origin is told about its caller.
#[derive(Debug, Clone)]
pub struct HeaderSettings {
    /// What identity headers begin with; everything a client sends under it is removed.
    pub prefix: String,
    pub headers: Vec<IdentityHeader>,
    /// Names that are removed from requests besides those: of trusted identities.
    pub also_managed: Vec<HeaderName>,
    /// Further names that are removed from requests.
    pub remove: Vec<HeaderName>,
    /// Names that are spared, none of them managed; those that carry a client's address only from a listed proxy.
    pub keep: Vec<HeaderName>,
    /// The longest value that is injected, in bytes; a caller with a longer one is refused.
    pub max_value_bytes: usize,
    pub assertion: Option<AssertionSettings>,
}

/// What the usual headers are called after the prefix.
const USUAL: [(&str, IdentityAttribute); 13] = [
    ("kind", IdentityAttribute::Kind),
    ("member-id", IdentityAttribute::MemberId),
    ("organization-id", IdentityAttribute::OrganizationId),
    ("organization-slug", IdentityAttribute::OrganizationSlug),
    ("session-id", IdentityAttribute::SessionId),
    ("session-expires-at", IdentityAttribute::SessionExpiresAt),
    ("roles", IdentityAttribute::Roles),
    ("factors", IdentityAttribute::Factors),
    ("email", IdentityAttribute::Email),
    ("impersonator", IdentityAttribute::Impersonator),
    ("evidence-age", IdentityAttribute::EvidenceAge),
    ("client-id", IdentityAttribute::ClientId),
    ("scopes", IdentityAttribute::Scopes),
];

impl HeaderSettings {
    /// The usual headers under `prefix`, and nothing else.
    pub fn usual(prefix: &str) -> Self {
        let headers = USUAL.iter().filter_map(|(name, attribute)| {
            let name = HeaderName::try_from(format!("{prefix}{name}")).ok()?;
            Some(IdentityHeader { name, attribute: attribute.clone(), format: AttributeFormat::Joined(',') })
        });
        Self {
            prefix: prefix.to_owned(),
            headers: headers.collect(),
            also_managed: Vec::new(),
            remove: Vec::new(),
            keep: Vec::new(),
            max_value_bytes: 8192,
            assertion: None,
        }
    }
}

/// One header the origin receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityHeader {
    pub name: HeaderName,
    pub attribute: IdentityAttribute,
    pub format: AttributeFormat,
}

/// The signed assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertionSettings {
    pub header: HeaderName,
    pub issuer: String,
    /// ES256 (RFC 7518 section 3.4) in place of Ed25519 (RFC 8037).
    pub es256: bool,
    /// How long an assertion is good.
    pub lifetime: Duration,
    /// How long a key signs; it is published for as long before and after.
    pub rotate_every: Duration,
    /// What all keys are derived from, the same on every replica. Without it every process makes up its own.
    pub seed: Option<Secret>,
}
