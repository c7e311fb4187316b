//! The same evaluation, told part by part: what was asked, what was seen, what came of it.
//!
//! Must not decide anything: it calls the evaluation that decides.

use jiff::Timestamp;

use super::evaluate::{SKEW, evaluate};
use super::{Requirement, Truth};
use crate::identity::Now;
use crate::session::MemberSession;

/// One requirement with what the session showed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub requirement: String,
    pub truth: Truth,
    /// What the session held that bears on it.
    pub observed: String,
    pub parts: Vec<Self>,
}

/// Explains how `session` stands to `requirement` at `now`.
pub fn explain(requirement: &Requirement, session: &MemberSession, now: Now) -> Explanation {
    let parts = match requirement {
        Requirement::All(parts) | Requirement::Any(parts) => {
            parts.iter().map(|part| explain(part, session, now)).collect()
        }
        Requirement::Not(part) => vec![explain(part, session, now)],
        _ => Vec::new(),
    };
    Explanation {
        requirement: requirement.to_string(),
        truth: evaluate(requirement, session, now),
        observed: observed(requirement, session, now),
        parts,
    }
}

fn observed(requirement: &Requirement, session: &MemberSession, now: Now) -> String {
    let ago = |date: Timestamp| match now.age_of(date, SKEW) {
        Some(age) => format!("{}s ago", age.as_secs()),
        None => "in the future".to_owned(),
    };
    match requirement {
        Requirement::Authenticated => format!("session `{}`", session.session_id),
        Requirement::Role(_) => match &session.roles {
            Some(roles) => format!("roles {}", roles.join(", ")),
            None => "roles unknown".to_owned(),
        },
        Requirement::Factor(_) | Requirement::Mfa { .. } | Requirement::Impersonated(_) => {
            let factors = session.factors.iter().map(|factor| {
                let proven =
                    factor.last_authenticated_at.map_or_else(|| "at an unknown time".to_owned(), ago);
                format!("{} by {} {proven}", factor.kind.name(), factor.delivery.name())
            });
            let factors: Vec<String> = factors.collect();
            if factors.is_empty() { "no factors".to_owned() } else { factors.join("; ") }
        }
        Requirement::Organization(_) => format!(
            "organization `{}`, slug {}",
            session.member.organization_id,
            session
                .organization_slug
                .as_deref()
                .map_or_else(|| "unknown".to_owned(), |slug| format!("`{slug}`"))
        ),
        Requirement::Claim(wanted) => match session.claim(&wanted.pointer) {
            None => "the claim was not read".to_owned(),
            Some(claim) => {
                claim.value.as_ref().map_or_else(|| "nothing there".to_owned(), ToString::to_string)
            }
        },
        Requirement::SessionAge { .. } => {
            format!("begun {}", session.started_at.map_or_else(|| "at an unknown time".to_owned(), ago))
        }
        Requirement::All(_) | Requirement::Any(_) | Requirement::Not(_) => String::new(),
    }
}
