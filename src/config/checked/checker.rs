//! Checking single values: lengths of time, addresses, numbers, secrets.
//!
//! Must not know which key it checks; the path says so.

use std::io;
use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;

use super::named_requirements::NamedRequirements;
use crate::config::diagnostics::{Code, Problem};
use crate::config::raw::RawSecret;
use crate::config::tree::Path;
use crate::identity::Secret;

/// Longer than this nothing here is meant to last, and clocks could overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What to do about a secret that is not there.
const SECRET_HINT: &str = "put it there, or check `--without-secrets`";

/// Treatment of secrets that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretPolicy {
    Required,
    /// A missing one is taken as given, for commands that never use it.
    NotNeeded,
}

/// What checking needs of the world: variables, files, and the folder relative names start from.
pub(in crate::config) struct Environment<'a> {
    pub(in crate::config) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(in crate::config) file: &'a dyn Fn(&FilePath) -> io::Result<String>,
    pub(in crate::config) base: &'a FilePath,
    pub(in crate::config) secrets: SecretPolicy,
}

/// Notes problems while values are checked.
pub(super) struct Checker<'a> {
    pub(super) environment: &'a Environment<'a>,
    problems: &'a mut Vec<Problem>,
    pub(super) named: NamedRequirements,
}

impl<'a> Checker<'a> {
    pub(super) fn new(environment: &'a Environment<'a>, problems: &'a mut Vec<Problem>) -> Self {
        Self { environment, problems, named: NamedRequirements::default() }
    }

    pub(super) fn note(&mut self, code: Code, path: &Path, message: impl Into<String>, hint: Option<&str>) {
        let message = message.into();
        let hint = hint.map(str::to_owned);
        let at_key = matches!(code, Code::Missing | Code::UnknownKey) || code.is_warning();
        self.problems.push(Problem { code, path: path.clone(), at_key, message, hint });
    }

    /// A finding that is worked out elsewhere.
    pub(super) fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub(super) fn note_with(&mut self, code: Code, path: &Path, message: String, hint: Option<String>) {
        self.note(code, path, message, hint.as_deref());
    }

    /// A length of time with its unit, or the default.
    pub(super) fn duration(&mut self, text: Option<&str>, default: Duration, path: &Path) -> Duration {
        let Some(text) = text else { return default };
        let parsed =
            text.trim().parse::<SignedDuration>().ok().and_then(|length| Duration::try_from(length).ok());
        if parsed.is_some_and(|length| length > LONGEST) {
            self.note(Code::InvalidValue, path, format!("`{text}` is longer than a year"), None);
            return default;
        }
        parsed.unwrap_or_else(|| {
            let hint = "write a number and a unit, such as `500ms`, `10s`, `5m` or `1h 30m`";
            self.note(Code::InvalidValue, path, format!("`{text}` is not a length of time"), Some(hint));
            default
        })
    }

    /// A length of time that is not zero.
    pub(super) fn timeout(&mut self, text: Option<&str>, default: Duration, path: &Path) -> Duration {
        let length = self.duration(text, default, path);
        if length.is_zero() {
            self.note(Code::InvalidValue, path, "must be greater than 0", None);
            return default;
        }
        length
    }

    pub(super) fn address(&mut self, text: Option<&str>, default: &str, path: &Path) -> SocketAddr {
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        let text = text.unwrap_or(default);
        text.parse().unwrap_or_else(|_| {
            let hint = "write an address and a port, such as `0.0.0.0:8080` or `[::1]:8080`";
            self.note(
                Code::InvalidValue,
                path,
                format!("`{text}` is not an address to listen on"),
                Some(hint),
            );
            fallback
        })
    }

    /// A number of at least one.
    pub(super) fn count(&mut self, number: Option<u64>, default: usize, path: &Path) -> usize {
        let number = number.map(usize::try_from);
        match number {
            None => default,
            Some(Ok(number)) if number > 0 => number,
            Some(_) => {
                self.note(Code::InvalidValue, path, "the number must be at least 1", None);
                default
            }
        }
    }

    /// A file beside the configuration, or anywhere if its name is absolute.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.environment.base.join(name)
    }

    /// Whether secrets must be there; what stands in for one that is not is not judged.
    pub(super) fn secrets_are_needed(&self) -> bool {
        self.environment.secrets != SecretPolicy::NotNeeded
    }

    /// The secret itself, from wherever the configuration says it is.
    pub(super) fn secret(&mut self, raw: Option<&RawSecret>, path: &Path) -> Option<Secret> {
        let Some(raw) = raw else {
            self.note(
                Code::Missing,
                path,
                format!("`{path}` is missing"),
                Some("give it as `{ env: NAME }`, `{ file: PATH }` or `{ value: … }`"),
            );
            return None;
        };
        let text = match (&raw.value, &raw.env, &raw.file) {
            (Some(value), None, None) => Ok(value.clone()),
            (None, Some(name), None) => (self.environment.variable)(name).ok_or_else(|| {
                (path.key("env"), format!("environment variable `{name}` is not set"), SECRET_HINT)
            }),
            (None, None, Some(name)) => {
                (self.environment.file)(&self.file(name)).map(|text| text.trim().to_owned()).map_err(
                    |error| (path.key("file"), format!("`{name}` cannot be read: {error}"), SECRET_HINT),
                )
            }
            _ => {
                let message = "a secret is given in exactly one way";
                self.note(Code::Conflict, path, message, Some("one of `value`, `env` and `file`"));
                return None;
            }
        };
        match text {
            Ok(text) if !text.is_empty() => Some(Secret::new(text)),
            Ok(_) => {
                self.note(Code::InvalidValue, path, "the secret is empty", None);
                None
            }
            Err(_) if self.environment.secrets == SecretPolicy::NotNeeded => {
                Some(Secret::new("not needed".to_owned()))
            }
            Err((path, message, hint)) => {
                self.note(Code::InvalidValue, &path, message, Some(hint));
                None
            }
        }
    }
}
