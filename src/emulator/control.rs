//! The control API under `/_emulator/`: add, change and revoke, mint tokens, rotate keys, order faults, count calls.
//!
//! Must not be reachable under any path of the API it stands in for.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::{Call, json_response};
use super::faults::Fault;
use super::objects;
use super::signing::SigningKey;
use super::state::State;
use super::tokens::{app_claims, machine_claims, merge, session_claims};

/// What every path of the control API begins with.
pub(super) const PREFIX: &str = "/_emulator/";

/// What there is; `docs/emulator.md` says what each takes.
const CALLS: [&str; 23] = [
    "GET personas",
    "GET calls",
    "DELETE calls",
    "GET faults",
    "POST faults",
    "DELETE faults",
    "POST organizations",
    "PATCH organizations/{id}",
    "POST members",
    "PATCH members/{id}",
    "DELETE members/{id}",
    "POST sessions",
    "GET sessions/{id}",
    "PATCH sessions/{id}",
    "DELETE sessions/{id}",
    "POST sessions/{id}/jwt",
    "POST sessions/{id}/app-token",
    "POST app-tokens/revoke",
    "POST machine-token",
    "GET policy",
    "PUT policy",
    "POST keys/rotate",
    "POST keys/retire",
];

/// Answers a control call. Errors are plain: `{"error": …}`.
pub(super) fn answer(state: &mut State, call: &Call<'_>) -> Response<Bytes> {
    let path: Vec<&str> = call.path.trim_start_matches(PREFIX).split('/').collect();
    let done = match (call.method, path.as_slice()) {
        (&Method::GET, [""]) => Ok(json!({ "calls": CALLS })),
        (&Method::GET, ["personas"]) => Ok(personas(state, call.now)),
        (&Method::GET, ["calls"]) => Ok(json!(state.calls)),
        (&Method::DELETE, ["calls"]) => {
            state.calls.clear();
            Ok(json!({}))
        }
        (&Method::GET, ["faults"]) => Ok(json!(state.faults)),
        (&Method::POST, ["faults"]) => read::<Fault>(call.body).map(|fault| {
            state.faults.push(fault);
            json!({})
        }),
        (&Method::DELETE, ["faults"]) => {
            state.faults.clear();
            Ok(json!({}))
        }
        (&Method::POST, ["organizations"]) => {
            read(call.body).map(|seed| json!({ "organization_id": state.add_organization(seed, call.now) }))
        }
        (&Method::POST, ["members"]) => read(call.body)
            .and_then(|seed| state.add_member(seed, call.now).map_err(text))
            .map(|id| json!({ "member_id": id })),
        (&Method::PATCH, ["organizations", id]) => {
            read(call.body).and_then(|patch| change_organization(state, id, &patch))
        }
        (&Method::PATCH, ["members", id]) => {
            read(call.body).and_then(|patch| change_member(state, id, &patch))
        }
        (&Method::DELETE, ["members", id]) => {
            state.sessions.retain(|_, session| session.member_id != **id);
            found(state.members.remove(*id), "member")
        }
        (&Method::POST, ["sessions"]) => read(call.body)
            .and_then(|seed| state.add_session(seed, call.now).map_err(text))
            .and_then(|id| session_with_tokens(state, &id, call.now)),
        (&Method::GET, ["sessions", id]) => session_with_tokens(state, id, call.now),
        (&Method::PATCH, ["sessions", id]) => read(call.body).and_then(|patch| change(state, id, &patch)),
        (&Method::DELETE, ["sessions", id]) => {
            let session = state.sessions.get_mut(*id);
            found(session.map(|session| session.revoked = true), "session")
        }
        (&Method::POST, ["sessions", id, "jwt"]) => mint(state, id, call),
        (&Method::POST, ["sessions", id, "app-token"]) => mint_for_app(state, id, call),
        (&Method::POST, ["app-tokens", "revoke"]) => read::<Value>(call.body).and_then(|body| {
            let token = body.get("token").and_then(Value::as_str).ok_or("`token` is missing")?;
            state.revoked_app_tokens.insert(token.to_owned());
            Ok(json!({}))
        }),
        (&Method::POST, ["machine-token"]) => mint_for_machine(state, call),
        (&Method::GET, ["policy"]) => Ok(state.policy.clone()),
        (&Method::PUT, ["policy"]) => read(call.body).map(|policy| {
            state.policy = policy;
            json!({})
        }),
        (&Method::POST, ["keys", "rotate"]) => SigningKey::generate().map(|key| {
            let key_id = key.key_id.clone();
            state.keys.push(key);
            json!({ "kid": key_id })
        }),
        (&Method::POST, ["keys", "retire"]) => {
            // All but the one that signs.
            state.keys.drain(..state.keys.len().saturating_sub(1));
            Ok(json!({}))
        }
        _ => Err(format!("no control call `{} {}`", call.method, call.path)),
    };
    match done {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(error) => json_response(StatusCode::BAD_REQUEST, &json!({ "error": error })),
    }
}

/// Every named session with a fresh JWT.
fn personas(state: &State, now: Timestamp) -> Value {
    let named = state.sessions.values().filter(|session| !session.persona.is_empty());
    named
        .map(|session| {
            let claims = session_claims(state, session, now, &Value::Null);
            let value = json!({
                "member_session_id": session.id,
                "member_id": session.member_id,
                "organization_id": session.organization_id,
                "session_token": session.token,
                "session_jwt": state.keys.last().map(|key| key.sign(&claims)),
            });
            (session.persona.clone(), value)
        })
        .collect()
}

fn session_with_tokens(state: &State, id: &str, now: Timestamp) -> Result<Value, String> {
    let session = state.sessions.get(id).ok_or_else(|| format!("no session `{id}`"))?;
    let claims = session_claims(state, session, now, &Value::Null);
    Ok(json!({
        "member_session": objects::member_session(state, session),
        "session_token": session.token,
        "session_jwt": state.keys.last().map(|key| key.sign(&claims)),
    }))
}

/// Mints a JWT. `claims` are merged over the usual ones; `issued_ago_seconds` shifts its dates.
fn mint(state: &State, id: &str, call: &Call<'_>) -> Result<Value, String> {
    let wishes: Value = if call.body.is_empty() { json!({}) } else { read(call.body)? };
    let session = state.sessions.get(id).ok_or_else(|| format!("no session `{id}`"))?;
    let ago = wishes.get("issued_ago_seconds").and_then(Value::as_i64).unwrap_or_default();
    let issued = call.now - jiff::SignedDuration::from_secs(ago);
    let claims = session_claims(state, session, issued, wishes.get("claims").unwrap_or(&Value::Null));
    Ok(json!({ "session_jwt": state.keys.last().map(|key| key.sign(&claims)) }))
}

/// Mints a connected app's access token for the session's member. `claims` are merged over the usual ones.
fn mint_for_app(state: &State, id: &str, call: &Call<'_>) -> Result<Value, String> {
    let wishes: Value = if call.body.is_empty() { json!({}) } else { read(call.body)? };
    let session = state.sessions.get(id).ok_or_else(|| format!("no session `{id}`"))?;
    let wanted = wishes.get("client_id").and_then(Value::as_str);
    let app = state.apps.iter().find(|app| wanted.is_none_or(|wanted| wanted == app.client_id));
    let app = app.ok_or("no such connected app")?;
    let scope =
        wishes.get("scope").and_then(Value::as_str).map_or_else(|| app.scopes.join(" "), str::to_owned);
    let mut claims = app_claims(state, session, &app.client_id, &scope, call.now);
    merge(&mut claims, wishes.get("claims").unwrap_or(&Value::Null));
    Ok(json!({ "access_token": state.keys.last().map(|key| key.sign(&claims)) }))
}

/// Mints a machine's access token without its secret. `claims` are merged over the usual ones.
fn mint_for_machine(state: &State, call: &Call<'_>) -> Result<Value, String> {
    let wishes: Value = if call.body.is_empty() { json!({}) } else { read(call.body)? };
    let client = state.clients.first().ok_or("no machine client")?;
    let scope =
        wishes.get("scope").and_then(Value::as_str).map_or_else(|| client.scopes.join(" "), str::to_owned);
    let mut claims = machine_claims(state, &client.client_id, &scope, call.now);
    merge(&mut claims, wishes.get("claims").unwrap_or(&Value::Null));
    Ok(json!({ "access_token": state.keys.last().map(|key| key.sign(&claims)) }))
}

/// Changes roles, factors, custom claims or dates of a session, by merge patch over those fields.
fn change(state: &mut State, id: &str, patch: &Value) -> Result<Value, String> {
    let session = state.sessions.get_mut(id).ok_or_else(|| format!("no session `{id}`"))?;
    let mut fields = json!({
        "roles": session.roles,
        "authentication_factors": session.factors,
        "custom_claims": session.custom_claims,
        "started_at": session.started_at,
        "expires_at": session.expires_at,
    });
    let mut take = patched(&mut fields, patch)?;
    session.roles = serde_json::from_value(take("roles")).map_err(text)?;
    session.factors = serde_json::from_value(take("authentication_factors")).map_err(text)?;
    session.custom_claims = serde_json::from_value(take("custom_claims")).map_err(text)?;
    session.started_at = serde_json::from_value(take("started_at")).map_err(text)?;
    session.expires_at = serde_json::from_value(take("expires_at")).map_err(text)?;
    Ok(json!({}))
}

fn change_organization(state: &mut State, id: &str, patch: &Value) -> Result<Value, String> {
    let organization = state.organizations.get_mut(id).ok_or_else(|| format!("no organization `{id}`"))?;
    let mut fields = json!({ "slug": organization.slug, "name": organization.name, "roles": organization.roles, "external_id": organization.external_id });
    let mut take = patched(&mut fields, patch)?;
    organization.slug = serde_json::from_value(take("slug")).map_err(text)?;
    organization.name = serde_json::from_value(take("name")).map_err(text)?;
    organization.external_id = serde_json::from_value(take("external_id")).map_err(text)?;
    organization.roles = serde_json::from_value(take("roles")).map_err(text)?;
    Ok(json!({}))
}

fn change_member(state: &mut State, id: &str, patch: &Value) -> Result<Value, String> {
    let member = state.members.get_mut(id).ok_or_else(|| format!("no member `{id}`"))?;
    let mut fields = json!({ "email": member.email, "name": member.name, "roles": member.roles });
    let mut take = patched(&mut fields, patch)?;
    member.email = serde_json::from_value(take("email")).map_err(text)?;
    member.name = serde_json::from_value(take("name")).map_err(text)?;
    member.roles = serde_json::from_value(take("roles")).map_err(text)?;
    Ok(json!({}))
}

/// Lays `patch` over the fields that can be changed, and gives them out one by one.
fn patched<'a>(fields: &'a mut Value, patch: &Value) -> Result<impl FnMut(&str) -> Value + 'a, String> {
    let unknown =
        patch.as_object().and_then(|patch| patch.keys().find(|key| fields.get(key.as_str()).is_none()));
    if let Some(key) = unknown {
        return Err(format!("`{key}` cannot be changed"));
    }
    merge(fields, patch);
    Ok(|name: &str| fields.get_mut(name).map(Value::take).unwrap_or_default())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(text)
}

fn found<T>(what: Option<T>, kind: &str) -> Result<Value, String> {
    what.map(|_| json!({})).ok_or_else(|| format!("no such {kind}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
