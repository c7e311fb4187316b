//! The project's RBAC policy and an organization's own roles, evaluated as the official SDKs do.
//!
//! Must not fetch a policy, know a deny rule, or read a wildcard anywhere but as the whole of a permission's actions.

use std::collections::HashMap;
use std::sync::Arc;

/// What a role or a scope allows on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    pub resource_id: Arc<str>,
    pub actions: Vec<Arc<str>>,
}

/// Permissions by the name of the role or scope that grants them. Several entries of one name add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(HashMap<Arc<str>, Vec<Permission>>);

impl Grants {
    pub fn new(entries: impl IntoIterator<Item = (Arc<str>, Vec<Permission>)>) -> Self {
        let mut grants: HashMap<Arc<str>, Vec<Permission>> = HashMap::new();
        for (name, permissions) in entries {
            grants.entry(name).or_default().extend(permissions);
        }
        Self(grants)
    }

    /// Whether any of `names` grants `action` on `resource`. Everything is compared by letter.
    pub fn allow<'a>(&self, names: impl IntoIterator<Item = &'a str>, resource: &str, action: &str) -> bool {
        let granted = names.into_iter().filter_map(|name| self.0.get(name)).flatten();
        granted.filter(|permission| &*permission.resource_id == resource).any(|permission| {
            permission.actions.iter().any(|allowed| &**allowed == action || &**allowed == "*")
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// The policy of a project (`GET /v1/b2b/rbac/policy`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RbacPolicy {
    pub roles: Grants,
    /// What the scopes of connected apps grant.
    pub scopes: Grants,
    /// The actions of every resource, for finding permissions that nothing could ever grant.
    pub resources: HashMap<Arc<str>, Vec<Arc<str>>>,
}

/// The roles that an organization adds (`GET /v1/b2b/rbac/organizations/{organization_id}`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrganizationRoles(pub Grants);

/// The names an organization goes by besides its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrganizationNames {
    pub slug: Option<Arc<str>>,
    pub external_id: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(resource: &str, actions: &[&str]) -> Permission {
        Permission {
            resource_id: Arc::from(resource),
            actions: actions.iter().map(|action| Arc::from(*action)).collect(),
        }
    }

    #[test]
    fn a_permission_is_granted_by_role_resource_and_action() {
        let grants = Grants::new([
            (Arc::from("editor"), vec![permission("reports", &["read", "write"])]),
            (Arc::from("editor"), vec![permission("notes", &["*"])]),
            (Arc::from("odd"), vec![permission("*", &["*"])]),
        ]);
        assert!(grants.allow(["viewer", "editor"], "reports", "write"));
        assert!(grants.allow(["editor"], "notes", "anything"));
        for (roles, resource, action) in [
            (&["editor"][..], "reports", "delete"),
            (&["Editor"], "reports", "read"),
            (&["viewer"], "reports", "read"),
            (&["odd"], "reports", "read"),
            (&[], "reports", "read"),
            (&["editor"], "reports", "*"),
        ] {
            assert!(!grants.allow(roles.iter().copied(), resource, action), "{roles:?} {resource} {action}");
        }
    }
}
