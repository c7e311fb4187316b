//! Whether a caller's organization is the one that is asked for, by a list or by the request itself.
//!
//! Must not take a name for an organization's that the directory might give to another.

use std::sync::Arc;

use super::requirement::{OrganizationFrom, OrganizationPlace};
use super::subject::Case;
use super::{Environment, HostName, PathPattern, PathText, Requirement, Subject, Truth};
use crate::identity::OrganizationId;

/// Whether the caller's organization goes by one of `names`, by id or slug.
pub(super) fn is_one_of(names: &[Arc<str>], case: Case<'_>) -> Truth {
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
    match slug_of(case.subject, &case.environment) {
        Some(slug) => slugs.any(|name| **name == *slug).into(),
        None => Truth::Unknown,
    }
}

/// Whether the organization that the request names is the caller's own.
pub(super) fn is_organization_of(from: &OrganizationFrom, case: Case<'_>) -> Truth {
    let Some(member) = case.subject.member() else { return Truth::False };
    match from.named(&case.environment) {
        Naming::One(named) => named.is_of(&member.organization_id, from, case.subject, &case.environment),
        // The request names none: that is known, and it is not the caller's.
        Naming::None => Truth::False,
        Naming::Ambiguous => Truth::Unknown,
    }
}

/// The slug as the session tells it, or as it was looked up.
fn slug_of<'a>(subject: &'a Subject, environment: &Environment<'a>) -> Option<&'a str> {
    let told = subject.session().and_then(|session| session.organization_slug.as_deref());
    told.or_else(|| environment.facts.organization_names.as_ref()?.value.slug.as_deref())
}

fn looks_like_an_id(name: &str) -> bool {
    name.get(..13).is_some_and(|start| start.eq_ignore_ascii_case("organization-"))
}

/// What a request says of its organization.
pub(super) enum Naming<'a> {
    None,
    One(NamedOrganization<'a>),
    /// Two patterns of the route, or two readings of the path, name different ones.
    Ambiguous,
}

/// An organization's name out of a request.
pub(super) struct NamedOrganization<'a> {
    name: &'a str,
    /// Hosts have no case (RFC 4343).
    ignore_case: bool,
}

impl OrganizationFrom {
    /// The name in the request.
    pub(super) fn named<'a>(&self, environment: &Environment<'a>) -> Naming<'a> {
        match &self.place {
            OrganizationPlace::HostLabel { before, after } => {
                match label_between(environment.host, before, after) {
                    Some(label) => Naming::One(NamedOrganization { name: label, ignore_case: true }),
                    None => Naming::None,
                }
            }
            OrganizationPlace::PathParameter(parameter) => {
                // Whether the origin ignores case is of no account here: what is captured is compared by letter.
                fn captured<'a>(
                    path: PathText<'a>,
                    parameter: &str,
                    patterns: &[PathPattern],
                ) -> impl Iterator<Item = &'a str> {
                    patterns.iter().filter_map(move |pattern| pattern.capture(path, parameter))
                }
                let capture = |path| captured(path, parameter, environment.patterns);
                let mut found = capture(environment.path.text());
                let Some(name) = found.next() else { return Naming::None };
                let same_elsewhere = environment.path.other_readings().is_ok_and(|readings| {
                    readings.iter().all(|reading| capture(reading.text()).all(|other| other == name))
                });
                if found.all(|other| other == name) && same_elsewhere {
                    Naming::One(NamedOrganization { name, ignore_case: false })
                } else {
                    Naming::Ambiguous
                }
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

    /// Whether it is the organization `id` that goes by the name.
    ///
    /// Slugs and external ids are chosen by different people. Where either would do, one organization's slug could be
    /// another's external id, so the directory must say whose the name is.
    fn is_of(
        &self,
        id: &OrganizationId,
        from: &OrganizationFrom,
        subject: &Subject,
        environment: &Environment<'_>,
    ) -> Truth {
        if from.by.id && self.same(id.as_str()) {
            return Truth::True;
        }
        if looks_like_an_id(self.name) {
            return Truth::False;
        }
        let by_slug = match slug_of(subject, environment) {
            _ if !from.by.slug => Truth::False,
            Some(slug) => self.same(slug).into(),
            None => Truth::Unknown,
        };
        let by_external_id = match &environment.facts.organization_names {
            _ if !from.by.external_id => Truth::False,
            // By letter, in hosts too: two external ids may differ in case alone.
            Some(names) => (names.value.external_id.as_deref() == Some(self.name)).into(),
            None => Truth::Unknown,
        };
        let is_own = by_slug.or(by_external_id);
        let either_would_do = from.by.slug && from.by.external_id;
        if !(is_own.is_true() && either_would_do) {
            return is_own;
        }
        match environment.facts.owners.iter().find(|(name, _)| name == self.name) {
            Some((_, owner)) => (owner.value.as_ref() == Some(id)).into(),
            None => Truth::Unknown,
        }
    }

    fn same(&self, other: &str) -> bool {
        if self.ignore_case { self.name.eq_ignore_ascii_case(other) } else { self.name == other }
    }
}

/// What must be looked up about organizations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamesNeeded {
    /// The names of the caller's own.
    pub own: bool,
    /// Whose these names are, each one of the caller's own.
    pub owners_of: Vec<String>,
}

impl NamesNeeded {
    pub fn and(self, other: Self) -> Self {
        let more = other.owners_of.into_iter().filter(|name| !self.owners_of.contains(name));
        let owners_of = more.chain(self.owners_of.iter().cloned()).collect();
        Self { own: self.own || other.own, owners_of }
    }
}

/// What must be looked up to answer `requirement`.
pub(super) fn names_needed(
    requirement: &Requirement,
    subject: &Subject,
    environment: &Environment<'_>,
) -> NamesNeeded {
    if let Requirement::OrganizationFrom(from) = requirement {
        return needed_to_compare(from, subject, environment);
    }
    let own = matches!(requirement, Requirement::Organization(names)
        if slug_of(subject, environment).is_none() && names.iter().any(|name| !looks_like_an_id(name)));
    let of_parts = requirement.parts().iter().map(|part| names_needed(part, subject, environment));
    of_parts.fold(NamesNeeded { own, owners_of: Vec::new() }, NamesNeeded::and)
}

fn needed_to_compare(
    from: &OrganizationFrom,
    subject: &Subject,
    environment: &Environment<'_>,
) -> NamesNeeded {
    let (Some(member), Naming::One(named)) = (subject.member(), from.named(environment)) else {
        return NamesNeeded::default();
    };
    if named.is_of(&member.organization_id, from, subject, environment) != Truth::Unknown {
        return NamesNeeded::default();
    }
    let is_slug = from.by.slug && slug_of(subject, environment).is_some_and(|slug| named.same(slug));
    let names = environment.facts.organization_names.as_ref().map(|names| &names.value);
    let is_external =
        from.by.external_id && names.is_some_and(|names| names.external_id.as_deref() == Some(named.name));
    NamesNeeded {
        own: !is_slug && names.is_none(),
        owners_of: if is_slug || is_external { vec![named.name.to_owned()] } else { Vec::new() },
    }
}
