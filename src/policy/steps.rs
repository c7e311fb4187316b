//! What a caller could do about a refusal, and the one reason they are told.
//!
//! Must not challenge anybody for a factor unless meeting the challenge would lead to an allow (invariant 10).

use std::sync::Arc;
use std::time::Duration;

use super::evaluate::{Case, evaluate, has_category};
use super::organization::Naming;
use super::requirement::FactorRequirement;
use super::{Challenge, Reason, Requirement, Subject, Truth};
use crate::identity::Now;
use crate::session::{DeliveryMethod, Factor, FactorCategory, FactorKind, MemberSession};

/// Why an unmet requirement refuses: a challenge if meeting it would lead to an allow, else what forbids (invariant 10).
pub(super) fn refusal_of(requirement: &Requirement, case: Case<'_>) -> (Reason, Option<Challenge>) {
    if let Subject::Member(session) = case.subject
        && let Some(wanted) = steps_to_meet(requirement, case).filter(|wanted| !wanted.is_empty())
    {
        let stepped_up =
            wanted.iter().fold((**session).clone(), |session, step| step.take(session, case.now));
        let stepped_up = Subject::Member(Arc::new(stepped_up));
        if evaluate(requirement, Case { subject: &stepped_up, ..case }).is_true() {
            let reason = wanted.iter().map(|step| step.reason(session)).max_by_key(|reason| reason.rank());
            return (reason.unwrap_or(Reason::RequirementNotMet), Some(Challenge::for_steps(&wanted)));
        }
    }
    (forbidding(requirement, case).unwrap_or(Reason::RequirementNotMet), None)
}

/// Something the caller can do about a refusal: prove a factor now, or sign in anew.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Factor(&'a FactorRequirement),
    Mfa(Option<Duration>),
    SignInAnew(Duration),
}

/// The steps that would meet `requirement`: none if it is met, `None` if no step can.
fn steps_to_meet<'a>(requirement: &'a Requirement, case: Case<'_>) -> Option<Vec<Step<'a>>> {
    if evaluate(requirement, case).is_true() {
        return Some(Vec::new());
    }
    match requirement {
        Requirement::Factor(wanted) => wanted.to_prove().map(|_| vec![Step::Factor(wanted)]),
        Requirement::Mfa { max_age } => Some(vec![Step::Mfa(*max_age)]),
        Requirement::SessionAge { max } => Some(vec![Step::SignInAnew(*max)]),
        Requirement::All(parts) => {
            let steps: Option<Vec<_>> = parts.iter().map(|part| steps_to_meet(part, case)).collect();
            steps.map(|steps| steps.concat())
        }
        Requirement::Any(parts) => {
            parts.iter().filter_map(|part| steps_to_meet(part, case)).min_by_key(Vec::len)
        }
        Requirement::Named { requirement, .. } => steps_to_meet(requirement, case),
        _ => None,
    }
}

impl Step<'_> {
    /// The session as it would be once the step was taken.
    fn take(&self, mut session: MemberSession, now: Now) -> MemberSession {
        let proven = |kind, delivery: &str| Factor {
            kind,
            delivery: DeliveryMethod::new(delivery),
            last_authenticated_at: Some(now.wall),
            connection_id: None,
            email: None,
            impersonator: None,
        };
        match self {
            Step::Factor(wanted) => {
                let proven = wanted.to_prove();
                session
                    .factors
                    .extend(proven.map(|factor| Factor { last_authenticated_at: Some(now.wall), ..factor }));
            }
            Step::Mfa(_) => {
                let has_primary =
                    session.factors.iter().any(|factor| factor.category() == FactorCategory::Primary);
                if !has_primary {
                    session.factors.push(proven(FactorKind::Password, "knowledge"));
                }
                session.factors.push(proven(FactorKind::Totp, "authenticator_app"));
            }
            Step::SignInAnew(_) => session.started_at = Some(now.wall),
        }
        session
    }

    fn reason(&self, session: &MemberSession) -> Reason {
        match self {
            Step::Factor(wanted)
                if session.factors.iter().any(|factor| wanted.is_kind_of(factor).is_true()) =>
            {
                Reason::FactorStale
            }
            Step::Factor(_) => Reason::FactorMissing,
            Step::Mfa(_) => {
                let has = |category| {
                    session.factors.iter().any(|factor| has_category(factor, category) == Truth::True)
                };
                if has(FactorCategory::Primary) && has(FactorCategory::Secondary) {
                    Reason::MfaStale
                } else {
                    Reason::MfaMissing
                }
            }
            Step::SignInAnew(_) => Reason::SessionTooOld,
        }
    }

    pub(super) fn max_age(&self) -> Option<Duration> {
        match self {
            Step::Factor(wanted) => wanted.max_age,
            Step::Mfa(max_age) => *max_age,
            Step::SignInAnew(max) => Some(*max),
        }
    }

    pub(super) fn acr_value(&self) -> Option<String> {
        match self {
            Step::Factor(wanted) => Some(match (&wanted.kind, wanted.category, &wanted.delivery) {
                (Some(kind), _, _) => format!("urn:portcullis:factor:{}", kind.name()),
                (None, Some(category), _) => format!("urn:portcullis:factor:{}", category.name()),
                (None, None, Some(delivery)) => format!("urn:portcullis:delivery:{}", delivery.name()),
                // Connections are those of single sign-on.
                (None, None, None) => "urn:portcullis:factor:sso".to_owned(),
            }),
            Step::Mfa(_) => Some("urn:portcullis:mfa".to_owned()),
            Step::SignInAnew(_) => None,
        }
    }
}

/// The most parts that are named to a caller.
const MAX_UNMET: usize = 8;

/// The parts that are not met, in words.
pub(super) fn unmet(requirement: &Requirement, case: Case<'_>) -> Vec<String> {
    fn gather(requirement: &Requirement, case: Case<'_>, found: &mut Vec<String>) {
        if found.len() >= MAX_UNMET || evaluate(requirement, case).is_true() {
            return;
        }
        match requirement {
            Requirement::All(parts) | Requirement::Any(parts) => {
                parts.iter().for_each(|part| gather(part, case, found));
            }
            Requirement::Named { requirement, .. } => gather(requirement, case, found),
            Requirement::Not(part) => found.push(format!("not {part}")),
            leaf => found.push(leaf.to_string()),
        }
    }
    let mut found = Vec::new();
    gather(requirement, case, &mut found);
    found
}

impl FactorRequirement {
    /// A factor that would meet the requirement, its age apart, if there is such a factor at all.
    pub(super) fn example(&self) -> Option<Factor> {
        let kinds: Vec<FactorKind> = match &self.kind {
            Some(kind) => vec![kind.clone()],
            None => FactorKind::known_names().map(FactorKind::from_name).collect(),
        };
        let deliveries: Vec<DeliveryMethod> = match &self.delivery {
            Some(delivery) => vec![delivery.clone()],
            // Of a kind nobody knows it is not known either how it is delivered.
            None => DeliveryMethod::known_names().chain(["proven_now"]).map(DeliveryMethod::new).collect(),
        };
        kinds.iter().find_map(|kind| {
            if self.connection_id.is_some() && *kind != FactorKind::Sso {
                return None;
            }
            let fitting = deliveries.iter().filter(|delivery| kind.is_delivered_by(delivery));
            let mut factors = fitting.map(|delivery| Factor {
                kind: kind.clone(),
                delivery: delivery.clone(),
                last_authenticated_at: None,
                connection_id: self.connection_id.clone(),
                email: None,
                impersonator: None,
            });
            factors.find(|factor| self.is_kind_of(factor).is_true())
        })
    }

    /// What a caller could be asked to prove; impersonation and imports are not.
    fn to_prove(&self) -> Option<Factor> {
        let not_asked = [FactorKind::Impersonated, FactorKind::Imported];
        self.example().filter(|factor| !not_asked.contains(&factor.kind))
    }
}

/// The highest-ranked reason among the parts that are not met and that no step can meet.
///
/// Where every part must hold, one that is known not to outranks any that cannot be known: it forbids whatever they are.
fn forbidding(requirement: &Requirement, case: Case<'_>) -> Option<Reason> {
    let truth = evaluate(requirement, case);
    if truth.is_true() {
        return None;
    }
    let of_parts = |parts: &[Requirement], only: Option<Truth>| {
        let parts = parts.iter().filter(|part| only.is_none_or(|only| evaluate(part, case) == only));
        parts.filter_map(|part| forbidding(part, case)).max_by_key(|reason| reason.rank())
    };
    match (requirement, case.subject) {
        (Requirement::All(parts), _) => {
            let hard = |part: &&Requirement| evaluate(part, case) == Truth::False && !can_be_met(part, case);
            let hard = parts.iter().filter(hard).filter_map(|part| forbidding(part, case));
            // Where steps would meet whatever is not met, what stands in the way is what is not known.
            hard.max_by_key(|reason| reason.rank()).or_else(|| of_parts(parts, Some(Truth::Unknown)))
        }
        (Requirement::Any(parts), _) => of_parts(parts, None),
        (Requirement::Named { requirement, .. }, _) => forbidding(requirement, case),
        _ if truth == Truth::Unknown => unknown(requirement, case),
        (Requirement::Not(_), _) => Some(Reason::RequirementNotMet),
        (Requirement::Machine { .. }, Subject::Machine(_)) | (Requirement::App { .. }, Subject::App(_)) => {
            Some(Reason::ScopeMissing)
        }
        (Requirement::Machine { .. } | Requirement::App { .. }, _) => Some(Reason::CredentialKind),
        (Requirement::ClientIp(_), _) => Some(Reason::ClientIpForbidden),
        (Requirement::Permission(wanted), subject) => {
            let elsewhere = wanted.organization.as_ref().zip(subject.member());
            let elsewhere = elsewhere.is_some_and(|(id, member)| **id != *member.organization_id.as_str());
            Some(if elsewhere { Reason::OrganizationMismatch } else { Reason::PermissionMissing })
        }
        (Requirement::Organization(_) | Requirement::OrganizationFrom(_), _) => {
            Some(Reason::OrganizationMismatch)
        }
        (_, Subject::Machine(_) | Subject::App(_)) => Some(Reason::CredentialKind),
        (Requirement::Role(_), _) => Some(Reason::RoleMissing),
        (Requirement::Impersonated(_), _) => Some(Reason::ImpersonationMismatch),
        (Requirement::Claim(_), _) => Some(Reason::ClaimMismatch),
        _ => Some(Reason::RequirementNotMet),
    }
}

/// Whether the caller could meet an unmet part by a step.
fn can_be_met(requirement: &Requirement, case: Case<'_>) -> bool {
    matches!(case.subject, Subject::Member(_)) && steps_to_meet(requirement, case).is_some()
}

/// Why it is not known whether `requirement` holds, down to the parts, those under `not` too: what could not be looked up
/// is our trouble, what the session does not tell is not.
fn unknown(requirement: &Requirement, case: Case<'_>) -> Option<Reason> {
    if evaluate(requirement, case) != Truth::Unknown {
        return None;
    }
    if !requirement.parts().is_empty() {
        return requirement
            .parts()
            .iter()
            .filter_map(|part| unknown(part, case))
            .max_by_key(|reason| reason.rank());
    }
    let roles_are_told = case.subject.session().is_none_or(|session| session.roles.is_some());
    Some(match requirement {
        Requirement::Permission(_) if roles_are_told => Reason::PolicyUnavailable,
        Requirement::OrganizationFrom(from) => match from.named(&case.environment) {
            Naming::Ambiguous => Reason::PathAmbiguous,
            Naming::None | Naming::One(_) => Reason::OrganizationUnavailable,
        },
        Requirement::Organization(_) => Reason::OrganizationUnavailable,
        _ => Reason::EvidenceUnknown,
    })
}
