//! What OpenTelemetry's own environment variables say, as a layer below the file.
//!
//! Must not turn traces on where nobody names a collector, nor where the variables turn them off.
//!
//! Source: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry Protocol Exporter".

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

/// The layer, and the variables that set something with what they set.
#[derive(Debug, Default)]
pub(super) struct OtelLayer {
    pub(super) tree: Value,
    pub(super) variables: Vec<(String, String)>,
}

/// Reads it; `is_wanted` where a stronger layer speaks of traces, which names the header fields `named`, in lower case.
pub(super) fn otel_layer(
    environment: &BTreeMap<String, String>,
    is_wanted: bool,
    named: &[String],
) -> OtelLayer {
    let known =
        |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let exporters = known("OTEL_TRACES_EXPORTER").unwrap_or("otlp");
    let off = known("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || !exporters.split(',').any(|exporter| exporter.trim() == "otlp");
    let mut set = Set { traces: Map::new(), variables: Vec::new() };
    if let Some(url) = known("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        set.put("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "endpoint", json!(url));
    } else if let Some(base) = known("OTEL_EXPORTER_OTLP_ENDPOINT") {
        let url = format!("{}/v1/traces", base.trim_end_matches('/'));
        set.put("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint", json!(url));
    }
    if off || set.traces.is_empty() && !is_wanted {
        return OtelLayer { tree: json!({}), variables: Vec::new() };
    }
    // What is said of traces alone goes before what is said of everything.
    for (key, name) in
        [("protocol", "PROTOCOL"), ("timeout", "TIMEOUT"), ("ca_file", "CERTIFICATE"), ("headers", "HEADERS")]
    {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        let found = names.iter().find_map(|name| Some((name, known(name)?)));
        let Some((name, text)) = found else { continue };
        let value = match key {
            "timeout" => json!(format!("{text}ms")),
            "headers" => pairs(text)
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .filter(|(name, _)| !named.contains(name))
                .map(|(name, value)| (name, json!({ "value": value })))
                .collect(),
            _ => json!(text),
        };
        set.put(name, key, value);
    }
    if let Some(name) = known("OTEL_SERVICE_NAME") {
        set.put("OTEL_SERVICE_NAME", "service_name", json!(name));
    }
    if let Some(text) = known("OTEL_RESOURCE_ATTRIBUTES") {
        let mut attributes: Map<String, Value> =
            pairs(text).map(|(key, value)| (key, json!(value))).collect();
        let name = attributes.remove("service.name");
        set.put("OTEL_RESOURCE_ATTRIBUTES", "attributes", Value::Object(attributes));
        if let Some(name) = name.filter(|_| !set.traces.contains_key("service_name")) {
            set.put("OTEL_RESOURCE_ATTRIBUTES", "service_name", name);
        }
    }
    if let Some(sampler) = known("OTEL_TRACES_SAMPLER") {
        let ratio = known("OTEL_TRACES_SAMPLER_ARG").unwrap_or("1");
        let (ratio, name) = match sampler.trim_start_matches("parentbased_") {
            "always_on" => ("1", "OTEL_TRACES_SAMPLER"),
            "always_off" => ("0", "OTEL_TRACES_SAMPLER"),
            "traceidratio" => (ratio, "OTEL_TRACES_SAMPLER_ARG"),
            // One that is not known here is passed over, as the specification asks.
            _ => return set.layer(),
        };
        set.put(name, "sample_ratio", json!(ratio));
        let follows = sampler.starts_with("parentbased_");
        set.put("OTEL_TRACES_SAMPLER", "follow_parent", json!(follows));
    }
    set.layer()
}

/// What is set so far.
struct Set {
    traces: Map<String, Value>,
    variables: Vec<(String, String)>,
}

impl Set {
    fn put(&mut self, variable: &str, key: &str, value: Value) {
        self.traces.insert(key.to_owned(), value);
        self.variables.push((variable.to_owned(), format!("tracing.{key}")));
    }

    fn layer(self) -> OtelLayer {
        OtelLayer { tree: json!({ "tracing": self.traces }), variables: self.variables }
    }
}

/// `key=value,key=value`, the values percent-encoded.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8_lossy().into_owned();
        Some((key.trim().to_owned(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(variables: &[(&str, &str)], is_wanted: bool) -> Value {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        otel_layer(&variables.collect(), is_wanted, &["x-mine".to_owned()]).tree
    }

    #[test]
    fn variables_say_what_the_specification_has_them_say() {
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example.com/otlp/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc%3D, x-scope = 7,X-Mine=no"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500"),
            ("OTEL_SERVICE_NAME", "edge"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=staging"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        let expected = json!({ "tracing": {
            "endpoint": "https://otlp.example.com/otlp/v1/traces",
            "headers": { "authorization": { "value": "Basic abc=" }, "x-scope": { "value": "7" } },
            "timeout": "1500ms",
            "service_name": "edge",
            "attributes": { "deployment.environment.name": "staging" },
            "sample_ratio": "0.25",
            "follow_parent": true,
        }});
        assert_eq!(layer(&all, false), expected);
        let whole = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/x"), all[0]];
        assert_eq!(layer(&whole, false), json!({ "tracing": { "endpoint": "http://c:1/x" } }));
    }

    #[test]
    fn nothing_is_turned_on_by_a_name_alone_nor_against_what_turns_it_off() {
        let named = [("OTEL_SERVICE_NAME", "edge")];
        assert_eq!(layer(&named, false), json!({}));
        assert_eq!(layer(&named, true), json!({ "tracing": { "service_name": "edge" } }));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(layer(&[endpoint, off], true), json!({}), "{off:?}");
        }
    }
}
