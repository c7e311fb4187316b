//! `POST /admin/explain`: the decision on one request with its reasons, by the engine that decides.
//!
//! Must not let a request through, count a decision, sign anything, or repeat a credential it was given.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;

use super::answer::Failure;
use super::api::RefusedAtTheDoor;
use crate::engine::{AccessRequest, Engine, Page, Report, Waits};
use crate::identity::{CredentialSource, MemberRef, Principal, SocketPeer};
use crate::policy::{CanonicalPath, HostName, Reason};
use crate::telemetry::{RequestId, TraceContext};

/// What is asked about: a request, and at most one of a credential and a member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainCall {
    #[serde(default = "get")]
    method: String,
    url: String,
    /// A JWT or an opaque session token.
    credential: Option<String>,
    /// `ORGANIZATION/MEMBER`.
    member: Option<String>,
    client_ip: Option<IpAddr>,
    /// What the client's certificate is for.
    #[serde(default)]
    client_certificate: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

/// Explains what would become of the request now.
pub(super) async fn explain(
    engine: &Engine,
    at_the_door: RefusedAtTheDoor,
    call: ExplainCall,
) -> Result<serde_json::Value, Failure> {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let method: Method = call.method.parse().map_err(|_| bad("`method` is not a method"))?;
    let uri: Uri = call.url.parse().map_err(|_| bad("`url` is not a URL"))?;
    let authority = uri.authority().ok_or_else(|| bad("`url` needs scheme and host"))?;
    let host = HostName::parse(authority.as_str()).map_err(|_| bad("`url` names no host"))?;
    if call.credential.is_some() && call.member.is_some() {
        return Err(bad("name a `credential` or a `member`, not both"));
    }
    let tell = |report: Report| {
        serde_json::to_value(report).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    };
    let path = match CanonicalPath::parse(uri.path()) {
        Ok(path) => path,
        Err(error) => {
            let reason = Reason::PathAmbiguous;
            let detail = Some(error.to_string());
            return tell(Report::at_the_door(&method, host.as_str(), uri.path(), reason, detail));
        }
    };
    if let Some(reason) = at_the_door(&method, &path) {
        return tell(Report::at_the_door(&method, host.as_str(), path.as_str(), reason, None));
    }
    let headers = match &call.credential {
        Some(credential) => carrying(credential, &engine.snapshot().credentials)
            .ok_or_else(|| bad("`credential` could not be sent in a header"))?,
        None => HeaderMap::new(),
    };
    let member = call.member.as_deref().map(MemberRef::parse).transpose();
    let member = member.map_err(|_| bad("`member` is not ORGANIZATION/MEMBER"))?;
    let request_id = RequestId::new();
    let request = AccessRequest {
        method: &method,
        host: &host,
        path: &path,
        headers: &headers,
        peer: SocketPeer {
            address: call.client_ip,
            certificate_names: &call.client_certificate,
            ..SocketPeer::default()
        },
        client_ip: call.client_ip,
        page: Page::None,
        request_id: &request_id,
        trace: &TraceContext::begin(&request_id),
        waits: Waits::default(),
    };
    tell(engine.explain(&request, member.map(Principal::any_session_of)).await)
}

/// Headers with the credential in the first place it is looked for.
fn carrying(credential: &str, sources: &[CredentialSource]) -> Option<HeaderMap> {
    sources.iter().find_map(|source| {
        let (name, text) = match source {
            CredentialSource::Bearer => (header::AUTHORIZATION, format!("Bearer {credential}")),
            CredentialSource::BasicPassword => return None,
            CredentialSource::Cookie(name) => (header::COOKIE, format!("{name}={credential}")),
            CredentialSource::TrustedIdentity(_) => return None,
        };
        Some(HeaderMap::from_iter([(name, HeaderValue::try_from(text).ok()?)]))
    })
}
