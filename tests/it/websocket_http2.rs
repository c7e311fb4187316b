//! WebSockets over HTTP/2 (RFC 8441): a tunnel within a connection, opened to an origin that knows HTTP/1.1 alone.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{ANY, Ask, Origin, Reply, World};

const YAML: &str = r#"
limits: { idle_timeout: 1s }
admin: { address: "127.0.0.1:0", token: { value: a-token-of-some-length } }
routes:
  - { name: sockets, match: { path: /socket }, require: authenticated, websocket: true }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

/// An origin that echoes what comes over a WebSocket, as a library has it.
async fn echo() -> String {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if !message.is_close() {
                        drop(socket.send(message).await);
                    }
                }
            });
        }
    });
    url
}

async fn connect(world: &World) -> SendRequest<Empty<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(world.address()).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    world: &World,
    path: &str,
    protocol: Option<&'static str>,
    more: &[(&'static str, &str)],
) -> Response<Incoming> {
    // Whether it may be asked for is known once the settings came.
    let settled = Request::get(format!("http://{}/", world.address())).body(Empty::new()).unwrap();
    drop(sender.send_request(settled).await.unwrap());
    let uri = format!("http://{}{path}", world.address());
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        .header("authorization", format!("Bearer {}", world.persona("VIEWER").jwt))
        .header("sec-websocket-version", "13")
        .body(Empty::new())
        .unwrap();
    for (name, value) in more {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from_static(protocol));
    }
    let within = Duration::from_secs(10);
    tokio::time::timeout(within, sender.send_request(request)).await.unwrap().unwrap()
}

#[tokio::test]
async fn messages_pass_and_the_connection_serves_others_meanwhile() {
    let world = World::with_origin(YAML, &[], &echo().await).await;
    let mut sender = connect(&world).await;
    let response = ask(&mut sender, &world, "/socket", Some("websocket"), &[]).await;
    assert_eq!(response.status(), 200);
    for gone in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    let large = "x".repeat(300_000);
    for text in ["hello", &large] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    // Past the limit of idle connections, and the grace after it.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    socket.send(Message::text("still there")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still there"));
    let other = Request::get(format!("http://{}/", world.address())).body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(other).await.unwrap().status(), 401);
    world.lines.find(&["\"path\":\"/socket\"", "\"method\":\"GET\"", "\"status\":200"]).await;

    // The end of the session ends it.
    world.revoke("VIEWER").await;
    let body = serde_json::json!({ "member_id": world.persona("VIEWER").member_id });
    assert_eq!(world.admin(body).await.status, 200);
    let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.unwrap();
    let Some(Ok(Message::Close(Some(close)))) = message else { panic!("{message:?}") };
    assert_eq!(u16::from(close.code), 1008);
}

#[tokio::test]
async fn nothing_else_becomes_a_tunnel() {
    let world = World::with_origin(YAML, &[], &echo().await).await;
    let mut sender = connect(&world).await;
    for (path, protocol, status) in [
        ("/elsewhere", Some("websocket"), 405),
        ("/.portcullis/session", Some("websocket"), 405),
        ("/socket", Some("connect-udp"), 405),
        ("/a/../../socket", Some("websocket"), 400),
    ] {
        let response = ask(&mut sender, &world, path, protocol, &[]).await;
        assert_eq!(response.status(), status, "{path} {protocol:?}");
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn an_origin_that_does_not_prove_it_speaks_websocket_is_not_believed() {
    let plain = Reply::text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for reply in [Reply::Socket, plain] {
        let origin = Origin::start(reply).await;
        let world = World::with_origin(YAML, &[], &origin.url()).await;
        let mut sender = connect(&world).await;
        let response = ask(&mut sender, &world, "/socket", Some("websocket"), &[]).await;
        assert_eq!(response.status(), 502);
        let head = origin.heads().pop().unwrap().to_ascii_lowercase();
        for part in ["get /socket http/1.1\r\n", "upgrade: websocket\r\n", "sec-websocket-key: ", "host: "] {
            assert!(head.contains(part), "{part} is missing in {head}");
        }
        assert!(!head.contains("authorization"), "{head}");
    }
    // A refusal of its own passes.
    let origin = Origin::start(Reply::text("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")).await;
    let world = World::with_origin(YAML, &[], &origin.url()).await;
    let mut sender = connect(&world).await;
    let response = ask(&mut sender, &world, "/socket", Some("websocket"), &[]).await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
    assert_eq!(world.send(Ask::new("CONNECT", "/").http2()).await.status, 405);
}

/// A refusal of gRPC is a 200, which would be a tunnel to nowhere.
#[tokio::test]
async fn a_refusal_is_never_taken_for_a_tunnel() {
    let world = World::with_origin(YAML, &[], &echo().await).await;
    let mut sender = connect(&world).await;
    for kind in ["application/grpc", "application/grpc-web"] {
        let more = [("content-type", kind), ("authorization", "Bearer nonsense")];
        let refused = ask(&mut sender, &world, "/socket", Some("websocket"), &more).await;
        assert_eq!(refused.status(), 401, "{kind}");
        let refused = ask(&mut sender, &world, "/elsewhere", Some("websocket"), &more[..1]).await;
        assert_eq!(refused.status(), 405, "{kind}");
    }
}

/// However many share a connection, each tunnel takes its place at the origin and in the gateway.
#[tokio::test]
async fn a_tunnel_keeps_its_places() {
    let limits = "upstreams: { app: { max_connections: 1, wait_timeout: 100ms } }\n";
    let world = World::with_origin(&format!("{limits}{YAML}"), &[], &echo().await).await;
    let mut sender = connect(&world).await;
    let first = ask(&mut sender, &world, "/socket", Some("websocket"), &[]).await;
    assert_eq!(first.status(), 200);
    let tunnel = hyper::upgrade::on(first).await.unwrap();
    assert_eq!(ask(&mut sender, &world, "/socket", Some("websocket"), &[]).await.status(), 503);
    drop(tunnel);
    let began = std::time::Instant::now();
    while ask(&mut sender, &world, "/socket", Some("websocket"), &[]).await.status() != 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "the place was not given back");
    }
}
