//! Holding a requirement against one session at one moment.
//!
//! Must not look at any other session, nor turn an unknown into an answer.

use std::time::Duration;

use super::requirement::{ClaimTest, FactorRequirement};
use super::{Challenge, Reason, Requirement, Truth};
use crate::identity::Now;
use crate::session::{DeliveryMethod, Factor, FactorCategory, FactorKind, MemberSession};

/// How far ahead of our clock a date may lie and still be believed (section 4.3).
pub(super) const SKEW: Duration = Duration::from_secs(2);

/// Whether `session` meets `requirement` at `now`.
pub(super) fn evaluate(requirement: &Requirement, session: &MemberSession, now: Now) -> Truth {
    match requirement {
        Requirement::Authenticated => Truth::True,
        Requirement::Role(role) => match &session.roles {
            Some(roles) => roles.contains(role).into(),
            None => Truth::Unknown,
        },
        Requirement::Factor(wanted) => any_factor(session, |factor| wanted.met_by(factor, now)),
        Requirement::Mfa { max_age } => {
            let primary = any_factor(session, |factor| (factor.category() == FactorCategory::Primary).into());
            let secondary = any_factor(session, |factor| {
                (factor.category() == FactorCategory::Secondary && is_fresh(factor, *max_age, now)).into()
            });
            primary.and(secondary)
        }
        Requirement::Organization(names) => {
            let id = session.member.organization_id.as_str();
            if names.iter().any(|name| &**name == id) {
                return Truth::True;
            }
            // Organizations may choose their slug; what looks like an id is one and nothing else.
            let slugs: Vec<&str> =
                names.iter().map(|name| &**name).filter(|name| !name.starts_with("organization-")).collect();
            match &session.organization_slug {
                Some(slug) => slugs.contains(&&**slug).into(),
                None if slugs.is_empty() => Truth::False,
                None => Truth::Unknown,
            }
        }
        Requirement::SessionAge { max } => {
            match session.started_at.and_then(|started_at| now.age_of(started_at, SKEW)) {
                Some(age) => (age <= *max).into(),
                None => Truth::Unknown,
            }
        }
        Requirement::Claim(wanted) => match session.claim(&wanted.pointer) {
            // Not extracted when the session was read: whether it is there is not known.
            None => Truth::Unknown,
            Some(claim) => match &wanted.test {
                ClaimTest::Exists(exists) => (claim.value.is_some() == *exists).into(),
                ClaimTest::OneOf(values) => {
                    claim.value.as_ref().is_some_and(|value| values.contains(value)).into()
                }
            },
        },
        Requirement::Impersonated(wanted) => {
            let found = any_factor(session, |factor| (factor.kind == FactorKind::Impersonated).into());
            if *wanted { found } else { !found }
        }
        Requirement::All(parts) => {
            parts.iter().fold(Truth::True, |truth, part| truth.and(evaluate(part, session, now)))
        }
        Requirement::Any(parts) => {
            parts.iter().fold(Truth::False, |truth, part| truth.or(evaluate(part, session, now)))
        }
        Requirement::Not(part) => !evaluate(part, session, now),
    }
}

/// Why an unmet requirement refuses: a challenge if meeting it would lead to an allow, else what forbids (invariant 10).
pub(super) fn refusal_of(
    requirement: &Requirement,
    session: &MemberSession,
    now: Now,
) -> (Reason, Option<Challenge>) {
    if let Some(wanted) = steps_to_meet(requirement, session, now).filter(|wanted| !wanted.is_empty()) {
        let stepped_up = wanted.iter().fold(session.clone(), |session, step| step.take(session, now));
        if evaluate(requirement, &stepped_up, now).is_true() {
            let reason = wanted.iter().map(|step| step.reason(session)).max_by_key(|reason| reason.rank());
            return (reason.unwrap_or(Reason::RequirementNotMet), Some(Challenge::for_steps(&wanted)));
        }
    }
    (forbidding(requirement, session, now).unwrap_or(Reason::RequirementNotMet), None)
}

/// Something the caller can do about a refusal: prove a factor now, or sign in anew.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Factor(&'a FactorRequirement),
    Mfa(Option<Duration>),
    SignInAnew(Duration),
}

/// The steps that would meet `requirement`: none if it is met, `None` if no step can.
fn steps_to_meet<'a>(
    requirement: &'a Requirement,
    session: &MemberSession,
    now: Now,
) -> Option<Vec<Step<'a>>> {
    if evaluate(requirement, session, now).is_true() {
        return Some(Vec::new());
    }
    match requirement {
        Requirement::Factor(wanted) => wanted.can_be_proven().then(|| vec![Step::Factor(wanted)]),
        Requirement::Mfa { max_age } => Some(vec![Step::Mfa(*max_age)]),
        Requirement::SessionAge { max } => Some(vec![Step::SignInAnew(*max)]),
        Requirement::All(parts) => {
            let steps: Option<Vec<_>> = parts.iter().map(|part| steps_to_meet(part, session, now)).collect();
            steps.map(|steps| steps.concat())
        }
        Requirement::Any(parts) => {
            parts.iter().filter_map(|part| steps_to_meet(part, session, now)).min_by_key(Vec::len)
        }
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
            Step::Factor(wanted) => session.factors.push(Factor {
                connection_id: wanted.connection_id.clone(),
                ..proven(
                    wanted.kind.clone().unwrap_or(FactorKind::Sso),
                    wanted.delivery.as_ref().map_or("proven_now", DeliveryMethod::name),
                )
            }),
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
                let has = |category| session.factors.iter().any(|factor| factor.category() == category);
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
            Step::Factor(wanted) => {
                wanted.kind.as_ref().map(|kind| format!("urn:portcullis:factor:{}", kind.name()))
            }
            Step::Mfa(_) => Some("urn:portcullis:mfa".to_owned()),
            Step::SignInAnew(_) => None,
        }
    }
}

/// The highest-ranked reason among the parts that are not met and that no step can meet.
fn forbidding(requirement: &Requirement, session: &MemberSession, now: Now) -> Option<Reason> {
    let truth = evaluate(requirement, session, now);
    if truth.is_true() {
        return None;
    }
    match requirement {
        Requirement::All(parts) | Requirement::Any(parts) => {
            parts.iter().filter_map(|part| forbidding(part, session, now)).max_by_key(|reason| reason.rank())
        }
        _ if truth == Truth::Unknown => Some(Reason::EvidenceUnknown),
        Requirement::Role(_) => Some(Reason::RoleMissing),
        Requirement::Organization(_) => Some(Reason::OrganizationMismatch),
        Requirement::Impersonated(_) => Some(Reason::ImpersonationMismatch),
        Requirement::Claim(_) => Some(Reason::ClaimMismatch),
        _ => Some(Reason::RequirementNotMet),
    }
}

impl FactorRequirement {
    fn met_by(&self, factor: &Factor, now: Now) -> Truth {
        self.is_kind_of(factor).and(is_fresh(factor, self.max_age, now).into())
    }

    /// Whether it is the factor asked for, of whatever age.
    ///
    /// An exchanged factor was proven elsewhere and counts only where its delivery method is named.
    fn is_kind_of(&self, factor: &Factor) -> Truth {
        let kind = self.kind.as_ref().is_none_or(|kind| *kind == factor.kind);
        let delivery = match &self.delivery {
            Some(_) if !factor.delivery.is_told() => Truth::Unknown,
            Some(delivery) => (*delivery == factor.delivery).into(),
            None if factor.kind == FactorKind::OAuth && !factor.delivery.is_told() => Truth::Unknown,
            None => (!factor.delivery.is_exchange()).into(),
        };
        let connection = match (&self.connection_id, &factor.connection_id) {
            (None, _) => Truth::True,
            (Some(wanted), Some(found)) => (wanted == found).into(),
            // Every SSO factor has a connection; one that does not say which may be the one asked for.
            (Some(_), None) if factor.kind == FactorKind::Sso => Truth::Unknown,
            (Some(_), None) => Truth::False,
        };
        Truth::from(kind).and(delivery).and(connection)
    }

    /// Impersonation and imports are no factors a caller could be asked to prove.
    fn can_be_proven(&self) -> bool {
        !matches!(self.kind, Some(FactorKind::Impersonated | FactorKind::Imported | FactorKind::Unreadable))
    }
}

/// Whether any factor meets `test`; an unreadable factor might have, so without a clear yes it leaves the answer open.
fn any_factor(session: &MemberSession, test: impl Fn(&Factor) -> Truth) -> Truth {
    session.factors.iter().fold(Truth::False, |truth, factor| {
        truth.or(if factor.kind == FactorKind::Unreadable { Truth::Unknown } else { test(factor) })
    })
}

/// A factor without a date, or dated ahead of the clock beyond skew, is stale wherever an age is asked.
fn is_fresh(factor: &Factor, max_age: Option<Duration>, now: Now) -> bool {
    let Some(max_age) = max_age else { return true };
    factor.last_authenticated_at.and_then(|proven| now.age_of(proven, SKEW)).is_some_and(|age| age <= max_age)
}

#[cfg(test)]
mod tests;
