//! More than the gateway takes: refused early and by name, and over as soon as it is over.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
