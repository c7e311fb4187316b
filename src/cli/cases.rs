//! Case files of `portcullis test`: who asks for what, and what shall come of it.
//!
//! Must not decide anything; a case that cannot be understood is an error with its place.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::callers::CallerForm;

/// One file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseFile {
    /// What time it is; now, if nothing is said.
    pub(super) now: Option<Timestamp>,
    /// The project's RBAC policy, as the API answers it, in a file beside this one.
    pub(super) rbac: Option<PathBuf>,
    /// Callers by name.
    #[serde(default)]
    pub(super) callers: BTreeMap<String, CallerForm>,
    pub(super) cases: Vec<Case>,
}

/// One request and what shall come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) request: RequestForm,
    /// A caller's name, `nobody`, or a caller as it is written under `callers`.
    #[serde(default = "nobody", rename = "as")]
    pub(super) caller: WhoForm,
    pub(super) expect: Expectation,
}

/// A word, or a mapping with its parts; what is wrong with either is told by its own reader.
#[derive(Debug)]
pub(super) enum WordOr<T> {
    Word(String),
    Whole(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for WordOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = WordOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a mapping")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
                Ok(WordOr::Word(word.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(WordOr::Whole)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// `GET https://app.example.com/admin`, or with its parts.
pub(super) type RequestForm = WordOr<RequestParts>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestParts {
    #[serde(default = "get")]
    method: String,
    url: String,
    client_ip: Option<IpAddr>,
    /// What the client's certificate is for.
    #[serde(default)]
    client_certificate: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

/// A caller's name, or one as it is written under `callers`.
pub(super) type WhoForm = WordOr<Box<CallerForm>>;

fn nobody() -> WhoForm {
    WordOr::Word("nobody".to_owned())
}

/// What shall come of it: `allow`, `refuse`, the code of a reason, or more than that.
pub(super) type Expectation = WordOr<ExpectationParts>;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExpectationParts {
    pub(super) decision: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) route: Option<String>,
    /// Headers the origin receives: a value, `"*"` for any, null for none.
    pub(super) headers: BTreeMap<String, Option<String>>,
    pub(super) max_age: Option<String>,
    pub(super) acr_values: Option<Vec<String>>,
}

/// Method, URL, and what is known of the client.
pub(super) struct AskedFor {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) client_certificate: Vec<String>,
}

impl CaseFile {
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        let cases: Self = serde_saphyr::from_str(&text).map_err(|error| {
            let told = error.to_string();
            told.trim_start_matches("error: ").replace("<input>", &file.display().to_string())
        })?;
        if cases.cases.is_empty() {
            return Err("it holds no cases".to_owned());
        }
        let mut names = HashSet::new();
        match cases.cases.iter().find(|case| !names.insert(&case.name)) {
            Some(again) => Err(format!("two cases are called `{}`", again.name)),
            None => Ok(cases),
        }
    }
}

impl Case {
    /// The headers it expects, or expects not to be there.
    pub(super) fn headers(&self) -> impl Iterator<Item = &str> {
        let parts = match &self.expect {
            WordOr::Whole(parts) => Some(parts),
            WordOr::Word(_) => None,
        };
        parts.into_iter().flat_map(|parts| parts.headers.keys().map(String::as_str))
    }
}

impl WordOr<RequestParts> {
    pub(super) fn read(&self) -> AskedFor {
        match self {
            Self::Whole(parts) => AskedFor {
                method: parts.method.clone(),
                url: parts.url.clone(),
                client_ip: parts.client_ip,
                client_certificate: parts.client_certificate.clone(),
            },
            Self::Word(line) => {
                let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
                let method = method.to_owned();
                let url = url.trim().to_owned();
                AskedFor { method, url, client_ip: None, client_certificate: Vec::new() }
            }
        }
    }
}

impl WordOr<ExpectationParts> {
    pub(super) fn parts(self) -> Result<ExpectationParts, String> {
        Ok(match self {
            Self::Whole(parts) if parts == ExpectationParts::default() => {
                return Err("it expects nothing".to_owned());
            }
            Self::Whole(parts) => parts,
            Self::Word(word) if word == "allow" || word == "refuse" => {
                ExpectationParts { decision: Some(word), ..ExpectationParts::default() }
            }
            Self::Word(reason) => {
                let decision = Some("refuse".to_owned());
                ExpectationParts { decision, reason: Some(reason), ..ExpectationParts::default() }
            }
        })
    }
}
