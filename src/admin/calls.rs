//! What the gateway can be told to do: reload, leave, log, forget.
//!
//! Must not be reached by whoever was not admitted; `api` does that first.

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::answer::{Answer, Failure};
use super::api::Inner;
use super::explain::explain;
use crate::identity::{MemberId, OrganizationId, SessionId};
use crate::revocation::Source;
use crate::session::RevocationTarget;
use crate::telemetry::{check_filter, log_filter, set_log_filter};

/// The most of a body that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;

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

/// What is to be asked for anew, by this replica alone: exactly one of the four.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvictCall {
    member_session_id: Option<String>,
    member_id: Option<String>,
    organization_id: Option<String>,
    #[serde(default)]
    everything: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogCall {
    filter: String,
}

impl Inner {
    pub(super) async fn call(&self, path: &str, request: Box<Request<Incoming>>) -> Result<Answer, Failure> {
        match path {
            "/admin/revoke" => Answer::json(&self.revoke(read(request).await?).await?),
            "/admin/evict" => Answer::json(&self.evict(&read(request).await?)?),
            "/admin/explain" => {
                Answer::json(&explain(&self.engine, self.at_the_door, read(request).await?).await?)
            }
            "/admin/log" => {
                let call: LogCall = read(request).await?;
                check_filter(&call.filter).map_err(|error| (StatusCode::BAD_REQUEST, error))?;
                set_log_filter(&call.filter);
                tracing::info!(filter = call.filter, "the log is filtered as an operator said");
                Self::log()
            }
            "/admin/reload" => self.reload().await,
            "/admin/drain" => {
                (self.controls.drain)();
                tracing::info!("an operator said that we will leave: not ready any more");
                Answer::json(&serde_json::json!({ "leaving": true }))
            }
            _ => Err((StatusCode::NOT_FOUND, "there is no such call".to_owned())),
        }
    }

    pub(super) fn log() -> Result<Answer, Failure> {
        Answer::json(&serde_json::json!({ "filter": log_filter() }))
    }

    async fn reload(&self) -> Result<Answer, Failure> {
        let no_file = || (StatusCode::CONFLICT, "the configuration is from no file".to_owned());
        let (asking, answer) = oneshot::channel();
        self.controls.reload.get().ok_or_else(no_file)?.send(asking).await.map_err(|_| no_file())?;
        let change = answer.await.map_err(|_| no_file())?;
        let mut answer = Answer::json(&change)?;
        answer.status = match change.result {
            "invalid" => StatusCode::UNPROCESSABLE_ENTITY,
            "refused" => StatusCode::CONFLICT,
            _ => StatusCode::OK,
        };
        Ok(answer)
    }

    fn evict(&self, call: &EvictCall) -> Result<serde_json::Value, Failure> {
        if call.everything {
            if call.member_session_id.is_some() || call.member_id.is_some() || call.organization_id.is_some()
            {
                let why = "name something, or `everything`, not both";
                return Err((StatusCode::BAD_REQUEST, why.to_owned()));
            }
            self.revocations.evict(None);
        } else {
            let target = target(
                call.member_session_id.as_deref(),
                call.member_id.as_deref(),
                call.organization_id.as_deref(),
            )?;
            self.revocations.evict(Some(&target));
        }
        Ok(serde_json::json!({ "evicted": true }))
    }

    async fn revoke(&self, call: RevokeCall) -> Result<serde_json::Value, Failure> {
        let bad = |why: String| (StatusCode::BAD_REQUEST, why);
        let target = target(
            call.member_session_id.as_deref(),
            call.member_id.as_deref(),
            call.organization_id.as_deref(),
        )?;
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

fn target(
    session: Option<&str>,
    member: Option<&str>,
    organization: Option<&str>,
) -> Result<RevocationTarget, Failure> {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let found = match (session, member, organization) {
        (Some(id), None, None) => SessionId::parse(id).map(RevocationTarget::Session).ok(),
        (None, Some(id), None) => MemberId::parse(id).map(RevocationTarget::Member).ok(),
        (None, None, Some(id)) => OrganizationId::parse(id).map(RevocationTarget::Organization).ok(),
        _ => {
            return Err(bad("name exactly one of `member_session_id`, `member_id` and `organization_id`"));
        }
    };
    found.ok_or_else(|| bad("this is no id"))
}
