//! Holding a requirement against one caller at one moment.
//!
//! Must not look at any other session, nor turn an unknown into an answer.

use std::time::Duration;

use super::requirement::{
    ClaimTest, FactorRequirement, OrganizationFrom, OrganizationNaming, OrganizationPlace,
    PermissionRequirement,
};
use super::{Environment, HostName, Requirement, Subject, Truth};
use crate::identity::{Now, OrganizationId, Scopes};
use crate::session::{Factor, FactorCategory, FactorKind, MemberSession};

/// How far ahead of our clock a date may lie and still be believed (section 4.3).
pub(super) const SKEW: Duration = Duration::from_secs(2);

/// A caller and what is around them, at one moment.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) subject: &'a Subject,
    pub(super) environment: Environment<'a>,
    pub(super) now: Now,
}

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
            Subject::Machine(token) => holds_all(&token.scopes, scopes).into(),
            _ => Truth::False,
        },
        Requirement::App { scopes } => match case.subject {
            Subject::App(token) => holds_all(&token.scopes, scopes).into(),
            _ => Truth::False,
        },
        Requirement::ClientIp(networks) => match case.environment.client_ip {
            Some(address) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address)).into()
            }
            None => Truth::Unknown,
        },
        Requirement::Permission(wanted) => is_permitted(wanted, case),
        Requirement::Organization(names) => is_one_of(names, case),
        Requirement::OrganizationFrom(from) => is_organization_of(from, case),
        of_session => match case.subject {
            Subject::Member(session) => holds(of_session, session, case.now),
            // Neither a machine nor an app has a session; nothing can be true of it but that something is not so.
            Subject::Machine(_) | Subject::App(_) => {
                Truth::from(matches!(of_session, Requirement::Impersonated(false)))
            }
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
        // The others do not ask about the session alone.
        _ => Truth::Unknown,
    }
}

fn holds_all(held: &Scopes, wanted: &[std::sync::Arc<str>]) -> bool {
    wanted.iter().all(|scope| held.allow(scope))
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
            if policy.roles.allow(roles(), &wanted.resource, &wanted.action) {
                return Truth::True;
            }
            match &facts.organization_roles {
                Some(own) => own.0.allow(roles(), &wanted.resource, &wanted.action).into(),
                None => Truth::Unknown,
            }
        }
        Subject::App(token) => {
            policy.scopes.allow(token.scopes.iter(), &wanted.resource, &wanted.action).into()
        }
        Subject::Machine(_) => Truth::False,
    }
}

/// Whether the caller's organization goes by one of `names`, by id or slug.
fn is_one_of(names: &[std::sync::Arc<str>], case: Case<'_>) -> Truth {
    let Some(member) = case.subject.member() else { return Truth::False };
    let id = member.organization_id.as_str();
    if names.iter().any(|name| &**name == id) {
        return Truth::True;
    }
    // Organizations may choose their slug; what looks like an id is one and nothing else.
    let mut slugs = names.iter().filter(|name| !looks_like_an_id(name)).peekable();
    if slugs.peek().is_none() {
        return Truth::False;
    }
    match slug_of(case) {
        Some(slug) => slugs.any(|name| **name == *slug).into(),
        None => Truth::Unknown,
    }
}

/// The slug as the session tells it, or as it was looked up.
fn slug_of<'a>(case: Case<'a>) -> Option<&'a str> {
    let told = case.subject.session().and_then(|session| session.organization_slug.as_deref());
    told.or_else(|| case.environment.facts.organization_names.as_ref()?.slug.as_deref())
}

fn looks_like_an_id(name: &str) -> bool {
    name.get(..13).is_some_and(|start| start.eq_ignore_ascii_case("organization-"))
}

/// Whether the organization that the request names is the caller's own.
fn is_organization_of(from: &OrganizationFrom, case: Case<'_>) -> Truth {
    let Some(member) = case.subject.member() else { return Truth::False };
    match from.named(&case.environment) {
        Some(named) => named.is(&member.organization_id, from.by, slug_of(case), &case.environment),
        // The request names none: that is known, and it is not the caller's.
        None => Truth::False,
    }
}

/// An organization's name out of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedOrganization<'a> {
    name: &'a str,
    /// Hosts have no case (RFC 4343).
    ignore_case: bool,
}

impl OrganizationFrom {
    /// The name in the request; nothing if there is none, or if two patterns of the route read it differently.
    pub(super) fn named<'a>(&self, environment: &Environment<'a>) -> Option<NamedOrganization<'a>> {
        match &self.place {
            OrganizationPlace::HostLabel { before, after } => {
                let label = label_between(environment.host, before, after)?;
                Some(NamedOrganization { name: label, ignore_case: true })
            }
            OrganizationPlace::PathParameter(parameter) => {
                // Whether the origin ignores case is of no account: what is captured is compared by letter.
                let patterns = environment.patterns.iter();
                let mut found =
                    patterns.filter_map(|pattern| pattern.capture(environment.path, parameter, true));
                let name = found.next()?;
                found.all(|other| other == name).then_some(NamedOrganization { name, ignore_case: false })
            }
        }
    }
}

/// The one label of the host that stands between the two parts.
fn label_between<'a>(host: &'a HostName, before: &str, after: &str) -> Option<&'a str> {
    let label = host.as_str().strip_prefix(before)?.strip_suffix(after)?;
    (!label.is_empty() && !label.contains('.')).then_some(label)
}

impl NamedOrganization<'_> {
    pub(super) fn name(&self) -> &str {
        self.name
    }

    fn is(
        self,
        id: &OrganizationId,
        by: OrganizationNaming,
        slug: Option<&str>,
        environment: &Environment<'_>,
    ) -> Truth {
        let same = |other: &str| {
            if self.ignore_case { self.name.eq_ignore_ascii_case(other) } else { self.name == other }
        };
        if by.id && same(id.as_str()) {
            return Truth::True;
        }
        if looks_like_an_id(self.name) {
            return Truth::False;
        }
        let by_slug = match slug {
            _ if !by.slug => Truth::False,
            Some(slug) => same(slug).into(),
            None => Truth::Unknown,
        };
        let by_external_id = match &environment.facts.organization_names {
            _ if !by.external_id => Truth::False,
            Some(names) => names.external_id.as_deref().is_some_and(same).into(),
            None => Truth::Unknown,
        };
        by_slug.or(by_external_id)
    }
}

/// Whether the names of the caller's organization must be looked up to answer `requirement`.
pub(super) fn asks_for_names(
    requirement: &Requirement,
    subject: &Subject,
    environment: &Environment<'_>,
) -> bool {
    let slug_is_told = subject.session().is_some_and(|session| session.organization_slug.is_some());
    let Some(member) = subject.member() else { return false };
    requirement.any_part(&|part| match part {
        Requirement::Organization(names) => !slug_is_told && names.iter().any(|name| !looks_like_an_id(name)),
        Requirement::OrganizationFrom(from) => from.named(environment).is_some_and(|named| {
            let slug = subject.session().and_then(|session| session.organization_slug.as_deref());
            named.is(&member.organization_id, from.by, slug, environment) == Truth::Unknown
        }),
        _ => false,
    })
}

impl FactorRequirement {
    fn met_by(&self, factor: &Factor, now: Now) -> Truth {
        self.is_kind_of(factor).and(is_fresh(factor, self.max_age, now).into())
    }

    /// Whether it is the factor asked for, of whatever age.
    ///
    /// An exchanged factor was proven elsewhere and counts only where its delivery method is named.
    pub(super) fn is_kind_of(&self, factor: &Factor) -> Truth {
        let kind = self.kind.as_ref().is_none_or(|kind| *kind == factor.kind);
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
        Truth::from(kind).and(category).and(delivery).and(connection)
    }
}

/// Whether the factor counts as `wanted`. A type nobody knows, or an OAuth factor that may be an exchanged one, might.
pub(super) fn has_category(factor: &Factor, wanted: FactorCategory) -> Truth {
    let untold = !factor.delivery.is_told();
    match &factor.kind {
        FactorKind::Unreadable | FactorKind::Other(_) => Truth::Unknown,
        FactorKind::OAuth if untold && wanted == FactorCategory::Primary => Truth::Unknown,
        FactorKind::Otp if untold && wanted == FactorCategory::Secondary => Truth::Unknown,
        _ => (factor.category() == wanted).into(),
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
