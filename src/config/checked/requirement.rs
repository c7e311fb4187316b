//! Parsing what a route requires: how requirements are nested, named and shadowed.
//!
//! Must not guess at a word it does not know, nor enforce what is only tried.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::checker::Checker;
use super::named_requirements::Tried;
use crate::config::diagnostics::Code;
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::policy::Requirement;

const FORMS: [&str; 19] = [
    "authenticated",
    "role",
    "permission",
    "factor",
    "mfa",
    "organization",
    "organization_from",
    "session_age",
    "impersonated",
    "claim",
    "machine",
    "app",
    "client_ip",
    "client_certificate",
    "use",
    "shadow",
    "all",
    "any",
    "not",
];
/// How deep `all`, `any`, `not` and `use` may nest.
const MAX_DEPTH: usize = 16;
/// How many requirements a route's may be made of, those it uses included: all of them are looked at on every request.
const MAX_PARTS: usize = 256;

impl Checker<'_> {
    /// Reads every named requirement, used or not.
    pub(super) fn named_requirements(&mut self, raw: Option<&BTreeMap<String, Value>>) {
        self.named.written = raw.cloned().unwrap_or_default();
        let names: Vec<String> = self.named.written.keys().cloned().collect();
        for name in names {
            self.named_requirement(&name);
        }
    }

    /// Asks about those that nothing uses, once everything was read.
    pub(super) fn unused_requirements(&mut self) {
        let names: Vec<String> =
            self.named.written.keys().filter(|name| !self.named.used.contains(*name)).cloned().collect();
        for name in names {
            let path = Path::default().key("requirements").key(&name);
            let message = format!("no route uses the requirement `{name}`");
            self.note(Code::Unused, &path, message, Some("`require: { use: NAME }` does"));
        }
    }

    /// The requirement called `name`; nothing if there is none, or if it was noted as wrong.
    fn named_requirement(&mut self, name: &str) -> Option<Tried> {
        if let Some(read) = self.named.read.get(name) {
            return read.clone();
        }
        let written = self.named.written.get(name)?.clone();
        let path = Path::default().key("requirements").key(name);
        if self.named.under_way.len() > MAX_DEPTH {
            self.note(Code::InvalidValue, &path, "requirements use each other too deep", None);
            return None;
        }
        if self.named.under_way.iter().any(|other| other == name) {
            self.note(Code::Conflict, &path, format!("the requirement `{name}` uses itself"), None);
            return None;
        }
        self.named.under_way.push(name.to_owned());
        let read = self.bounded(&written, &path);
        self.named.under_way.pop();
        self.named.read.insert(name.to_owned(), read.clone());
        read
    }

    /// A requirement, or nothing if it was noted as wrong.
    pub(super) fn requirement(&mut self, value: &Value, path: &Path) -> Option<Tried> {
        self.bounded(value, path)
    }

    fn bounded(&mut self, value: &Value, path: &Path) -> Option<Tried> {
        let read = self.nested(value, path, 0)?;
        if read.parts > MAX_PARTS || read.depth > MAX_DEPTH {
            let message = format!(
                "this is {} requirements, {} deep, with those it uses; {MAX_PARTS} and {MAX_DEPTH} are the most",
                read.parts, read.depth
            );
            self.note(Code::InvalidValue, path, message, None);
            return None;
        }
        Some(read)
    }

    fn nested(&mut self, value: &Value, path: &Path, depth: usize) -> Option<Tried> {
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
            ("use", Some(Value::String(name))) => self.use_named(name, &place),
            ("shadow", Some(part)) => {
                let part = self.nested(part, &place, depth + 1)?;
                Some(Tried { enforced: None, tries: true, ..part })
            }
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
                Some(Tried::join(parts, if form == "all" { Requirement::All } else { Requirement::Any }))
            }
            ("not", Some(part)) => {
                let part = self.nested(part, &place, depth + 1)?;
                if part.tries {
                    let hint = "write `shadow: { not: … }`";
                    let message = "the opposite of what is only tried says nothing";
                    self.note(Code::InvalidValue, &place, message, Some(hint));
                    return None;
                }
                Some(part.within(|part| Requirement::Not(Box::new(part))))
            }
            (known, details) if FORMS.contains(&known) => {
                let read = self.leaf(known, details, &place)?;
                Some(Tried::plain(read))
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

    fn use_named(&mut self, name: &str, place: &Path) -> Option<Tried> {
        if !self.named.written.contains_key(name) {
            let hint = did_you_mean(name, self.named.written.keys().map(String::as_str));
            let hint = hint.or_else(|| Some("name it under `requirements:`".to_owned()));
            self.note_with(Code::UnknownReference, place, format!("unknown requirement `{name}`"), hint);
            return None;
        }
        self.named.used.insert(name.to_owned());
        let read = self.named_requirement(name)?;
        Some(read.within(|requirement| Requirement::Named {
            name: Arc::from(name),
            requirement: Arc::new(requirement),
        }))
    }
}
