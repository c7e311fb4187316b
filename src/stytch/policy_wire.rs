//! Reading policies, organizations and introspections out of the API's JSON.
//!
//! Must not take half a policy: a role that cannot be read makes the whole answer a fault.

use std::sync::Arc;

use serde::Deserialize;

use crate::directory::{DirectoryError, Standing};
use crate::identity::{AppToken, OrganizationId, Scopes};
use crate::policy::{Grants, OrganizationNames, OrganizationRoles, Permission, RbacPolicy};

#[derive(Deserialize)]
struct PolicyAnswer {
    policy: WirePolicy,
}

#[derive(Deserialize)]
struct WirePolicy {
    roles: Vec<WireRole>,
    #[serde(default)]
    resources: Vec<WireResource>,
    #[serde(default)]
    scopes: Option<Vec<WireScope>>,
}

#[derive(Deserialize)]
struct WireRole {
    role_id: String,
    #[serde(default)]
    permissions: Vec<WirePermission>,
}

#[derive(Deserialize)]
struct WireScope {
    scope: String,
    #[serde(default)]
    permissions: Vec<WirePermission>,
}

#[derive(Deserialize)]
struct WirePermission {
    resource_id: String,
    actions: Vec<String>,
}

#[derive(Deserialize)]
struct WireResource {
    resource_id: String,
    #[serde(default)]
    actions: Vec<String>,
}

#[derive(Deserialize)]
struct RolesAnswer {
    /// Null for none; an answer without the key is no answer.
    #[serde(deserialize_with = "Option::deserialize")]
    org_policy: Option<WireRoles>,
}

#[derive(Deserialize)]
struct WireRoles {
    #[serde(default)]
    roles: Vec<WireRole>,
}

#[derive(Deserialize)]
struct OrganizationAnswer {
    organization: WireOrganization,
}

#[derive(Deserialize)]
struct WireOrganization {
    organization_id: String,
    organization_slug: Option<String>,
    organization_external_id: Option<String>,
}

#[derive(Deserialize)]
struct IntrospectionAnswer {
    active: bool,
    sub: Option<String>,
    client_id: Option<String>,
    token_type: Option<String>,
    scope: Option<String>,
    #[serde(rename = "https://stytch.com/organization")]
    organization: Option<IntrospectedOrganization>,
}

#[derive(Deserialize)]
struct IntrospectedOrganization {
    organization_id: String,
}

/// Reads `GET /v1/b2b/rbac/policy`.
pub fn read_policy(body: &[u8]) -> Result<RbacPolicy, DirectoryError> {
    let answer: PolicyAnswer = serde_json::from_slice(body).map_err(malformed)?;
    let scopes = answer.policy.scopes.unwrap_or_default();
    let actions = |resource: WireResource| (Arc::from(resource.resource_id), texts(resource.actions));
    Ok(RbacPolicy {
        roles: grants(answer.policy.roles),
        scopes: Grants::new(
            scopes.into_iter().map(|scope| (Arc::from(scope.scope), permissions(scope.permissions))),
        ),
        resources: answer.policy.resources.into_iter().map(actions).collect(),
    })
}

/// Reads `GET /v1/b2b/rbac/organizations/{organization_id}`; an organization without a policy has no roles of its own.
pub fn read_organization_roles(body: &[u8]) -> Result<OrganizationRoles, DirectoryError> {
    let answer: RolesAnswer = serde_json::from_slice(body).map_err(malformed)?;
    Ok(OrganizationRoles(grants(answer.org_policy.map(|policy| policy.roles).unwrap_or_default())))
}

/// Reads `GET /v1/b2b/organizations/{organization_id}`: which organization it is about, and its names.
pub(super) fn read_organization(body: &[u8]) -> Result<(OrganizationId, OrganizationNames), DirectoryError> {
    let answer: OrganizationAnswer = serde_json::from_slice(body).map_err(malformed)?;
    let found = answer.organization;
    let id = OrganizationId::parse(&found.organization_id)
        .map_err(|_| DirectoryError::Malformed("an organization has no usable organization_id".to_owned()))?;
    let told = |name: Option<String>| name.filter(|name| !name.is_empty()).map(Arc::from);
    let names = OrganizationNames {
        slug: told(found.organization_slug),
        external_id: told(found.organization_external_id),
    };
    Ok((id, names))
}

/// Whether the token is active, with its scopes if they are told; it must still be the one that was verified: of this
/// member, organization and app.
pub(super) fn read_introspection(body: &[u8], token: &AppToken) -> Result<Standing, DirectoryError> {
    let answer: IntrospectionAnswer = serde_json::from_slice(body).map_err(malformed)?;
    let same = answer.sub.as_deref().is_none_or(|sub| sub == token.member.member_id.as_str())
        && answer.client_id.as_deref().is_none_or(|id| id == token.client_id.as_str())
        && answer
            .organization
            .is_none_or(|organization| organization.organization_id == token.member.organization_id.as_str());
    if answer.active && !same {
        return Err(DirectoryError::Mismatched);
    }
    // A refresh token is nothing to call with, whatever else is true of it.
    let active = answer.active && answer.token_type.as_deref() != Some("refresh_token");
    Ok((active, answer.scope.as_deref().map(Scopes::parse)))
}

fn grants(roles: Vec<WireRole>) -> Grants {
    Grants::new(roles.into_iter().map(|role| (Arc::from(role.role_id), permissions(role.permissions))))
}

fn permissions(wire: Vec<WirePermission>) -> Vec<Permission> {
    let read = |permission: WirePermission| Permission {
        resource_id: Arc::from(permission.resource_id),
        actions: texts(permission.actions),
    };
    wire.into_iter().map(read).collect()
}

fn texts(texts: Vec<String>) -> Vec<Arc<str>> {
    texts.into_iter().map(Arc::from).collect()
}

fn malformed(error: serde_json::Error) -> DirectoryError {
    DirectoryError::Malformed(format!("line {} column {}", error.line(), error.column()))
}
