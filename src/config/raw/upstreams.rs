//! Applications, as they are written.
//!
//! Must not check a value: `checked` does.

use schemars::JsonSchema;
use serde::Deserialize;

/// An application.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawUpstream {
    /// `http://host:port` or `https://host:port`, without a path, or `unix:/path/of/a/socket`. A name with several addresses is as many servers; names are looked up again.
    pub(in crate::config) url: Option<String>,
    /// Several such addresses in place of `url`: each request goes to the less busy of two taken at random.
    pub(in crate::config) servers: Option<Vec<String>>,
    /// `http1`, or `http2` for gRPC: in the clear by prior knowledge, under TLS by ALPN. Default: `http1`.
    pub(in crate::config) protocol: Option<String>,
    /// Under `https`: whom to believe and what to show. Certificates are always verified.
    pub(in crate::config) tls: Option<RawOriginTls>,
    /// What the application makes of letter case in paths: `sensitive` (it tells cases apart), `insensitive` (it ignores case, as Express, ASP.NET and IIS do, and so do the routes), or `refuse` (not known: a path that is another route's with case ignored is refused). Default: `refuse`.
    pub(in crate::config) letter_case: Option<String>,
    /// Credentials that the application receives although the gateway reads them: `authorization`, `cookies` (the session cookies). Default: none.
    pub(in crate::config) forward_credentials: Option<Vec<String>>,
    /// What its answers may set: `session_cookies`, `alt_svc`. Default: `[session_cookies]`.
    pub(in crate::config) may_set: Option<Vec<String>>,
    /// To connect, TLS included. Default: `5s`.
    pub(in crate::config) connect_timeout: Option<String>,
    /// From the end of the request to the head of the response. Default: `60s`.
    pub(in crate::config) response_timeout: Option<String>,
    /// From taking the request to the head of the response, every wait and every try included. Default: none.
    pub(in crate::config) deadline: Option<String>,
    /// How long an unused connection is kept; stay below the application's own keep-alive. What it says in a `Keep-Alive` header is heeded by itself. Default: `30s`.
    pub(in crate::config) idle_timeout: Option<String>,
    /// Connections to each server at once; WebSockets and event streams have others besides, see `max_open_streams`. Default: `1024`.
    pub(in crate::config) max_connections: Option<u64>,
    /// Requests at once on one HTTP/2 connection; what the server allows is heeded by itself. Default: `100`.
    pub(in crate::config) max_streams: Option<u64>,
    /// WebSockets and event streams open at once with each server; they do not count among `max_connections`. Default: as many as requests.
    pub(in crate::config) max_open_streams: Option<u64>,
    /// Requests that may wait for a place at a server; further ones are refused at once. Default: `1024`.
    pub(in crate::config) max_waiting: Option<u64>,
    /// How long a request may wait for a place. Default: `5s`.
    pub(in crate::config) wait_timeout: Option<String>,
    /// How often the addresses of a name are looked up; sooner where one cannot be reached. Default: `30s`.
    pub(in crate::config) resolve_every: Option<String>,
    /// Sending a request again that got no answer.
    pub(in crate::config) retries: Option<RawRetries>,
    /// Asking each server how it is. Without it only requests tell.
    pub(in crate::config) health: Option<RawHealth>,
    /// Leaving out a server that does not answer, as long as there is another.
    pub(in crate::config) ejection: Option<RawEjection>,
}

/// TLS towards an application.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawOriginTls {
    /// PEM file with the authorities that are believed, in place of the system's.
    pub(in crate::config) ca_file: Option<String>,
    /// PEM file with the certificate shown to an application that asks for one.
    pub(in crate::config) certificate: Option<String>,
    /// PEM file with its key.
    pub(in crate::config) key: Option<String>,
    /// The name asked for and verified. Default: the host of the address.
    pub(in crate::config) server_name: Option<String>,
}

/// Retries. A request that was not sent at all is offered to further servers in any case; only `GET`, `HEAD`, `OPTIONS` and `TRACE` without a body are sent twice.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRetries {
    /// Further tries of one request. Default: `1` where there are several servers, `0` where there is one.
    pub(in crate::config) attempts: Option<u64>,
    /// Retries for each hundred requests, all together. Default: `20`.
    pub(in crate::config) budget_percent: Option<u64>,
    /// How long a try may take that can still be repeated. Default: the response timeout.
    pub(in crate::config) per_try_timeout: Option<String>,
}

/// Health checks: `GET` of a path, answered with 2xx or 3xx.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawHealth {
    /// The path, with its query if it has one.
    pub(in crate::config) path: Option<String>,
    /// Default: `5s`.
    pub(in crate::config) every: Option<String>,
    /// For one check, connecting included. Default: `2s`.
    pub(in crate::config) timeout: Option<String>,
    /// Failures in a row after which a server is left out. Default: `2`.
    pub(in crate::config) unhealthy_after: Option<u64>,
    /// Successes in a row after which it is back. Default: `2`.
    pub(in crate::config) healthy_after: Option<u64>,
}

/// When a server is left out, and for how long.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawEjection {
    /// Requests in a row without an answer. Default: `3`.
    pub(in crate::config) after: Option<u64>,
    /// How long, the first time; each further time in a row doubles it, up to ten times. Default: `10s`.
    pub(in crate::config) period: Option<String>,
}
