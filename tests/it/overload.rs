//! More than the gateway takes: refused early and by name, and over as soon as it is over.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::shares::until;
use crate::support::{Ask, Origin, Reply, World, try_ask};

const PUBLIC: &str = "routes: [ { name: all, match: { path: /** }, public: true } ]";

#[tokio::test]
async fn past_the_limit_requests_are_refused_at_once() {
    let origin = Origin::start(Reply::Silence).await;
    let world =
        World::with_origin(&format!("limits: {{ max_requests: 2 }}\n{PUBLIC}"), &[], &origin.url()).await;
    let address = world.address();
    let held: Vec<_> =
        (0..2).map(|_| tokio::spawn(async move { try_ask(address, Ask::get("/")).await })).collect();
    while origin.heads().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for ask in [Ask::get("/"), Ask::get("/").http2(), Ask::new("POST", "/").body("unread")] {
        let answer = world.send(ask).await;
        assert_eq!((answer.status, answer.reason().as_str()), (503, "overloaded"));
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(origin.heads().len(), 2);
    let counted = "portcullis_decisions_total{decision=\"refuse\",reason=\"overloaded\",route=\"none\"}";
    assert_eq!(world.metric(counted).await, Some(3.0));
    // Our own pages are answered, revocations among them; and so are probes, by another listener.
    assert_eq!(world.send(Ask::get("/.portcullis/whoami")).await.status, 401);
    assert_eq!(world.ops("/livez").await.status, 200);
    for one in held {
        one.abort();
    }
    while world.metric("portcullis_http_requests_in_flight").await != Some(0.0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let through = tokio::spawn(async move { try_ask(address, Ask::get("/")).await });
    while origin.heads().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    through.abort();
}

#[tokio::test]
async fn one_address_holds_no_more_connections_than_its_share() {
    let world = World::with(&format!("limits: {{ max_connections_per_peer: 2 }}\n{PUBLIC}"), &[]).await;
    let connect = || TcpStream::connect(world.address());
    let is_served = async |stream: &mut TcpStream| {
        drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await);
        stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0)
    };
    let (mut first, mut second) = (connect().await.unwrap(), connect().await.unwrap());
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    assert!(!is_served(&mut connect().await.unwrap()).await);
    drop(first);
    let counted = "portcullis_connections_rejected_total{listener=\"0.0.0.0:8080\",reason=\"peer_limit\"}";
    assert_eq!(world.metric(counted).await, Some(1.0));
    let open = "portcullis_connections_open{listener=\"0.0.0.0:8080\"}";
    while world.metric(open).await != Some(1.0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_served(&mut connect().await.unwrap()).await);
}

#[tokio::test]
async fn one_address_never_takes_every_connection_unless_it_is_a_listed_proxy() {
    let served = async |world: &World| {
        let mut held = Vec::new();
        loop {
            let mut stream = TcpStream::connect(world.address()).await.unwrap();
            drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await);
            if !stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {
                return held.len();
            }
            held.push(stream);
        }
    };
    let limits = format!("limits: {{ max_connections: 20 }}\n{PUBLIC}");
    let unlisted = World::with(&limits, &[]).await;
    assert_eq!(served(&unlisted).await, 10, "half of them by default");
    let proxy = "listeners: [ { address: \"127.0.0.1:0\", forwarded: { from: [127.0.0.0/8] } } ]";
    let listed = World::with(&format!("{limits}\n{proxy}"), &[]).await;
    assert_eq!(served(&listed).await, 20, "a proxy that is listed holds all");
}

#[tokio::test]
async fn a_client_behind_a_listed_balancer_never_takes_every_connection() {
    let connected = async |world: &World, header: &str| {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        let request = format!("{header}\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        drop(stream.write_all(request.as_bytes()).await);
        stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0).then_some(stream)
    };
    let from = |client: &str| format!("PROXY TCP4 {client} 192.0.2.200 4711 443");
    let listener = |more: &str| {
        format!(
            "limits: {{ max_connections: 40, max_connections_per_peer: 4 }}\n{PUBLIC}\nlisteners: [ {{ address: \"127.0.0.1:0\", proxy_protocol: {{ from: [127.0.0.1] }}{more} }} ]"
        )
    };
    let world = World::with(&listener(""), &[]).await;
    let mut held = Vec::new();
    while let Some(stream) = connected(&world, &from("198.51.100.7")).await {
        held.push(stream);
    }
    assert_eq!(held.len(), 4, "the balancer is exempt, and its client is not");
    held.push(connected(&world, &from("198.51.100.8")).await.expect("another client"));
    let six = "PROXY TCP6 2001:db8::1 2001:db8::200 4711 443";
    for _ in 0..4 {
        held.push(connected(&world, six).await.expect("a client of another network"));
    }
    assert!(connected(&world, &six.replace("::1 ", "::2 ")).await.is_none(), "one /64 is one client");
    for own in ["PROXY UNKNOWN", &from("127.0.0.1")] {
        for _ in 0..6 {
            held.push(connected(&world, own).await.expect("the balancer's own"));
        }
    }
    let text = world.ops("/metrics").await.text();
    let counted = text.lines().find(|line| {
        line.starts_with("portcullis_connections_rejected_total") && line.contains("\"peer_limit\"")
    });
    assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{counted:?}");
    // A client that leaves gives its share back.
    held.remove(0);
    until(async || connected(&world, &from("198.51.100.7")).await.is_some()).await;
    let listed = World::with(&listener("").replace("[127.0.0.1]", "[127.0.0.1, 198.51.100.7]"), &[]).await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(connected(&listed, &from("198.51.100.7")).await.expect("a balancer behind the balancer"));
    }
    let chain = World::with(&listener(", forwarded: { from: [127.0.0.1, 198.51.100.7] }"), &[]).await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(
            connected(&chain, &from("198.51.100.7")).await.expect("a listed proxy behind the balancer"),
        );
    }
}
