//! A running world for a test: API stand-in, origin, gateway, and ways to talk to each.

mod client;
mod judged;
mod origin;
mod pages;
mod peers;
mod redis;
mod replicas;
mod site;
mod stream;

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Ask, ask, raw, raw_patiently, try_ask};
pub(crate) use judged::{Showing, at, member, now};
pub(crate) use origin::{Origin, Reply};
pub(crate) use pages::{Block, blocks_of, pages, run_page};
pub(crate) use peers::{Running, ask_script, is_here, is_here_with, node, python};
use portcullis::app::Gateway;
use portcullis::config::{Config, LoadOptions, SecretPolicy, load};
use portcullis::emulator::{EchoOrigin, Emulator, EmulatorSettings, Persona};
pub(crate) use redis::{KEY, Redis, free_port};
pub(crate) use replicas::{Replicas, YAML as REPLICAS, metric, upstream};
use serde_json::{Value, json};
pub(crate) use site::{PROGRAM, Site, said, signal};
pub(crate) use stream::{End, OpenStream, WebSocket};

/// What the admin API of a test takes.
pub(crate) const ADMIN_TOKEN: &str = "a-token-of-some-length";

/// Any free port of loopback.
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The configuration most tests start from.
pub(crate) const USUAL: &str = r#"
sessions: { deadline: 1s }
routes:
  - { name: public, match: { path: /public/** }, public: true }
  - name: admin
    match: { path: /admin/** }
    require: { all: [ { role: stytch_admin }, { factor: { type: totp, max_age: 15m } } ] }
  - { name: mfa, match: { path: /mfa/** }, require: { mfa: { max_age: 1h } } }
  - { name: acme, match: { path: /acme/** }, require: { organization: acme } }
  - { name: human, match: { path: /human/** }, require: { impersonated: false } }
  - { name: recent, match: { path: /recent/** }, require: { session_age: { max: 15m } } }
  - { name: strict, match: { path: /strict/** }, require: authenticated, max_staleness: 1s }
  - { name: read, match: { path: /read, methods: [GET] }, require: authenticated }
  - { name: files, match: { path: /files/** }, require: authenticated, encoded_slash: keep, path_parameters: keep }
  - { name: socket, match: { path: /socket/** }, require: authenticated, websocket: true }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) gateway: Gateway,
    pub(crate) lines: Lines,
    personas: HashMap<String, Persona>,
    echo: EchoOrigin,
}

impl World {
    /// The usual configuration in front of an echo.
    pub(crate) async fn start() -> Self {
        Self::with(USUAL, &[]).await
    }

    pub(crate) async fn with(yaml: &str, overrides: &[(&str, &str)]) -> Self {
        let echo = EchoOrigin::start(ANY).await.unwrap();
        let url = format!("http://{}", echo.address());
        Self::build(yaml, overrides, &url, echo).await
    }

    /// The usual configuration in front of an origin of the test's own.
    pub(crate) async fn before(origin: &Origin) -> Self {
        Self::with_origin(USUAL, &[], &origin.url()).await
    }

    pub(crate) async fn with_origin(yaml: &str, overrides: &[(&str, &str)], origin: &str) -> Self {
        let echo = EchoOrigin::start(ANY).await.unwrap();
        Self::build(yaml, overrides, origin, echo).await
    }

    /// Another gateway on the same stand-in: a replica.
    pub(crate) async fn replica(&self, yaml: &str, overrides: &[(&str, &str)]) -> Gateway {
        let origin = format!("http://{}", self.echo.address());
        let config = config_for(yaml, &self.emulator, &origin, overrides);
        let gateway = Gateway::start(config, std::io::sink()).await.unwrap();
        assert!(gateway.ready(Duration::from_secs(10)).await, "the keys were not loaded");
        gateway
    }

    /// A call to the admin API.
    pub(crate) async fn admin(&self, body: Value) -> Answer {
        let request = Ask::new("POST", "/admin/revoke")
            .header("content-type", "application/json")
            .bearer(ADMIN_TOKEN)
            .body(body.to_string());
        ask(self.gateway.admin().unwrap(), request).await
    }

    async fn build(yaml: &str, overrides: &[(&str, &str)], origin: &str, echo: EchoOrigin) -> Self {
        install_crypto();
        let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
        let config = config_for(yaml, &emulator, origin, overrides);
        let lines = Lines::default();
        let gateway = Gateway::start(config, lines.clone()).await.unwrap();
        assert!(gateway.ready(Duration::from_secs(10)).await, "the keys were not loaded");
        let personas =
            emulator.personas().into_iter().map(|persona| (persona.name.clone(), persona)).collect();
        Self { emulator, gateway, lines, personas, echo }
    }

    pub(crate) fn echo_address(&self) -> SocketAddr {
        self.echo.address()
    }

    pub(crate) fn persona(&self, name: &str) -> &Persona {
        &self.personas[name]
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.traffic()[0].0
    }

    /// A GET with the persona's JWT as a bearer.
    pub(crate) async fn get(&self, path: &str, persona: &str) -> Answer {
        self.send(Ask::get(path).bearer(&self.persona(persona).jwt)).await
    }

    pub(crate) async fn send(&self, request: Ask) -> Answer {
        ask(self.address(), request).await
    }

    pub(crate) async fn ops(&self, path: &str) -> Answer {
        ask(self.gateway.ops(), Ask::get(path)).await
    }

    /// A call to the stand-in's control API.
    pub(crate) async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let address: SocketAddr = self.emulator.url().trim_start_matches("http://").parse().unwrap();
        let path = format!("/_emulator/{path}");
        let answer = ask(address, Ask::new(method, &path).body(body.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    pub(crate) async fn fault(&self, fault: Value) {
        self.control("POST", "faults", fault).await;
    }

    pub(crate) async fn heal(&self) {
        self.control("DELETE", "faults", json!({})).await;
    }

    /// How often the stand-in was asked to do `operation`.
    pub(crate) async fn calls(&self, operation: &str) -> u64 {
        self.control("GET", "calls", json!({})).await[operation].as_u64().unwrap_or_default()
    }

    /// A JWT made a while ago: one made within the last seconds is newer than any list, and asked about once more.
    pub(crate) async fn aged_jwt(&self, session_id: &str) -> String {
        let path = format!("sessions/{session_id}/jwt");
        let minted = self.control("POST", &path, json!({ "issued_ago_seconds": 60 })).await;
        minted["session_jwt"].as_str().unwrap().to_owned()
    }

    /// A session of a new member: its id and a JWT that is a minute old.
    pub(crate) async fn new_session(&self) -> (String, String) {
        let member = self.control("POST", "members", json!({ "organization": "acme" })).await;
        let made = self.control("POST", "sessions", json!({ "member": member["member_id"] })).await;
        let id = made["member_session"]["member_session_id"].as_str().unwrap().to_owned();
        let jwt = self.aged_jwt(&id).await;
        (id, jwt)
    }

    pub(crate) async fn revoke(&self, persona: &str) {
        let id = &self.persona(persona).session_id;
        self.control("DELETE", &format!("sessions/{id}"), json!({})).await;
    }

    /// The value of a metric line that begins with `name`.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.ops("/metrics").await.text();
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// Checks `yaml` with the stand-in and the origin filled in.
pub(crate) fn config_for(
    yaml: &str,
    emulator: &Emulator,
    origin: &str,
    overrides: &[(&str, &str)],
) -> Config {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let options = options_for(file.path(), emulator, origin, overrides);
    let mut config = load(&options).unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
    if !yaml.contains("listeners:") {
        config.listeners[0].address = ANY;
    }
    config
}

/// How the file is loaded with the stand-in and the origin filled in.
pub(crate) fn options_for(
    file: &std::path::Path,
    emulator: &Emulator,
    origin: &str,
    overrides: &[(&str, &str)],
) -> LoadOptions {
    let mut all = vec![
        ("stytch.project_id".to_owned(), emulator.project_id()),
        ("stytch.secret.value".to_owned(), emulator.secret()),
        ("stytch.base_url".to_owned(), emulator.url()),
        ("upstreams.app.url".to_owned(), origin.to_owned()),
        ("ops.address".to_owned(), "127.0.0.1:0".to_owned()),
        // Where the stand-in is away, what comes of it is to be seen at once.
        ("start_patience".to_owned(), "0s".to_owned()),
    ];
    all.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    LoadOptions { file: file.to_owned(), overrides: all, secrets: SecretPolicy::Required }
}

pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The differential target, replayed beside, may have come first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}

/// What a gateway wrote to its access log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until a line holds all of `parts`.
    pub(crate) async fn find(&self, parts: &[&str]) -> Value {
        let found = eventually(|| {
            let text = self.text();
            text.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        });
        serde_json::from_str(&found.await).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Polls for something another task or thread does; gives up after ten seconds.
pub(crate) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
