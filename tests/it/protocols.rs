//! HTTP/2, TLS, trailers, streams and tunnels through the gateway.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::{ANY, Ask, Origin, Reply, World, raw};

#[tokio::test]
async fn http_2_with_prior_knowledge_and_its_cookie_crumbs() {
    let world = World::start().await;
    let viewer = world.persona("VIEWER");
    let ask = Ask::get("/")
        .http2()
        .header("cookie", "theme=dark")
        .header("cookie", &format!("stytch_session={}", viewer.token))
        .header("cookie", "lang=de");
    let answer = world.send(ask).await;
    assert_eq!(answer.version, Version::HTTP_2);
    assert_eq!(answer.seen("cookie").unwrap(), "theme=dark; lang=de");
    assert_eq!(answer.seen("host").unwrap(), world.address().to_string());
    let posted = world.send(Ask::new("POST", "/").http2().bearer(&viewer.jwt).body("hello")).await;
    assert_eq!(posted.json()["body"], "hello");
    let refused = world.send(Ask::get("/admin").http2().bearer(&viewer.jwt)).await;
    assert_eq!((refused.status, refused.reason().as_str()), (403, "role_missing"));
}

#[tokio::test]
async fn an_authority_and_a_host_that_differ_are_refused_over_http_2() {
    let world = World::start().await;
    let answer = world.send(Ask::get("/public").http2().header("host", "other")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (400, "host_invalid"));
}

#[tokio::test]
async fn tls_speaks_both_by_alpn() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let yaml = format!(
        "listeners:\n  - address: {ANY}\n    tls: {{ certificates: [ {{ certificate: {}, key: {} }} ] }}\n\
         routes:\n  - {{ name: everything, match: {{ path: /** }}, require: authenticated }}\n",
        certificate.display(),
        key.display()
    );
    let world = World::with(&yaml, &[]).await;
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let stream = TcpStream::connect(world.address()).await.unwrap();
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let request = Request::get(format!("https://localhost:{}/", world.address().port()))
            .header("host", format!("localhost:{}", world.address().port()))
            .header("authorization", format!("Bearer {}", world.persona("VIEWER").jwt))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = if version == Version::HTTP_2 {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_without_identity_in_them() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-checksum, x-auth-roles\r\n\r\n\
                  2\r\nok\r\n0\r\nx-checksum: 7\r\nx-auth-roles: admin\r\n\r\n";
    let origin = Origin::start(Reply::text(answer)).await;
    let world = World::before(&origin).await;
    let over_http2 = world.send(Ask::get("/public").http2().header("te", "trailers")).await;
    let trailers = over_http2.trailers.expect("no trailers came");
    assert_eq!(trailers.get("x-checksum").unwrap(), "7");
    assert!(!trailers.contains_key("x-auth-roles"));

    let request = "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-auth-member-id, x_auth_roles\r\n\r\n\
                   2\r\nhi\r\n0\r\nx-sum: 1\r\nx-auth-member-id: forged\r\nx_auth_roles: forged\r\n\r\n";
    assert!(raw(world.address(), request).await.starts_with("HTTP/1.1 200"));
    let seen = origin.heads().concat().to_ascii_lowercase();
    assert!(seen.contains("x-sum: 1"), "{seen}");
    assert!(!seen.contains("forged"), "{seen}");
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let origin = Origin::start(Reply::Pieces(vec![
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        "9\r\ndata: 1\n\n\r\n",
        "9\r\ndata: 2\n\n\r\n",
        "0\r\n\r\n",
    ]))
    .await;
    let world = World::before(&origin).await;
    let stream = TokioIo::new(TcpStream::connect(world.address()).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/public").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut arrived = Vec::new();
    while let Some(frame) = body.frame().await {
        arrived.push((Instant::now(), frame.unwrap().into_data().unwrap()));
    }
    assert_eq!(arrived.len(), 2, "the events came in one piece");
    assert!(arrived[1].0 - arrived[0].0 > Duration::from_millis(20), "the first event was held back");
}

#[tokio::test]
async fn a_websocket_is_authorised_like_any_request_and_then_tunnelled() {
    let origin = Origin::start(Reply::Socket).await;
    let world = World::before(&origin).await;
    let request = |path: &str, jwt: Option<&str>| {
        let mut request = format!("ws://{}{path}", world.address()).into_client_request().unwrap();
        // The key the origin's fixed answer belongs to (RFC 6455 section 1.3).
        request.headers_mut().insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        if let Some(jwt) = jwt {
            request.headers_mut().insert("authorization", format!("Bearer {jwt}").parse().unwrap());
        }
        request
    };
    let jwt = world.persona("VIEWER").jwt.as_str();
    let connect = |request| async {
        let stream = TcpStream::connect(world.address()).await.unwrap();
        tokio_tungstenite::client_async(request, stream).await
    };
    let refused = connect(request("/socket", None)).await;
    assert!(format!("{refused:?}").contains("401"), "{refused:?}");
    let not_here = connect(request("/elsewhere", Some(jwt))).await;
    assert!(not_here.is_err());

    let (mut socket, _) = connect(request("/socket", Some(jwt))).await.unwrap();
    // The origin echoes frames as they are; a frame from a client comes back masked, which is not for a client to read.
    socket.send(Message::text("hello")).await.unwrap();
    let back = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.expect("nothing came back");
    assert!(format!("{back:?}").contains("Mask") || format!("{back:?}").contains("hello"), "{back:?}");
    let head = origin.heads().into_iter().find(|head| head.contains("/socket")).unwrap().to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("x-auth-member-id: member-"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
}

#[tokio::test]
async fn a_head_request_keeps_the_length_and_has_no_body() {
    let origin = Origin::start(Reply::text("HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n")).await;
    let world = World::before(&origin).await;
    for _ in 0..3 {
        let answer = world.send(Ask::new("HEAD", "/public")).await;
        assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, "42", 0));
    }
}

#[tokio::test]
async fn options_about_the_gateway_itself_is_answered_here() {
    let origin = Origin::start(Reply::Close).await;
    let world = World::before(&origin).await;
    let answer = raw(world.address(), "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(origin.heads().is_empty());
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    let world = World::start().await;
    let jwt = &world.persona("VIEWER").jwt;
    let body = vec![b'x'; 900_000];
    for ask in [Ask::new("POST", "/"), Ask::new("POST", "/").http2()] {
        let answer = world.send(ask.bearer(jwt).body(body.clone())).await;
        assert_eq!(answer.json()["body_bytes"], 900_000);
    }
}
