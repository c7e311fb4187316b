//! Connections to an application that many requests share: one request's trouble is not the others'.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::grpc::{Client, Server, before, certificates};
use crate::support::ANY;

#[tokio::test]
async fn answers_nobody_reads_do_not_hold_up_the_others() {
    let server = Server::start(None).await;
    let world = before(&format!("http://{}", server.address), "").await;
    let mut slow = Client::connect(&world).await;
    let jwt = slow.jwt.clone();
    let mut unread = Vec::new();
    for _ in 0..7 {
        unread.push(slow.call("Large", &jwt).await);
    }
    let mut quick = Client::connect(&world).await;
    let within = tokio::time::timeout(Duration::from_secs(5), quick.unary("Count"));
    assert_eq!(within.await.expect("it was held up").1.len(), 900);
}

/// Whoever waited for a connection that cannot be made does not wait for the next attempt, and the next.
#[tokio::test]
async fn an_application_that_cannot_be_connected_to_is_told_to_all_at_once() {
    let silent = TcpListener::bind(ANY).await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let world = before(&url, ", connect_timeout: 500ms, deadline: 20s").await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Client::connect(&world).await);
    }
    let began = Instant::now();
    let calls: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { client.unary("Echo").await }))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().2["grpc-status"], "14");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_shown_to_an_application_is_read_again_when_it_changes() {
    crate::support::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Some(certificates(folder.path()))).await;
    let at = folder.path().display();
    let saved = std::fs::read(folder.path().join("client.pem")).unwrap();
    let key = std::fs::read(folder.path().join("client.key")).unwrap();
    // A pair of somebody else's, to begin with.
    let other = tempfile::tempdir().unwrap();
    drop(certificates(other.path()));
    for name in ["client.pem", "client.key"] {
        std::fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
    }
    let tls = format!(
        ", idle_timeout: 1s, tls: {{ ca_file: {at}/ca.pem, certificate: {at}/client.pem, key: {at}/client.key, server_name: grpc.internal }}"
    );
    let world = before(&format!("https://{}", server.address), &tls).await;
    let mut client = Client::connect(&world).await;
    assert_eq!(client.unary("Echo").await.2["grpc-status"], "14");
    std::fs::write(folder.path().join("client.pem"), saved).unwrap();
    std::fs::write(folder.path().join("client.key"), key).unwrap();
    let began = Instant::now();
    while client.unary("Echo").await.2["grpc-status"] != "0" {
        assert!(began.elapsed() < Duration::from_secs(20), "it was not read again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
