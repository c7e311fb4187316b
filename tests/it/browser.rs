//! A real browser in front of the gateway, led by `tests/sdk/browser.mjs`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::support::{Running, World, is_here, node};

const APPLICATION: &str = r#"
sessions: { deadline: 1s }
sign_in: { url: "LOGIN/start", step_up_url: "LOGIN/prove", return_param: next }
cors: { origins: ["SPA"], credentials: true, applications: true }
routes:
  - { name: admin, match: { path: /admin/** }, require: { all: [ { role: stytch_admin }, { factor: { type: totp, max_age: 15m } } ] } }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_signs_in_steps_up_is_refused_and_fetches() {
    if !is_here("chromium") || node("puppeteer-core").is_none() {
        return;
    }
    let mut browser = Command::new("node")
        .arg("tests/sdk/browser.mjs")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, output) = (browser.stdin.take().unwrap(), browser.stdout.take().unwrap());
    let mut running = Running(browser);
    let mut told = BufReader::new(output).lines();
    let port = told.next().unwrap().unwrap();
    let yaml = APPLICATION
        .replace("LOGIN", &format!("http://login.example.test:{port}"))
        .replace("SPA", &format!("http://spa.example.test:{port}"));
    let world = World::with(&yaml, &[]).await;
    let names = ["VIEWER", "ADMIN", "STALE_FACTOR", "OTHER_ORG"];
    let jwts: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!(world.persona(name).jwt))).collect();
    let about = json!({
        "port": world.address().port(), "emulator": world.emulator.url(), "jwts": jwts,
        "screenshots": std::env::var("PORTCULLIS_SCREENSHOTS").ok(),
    });
    writeln!(input, "{about}").unwrap();
    let lines: Vec<String> =
        tokio::task::spawn_blocking(move || told.map_while(Result::ok).collect()).await.unwrap();
    println!("{}", lines.join("\n"));
    assert!(running.0.wait().unwrap().success(), "{}", lines.join("\n"));
    assert_eq!(lines.iter().filter(|line| line.starts_with("passed: ")).count(), 7);
}
