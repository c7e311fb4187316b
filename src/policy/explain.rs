//! The same evaluation, told part by part: what was asked, what was seen, what came of it.
//!
//! Must not decide anything: it calls the evaluation that decides.

use jiff::Timestamp;
use serde::Serialize;

use super::evaluate::{SKEW, evaluate};
use super::organization::Naming;
use super::subject::Case;
use super::{Environment, Requirement, Span, Subject, Truth};
use crate::identity::Now;
use crate::session::{Factor, MemberSession};

/// One requirement with what the caller showed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub requirement: String,
    #[serde(rename = "verdict")]
    pub truth: Truth,
    /// What there was that bears on it; empty where its parts say it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub observed: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

/// Explains how `subject` stands to `requirement` at `now`.
pub fn explain(
    requirement: &Requirement,
    subject: &Subject,
    environment: Environment<'_>,
    now: Now,
) -> Explanation {
    explain_case(requirement, Case { subject, environment, now })
}

fn explain_case(requirement: &Requirement, case: Case<'_>) -> Explanation {
    Explanation {
        requirement: requirement.to_string(),
        truth: evaluate(requirement, case),
        observed: observed(requirement, case),
        parts: requirement.parts().iter().map(|part| explain_case(part, case)).collect(),
    }
}

fn observed(requirement: &Requirement, case: Case<'_>) -> String {
    let of_session = |tell: &dyn Fn(&MemberSession) -> String| match case.subject {
        Subject::Member(session) => tell(session),
        Subject::Machine(_) => "a machine, which has no session".to_owned(),
        Subject::App(_) => "an app, which has no session".to_owned(),
    };
    match requirement {
        Requirement::All(_) | Requirement::Any(_) | Requirement::Not(_) | Requirement::Named { .. } => {
            String::new()
        }
        Requirement::Authenticated => of_session(&|session| format!("session `{}`", session.session_id)),
        Requirement::Role(_) => of_session(&roles),
        Requirement::Permission(_) => permission(case),
        Requirement::Factor(_) | Requirement::Mfa { .. } | Requirement::Impersonated(_) => {
            of_session(&|session| factors(session, case.now))
        }
        Requirement::Organization(_) => organization(case),
        Requirement::OrganizationFrom(from) => {
            let named = match from.named(&case.environment) {
                Naming::None => "the request names no organization".to_owned(),
                Naming::One(named) => format!("the request names `{}`", named.name()),
                Naming::Ambiguous => "the request can be read to name more than one organization".to_owned(),
            };
            format!("{named}; {}", organization(case))
        }
        Requirement::Claim(wanted) => of_session(&|session| match session.claim(&wanted.pointer) {
            None => "the claim was not read".to_owned(),
            Some(claim) => {
                claim.value.as_ref().map_or_else(|| "nothing there".to_owned(), ToString::to_string)
            }
        }),
        Requirement::SessionAge { .. } => {
            of_session(&|session| format!("begun {}", ago(session.started_at, case.now)))
        }
        Requirement::Machine { .. } | Requirement::App { .. } => match case.subject {
            Subject::Member(_) => "a member".to_owned(),
            Subject::Machine(token) => {
                format!("machine `{}`, scopes {}", token.client_id, listed(token.scopes.iter()))
            }
            Subject::App(token) => {
                format!("app `{}`, scopes {}", token.client_id, listed(token.scopes.iter()))
            }
        },
        Requirement::ClientCertificate(_) => match case.environment.certificate_names {
            [] => "no certificate".to_owned(),
            names => format!("a certificate for {}", listed(names.iter().map(String::as_str))),
        },
        Requirement::ClientIp(_) => {
            case.environment.client_ip.map_or_else(|| "no address".to_owned(), |address| address.to_string())
        }
    }
}

fn roles(session: &MemberSession) -> String {
    match &session.roles {
        Some(roles) => format!("roles {}", listed(roles.iter().map(|role| &**role))),
        None => "the roles are not told".to_owned(),
    }
}

fn permission(case: Case<'_>) -> String {
    let facts = case.environment.facts;
    let held = match case.subject {
        Subject::Member(session) => roles(session),
        Subject::Machine(_) => return "a machine, which has no permissions".to_owned(),
        Subject::App(token) => format!("scopes {}", listed(token.scopes.iter())),
    };
    match (&facts.policy, &facts.organization_roles) {
        (None, _) => format!("{held}; the project's policy is not loaded"),
        (Some(_), None) if case.subject.session().is_some() => {
            format!("{held}; the organization's own roles are not known")
        }
        _ => held,
    }
}

fn factors(session: &MemberSession, now: Now) -> String {
    let told = session.factors.iter().map(|factor| factor_of(factor, now));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "no factors".to_owned() } else { told.join("; ") }
}

fn factor_of(factor: &Factor, now: Now) -> String {
    let delivery = if factor.delivery.is_told() { factor.delivery.name() } else { "an untold method" };
    let connection = factor.connection_id.as_ref().map_or_else(String::new, |id| format!(" through `{id}`"));
    format!("{} by {delivery}{connection} {}", factor.kind.name(), ago(factor.last_authenticated_at, now))
}

fn organization(case: Case<'_>) -> String {
    let Some(member) = case.subject.member() else {
        return "a machine, which has no organization".to_owned();
    };
    let names = case.environment.facts.organization_names.as_ref().map(|names| &names.value);
    let slug = case.subject.session().and_then(|session| session.organization_slug.as_deref());
    let slug = slug.or_else(|| names?.slug.as_deref());
    let slug = slug.map_or_else(|| "slug not told".to_owned(), |slug| format!("slug `{slug}`"));
    let external = names.and_then(|names| names.external_id.as_deref());
    let external = external.map_or_else(String::new, |id| format!(", external id `{id}`"));
    format!("organization `{}`, {slug}{external}", member.organization_id)
}

fn ago(date: Option<Timestamp>, now: Now) -> String {
    match date.map(|date| now.age_of(date, SKEW)) {
        Some(Some(age)) => format!("{} ago", Span(std::time::Duration::from_secs(age.as_secs()))),
        Some(None) => "in the future".to_owned(),
        None => "at an unknown time".to_owned(),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
