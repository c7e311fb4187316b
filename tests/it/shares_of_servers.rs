//! What one caller can take of one server of an application: connections, streams, and their coming back.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::shares::until;
use crate::support::{ANY, Ask, Origin, Reply, WebSocket, World, try_ask};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n: hi\r\n";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

const EVENT_STREAM: &str = "Accept: text/event-stream\r\n";

/// Asks for something that lasts: the status, and the connection to hold it by.
async fn open(world: &World, name: &str, fields: &str) -> (String, TcpStream) {
    open_with(world, &format!("{fields}Authorization: Bearer {}\r\n", world.persona(name).jwt)).await
}

async fn open_with(world: &World, fields: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    let head = format!("GET /events HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = vec![0; 12];
    stream.read_exact(&mut seen).await.unwrap();
    (String::from_utf8(seen).unwrap()[9..].to_owned(), stream)
}

#[tokio::test]
async fn a_server_that_is_full_of_streams_leaves_the_next_ones_to_another() {
    let socket = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (fields, opened, answer) in [(EVENT_STREAM, "200", EVENTS), (WEBSOCKET, "101", socket)] {
        let (one, two) = (Origin::start(Reply::text(answer)).await, Origin::start(Reply::text(answer)).await);
        let yaml = format!(
            "limits: {{ caller_share: 1/1 }}
upstreams: {{ both: {{ servers: [\"{}\", \"{}\"], max_connections: 2, max_open_streams: 4 }} }}
routes: [ {{ name: all, match: {{ path: /** }}, require: authenticated, upstream: both, websocket: true }} ]",
            one.url(),
            two.url()
        );
        let world = World::with(&yaml, &[]).await;
        let mut held = Vec::new();
        for _ in 0..8 {
            let (status, stream) = open(&world, "VIEWER", fields).await;
            assert_eq!(status, opened);
            held.push(stream);
        }
        assert_eq!((one.heads().len(), two.heads().len()), (4, 4));
        assert_eq!(open(&world, "VIEWER", fields).await.0, "503");
        assert_eq!((one.heads().len(), two.heads().len()), (4, 4), "no server is asked for nothing");
        held.clear();
        until(async || open(&world, "VIEWER", fields).await.0 == opened).await;
    }
}

#[tokio::test]
async fn a_websocket_gives_its_stream_back_when_it_ends() {
    let origin = Origin::start(Reply::Socket).await;
    let yaml = "limits: { caller_share: 1/1 }
routes: [ { name: all, match: { path: /** }, require: authenticated, websocket: true } ]";
    let overrides = [("upstreams.app.max_open_streams", "2")];
    let world = World::with_origin(yaml, &overrides, &origin.url()).await;
    let jwt = &world.persona("VIEWER").jwt;
    let socket = WebSocket::open(world.address(), "/", jwt).await;
    let held = WebSocket::open(world.address(), "/", jwt).await;
    let request = format!("ws://{}/", world.address()).into_client_request();
    let mut request = request.unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {jwt}").parse().unwrap());
    let refused = tokio_tungstenite::connect_async(request).await.unwrap_err();
    assert!(refused.to_string().contains("503"), "{refused}");
    drop(socket);
    until(async || open(&world, "VIEWER", WEBSOCKET).await.0 == "101").await;
    drop(held);
}

/// A server that speaks HTTP/2 and takes four requests on one connection: `/events` goes on, `/wait` never answers.
async fn http2_server() -> String {
    async fn serve(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b": hi\n")))]);
        match request.uri().path() {
            "/wait" => std::future::pending().await,
            "/events" => {
                let body = StreamBody::new(first.chain(futures_util::stream::pending()));
                let mut response = Response::new(http_body_util::BodyExt::boxed(body));
                response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
                Ok(response)
            }
            _ => Ok(Response::new(Full::from("ok").boxed())),
        }
    }
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(4);
                drop(builder.serve_connection(TokioIo::new(stream), service_fn(serve)).await);
            });
        }
    });
    format!("http://{address}")
}

/// Once the gateway has seen how many requests the server takes at once.
async fn before_http2(limits: &str, max_connections: usize, access: &str) -> World {
    let yaml = format!(
        "{limits}
upstreams: {{ two: {{ url: \"{}\", protocol: http2, max_connections: {max_connections}, wait_timeout: 30s }} }}
routes: [ {{ name: all, match: {{ path: /** }}, {access}, upstream: two }} ]",
        http2_server().await
    );
    let world = World::with(&yaml, &[]).await;
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    // It looks at the server's settings again and again, at longer and longer intervals, and they are there at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.get("/", "ADMIN").await.status, 200);
    world
}

#[tokio::test]
async fn streams_over_http2_have_connections_besides_those_of_the_requests() {
    let world = before_http2("limits: { caller_share: 1/1 }", 2, "require: authenticated").await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let (status, stream) = open(&world, "VIEWER", "").await;
        assert_eq!(status, "200");
        held.push(stream);
    }
    assert_eq!(open(&world, "VIEWER", EVENT_STREAM).await.0, "503", "two times four");
    let address = world.address();
    let jwt = &world.persona("ADMIN").jwt;
    let answers = futures_util::future::join_all((0..8).map(|_| try_ask(address, Ask::get("/").bearer(jwt))));
    for answer in answers.await {
        assert_eq!(answer.unwrap().status, 200, "the requests have their own");
    }
}

#[tokio::test]
async fn shares_are_of_what_the_server_takes_over_http2() {
    let world = before_http2("", 8, "require: authenticated").await;
    let (address, jwt) = (world.address(), world.persona("VIEWER").jwt.clone());
    let greedy: Vec<_> = (0..200)
        .map(|_| {
            let ask = Ask::get("/wait").bearer(&jwt);
            tokio::spawn(async move { try_ask(address, ask).await })
        })
        .collect();
    until(async || world.metric("portcullis_http_requests_in_flight").await == Some(200.0)).await;
    for _ in 0..8 {
        assert_eq!(world.get("/", "ADMIN").await.status, 200, "over half of the 32 it is an eighth");
    }
    greedy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_callers_own_scheme_does_not_close_a_shared_connection() {
    let world = before_http2("limits: { caller_share: 1/1 }", 1, "public: true").await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let (status, stream) = open_with(&world, "Authorization: Negotiate abcd\r\n").await;
        assert_eq!(status, "200");
        held.push(stream);
    }
    assert_eq!(world.send(Ask::get("/")).await.status, 200, "the others have a connection");
}

#[tokio::test]
async fn every_slot_comes_back() {
    let yaml = "routes: [ { name: all, match: { path: /** }, require: authenticated } ]";
    let one = [("upstreams.app.max_connections", "1"), ("upstreams.app.retries.attempts", "2")];
    // Of requests that wait for a connection and leave.
    let silent = Origin::start(Reply::Silence).await;
    let world = World::with_origin(yaml, &one, &silent.url()).await;
    let (address, jwt) = (world.address(), world.persona("VIEWER").jwt.clone());
    for round in 1..4 {
        let asked: Vec<_> = (0..4)
            .map(|_| {
                let ask = Ask::get("/").bearer(&jwt);
                tokio::spawn(async move { try_ask(address, ask).await })
            })
            .collect();
        let arrived = async || world.metric("portcullis_http_requests_in_flight").await == Some(4.0);
        until(async || silent.heads().len() == round && arrived().await).await;
        // The one that has the connection goes last.
        let (waiting, holding): (Vec<_>, Vec<_>) = asked.into_iter().enumerate().partition(|(n, _)| *n > 0);
        waiting.into_iter().chain(holding).for_each(|(_, one)| one.abort());
        until(async || world.metric("portcullis_http_requests_in_flight").await == Some(0.0)).await;
    }
    // Of requests that are tried again.
    let closing = Origin::start(Reply::Close).await;
    let world = World::with_origin(yaml, &one, &closing.url()).await;
    for _ in 0..5 {
        assert_eq!(world.get("/", "VIEWER").await.reason(), "origin_closed");
    }
    // Of uploads that are answered before their end.
    let early = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let early = Origin::start(Reply::text(early)).await;
    let world = World::with_origin(yaml, &one, &early.url()).await;
    let jwt = &world.persona("VIEWER").jwt;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {jwt}\r\n");
        stream.write_all(format!("{head}Content-Length: 100\r\n\r\nhalf").as_bytes()).await.unwrap();
        let mut seen = [0; 12];
        stream.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen[9..], b"413");
    }
}
