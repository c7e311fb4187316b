//! Three gateways on one stand-in and one Redis.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis::app::Gateway;
use serde_json::{Value, json};

use super::{Answer, Ask, Redis, World, ask, try_ask};

pub(crate) const YAML: &str = r#"
admin: { address: "127.0.0.1:0", token: { value: a-token-of-some-length } }
sessions: { fresh_for: 2s, stale_while_revalidate: 1s, stale_if_error: 2s, deadline: 1s, shared: { redis: "redis://127.0.0.1:1" } }
routes:
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

/// Three gateways on one stand-in and one Redis.
pub(crate) struct Replicas {
    pub(crate) world: World,
    pub(crate) others: Vec<Gateway>,
    pub(crate) jwts: HashMap<&'static str, String>,
}

impl Replicas {
    pub(crate) async fn start(redis: &Redis, more: &[(&str, &str)]) -> Self {
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

    pub(crate) async fn hear_each_other(&self) {
        let began = Instant::now();
        for gateway in self.gateways() {
            while metric(gateway.ops(), "portcullis_revocation_bus_connected").await != 1.0 {
                assert!(began.elapsed() < Duration::from_secs(20), "the bus did not come up");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub(crate) fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        std::iter::once(&self.world.gateway).chain(&self.others)
    }

    pub(crate) async fn get(&self, replica: usize, persona: &str) -> Answer {
        let address = self.gateways().nth(replica).unwrap().traffic()[0].0;
        ask(address, Ask::get("/").bearer(&self.jwts[persona])).await
    }

    /// Until a replica refuses, asking all the time.
    pub(crate) async fn refused_after(&self, replica: usize, persona: &str, began: Instant) -> Duration {
        loop {
            let address = self.gateways().nth(replica).unwrap().traffic()[0].0;
            let answer = try_ask(address, Ask::get("/").bearer(&self.jwts[persona])).await;
            if let Some(answer) = answer.filter(|answer| answer.status != 200) {
                assert_eq!(answer.reason(), "session_not_found");
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "it is never refused");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) async fn metric(ops: SocketAddr, name: &str) -> f64 {
    let text = ask(ops, Ask::get("/metrics")).await.text();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

pub(crate) fn upstream(session_id: &str) -> Value {
    json!({ "member_session_id": session_id, "upstream": true })
}
