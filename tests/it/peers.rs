//! Real peers: Prometheus and curl, where they are installed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{ANY, Ask, Running, World, ask, is_here};

/// Must show 9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_scrapes_and_answers() {
    if !is_here("prometheus") || !is_here("promtool") {
        return;
    }
    let world = World::start().await;
    world.get("/", "VIEWER").await;
    world.get("/admin", "VIEWER").await;
    let metrics = world.ops("/metrics").await.text();
    let mut lint = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut lint.stdin.take().unwrap(), metrics.as_bytes()).unwrap();
    let linted = lint.wait_with_output().unwrap();
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stderr));

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let target = world.gateway.ops();
    std::fs::write(&config, format!(
        "global: {{ scrape_interval: 200ms }}\nscrape_configs:\n  - job_name: portcullis\n    static_configs: [ {{ targets: ['{target}'] }} ]\n"
    ))
    .unwrap();
    let port = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let _prometheus = Running(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let query = "/api/v1/query?query=sum(portcullis_decisions_total%7Bdecision%3D%22refuse%22%7D)";
    let began = Instant::now();
    loop {
        if tokio::net::TcpStream::connect(port).await.is_ok() {
            let answer = ask(port, Ask::get(query)).await;
            let found: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if found.pointer("/data/result/0/value/1") == Some(&Value::from("1")) {
                return;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(60), "Prometheus did not answer with the count");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Must show 8, with a client everybody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_through_over_http_1_and_2() {
    if !is_here("curl") {
        return;
    }
    let world = World::start().await;
    let url = format!("http://{}/", world.address());
    let cookie = format!("stytch_session={}", world.persona("VIEWER").token);
    for (option, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let (url, cookie) = (url.clone(), cookie.clone());
        let out = tokio::task::spawn_blocking(move || {
            Command::new("curl")
                .args([
                    "-s",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code} %{http_version}",
                    option,
                    "-b",
                    &cookie,
                    &url,
                ])
                .output()
        });
        let out = out.await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("200 {version}"));
    }
}
