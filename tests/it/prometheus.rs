//! A real Prometheus beside a gateway to which everything happened that has a metric.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::{ANY, Ask, End, OpenStream, Origin, Reply, Running, World, ask, free_port, is_here};

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n";

fn issue(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
}

/// What a query finds, asked until there is something.
async fn found(prometheus: SocketAddr, query: &str) -> Vec<Value> {
    let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
    let answer = ask(prometheus, Ask::get(&format!("/api/v1/query?query={query}"))).await.json();
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

/// Must show 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_server_sees_every_documented_metric() {
    if !is_here("prometheus") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    issue(folder.path());
    let at = folder.path().display();
    let yaml = format!(
        "listeners:
  - {{ address: \"{ANY}\", name: plain }}
  - {{ address: \"{ANY}\", name: secure, tls: {{ certificates: [ {{ certificate: {at}/tls.crt, key: {at}/tls.key }} ] }} }}
admin: {{ address: \"{ANY}\", token: {{ value: a-token-of-some-length }} }}
tracing: {{ endpoint: \"http://127.0.0.1:1\", timeout: 100ms }}
log: {{ audit: {{ file: {at}/audit.jsonl }} }}
routes:
  - {{ name: everything, match: {{ path: /** }}, require: authenticated, shadow: {{ role: stytch_admin }} }}
"
    );
    let origin = Origin::start(Reply::text(EVENTS)).await;
    let world = World::with_origin(&yaml, &[], &origin.url()).await;
    // A stream whose session ends, a connection that speaks no HTTP, a certificate that is renewed.
    let stream = OpenStream::open(world.address(), "/events", &world.persona("VIEWER").jwt, true).await;
    world.admin(json!({ "member_session_id": world.persona("VIEWER").session_id, "upstream": true })).await;
    assert_eq!(stream.end().await.0, End::Whole(None));
    let mut nonsense = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    nonsense.write_all(b"\x00\x01\x02\r\n\r\n").await.unwrap();
    issue(folder.path());

    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let configuration = format!(
        "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms, scrape_timeout: 200ms }}
rule_files: [ {}/deploy/prometheus/rules.yaml ]
scrape_configs:
  - job_name: portcullis
    static_configs: [ {{ targets: [ \"{}\" ], labels: {{ namespace: n, pod: p }} }} ]
",
        env!("CARGO_MANIFEST_DIR"),
        world.gateway.ops()
    );
    std::fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
    let mut command = Command::new("prometheus");
    command.current_dir(folder.path()).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
    command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    let _running = Running(command.spawn().unwrap());
    let began = Instant::now();
    while crate::support::try_ask(address, Ask::get("/-/ready"))
        .await
        .is_none_or(|answer| answer.status != 200)
    {
        assert!(began.elapsed() < Duration::from_secs(20), "Prometheus does not get ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let documented = std::fs::read_to_string("docs/metrics.md").unwrap();
    let rows = documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut missing: Vec<&str> = rows.filter(|name| name.starts_with("portcullis_")).collect();
    let all = missing.len();
    while !missing.is_empty() {
        let names = ask(address, Ask::get("/api/v1/label/__name__/values")).await.json();
        let names: Vec<&str> = names["data"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        missing.retain(|name| !names.iter().any(|seen| *seen == *name || *seen == format!("{name}_count")));
        assert!(
            began.elapsed() < Duration::from_secs(40),
            "of {all} metrics Prometheus does not see {missing:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{all} documented metrics, all of them seen");
    assert_eq!(found(address, "up").await.len(), 1);

    // Every query of the dashboard is one, and those of what happened here find something.
    let dashboard = std::fs::read_to_string("deploy/grafana/portcullis.json").unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    assert!(queries.len() >= 25, "{queries:?}");
    let all = queries.len();
    while queries.len() > all / 4 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "of {all} queries these find nothing: {queries:#?}"
        );
        let mut silent = Vec::new();
        for query in queries {
            let filled = query.replace("$__rate_interval", "30s").replace("$namespace", ".*");
            if found(address, &filled).await.is_empty() {
                silent.push(query);
            }
        }
        queries = silent;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{all} queries of the dashboard, {} with nothing to tell here", queries.len());
}

/// Every `expr` of a dashboard.
fn collect(part: &Value, queries: &mut Vec<String>) {
    match part {
        Value::Object(fields) => {
            queries.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| collect(field, queries));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, queries)),
        _ => {}
    }
}
