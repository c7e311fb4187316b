//! The token endpoint for machines (RFC 6749 section 4.4) and introspection of apps' tokens (RFC 7662), in JSON as well
//! as form encoding.
//!
//! Must not answer in the API's usual error shape: OAuth has its own.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Call, json_response, pairs, request_id};
use crate::emulator::state::State;
use crate::emulator::tokens::{claims_of, machine_claims};

fn fields(call: &Call<'_>) -> Value {
    let is_form = call
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    if is_form {
        let form = pairs(&String::from_utf8_lossy(call.body));
        form.into_iter().map(|(key, value)| (key, Value::String(value))).collect()
    } else {
        serde_json::from_slice(call.body).unwrap_or_default()
    }
}

/// Says of a token whether it counts: of a known app, genuine, not over, not revoked, its member still there.
pub(super) fn introspect(state: &State, project: &str, call: &Call<'_>) -> Response<Bytes> {
    let fields = fields(call);
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    if project != state.project_id {
        return oauth_error(StatusCode::NOT_FOUND, "invalid_request", "The project could not be found.");
    }
    let app = state.apps.iter().find(|app| {
        app.client_id == field("client_id")
            && app.client_secret.as_ref().is_none_or(|secret| secret == field("client_secret"))
    });
    if app.is_none() {
        let message = "The client could not be authenticated.";
        return oauth_error(StatusCode::UNAUTHORIZED, "invalid_client", message);
    }
    let token = field("token");
    let active = claims_of(state, token).filter(|claims| {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        text("client_id") == field("client_id")
            && claims.get("exp").and_then(Value::as_i64).is_some_and(|exp| exp > call.now.as_second())
            && state.members.contains_key(text("sub"))
            && !state.revoked_app_tokens.contains(token)
    });
    let mut body = active.unwrap_or_else(|| json!({}));
    let is_active = body.as_object().is_some_and(|claims| !claims.is_empty());
    if let Value::Object(body) = &mut body {
        body.insert("active".to_owned(), json!(is_active));
        body.insert("status_code".to_owned(), json!(200));
        body.insert("request_id".to_owned(), json!(request_id()));
        if is_active {
            body.insert("token_type".to_owned(), json!("access_token"));
        }
    }
    json_response(StatusCode::OK, &body)
}

pub(super) fn token(state: &State, project: &str, call: &Call<'_>) -> Response<Bytes> {
    let fields = fields(call);
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    if project != state.project_id {
        return oauth_error(StatusCode::NOT_FOUND, "invalid_request", "The project could not be found.");
    }
    if field("grant_type") != "client_credentials" {
        let message = "Only client_credentials is supported.";
        return oauth_error(StatusCode::BAD_REQUEST, "unsupported_grant_type", message);
    }
    let client = state.clients.iter().find(|client| {
        client.client_id == field("client_id") && client.client_secret == field("client_secret")
    });
    let Some(client) = client else {
        return oauth_error(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "The client could not be authenticated.",
        );
    };
    let wanted: Vec<&str> = field("scope").split_whitespace().collect();
    if wanted.iter().any(|scope| !client.scopes.iter().any(|held| held == scope)) {
        return oauth_error(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            "A scope is not assigned to the client.",
        );
    }
    let scope = if wanted.is_empty() { client.scopes.join(" ") } else { wanted.join(" ") };
    let claims = machine_claims(state, &client.client_id, &scope, call.now);
    let body = json!({
        "access_token": state.keys.last().map(|key| key.sign(&claims)),
        "token_type": "bearer",
        "expires_in": 3600,
        "request_id": request_id(),
        "status_code": 200,
    });
    json_response(StatusCode::OK, &body)
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> Response<Bytes> {
    let body = json!({
        "error": error,
        "error_description": description,
        "error_uri": "https://stytch.com/docs/api/errors/oauth2",
        "status_code": status.as_u16(),
        "request_id": request_id(),
    });
    json_response(status, &body)
}
