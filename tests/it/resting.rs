//! Connections that do nothing for a while, and clients that take their time between requests.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::World;

const ASK: &[u8] = b"GET /public/x HTTP/1.1\r\nHost: app.test\r\n\r\n";
/// Longer than it takes until nothing of an idle connection is held but its socket.
const UNTIL_AT_REST: Duration = Duration::from_millis(6500);

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.address()).await.unwrap()
}

/// What comes next, as far as one read brings it.
async fn next_answer(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 8192];
    let count =
        tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

async fn ask(stream: &mut TcpStream) {
    stream.write_all(ASK).await.unwrap();
    assert!(next_answer(stream).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_connection_that_rested_goes_on_where_it_was() {
    let world = World::start().await;
    let (mut stream, mut begun, mut posted) =
        (connect(&world).await, connect(&world).await, connect(&world).await);
    let (first, last) = ASK.split_at(20);
    ask(&mut stream).await;
    // Half of the next head is there before the connection comes to rest.
    ask(&mut begun).await;
    begun.write_all(first).await.unwrap();
    let post = "POST /public/x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nok";
    posted.write_all(post.as_bytes()).await.unwrap();
    assert!(next_answer(&mut posted).await.starts_with("HTTP/1.1 200 OK"));
    tokio::time::sleep(UNTIL_AT_REST).await;
    stream.write_all(first).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for half in [&mut stream, &mut begun] {
        half.write_all(last).await.unwrap();
        assert!(next_answer(half).await.starts_with("HTTP/1.1 200 OK"));
    }
    ask(&mut posted).await;
}

#[tokio::test]
async fn connections_at_rest_and_half_heads_do_not_hold_up_the_end() {
    let world = World::start().await;
    let (mut resting, mut half) = (connect(&world).await, connect(&world).await);
    ask(&mut resting).await;
    ask(&mut half).await;
    tokio::time::sleep(UNTIL_AT_REST).await;
    half.write_all(b"GET").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = std::time::Instant::now();
    assert!(world.gateway.shut_down().await, "a connection without a request held up the end");
    assert!(began.elapsed() < Duration::from_secs(8));
    for stream in [&mut resting, &mut half] {
        assert_eq!(next_answer(stream).await, "");
    }
}

#[tokio::test]
async fn whoever_trickles_a_next_head_loses_the_connection_all_the_same() {
    let yaml = "limits: { idle_timeout: 500ms }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    let mut stream = connect(&world).await;
    ask(&mut stream).await;
    let trickling = async {
        for byte in b"GET / HTTP/1.1\r\nHost: app.test\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).await.is_err() || is_gone(&stream) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), trickling).await.is_ok(), "it was let trickle");
}

/// Whether the other end closed.
fn is_gone(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
