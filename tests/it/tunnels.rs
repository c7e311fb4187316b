//! WebSocket tunnels whose session ends: nothing goes on in either direction, whatever the client does.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{ANY, World};

const YAML: &str = r#"
admin: { address: "127.0.0.1:0", token: { value: a-token-of-some-length } }
routes: [ { name: everything, match: { path: /** }, require: authenticated, websocket: true } ]
"#;
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An origin that switches, and then does what it is told with the socket.
async fn origin<F>(then: impl Fn(TcpStream, Arc<AtomicU64>) -> F + Send + 'static) -> (World, Arc<AtomicU64>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(ANY).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(SWITCH.as_bytes()).await.unwrap();
            tokio::spawn(then(stream, Arc::clone(&count)));
        }
    });
    (World::with_origin(YAML, &[], &url).await, received)
}

/// Counts what arrives until nothing more does.
async fn count(mut from: impl tokio::io::AsyncRead + Unpin, received: Arc<AtomicU64>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        received.fetch_add(u64::try_from(read).unwrap(), Ordering::Relaxed);
    }
}

async fn open(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        world.address(),
        world.persona("VIEWER").jwt
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

async fn revoke(world: &World) {
    let body = json!({ "member_session_id": world.persona("VIEWER").session_id, "upstream": true });
    assert_eq!(world.admin(body).await.status, 200);
}

/// Sends until that fails; how long it took.
async fn send_until_closed(stream: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Duration {
    let began = Instant::now();
    // A masked text frame of one byte.
    while stream.write_all(&[0x81, 0x81, 1, 2, 3, 4, b'x' ^ 1]).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "the tunnel goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_cannot_keep_its_tunnel() {
    // Unmasked frames of 64 KiB without an end: the client's buffers are soon full, and the gateway waits to write.
    let mut frame = vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0];
    frame.resize(frame.len() + 65_536, b'x');
    let (world, received) = origin(move |stream, received| {
        let frame = frame.clone();
        async move {
            let (from, mut to) = stream.into_split();
            tokio::spawn(async move { while to.write_all(&frame).await.is_ok() {} });
            count(from, received).await;
        }
    })
    .await;
    let (_unread, mut to) = open(&world).await.into_split();
    for _ in 0..50 {
        to.write_all(&[0x81, 0x81, 1, 2, 3, 4, b'x' ^ 1]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(received.load(Ordering::Relaxed) > 0);
    revoke(&world).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = received.load(Ordering::Relaxed);
    let took = send_until_closed(&mut to).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(received.load(Ordering::Relaxed), before, "something reached the origin after the revocation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_closed_its_half_leaves_no_way_open() {
    let (world, received) = origin(|mut stream, received| async move {
        stream.shutdown().await.unwrap();
        count(stream, received).await;
    })
    .await;
    let mut stream = open(&world).await;
    for _ in 0..10 {
        stream.write_all(&[0x81, 0x81, 1, 2, 3, 4, b'x' ^ 1]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(received.load(Ordering::Relaxed) > 0, "half a tunnel goes on while the session does");
    revoke(&world).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = received.load(Ordering::Relaxed);
    let took = send_until_closed(&mut stream).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(received.load(Ordering::Relaxed), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_was_begun_is_finished_first_and_one_that_never_ends_is_cut() {
    // A frame of a hundred bytes whose last fifty come later, or never.
    let begun = [vec![0x82, 100], vec![b'x'; 50]].concat();
    let rest = [vec![b'y'; 50], vec![0x82, 1, b'z']].concat();
    for more in [rest, Vec::new()] {
        let finishes = !more.is_empty();
        let (first, go) = (begun.clone(), Arc::new(Notify::new()));
        let told = Arc::clone(&go);
        let (world, _) = origin(move |mut stream, _| {
            let (first, more, told) = (first.clone(), more.clone(), Arc::clone(&told));
            async move {
                stream.write_all(&first).await.unwrap();
                told.notified().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(stream.write_all(&more).await);
                std::future::pending::<()>().await;
            }
        })
        .await;
        let mut stream = open(&world).await;
        let mut read = vec![0; 52];
        stream.read_exact(&mut read).await.unwrap();
        revoke(&world).await;
        go.notify_one();
        let began = Instant::now();
        let mut tail = Vec::new();
        drop(tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut tail)).await.unwrap());
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        if finishes {
            assert_eq!(tail[..50], [b'y'; 50]);
            assert_eq!(
                tail[50..54],
                [0x88, tail[51], 0x03, 0xf0],
                "then a close frame with 1008, and no other"
            );
            assert_eq!(tail.len(), 52 + usize::from(tail[51]));
        } else {
            assert!(tail.is_empty(), "{tail:?}");
        }
    }
}
