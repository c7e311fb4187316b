//! Header fields by their names: which of a client's never reach an application, and what the gateway does about methods and
//! hosts on its way.

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Ask, Origin, Reply, World, raw};

const ROUTES: &str = r#"
sessions: { deadline: 1s }
limits: { max_headers: 30 }
routes:
  - { name: public, match: { path: /public/** }, public: true }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The fields of the last request that the origin received, in lower case.
fn received(origin: &Origin) -> String {
    origin.heads().last().unwrap().to_ascii_lowercase()
}

/// Every byte that HTTP allows in a name, around a name that frames a message and one that carries identity.
#[tokio::test]
async fn no_spelling_of_a_name_that_another_reader_could_take_for_ours_goes_on() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::with_origin(ROUTES, &[("limits.max_headers", "200")], &origin.url()).await;
    let odd = "!#$%&'*+.^_`|~";
    let mut fields = String::new();
    for byte in odd.chars() {
        for name in ["Transfer-Encoding", "X-Auth-Roles", "Custom"] {
            fields.push_str(&format!("{byte}{name}: chunked\r\n{name}{byte}: chunked\r\n"));
            fields.push_str(&format!("{}: chunked\r\n", name.replace('-', &byte.to_string())));
        }
    }
    // `Custom` has no `-`, and stays what it is.
    let fields: String = fields
        .lines()
        .filter(|line| !line.starts_with("Custom:"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    let sent =
        format!("GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Plain: 1\r\n{fields}\r\n");
    let answered = raw(world.address(), sent.as_bytes()).await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    let head = received(&origin);
    assert!(head.contains("x-plain: 1"), "{head}");
    for word in ["transfer", "roles", "custom"] {
        assert!(!head.contains(word), "{word} in {head}");
    }
    assert!(world.metric("portcullis_http_fields_dropped_total").await.unwrap() >= 60.0);
}

#[tokio::test]
async fn names_of_users_certificates_and_addresses_are_removed_and_may_be_kept() {
    let names = [
        "Remote-User",
        "X-Remote-User",
        "X-WebAuth-User",
        "SSL-Client-Verify",
        "X-SSL-Client-S-DN",
        "Client-Cert",
        "Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Fastly-Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "X-Real-IP",
        "X-Forwarded",
        "Forwarded-For",
        "Proxy",
        "X-Original-Method",
        "X-Original-Host",
        "X-Override-URL",
        "X-Envoy-Original-Path",
        "X-Accel-Redirect",
    ];
    let asked = || {
        names.iter().fold(Ask::get("/public/x"), |ask, name| ask.header(&name.to_ascii_lowercase(), "forged"))
    };
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::with_origin(ROUTES, &[], &origin.url()).await;
    assert_eq!(world.send(asked()).await.status, 200);
    assert!(!received(&origin).contains("forged"), "{}", received(&origin));

    let keep = "identity: { keep: [x-original-host, cf-connecting-ip], remove: [x-legacy] }\n";
    let world = World::with_origin(&format!("{keep}{ROUTES}"), &[], &origin.url()).await;
    assert_eq!(world.send(asked().header("x-legacy", "forged")).await.status, 200);
    let head = received(&origin);
    assert!(head.contains("x-original-host: forged") && head.matches("forged").count() == 1, "{head}");
    // An address passes once the listener lists the proxy that sent it.
    let listed = format!(
        "{keep}listeners: [ {{ address: \"127.0.0.1:0\", forwarded: {{ from: [127.0.0.1] }} }} ]\n{ROUTES}"
    );
    let world = World::with_origin(&listed, &[], &origin.url()).await;
    assert_eq!(world.send(asked()).await.status, 200);
    let head = received(&origin);
    assert!(head.contains("cf-connecting-ip: forged") && head.matches("forged").count() == 2, "{head}");
}

#[tokio::test]
async fn trace_is_refused_and_an_options_that_ends_here_is_answered_here() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::with_origin(ROUTES, &[], &origin.url()).await;
    for path in ["/public/x", "/page"] {
        let refused = world.send(Ask::new("TRACE", path)).await;
        assert_eq!((refused.status, refused.reason().as_str()), (405, "method_not_allowed"));
        assert!(refused.header("allow").contains("GET"));
    }
    let here = world.send(Ask::new("OPTIONS", "/public/x").header("max-forwards", "0")).await;
    assert_eq!((here.status, origin.heads().len()), (204.try_into().unwrap(), 0));
    // Only what may pass is answered so.
    let refused = world.send(Ask::new("OPTIONS", "/page").header("max-forwards", "0")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(world.send(Ask::new("OPTIONS", "/public/x").header("max-forwards", "7")).await.status, 200);
    assert!(received(&origin).contains("max-forwards: 6"));
}

#[tokio::test]
async fn the_host_that_is_forwarded_is_the_one_that_was_matched() {
    let origin = Origin::start(Reply::text(OK)).await;
    let yaml = "routes: [ { name: app, match: { host: app.example.com, path: /** }, public: true } ]\n";
    let world = World::with_origin(yaml, &[], &origin.url()).await;
    for (sent, forwarded) in [
        ("app.example.com", "app.example.com"),
        ("APP.example.com.", "app.example.com"),
        ("app.example.com:", "app.example.com"),
        ("app.example.com.:8080", "app.example.com:8080"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {sent}\r\nConnection: close\r\n\r\n");
        let answered = raw(world.address(), request.as_bytes()).await;
        assert!(answered.starts_with("HTTP/1.1 200"), "{sent}");
        let head = received(&origin);
        assert!(head.contains(&format!("host: {forwarded}\r\n")), "{head}");
        assert!(head.contains(&format!("x-forwarded-host: {forwarded}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn the_number_of_fields_is_bounded_over_http_2_too() {
    let world = World::with(ROUTES, &[]).await;
    let many = |count: usize, name: &str| {
        let ask = Ask::get("/public/x").http2();
        (0..count).fold(ask, |ask, number| ask.header(&name.replace('N', &number.to_string()), "a=b"))
    };
    assert_eq!(world.send(many(20, "x-N")).await.status, 200);
    let refused = world.send(many(40, "x-N")).await;
    assert_eq!((refused.status, refused.reason().as_str()), (431, "headers_too_many"));
    assert_eq!(world.send(many(40, "cookie")).await.status, 200, "crumbs of one field");
}

const SOCKETS: &str = r#"
sessions: { deadline: 1s }
routes:
  - { name: own, match: { path: /own }, require: authenticated, websocket: true }
  - name: listed
    match: { path: /listed }
    require: authenticated
    websocket: { origins: ["https://app.example.com"] }
  - { name: public, match: { path: /public }, public: true, websocket: true }
"#;

/// A page of another site opens no WebSocket with a cookie that the browser attaches by itself, over either version of HTTP.
#[tokio::test]
async fn a_websocket_is_opened_by_pages_of_ours_and_listed_ones() {
    let origin = Origin::start(Reply::Socket).await;
    let world = World::with_origin(SOCKETS, &[], &origin.url()).await;
    let viewer = world.persona("VIEWER");
    let (cookie, bearer) = (
        format!("Cookie: stytch_session_jwt={}", viewer.jwt),
        format!("Authorization: Bearer {}", viewer.jwt),
    );
    let none = String::new();
    for (path, credential, page, status) in [
        ("/own", &cookie, "http://app.test", 101),
        ("/own", &cookie, "https://app.test", 101),
        ("/own", &cookie, "https://app.test:8443", 403),
        ("/own", &cookie, "https://evil.example", 403),
        ("/own", &cookie, "null", 403),
        ("/own", &cookie, "", 101),
        ("/own", &bearer, "https://evil.example", 101),
        ("/own", &none, "https://evil.example", 401),
        ("/listed", &cookie, "https://app.example.com", 101),
        ("/listed", &cookie, "https://app.test", 101),
        ("/listed", &cookie, "https://app.example.com.evil.example", 403),
        ("/listed", &cookie, "https://APP.example.com", 403),
        ("/public", &none, "https://evil.example", 101),
    ] {
        let page = if page.is_empty() { none.clone() } else { format!("Origin: {page}") };
        let fields: String = [credential, &page]
            .iter()
            .filter(|field| !field.is_empty())
            .map(|field| format!("{field}\r\n"))
            .collect();
        let sent = format!(
            "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
        );
        let answered = raw(world.address(), sent.as_bytes()).await;
        assert!(answered.starts_with(&format!("HTTP/1.1 {status}")), "{path} {fields} {answered}");
        assert!(status != 403 || answered.contains("foreign_origin"), "{answered}");
    }
}

#[tokio::test]
async fn a_websocket_over_http_2_is_held_to_the_same_rule() {
    let origin = Origin::start(Reply::Socket).await;
    let world = World::with_origin(SOCKETS, &[], &origin.url()).await;
    let stream = TokioIo::new(tokio::net::TcpStream::connect(world.address()).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    // The peer's settings allow extended CONNECT once they are there.
    sender.ready().await.unwrap();
    let mut found = Vec::new();
    for page in ["http://app.test", "https://evil.example"] {
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri("http://app.test/own")
            .header("origin", page)
            .header("sec-websocket-version", "13")
            .header("cookie", format!("stytch_session_jwt={}", world.persona("VIEWER").jwt))
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let reason = if status == 403 {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()["reason"].clone()
        } else {
            drop(response.into_body().into_data_stream().next());
            serde_json::Value::Null
        };
        found.push((status, reason));
    }
    // The test's origin answers one key alone, which is not the gateway's: what may pass is refused as its mistake.
    assert_eq!(found[0].0, 502);
    assert_eq!(found[1], (403, "foreign_origin".into()));
}
