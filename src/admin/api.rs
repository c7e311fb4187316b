//! The admin API: `POST /admin/revoke`, `POST /admin/explain`.
//!
//! Must not answer a page in somebody's browser, nor anybody without the token.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::AdminSettings;
use super::explain::explain;
use crate::engine::Engine;
use crate::identity::{CredentialDigest, MemberId, OrganizationId, SessionId};
use crate::policy::{CanonicalPath, Reason};
use crate::revocation::{Revocations, Source};
use crate::server::{Peer, Serve};
use crate::session::RevocationTarget;

/// The most of a body that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Answers the admin API. Cheap to clone.
#[derive(Clone)]
pub struct AdminDoor(Arc<Inner>);

struct Inner {
    revocations: Revocations,
    engine: Arc<Engine>,
    at_the_door: RefusedAtTheDoor,
    settings: AdminSettings,
}

/// What no route is asked about, as the doors tell it.
pub type RefusedAtTheDoor = fn(&Method, &CanonicalPath) -> Option<Reason>;

/// What is to be revoked: exactly one of the three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeCall {
    member_session_id: Option<String>,
    member_id: Option<String>,
    organization_id: Option<String>,
    /// Whether it is revoked at the API as well.
    #[serde(default)]
    upstream: bool,
}

/// Status and words of an answer that is no success.
pub(super) type Failure = (StatusCode, String);

impl AdminDoor {
    pub fn new(
        revocations: Revocations,
        engine: Arc<Engine>,
        at_the_door: RefusedAtTheDoor,
        settings: AdminSettings,
    ) -> Self {
        Self(Arc::new(Inner { revocations, engine, at_the_door, settings }))
    }
}

impl Serve for AdminDoor {
    type Body = Full<Bytes>;

    async fn serve(&self, request: Box<Request<Incoming>>, peer: Arc<Peer>) -> Response<Full<Bytes>> {
        let (status, body) = match self.0.answer(request).await {
            Ok(body) => (StatusCode::OK, body),
            Err((status, error)) => {
                tracing::warn!(peer = %peer.socket, status = status.as_u16(), error, "an admin call was refused");
                (status, serde_json::json!({ "error": error }))
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"portcullis admin\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl Inner {
    async fn answer(&self, request: Box<Request<Incoming>>) -> Result<serde_json::Value, Failure> {
        self.admit(request.headers())?;
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/admin/revoke") => self.revoke(read(request).await?).await,
            (&Method::POST, "/admin/explain") => {
                explain(&self.engine, self.at_the_door, read(request).await?).await
            }
            (_, "/admin/revoke" | "/admin/explain") => {
                Err((StatusCode::METHOD_NOT_ALLOWED, "use POST".to_owned()))
            }
            _ => Err((
                StatusCode::NOT_FOUND,
                "there are POST /admin/revoke and POST /admin/explain".to_owned(),
            )),
        }
    }

    /// Whoever holds the token, and no page of a browser.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
            return Err((StatusCode::FORBIDDEN, "pages of a browser are not answered".to_owned()));
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        // By digest, so that the time it takes says nothing about either length.
        let same = given.is_some_and(|(_, given)| {
            let token = self.settings.token.expose();
            let [given, token] = [given.trim(), token].map(|text| CredentialDigest::of(text).to_hex());
            verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok()
        });
        if same { Ok(()) } else { Err((StatusCode::UNAUTHORIZED, "the admin token is needed".to_owned())) }
    }

    async fn revoke(&self, call: RevokeCall) -> Result<serde_json::Value, Failure> {
        let bad = |why: String| (StatusCode::BAD_REQUEST, why);
        let target = target(&call).map_err(|why| bad(why.to_owned()))?;
        if !call.upstream {
            self.revocations.forget(&target, Source::Admin);
            return Ok(serde_json::json!({ "forgotten": true, "revoked_upstream": false }));
        }
        if matches!(target, RevocationTarget::Organization(_)) {
            let why = "the API revokes sessions and members; an organization can only be forgotten here";
            return Err(bad(why.to_owned()));
        }
        if let Err(error) = self.revocations.end(target.clone(), Source::Admin).await {
            // Here, whatever the API says.
            self.revocations.forget(&target, Source::Admin);
            let why = format!("forgotten here, but not revoked upstream: {error}");
            return Err((StatusCode::BAD_GATEWAY, why));
        }
        Ok(serde_json::json!({ "forgotten": true, "revoked_upstream": true }))
    }
}

/// The body of a call, which a form of a web page, and what can be made to send one, cannot write.
async fn read<T: DeserializeOwned>(request: Box<Request<Incoming>>) -> Result<T, Failure> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if kind != Some("application/json") {
        let why = "send `content-type: application/json`";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why.to_owned()));
    }
    let read = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), read).await;
    let Ok(Ok(body)) = read else { return Err(bad("the body did not arrive".to_owned())) };
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        let told = error.to_string();
        // What the reader says of keys names keys alone; what it says of values would repeat what was sent.
        let of_keys =
            ["unknown field", "missing field", "duplicate field"].iter().any(|say| told.starts_with(say));
        bad(match error.classify() {
            serde_json::error::Category::Data if of_keys => told,
            serde_json::error::Category::Data => format!("a value is not what this call takes: {place}"),
            _ => format!("the body is not JSON: {place}"),
        })
    })
}

fn target(call: &RevokeCall) -> Result<RevocationTarget, &'static str> {
    let no_id = "this is no id";
    match (&call.member_session_id, &call.member_id, &call.organization_id) {
        (Some(id), None, None) => SessionId::parse(id).map(RevocationTarget::Session).map_err(|_| no_id),
        (None, Some(id), None) => MemberId::parse(id).map(RevocationTarget::Member).map_err(|_| no_id),
        (None, None, Some(id)) => {
            OrganizationId::parse(id).map(RevocationTarget::Organization).map_err(|_| no_id)
        }
        _ => Err("name exactly one of `member_session_id`, `member_id` and `organization_id`"),
    }
}
