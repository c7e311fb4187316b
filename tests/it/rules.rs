//! Rules that are put in force while the gateway runs, and custom claims, which come and go with them.

use std::time::Duration;

use portcullis::app::ReloadError;
use serde_json::json;

use crate::support::{End, OpenStream, Origin, Reply, World, config_for};

const OPEN: &str = "routes: [ { name: everything, match: { path: /** }, require: authenticated } ]\n";

fn asking(requirement: &str) -> String {
    format!("routes: [ {{ name: everything, match: {{ path: /** }}, require: {requirement} }} ]\n")
}

async fn replace(world: &World, yaml: &str) -> Result<(), ReloadError> {
    let config = config_for(yaml, &world.emulator, &format!("http://{}", world.echo_address()), &[]);
    world.gateway.reload(&config)
}

async fn claims(world: &World, claims: serde_json::Value) {
    let session = format!("sessions/{}", world.persona("VIEWER").session_id);
    world.control("PATCH", &session, json!({ "custom_claims": claims })).await;
}

#[tokio::test]
async fn a_custom_claim_of_the_session_decides_and_its_absence_is_told_from_its_being_unknown() {
    let requirement = "all: [ { claim: { pointer: /plan/name, one_of: [gold, 7] } }, { claim: { pointer: /beta, exists: false } } ]";
    let world = World::with(
        &asking(&format!("{{ {requirement} }}")),
        &[
            ("sessions.fresh_for", "50ms"),
            ("sessions.stale_while_revalidate", "50ms"),
            ("sessions.negative_for", "1ms"),
        ],
    )
    .await;
    for (claim, reason) in [
        (json!({ "plan": { "name": "gold" } }), None),
        (json!({ "plan": { "name": 7 } }), None),
        (json!({ "plan": { "name": "7" } }), Some("claim_mismatch")),
        (json!({ "plan": { "name": "gold" }, "beta": false }), Some("claim_mismatch")),
        (json!({}), Some("claim_mismatch")),
    ] {
        claims(&world, claim.clone()).await;
        let answer = eventually_decided(&world, reason).await;
        assert_eq!(answer, reason.map(str::to_owned), "{claim}");
    }
}

/// The reason of a refusal, once the session's new claims have been seen.
async fn eventually_decided(world: &World, wanted: Option<&str>) -> Option<String> {
    let mut last = None;
    for _ in 0..40 {
        let answer = world.get("/", "VIEWER").await;
        last = (answer.status != 200).then(|| answer.reason());
        if last.as_deref() == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    last
}

#[tokio::test]
async fn rules_that_ask_about_other_claims_make_lists_without_them_be_asked_for_again() {
    let world = World::with(OPEN, &[]).await;
    claims(&world, json!({ "plan": "gold" })).await;
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    let calls = world.calls("list").await;
    // Past `negative_for`, so that a list without the claim is confirmed before it refuses anybody.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    replace(&world, &asking("{ claim: { pointer: /plan, equals: gold } }")).await.unwrap();
    assert_eq!(world.get("/", "VIEWER").await.status, 200, "although its list was fresh and had no claims");
    assert!(world.calls("list").await > calls);
    replace(&world, &asking("{ claim: { pointer: /plan, equals: silver } }")).await.unwrap();
    assert_eq!(world.get("/", "VIEWER").await.reason(), "claim_mismatch");
}

#[tokio::test]
async fn open_streams_are_asked_about_again_under_new_rules() {
    let reply = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n";
    let origin = Origin::start(Reply::text(reply)).await;
    let world = World::with_origin(OPEN, &[], &origin.url()).await;
    let viewer = OpenStream::open(world.address(), "/events", &world.persona("VIEWER").jwt, true).await;
    let mut admin = OpenStream::open(world.address(), "/events", &world.persona("ADMIN").jwt, true).await;
    replace(&world, &asking("{ role: stytch_admin }")).await.unwrap();
    assert_eq!(viewer.end().await.0, End::Whole(None));
    assert!(admin.stays_open(Duration::from_millis(300)).await);
    let closed = world.metric("portcullis_streams_closed_total{reason=\"role_missing\"}").await;
    assert_eq!(closed, Some(1.0));
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_by_name_and_changes_nothing() {
    let world = World::with(OPEN, &[]).await;
    let other = config_for(
        OPEN,
        &world.emulator,
        "http://127.0.0.1:1",
        &[
            ("stytch.project_id", "project-test-2"),
            ("ops.address", "127.0.0.1:9"),
            ("sessions.deadline", "3s"),
        ],
    );
    let refused = world.gateway.reload(&other).unwrap_err().to_string();
    for name in ["`stytch.project_id`", "`ops.address`", "sessions.deadline"] {
        assert!(refused.contains(name), "{name}: {refused}");
    }
    assert_eq!(world.send(crate::support::Ask::get("/")).await.reason(), "credential_missing");
}
