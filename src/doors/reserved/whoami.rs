//! `GET /.portcullis/whoami`: what is known about the caller, told to the caller.
//!
//! Must not hold a token, nor say anything about another session of theirs.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use super::{Refused, ReservedPages, ReservedRequest, answer};
use crate::policy::{Caller, Decision};
use crate::session::FactorKind;

#[derive(Serialize)]
struct WhoAmI<'a> {
    member_id: &'a str,
    organization_id: &'a str,
    organization_slug: Option<&'a str>,
    session_id: &'a str,
    email: Option<&'a str>,
    impersonator: Option<&'a str>,
    /// Absent if the directory did not say.
    roles: Option<Vec<&'a str>>,
    factors: Vec<ProvenFactor<'a>>,
    started_at: Option<Timestamp>,
    expires_at: Timestamp,
    expires_in_seconds: u64,
    /// How long ago the directory was asked.
    evidence_age_seconds: f64,
}

#[derive(Serialize)]
struct ProvenFactor<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    delivery_method: &'a str,
    last_authenticated_at: Option<Timestamp>,
    age_seconds: Option<u64>,
}

impl ReservedPages {
    pub(super) async fn whoami(&self, asked: &ReservedRequest<'_>) -> Result<Response<Bytes>, Refused> {
        let verdict = self.engine.check_own(&asked.access(), asked.rules.clone()).await;
        let permit = match &verdict.decision {
            Decision::Allow(permit) => permit,
            Decision::Refuse(refusal) => {
                return Err(Refused { refusal: refusal.clone(), recorded: true });
            }
        };
        let described = permit.caller().and_then(|caller| describe(caller, verdict.decided_at.wall));
        let body = described.unwrap_or_default();
        let body = if asked.head.method == Method::HEAD { Vec::new() } else { body };
        Ok(answer(StatusCode::OK, "application/json", body))
    }
}

/// What is known about a member; our own pages take nobody else.
fn describe(caller: &Caller, now: Timestamp) -> Option<Vec<u8>> {
    let session = caller.subject.session()?;
    let seconds_since =
        |date: Timestamp| u64::try_from(now.duration_since(date).as_secs()).unwrap_or_default();
    let readable = session.factors.iter().filter(|factor| factor.kind != FactorKind::Unreadable);
    let who = WhoAmI {
        member_id: session.member.member_id.as_str(),
        organization_id: session.member.organization_id.as_str(),
        organization_slug: session.organization_slug.as_deref(),
        session_id: session.session_id.as_str(),
        email: session.email(),
        impersonator: session.impersonator(),
        roles: session.roles.as_ref().map(|roles| roles.iter().map(|role| &**role).collect()),
        factors: readable
            .map(|factor| ProvenFactor {
                kind: factor.kind.name(),
                delivery_method: factor.delivery.name(),
                last_authenticated_at: factor.last_authenticated_at,
                age_seconds: factor.last_authenticated_at.map(seconds_since),
            })
            .collect(),
        started_at: session.started_at,
        expires_at: session.expires_at,
        expires_in_seconds: u64::try_from(session.expires_at.duration_since(now).as_secs())
            .unwrap_or_default(),
        evidence_age_seconds: (caller.evidence_age.as_secs_f64() * 1e3).round() / 1e3,
    };
    serde_json::to_vec(&who).ok()
}
