//! Holding a requirement against one caller at one moment.
//!
//! Must not look at any other session, nor turn an unknown into an answer.

use std::time::Duration;

use super::organization::{is_one_of, is_organization_of};
use super::requirement::{ClaimTest, FactorRequirement, PermissionRequirement};
use super::subject::Case;
use super::{Requirement, Subject, Truth};
use crate::identity::Now;
use crate::session::{Factor, FactorCategory, FactorKind, MemberSession};

/// How far ahead of our clock a date may lie and still be believed (section 4.3).
pub(super) const SKEW: Duration = Duration::from_secs(2);

/// Whether the case meets `requirement`.
pub(super) fn evaluate(requirement: &Requirement, case: Case<'_>) -> Truth {
    match requirement {
        Requirement::All(parts) => {
            parts.iter().fold(Truth::True, |truth, part| truth.and(evaluate(part, case)))
        }
        Requirement::Any(parts) => {
            parts.iter().fold(Truth::False, |truth, part| truth.or(evaluate(part, case)))
        }
        Requirement::Not(part) => !evaluate(part, case),
        Requirement::Named { requirement, .. } => evaluate(requirement, case),
        Requirement::Machine { scopes } => match case.subject {
            Subject::Machine(token) => scopes.iter().all(|scope| token.scopes.allow(scope)).into(),
            Subject::Member(_) | Subject::App(_) => Truth::False,
        },
        Requirement::App { scopes } => match case.subject {
            // The scopes of apps have no wildcard; the policy says what each grants.
            Subject::App(token) => scopes.iter().all(|scope| token.scopes.contain(scope)).into(),
            Subject::Member(_) | Subject::Machine(_) => Truth::False,
        },
        Requirement::ClientIp(networks) => match case.environment.client_ip {
            Some(address) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address)).into()
            }
            None => Truth::Unknown,
        },
        Requirement::ClientCertificate(names) => {
            case.environment.certificate_names.iter().any(|name| names.contains(name)).into()
        }
        Requirement::Permission(wanted) => is_permitted(wanted, case),
        Requirement::Organization(names) => is_one_of(names, case),
        Requirement::OrganizationFrom(from) => is_organization_of(from, case),
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::SessionAge { .. }
        | Requirement::Claim(_)
        | Requirement::Impersonated(_) => match case.subject {
            Subject::Member(session) => holds(requirement, session, case.now),
            // A machine has no session: nothing is true of one, and nobody acts as somebody else.
            Subject::Machine(_) => matches!(requirement, Requirement::Impersonated(false)).into(),
            // An app acts for a member whose session it came of is not told. It is no session itself.
            Subject::App(_) if *requirement == Requirement::Authenticated => Truth::False,
            Subject::App(_) => Truth::Unknown,
        },
    }
}

/// Whether `requirement`, which asks about the session alone, holds of it.
fn holds(requirement: &Requirement, session: &MemberSession, now: Now) -> Truth {
    match requirement {
        Requirement::Authenticated => Truth::True,
        Requirement::Role(role) => match &session.roles {
            Some(roles) => roles.contains(role).into(),
            None => Truth::Unknown,
        },
        Requirement::Factor(wanted) => any_factor(session, |factor| wanted.met_by(factor, now)),
        Requirement::Mfa { max_age } => {
            let primary = any_factor(session, |factor| has_category(factor, FactorCategory::Primary));
            let secondary = any_factor(session, |factor| {
                has_category(factor, FactorCategory::Secondary).and(is_fresh(factor, *max_age, now).into())
            });
            primary.and(secondary)
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
        // These do not ask about the session alone.
        Requirement::Permission(_)
        | Requirement::Organization(_)
        | Requirement::OrganizationFrom(_)
        | Requirement::Machine { .. }
        | Requirement::App { .. }
        | Requirement::ClientIp(_)
        | Requirement::ClientCertificate(_)
        | Requirement::All(_)
        | Requirement::Any(_)
        | Requirement::Not(_)
        | Requirement::Named { .. } => Truth::Unknown,
    }
}

/// Tenancy first, then the project's roles and the organization's own; for an app, the scopes of the policy.
fn is_permitted(wanted: &PermissionRequirement, case: Case<'_>) -> Truth {
    let Some(member) = case.subject.member() else { return Truth::False };
    if wanted.organization.as_ref().is_some_and(|id| **id != *member.organization_id.as_str()) {
        return Truth::False;
    }
    let facts = case.environment.facts;
    let Some(policy) = &facts.policy else { return Truth::Unknown };
    match case.subject {
        Subject::Member(session) => {
            let Some(roles) = &session.roles else { return Truth::Unknown };
            let roles = || roles.iter().map(|role| &**role);
            if policy.value.roles.allow(roles(), &wanted.resource, &wanted.action) {
                return Truth::True;
            }
            match &facts.organization_roles {
                Some(own) => own.value.0.allow(roles(), &wanted.resource, &wanted.action).into(),
                None => Truth::Unknown,
            }
        }
        Subject::App(token) => {
            policy.value.scopes.allow(token.scopes.iter(), &wanted.resource, &wanted.action).into()
        }
        Subject::Machine(_) => Truth::False,
    }
}

impl FactorRequirement {
    fn met_by(&self, factor: &Factor, now: Now) -> Truth {
        self.is_kind_of(factor).and(is_fresh(factor, self.max_age, now).into())
    }

    /// Whether it is the factor asked for, of whatever age.
    ///
    /// An exchanged factor was proven elsewhere and counts only where its delivery method is named.
    pub(super) fn is_kind_of(&self, factor: &Factor) -> Truth {
        let kind = match (&self.kind, &factor.kind) {
            (Some(wanted), found) => (wanted == found).into(),
            // A type nobody knows is met by its name alone (section 4.7).
            (None, FactorKind::Other(_)) => Truth::Unknown,
            (None, _) => Truth::True,
        };
        let category = self.category.map_or(Truth::True, |wanted| has_category(factor, wanted));
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
        kind.and(category).and(delivery).and(connection)
    }
}

/// Whether the factor counts as `wanted`. A type nobody knows, or an OAuth factor that may be an exchanged one, might.
pub(super) fn has_category(factor: &Factor, wanted: FactorCategory) -> Truth {
    let untold = !factor.delivery.is_told();
    match &factor.kind {
        FactorKind::Unreadable | FactorKind::Other(_) => Truth::Unknown,
        FactorKind::OAuth if untold && wanted == FactorCategory::Primary => Truth::Unknown,
        FactorKind::Otp if untold && wanted == FactorCategory::Secondary => Truth::Unknown,
        FactorKind::MagicLink
        | FactorKind::EmailOtp
        | FactorKind::Otp
        | FactorKind::OAuth
        | FactorKind::Password
        | FactorKind::Sso
        | FactorKind::Totp
        | FactorKind::RecoveryCodes
        | FactorKind::Imported
        | FactorKind::Impersonated
        | FactorKind::TrustedAuthToken
        | FactorKind::WebAuthn
        | FactorKind::Crypto
        | FactorKind::SignatureChallenge => (factor.category() == wanted).into(),
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
