//! Values that may be written in more than one form.
//!
//! Must not check them: `RequirementForm` exists for the schema alone.

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A text, or a list of texts.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the two forms are told apart for the schema; reading makes a list of both")]
pub(in crate::config) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(in crate::config) fn texts(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::Many(vec![text.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut texts: A) -> Result<OneOrMany, A::Error> {
                let mut many = Vec::new();
                while let Some(text) = texts.next_element()? {
                    many.push(text);
                }
                Ok(OneOrMany::Many(many))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

/// What a session must meet: a word, or one requirement with its details.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Requirement")]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) enum RequirementForm {
    /// A member session, whoever's.
    Authenticated,
    /// A role of the session.
    Role(String),
    /// What the RBAC policy of the project, or the organization's own, grants the session's roles.
    Permission(PermissionForm),
    /// A proven factor.
    Factor(FactorForm),
    /// A primary and a secondary factor, of whatever age.
    #[serde(rename = "mfa")]
    MfaWord,
    /// A primary and a secondary factor.
    #[schemars(with = "MfaForm")]
    Mfa(MfaForm),
    /// One of these organizations, by id or slug.
    Organization(OneOrMany),
    /// The organization that the request names.
    OrganizationFrom(OrganizationFromForm),
    /// The session began recently.
    SessionAge(SessionAgeForm),
    /// What a custom claim of the session holds.
    Claim(ClaimForm),
    /// Whether somebody may be acting as the member.
    Impersonated(bool),
    /// Any machine.
    #[serde(rename = "machine")]
    MachineWord,
    /// A machine, by its access token.
    Machine(ScopesForm),
    /// Any connected app.
    #[serde(rename = "app")]
    AppWord,
    /// A connected app, by its access token, as long as it is not revoked.
    App(ScopesForm),
    /// The client's address lies in one of these networks.
    ClientIp(OneOrMany),
    /// The client showed a certificate that was verified and is for one of these names: DNS names, or URIs such as SPIFFE ids.
    ClientCertificate(OneOrMany),
    /// One of `requirements`, by name.
    Use(String),
    /// Evaluated beside the rest and never enforced.
    Shadow(Box<Self>),
    /// Every one of these.
    All(Vec<Self>),
    /// At least one of these.
    Any(Vec<Self>),
    /// The opposite; what is unknown stays unknown and refuses.
    Not(Box<Self>),
}

/// A factor: at least one of type, category, delivery method and connection.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct FactorForm {
    /// Such as `totp`, `sso`, `password`.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// `primary` or `secondary`, as multi-factor authentication counts them.
    category: Option<String>,
    /// Such as `oauth_google`, `sso_saml`, `sms`.
    delivery_method: Option<String>,
    /// The SSO connection.
    connection_id: Option<String>,
    /// Proven at most this long ago.
    max_age: Option<String>,
}

/// A permission (RBAC).
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct PermissionForm {
    /// The resource, by its `resource_id`.
    resource: String,
    /// The action on it.
    action: String,
    /// The organization it must be held in, by id. Default: the caller's own.
    organization: Option<String>,
}

/// Where the request names its organization: exactly one of the first two.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct OrganizationFromForm {
    /// One label of the host, such as `{org}.app.example.com`. Compared without case.
    host: Option<String>,
    /// A `{name}` of the route's path, such as `org` of `/orgs/{org}/**`. Compared by letter.
    path_param: Option<String>,
    /// What the name may be: `id`, `slug`, `external_id`. Default: any of the three.
    by: Option<OneOrMany>,
}

/// Scopes.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct ScopesForm {
    /// All of which the token must hold. Default: none.
    scopes: Option<OneOrMany>,
}

/// A custom claim: exactly one of `equals`, `one_of` and `exists`.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct ClaimForm {
    /// Where it is (RFC 6901), such as `/plan` or `/limits/seats`.
    pointer: String,
    /// Equal to this, type and all.
    equals: Option<serde_json::Value>,
    /// Equal to one of these.
    one_of: Option<Vec<serde_json::Value>>,
    /// Whether anything is there.
    exists: Option<bool>,
}

/// Multi-factor authentication.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct MfaForm {
    /// The secondary factor was proven at most this long ago.
    max_age: Option<String>,
}

/// The age of a session.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct SessionAgeForm {
    /// Begun at most this long ago.
    max: String,
}

/// Whether WebSockets are opened: a truth, or the origins whose pages may open one.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) enum WebSocketForm {
    /// Pages of the same host only.
    Allowed(bool),
    /// Pages of the same host and of these origins.
    Listed(WebSocketOrigins),
}

/// Origins besides our own.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the schema generator only")]
pub(in crate::config) struct WebSocketOrigins {
    /// As browsers write them, such as `https://app.example.com`.
    origins: Vec<String>,
}
