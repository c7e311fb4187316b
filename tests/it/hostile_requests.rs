//! Requests no client would send: each ends in a refusal or a closed connection, and never at the origin.

use crate::support::{Ask, Origin, Reply, World, raw};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What is sent, and the status that comes back; 0 where the connection just closes.
fn cases() -> Vec<(String, u16)> {
    let with = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n\r\n");
    let get = |fields: &str| with("GET /public HTTP/1.1", fields);
    let post =
        |fields: &str, body: &str| format!("POST /public HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    vec![
        // Hosts.
        (get("X: 1"), 400),
        (get("Host:"), 400),
        (get("Host: a\r\nHost: a"), 400),
        (get("Host: a\r\nHost: b"), 400),
        (get("Host: user@a"), 400),
        (get("Host: a, b"), 400),
        (get("Host: a/b"), 400),
        (get("Host: a:99999"), 400),
        ("GET http://b/public HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        // Framing.
        (post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding: identity", "0\r\n\r\n"), 400),
        (post("Content-Length: 1\r\nContent-Length: 2", "x"), 400),
        (post("Content-Length: +1", "x"), 400),
        (post("Content-Length: 1, 1", "x"), 400),
        (post("Content-Length: -1", "x"), 400),
        // Shape.
        (get("Host: a\r\nX : 1"), 400),
        (get("Host: a\r\n folded: 1"), 400),
        (get("Host: a\r\nX: a\0b"), 400),
        ("GET /public\r\n\r\n".into(), 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into(), 405),
        // Targets.
        (target("/public/../admin/..//x"), 400),
        (target("/public%2f..%2fadmin"), 400),
        (target("/public/..;/admin"), 400),
        (target("/public/%2e%2e/%2e%2e/admin"), 400),
        (target("/public\\..\\admin"), 400),
        (target("/public/%5c..%5cadmin"), 400),
        (target("/public/%00"), 400),
        (target("/public/%252e%252e/admin"), 400),
        (target("/public/%c0%ae%c0%ae/admin"), 400),
        (target("/public/%zz"), 400),
        (target("//public"), 400),
        (target("public"), 400),
        (target("*"), 400),
        (target("/public/\u{e9}"), 400),
        (target("/public?q=\u{e9}"), 400),
        (target("/PUBLIC"), 400),
        (target("/public/../admin"), 401),
        (target("/.portcullis/x"), 404),
        (target("/%2eportcullis/x"), 404),
    ]
}

#[tokio::test]
async fn nothing_ambiguous_reaches_the_origin() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    for (request, status) in cases() {
        let answer = raw(world.address(), &request).await;
        let found: u16 = answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_default();
        assert_eq!(found, status, "{request:?} -> {answer:?}");
        if status == 400 {
            assert!(answer.to_ascii_lowercase().contains("connection: close"), "{request:?} -> {answer:?}");
        }
    }
    assert!(origin.heads().is_empty(), "{:?}", origin.heads());
}

#[tokio::test]
async fn http_1_0_chunks_and_what_hyper_folds_are_not_forwarded_as_they_came() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    let old = "POST /public HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(raw(world.address(), old).await.contains(" 400 "));
    assert!(origin.heads().is_empty());
    // Length and chunks at once: one of the two goes before anybody behind us reads it.
    let both = "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    raw(world.address(), both).await;
    for head in origin.heads() {
        let head = head.to_ascii_lowercase();
        assert!(!(head.contains("content-length") && head.contains("transfer-encoding")), "{head}");
    }
}

#[tokio::test]
async fn upgrades_that_were_not_asked_for_by_the_route_are_plain_requests() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    for upgrade in ["h2c", "websocket", "TLS/1.0"] {
        let request = format!(
            "GET /public HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        assert!(raw(world.address(), request).await.starts_with("HTTP/1.1 200"));
    }
    let seen = origin.heads().concat().to_ascii_lowercase();
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn limits_on_heads_are_kept() {
    let world = World::start().await;
    let long = format!("GET /public HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    assert!(raw(world.address(), long).await.starts_with("HTTP/1.1 431"));
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let many = format!("GET /public HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    assert!(raw(world.address(), many).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn silent_and_slow_clients_lose_their_place() {
    let yaml = "limits: { header_timeout: 300ms, idle_timeout: 300ms }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    for beginning in ["", "PR", "GET / HTT", "PRI * HTTP/2.0\r\n\r\nSM"] {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed =
            tokio::time::timeout(std::time::Duration::from_secs(8), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{beginning:?} was let wait");
    }
    assert!(world.metric("portcullis_connections_rejected_total").await.unwrap() >= 1.0);
}

#[tokio::test]
async fn connections_past_the_limit_are_closed_and_counted() {
    let yaml =
        "limits: { max_connections: 2 }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    let held: Vec<_> = [(), ()].iter().map(|()| tokio::net::TcpStream::connect(world.address())).collect();
    let mut open = Vec::new();
    for connection in held {
        open.push(connection.await.unwrap());
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(raw(world.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    drop(open);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(world.send(Ask::get("/")).await.status, 200);
}

/// A client that asks for much and takes nothing, over HTTP/2 by opening no window and over HTTP/1.1 by not reading.
#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection() {
    use tokio::io::AsyncWriteExt;
    let body = vec![b'x'; 30_000_000];
    let mut large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    large.extend(body);
    let origin = Origin::start(Reply::Bytes(large)).await;
    let yaml = "limits: { write_timeout: 300ms }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[("upstreams.app.url", &origin.url())]).await;
    let open =
        || async { world.metric("portcullis_connections_open{listener=\"127").await.unwrap_or_default() };

    let stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/", world.address()));
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let unread = sender.send_request(request).await.unwrap();

    let mut silent = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    while origin.heads().len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let began = std::time::Instant::now();
    while open().await > 0.0 {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "a client that takes nothing was kept");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop((unread, silent));
}

/// An idle HTTP/2 connection answers our pings; that is no reason to keep it.
#[tokio::test]
async fn an_idle_http_2_connection_ends() {
    let yaml = "limits: { idle_timeout: 300ms }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    let stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let ended = tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/", world.address()));
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let within = tokio::time::timeout(std::time::Duration::from_secs(10), ended).await;
    assert!(within.is_ok(), "an idle connection was kept");
}

#[tokio::test]
async fn what_connection_names_does_not_reach_the_origin_nor_can_it_name_ours_away() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    let named = "cookie, trailer, x-mine, x-forwarded-for, host, x-request-id";
    let fields = "Cookie: theme=dark\r\nTrailer: x-sum\r\nX-Mine: 1\r\nX-Yours: 1";
    for named in [named.to_owned(), format!("{}{named}", "x-never, ".repeat(1500))] {
        let answer = raw(
            world.address(),
            format!("GET /public HTTP/1.1\r\nHost: a\r\nConnection: {named}\r\n{fields}\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let head = origin.heads().pop().unwrap().to_ascii_lowercase();
        for gone in ["cookie:", "trailer:", "x-mine:", "connection:"] {
            assert!(!head.contains(gone), "{gone} {head}");
        }
        for there in ["\r\nhost: a\r\n", "x-yours: 1", "x-forwarded-for: 127.0.0.1", "x-request-id: "] {
            assert_eq!(head.matches(there).count(), 1, "{there} {head}");
        }
    }
}
