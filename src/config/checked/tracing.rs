//! Checking traces: the collector, what it is sent, and how much of it.
//!
//! Must not take a protocol that is not spoken for one that is.

use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::mask::without_credentials;
use crate::config::raw::RawTracing;
use crate::config::tree::Path;
use crate::telemetry::TraceSettings;

/// Where collectors take spans (OTLP specification, section "OTLP/HTTP request").
const TRACES_PATH: &str = "/v1/traces";
const PROTOCOL: &str = "http/protobuf";

impl Checker<'_> {
    pub(super) fn tracing(&mut self, raw: Option<&RawTracing>, path: &Path) -> Option<TraceSettings> {
        let raw = raw?;
        if let Some(other) = raw.protocol.as_deref().filter(|protocol| *protocol != PROTOCOL) {
            let message = format!("`{other}` is not spoken");
            let hint = "collectors take `http/protobuf` as well, usually on port 4318";
            self.note(Code::InvalidValue, &path.key("protocol"), message, Some(hint));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in raw.headers.iter().flatten() {
            let path = path.key("headers").key(name);
            let Some(value) = self.secret(Some(value), &path) else { continue };
            let (Ok(field), Ok(mut value)) =
                (name.parse::<HeaderName>(), HeaderValue::try_from(value.expose()))
            else {
                let message = format!("`{name}` and its value cannot be sent as a header field");
                self.note(Code::InvalidValue, &path, message, None);
                continue;
            };
            value.set_sensitive(true);
            if headers.insert(field, value).is_some() {
                self.note(Code::Conflict, &path, format!("`{name}` is named twice"), None);
            }
        }
        let sample_ratio = raw.sample_ratio.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&sample_ratio) {
            let message = format!("`{sample_ratio}` is not a share");
            let hint = "from `0`, none, to `1`, all of them";
            self.note(Code::InvalidValue, &path.key("sample_ratio"), message, Some(hint));
        }
        let timeout = self.timeout(raw.timeout.as_deref(), Duration::from_secs(10), &path.key("timeout"));
        let Some(endpoint) = &raw.endpoint else {
            let message = "no collector is named";
            self.note(Code::Missing, &path.key("endpoint"), message, Some("such as `http://127.0.0.1:4318`"));
            return None;
        };
        let Some(endpoint) = traces_url(endpoint) else {
            // A key may have been put into it.
            let shown = without_credentials(endpoint.split('?').next().unwrap_or_default());
            let message = format!("`{shown}` is not the URL of a collector");
            let hint = "such as `http://127.0.0.1:4318`, without a query; keys go into `headers`";
            self.note(Code::InvalidValue, &path.key("endpoint"), message, Some(hint));
            return None;
        };
        Some(TraceSettings {
            endpoint,
            ca_file: raw.ca_file.as_deref().map(|name| self.file(name)),
            headers,
            timeout,
            sample_ratio,
            follow_parent: raw.follow_parent.unwrap_or(true),
            service_name: raw.service_name.clone().unwrap_or_else(|| "portcullis".to_owned()),
            attributes: raw.attributes.clone().unwrap_or_default().into_iter().collect(),
        })
    }
}

/// The whole URL, if it is one of HTTP without a password and a query, where a key would be shown.
fn traces_url(text: &str) -> Option<String> {
    let mut parts = text.parse::<Uri>().ok()?.into_parts();
    let known = parts.scheme == Some(Scheme::HTTP) || parts.scheme == Some(Scheme::HTTPS);
    let asks = parts.path_and_query.as_ref().is_some_and(|path| path.query().is_some());
    if !known || asks || parts.authority.as_ref()?.as_str().contains('@') {
        return None;
    }
    if parts.path_and_query.as_ref().is_none_or(|path| path.as_str() == "/") {
        parts.path_and_query = Some(PathAndQuery::from_static(TRACES_PATH));
    }
    Uri::from_parts(parts).ok().map(|uri| uri.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_without_a_path_is_posted_to_where_collectors_listen() {
        for (text, url) in [
            ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318/v1/traces")),
            ("http://127.0.0.1:4318/", Some("http://127.0.0.1:4318/v1/traces")),
            ("https://otlp.example.com/otlp/v1/traces", Some("https://otlp.example.com/otlp/v1/traces")),
            ("127.0.0.1:4318", None),
            ("https://me:hush@otlp.example.com", None),
            ("https://otlp.example.com/v1/traces?key=hush", None),
            ("grpc://127.0.0.1:4317", None),
        ] {
            assert_eq!(traces_url(text).as_deref(), url, "{text}");
        }
    }
}
