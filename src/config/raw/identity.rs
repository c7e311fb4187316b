//! What the origin is told about its caller, and who may name one, as it is written.
//!
//! Must not hold a rule; `checked` does.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OneOrMany, RawSecret};

/// Identity headers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawIdentity {
    /// What every identity header begins with; all a client sends under it is removed. Default: `x-auth-`.
    pub(in crate::config) header_prefix: Option<String>,
    /// Sets of headers, one or a list: `portcullis` (the prefix and the usual names), and the names that applications expect behind other proxies: `oauth2-proxy` (`X-Forwarded-User` …), `oauth2-proxy-auth-request` (`X-Auth-Request-User` …), `authelia` (`Remote-User` …), `none`. Default: `portcullis`.
    pub(in crate::config) preset: Option<OneOrMany>,
    /// Further headers; one that a preset has already is replaced.
    pub(in crate::config) headers: Option<Vec<RawIdentityHeader>>,
    /// Further names that are removed from every request.
    pub(in crate::config) remove: Option<Vec<String>>,
    /// Names that are removed by default and that the application is to receive; a name that carries a client's address passes only from a listed proxy (`forwarded` or `proxy_protocol` of the listener).
    pub(in crate::config) keep: Option<Vec<String>>,
    /// The longest value injected, in bytes; a caller about whom there is more to say is refused. Default: `8192`.
    pub(in crate::config) max_value_bytes: Option<u64>,
    /// A JWT about the caller that the application can verify. Default: none.
    pub(in crate::config) assertion: Option<RawAssertion>,
}

/// A header with one thing about the caller: exactly one of `from` and `claim`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawIdentityHeader {
    /// The name, such as `x-tenant`.
    pub(in crate::config) name: Option<String>,
    /// `kind`, `subject`, `member_id`, `organization_id`, `organization_slug`, `session_id`, `session_expires_at`, `roles`, `factors`, `email`, `impersonator`, `evidence_age`, `client_id` or `scopes`.
    pub(in crate::config) from: Option<String>,
    /// A custom claim of the session by its pointer (RFC 6901), such as `/plan`.
    pub(in crate::config) claim: Option<String>,
    /// `text` (lists joined, everything that could be misread percent-encoded) or `json`. Default: `text`.
    pub(in crate::config) format: Option<String>,
    /// Between the parts of a list, one of `,`, `;`, `|` and a space. Default: `,`.
    pub(in crate::config) separator: Option<String>,
}

/// The signed assertion; its keys are published at `/.portcullis/jwks.json`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawAssertion {
    /// The header. Default: the prefix and `assertion`.
    pub(in crate::config) header: Option<String>,
    /// `EdDSA` (Ed25519) or `ES256`. Default: `EdDSA`.
    pub(in crate::config) algorithm: Option<String>,
    /// The `iss`. Default: `portcullis`.
    pub(in crate::config) issuer: Option<String>,
    /// The `aud` on routes that name none. Default: the name of the route's upstream.
    pub(in crate::config) audience: Option<String>,
    /// How long one is good. Default: `60s`, at most `1h`.
    pub(in crate::config) lifetime: Option<String>,
    /// How long a key signs; it is published for as long before and after that. Default: `24h`, at least twice the lifetime.
    pub(in crate::config) rotate_every: Option<String>,
    /// What the keys are derived from, at least 32 characters, the same on every replica. Default: made up by every process when it starts, which does for a sidecar.
    pub(in crate::config) secret: Option<RawSecret>,
}

/// An identity in two headers, believed only from the peers listed here; one session of the member must meet everything a route requires.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawTrustedIdentity {
    /// The header with the organization's id, slug or external id.
    pub(in crate::config) organization_header: Option<String>,
    /// The header with the member's id or external id.
    pub(in crate::config) member_header: Option<String>,
    /// Peers by the names in their verified client certificates.
    pub(in crate::config) client_certificate: Option<Vec<String>>,
    /// Peers by address; the socket's own, never one out of a header.
    pub(in crate::config) peers: Option<Vec<String>>,
    /// Whether `peers` may hold whole networks. Default: `false`.
    pub(in crate::config) allow_wide: Option<bool>,
}
