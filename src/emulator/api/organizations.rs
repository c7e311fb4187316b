//! Organizations, their members and their own policies.
//!
//! Must not find a member outside the organization asked about.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::sessions::organization_not_found;
use super::{Call, api_error, ok};
use crate::emulator::objects;
use crate::emulator::state::State;

pub(super) fn organization(state: &State, id: &str) -> Response<Bytes> {
    match state.organization(id) {
        Some(found) => ok(json!({ "organization": objects::organization(found) })),
        None => organization_not_found(),
    }
}

pub(super) fn policy(state: &State, id: &str) -> Response<Bytes> {
    match state.organization(id) {
        Some(found) => ok(json!({ "org_policy": { "roles": found.roles } })),
        None => organization_not_found(),
    }
}

pub(super) fn member(state: &State, id: &str, call: &Call<'_>) -> Response<Bytes> {
    let Some(organization) = state.organization(id) else {
        return organization_not_found();
    };
    let by_id = call.param("member_id").and_then(|member| state.member(organization, member));
    let by_email = || {
        let email = call.param("email_address")?;
        state
            .members
            .values()
            .find(|member| member.organization_id == organization.id && member.email == email)
    };
    match by_id.or_else(by_email) {
        Some(member) => ok(json!({
            "member_id": member.id,
            "member": objects::member(member),
            "organization": objects::organization(organization),
        })),
        None => api_error(StatusCode::NOT_FOUND, "member_not_found", "Member could not be found."),
    }
}
