//! gRPC through the gateway: HTTP/2 to the application, in the clear and under TLS, with whatever gRPC needs of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::support::{ANY, World};

type Reply = BoxBody<Bytes, Infallible>;

/// A gRPC server of four methods, and how many connections it took.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) async fn start(tls: Option<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.max_concurrent_streams(8);
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), service_fn(serve)).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            drop(builder.serve_connection(TokioIo::new(stream), service_fn(serve)).await);
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }
}

fn trailers(status: &str) -> HeaderMap {
    [("grpc-status", status), ("grpc-message", "as asked"), ("x-auth-member-id", "forged")]
        .into_iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

/// `/Echo` sends back what comes as it comes; `/Count` sends a hundred messages; `/Large` a mebibyte; `/Nothing` is trailers alone;
/// `/Headers` tells what it got; `/Wait` never answers.
async fn serve(request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
    let (head, mut body) = request.into_parts();
    let (frames, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    let stream = StreamBody::new(tokio_stream_of(receiver));
    let mut response = Response::new(stream.boxed());
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    match head.uri.path() {
        "/test.Test/Nothing" => {
            let mut response = Response::new(Empty::new().boxed());
            *response.headers_mut() = trailers("5");
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            return Ok(response);
        }
        "/test.Test/Wait" => std::future::pending().await,
        "/test.Test/Count" => drop(tokio::spawn(async move {
            while body.frame().await.is_some() {}
            for number in 0..100_u32 {
                let message = message(&number.to_be_bytes());
                if frames.send(Ok(Frame::data(message))).await.is_err() {
                    return;
                }
            }
            drop(frames.send(Ok(Frame::trailers(trailers("0")))).await);
        })),
        "/test.Test/Large" => drop(tokio::spawn(async move {
            drop(frames.send(Ok(Frame::data(message(&vec![0; 1024 * 1024])))).await);
            drop(frames.send(Ok(Frame::trailers(trailers("0")))).await);
        })),
        "/test.Test/Headers" => drop(tokio::spawn(async move {
            let told = format!("{} {:?} {:?}", head.method, head.uri, head.headers);
            drop(frames.send(Ok(Frame::data(message(told.as_bytes())))).await);
            drop(frames.send(Ok(Frame::trailers(trailers("0")))).await);
        })),
        _ => drop(tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data()
                    && frames.send(Ok(Frame::data(data))).await.is_err()
                {
                    return;
                }
            }
            drop(frames.send(Ok(Frame::trailers(trailers("0")))).await);
        })),
    }
    Ok(response)
}

fn tokio_stream_of<T>(mut receiver: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> {
    futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn message(bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + bytes.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes.len()).unwrap());
    framed.put_slice(bytes);
    framed.freeze()
}

/// A gateway before a gRPC server.
pub(crate) async fn before(url: &str, tls: &str) -> World {
    let yaml = format!(
        "upstreams: {{ grpc: {{ url: \"{url}\", protocol: http2{tls} }} }}
routes: [ {{ name: everything, match: {{ path: /** }}, require: authenticated, upstream: grpc }} ]
"
    );
    World::with_origin(&yaml, &[], "http://127.0.0.1:9").await
}

pub(crate) struct Client {
    sender: SendRequest<Reply>,
    pub(crate) jwt: String,
}

impl Client {
    pub(crate) async fn connect(world: &World) -> Self {
        let stream = TokioIo::new(TcpStream::connect(world.address()).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender, jwt: world.persona("VIEWER").jwt.clone() }
    }

    /// Calls a method; what is put into the channel is sent, until it is dropped.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        jwt: &str,
    ) -> (mpsc::Sender<Bytes>, Response<Incoming>) {
        let (messages, mut receiver) = mpsc::channel::<Bytes>(4);
        let stream = futures_util::stream::poll_fn(move |cx| {
            receiver.poll_recv(cx).map(|next| next.map(|data| Ok::<_, Infallible>(Frame::data(data))))
        });
        let request = Request::post(format!("http://grpc.example/test.Test/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "5S")
            .header("authorization", format!("Bearer {jwt}"))
            .body(StreamBody::new(stream).boxed());
        // The first message goes before the head of the answer is waited for.
        messages.send(message(b"first")).await.unwrap();
        let within = Duration::from_secs(10);
        let sent = tokio::time::timeout(within, self.sender.send_request(request.unwrap())).await;
        (messages, sent.unwrap().unwrap())
    }

    /// Calls a method with one message, and reads everything.
    pub(crate) async fn unary(&mut self, method: &str) -> (u16, Bytes, HeaderMap) {
        let jwt = self.jwt.clone();
        let (messages, response) = self.call(method, &jwt).await;
        drop(messages);
        let (head, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let mut trailers = head.headers;
        trailers.extend(collected.trailers().cloned().unwrap_or_default());
        (head.status.as_u16(), collected.to_bytes(), trailers)
    }
}

#[tokio::test]
async fn unary_streaming_and_trailers_pass_in_the_clear() {
    let server = Server::start(None).await;
    let world = before(&format!("http://{}", server.address), "").await;
    let mut client = Client::connect(&world).await;

    let (status, body, trailers) = client.unary("Echo").await;
    assert_eq!((status, body), (200, message(b"first")));
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "as asked");
    assert!(!trailers.contains_key("x-auth-member-id"), "a managed name passed in a trailer");

    let (_, body, trailers) = client.unary("Count").await;
    assert_eq!(body.len(), 900);
    assert_eq!(trailers["grpc-status"], "0");

    let (status, body, trailers) = client.unary("Nothing").await;
    assert_eq!((status, body.len()), (200, 0));
    assert_eq!(&trailers["grpc-status"], "5");

    let (_, body, _) = client.unary("Headers").await;
    let told = String::from_utf8_lossy(&body);
    for part in [
        "POST http://grpc.example/test.Test/Headers",
        "\"te\": \"trailers\"",
        "\"grpc-timeout\": \"5S\"",
        &format!("\"x-auth-member-id\": \"{}\"", world.persona("VIEWER").member_id),
        "\"x-forwarded-host\": \"grpc.example\"",
    ] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    for part in ["\"host\"", "authorization", "transfer-encoding", "\"connection\""] {
        assert!(!told.contains(part), "{part} is in {told}");
    }
}

#[tokio::test]
async fn messages_go_both_ways_while_the_call_lasts() {
    let server = Server::start(None).await;
    let world = before(&format!("http://{}", server.address), "").await;
    let mut client = Client::connect(&world).await;
    let jwt = client.jwt.clone();
    let (messages, response) = client.call("Echo", &jwt).await;
    let mut body = response.into_body();
    let mut heard = BytesMut::new();
    for text in ["first", "second", "third"] {
        if text != "first" {
            messages.send(message(text.as_bytes())).await.unwrap();
        }
        while heard.len() < message(text.as_bytes()).len() {
            heard.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(heard.split().freeze(), message(text.as_bytes()));
    }
    drop(messages);
    let last = body.frame().await.unwrap().unwrap();
    assert_eq!(&last.trailers_ref().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn large_messages_pass_whole() {
    let server = Server::start(None).await;
    let world = before(&format!("http://{}", server.address), "").await;
    let mut client = Client::connect(&world).await;
    let jwt = client.jwt.clone();
    let (messages, response) = client.call("Echo", &jwt).await;
    let large = message(&vec![b'x'; 8 * 1024 * 1024]);
    let sending = large.clone();
    tokio::spawn(async move {
        messages.send(sending).await.unwrap();
    });
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), [message(b"first"), large].concat());
}

#[tokio::test]
async fn refusals_and_silence_are_grpc_statuses() {
    let server = Server::start(None).await;
    let world = before(&format!("http://{}", server.address), ", deadline: 3s").await;
    let mut client = Client::connect(&world).await;
    let (_messages, refused) = client.call("Echo", "nonsense").await;
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "16");
    let (_, _, trailers) = client.unary("Wait").await;
    assert_eq!(&trailers["grpc-status"], "4", "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn one_connection_serves_many_and_a_full_one_is_joined_by_another() {
    let server = Server::start(None).await;
    let world = before(&format!("http://{}", server.address), "").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&world).await);
    }
    for client in &mut clients {
        assert_eq!(client.unary("Echo").await.0, 200);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    // The server takes eight at once on a connection.
    let jwt = clients[0].jwt.clone();
    let mut open = Vec::new();
    for number in 0..20 {
        open.push(clients[number % 3].call("Echo", &jwt).await);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_server_that_speaks_http1_alone_is_told_from_one_that_is_gone() {
    let origin = crate::support::Origin::start(crate::support::Reply::Close).await;
    let world = before(&origin.url(), "").await;
    let mut client = Client::connect(&world).await;
    let (_, _, trailers) = client.unary("Echo").await;
    assert_eq!(&trailers["grpc-status"], "14", "UNAVAILABLE");
}

/// An authority, and certificates of it on disk: `server.pem` for `grpc.internal`, `client.pem`, `ca.pem`.
pub(crate) fn certificates(folder: &Path) -> rustls::ServerConfig {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let mut made = ["grpc.internal", "gateway.internal"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    });
    std::fs::write(folder.join("client.pem"), made[1].0.pem()).unwrap();
    std::fs::write(folder.join("client.key"), made[1].1.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let (certificate, key) = &mut made[0];
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[tokio::test]
async fn tls_to_the_application_verifies_it_and_shows_who_we_are() {
    crate::support::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Some(certificates(folder.path()))).await;
    let (url, at) = (format!("https://{}", server.address), folder.path().display());
    let shown = format!("certificate: {at}/client.pem, key: {at}/client.key");
    let rows = [
        (format!("ca_file: {at}/ca.pem, {shown}, server_name: grpc.internal"), "0"),
        // Somebody else's name, nobody's authority, and nothing shown to a server that asks.
        (format!("ca_file: {at}/ca.pem, {shown}, server_name: other.internal"), "14"),
        (format!("{shown}, server_name: grpc.internal"), "14"),
        (format!("ca_file: {at}/ca.pem, server_name: grpc.internal"), "14"),
    ];
    for (tls, status) in rows {
        let world = before(&url, &format!(", tls: {{ {tls} }}")).await;
        let mut client = Client::connect(&world).await;
        let (_, _, trailers) = client.unary("Echo").await;
        assert_eq!(&trailers["grpc-status"], status, "{tls}");
    }
}
