//! What a caller could do about a refusal, and the one reason they are told.
//!
//! Must not challenge anybody for a factor unless meeting the challenge would lead to an allow (invariant 10).

use std::sync::Arc;
use std::time::Duration;

use super::evaluate::{evaluate, has_category};
use super::organization::Naming;
use super::requirement::{FactorRequirement, Form};
use super::subject::Case;
use super::{Reason, Remedy, Requirement, Subject, Truth};
use crate::identity::Now;
use crate::session::{Factor, FactorCategory, MemberSession};

/// The most ways to meet a requirement that are tried.
const MAX_WAYS: usize = 128;

/// What a step-up must achieve (RFC 9470 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The most that may have passed since the factor was proven.
    pub max_age: Option<Duration>,
    /// `urn:portcullis:factor:<type>` or `urn:portcullis:mfa`, each once.
    pub acr_values: Vec<String>,
}

impl Challenge {
    pub(super) fn for_steps(steps: &[Step<'_>]) -> Self {
        let mut acr_values: Vec<String> = Vec::new();
        for value in steps.iter().filter_map(Step::acr_value) {
            if !acr_values.contains(&value) {
                acr_values.push(value);
            }
        }
        Self { max_age: steps.iter().filter_map(Step::max_age).min(), acr_values }
    }
}

/// Why an unmet requirement refuses: a challenge if meeting it would lead to an allow, else what forbids (invariant 10).
pub(super) fn refusal_of(requirement: &Requirement, case: Case<'_>) -> (Reason, Option<Challenge>) {
    if let Subject::Member(session) = case.subject {
        let mut ways = ways_to_meet(requirement, case);
        ways.sort_by_key(Vec::len);
        let leads_in = |way: &&Vec<Step<'_>>| {
            let taken = way.iter().fold((**session).clone(), |session, step| step.take(session, case.now));
            let subject = &Subject::Member(Arc::new(taken));
            !way.is_empty() && evaluate(requirement, Case { subject, ..case }).is_true()
        };
        if let Some(way) = ways.iter().find(leads_in) {
            let reason = way.iter().map(|step| step.reason(session)).max_by_key(|reason| reason.rank());
            return (reason.unwrap_or(Reason::RequirementNotMet), Some(Challenge::for_steps(way)));
        }
    }
    (forbidding(requirement, case).unwrap_or(Reason::RequirementNotMet), None)
}

/// Something the caller can do about a refusal: prove a factor now, or sign in anew.
#[derive(Debug, Clone)]
pub(super) enum Step<'a> {
    /// What is asked, and one factor that would do.
    Factor(&'a FactorRequirement, Factor),
    Mfa(Option<Duration>, Vec<Factor>),
    SignInAnew(Duration),
}

/// Steps that would meet each part of `requirement`, in every way there is to take them: an empty way if it is met, no way
/// if no step helps. Whether the parts that ask for no step then still hold is for the evaluation to say.
fn ways_to_meet<'a>(requirement: &'a Requirement, case: Case<'_>) -> Vec<Vec<Step<'a>>> {
    if evaluate(requirement, case).is_true() {
        return vec![Vec::new()];
    }
    match requirement {
        Requirement::Factor(wanted) => {
            wanted.provable().into_iter().map(|factor| vec![Step::Factor(wanted, factor)]).collect()
        }
        Requirement::Mfa { max_age } => ways_to_mfa(*max_age, case),
        Requirement::SessionAge { max } => vec![vec![Step::SignInAnew(*max)]],
        Requirement::All(parts) => {
            let mut ways = vec![Vec::new()];
            for part in parts {
                let of_part = ways_to_meet(part, case);
                let joined = ways.iter().flat_map(|way: &Vec<Step<'a>>| {
                    of_part.iter().map(move |more| [way.as_slice(), more.as_slice()].concat())
                });
                ways = joined.take(MAX_WAYS).collect();
                if ways.is_empty() {
                    break;
                }
            }
            ways
        }
        Requirement::Any(parts) => {
            let mut ways: Vec<_> = parts.iter().flat_map(|part| ways_to_meet(part, case)).collect();
            ways.sort_by_key(Vec::len);
            ways.truncate(MAX_WAYS);
            ways
        }
        Requirement::Named { requirement, .. } => ways_to_meet(requirement, case),
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Permission(_)
        | Requirement::Organization(_)
        | Requirement::OrganizationFrom(_)
        | Requirement::Claim(_)
        | Requirement::Impersonated(_)
        | Requirement::Machine { .. }
        | Requirement::App { .. }
        | Requirement::ClientIp(_)
        | Requirement::ClientCertificate(_)
        | Requirement::Not(_) => Vec::new(),
    }
}

fn ways_to_mfa<'a>(max_age: Option<Duration>, case: Case<'_>) -> Vec<Vec<Step<'a>>> {
    let of = |category| FactorRequirement::of_category(category).provable();
    let has_primary = case.subject.session().is_some_and(|session| {
        session.factors.iter().any(|factor| factor.category() == FactorCategory::Primary)
    });
    let first: Vec<Option<Factor>> =
        if has_primary { vec![None] } else { of(FactorCategory::Primary).into_iter().map(Some).collect() };
    let second = of(FactorCategory::Secondary);
    let pairs = second.iter().flat_map(|second| {
        first.iter().map(move |first| first.iter().chain([second]).cloned().collect::<Vec<_>>())
    });
    pairs.map(|factors| vec![Step::Mfa(max_age, factors)]).collect()
}

impl Step<'_> {
    /// The session as it would be once the step was taken.
    fn take(&self, mut session: MemberSession, now: Now) -> MemberSession {
        let proven = |factor: &Factor| Factor { last_authenticated_at: Some(now.wall), ..factor.clone() };
        match self {
            Step::Factor(_, factor) => session.factors.push(proven(factor)),
            Step::Mfa(_, factors) => session.factors.extend(factors.iter().map(proven)),
            Step::SignInAnew(_) => session.started_at = Some(now.wall),
        }
        session
    }

    fn reason(&self, session: &MemberSession) -> Reason {
        match self {
            Step::Factor(wanted, _)
                if session.factors.iter().any(|factor| wanted.is_kind_of(factor).is_true()) =>
            {
                Reason::FactorStale
            }
            Step::Factor(..) => Reason::FactorMissing,
            Step::Mfa(..) => {
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
            Step::Factor(wanted, _) => wanted.max_age,
            Step::Mfa(max_age, _) => *max_age,
            Step::SignInAnew(max) => Some(*max),
        }
    }

    pub(super) fn acr_value(&self) -> Option<String> {
        match self {
            Step::Factor(wanted, _) => Some(match (&wanted.kind, wanted.category, &wanted.delivery) {
                (Some(kind), _, _) => format!("urn:portcullis:factor:{}", kind.name()),
                (None, Some(category), _) => format!("urn:portcullis:factor:{}", category.name()),
                (None, None, Some(delivery)) => format!("urn:portcullis:delivery:{}", delivery.name()),
                // Connections are those of single sign-on.
                (None, None, None) => "urn:portcullis:factor:sso".to_owned(),
            }),
            Step::Mfa(..) => Some("urn:portcullis:mfa".to_owned()),
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
        match requirement.form() {
            Form::All(parts) | Form::Any(parts) => parts.iter().for_each(|part| gather(part, case, found)),
            Form::Named(part) => gather(part, case, found),
            Form::Not(part) => found.push(format!("not {part}")),
            Form::Leaf => found.push(requirement.to_string()),
        }
    }
    let mut found = Vec::new();
    gather(requirement, case, &mut found);
    found
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
    match requirement {
        Requirement::All(parts) => {
            let hard = |part: &&Requirement| evaluate(part, case) == Truth::False && !can_be_met(part, case);
            let hard = parts.iter().filter(hard).filter_map(|part| forbidding(part, case));
            let is_known = |reason: &Reason| {
                reason.remedy() != Remedy::Retry
                    && !matches!(reason, Reason::EvidenceUnknown | Reason::PathAmbiguous)
            };
            // Where steps would meet whatever is not met, what stands in the way is what is not known.
            hard.max_by_key(|reason| (is_known(reason), reason.rank()))
                .or_else(|| of_parts(parts, Some(Truth::Unknown)))
        }
        Requirement::Any(parts) => of_parts(parts, None),
        Requirement::Named { requirement, .. } => forbidding(requirement, case),
        _ if truth == Truth::Unknown => unknown(requirement, case),
        Requirement::Not(_) => Some(Reason::RequirementNotMet),
        Requirement::Machine { .. } => {
            let is_machine = matches!(case.subject, Subject::Machine(_));
            Some(if is_machine { Reason::ScopeMissing } else { Reason::CredentialKind })
        }
        Requirement::App { .. } => {
            let is_app = matches!(case.subject, Subject::App(_));
            Some(if is_app { Reason::ScopeMissing } else { Reason::CredentialKind })
        }
        Requirement::ClientIp(_) => Some(Reason::ClientIpForbidden),
        Requirement::ClientCertificate(_) => Some(Reason::ClientCertificateMissing),
        Requirement::Permission(wanted) => {
            let elsewhere = wanted.organization.as_ref().zip(case.subject.member());
            let elsewhere = elsewhere.is_some_and(|(id, member)| **id != *member.organization_id.as_str());
            Some(if elsewhere { Reason::OrganizationMismatch } else { Reason::PermissionMissing })
        }
        Requirement::Organization(_) | Requirement::OrganizationFrom(_) => Some(Reason::OrganizationMismatch),
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::SessionAge { .. }
        | Requirement::Claim(_)
        | Requirement::Impersonated(_)
            if !matches!(case.subject, Subject::Member(_)) =>
        {
            Some(Reason::CredentialKind)
        }
        Requirement::Role(_) => Some(Reason::RoleMissing),
        Requirement::Impersonated(_) => Some(Reason::ImpersonationMismatch),
        Requirement::Claim(_) => Some(Reason::ClaimMismatch),
        Requirement::Authenticated
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::SessionAge { .. } => Some(Reason::RequirementNotMet),
    }
}

/// Whether the caller could meet an unmet part by a step.
fn can_be_met(requirement: &Requirement, case: Case<'_>) -> bool {
    matches!(case.subject, Subject::Member(_)) && !ways_to_meet(requirement, case).is_empty()
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
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Permission(_)
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::SessionAge { .. }
        | Requirement::Claim(_)
        | Requirement::Impersonated(_)
        | Requirement::Machine { .. }
        | Requirement::App { .. }
        | Requirement::ClientIp(_)
        | Requirement::ClientCertificate(_)
        | Requirement::All(_)
        | Requirement::Any(_)
        | Requirement::Not(_)
        | Requirement::Named { .. } => Reason::EvidenceUnknown,
    })
}
