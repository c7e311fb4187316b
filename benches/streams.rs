//! 10,000 open streams over HTTP/2: what each takes in memory, and what they cost while nothing happens.
//!
//! Must not be run where fewer than 12,000 descriptors are allowed to one process.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a bench that cannot be set up should end"
)]

mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use support::{ADMIN, Connection, Process, Replica, Stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const YAML: &str = "
upstreams: { app: { max_connections: 12000 } }
streams: { recheck: 30s }
routes: [ { name: everything, match: { path: /** }, require: authenticated }, { name: open, match: { path: /open/** }, public: true } ]
";
const STREAMS: usize = 10_000;
const MEMBERS: usize = 1_000;

/// An origin of event streams that never end, in a process of its own: its sockets count there.
async fn origin(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = [0; 2048];
            drop(stream.read(&mut head).await);
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n";
            drop(stream.write_all(answer.as_bytes()).await);
            while stream.read(&mut head).await.unwrap_or_default() > 0 {}
        });
    }
}

async fn open(address: SocketAddr, jwts: &[String], path: &str) -> Vec<hyper::body::Incoming> {
    let mut bodies = Vec::new();
    for chunk in 0..STREAMS / 100 {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let asks = (0..100).map(|number| {
            let mut sender = sender.clone();
            let jwt = &jwts[(chunk * 100 + number) % jwts.len()];
            let request = http::Request::get(format!("http://{address}{path}"))
                .header("authorization", format!("Bearer {jwt}"))
                .body(Empty::<Bytes>::new())
                .unwrap();
            async move {
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let mut body = response.into_body();
                body.frame().await.unwrap().unwrap();
                body
            }
        });
        bodies.extend(futures_util::future::join_all(asks).await);
    }
    bodies
}

/// Memory a stream, and processor time of ten quiet seconds and of 60 more in which every member is looked at.
async fn weigh(
    replica: &Replica,
    jwts: &[String],
    path: &str,
) -> (u64, Duration, Duration, Vec<hyper::body::Incoming>) {
    let before = replica.process.resident();
    let bodies = open(replica.address, jwts, path).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (replica.process.resident() - before) / STREAMS as u64;
    let cpu = replica.process.cpu();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let quiet = replica.process.cpu() - cpu;
    let cpu = replica.process.cpu();
    tokio::time::sleep(Duration::from_secs(60)).await;
    (each, quiet, replica.process.cpu() - cpu, bodies)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(at) = arguments.iter().position(|argument| argument == "--origin") {
        return runtime.block_on(origin(arguments[at + 1].parse().unwrap()));
    }
    if arguments.iter().any(|argument| argument == "--bench") {
        runtime.block_on(run());
    }
}

async fn run() {
    let stage = Stage::start().await;
    let port = support::free_port();
    let program = std::env::current_exe().unwrap();
    let child =
        Command::new(program).args(["--origin", &port.to_string()]).stdout(Stdio::null()).spawn().unwrap();
    let _origin = Process(child);
    support::wait_for(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut jwts = Vec::new();
    let mut last = String::new();
    for _ in 0..MEMBERS {
        let (id, jwt, _) = stage.session().await;
        jwts.push(jwt);
        last = id;
    }
    println!("{STREAMS} event streams of {MEMBERS} members over 100 HTTP/2 connections\n");
    println!(
        "| streams | bytes each | CPU in 10 quiet s | CPU in 60 s with two looks at every member |\n|---|---|---|---|"
    );
    for (name, path) in [("public, without a lease", "/open/events"), ("with a lease", "/events")] {
        let origin = SocketAddr::from(([127, 0, 0, 1], port));
        let replica = stage.replica(YAML, Some(origin), &[]).await;
        let (each, quiet, looked, bodies) = weigh(&replica, &jwts, path).await;
        println!("| {name} | {each} | {quiet:?} | {looked:?} |");
        if path == "/events" {
            assert_eq!(replica.metric("portcullis_streams_open").await, STREAMS as f64);
            let calls = stage.calls("list").await;
            let began = Instant::now();
            let body = json!({ "member_session_id": last, "upstream": true }).to_string();
            let mut admin = Connection::open(replica.admin, None).await;
            assert_eq!(admin.send("POST", "/admin/revoke", ADMIN, &body).await.0, 200);
            while replica.metric("portcullis_streams_closed_total").await < 10.0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            println!(
                "\none of {MEMBERS} sessions revoked: its ten streams ended after {:?}, with {} lookups",
                began.elapsed(),
                stage.calls("list").await - calls
            );
        }
        drop(bodies);
    }
}
