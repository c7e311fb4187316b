//! Tokens that are known again by their bytes, and what is kept with them.

use std::time::Duration;

use serde_json::json;

use crate::support::{Ask, World, config_for};

const ROUTES: &str = "sessions: { fresh_for: 100ms, stale_while_revalidate: 0s }
routes: [ { name: everything, match: { path: /** }, require: authenticated, max_staleness: 100ms } ]
";

#[tokio::test]
async fn the_same_token_tells_what_its_session_is_now() {
    let world = World::with(ROUTES, &[]).await;
    let roles = async || world.get("/", "VIEWER").await.seen("x-auth-roles").unwrap();
    assert_eq!(roles().await, "stytch_member,viewer");
    assert_eq!(roles().await, "stytch_member,viewer");
    let session = format!("sessions/{}", world.persona("VIEWER").session_id);
    world.control("PATCH", &session, json!({ "roles": ["stytch_member"] })).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(roles().await, "stytch_member");
}

#[tokio::test]
async fn the_same_token_is_told_of_under_the_names_of_the_rules_in_force() {
    let world = World::with(ROUTES, &[]).await;
    assert!(world.get("/", "VIEWER").await.seen("x-auth-roles").is_some());
    let renamed = format!("{ROUTES}identity: {{ header_prefix: x-who- }}\n");
    let upstream = format!("http://{}", world.echo_address());
    world.gateway.reload(&config_for(&renamed, &world.emulator, &upstream, &[])).unwrap();
    let answer = world.get("/", "VIEWER").await;
    assert_eq!(answer.seen("x-who-roles").unwrap(), "stytch_member,viewer");
    assert_eq!(answer.seen("x-auth-roles"), None);
}

#[tokio::test]
async fn a_token_that_differs_in_one_letter_is_another_token() {
    let world = World::with(ROUTES, &[]).await;
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    let jwt = &world.persona("VIEWER").jwt;
    // Head, payload and signature, each with one letter changed; the end, by which a token is found, never.
    for part in jwt.split('.').map(|part| part.as_ptr() as usize - jwt.as_ptr() as usize + part.len() / 2) {
        let mut forged = jwt.clone().into_bytes();
        forged[part] = if forged[part] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_eq!(forged[forged.len() - 8..], jwt[jwt.len() - 8..]);
        assert_eq!(world.send(Ask::get("/").bearer(&forged)).await.status, 401);
    }
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
}
