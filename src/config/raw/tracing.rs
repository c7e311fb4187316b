//! Traces as they are written.
//!
//! Must not hold a rule; `checked` does.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSecret;

/// Traces, as OpenTelemetry has them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawTracing {
    /// The collector: `http://127.0.0.1:4318`, or the whole URL that spans are posted to. Without a path, `/v1/traces` is added.
    pub(in crate::config) endpoint: Option<String>,
    /// `http/protobuf`; there is no other.
    pub(in crate::config) protocol: Option<String>,
    /// Header fields sent along, such as the collector's key.
    pub(in crate::config) headers: Option<BTreeMap<String, RawSecret>>,
    /// Certificates to trust besides the system's, in a PEM file.
    pub(in crate::config) ca_file: Option<String>,
    /// How long one batch may take. Default: `10s`.
    pub(in crate::config) timeout: Option<String>,
    /// The share of traces begun here that are recorded, from `0` to `1`. Default: `1`.
    pub(in crate::config) sample_ratio: Option<f64>,
    /// Records a trace that a listed proxy began exactly if the proxy says it does. Default: `true`.
    pub(in crate::config) follow_parent: Option<bool>,
    /// `service.name`. Default: `portcullis`.
    pub(in crate::config) service_name: Option<String>,
    /// What else is said of this process (resource attributes), such as `deployment.environment.name`.
    pub(in crate::config) attributes: Option<BTreeMap<String, String>>,
}
