//! A decision with its reasons: which route and why no other, what was asked and seen, what would change it.
//!
//! Must not decide: it asks the same `Engine` in the same way, and tells what came of it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Serialize;

use super::check::{Engine, Manner, Verdict};
use super::{AccessRequest, HeaderEdits};
use crate::identity::Principal;
use crate::policy::{
    Access, Decision, Environment, Explanation, Reason, Refusal, Requirement, Route, Span, Standing, Subject,
    explain,
};
use crate::session::Evidence;

/// What there is to say about one decision.
#[derive(Debug, Serialize)]
pub struct Report {
    pub method: String,
    pub host: String,
    pub path: String,
    /// `allow` or `refuse`.
    pub decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<ReportedRefusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<ReportedRoute>,
    /// Every place of the route table in the order it is tried, up to all that could have matched.
    pub considered: Vec<Considered>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<ReportedCaller>,
    /// Age of the oldest evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_age_ms: Option<u64>,
    /// Every lookup that the requirement rests on, with its age.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<ReportedFact>,
    /// The requirement held against each session that could answer, or against the token.
    pub held: Vec<Held>,
    /// What is asked, where there was nobody to hold it against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What would be injected into the request. A signed assertion is never made for this.
    pub headers: Vec<(String, String)>,
    /// What there is to say of a request that is refused before any route is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Report {
    /// Of a request that no route is asked about.
    pub fn at_the_door(
        method: &Method,
        host: &str,
        path: &str,
        reason: Reason,
        detail: Option<String>,
    ) -> Self {
        Self {
            method: method.to_string(),
            host: host.to_owned(),
            path: path.to_owned(),
            decision: "refuse",
            refusal: Some(ReportedRefusal::of(&reason.into())),
            route: None,
            considered: Vec::new(),
            caller: None,
            evidence_age_ms: None,
            facts: Vec::new(),
            held: Vec::new(),
            asked: None,
            headers: Vec::new(),
            detail,
        }
    }
}

/// One lookup that a decision rests on.
#[derive(Debug, Serialize)]
pub struct ReportedFact {
    /// `session list`, `token's own claims`, `introspection`, `project policy`, `organization policy`, `organization names` or
    /// `organization by name`.
    pub fact: &'static str,
    /// Since the lookup was sent.
    pub age_ms: u64,
}

/// Why it was refused, and what helps.
#[derive(Debug, Serialize)]
pub struct ReportedRefusal {
    pub status: u16,
    pub reason: &'static str,
    pub title: &'static str,
    pub remedy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acr_values: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct ReportedRoute {
    pub name: String,
    pub public: bool,
    pub upstream: String,
    pub max_staleness: String,
    pub stale_if_error: String,
}

/// One place of the route table and how the request stands to it.
#[derive(Debug, Serialize)]
pub struct Considered {
    pub route: String,
    pub host: String,
    pub path: String,
    /// `answers`, `other_host`, `other_path`, `other_method` or `outranked`.
    pub standing: &'static str,
}

#[derive(Debug, Serialize)]
pub struct ReportedCaller {
    /// `member`, `machine` or `app`.
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The session it is judged on; any one active session if there is none here and a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// A requirement held against one session or token.
#[derive(Debug, Serialize)]
pub struct Held {
    /// The session's id, or what else was judged.
    pub against: String,
    pub requirement: Explanation,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Explanation>,
}

/// A requirement nobody was held against.
#[derive(Debug, Serialize)]
pub struct Asked {
    pub requirement: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

impl Engine {
    /// Decides as `check` does, for `given` if somebody is, and tells everything about it. No decision is counted or recorded,
    /// and nothing is signed; what is looked up for it is looked up as ever.
    pub async fn explain(&self, request: &AccessRequest<'_>, given: Option<Principal>) -> Report {
        let verdict = self.decide_for(request, self.rules(), given, Manner::Explained).await;
        report(request, &verdict)
    }
}

fn report(request: &AccessRequest<'_>, verdict: &Verdict) -> Report {
    let route = verdict.route.as_ref();
    let requirement = route.and_then(|route| route.access.requirement());
    let held = match (route, requirement) {
        (Some(route), Some(requirement)) => held(request, verdict, route, requirement),
        _ => Vec::new(),
    };
    let now = verdict.decided_at;
    let age = match &verdict.decision {
        Decision::Allow(permit) => permit.caller().map(|caller| caller.evidence_age),
        Decision::Refuse(_) => None,
    };
    let age = age.or_else(|| {
        let of_facts = requirement.and_then(|asked| verdict.facts.oldest_age(asked, now.monotonic));
        verdict.evidence.as_ref().map(|evidence| evidence.age(now.monotonic)).max(of_facts)
    });
    Report {
        method: request.method.to_string(),
        host: request.host.to_string(),
        path: request.path.to_string(),
        decision: if matches!(verdict.decision, Decision::Allow(_)) { "allow" } else { "refuse" },
        refusal: match &verdict.decision {
            Decision::Allow(_) => None,
            Decision::Refuse(refusal) => Some(ReportedRefusal::of(refusal)),
        },
        route: route.map(|route| ReportedRoute {
            name: route.name.to_string(),
            public: matches!(route.access, Access::Public),
            upstream: route.upstream.to_string(),
            max_staleness: Span(route.freshness.max_staleness).to_string(),
            stale_if_error: Span(route.freshness.stale_if_error).to_string(),
        }),
        considered: considered(request, verdict),
        caller: verdict.principal.as_ref().map(ReportedCaller::of),
        evidence_age_ms: age.map(millis),
        facts: facts(verdict, requirement),
        asked: requirement.filter(|_| held.is_empty()).map(Asked::of),
        held,
        headers: match &verdict.decision {
            Decision::Allow(_) => told(&verdict.edits),
            Decision::Refuse(_) => Vec::new(),
        },
        detail: why_rejected(verdict),
    }
}

fn facts(verdict: &Verdict, requirement: Option<&Requirement>) -> Vec<ReportedFact> {
    let now = verdict.decided_at.monotonic;
    let listed = verdict.evidence.as_ref().map(|evidence| {
        let is_claims = matches!(evidence, Evidence::Vouched(_));
        (if is_claims { "token's own claims" } else { "session list" }, evidence.age(now))
    });
    let introspected = verdict.introspection.as_ref();
    let introspected = introspected.map(|asked| ("introspection", now.since(asked.fetched_at.monotonic)));
    let looked_up = requirement.into_iter().flat_map(|requirement| verdict.facts.used_by(requirement));
    let looked_up = looked_up.map(|(fact, found)| (fact, found.age(now)));
    let all = listed.into_iter().chain(introspected).chain(looked_up);
    all.map(|(fact, age)| ReportedFact { fact, age_ms: millis(age) }).collect()
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// Why what was shown is no credential, where that is what it was refused for.
fn why_rejected(verdict: &Verdict) -> Option<String> {
    let rejections: Vec<String> = verdict.rejections.iter().map(ToString::to_string).collect();
    (verdict.principal.is_none() && !rejections.is_empty()).then(|| rejections.join("; "))
}

fn told(edits: &HeaderEdits) -> Vec<(String, String)> {
    edits.injected().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn considered(request: &AccessRequest<'_>, verdict: &Verdict) -> Vec<Considered> {
    let standings = verdict.snapshot.routes.standings(request.host, request.path, request.method);
    let told = standings.map(|(standing, host, path, route)| Considered {
        route: route.name.to_string(),
        host: host.to_string(),
        path: path.to_string(),
        standing: match standing {
            Standing::Answers => "answers",
            Standing::OtherHost => "other_host",
            Standing::OtherPath => "other_path",
            Standing::OtherMethod => "other_method",
            Standing::Outranked => "outranked",
        },
    });
    told.collect()
}

/// The requirement against every session that could answer: its own, or all where any one may.
fn held(
    request: &AccessRequest<'_>,
    verdict: &Verdict,
    route: &Route,
    requirement: &Requirement,
) -> Vec<Held> {
    let list = verdict.evidence.as_ref().and_then(|evidence| evidence.list());
    let subjects: Vec<(String, Subject)> = match (&verdict.principal, list) {
        (Some(Principal::Member(principal)), Some(list)) => match principal.session_id() {
            Some(id) => list
                .find(id)
                .map(|session| (session.session_id.to_string(), Subject::Member(session)))
                .into_iter()
                .collect(),
            None => list
                .sessions()
                .map(|session| (session.session_id.to_string(), Subject::Member(Arc::new(session))))
                .collect(),
        },
        (Some(Principal::Machine(token)), _) => {
            vec![("the machine's token".to_owned(), Subject::Machine(Arc::clone(token)))]
        }
        (Some(Principal::App(token)), _) => {
            let introspection = verdict.introspection.as_ref();
            let token =
                introspection.map_or_else(|| Arc::clone(token), |introspection| introspection.narrow(token));
            let revoked = introspection.is_some_and(|introspection| !introspection.active);
            let against = if revoked { "the app's token, which is revoked" } else { "the app's token" };
            vec![(against.to_owned(), Subject::App(token))]
        }
        _ => Vec::new(),
    };
    let environment = Environment {
        client_ip: request.client_ip,
        certificate_names: request.peer.certificate_names,
        host: request.host,
        path: request.path,
        patterns: &route.matches.paths,
        facts: &verdict.facts,
    };
    let now = verdict.decided_at;
    subjects
        .into_iter()
        .map(|(against, subject)| Held {
            against,
            requirement: explain(requirement, &subject, environment, now),
            shadow: route.shadow.as_ref().map(|shadow| explain(shadow, &subject, environment, now)),
        })
        .collect()
}

impl ReportedRefusal {
    /// What is told of a refusal.
    pub fn of(refusal: &Refusal) -> Self {
        let challenge = refusal.challenge.as_ref();
        let reason: Reason = refusal.reason;
        Self {
            status: reason.status().as_u16(),
            reason: reason.code(),
            title: reason.title(),
            remedy: reason.remedy().advice(),
            max_age_seconds: challenge.and_then(|challenge| challenge.max_age).map(|age| age.as_secs()),
            acr_values: challenge.map(|challenge| challenge.acr_values.clone()).unwrap_or_default(),
        }
    }
}

impl ReportedCaller {
    fn of(principal: &Principal) -> Self {
        let member = principal.member();
        Self {
            kind: match principal {
                Principal::Member(_) => "member",
                Principal::Machine(_) => "machine",
                Principal::App(_) => "app",
            },
            organization_id: member.map(|member| member.organization_id.to_string()),
            member_id: member.map(|member| member.member_id.to_string()),
            client_id: match principal {
                Principal::Member(_) => None,
                Principal::Machine(token) => Some(token.client_id.to_string()),
                Principal::App(token) => Some(token.client_id.to_string()),
            },
            session_id: principal.session_id().map(ToString::to_string),
        }
    }
}

impl Asked {
    fn of(requirement: &Requirement) -> Self {
        Self {
            requirement: requirement.to_string(),
            parts: requirement.parts().iter().map(Self::of).collect(),
        }
    }
}
