//! Sessions: list, authenticate, revoke, and the keys their JWTs are signed with.
//!
//! Must not show a token in a list, nor extend a session nobody asked to extend.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Call, api_error, ok};
use crate::emulator::objects;
use crate::emulator::state::State;
use crate::emulator::tokens::{merge, session_claims, session_of_jwt};

pub(super) fn list(state: &State, call: &Call<'_>) -> Response<Bytes> {
    let (Some(organization), Some(member)) = (call.param("organization_id"), call.param("member_id")) else {
        return api_error(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "organization_id and member_id are required.",
        );
    };
    let Some(organization) = state.organization(organization) else {
        return organization_not_found();
    };
    let Some(member) = state.member(organization, member) else {
        return api_error(StatusCode::NOT_FOUND, "member_not_found", "Member could not be found.");
    };
    let sessions: Vec<Value> = state
        .live_sessions(&member.id, call.now)
        .map(|session| objects::member_session(state, session))
        .collect();
    ok(json!({ "member_sessions": sessions }))
}

pub(super) fn authenticate(state: &mut State, call: &Call<'_>) -> Response<Bytes> {
    let body = match call.json() {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let id = match named_session(state, &body) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let minutes = body.get("session_duration_minutes").and_then(Value::as_i64);
    if minutes.is_some_and(|minutes| !(5..=527_040).contains(&minutes)) {
        return api_error(
            StatusCode::BAD_REQUEST,
            "invalid_session_duration",
            "The session duration must be between 5 and 527040 minutes.",
        );
    }
    let Some(session) = state.sessions.get_mut(&id).filter(|session| session.is_live(call.now)) else {
        return session_not_found();
    };
    session.last_accessed_at = call.now;
    if let Some(minutes) = minutes {
        session.expires_at = call.now + SignedDuration::from_mins(minutes);
    }
    if let Some(claims) = body.get("session_custom_claims") {
        let mut merged = Value::Object(std::mem::take(&mut session.custom_claims));
        merge(&mut merged, claims);
        if let Value::Object(merged) = merged {
            session.custom_claims = merged;
        }
    }
    let Some(session) = state.sessions.get(&id) else {
        return session_not_found();
    };
    let verdict = match body.get("authorization_check").filter(|check| !check.is_null()) {
        None => Value::Null,
        Some(check) => match authorize(state, &session.organization_id, &session.roles, check) {
            Ok(roles) => json!({ "authorized": true, "granting_roles": roles }),
            Err(refusal) => return refusal,
        },
    };
    let (Some(member), Some(organization)) =
        (state.members.get(&session.member_id), state.organizations.get(&session.organization_id))
    else {
        return session_not_found();
    };
    let claims = session_claims(state, session, call.now, &Value::Null);
    let mut answer = json!({
        "member_session": objects::member_session(state, session),
        "session_token": session.token,
        "session_jwt": state.keys.last().map(|key| key.sign(&claims)),
        "member": objects::member(member),
        "organization": objects::organization(organization),
    });
    if let (Value::Object(fields), false) = (&mut answer, verdict.is_null()) {
        fields.insert("verdict".to_owned(), verdict);
    }
    ok(answer)
}

pub(super) fn revoke(state: &mut State, call: &Call<'_>) -> Response<Bytes> {
    let body = match call.json() {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let names = ["member_session_id", "session_token", "session_jwt", "member_id"];
    let given: Vec<(&str, &str)> =
        names.iter().filter_map(|name| Some((*name, body.get(*name)?.as_str()?))).collect();
    let [(name, value)] = given.as_slice() else {
        return wrong_count(given.len());
    };
    let jwt_session = if *name == "session_jwt" { session_of_jwt(state, value) } else { None };
    for session in state.sessions.values_mut() {
        session.revoked |= match *name {
            "member_session_id" => session.id == *value,
            "session_token" => session.token == *value,
            "session_jwt" => jwt_session.as_deref() == Some(session.id.as_str()),
            _ => session.member_id == *value,
        };
    }
    // Revoking what is revoked, or was never there, is no error.
    ok(json!({}))
}

pub(super) fn keys(state: &State, project: &str) -> Response<Bytes> {
    if project != state.project_id {
        return api_error(StatusCode::NOT_FOUND, "project_not_found", "Project could not be found.");
    }
    let keys: Vec<Value> = state.keys.iter().map(crate::emulator::signing::SigningKey::jwk).collect();
    let mut response = ok(json!({ "keys": keys }));
    let lifetime = HeaderValue::from_static("public, max-age=900");
    response.headers_mut().insert(header::CACHE_CONTROL, lifetime);
    response
}

pub(super) fn organization_not_found() -> Response<Bytes> {
    api_error(StatusCode::NOT_FOUND, "organization_not_found", "Organization could not be found.")
}

fn session_not_found() -> Response<Bytes> {
    api_error(StatusCode::NOT_FOUND, "session_not_found", "Session could not be found.")
}

fn wrong_count(count: usize) -> Response<Bytes> {
    let kind = if count == 0 { "no_session_arguments" } else { "too_many_session_arguments" };
    api_error(StatusCode::BAD_REQUEST, kind, "Exactly one session argument must be given.")
}

/// The session a token or a JWT names; an expired JWT names its session all the same.
fn named_session(state: &State, body: &Value) -> Result<String, Response<Bytes>> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (text("session_token"), text("session_jwt")) {
        (Some(_), Some(_)) => Err(wrong_count(2)),
        (None, None) => Err(wrong_count(0)),
        (Some(token), None) => {
            state.session_by_token(token).map(|session| session.id.clone()).ok_or_else(session_not_found)
        }
        (None, Some(jwt)) => session_of_jwt(state, jwt).ok_or_else(|| {
            let message = "The session JWT could not be parsed.";
            api_error(StatusCode::BAD_REQUEST, "unable_to_parse_session_jwt", message)
        }),
    }
}

/// Tenancy first, then any role of the project or the organization that grants the action.
fn authorize(
    state: &State,
    organization_id: &str,
    roles: &[String],
    check: &Value,
) -> Result<Vec<String>, Response<Bytes>> {
    let field = |name: &str| check.get(name).and_then(Value::as_str).unwrap_or_default();
    if field("organization_id") != organization_id {
        return Err(api_error(
            StatusCode::FORBIDDEN,
            "session_authorization_tenancy_error",
            "The member does not belong to the organization.",
        ));
    }
    let of_project = state.policy.get("roles").and_then(Value::as_array).into_iter().flatten();
    let of_organization = state.organizations.get(organization_id).into_iter().flat_map(|found| &found.roles);
    let granting: Vec<String> = of_project
        .chain(of_organization)
        .filter(|role| grants(role, field("resource_id"), field("action")))
        .filter_map(|role| role.get("role_id")?.as_str())
        .filter(|role| roles.iter().any(|held| held == role))
        .map(str::to_owned)
        .collect();
    if granting.is_empty() {
        return Err(api_error(
            StatusCode::FORBIDDEN,
            "session_authorization_error",
            "The member is not authorized to perform the action.",
        ));
    }
    Ok(granting)
}

fn grants(role: &Value, resource: &str, action: &str) -> bool {
    let permissions = role.get("permissions").and_then(Value::as_array).into_iter().flatten();
    permissions
        .filter(|permission| permission.get("resource_id").and_then(Value::as_str) == Some(resource))
        .any(|permission| {
            let actions = permission.get("actions").and_then(Value::as_array).into_iter().flatten();
            actions.filter_map(Value::as_str).any(|granted| granted == action || granted == "*")
        })
}
