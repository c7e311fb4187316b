//! The directory's bad days: each has its own reason, a bound, and an end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Ask, World};

/// Must show 4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_cold_requests_make_one_call() {
    let world = World::start().await;
    world.fault(json!({ "operation": "list", "latency_ms": 500 })).await;
    let jwt = world.persona("VIEWER").jwt.clone();
    let address = world.address();
    let asks: Vec<_> = (0..1_000)
        .map(|_| {
            let jwt = jwt.clone();
            tokio::spawn(async move { crate::support::ask(address, Ask::get("/").bearer(&jwt)).await.status })
        })
        .collect();
    let mut answered = 0;
    for ask in asks {
        answered += usize::from(ask.await.unwrap() == 200);
    }
    assert_eq!((answered, world.calls("list").await), (1_000, 1));
}

/// Must show 4: those who leave take nobody along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_do_not_take_the_lookup_along() {
    let world = World::start().await;
    world.fault(json!({ "operation": "list", "latency_ms": 800 })).await;
    let jwt = world.persona("VIEWER").jwt.clone();
    let address = world.address();
    let ask = || {
        let jwt = jwt.clone();
        tokio::spawn(async move { crate::support::ask(address, Ask::get("/").bearer(&jwt)).await.status })
    };
    let leavers: Vec<_> = (0..100).map(|_| ask()).collect();
    while world.calls("list").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stayers: Vec<_> = (0..900).map(|_| ask()).collect();
    for leaver in &leavers {
        leaver.abort();
    }
    let mut answered = 0;
    for stayer in stayers {
        answered += usize::from(stayer.await.unwrap() == 200);
    }
    assert_eq!((answered, world.calls("list").await), (900, 1));
}

fn faults(world: &World) -> Vec<(&'static str, Value)> {
    let other = world.persona("OTHER_ORG");
    let other = json!({ "organization_id": other.organization_id, "member_id": other.member_id });
    vec![
        ("directory_refused", json!({ "operation": "list", "status": 401 })),
        ("directory_rate_limited", json!({ "operation": "list", "status": 429, "retry_after": "7" })),
        ("directory_failed", json!({ "operation": "list", "status": 500 })),
        (
            "directory_failed",
            json!({ "operation": "list", "status": 502, "body": "<html>bad gateway</html>" }),
        ),
        ("directory_unreachable", json!({ "operation": "list", "reset": true })),
        ("directory_timeout", json!({ "operation": "list", "hang": true })),
        ("directory_malformed", json!({ "operation": "list", "truncate": 100 })),
        ("directory_malformed", json!({ "operation": "list", "body": "{\"member_sessions\":null}" })),
        ("directory_oversized", json!({ "operation": "list", "oversized": 50_000_000 })),
        ("directory_mismatched", json!({ "operation": "list", "answer_for": other })),
        // What an edge in front of the API answers has not the API's shape.
        ("directory_malformed", json!({ "operation": "list", "status": 404, "body": "not found" })),
        ("directory_malformed", json!({ "operation": "list", "status": 302 })),
        ("directory_malformed", json!({ "operation": "list", "status": 400, "body": "<html>no</html>" })),
        ("directory_malformed", json!({ "operation": "list", "status": 403, "body": "<html>no</html>" })),
        ("directory_malformed", json!({ "operation": "list", "status": 408, "body": "" })),
        ("directory_malformed", json!({ "operation": "list", "status": 418, "body": "teapot" })),
        ("directory_malformed", json!({ "operation": "list", "status": 451, "body": "[]" })),
        ("directory_malformed", json!({ "operation": "list", "status": 200, "body": "<html>hello</html>" })),
        ("directory_refused", json!({ "operation": "list", "status": 403, "error_type": "forbidden" })),
    ]
}

/// A gateway of its own for every fault, all at once: what one leaves behind must not colour the next.
async fn with_every_fault(yaml: &str, check: impl AsyncFn(World, &str, Value)) {
    let reasons = faults(&World::start().await).into_iter();
    let checks = reasons.map(|(reason, _)| reason).enumerate().map(|(index, reason)| {
        let check = &check;
        async move {
            let world = World::with(yaml, &[]).await;
            let (_, fault) = faults(&world).swap_remove(index);
            check(world, reason, fault).await;
        }
    });
    futures_util::future::join_all(checks).await;
}

/// A member nobody knows yet, with a session: their id and JWT.
async fn newcomer(world: &World) -> (String, String) {
    let member = world.control("POST", "members", json!({ "organization": "acme" })).await;
    let made = world.control("POST", "sessions", json!({ "member": member["member_id"] })).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&member["member_id"]), text(&made["session_jwt"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_refuses_a_cold_member_with_its_own_reason_and_passes() {
    with_every_fault(crate::support::USUAL, async |world, reason, fault| {
        let (_, jwt) = newcomer(&world).await;
        world.fault(fault.clone()).await;
        let began = Instant::now();
        let refused = world.send(Ask::get("/").bearer(&jwt)).await;
        assert_eq!((refused.status, refused.reason().as_str()), (503, reason), "{fault}");
        assert!(began.elapsed() < Duration::from_secs(4), "{fault} took {:?}", began.elapsed());
        let retry: u64 = refused.header("retry-after").parse().unwrap();
        assert_eq!(retry, if fault["retry_after"].is_string() { 7 } else { 1 }, "{fault}");
        world.heal().await;
        // A failed lookup answers for its member a moment longer.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = world.send(Ask::get("/").bearer(&jwt)).await;
        if reason == "directory_rate_limited" {
            // Told to come back in seven seconds: nobody is asked before.
            assert_eq!(after.reason(), "directory_circuit_open");
            assert_eq!(world.calls("list").await, 1);
        } else {
            assert_eq!(after.status, 200, "{fault} did not pass");
        }
    })
    .await;
}

/// A warm member is served within the bound, never from somebody else's list, and then refused. A call that is
/// refused is no outage: there is no bridge for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_member_is_served_within_its_bound_and_then_refused() {
    const YAML: &str = r#"
sessions: { fresh_for: 100ms, stale_while_revalidate: 100ms, stale_if_error: 3s, deadline: 300ms }
routes:
  - { name: everything, match: { path: /** }, require: authenticated }
"#;
    with_every_fault(YAML, async |world, reason, fault| {
        let (member, jwt) = newcomer(&world).await;
        assert_eq!(world.send(Ask::get("/").bearer(&jwt)).await.status, 200);
        let warmed = Instant::now();
        world.fault(fault.clone()).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        let bridged = world.send(Ask::get("/").bearer(&jwt)).await;
        assert!(warmed.elapsed() < Duration::from_secs(3), "the machine was too slow for this test");
        if matches!(reason, "directory_refused" | "directory_oversized") {
            assert_eq!((bridged.status, bridged.reason().as_str()), (503, reason), "{fault}");
        } else {
            assert_eq!(bridged.seen("x-auth-member-id"), Some(member), "{fault}");
            let line = world.lines.find(&["\"decision\"", "\"evidence\":\"stale_error\""]).await;
            assert!(line["evidence_age_ms"].as_f64().unwrap() >= 200.0);
        }
        tokio::time::sleep(Duration::from_millis(3_300).saturating_sub(warmed.elapsed())).await;
        let refused = world.send(Ask::get("/").bearer(&jwt)).await;
        let held_off = reason == "directory_rate_limited";
        let reason = if held_off { "directory_circuit_open" } else { reason };
        assert_eq!((refused.status, refused.reason().as_str()), (503, reason), "{fault}");
        world.heal().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = world.send(Ask::get("/").bearer(&jwt)).await;
        assert_eq!(after.status, if held_off { 503 } else { 200 }, "{fault}");
    })
    .await;
}

#[tokio::test]
async fn our_own_wrong_credentials_are_believed_once_confirmed_and_recover() {
    let world = World::start().await;
    world.fault(json!({ "status": 401 })).await;
    let refused = world.get("/", "VIEWER").await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "directory_credentials_rejected"));
    assert_eq!(world.metric("portcullis_directory_credentials_rejected").await, Some(1.0));
    // While it is believed, nobody is asked in vain.
    let calls = world.calls("list").await;
    assert_eq!(world.get("/", "ADMIN").await.reason(), "directory_credentials_rejected");
    assert_eq!(world.calls("list").await, calls);
    world.heal().await;
    let began = Instant::now();
    while world.get("/", "VIEWER").await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "it did not recover");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(world.metric("portcullis_directory_credentials_rejected").await, Some(0.0));
}

#[tokio::test]
async fn an_unknown_member_is_the_callers_matter_and_asked_about_once_in_a_while() {
    let world = World::start().await;
    let member = &world.persona("OTHER_ORG").member_id;
    world.control("DELETE", &format!("members/{member}"), json!({})).await;
    for _ in 0..3 {
        let refused = world.get("/", "OTHER_ORG").await;
        assert_eq!((refused.status, refused.reason().as_str()), (401, "member_not_found"));
    }
    assert!(world.calls("list").await <= 3);
}

#[tokio::test]
async fn a_token_nobody_knows_is_invalid_and_a_failing_api_is_not_its_fault() {
    let world = World::start().await;
    let unknown = || Ask::get("/").cookie("stytch_session", "no-such-token");
    for _ in 0..3 {
        assert_eq!(world.send(unknown()).await.reason(), "credential_invalid");
    }
    assert_eq!(world.calls("authenticate").await, 1);
    world.fault(json!({ "operation": "authenticate", "status": 500 })).await;
    let other = Ask::get("/").cookie("stytch_session", "another-token");
    let refused = world.send(other).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "directory_failed"));
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_our_trouble() {
    let world = World::start().await;
    world.control("POST", "keys/rotate", json!({})).await;
    let id = &world.persona("VIEWER").session_id;
    let minted = world.control("POST", &format!("sessions/{id}/jwt"), json!({})).await;
    let fresh = minted["session_jwt"].as_str().unwrap();
    world.fault(json!({ "operation": "keys", "status": 500 })).await;
    let refused = world.send(Ask::get("/").bearer(fresh)).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "keys_unavailable"));
    // The last good set is kept.
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    world.heal().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.send(Ask::get("/").bearer(fresh)).await.status, 200);
}

#[tokio::test]
async fn lookups_past_their_bound_are_refused_at_once() {
    let yaml = "sessions: { deadline: 2s, max_in_flight: 1, max_waiting: 1 }\nroutes:\n  - { name: everything, match: { path: /** }, require: authenticated }\n";
    let world = World::with(yaml, &[]).await;
    world.fault(json!({ "operation": "list", "hang": true })).await;
    let address = world.address();
    let ask = |name: &str| {
        let jwt = world.persona(name).jwt.clone();
        tokio::spawn(async move { crate::support::ask(address, Ask::get("/").bearer(&jwt)).await })
    };
    let first = ask("VIEWER");
    let second = ask("ADMIN");
    while world.calls("list").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    assert_eq!(world.get("/", "OTHER_ORG").await.reason(), "directory_busy");
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(first.await.unwrap().reason(), "directory_timeout");
    assert_eq!(second.await.unwrap().status, 503);
}
