//! What is looked up beside sessions: policies, organizations, app tokens.
//!
//! Must not keep anything: `fact_cache` does.

use std::sync::Arc;

use super::{Answer, DirectoryError};
use crate::identity::{AppToken, Introspection, Now, OrganizationId};
use crate::policy::{Fact, Freshness, OrganizationNames, OrganizationRoles, RbacPolicy};
use crate::session::Revocation;

/// Where RBAC policies come from. No answer is older than the ages of the `route` allow.
pub trait RbacSource: Send + Sync + 'static {
    /// The project's policy.
    fn policy(&self, route: Freshness, now: Now) -> Answer<Fact<Arc<RbacPolicy>>>;

    /// The roles an organization adds to it.
    fn organization_roles(
        &self,
        id: &OrganizationId,
        route: Freshness,
        now: Now,
    ) -> Answer<Fact<Arc<OrganizationRoles>>>;
}

/// Where the names of organizations come from. No answer is older than the ages of the `route` allow.
pub trait OrganizationSource: Send + Sync + 'static {
    fn names(&self, id: &OrganizationId, route: Freshness, now: Now) -> Answer<Fact<Arc<OrganizationNames>>>;

    /// Which organization goes by `name`, as the API itself resolves it: by id, slug or external id.
    fn resolve(&self, name: &str, route: Freshness, now: Now) -> Answer<Fact<Option<OrganizationId>>>;

    /// Drops what is known about an organization that `revocation` names, in every source of facts.
    fn forget(&self, revocation: &Revocation);

    /// Something about one organization, or about nobody knows which, is different: it is asked for again as it is needed,
    /// and what is known stands in while that fails.
    fn soften(&self, organization: Option<&OrganizationId>);
}

/// Where it is found out whether an app's token still counts.
pub trait AppTokenSource: Send + Sync + 'static {
    /// No older than `freshness` allows, nor than the newest revocation of its member or organization.
    fn introspect(&self, token: &Arc<AppToken>, freshness: Freshness, now: Now) -> Answer<Introspection>;

    fn forget(&self, revocation: &Revocation);

    /// Every token is asked about again as it comes.
    fn soften(&self);
}

/// A source of nothing, where nothing is to be looked up.
pub struct NoFacts;

impl RbacSource for NoFacts {
    fn policy(&self, _route: Freshness, _now: Now) -> Answer<Fact<Arc<RbacPolicy>>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn organization_roles(
        &self,
        _id: &OrganizationId,
        _route: Freshness,
        _now: Now,
    ) -> Answer<Fact<Arc<OrganizationRoles>>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }
}

impl OrganizationSource for NoFacts {
    fn names(
        &self,
        _id: &OrganizationId,
        _route: Freshness,
        _now: Now,
    ) -> Answer<Fact<Arc<OrganizationNames>>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn resolve(&self, _name: &str, _route: Freshness, _now: Now) -> Answer<Fact<Option<OrganizationId>>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn soften(&self, _organization: Option<&OrganizationId>) {}
}

impl AppTokenSource for NoFacts {
    fn introspect(&self, _token: &Arc<AppToken>, _freshness: Freshness, _now: Now) -> Answer<Introspection> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn soften(&self) {}
}
