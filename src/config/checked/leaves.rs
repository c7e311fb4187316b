//! Parsing the requirements that hold no others.
//!
//! Must not guess at a word it does not know.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::policy::{
    ClaimRequirement, ClaimTest, FactorRequirement, HostName, OrganizationFrom, OrganizationNaming,
    OrganizationPlace, PermissionRequirement, Requirement,
};
use crate::session::{DeliveryMethod, FactorCategory, FactorKind};

impl Checker<'_> {
    /// One requirement by its form, or nothing if it was noted as wrong.
    pub(super) fn leaf(&mut self, form: &str, details: Option<&Value>, place: &Path) -> Option<Requirement> {
        match (form, details) {
            ("authenticated", None | Some(Value::Bool(true))) => Some(Requirement::Authenticated),
            ("mfa", None | Some(Value::Null | Value::Bool(true))) => Some(Requirement::Mfa { max_age: None }),
            ("mfa", Some(Value::Object(fields))) => {
                self.known_keys(fields, &["max_age"], place);
                Some(Requirement::Mfa { max_age: self.max_age(fields, "max_age", place) })
            }
            ("role", Some(Value::String(role))) if !role.is_empty() => {
                Some(Requirement::Role(Arc::from(role.as_str())))
            }
            ("permission", Some(Value::Object(fields))) => self.permission(fields, place),
            ("factor", Some(Value::Object(fields))) => self.factor(fields, place),
            ("organization", Some(names)) => self.organization(names, place),
            ("organization_from", Some(Value::Object(fields))) => self.organization_from(fields, place),
            ("session_age", Some(Value::Object(fields))) => {
                self.known_keys(fields, &["max"], place);
                let max = self.max_age(fields, "max", place);
                if max.is_none() && !fields.contains_key("max") {
                    let hint = Some("such as `session_age: { max: 8h }`");
                    self.note(Code::Missing, place, "`session_age` needs `max`", hint);
                }
                max.map(|max| Requirement::SessionAge { max })
            }
            ("claim", Some(Value::Object(fields))) => self.claim(fields, place),
            ("impersonated", Some(Value::Bool(wanted))) => Some(Requirement::Impersonated(*wanted)),
            ("machine", details) if self.has_scopes(details) => {
                Some(Requirement::Machine { scopes: self.scopes(details, place)? })
            }
            ("app", details) if self.has_scopes(details) => {
                Some(Requirement::App { scopes: self.scopes(details, place)? })
            }
            ("client_ip", Some(networks)) => {
                let networks = self.networks(networks, place)?;
                Some(Requirement::ClientIp(networks))
            }
            ("client_certificate", Some(names)) => {
                let read = texts(names)
                    .filter(|names| !names.is_empty() && names.iter().all(|name| !name.trim().is_empty()));
                let Some(names) = read else {
                    let hint = Some(example("client_certificate"));
                    self.note(Code::WrongType, place, "the names of certificates are written as texts", hint);
                    return None;
                };
                // DNS names have no case, URIs do (RFC 5280 section 4.2.1.6).
                let fold = |name: String| if name.contains(':') { name } else { name.to_ascii_lowercase() };
                Some(Requirement::ClientCertificate(names.into_iter().map(fold).collect()))
            }
            (form, _) => {
                let message = format!("`{form}` is not written like this");
                self.note(Code::WrongType, place, message, Some(example(form)));
                None
            }
        }
    }

    fn has_scopes(&self, details: Option<&Value>) -> bool {
        matches!(details, None | Some(Value::Null | Value::Bool(true) | Value::Object(_)))
    }

    fn scopes(&mut self, details: Option<&Value>, place: &Path) -> Option<Vec<Arc<str>>> {
        let Some(Value::Object(fields)) = details else { return Some(Vec::new()) };
        self.known_keys(fields, &["scopes"], place);
        let Some(scopes) = fields.get("scopes") else { return Some(Vec::new()) };
        let read = texts(scopes).filter(|scopes| {
            scopes.iter().all(|scope| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic()))
        });
        let Some(read) = read else {
            let hint = "such as `scopes: [\"read:reports\"]`";
            self.note(
                Code::WrongType,
                &place.key("scopes"),
                "`scopes` takes scopes without spaces",
                Some(hint),
            );
            return None;
        };
        Some(read.into_iter().map(Arc::from).collect())
    }

    /// Networks, and single addresses among them.
    pub(super) fn networks(&mut self, value: &Value, place: &Path) -> Option<Vec<IpNet>> {
        let Some(read) = texts(value).filter(|texts| !texts.is_empty()) else {
            let hint = "such as `[10.0.0.0/8, 192.0.2.7]`";
            self.note(Code::WrongType, place, "networks are written as texts", Some(hint));
            return None;
        };
        let mut networks = Vec::new();
        for text in &read {
            match network(text) {
                Some(network) => networks.push(network),
                None => {
                    let hint = "such as `10.0.0.0/8` or `192.0.2.7`, with nothing behind the prefix";
                    self.note(
                        Code::InvalidValue,
                        place,
                        format!("`{text}` is neither a network nor an address"),
                        Some(hint),
                    );
                }
            }
        }
        (networks.len() == read.len()).then_some(networks)
    }

    fn permission(&mut self, fields: &Map<String, Value>, path: &Path) -> Option<Requirement> {
        self.known_keys(fields, &["resource", "action", "organization"], path);
        let organization = self.text(fields, "organization", path);
        if let Some(name) = organization.as_deref().filter(|name| !name.starts_with("organization-")) {
            let message = format!("`{name}` is no organization id, and permissions are compared by id alone");
            self.note(
                Code::InvalidValue,
                &path.key("organization"),
                message,
                Some("it looks like `organization-live-…`"),
            );
        }
        match (self.text(fields, "resource", path), self.text(fields, "action", path)) {
            (Some(resource), Some(action)) => Some(Requirement::Permission(PermissionRequirement {
                resource: Arc::from(resource),
                action: Arc::from(action),
                organization: organization.map(Arc::from),
            })),
            _ => {
                let hint = Some(example("permission"));
                self.note(Code::Missing, path, "a permission needs `resource` and `action`", hint);
                None
            }
        }
    }

    fn organization_from(&mut self, fields: &Map<String, Value>, path: &Path) -> Option<Requirement> {
        self.known_keys(fields, &["host", "path_param", "by"], path);
        let host = self.text(fields, "host", path);
        let parameter = self.text(fields, "path_param", path);
        let place = match (host, parameter) {
            (Some(host), None) => match host_label(&host) {
                Some(place) => place,
                None => {
                    let message = format!("`{host}` does not name an organization with one label of its own");
                    let hint = Some("such as `{org}.app.example.com`");
                    self.note(Code::InvalidValue, &path.key("host"), message, hint);
                    return None;
                }
            },
            (None, Some(parameter)) => OrganizationPlace::PathParameter(Arc::from(parameter)),
            _ => {
                let hint = Some(example("organization_from"));
                self.note(Code::Conflict, path, "the organization is named in exactly one place", hint);
                return None;
            }
        };
        let by = match fields.get("by").map(texts) {
            None => OrganizationNaming { id: true, slug: true, external_id: true },
            Some(names) => {
                let names = names.unwrap_or_default();
                let known = ["id", "slug", "external_id"];
                if names.is_empty() || names.iter().any(|name| !known.contains(&name.as_str())) {
                    let hint = Some("a list of `id`, `slug` and `external_id`");
                    self.note(Code::InvalidValue, &path.key("by"), "this is no kind of name", hint);
                }
                let has = |kind: &str| names.iter().any(|name| name == kind);
                OrganizationNaming { id: has("id"), slug: has("slug"), external_id: has("external_id") }
            }
        };
        Some(Requirement::OrganizationFrom(OrganizationFrom { place, by }))
    }

    fn claim(&mut self, fields: &Map<String, Value>, path: &Path) -> Option<Requirement> {
        self.known_keys(fields, &["pointer", "equals", "one_of", "exists"], path);
        let pointer = fields.get("pointer").and_then(Value::as_str).unwrap_or_default();
        if !is_pointer(pointer) {
            let hint = "such as `pointer: /plan` (RFC 6901)";
            self.note(Code::InvalidValue, path, "a claim needs a `pointer` that begins with `/`", Some(hint));
            return None;
        }
        let test = match (fields.get("equals"), fields.get("one_of"), fields.get("exists")) {
            (Some(value), None, None) => ClaimTest::OneOf(vec![value.clone()]),
            (None, Some(Value::Array(values)), None) if !values.is_empty() => {
                ClaimTest::OneOf(values.clone())
            }
            (None, None, Some(Value::Bool(wanted))) => ClaimTest::Exists(*wanted),
            _ => {
                let hint = "`equals: VALUE`, `one_of: [VALUES]` or `exists: true`";
                self.note(Code::InvalidValue, path, "a claim is tested in exactly one way", Some(hint));
                return None;
            }
        };
        Some(Requirement::Claim(ClaimRequirement { pointer: Arc::from(pointer), test }))
    }

    fn factor(&mut self, fields: &Map<String, Value>, path: &Path) -> Option<Requirement> {
        self.known_keys(fields, &["type", "category", "delivery_method", "connection_id", "max_age"], path);
        let category = self.category(fields, path);
        let kind = self.text(fields, "type", path);
        let delivery = self.text(fields, "delivery_method", path);
        let connection_id = self.text(fields, "connection_id", path);
        if kind.is_none() && category.is_none() && delivery.is_none() && connection_id.is_none() {
            let hint = "such as `factor: { type: totp, max_age: 15m }`";
            self.note(
                Code::Missing,
                path,
                "a factor is named by `type`, `category`, `delivery_method` or `connection_id`",
                Some(hint),
            );
            return None;
        }
        let kind = kind.map(|name| FactorKind::from_name(&name));
        if let Some(FactorKind::Other(name)) = &kind {
            // A type of the future may be meant; a slip of the pen is likelier.
            if let Some(hint) = did_you_mean(name, FactorKind::known_names()) {
                self.note(
                    Code::InvalidValue,
                    &path.key("type"),
                    format!("unknown factor type `{name}`"),
                    Some(&hint),
                );
            }
        }
        if let Some(name) =
            delivery.as_deref().filter(|name| !DeliveryMethod::known_names().any(|known| known == *name))
            && let Some(hint) = did_you_mean(name, DeliveryMethod::known_names())
        {
            // A method of the future may be meant; a slip of the pen is likelier.
            let message = format!("unknown delivery method `{name}`");
            self.note(Code::InvalidValue, &path.key("delivery_method"), message, Some(&hint));
        }
        Some(Requirement::Factor(FactorRequirement {
            kind,
            category,
            delivery: delivery.map(|name| DeliveryMethod::new(&name)),
            connection_id: connection_id.map(Arc::from),
            max_age: self.max_age(fields, "max_age", path),
        }))
    }

    fn category(&mut self, fields: &Map<String, Value>, path: &Path) -> Option<FactorCategory> {
        let name = self.text(fields, "category", path)?;
        let category = [FactorCategory::Primary, FactorCategory::Secondary]
            .into_iter()
            .find(|known| known.name() == name);
        if category.is_none() {
            let message = format!("unknown category `{name}`");
            self.note(Code::InvalidValue, &path.key("category"), message, Some("`primary` or `secondary`"));
        }
        category
    }

    fn organization(&mut self, names: &Value, path: &Path) -> Option<Requirement> {
        let names =
            texts(names).filter(|names| !names.is_empty() && names.iter().all(|name| !name.is_empty()));
        let Some(names) = names else {
            let hint = "such as `[acme, globex]`; a name of digits is quoted";
            self.note(
                Code::WrongType,
                path,
                "`organization` takes ids or slugs, written as texts",
                Some(hint),
            );
            return None;
        };
        Some(Requirement::Organization(names.iter().map(|name| Arc::from(name.as_str())).collect()))
    }

    fn max_age(&mut self, fields: &Map<String, Value>, key: &str, path: &Path) -> Option<Duration> {
        match fields.get(key)? {
            Value::String(text) => Some(self.duration(Some(text), Duration::ZERO, &path.key(key))),
            _ => {
                let hint = "write a number and a unit, such as `15m`";
                self.note(
                    Code::WrongType,
                    &path.key(key),
                    format!("`{key}` is not a length of time"),
                    Some(hint),
                );
                None
            }
        }
    }

    pub(super) fn text(&mut self, fields: &Map<String, Value>, key: &str, path: &Path) -> Option<String> {
        match fields.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            _ => {
                self.note(Code::WrongType, &path.key(key), format!("`{key}` is not a text"), None);
                None
            }
        }
    }

    pub(super) fn known_keys(&mut self, fields: &Map<String, Value>, known: &[&str], path: &Path) {
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            self.note(Code::UnknownKey, &path.key(key), format!("unknown key `{key}`"), Some(&hint));
        }
    }
}

/// A pointer that leads somewhere below the root (RFC 6901 section 3).
pub(super) fn is_pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1);
    text.starts_with('/') && escapes.into_iter().all(|rest| rest.starts_with(['0', '1']))
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

pub(super) fn network(text: &str) -> Option<IpNet> {
    let network: IpNet =
        text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    // Peers are compared by their plain address: what is written as mapped would never match.
    let mapped = matches!(network, IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some());
    // What has bits behind its prefix was meant to be something else.
    (!mapped && network == network.trunc()).then_some(network)
}

/// `before{name}after` of a host, where the name is a label, or part of one, of its own.
fn host_label(template: &str) -> Option<OrganizationPlace> {
    let (before, rest) = template.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    let example = HostName::parse(&format!("{before}x{after}")).ok()?;
    let plain = !name.is_empty() && !after.contains(['{', '}']) && !template.contains(':');
    // With nothing after it the last label would be the organization's: no host of anybody's ends so.
    let whole = after.starts_with('.') && after.len() > 1;
    let lower = example.as_str() == format!("{before}x{after}");
    (plain && whole && lower)
        .then(|| OrganizationPlace::HostLabel { before: Arc::from(before), after: Arc::from(after) })
}

fn example(form: &str) -> &'static str {
    match form {
        "authenticated" => "write `require: authenticated`",
        "role" => "write `role: stytch_admin`",
        "permission" => "write `permission: { resource: reports, action: read }`",
        "factor" => "write `factor: { type: totp, max_age: 15m }`",
        "mfa" => "write `mfa`, or `mfa: { max_age: 1h }`",
        "organization" => "write `organization: [acme, globex]`",
        "organization_from" => {
            "write `organization_from: { host: \"{org}.app.example.com\" }`, or `{ path_param: org }`"
        }
        "session_age" => "write `session_age: { max: 8h }`",
        "claim" => "write `claim: { pointer: /plan, equals: gold }`",
        "impersonated" => "write `impersonated: false`",
        "machine" => "write `machine: { scopes: [\"read:reports\"] }`",
        "app" => "write `app: { scopes: [openid] }`",
        "client_ip" => "write `client_ip: [10.0.0.0/8]`",
        "client_certificate" => "write `client_certificate: [worker.internal]`",
        "use" => "write `use:` and the name of a requirement",
        "shadow" => "write `shadow:` and one requirement",
        "not" => "write `not:` and one requirement",
        _ => "write a list of requirements",
    }
}
