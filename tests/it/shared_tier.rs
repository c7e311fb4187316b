//! Replicas that share a Redis: lookups and revocations, and what happens when Redis has a bad day.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis::app::Gateway;
use serde_json::{Value, json};

use crate::support::{Answer, Ask, Redis, World, ask, free_port};

const YAML: &str = r#"
admin: { address: "127.0.0.1:0", token: { value: a-token-of-some-length } }
sessions: { fresh_for: 2s, stale_while_revalidate: 1s, stale_if_error: 2s, deadline: 1s, shared: { redis: "redis://127.0.0.1:1" } }
routes:
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

/// Three gateways on one stand-in and one Redis.
struct Replicas {
    world: World,
    others: Vec<Gateway>,
    jwts: HashMap<&'static str, String>,
}

impl Replicas {
    async fn start(redis: &Redis, more: &[(&str, &str)]) -> Self {
        let own = redis.overrides();
        let mut all: Vec<(&str, &str)> =
            own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        all.extend_from_slice(more);
        let world = World::with(YAML, &all).await;
        let mut others = Vec::new();
        for _ in 0..2 {
            others.push(world.replica(YAML, &all).await);
        }
        let mut jwts = HashMap::new();
        for name in ["VIEWER", "ADMIN", "OTHER_ORG"] {
            jwts.insert(name, world.aged_jwt(&world.persona(name).session_id).await);
        }
        let replicas = Self { world, others, jwts };
        replicas.hear_each_other().await;
        replicas
    }

    async fn hear_each_other(&self) {
        let began = Instant::now();
        for gateway in self.gateways() {
            while metric(gateway.ops(), "portcullis_revocation_bus_connected").await != 1.0 {
                assert!(began.elapsed() < Duration::from_secs(20), "the bus did not come up");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        std::iter::once(&self.world.gateway).chain(&self.others)
    }

    async fn get(&self, replica: usize, persona: &str) -> Answer {
        let address = self.gateways().nth(replica).unwrap().traffic()[0].0;
        ask(address, Ask::get("/").bearer(&self.jwts[persona])).await
    }

    /// Until a replica refuses, asking all the time.
    async fn refused_after(&self, replica: usize, persona: &str, began: Instant) -> Duration {
        loop {
            let answer = self.get(replica, persona).await;
            if answer.status != 200 {
                assert_eq!(answer.reason(), "session_not_found");
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "it is never refused");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn metric(ops: SocketAddr, name: &str) -> f64 {
    let text = ask(ops, Ask::get("/metrics")).await.text();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

fn upstream(session_id: &str) -> Value {
    json!({ "member_session_id": session_id, "upstream": true })
}

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
    let late = replicas.world.replica(YAML, &all).await;
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
    redis.command(&["set", &lists[0], "junk"]);
    redis.command(&["set", &lists[1], "junk"]);
    for name in ["VIEWER", "ADMIN"] {
        assert_eq!(replicas.get(2, name).await.status, 200);
    }
}

/// Must show 5: requests go on through every bad day of Redis, and revocations keep their bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_whatever_happens_to_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let replicas = std::sync::Arc::new(Replicas::start(&redis, &[]).await);
    let world = &replicas.world;
    let mut seeds = Vec::new();
    for _ in 0..8 {
        let member = world.control("POST", "members", json!({ "organization": "acme" })).await;
        let made = world.control("POST", "sessions", json!({ "member": member["member_id"] })).await;
        let id = made["member_session"]["member_session_id"].as_str().unwrap().to_owned();
        let jwt = world.aged_jwt(&id).await;
        seeds.push((id, jwt));
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
            while ask(*address, Ask::get("/").bearer(&jwt)).await.status == 200 {
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
    let slow = redis.slow_down();
    revoke("redis slow", age).await;
    drop(slow);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (sent, slowest) = load.await.unwrap();
    println!("{sent} requests meanwhile, none refused, the slowest after {slowest:?}");
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
    let cold = replicas.world.replica(YAML, &all).await;
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
    assert!(took < Duration::from_secs(1), "{took:?}");
    // What was announced is in the log for whoever comes later.
    let own = redis.overrides();
    let all: Vec<(&str, &str)> =
        own.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(more).collect();
    let late = replicas.world.replica(YAML, &all).await;
    let heard = async {
        while metric(late.ops(), "portcullis_revocations_total{source=\"bus\"}").await != 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the log was not read");
}
