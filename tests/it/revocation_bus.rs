//! The revocation bus is connected only while what a replica announces comes back to it: every Redis that answers and does
//! not carry a revocation is told apart from one that does.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::app::Gateway;

use crate::support::{Ask, REPLICAS, Redis, Replicas, Running, World, ask, free_port, metric, upstream};

const CONNECTED: &str = "portcullis_revocation_bus_connected";
const AGE: &str = "portcullis_revocation_bus_age_seconds";

/// A gateway that shares the Redis at `address`.
async fn gateway(world: &World, redis: &Redis, more: &[(&str, &str)]) -> Gateway {
    let own = redis.overrides();
    let mut all: Vec<(&str, &str)> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    all.extend_from_slice(more);
    world.replica(REPLICAS, &all).await
}

/// Waits until the bus is told to be lost for a cause that holds `cause`, in every place that tells of it.
async fn is_lost(gateway: &Gateway, cause: &str) {
    let began = Instant::now();
    loop {
        let ready = ask(gateway.ops(), Ask::get("/readyz")).await;
        assert_eq!(ready.status, 200, "a bus that is lost empties no service");
        if ready.text().contains("note the revocation bus") && ready.text().contains(cause) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{cause}: {}", ready.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(metric(gateway.ops(), CONNECTED).await, 0.0);
    assert!(metric(gateway.ops(), AGE).await > 3.5);
    let status = ask(gateway.admin().unwrap(), Ask::get("/admin/status")).await.json();
    assert_eq!(status["verdict"], "degraded", "{status}");
    let told = status["findings"].as_array().unwrap().iter().any(|finding| {
        let what = finding["what"].as_str().unwrap();
        what.contains("revocation bus") && what.contains(cause) && finding["since"].is_string()
    });
    assert!(told, "{status}");
    let page = ask(gateway.admin().unwrap(), Ask::get("/").header("accept", "text/html")).await.text();
    assert!(page.contains("revocation bus") && page.contains("since"), "{page}");
}

async fn is_connected(gateway: &Gateway) {
    let began = Instant::now();
    while metric(gateway.ops(), CONNECTED).await != 1.0 {
        assert!(began.elapsed() < Duration::from_secs(20), "the bus did not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(metric(gateway.ops(), AGE).await <= 3.5);
}

/// After a failover the old primary is a replica at the address that is configured: it answers, and takes no writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_a_replica_is_told_of_and_what_was_revoked_meanwhile_follows() {
    let (Some(redis), Some(primary)) = (Redis::start(), Redis::start()) else { return };
    let replicas = Replicas::start(&redis, &[]).await;
    assert_eq!(replicas.get(1, "VIEWER").await.status, 200);
    redis.command(&["replicaof", "127.0.0.1", &primary.port.to_string()]);
    for gateway in replicas.gateways() {
        is_lost(gateway, "it is a replica").await;
    }
    let session = &replicas.world.persona("VIEWER").session_id;
    assert_eq!(replicas.world.admin(upstream(session)).await.status, 200);
    redis.command(&["replicaof", "no", "one"]);
    for gateway in replicas.gateways() {
        is_connected(gateway).await;
        assert!(!ask(gateway.ops(), Ask::get("/readyz")).await.text().contains("revocation bus"));
    }
    // The other replica hears of it now, whatever it knew.
    replicas.refused_after(1, "VIEWER", Instant::now()).await;
    let heard = metric(replicas.others[0].ops(), "portcullis_revocations_total{source=\"bus\"}").await;
    assert!(heard >= 1.0, "{heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_a_read_only_replica_from_the_start_is_told_of() {
    let Some(primary) = Redis::start() else { return };
    let port = primary.port.to_string();
    let Some(redis) = Redis::start_with(&["--replicaof", "127.0.0.1", &port]) else { return };
    let world = World::start().await;
    is_lost(&gateway(&world, &redis, &[]).await, "it is a replica").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_run_the_script_is_told_of() {
    let Some(redis) = Redis::start() else { return };
    redis.command(&["acl", "setuser", "p", "on", ">a-password", "~*", "&*", "+@all", "-evalsha", "-eval"]);
    let world = World::start().await;
    let user = [("sessions.shared.username", "p"), ("sessions.shared.password.value", "a-password")];
    let gateway = gateway(&world, &redis, &user).await;
    is_lost(&gateway, "may not do it").await;
    redis.command(&["acl", "setuser", "p", "+evalsha"]);
    is_connected(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_that_answers_moved_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (one, two) = (file("one.conf"), file("two.conf"));
    let node = |file: &str| Redis::start_with(&["--cluster-enabled", "yes", "--cluster-config-file", file]);
    let (Some(asked), Some(other)) = (node(&one), node(&two)) else { return };
    // Every slot is the other node's, so that this one answers MOVED.
    assert_eq!(other.command(&["cluster", "addslotsrange", "0", "16383"]).trim(), "OK");
    asked.command(&["cluster", "meet", "127.0.0.1", &other.port.to_string()]);
    crate::support::eventually(|| asked.command(&["get", "x"]).contains("MOVED").then_some(())).await;
    let world = World::start().await;
    is_lost(&gateway(&world, &asked, &[]).await, "a node of a cluster").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_of_a_sentinel_is_told_of() {
    let Some(primary) = Redis::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (file, port) = (folder.path().join("sentinel.conf"), free_port());
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n",
        folder.path().display(),
        primary.port
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
    let _sentinel = Running(command.spawn().unwrap());
    crate::support::eventually(|| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
    let world = World::start().await;
    let address = format!("redis://127.0.0.1:{port}");
    let gateway = gateway(&world, &primary, &[("sessions.shared.redis", &address)]).await;
    is_lost(&gateway, "sentinel").await;
}

/// Anybody who reaches Redis can publish: garbage is neither believed nor logged line by line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_bus_does_not_end_it() {
    let Some(redis) = Redis::start() else { return };
    let replicas = Replicas::start(&redis, &[]).await;
    let channel = redis.command(&["pubsub", "channels"]);
    let channel = channel.lines().find(|name| name.ends_with(":bus")).unwrap().to_owned();
    let script = "for i = 1, 20000 do redis.call('PUBLISH', KEYS[1], 'garbage') end return 1";
    assert!(redis.command(&["eval", script, "1", &channel]).contains('1'));
    let session = &replicas.world.persona("VIEWER").session_id;
    assert_eq!(replicas.world.admin(upstream(session)).await.status, 200);
    replicas.refused_after(2, "VIEWER", Instant::now()).await;
    for gateway in replicas.gateways() {
        is_connected(gateway).await;
    }
}
