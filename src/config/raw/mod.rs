//! The configuration as it is written: names and shapes, nothing checked. The doc comments here are the reference.
//!
//! Must not hold a rule; `checked` does.

mod forms;
mod identity;
mod log;
mod refusals;
mod sessions;
mod tracing;
mod upstreams;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use forms::{OneOrMany, RequirementForm, WebSocketForm};
pub(super) use identity::{RawAssertion, RawIdentity, RawIdentityHeader, RawTrustedIdentity};
pub(super) use log::{RawAudit, RawLog};
pub(super) use refusals::{RawCors, RawRefusals, RawSignIn};
pub(super) use sessions::{RawSessions, RawShared};
pub(super) use tracing::RawTracing;
pub(super) use upstreams::{RawEjection, RawHealth, RawOriginTls, RawRetries, RawUpstream};

/// The configuration of a gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    /// Where traffic is taken. Default: one listener on `0.0.0.0:8080`.
    pub(super) listeners: Option<Vec<RawListener>>,
    /// Where metrics and probes are answered.
    pub(super) ops: Option<RawOps>,
    /// Where the admin API is answered. Default: nowhere.
    pub(super) admin: Option<RawAdmin>,
    /// The Stytch project whose sessions are believed.
    pub(super) stytch: Option<RawStytch>,
    /// Where credentials are looked for, in this order. Default: the cookies `stytch_session_jwt` and `stytch_session`, then `Authorization: Bearer`.
    pub(super) credentials: Option<Vec<RawCredential>>,
    /// How old the evidence of a decision may be.
    pub(super) sessions: Option<RawSessions>,
    /// Deliveries of Stytch's webhooks, at `/.portcullis/webhooks/stytch`.
    pub(super) webhooks: Option<RawWebhooks>,
    /// Where browsers are sent to sign in.
    pub(super) sign_in: Option<RawSignIn>,
    /// Which other origins' pages may call.
    pub(super) cors: Option<RawCors>,
    /// What refusals say.
    pub(super) refusals: Option<RawRefusals>,
    /// What signing out at `/.portcullis/sign-out` does besides ending the session.
    pub(super) sign_out: Option<RawSignOut>,
    /// Responses and tunnels that stay open.
    pub(super) streams: Option<RawStreams>,
    /// The applications behind the gateway, by name.
    pub(super) upstreams: Option<BTreeMap<String, RawUpstream>>,
    /// How the caller is told to the application.
    pub(super) identity: Option<RawIdentity>,
    /// What one client, and all together, may take.
    pub(super) limits: Option<RawLimits>,
    /// What is written where.
    pub(super) log: Option<RawLog>,
    /// Traces, and the collector they go to. Default: none, unless the environment names one (`OTEL_EXPORTER_OTLP_ENDPOINT`).
    pub(super) tracing: Option<RawTracing>,
    /// How long connections are still accepted after shutdown started and readiness turned off, so that load balancers can
    /// stop sending traffic. Default: `0s`.
    pub(super) drain_delay: Option<String>,
    /// How long running requests may take to finish once nobody is let in any more. Default: `30s`.
    pub(super) drain_timeout: Option<String>,
    /// How long connections are rejected at the start while the verification keys are not loaded. Then they are accepted, and
    /// requests are refused with 503 until the keys are there. Default: `10s`.
    pub(super) start_patience: Option<String>,
    /// Requirements by name, for routes to share: `require: { use: NAME }`.
    #[schemars(with = "Option<BTreeMap<String, RequirementForm>>")]
    pub(super) requirements: Option<BTreeMap<String, serde_json::Value>>,
    /// Who may reach what. A request no route answers is refused.
    pub(super) routes: Option<Vec<RawRoute>>,
}

/// A listener for traffic, for HTTP/1.1 and HTTP/2.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListener {
    /// Address and port, such as `0.0.0.0:8080` or `[::]:8443`.
    pub(super) address: Option<String>,
    /// The name in metrics and logs. Default: the address.
    pub(super) name: Option<String>,
    /// Answers HTTPS with these certificates.
    pub(super) tls: Option<RawTls>,
    /// Connections that begin with a header of the PROXY protocol, version 1 or 2.
    pub(super) proxy_protocol: Option<RawProxyProtocol>,
    /// Proxies that are believed what they say of the client. Default: none, and what a client says of itself is replaced.
    pub(super) forwarded: Option<RawForwarded>,
    /// `direct`: clients connect to it themselves, so that the address of a connection is the client's, and anonymous clients have shares (`limits.caller_share`). Default: unknown, unless proxies are listed.
    pub(super) clients: Option<String>,
    /// Answers nothing itself and sends every request to HTTPS on this port (308), under the same name. Default: no.
    pub(super) redirect_to_https: Option<u64>,
}

/// The PROXY protocol.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawProxyProtocol {
    /// Networks and addresses whose every connection begins with the header; all others begin without.
    pub(super) from: Option<Vec<String>>,
}

/// Proxies in front.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawForwarded {
    /// Their networks and addresses. The list in the header is followed from the right, as long as it names these.
    pub(super) from: Option<Vec<String>>,
    /// `x-forwarded` (`X-Forwarded-For`, `-Proto`, `-Host`) or `forwarded` (RFC 7239): the one these proxies write. Default: `x-forwarded`.
    pub(super) header: Option<String>,
    /// Whether the host they name is the host asked for: only if they replace it. Default: `false`.
    pub(super) host: Option<bool>,
}

/// TLS of a listener. The files are read again when they change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    /// Chosen by the name the client asks for; the first where none fits.
    pub(super) certificates: Option<Vec<RawCertificate>>,
    /// Authorities of client certificates, in a PEM file. One that does not verify ends the handshake.
    pub(super) client_ca_file: Option<String>,
    /// `optional`, or `required`: whoever shows none is turned away. Default: `optional`.
    pub(super) client_certificate: Option<String>,
    /// `1.2` or `1.3`. Default: `1.2`.
    pub(super) min_version: Option<String>,
    /// Has browsers ask for nothing but HTTPS from now on (RFC 6797).
    pub(super) hsts: Option<RawHsts>,
}

/// HTTP Strict Transport Security.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHsts {
    /// For how long. Default: `8760h`, a year.
    pub(super) max_age: Option<String>,
    /// For names below as well. Default: `false`.
    pub(super) include_subdomains: Option<bool>,
    /// Asks to be built into browsers: hard to take back. Default: `false`.
    pub(super) preload: Option<bool>,
}

/// A certificate and its key, in PEM files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCertificate {
    /// The chain, leaf first.
    pub(super) certificate: Option<String>,
    /// The private key.
    pub(super) key: Option<String>,
}

/// The ops listener: `/metrics`, `/livez`, `/readyz`, `/startupz`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOps {
    /// Address and port. Default: `127.0.0.1:9180`.
    pub(super) address: Option<String>,
    /// Probes of applications, by name, answered at `/probe/NAME` with the status the application answers: for one that
    /// listens on loopback, where the kubelet cannot ask it.
    pub(super) probes: Option<BTreeMap<String, RawProbe>>,
}

/// What an application is asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawProbe {
    /// The application. Default: the only one.
    pub(super) upstream: Option<String>,
    /// What it is asked for. Default: `/`.
    pub(super) path: Option<String>,
    /// How long its answer is waited for. Default: `2s`.
    pub(super) timeout: Option<String>,
}

/// The status page and the admin API (`GET /admin/openapi.json` describes it).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAdmin {
    /// Address and port. Default: `127.0.0.1:9181`. It speaks plain HTTP: elsewhere, keep it on a network of your own.
    pub(super) address: Option<String>,
    /// What callers must show as a bearer token: at least 16 characters. Without one, which needs a loopback address, there
    /// is the status page and nothing can be changed.
    pub(super) token: Option<RawSecret>,
}

/// Webhooks of the project.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWebhooks {
    /// Signing secrets, `whsec_…`; several while one replaces another. Without any there is no webhook.
    pub(super) secrets: Option<Vec<RawSecret>>,
}

/// Signing out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSignOut {
    /// Where the browser goes after it: a path, or an `https` URL. Default: a page that says so.
    pub(super) redirect_to: Option<String>,
    /// The domain the session cookies were set for, if not for the host alone.
    pub(super) cookie_domain: Option<String>,
    /// Origins besides the gateway's own whose pages may sign out, such as `https://app.example.com`.
    pub(super) origins: Option<Vec<String>>,
}

/// Open streams.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStreams {
    /// How often the streams of a member are looked at again when nothing happened. Default: `30s`.
    pub(super) recheck: Option<String>,
}

/// Verification keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKeys {
    /// A JWK set to begin with, as the API publishes it; for starting while the API cannot be reached.
    pub(super) file: Option<String>,
}

/// The Stytch project.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStytch {
    /// `project-live-…` or `project-test-…`.
    pub(super) project_id: Option<String>,
    /// The project's secret.
    pub(super) secret: Option<RawSecret>,
    /// The API. Default: told from the project id. Plain `http` only to loopback.
    pub(super) base_url: Option<String>,
    /// Further issuers accepted in session JWTs, for custom domains.
    pub(super) issuer: Option<Vec<String>>,
    /// Certificates to trust besides the system's, in a PEM file.
    pub(super) ca_file: Option<String>,
    /// How often verification keys are fetched ahead of need. Default: `5m`.
    pub(super) refresh_keys_every: Option<String>,
    /// A key set to begin with.
    pub(super) keys: Option<RawKeys>,
    /// How the RBAC policy and organizations are kept.
    pub(super) rbac: Option<RawRbac>,
    /// Connected apps whose tokens can only be asked about with the app's secret.
    pub(super) apps: Option<Vec<RawApp>>,
    /// Clock difference forgiven in session JWTs. Default: `2s`, at most `30s`.
    pub(super) leeway: Option<String>,
}

/// The project's RBAC policy, organizations' own roles, and organizations' names.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRbac {
    /// How often they are fetched again; for twice that they are served without. A route's `max_staleness` is also their bound: it asks more often where that is shorter. Default: `5m`.
    pub(super) refresh_every: Option<String>,
    /// How much longer the last good ones are kept while the API fails. On a route no longer than its `stale_if_error`. Default: `24h`.
    pub(super) keep_for: Option<String>,
}

/// A connected app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApp {
    /// `connected-app-…`.
    pub(super) client_id: Option<String>,
    /// Its secret.
    pub(super) secret: Option<RawSecret>,
}

/// A secret: exactly one of the three.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSecret {
    /// The secret itself.
    pub(super) value: Option<String>,
    /// The environment variable that holds it.
    pub(super) env: Option<String>,
    /// The file that holds it; surrounding white space is ignored.
    pub(super) file: Option<String>,
}

/// A place to look for a credential: exactly one of the three.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCredential {
    /// A cookie of this name.
    pub(super) cookie: Option<String>,
    /// `Authorization: Bearer`.
    pub(super) bearer: Option<bool>,
    /// `password`: the password of `Authorization: Basic` is the token, for clients that can send nothing else (git, pip, docker). The user name is ignored.
    pub(super) basic: Option<String>,
    /// Two headers of a peer that is trusted to name a member.
    pub(super) trusted_identity: Option<RawTrustedIdentity>,
}

/// Limits of the traffic listeners.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    /// Connections at once on one listener. Default: `10000`.
    pub(super) max_connections: Option<u64>,
    /// Connections of one address at once on one listener; of one /64 in IPv6. A proxy that the listener lists (`forwarded`, `proxy_protocol`) is exempt, and behind the PROXY protocol the client's address counts; a proxy that is not listed counts as one address. Default: half of `max_connections`.
    pub(super) max_connections_per_peer: Option<u64>,
    /// Requests under way at once, their responses included; further ones are refused with 503. Default: `20000`.
    pub(super) max_requests: Option<u64>,
    /// WebSockets and event streams open at once; they do not count among the requests. Default: as many as `max_requests`.
    pub(super) max_open_streams: Option<u64>,
    /// What one caller may hold of `max_requests`, `max_open_streams` and each server's connections and queue while more than half of that is in use, as one part in so many; at least 8. A caller is a member, a machine, or the address of an anonymous client where true addresses are known. `1/1` lets one caller take all. Default: `1/8`.
    pub(super) caller_share: Option<String>,
    /// From accepting a connection to its first complete request head. Default: `10s`.
    pub(super) header_timeout: Option<String>,
    /// How long a connection may stay without a request. Default: `75s`.
    pub(super) idle_timeout: Option<String>,
    /// How long a body may stand still between two pieces. Default: `5m`.
    pub(super) body_timeout: Option<String>,
    /// How long a write to a client may make no progress; over HTTP/2, one stream that stands still for that long ends its connection. Default: `60s`.
    pub(super) write_timeout: Option<String>,
    /// How long a WebSocket may be silent in both directions. Default: `1h`.
    pub(super) tunnel_timeout: Option<String>,
    /// The head of a request, in bytes. Default: `32768`.
    pub(super) max_header_bytes: Option<u64>,
    /// The path of a request, in bytes, without its query; a longer one is refused with 414. Default: `8192`.
    pub(super) max_path_bytes: Option<u64>,
    /// Header fields of a request. Default: `100`.
    pub(super) max_headers: Option<u64>,
    /// The body of a request, in bytes. Default: `10737418240`.
    pub(super) max_request_bytes: Option<u64>,
    /// Requests at once on one HTTP/2 connection. Default: `100`.
    pub(super) max_streams: Option<u64>,
}

/// A route. Routes rank by host (exact, wildcard, none), then path: exact first, then whichever begins with the longer literal (`/v1/orgs/{org}/**` before `/v1/**`, `/admin/**` before `/*/admin/**`), a glob before a prefix of the same, then as written; methods never rank.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRoute {
    /// The name in metrics and logs.
    pub(super) name: Option<String>,
    /// Which requests it answers.
    #[serde(rename = "match")]
    pub(super) matches: Option<RawMatch>,
    /// Lets anybody through, without looking at a credential.
    pub(super) public: Option<bool>,
    /// What the caller's session must meet.
    #[schemars(with = "Option<RequirementForm>")]
    pub(super) require: Option<serde_json::Value>,
    /// Evaluated beside `require` and never enforced: where it would decide otherwise is counted and logged.
    #[schemars(with = "Option<RequirementForm>")]
    pub(super) shadow: Option<serde_json::Value>,
    /// For whom the signed assertion is made.
    pub(super) audience: Option<String>,
    /// The application it forwards to. May be left out if there is only one.
    pub(super) upstream: Option<String>,
    /// Evidence is never served past this while the directory answers. Default: `fresh_for` + `stale_while_revalidate`.
    pub(super) max_staleness: Option<String>,
    /// Added to `max_staleness` while the directory fails. Default: `sessions.stale_if_error`, or `0s` where `max_staleness` is set.
    pub(super) stale_if_error: Option<String>,
    /// `keep` lets `%2F` through, if the path is this route's with `/` in its place as well. Default: `refuse`.
    pub(super) encoded_slash: Option<String>,
    /// `keep` lets `;` through, if the path is this route's without the parameters as well. Default: `refuse`.
    pub(super) path_parameters: Option<String>,
    /// Lets requests become WebSockets. Default: `false`.
    #[schemars(with = "Option<WebSocketForm>")]
    pub(super) websocket: Option<serde_json::Value>,
}

/// Which requests a route answers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMatch {
    /// `app.example.com`, `*.example.com` or `*`; one or a list. Default: any host, if no route names one.
    pub(super) host: Option<OneOrMany>,
    /// `/exact`, `/prefix/**` (the prefix itself and all below it), or a glob: `*` within a segment, `{name}` for one, `**` for any number; one or a list.
    pub(super) path: Option<OneOrMany>,
    /// Methods; HEAD follows GET. Default: any.
    pub(super) methods: Option<Vec<String>>,
}
