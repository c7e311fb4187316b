//! How long a revoked session still works: time from the revocation to the first refused request, and to the end of an
//! open WebSocket, event stream and gRPC stream, for every way a revocation is learnt, on one replica and across three.
//!
//! Must not revoke in a way that a gateway could not see in the field.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a bench that cannot be set up should end"
)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use support::{ADMIN, ANY, Connection, KEY, Replica, Stage, milliseconds, percentile};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const YAML: &str = "
webhooks: { secrets: [ { value: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw } ] }
upstreams: { app: { max_connections: 5000 } }
routes: [ { name: everything, match: { path: /** }, require: authenticated, websocket: true } ]
";
const REVOCATIONS: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// At the API alone: the gateway learns of it by the age of its evidence.
    Age,
    SignOut,
    Admin,
    Webhook,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    WebSocket,
    Events,
    Grpc,
}

/// An origin whose streams never end.
async fn endless_origin() -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                loop {
                    head.clear();
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or_default() == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8_lossy(&head);
                    let answer = if head.contains(" /socket ") {
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                    } else if head.contains(" /events ") {
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n"
                    } else if head.contains(" /grpc ") {
                        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n"
                    } else {
                        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Opens a stream; the task ends when the gateway closed it, with the moment.
async fn open(kind: Kind, address: SocketAddr, jwt: &str) -> tokio::task::JoinHandle<Instant> {
    if let Kind::Grpc = kind {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{address}/grpc"))
            .header("authorization", format!("Bearer {jwt}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        return tokio::spawn(async move {
            let _sender = sender;
            while let Some(Ok(frame)) = body.frame().await {
                assert!(frame.trailers_ref().is_none_or(|trailers| trailers["grpc-status"] == "16"));
            }
            Instant::now()
        });
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (path, more) = match kind {
        Kind::WebSocket => (
            "/socket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        _ => ("/events", ""),
    };
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {jwt}\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = vec![0; 4096];
    let read = stream.read(&mut first).await.unwrap();
    let answer = String::from_utf8_lossy(&first[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    let end: &'static [u8] = if let Kind::WebSocket = kind { &[0x88] } else { b"0\r\n\r\n" };
    tokio::spawn(async move {
        let mut read = Vec::new();
        while stream.read_buf(&mut read).await.unwrap_or_default() > 0 {
            if read.windows(end.len()).any(|piece| piece == end) {
                break;
            }
        }
        Instant::now()
    })
}

struct Session {
    id: String,
    jwt: String,
    token: String,
}

/// Revokes, as the way says, on the first replica. The clock runs from before the call.
async fn revoke(way: Way, stage: &Stage, told: &Replica, session: &Session, number: usize) -> Instant {
    let began;
    match way {
        Way::Age => {
            began = Instant::now();
            stage.control("DELETE", &format!("sessions/{}", session.id), json!({})).await;
        }
        Way::Admin => {
            let mut admin = Connection::open(told.admin, None).await;
            let body = json!({ "member_session_id": session.id, "upstream": true }).to_string();
            began = Instant::now();
            assert_eq!(admin.send("POST", "/admin/revoke", ADMIN, &body).await.0, 200);
        }
        Way::SignOut => {
            let mut browser = Connection::open(told.address, None).await;
            let header =
                format!("origin: http://{}\r\ncookie: stytch_session={}", told.address, session.token);
            began = Instant::now();
            assert_eq!(browser.send("POST", "/.portcullis/sign-out", &header, "").await.0, 200);
        }
        Way::Webhook => {
            // What happens at the API first is what the event tells of.
            let known = stage.control("GET", &format!("sessions/{}", session.id), json!({})).await;
            let member = known["member_session"]["member_id"].as_str().unwrap().to_owned();
            stage.control("DELETE", &format!("sessions/{}", session.id), json!({})).await;
            let body = json!({
                "project_id": stage.emulator.project_id(), "action": "DELETE", "object_type": "member", "id": member,
            });
            let (body, id) = (body.to_string(), format!("msg_{number}_{}", session.id));
            let timestamp = jiff::Timestamp::now().as_second();
            let key = STANDARD.decode(SECRET.trim_start_matches("whsec_")).unwrap();
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            let tag = STANDARD.encode(hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes()));
            let header = format!("svix-id: {id}\r\nsvix-timestamp: {timestamp}\r\nsvix-signature: v1,{tag}");
            let mut svix = Connection::open(told.address, None).await;
            began = Instant::now();
            assert_eq!(svix.send("POST", "/.portcullis/webhooks/stytch", &header, &body).await.0, 200);
        }
    }
    began
}

/// The time until a replica refuses the session, asked without a pause, or with one.
async fn refused(replica: SocketAddr, jwt: String, pause: Duration) -> Instant {
    let mut connection = Connection::open(replica, None).await;
    let header = format!("authorization: Bearer {jwt}");
    loop {
        let Some((status, body)) = connection.try_send("GET", "/", &header, "").await else {
            // In the middle of an answer when the session ended: that is cut as any other stream.
            return Instant::now();
        };
        if status != 200 {
            assert!(body.contains("session_not_found"), "{body}");
            return Instant::now();
        }
        tokio::time::sleep(pause).await;
    }
}

struct Row {
    refused: Vec<Duration>,
    streams: [Vec<Duration>; 3],
}

/// One revocation, seen from the last replica.
async fn one(
    way: Way,
    stage: &Stage,
    replicas: &[Replica],
    number: usize,
    pause: Duration,
) -> (Duration, [Duration; 3]) {
    let (id, jwt, token) = stage.session().await;
    let session = Session { id, jwt, token };
    let seen = replicas.last().unwrap().address;
    for replica in replicas {
        let header = format!("authorization: Bearer {}", session.jwt);
        assert_eq!(Connection::open(replica.address, None).await.get("/", &header).await.0, 200);
    }
    let mut streams = Vec::new();
    for kind in [Kind::WebSocket, Kind::Events, Kind::Grpc] {
        streams.push(open(kind, seen, &session.jwt).await);
    }
    let asking = tokio::spawn(refused(seen, session.jwt.clone(), pause));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let began = revoke(way, stage, &replicas[0], &session, number).await;
    let since = |at: Instant| at.saturating_duration_since(began);
    let refused = since(asking.await.unwrap());
    let mut closed = [Duration::ZERO; 3];
    for (place, stream) in closed.iter_mut().zip(streams) {
        *place = since(stream.await.unwrap());
    }
    (refused, closed)
}

async fn measure(way: Way, stage: &Stage, replicas: &[Replica]) -> Row {
    let mut samples = Vec::new();
    if way == Way::Age {
        // All at once: each takes as long as evidence may be old.
        let all =
            (0..REVOCATIONS).map(|number| one(way, stage, replicas, number, Duration::from_millis(100)));
        samples = futures_util::future::join_all(all).await;
    } else {
        for number in 0..REVOCATIONS {
            samples.push(one(way, stage, replicas, number, Duration::ZERO).await);
        }
    }
    let stream = |index: usize| samples.iter().map(|(_, closed)| closed[index]).collect();
    Row {
        refused: samples.iter().map(|(refused, _)| *refused).collect(),
        streams: [stream(0), stream(1), stream(2)],
    }
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(run());
}

async fn run() {
    let stage = Stage::start().await;
    let origin = endless_origin().await;
    println!("{REVOCATIONS} revocations a row; milliseconds, p50 / p99\n");
    println!(
        "| learnt by | replicas | first refused request | WebSocket closed | event stream closed | gRPC stream closed |"
    );
    println!("|---|---|---|---|---|---|");
    for count in [1, 3] {
        let redis = if count > 1 { support::redis() } else { None };
        if count > 1 && redis.is_none() {
            println!("no redis-server here: the rows of three replicas are left out");
            break;
        }
        let shared: Vec<(&str, String)> = match &redis {
            Some((_, port)) => vec![
                ("sessions.shared.redis", format!("redis://127.0.0.1:{port}")),
                ("sessions.shared.key.value", KEY.to_owned()),
            ],
            None => Vec::new(),
        };
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(stage.replica(YAML, Some(origin), &shared).await);
        }
        for replica in replicas.iter().filter(|_| redis.is_some()) {
            while replica.metric("portcullis_revocation_bus_connected").await != 1.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for way in [Way::SignOut, Way::Admin, Way::Webhook, Way::Age] {
            let mut row = measure(way, &stage, &replicas).await;
            let both = |values: &mut Vec<Duration>| {
                format!("{} / {}", milliseconds(percentile(values, 50)), milliseconds(percentile(values, 99)))
            };
            let refused = both(&mut row.refused);
            let [socket, events, grpc] = &mut row.streams;
            let (socket, events, grpc) = (both(socket), both(events), both(grpc));
            let name = match way {
                Way::Age => "age alone (default: 30 s; streams: another 30 s)",
                Way::SignOut => "sign-out",
                Way::Admin => "admin revoke",
                Way::Webhook => "webhook",
            };
            println!("| {name} | {count} | {refused} | {socket} | {events} | {grpc} |");
        }
    }
}
