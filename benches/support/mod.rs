//! What the benches that print tables share: gateways in processes of their own, a Redis, a bare HTTP client, numbers.
//!
//! Must not measure anything itself.

#![expect(dead_code, reason = "each bench uses what it needs")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::emulator::{EchoOrigin, Emulator, EmulatorSettings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

pub const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const ADMIN_TOKEN: &str = "a-token-of-the-benches";
/// The header fields of a call to the admin API.
pub const ADMIN: &str = "content-type: application/json\r\nauthorization: Bearer a-token-of-the-benches";
pub const KEY: &str = "a key that only the benches have 0123456789";

/// A process that ends with the bench.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Process {
    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        resident_of(&self.0.id().to_string())
    }
}

/// Resident memory of a process (`self` for this one), in bytes.
pub fn resident_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap().port()
}

/// A Redis without a disk, or nothing where there is none.
pub fn redis() -> Option<(Process, u16)> {
    let port = free_port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    let redis = Process(child);
    wait_for(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    Some((redis, port))
}

pub fn wait_for(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The stand-in and an echo, in this process.
pub struct Stage {
    pub emulator: Emulator,
    pub echo: EchoOrigin,
    api: SocketAddr,
}

/// A gateway in a process of its own.
pub struct Replica {
    pub process: Process,
    pub address: SocketAddr,
    pub ops: SocketAddr,
    pub admin: SocketAddr,
}

impl Stage {
    pub async fn start() -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
        let echo = EchoOrigin::start(ANY).await.unwrap();
        let api = emulator.url().trim_start_matches("http://").parse().unwrap();
        Self { emulator, echo, api }
    }

    /// Starts the program with `yaml`; `origin` in place of the echo, if there is one.
    pub async fn replica(&self, yaml: &str, origin: Option<SocketAddr>, more: &[(&str, String)]) -> Replica {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, ops, admin) = (at(free_port()), at(free_port()), at(free_port()));
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        let text = format!(
            "listeners: [ {{ address: \"{address}\" }} ]\nadmin: {{ address: \"{admin}\", token: {{ value: {ADMIN_TOKEN} }} }}\nlog: {{ access: false, level: warn }}\n{yaml}"
        );
        std::fs::write(file.path(), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("run").arg("-c").arg(file.path());
        let mut set = |key: &str, value: String| {
            command.arg("--set").arg(format!("{key}={value}"));
        };
        set("stytch.project_id", self.emulator.project_id());
        set("stytch.secret.value", self.emulator.secret());
        set("stytch.base_url", self.emulator.url());
        set("upstreams.app.url", format!("http://{}", origin.unwrap_or_else(|| self.echo.address())));
        set("ops.address", ops.to_string());
        for (key, value) in more {
            set(key, value.clone());
        }
        let process = Process(command.stdout(Stdio::null()).spawn().unwrap());
        let began = Instant::now();
        loop {
            if let Ok(mut connection) = Connection::try_open(ops, None).await
                && connection.get("/readyz", "").await.0 == 200
            {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the gateway did not become ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(file);
        Replica { process, address, ops, admin }
    }

    /// A call to the stand-in's control API.
    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let mut connection = Connection::open(self.api, None).await;
        let (status, text) =
            connection.send(method, &format!("/_emulator/{path}"), "", &body.to_string()).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn calls(&self, operation: &str) -> u64 {
        self.control("GET", "calls", json!({})).await[operation].as_u64().unwrap_or_default()
    }

    /// A new member's session: its id, a JWT that is a minute old, its token.
    pub async fn session(&self) -> (String, String, String) {
        let member = self.control("POST", "members", json!({ "organization": "acme" })).await;
        let made = self.control("POST", "sessions", json!({ "member": member["member_id"] })).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let id = text(&made["member_session"]["member_session_id"]);
        let path = format!("sessions/{id}/jwt");
        let minted = self.control("POST", &path, json!({ "issued_ago_seconds": 60 })).await;
        (id, text(&minted["session_jwt"]), text(&made["session_token"]))
    }
}

impl Replica {
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = Connection::open(self.ops, None).await.get("/metrics", "").await;
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }
}

/// One keep-alive connection over HTTP/1.1.
pub struct Connection {
    stream: TcpStream,
    host: SocketAddr,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr, source: Option<Ipv4Addr>) -> Self {
        Self::try_open(address, source).await.unwrap()
    }

    pub async fn try_open(address: SocketAddr, source: Option<Ipv4Addr>) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: address, buffer: Vec::new() })
    }

    /// `header` is a whole line, or nothing.
    pub async fn get(&mut self, path: &str, header: &str) -> (u16, String) {
        self.send("GET", path, header, "").await
    }

    pub async fn send(&mut self, method: &str, path: &str, header: &str, body: &str) -> (u16, String) {
        self.try_send(method, path, header, body).await.unwrap()
    }

    /// Nothing if the connection was closed before the answer was there.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        header: &str,
        body: &str,
    ) -> Option<(u16, String)> {
        let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{header}{length}\r\n{body}", self.host);
        self.stream.write_all(head.as_bytes()).await.ok()?;
        self.read().await
    }

    async fn read(&mut self) -> Option<(u16, String)> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let status = head[9..12].parse().unwrap();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |length| length.trim().parse().unwrap());
        while self.buffer.len() < end + length {
            self.more().await?;
        }
        let body = String::from_utf8_lossy(&self.buffer[end..end + length]).into_owned();
        self.buffer.drain(..end + length);
        Some((status, body))
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap_or_default();
        (read > 0).then_some(())
    }
}

/// The value below which so many per hundred lie.
pub fn percentile(values: &mut [Duration], per_hundred: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * per_hundred / 100).min(values.len() - 1)]
}

pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}
