//! The signed assertion, as applications in other languages verify it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ask, Running, World, ask, node, python};

/// Keys change every four seconds; each has been published for four before it signs.
const ROTATING: &str = r#"
identity: { assertion: { algorithm: ALGORITHM, lifetime: 2s, rotate_every: 4s } }
routes:
  - { name: app, match: { path: /app }, require: authenticated }
  - { name: other, match: { path: /other }, require: authenticated, audience: other }
"#;
/// More than three rotations.
const WATCHED: Duration = Duration::from_secs(13);

/// An application in a process of its own.
struct Application {
    _process: Running,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    port: String,
}

impl Application {
    fn start(interpreter: &str, script: &str) -> Self {
        let mut process = Command::new(interpreter)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut output = BufReader::new(output).lines();
        let port = output.next().unwrap().unwrap();
        Self { _process: Running(process), input, output, port }
    }

    /// Tells it where the keys are.
    fn trusts(&mut self, gateway: std::net::SocketAddr) {
        writeln!(self.input, "http://{gateway}/.portcullis/jwks.json").unwrap();
        assert_eq!(self.output.next().unwrap().unwrap(), "ready");
    }
}

/// Must show 5.
async fn is_verified_through_rotations(interpreter: &str, script: &str, algorithm: &str) {
    let mut application = Application::start(interpreter, script);
    let origin = format!("http://127.0.0.1:{}", application.port);
    let world = World::with_origin(&ROTATING.replace("ALGORITHM", algorithm), &[], &origin).await;
    application.trusts(world.address());
    let (began, mut requests, mut keys) = (Instant::now(), 0, BTreeSet::new());
    while began.elapsed() < WATCHED {
        for persona in ["ADMIN", "VIEWER"] {
            let answer = world.get("/app", persona).await;
            requests += 1;
            assert_eq!(answer.status, 200, "after {requests}: {}", answer.text());
            let verified = answer.json();
            assert_eq!(verified["sub"], world.persona(persona).member_id.as_str());
            assert_eq!(verified["session_id"], world.persona(persona).session_id.as_str());
            assert_eq!(verified["alg"], algorithm);
            keys.insert(verified["kid"].as_str().unwrap().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{script}, {algorithm}: {requests} requests, {} keys, none failed", keys.len());
    assert!(keys.len() > 3, "{keys:?}");
    let elsewhere = world.get("/other", "ADMIN").await;
    assert_eq!(elsewhere.status, 418, "an assertion for another application: {}", elsewhere.text());
    let forged = Ask::get("/app").header("x-auth-assertion", "e30.e30.e30");
    assert_eq!(world.send(forged).await.status, 401);
}

async fn is_verified_with_either_algorithm(interpreter: &str, script: &str) {
    tokio::join!(
        is_verified_through_rotations(interpreter, script, "EdDSA"),
        is_verified_through_rotations(interpreter, script, "ES256")
    );
}

#[tokio::test]
async fn an_application_in_node_verifies_it_through_rotations() {
    if node("jose").is_some() {
        is_verified_with_either_algorithm("node", "tests/sdk/node_origin.mjs").await;
    }
}

#[tokio::test]
async fn an_application_in_python_verifies_it_through_rotations() {
    if let Some(python) = python("jwt, cryptography") {
        is_verified_with_either_algorithm(&python, "tests/sdk/python_origin.py").await;
    }
}

/// Replicas with one secret publish and sign with the same keys, so any of them can be asked for the others'.
#[tokio::test]
async fn replicas_of_one_secret_have_the_same_keys() {
    let yaml = "identity: { assertion: { secret: { value: 0123456789abcdef0123456789abcdef } } }\nroutes: [ { name: all, match: { path: /** }, require: authenticated } ]\n";
    let world = World::with(yaml, &[]).await;
    let other = world.replica(yaml, &[]).await;
    let keys = |address| ask(address, Ask::get("/.portcullis/jwks.json"));
    let (one, two) = (keys(world.address()).await, keys(other.traffic()[0].0).await);
    assert_eq!(one.status, 200);
    assert_eq!(one.json(), two.json());
    assert!(
        one.json()["keys"].as_array().unwrap().iter().all(|key| key.get("d").is_none()),
        "{}",
        one.text()
    );
    assert!(one.header("cache-control").contains("max-age"), "{}", one.header("cache-control"));
    let assertion = world.get("/", "VIEWER").await.seen("x-auth-assertion").unwrap();
    assert_eq!(assertion.split('.').count(), 3);
}
