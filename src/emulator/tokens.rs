//! Making ids and tokens of the API's shapes, and reading our own JWTs back.
//!
//! Must not verify anybody else's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Session, State};

/// Claims that custom claims cannot set.
const RESERVED: [&str; 9] = [
    "aud",
    "exp",
    "iat",
    "iss",
    "jti",
    "nbf",
    "sub",
    "https://stytch.com/session",
    "https://stytch.com/organization",
];

/// A random version-4 UUID.
pub(super) fn uuid() -> String {
    let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// An opaque token: 44 characters of base64url.
pub(super) fn opaque() -> String {
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(33).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The claims of a session JWT minted now; `changes` are merged over them, null removes.
pub(super) fn session_claims(state: &State, session: &Session, now: Timestamp, changes: &Value) -> Value {
    let mut claims = Map::new();
    for (name, value) in session.custom_claims.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str())) {
        claims.insert(name.clone(), value.clone());
    }
    let seconds = |date: Timestamp| Timestamp::from_second(date.as_second()).unwrap_or(date).to_string();
    let slug = state.organizations.get(&session.organization_id).map_or("", |found| found.slug.as_str());
    let issued = now.as_second();
    let fixed = json!({
        "iss": format!("stytch.com/{}", state.project_id),
        "aud": [state.project_id],
        "sub": session.member_id,
        "iat": issued,
        "nbf": issued,
        "exp": issued + 300,
        "https://stytch.com/session": {
            "id": session.id,
            "started_at": seconds(session.started_at),
            "last_accessed_at": seconds(session.last_accessed_at),
            "expires_at": seconds(session.expires_at),
            "attributes": { "ip_address": "", "user_agent": "" },
            "authentication_factors": session.factors,
            "roles": session.roles,
        },
        "https://stytch.com/organization": { "organization_id": session.organization_id, "slug": slug },
    });
    if let Value::Object(fixed) = fixed {
        claims.extend(fixed);
    }
    let mut claims = Value::Object(claims);
    merge(&mut claims, changes);
    claims
}

/// JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        if !patch.is_null() {
            *target = patch.clone();
        }
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            match value {
                Value::Null => {
                    target.remove(key);
                }
                Value::Object(_) => merge(target.entry(key.clone()).or_insert(Value::Null), value),
                value => {
                    target.insert(key.clone(), value.clone());
                }
            }
        }
    }
}

/// The claims of a machine's access token.
pub(super) fn machine_claims(state: &State, client_id: &str, scope: &str, now: Timestamp) -> Value {
    let issued = now.as_second();
    json!({
        "iss": format!("stytch.com/{}", state.project_id),
        "aud": [state.project_id],
        "sub": client_id,
        "iat": issued,
        "nbf": issued,
        "exp": issued + 3600,
        "scope": scope,
    })
}

/// The claims of a connected app's access token for the member of `session`.
pub(super) fn app_claims(
    state: &State,
    session: &Session,
    client_id: &str,
    scope: &str,
    now: Timestamp,
) -> Value {
    let slug = state.organizations.get(&session.organization_id).map_or("", |found| found.slug.as_str());
    let issued = now.as_second();
    json!({
        "iss": format!("stytch.com/{}", state.project_id),
        "aud": [state.project_id],
        "sub": session.member_id,
        "client_id": client_id,
        "jti": uuid(),
        "iat": issued,
        "nbf": issued,
        "exp": issued + 3600,
        "scope": scope,
        "https://stytch.com/organization": { "organization_id": session.organization_id, "slug": slug },
    })
}

/// The session id a JWT of ours names, if it is one of ours by its signature; `None` if it cannot be parsed at all.
pub(super) fn session_of_jwt(state: &State, jwt: &str) -> Option<String> {
    claims_of(state, jwt)?.pointer("/https:~1~1stytch.com~1session/id")?.as_str().map(str::to_owned)
}

/// The claims of a JWT of ours.
pub(super) fn claims_of(state: &State, jwt: &str) -> Option<Value> {
    let (signed, _) = jwt.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let read =
        |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
    let header = read(header)?;
    let claims = read(claims)?;
    let key = state
        .keys
        .iter()
        .find(|key| Some(key.key_id.as_str()) == header.get("kid").and_then(Value::as_str))?;
    // RS256 is deterministic: signing the same claims again is a verification.
    (key.sign(&claims).split_once('.')?.1.rsplit_once('.')?.1 == jwt.rsplit_once('.')?.1).then_some(claims)
}
