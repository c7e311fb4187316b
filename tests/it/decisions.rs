//! Decisions as a caller sees them: the cases of `cases/decisions.yaml`, and what a table cannot hold.

use serde::Deserialize;
use serde_json::json;

use crate::support::{Ask, World};

#[derive(Deserialize)]
struct Case {
    /// Whose credential is sent; absent: nobody's.
    persona: Option<String>,
    method: Option<String>,
    path: String,
    status: u16,
    reason: Option<String>,
    /// A part of the challenge.
    challenge: Option<String>,
}

/// Every case with a JWT as a bearer, as a cookie, and with the opaque token: the answer is the same.
#[tokio::test]
async fn every_case_is_decided_alike_however_the_caller_is_known() {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("cases/decisions.yaml")).unwrap();
    let world = World::start().await;
    for case in &cases {
        let persona = case.persona.as_deref().map(|name| world.persona(name));
        let ask = || Ask::new(case.method.as_deref().unwrap_or("GET"), &case.path);
        let asks = match persona {
            None => vec![ask()],
            Some(persona) => vec![
                ask().bearer(&persona.jwt),
                ask().cookie("stytch_session_jwt", &persona.jwt),
                ask().cookie("stytch_session", &persona.token),
                ask().bearer(&persona.token).http2(),
            ],
        };
        for (way, ask) in asks.into_iter().enumerate() {
            let answer = world.send(ask).await;
            let what = format!("{:?} {} (way {way}): {}", case.persona, case.path, answer.text());
            assert_eq!(answer.status, case.status, "{what}");
            if let Some(reason) = &case.reason {
                assert_eq!(answer.reason(), *reason, "{what}");
                assert_eq!(answer.header("cache-control"), "no-store", "{what}");
                assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
            }
            if let Some(challenge) = &case.challenge {
                assert!(answer.header("www-authenticate").contains(challenge), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_expired_jwt_beside_a_live_token_is_normal() {
    let world = World::start().await;
    let viewer = world.persona("VIEWER");
    let old = json!({ "issued_ago_seconds": 400 });
    let minted = world.control("POST", &format!("sessions/{}/jwt", viewer.session_id), old).await;
    let expired = minted["session_jwt"].as_str().unwrap();
    let cookies = format!("stytch_session_jwt={expired}; stytch_session={}", viewer.token);
    assert_eq!(world.send(Ask::get("/").header("cookie", &cookies)).await.status, 200);
    let alone = world.send(Ask::get("/").bearer(expired)).await;
    assert_eq!((alone.status, alone.reason().as_str()), (401, "credential_expired"));
    // An expired JWT is never sent to the API.
    assert_eq!(world.calls("authenticate").await, 1);
}

#[tokio::test]
async fn credentials_of_two_sessions_disagree() {
    let world = World::start().await;
    let viewer = &world.persona("VIEWER").jwt;
    let admin = world.persona("ADMIN");
    let both = Ask::get("/").cookie("stytch_session_jwt", viewer).bearer(&admin.jwt);
    assert_eq!(world.send(both).await.reason(), "credentials_disagree");
    let same = Ask::get("/").cookie("stytch_session_jwt", viewer).bearer(viewer);
    assert_eq!(world.send(same).await.status, 200);
    // A token nobody has resolved yet is not looked at beside a verified JWT: that would need the API.
    let unresolved = Ask::get("/").cookie("stytch_session_jwt", viewer).bearer(&admin.token);
    assert_eq!(world.send(unresolved.clone()).await.status, 200);
    assert_eq!(world.send(Ask::get("/").bearer(&admin.token)).await.status, 200);
    assert_eq!(world.send(unresolved).await.reason(), "credentials_disagree");
}

#[tokio::test]
async fn machine_and_app_tokens_are_no_sessions() {
    let world = World::start().await;
    let emulator = world.emulator.url().trim_start_matches("http://").parse().unwrap();
    let path = format!("/v1/public/{}/oauth2/token", world.emulator.project_id());
    let wish = json!({
        "grant_type": "client_credentials",
        "client_id": "m2m-client-test-cccccccc-0000-4000-8000-000000000001",
        "client_secret": "m2m-secret-emulator",
    });
    let request = Ask::new("POST", &path).header("content-type", "application/json").body(wish.to_string());
    let granted = crate::support::ask(emulator, request).await.json();
    let machine = world.send(Ask::get("/").bearer(granted["access_token"].as_str().unwrap())).await;
    assert_eq!((machine.status, machine.reason().as_str()), (401, "credential_kind"));

    let claims = json!({ "claims": { "https://stytch.com/session": null, "client_id": "connected-app-test-1", "scope": "openid" } });
    let id = &world.persona("VIEWER").session_id;
    let minted = world.control("POST", &format!("sessions/{id}/jwt"), claims).await;
    let app = world.send(Ask::get("/").bearer(minted["session_jwt"].as_str().unwrap())).await;
    assert_eq!((app.status, app.reason().as_str()), (401, "credential_kind"));
}

#[tokio::test]
async fn a_rotated_key_is_fetched_when_its_first_token_comes() {
    let world = World::start().await;
    let before = world.calls("keys").await;
    world.control("POST", "keys/rotate", json!({})).await;
    let id = &world.persona("VIEWER").session_id;
    let minted = world.control("POST", &format!("sessions/{id}/jwt"), json!({})).await;
    let fresh = minted["session_jwt"].as_str().unwrap();
    assert_eq!(world.send(Ask::get("/").bearer(fresh)).await.status, 200);
    assert_eq!(world.calls("keys").await, before + 1);
    assert_eq!(world.get("/", "VIEWER").await.status, 200);

    // Key ids nobody has made up lead to one fetch, not to one each.
    for _ in 0..5 {
        let forged = fresh.replacen("eyJ", "eyK", 1);
        world.send(Ask::get("/").bearer(&forged)).await;
        let unknown = unknown_key(fresh);
        assert_eq!(world.send(Ask::get("/").bearer(&unknown)).await.reason(), "credential_invalid");
    }
    assert!(world.calls("keys").await <= before + 2);
}

/// The token with a header that names a key nobody has.
fn unknown_key(token: &str) -> String {
    use base64::Engine as _;
    let header = format!(r#"{{"alg":"RS256","kid":"k-{}","typ":"JWT"}}"#, fastrand::u64(..));
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header);
    format!("{header}.{}", token.split_once('.').unwrap().1)
}

/// Must show 5.
#[tokio::test]
async fn a_revoked_session_ends_although_its_jwt_is_valid() {
    let world = World::start().await;
    assert_eq!(world.get("/strict", "VIEWER").await.status, 200);
    world.revoke("VIEWER").await;
    // Within the bound the old list may still serve; past it the directory is asked.
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    let refused = world.get("/strict", "VIEWER").await;
    assert_eq!((refused.status, refused.reason().as_str()), (401, "session_not_found"));
    // The member's other session is untouched, and does not answer for the revoked one.
    assert_eq!(world.get("/strict", "VIEWER_LAPTOP").await.status, 200);
}

/// Must show 5.
#[tokio::test]
async fn a_jwt_newer_than_the_list_is_not_refused_because_of_it() {
    let world = World::start().await;
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    let calls = world.calls("list").await;
    let seed = json!({ "persona": "NEW", "member": world.persona("VIEWER").member_id, "factors": [] });
    let made = world.control("POST", "sessions", seed).await;
    let fresh = made["session_jwt"].as_str().unwrap();
    assert_eq!(world.send(Ask::get("/").bearer(fresh)).await.status, 200);
    assert_eq!(world.calls("list").await, calls + 1);
    assert_eq!(world.send(Ask::get("/").bearer(fresh)).await.status, 200);
    assert_eq!(world.calls("list").await, calls + 1);
}

#[tokio::test]
async fn a_role_granted_a_moment_ago_counts() {
    let world = World::with(
        "routes:\n  - { name: auditors, match: { path: /** }, require: { role: auditor } }\n",
        &[("sessions.negative_for", "100ms")],
    )
    .await;
    assert_eq!(world.get("/", "VIEWER").await.reason(), "role_missing");
    let id = &world.persona("VIEWER").session_id;
    world.control("PATCH", &format!("sessions/{id}"), json!({ "roles": ["auditor"] })).await;
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    // The list is fresh by age, but older than `negative_for`: it is confirmed before it refuses.
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
}
