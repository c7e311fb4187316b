//! Parsing what a route requires.
//!
//! Must not guess at a word it does not know.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::load::did_you_mean;
use crate::config::tree::Path;
use crate::policy::{ClaimRequirement, ClaimTest, FactorRequirement, Requirement};
use crate::session::{DeliveryMethod, FactorKind};

const FORMS: [&str; 11] = [
    "authenticated",
    "role",
    "factor",
    "mfa",
    "organization",
    "session_age",
    "impersonated",
    "claim",
    "all",
    "any",
    "not",
];
/// How deep `all`, `any` and `not` may nest.
const MAX_DEPTH: usize = 16;

impl Checker<'_> {
    /// A requirement, or nothing if it was noted as wrong.
    pub(super) fn requirement(&mut self, value: &Value, path: &Path) -> Option<Requirement> {
        self.nested(value, path, 0)
    }

    fn nested(&mut self, value: &Value, path: &Path, depth: usize) -> Option<Requirement> {
        if depth > MAX_DEPTH {
            self.note(Code::InvalidValue, path, "requirements are nested too deep", None);
            return None;
        }
        let (form, details) = match value {
            Value::String(word) => (word.as_str(), None),
            Value::Object(fields) if fields.len() == 1 => {
                let (form, details) = fields.iter().next()?;
                (form.as_str(), Some(details))
            }
            Value::Object(_) => {
                let hint = "join several under `all:` or `any:`";
                self.note(Code::InvalidValue, path, "a requirement is exactly one of its forms", Some(hint));
                return None;
            }
            Value::Array(_) => {
                let hint = "put the list under `all:` or `any:`";
                self.note(
                    Code::InvalidValue,
                    path,
                    "a list does not say whether all or any must be met",
                    Some(hint),
                );
                return None;
            }
            _ => {
                self.note(
                    Code::WrongType,
                    path,
                    "this is no requirement",
                    Some("begin with `authenticated`"),
                );
                return None;
            }
        };
        let place = if details.is_some() { path.key(form) } else { path.clone() };
        match (form, details) {
            ("authenticated", None | Some(Value::Bool(true))) => Some(Requirement::Authenticated),
            ("mfa", None | Some(Value::Null | Value::Bool(true))) => Some(Requirement::Mfa { max_age: None }),
            ("mfa", Some(Value::Object(fields))) => {
                self.known_keys(fields, &["max_age"], &place);
                Some(Requirement::Mfa { max_age: self.max_age(fields, "max_age", &place) })
            }
            ("role", Some(Value::String(role))) if !role.is_empty() => {
                Some(Requirement::Role(Arc::from(role.as_str())))
            }
            ("factor", Some(Value::Object(fields))) => self.factor(fields, &place),
            ("organization", Some(names)) => self.organization(names, &place),
            ("session_age", Some(Value::Object(fields))) => {
                self.known_keys(fields, &["max"], &place);
                let max = self.max_age(fields, "max", &place);
                if max.is_none() && !fields.contains_key("max") {
                    self.note(
                        Code::Missing,
                        &place,
                        "`session_age` needs `max`",
                        Some("such as `session_age: { max: 8h }`"),
                    );
                }
                max.map(|max| Requirement::SessionAge { max })
            }
            ("claim", Some(Value::Object(fields))) => self.claim(fields, &place),
            ("impersonated", Some(Value::Bool(wanted))) => Some(Requirement::Impersonated(*wanted)),
            ("all" | "any", Some(Value::Array(parts))) => {
                if parts.is_empty() {
                    self.note(Code::InvalidValue, &place, format!("`{form}` of nothing says nothing"), None);
                }
                let parts: Vec<_> = parts
                    .iter()
                    .enumerate()
                    .map(|(index, part)| self.nested(part, &place.index(index), depth + 1))
                    .collect();
                let parts = parts.into_iter().collect::<Option<Vec<_>>>()?;
                Some(if form == "all" { Requirement::All(parts) } else { Requirement::Any(parts) })
            }
            ("not", Some(part)) => Some(Requirement::Not(Box::new(self.nested(part, &place, depth + 1)?))),
            (known, _) if FORMS.contains(&known) => {
                let message = format!("`{known}` is not written like this");
                self.note(Code::WrongType, &place, message, Some(example(known)));
                None
            }
            (unknown, _) => {
                let hint = did_you_mean(unknown, FORMS.into_iter())
                    .unwrap_or_else(|| format!("known requirements: {}", FORMS.join(", ")));
                // Written as a key, the key is at fault; as a word, the word.
                let code = if details.is_some() { Code::UnknownKey } else { Code::InvalidValue };
                self.note(code, &place, format!("unknown requirement `{unknown}`"), Some(&hint));
                None
            }
        }
    }

    fn claim(&mut self, fields: &Map<String, Value>, path: &Path) -> Option<Requirement> {
        self.known_keys(fields, &["pointer", "equals", "one_of", "exists"], path);
        let pointer = fields.get("pointer").and_then(Value::as_str).unwrap_or_default();
        if !pointer.starts_with('/') {
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
        self.known_keys(fields, &["type", "delivery_method", "connection_id", "max_age"], path);
        let kind = self.text(fields, "type", path);
        let delivery = self.text(fields, "delivery_method", path);
        let connection_id = self.text(fields, "connection_id", path);
        if kind.is_none() && delivery.is_none() && connection_id.is_none() {
            let hint = "such as `factor: { type: totp, max_age: 15m }`";
            self.note(
                Code::Missing,
                path,
                "a factor is named by `type`, `delivery_method` or `connection_id`",
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
        Some(Requirement::Factor(FactorRequirement {
            kind,
            delivery: delivery.map(|name| DeliveryMethod::new(&name)),
            connection_id: connection_id.map(Arc::from),
            max_age: self.max_age(fields, "max_age", path),
        }))
    }

    fn organization(&mut self, names: &Value, path: &Path) -> Option<Requirement> {
        let names = match names {
            Value::String(name) => vec![name.as_str()],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if names.is_empty() || names.iter().any(|name| name.is_empty()) {
            self.note(
                Code::WrongType,
                path,
                "`organization` takes ids or slugs",
                Some(example("organization")),
            );
            return None;
        }
        Some(Requirement::Organization(names.into_iter().map(Arc::from).collect()))
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

    fn text(&mut self, fields: &Map<String, Value>, key: &str, path: &Path) -> Option<String> {
        match fields.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            _ => {
                self.note(Code::WrongType, &path.key(key), format!("`{key}` is not a text"), None);
                None
            }
        }
    }

    fn known_keys(&mut self, fields: &Map<String, Value>, known: &[&str], path: &Path) {
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            self.note(Code::UnknownKey, &path.key(key), format!("unknown key `{key}`"), Some(&hint));
        }
    }
}

fn example(form: &str) -> &'static str {
    match form {
        "authenticated" => "write `require: authenticated`",
        "role" => "write `role: stytch_admin`",
        "factor" => "write `factor: { type: totp, max_age: 15m }`",
        "mfa" => "write `mfa`, or `mfa: { max_age: 1h }`",
        "organization" => "write `organization: [acme, globex]`",
        "session_age" => "write `session_age: { max: 8h }`",
        "claim" => "write `claim: { pointer: /plan, equals: gold }`",
        "impersonated" => "write `impersonated: false`",
        "not" => "write `not:` and one requirement",
        _ => "write a list of requirements",
    }
}
