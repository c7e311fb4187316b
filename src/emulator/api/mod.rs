//! The API's calls: which there are, what each needs, and how answers and errors are shaped.
//!
//! Must not answer without the credentials the real API asks for.

mod oauth;
mod organizations;
mod sessions;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::State;
use super::tokens::uuid;

/// One call as it arrived.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    pub(super) now: Timestamp,
}

/// The operations, as faults and counts name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    List,
    Authenticate,
    Revoke,
    Keys(String),
    Policy,
    OrganizationPolicy(String),
    Organization(String),
    Member(String),
    Whoami,
    Token(String),
    Introspect(String),
}

impl Operation {
    /// Which call a request is. A doubled slash at the front is what one SDK sends for a base with a trailing slash.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<String> = path.trim_start_matches('/').split('/').map(decode).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let get = *method == Method::GET;
        let post = *method == Method::POST;
        match segments.as_slice() {
            ["v1", "b2b", "sessions"] if get => Some(Self::List),
            ["v1", "b2b", "sessions", "authenticate"] if post => Some(Self::Authenticate),
            ["v1", "b2b", "sessions", "revoke"] if post => Some(Self::Revoke),
            ["v1", "b2b", "sessions", "jwks", project] if get => Some(Self::Keys((*project).to_owned())),
            ["v1", "sessions", "jwks", project] if get => Some(Self::Keys((*project).to_owned())),
            ["v1", "b2b", "rbac", "policy"] if get => Some(Self::Policy),
            ["v1", "b2b", "rbac", "organizations", id] if get => {
                Some(Self::OrganizationPolicy((*id).to_owned()))
            }
            ["v1", "b2b", "organizations", id] if get => Some(Self::Organization((*id).to_owned())),
            ["v1", "b2b", "organizations", id, "member"] if get => Some(Self::Member((*id).to_owned())),
            ["v1", "debug", "whoami"] if get => Some(Self::Whoami),
            ["v1", "public", project, "oauth2", "token"] if post => Some(Self::Token((*project).to_owned())),
            ["v1", "public", project, "oauth2", "introspect"] if post => {
                Some(Self::Introspect((*project).to_owned()))
            }
            _ => None,
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Authenticate => "authenticate",
            Self::Revoke => "revoke",
            Self::Keys(_) => "keys",
            Self::Policy => "policy",
            Self::OrganizationPolicy(_) => "organization_policy",
            Self::Organization(_) => "organization",
            Self::Member(_) => "member",
            Self::Whoami => "whoami",
            Self::Token(_) => "token",
            Self::Introspect(_) => "introspect",
        }
    }

    /// Keys are public, and the token endpoint has credentials of its own.
    fn needs_project_secret(&self) -> bool {
        !matches!(self, Self::Keys(_) | Self::Token(_) | Self::Introspect(_))
    }

    pub(super) fn answer(&self, state: &mut State, call: &Call<'_>) -> Response<Bytes> {
        if self.needs_project_secret() && !is_authorized(state, call.headers) {
            return api_error(
                StatusCode::UNAUTHORIZED,
                "unauthorized_credentials",
                "Unauthorized credentials.",
            );
        }
        match self {
            Self::List => sessions::list(state, call),
            Self::Authenticate => sessions::authenticate(state, call),
            Self::Revoke => sessions::revoke(state, call),
            Self::Keys(project) => sessions::keys(state, project),
            Self::Policy => ok(json!({ "policy": state.policy })),
            Self::OrganizationPolicy(id) => organizations::policy(state, id),
            Self::Organization(id) => organizations::organization(state, id),
            Self::Member(id) => organizations::member(state, id, call),
            Self::Whoami => ok(json!({ "project_id": state.project_id, "name": "Emulator" })),
            Self::Token(project) => oauth::token(state, project, call),
            Self::Introspect(project) => oauth::introspect(state, project, call),
        }
    }
}

impl Call<'_> {
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// The body as a JSON object; an empty one for no body. The API takes no charset after the type.
    fn json(&self) -> Result<Value, Response<Bytes>> {
        let kind = self.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if kind.is_some_and(|kind| kind != b"application/json") {
            return Err(api_error(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "Content-Type must be application/json.",
            ));
        }
        match serde_json::from_slice(self.body) {
            Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
            Ok(Value::Null) => Ok(json!({})),
            _ if self.body.is_empty() => Ok(json!({})),
            _ => Err(api_error(StatusCode::BAD_REQUEST, "bad_request", "The body is not a JSON object.")),
        }
    }
}

/// Key and value pairs of a query or form, decoded.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let plain = |part: &str| decode(&part.replace('+', " "));
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (plain(key), plain(value)))
        .collect()
}

/// A good answer: 200 with the two fields every body has.
pub(super) fn ok(mut fields: Value) -> Response<Bytes> {
    if let Value::Object(fields) = &mut fields {
        fields.insert("status_code".to_owned(), json!(200));
        fields.insert("request_id".to_owned(), json!(request_id()));
    }
    json_response(StatusCode::OK, &fields)
}

/// An error with all five keys.
pub(super) fn api_error(status: StatusCode, kind: &str, message: &str) -> Response<Bytes> {
    let body = json!({
        "status_code": status.as_u16(),
        "request_id": request_id(),
        "error_type": kind,
        "error_message": message,
        "error_url": format!("https://stytch.com/docs/api/errors/{}", status.as_u16()),
    });
    json_response(status, &body)
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn request_id() -> String {
    format!("request-id-test-{}", uuid())
}

fn is_authorized(state: &State, headers: &HeaderMap) -> bool {
    let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", state.project_id, state.secret)));
    headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes())
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        rest = match value {
            Some(_) => tail.get(2..).unwrap_or_default(),
            None => tail,
        };
        bytes.push(value.unwrap_or(*first));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
