//! What happens when Redis has a bad day, is hard to reach, or is all there is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Ask, REPLICAS, Redis, Replicas, World, ask, free_port, metric, try_ask, upstream};

/// Must show 5: requests go on through every bad day of Redis, and revocations keep their bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_whatever_happens_to_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let replicas = std::sync::Arc::new(Replicas::start(&redis, &[]).await);
    let world = &replicas.world;
    let mut seeds = Vec::new();
    for _ in 0..8 {
        seeds.push(world.new_session().await);
    }
    let addresses: Vec<SocketAddr> = replicas.gateways().map(|gateway| gateway.traffic()[0].0).collect();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let (stop, jwt, addresses) =
            (std::sync::Arc::clone(&stop), world.persona("ADMIN").jwt.clone(), addresses.clone());
        tokio::spawn(async move {
            let (mut sent, mut slowest) = (0_u32, Duration::ZERO);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for address in &addresses {
                    let began = Instant::now();
                    let answer = ask(*address, Ask::get("/").bearer(&jwt)).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    (sent, slowest) = (sent + 1, slowest.max(began.elapsed()));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (sent, slowest)
        })
    };
    let mut seeds = seeds.into_iter();
    let mut revoke = async |what: &str, bound: Duration| {
        let (session_id, jwt) = seeds.next().unwrap();
        for address in &addresses {
            assert_eq!(ask(*address, Ask::get("/").bearer(&jwt)).await.status, 200, "{what}");
        }
        let began = Instant::now();
        assert_eq!(replicas.world.admin(upstream(&session_id)).await.status, 200);
        let here = ask(addresses[0], Ask::get("/").bearer(&jwt)).await;
        assert_eq!(here.reason(), "session_not_found", "{what}: at once where it was told");
        for address in &addresses[1..] {
            let allowed = async || {
                let answer = try_ask(*address, Ask::get("/").bearer(&jwt)).await;
                answer.is_none_or(|answer| answer.status == 200)
            };
            while allowed().await {
                assert!(began.elapsed() < bound, "{what}: still allowed after {:?}", began.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        println!("{what}: refused on every replica after {:?}", began.elapsed());
    };
    // `max_staleness` is 3 s; a little is for the machine.
    let (bus, age) = (Duration::from_secs(1), Duration::from_millis(3_500));
    revoke("redis up", bus).await;
    redis.kill();
    revoke("redis killed", age).await;
    redis.restart();
    replicas.hear_each_other().await;
    // The breaker of the one that announces may be open for a moment longer.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    revoke("redis restarted empty", bus).await;
    redis.pause();
    revoke("redis paused", age).await;
    redis.resume();
    tokio::time::sleep(Duration::from_secs(3)).await;
    replicas.hear_each_other().await;
    revoke("redis resumed", bus).await;
    redis.command(&["flushall"]);
    revoke("redis flushed", bus).await;
    redis.command(&["config", "set", "maxmemory", "1"]);
    revoke("redis full", age).await;
    redis.command(&["config", "set", "maxmemory", "0"]);
    // Slower than the time allowed: every exchange blocks the server for 100 ms.
    let failed = async |replicas: &Replicas| {
        let name = "portcullis_session_lookups_total{result=\"error\",tier=\"shared\"}";
        metric(replicas.world.gateway.ops(), name).await
    };
    let before = failed(&replicas).await;
    let slow = redis.slow_down();
    tokio::time::sleep(Duration::from_millis(100)).await;
    revoke("redis slow", age).await;
    for _ in 0..8 {
        let jwt = world.new_session().await.1;
        assert_eq!(ask(addresses[0], Ask::get("/").bearer(&jwt)).await.status, 200);
    }
    assert!(failed(&replicas).await > before, "it was not slow");
    drop(slow);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (sent, slowest) = load.await.unwrap();
    println!("{sent} requests meanwhile, none refused, the slowest after {slowest:?}");
}

/// A user who is not there yet, or a server that takes no more clients, is no lasting trouble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refused_the_user_for_a_while_is_used_again() {
    let Some(redis) = Redis::start() else { return };
    let world = World::start().await;
    let (own, user) = (
        redis.overrides(),
        [("sessions.shared.username", "late"), ("sessions.shared.password.value", "a-password")],
    );
    let all: Vec<(&str, &str)> =
        own.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(user).collect();
    let gateway = world.replica(REPLICAS, &all).await;
    let address = gateway.traffic()[0].0;
    for _ in 0..10 {
        let jwt = &world.persona("VIEWER").jwt;
        assert_eq!(ask(address, Ask::get("/").bearer(jwt)).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(metric(gateway.ops(), "portcullis_revocation_bus_connected").await, 0.0);
    redis.command(&["acl", "setuser", "late", "on", ">a-password", "~*", "&*", "+@all"]);
    let used = async {
        loop {
            let connected = metric(gateway.ops(), "portcullis_revocation_bus_connected").await == 1.0;
            let jwt = world.new_session().await.1;
            assert_eq!(ask(address, Ask::get("/").bearer(&jwt)).await.status, 200);
            if connected && redis.command(&["--scan"]).lines().any(|key| key.ends_with(":list")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), used).await.expect("redis is never used again");
}

/// With `outage`, a replica that starts while the API is away serves by keys and lists that others left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_replica_serves_during_an_outage_by_what_is_shared() {
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[("sessions.jwt_evidence", "outage")]).await;
    assert_eq!(replicas.get(0, "VIEWER").await.status, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    replicas.world.fault(json!({ "reset": true })).await;
    let own = redis.overrides();
    let mut all: Vec<(&str, &str)> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    all.push(("sessions.jwt_evidence", "outage"));
    let cold = replicas.world.replica(REPLICAS, &all).await;
    let get = async |name: &str| {
        let jwt = &replicas.world.persona(name).jwt;
        ask(cold.traffic()[0].0, Ask::get("/").bearer(jwt)).await
    };
    assert_eq!(get("VIEWER").await.status, 200, "by the list that another left");
    assert_eq!(get("ADMIN").await.status, 200, "by its own claims");
    assert_eq!(metric(cold.ops(), "portcullis_session_lookups_total{result=\"jwt_evidence\"").await, 1.0);
}

/// As `docs/revocation.md` tells operators to set it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_under_tls_is_used_by_a_user_who_may_do_no_more_than_the_page_says() {
    let page = std::fs::read_to_string("docs/revocation.md").unwrap();
    let rules = page.lines().find_map(|line| line.strip_prefix("user portcullis ")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file("redis.crt", certified.cert.pem());
    let key = file("redis.key", certified.signing_key.serialize_pem());
    let port = free_port().to_string();
    let tls = ["--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let options = [&tls[..], &["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"]].concat();
    let Some(redis) = Redis::start_with(&options) else { return };
    let rules = rules.replace(">PASSWORD", ">a-password");
    let words: Vec<&str> = ["acl", "setuser", "portcullis"].into_iter().chain(rules.split(' ')).collect();
    assert_eq!(redis.command(&words).trim(), "OK");
    redis.command(&["acl", "setuser", "default", "resetpass", "off"]);

    let address = format!("rediss://localhost:{port}");
    let more = [
        ("sessions.shared.redis", address.as_str()),
        ("sessions.shared.ca_file", &certificate),
        ("sessions.shared.username", "portcullis"),
        ("sessions.shared.password.value", "a-password"),
        // A handshake may take longer than an exchange usually does.
        ("sessions.shared.timeout", "1s"),
    ];
    let replicas = Replicas::start(&redis, &more).await;
    for replica in 0..3 {
        assert_eq!(replicas.get(replica, "VIEWER").await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(replicas.world.calls("list").await, 1, "the others read what the first one left");
    let began = Instant::now();
    assert_eq!(
        replicas.world.admin(upstream(&replicas.world.persona("VIEWER").session_id)).await.status,
        200
    );
    let took = replicas.refused_after(2, "VIEWER", began).await;
    assert!(took < Duration::from_secs(10), "heard of, and not found out by age: {took:?}");
    // What was announced is in the log for whoever comes later.
    let own = redis.overrides();
    let all: Vec<(&str, &str)> =
        own.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(more).collect();
    let late = replicas.world.replica(REPLICAS, &all).await;
    let heard = async {
        while metric(late.ops(), "portcullis_revocations_total{source=\"bus\"}").await != 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the log was not read");
}
