//! Replicas that share a Redis: lookups, revocations, and what is not believed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Ask, KEY, REPLICAS, Redis, Replicas, ask, metric, upstream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_make_about_as_many_calls_as_one() {
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[]).await;
    for _ in 0..5 {
        for replica in 0..3 {
            assert_eq!(replicas.get(replica, "VIEWER").await.status, 200);
            let opaque = Ask::get("/").cookie("stytch_session", &replicas.world.persona("ADMIN").token);
            let address = replicas.gateways().nth(replica).unwrap().traffic()[0].0;
            assert_eq!(ask(address, opaque).await.status, 200);
        }
    }
    assert_eq!(replicas.world.calls("list").await, 2);
    assert_eq!(replicas.world.calls("authenticate").await, 1);
    // A cold rush on all of them at once: the lease makes one ask.
    replicas.world.fault(json!({ "operation": "list", "latency_ms": 150 })).await;
    let rush = (0..60).map(|n| replicas.get(n % 3, "OTHER_ORG"));
    let answers = futures_util::future::join_all(rush).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(replicas.world.calls("list").await, 3);
    // Nothing in Redis can be read without the key.
    let keys = redis.command(&["--scan"]);
    assert!(keys.lines().count() >= 3, "{keys}");
    for key in keys.lines().filter(|key| key.ends_with(":list") || key.ends_with(":owner")) {
        let value = redis.command(&["get", key]);
        assert!(!key.contains("member") && !value.contains("example.com") && !value.contains("session-"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_revokes_the_others_refuse() {
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[]).await;
    for replica in 0..3 {
        assert_eq!(replicas.get(replica, "VIEWER").await.status, 200);
    }
    let began = Instant::now();
    let done = replicas.world.admin(upstream(&replicas.world.persona("VIEWER").session_id)).await;
    assert_eq!(done.status, 200);
    assert_eq!(replicas.get(0, "VIEWER").await.reason(), "session_not_found", "at once where it was told");
    for replica in 1..3 {
        let took = replicas.refused_after(replica, "VIEWER", began).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    // A replica that starts later reads what the others were told, and does not believe the older record.
    let own = redis.overrides();
    let all: Vec<(&str, &str)> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let late = replicas.world.replica(REPLICAS, &all).await;
    let jwt = &replicas.world.persona("VIEWER").jwt;
    assert_eq!(ask(late.traffic()[0].0, Ask::get("/").bearer(jwt)).await.reason(), "session_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lies_is_not_believed() {
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[]).await;
    assert_eq!(replicas.get(0, "VIEWER").await.status, 200);
    assert_eq!(replicas.get(0, "ADMIN").await.status, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let lists: Vec<String> =
        redis.command(&["--scan"]).lines().filter(|key| key.ends_with(":list")).map(str::to_owned).collect();
    assert_eq!(lists.len(), 2);
    // One member's record under the other's name, and junk.
    redis.command(&["copy", &lists[0], &lists[1], "replace"]);
    let calls = replicas.world.calls("list").await;
    for name in ["VIEWER", "ADMIN"] {
        let answer = replicas.get(1, name).await;
        assert_eq!(
            answer.seen("x-auth-session-id").as_deref(),
            Some(replicas.world.persona(name).session_id.as_str())
        );
    }
    assert_eq!(replicas.world.calls("list").await, calls + 1);
    assert_eq!(
        metric(replicas.others[0].ops(), "portcullis_session_lookups_total{result=\"forged\"").await,
        1.0
    );
    let token = |name: &str| Ask::get("/").cookie("stytch_session", &replicas.world.persona(name).token);
    let address = |replica: usize| replicas.gateways().nth(replica).unwrap().traffic()[0].0;
    for name in ["VIEWER", "ADMIN"] {
        assert_eq!(ask(address(0), token(name)).await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let scan = redis.command(&["--scan"]);
    let owners: Vec<&str> = scan.lines().filter(|key| key.ends_with(":owner")).collect();
    redis.command(&["copy", owners[0], owners[1], "replace"]);
    for name in ["VIEWER", "ADMIN"] {
        let answer = ask(address(1), token(name)).await;
        let own = &replicas.world.persona(name).session_id;
        assert_eq!(
            answer.seen("x-auth-session-id").as_ref(),
            Some(own),
            "whoever sent {name}'s token is {name}"
        );
    }
    redis.command(&["set", &lists[0], "junk"]);
    redis.command(&["set", &lists[1], "junk"]);
    for name in ["VIEWER", "ADMIN"] {
        assert_eq!(replicas.get(2, name).await.status, 200);
    }
}

/// A revoked session's record that is put back, or was written late, is not believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_from_before_a_revocation_is_not_believed_when_it_comes_back() {
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[]).await;
    assert_eq!(replicas.get(0, "VIEWER").await.status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let keys = redis.command(&["--scan"]);
    let list = keys.lines().find(|key| key.ends_with(":list")).unwrap();
    redis.command(&["copy", list, "kept"]);
    let began = Instant::now();
    assert_eq!(
        replicas.world.admin(upstream(&replicas.world.persona("VIEWER").session_id)).await.status,
        200
    );
    replicas.refused_after(1, "VIEWER", began).await;
    while began.elapsed() < Duration::from_millis(1_800) {
        redis.command(&["copy", "kept", list, "replace"]);
        for replica in 0..3 {
            assert_eq!(
                replicas.get(replica, "VIEWER").await.reason(),
                "session_not_found",
                "replica {replica}"
            );
        }
    }
}

/// While a key is changed for another in one go, half the replicas cannot read the other half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_keys_loses_no_revocation() {
    const NEW: &str = "another key that only these tests have 0123456789";
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[("sessions.fresh_for", "60s")]).await;
    let own = redis.overrides();
    let mut all: Vec<(&str, &str)> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    all.extend([
        ("sessions.fresh_for", "60s"),
        ("sessions.shared.key.value", NEW),
        ("sessions.shared.previous_key.value", KEY),
    ]);
    let rolled = replicas.world.replica(REPLICAS, &all).await;
    while metric(rolled.ops(), "portcullis_revocation_bus_connected").await != 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for replica in 0..3 {
        assert_eq!(replicas.get(replica, "VIEWER").await.status, 200);
    }
    let calls = replicas.world.calls("list").await;
    let jwt = &replicas.jwts["VIEWER"];
    assert_eq!(ask(rolled.traffic()[0].0, Ask::get("/").bearer(jwt)).await.status, 200);
    assert_eq!(
        replicas.world.calls("list").await,
        calls,
        "what was sealed under the key of before still opens"
    );
    // A sign-out on the one that was rolled: the others cannot read of it, and look again.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let began = Instant::now();
    let out = Ask::new("POST", "/.portcullis/sign-out").bearer(jwt);
    assert_eq!(ask(rolled.traffic()[0].0, out).await.status, 200);
    for replica in 0..3 {
        let took = replicas.refused_after(replica, "VIEWER", began).await;
        assert!(took < Duration::from_secs(5), "{took:?} while lists are fresh for a minute");
    }
}
