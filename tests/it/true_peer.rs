//! Who a request comes from when proxies stand in front: the PROXY protocol, `X-Forwarded-*`, `Forwarded`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::configuration::{GOOD, mistakes};
use crate::support::{ANY, Ask, Running, World, free_port, is_here, is_here_with, raw};

/// A gateway whose listener has `more` to it, with a route for one network and one for everybody.
async fn world(more: &str) -> World {
    let yaml = format!(
        "listeners: [ {{ address: \"{ANY}\", name: front, {more} }} ]
routes:
  - {{ name: near, match: {{ path: /near }}, require: {{ all: [ authenticated, {{ client_ip: [203.0.113.0/24] }} ] }} }}
  - {{ name: open, match: {{ path: /** }}, public: true }}
"
    );
    World::with(&yaml, &[]).await
}

const TRUSTING: &str = "forwarded: { from: [127.0.0.0/8] }";

#[tokio::test]
async fn nobody_is_believed_who_is_not_listed() {
    for more in ["forwarded: { from: [192.0.2.0/24] }", "tls: null"] {
        let world = world(more).await;
        let answer = world
            .send(
                Ask::get("/")
                    .header("x-forwarded-for", "203.0.113.7")
                    .header("x-forwarded-proto", "https")
                    .header("x-forwarded-host", "evil.example")
                    .header("forwarded", "for=203.0.113.7;proto=https")
                    .header("x-request-id", "4bf92f3577b34da6a3ce929d0e0e4736")
                    .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                    .header("tracestate", "a=b"),
            )
            .await;
        assert_eq!(answer.seen("x-forwarded-for").unwrap(), "127.0.0.1");
        assert_eq!(answer.seen("x-forwarded-proto").unwrap(), "http");
        assert_eq!(answer.seen("x-forwarded-host").unwrap(), world.address().to_string());
        assert!(answer.seen("forwarded").unwrap().starts_with("for=127.0.0.1;"));
        assert!(!answer.seen("x-request-id").unwrap().starts_with("4bf9"));
        assert!(!answer.seen("traceparent").unwrap().contains("4bf9"));
        assert_eq!(answer.seen("tracestate"), None);
    }
}

#[tokio::test]
async fn what_a_listed_proxy_says_is_believed_and_told_anew() {
    let world = world(TRUSTING).await;
    let jwt = world.persona("VIEWER").jwt.clone();
    let near = |list: &str| Ask::get("/near").bearer(&jwt).header("x-forwarded-for", list);
    let answer = world
        .send(
            near("198.51.100.1, 203.0.113.7, 127.0.0.9")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-host", "evil.example")
                .header("x-forwarded-port", "1")
                .header("forwarded", "for=198.51.100.1")
                .header("x-request-id", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736")
                .header("traceparent", "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-01")
                .header("tracestate", "a=b"),
        )
        .await;
    assert_eq!(answer.seen("x-forwarded-for").unwrap(), "203.0.113.7, 127.0.0.9, 127.0.0.1");
    let host = world.address();
    let forwarded = format!("for=203.0.113.7;host=\"{host}\";proto=https, for=127.0.0.9, for=127.0.0.1");
    assert_eq!(answer.seen("forwarded").unwrap(), forwarded);
    assert_eq!(answer.seen("x-forwarded-proto").unwrap(), "https");
    assert_eq!(answer.seen("x-forwarded-host").unwrap(), host.to_string());
    assert_eq!(answer.seen("x-forwarded-port"), None);
    assert_eq!(answer.seen("x-request-id").unwrap(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(answer.header("x-request-id"), "4bf92f3577b34da6a3ce929d0e0e4736");
    let trace = answer.seen("traceparent").unwrap();
    assert!(trace.starts_with("00-aaaaaaaa") && trace.ends_with("-01"), "{trace}");
    assert_eq!(answer.seen("tracestate").unwrap(), "a=b");
    let line = world.lines.find(&["\"path\":\"/near\"", "\"status\":200"]).await;
    assert_eq!(line["client_ip"], "203.0.113.7");

    // A proxy that does not know its client makes nobody of it: not itself, nor whoever is named beside.
    for odd in ["\u{e9}", "unknown", "203.0.113.7, x", "203.0.113.7,"] {
        assert_eq!(world.send(near(odd)).await.reason(), "evidence_unknown", "{odd}");
    }
    let unknown = world.send(Ask::get("/").header("x-forwarded-for", "unknown")).await;
    assert_eq!(unknown.seen("x-forwarded-for").unwrap(), "unknown, 127.0.0.1");
    assert!(unknown.seen("forwarded").unwrap().starts_with("for=unknown;"));

    // Whatever stands left of the client, the client wrote.
    let refused = world.send(near("203.0.113.7, 198.51.100.1")).await;
    assert_eq!(refused.reason(), "client_ip_forbidden");
}

#[tokio::test]
async fn only_the_field_the_proxies_write_is_read() {
    let world = world("forwarded: { from: [127.0.0.1], header: forwarded, host: true }").await;
    let ask = Ask::get("/")
        .header("forwarded", "for=\"[2001:db8::7]:80\";proto=https;host=app.example")
        .header("x-forwarded-for", "198.51.100.1")
        .header("x-forwarded-proto", "http")
        .header("x-forwarded-host", "evil.example");
    let answer = world.send(ask).await;
    assert_eq!(answer.seen("x-forwarded-for").unwrap(), "2001:db8::7, 127.0.0.1");
    assert_eq!(
        answer.seen("forwarded").unwrap(),
        "for=\"[2001:db8::7]\";host=\"app.example\";proto=https, for=127.0.0.1"
    );
    assert_eq!(answer.seen("host").unwrap(), "app.example");
    for host in ["a b", "a@b", "", "a/b", "a:b"] {
        let odd = Ask::get("/").header("forwarded", &format!("for=192.0.2.1;host=\"{host}\""));
        let answer = world.send(odd).await;
        assert_eq!((answer.status, answer.reason().as_str()), (400, "host_invalid"), "{host}");
    }
}

/// A trusted identity rests on the socket, whatever address a header names.
#[tokio::test]
async fn no_header_makes_a_trusted_peer() {
    let yaml = format!(
        "listeners: [ {{ address: \"{ANY}\", {TRUSTING} }} ]
credentials: [ {{ trusted_identity: {{ organization_header: x-org, member_header: x-member, peers: [203.0.113.7] }} }} ]
routes: [ {{ name: all, match: {{ path: /** }}, require: authenticated }} ]
"
    );
    let world = World::with(&yaml, &[]).await;
    let viewer = world.persona("VIEWER");
    let ask = Ask::get("/")
        .header("x-org", &viewer.organization_id)
        .header("x-member", &viewer.member_id)
        .header("x-forwarded-for", "203.0.113.7");
    assert_eq!(world.send(ask).await.reason(), "credential_missing");
}

const PROXIED: &str = "proxy_protocol: { from: [127.0.0.0/8] }";
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_header_of_the_proxy_protocol_names_the_client() {
    let world = world(PROXIED).await;
    let line = |line: &str| [line.as_bytes(), b"\r\n", REQUEST.as_bytes()].concat();
    let binary = |command: u8, family: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body, REQUEST.as_bytes()].concat()
    };
    let four = [203, 0, 113, 7, 10, 0, 0, 1, 1, 2, 3, 4];
    let tls = [&four[..], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
    for (bytes, client, proto) in [
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 4711 443"), "203.0.113.7, 127.0.0.1", "http"),
        (line("PROXY TCP6 2001:db8::7 ::1 4711 443"), "2001:db8::7, 127.0.0.1", "http"),
        (line("PROXY UNKNOWN"), "unknown, 127.0.0.1", "http"),
        (binary(0x21, 0x11, &four), "203.0.113.7, 127.0.0.1", "http"),
        (binary(0x21, 0x11, &tls), "203.0.113.7, 127.0.0.1", "https"),
        (binary(0x20, 0x00, &[]), "127.0.0.1", "http"),
    ] {
        let text = raw(world.address(), bytes).await;
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
        let seen: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(seen["headers"]["x-forwarded-for"], client);
        assert_eq!(seen["headers"]["x-forwarded-proto"], proto);
    }
}

#[tokio::test]
async fn whoever_must_begin_with_it_and_does_not_is_cut_off() {
    let world = world(PROXIED).await;
    for bytes in [
        REQUEST.as_bytes().to_vec(),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711\r\n".to_vec(),
        [b"PROXY ", &[b'x'; 200][..], b"\r\n"].concat(),
        [&b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"[..], &[0; 12], REQUEST.as_bytes()].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ] {
        assert_eq!(raw(world.address(), &bytes).await, "", "{:?}", String::from_utf8_lossy(&bytes));
    }
    let cut = "portcullis_connections_rejected_total{listener=\"front\",reason=\"proxy_protocol\"}";
    assert_eq!(world.metric(cut).await, Some(5.0));
    // And where nobody must, it is no request.
    let plain = self::world("forwarded: { from: [127.0.0.1] }").await;
    let text = raw(plain.address(), ["PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n", REQUEST].concat()).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_the_proxy_protocol() {
    if !is_here("curl") {
        return;
    }
    let world = world(PROXIED).await;
    let url = format!("http://{}/", world.address());
    let out = tokio::task::spawn_blocking(move || {
        Command::new("curl").args(["-s", "--haproxy-protocol", &url]).output()
    });
    let seen: serde_json::Value = serde_json::from_slice(&out.await.unwrap().unwrap().stdout).unwrap();
    // It names itself.
    assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.1, 127.0.0.1");
}

/// HAProxy in front, which writes version 2, and a proxy in front of that, which writes a header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_in_front_is_seen_through() {
    if !is_here_with("haproxy", "-v") {
        return;
    }
    let world = world(&format!("{PROXIED}, forwarded: {{ from: [127.0.0.0/8, 192.0.2.9] }}")).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("haproxy.cfg");
    let port = free_port();
    std::fs::write(
        &config,
        format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
             listen front\n bind 127.0.0.1:{port}\n server gateway {} send-proxy-v2\n",
            world.address()
        ),
    )
    .unwrap();
    let _haproxy = Running(
        Command::new("haproxy")
            .arg("-f")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let front = format!("127.0.0.1:{port}").parse().unwrap();
    let began = Instant::now();
    while tokio::net::TcpStream::connect(front).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "HAProxy did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ask = Ask::get("/").header("x-forwarded-for", "198.51.100.1, 203.0.113.7");
    let answer = crate::support::ask(front, ask).await;
    assert_eq!(answer.seen("x-forwarded-for").unwrap(), "203.0.113.7, 127.0.0.1, 127.0.0.1");
}

#[test]
fn mistakes_around_proxies_are_found() {
    let rows = [
        ("forwarded: {}", "C005", "nobody is believed"),
        ("forwarded: { from: [0.0.0.0/0] }", "C004", "everybody"),
        ("forwarded: { from: ['::/0'] }", "C004", "everybody"),
        ("forwarded: { from: [balancer] }", "C004", "neither a network nor an address"),
        ("forwarded: { from: [10.0.0.0/8], header: x-real-ip }", "C004", "not how proxies tell"),
        ("proxy_protocol: { from: [] }", "C005", "nobody is believed"),
        ("proxy_protocol: { from: [10.0.0.0/33] }", "C004", "neither a network nor an address"),
    ];
    for (more, code, part) in rows {
        let told = mistakes(&format!("listeners: [ {{ address: 0.0.0.0:8080, {more} }} ]\n{GOOD}"));
        assert_eq!(told.len(), 1, "{more}: {told:?}");
        assert!(told[0].0 == code && told[0].2.contains(part), "{more}: {told:?}");
    }
}
