//! Floods over HTTP/2 and floods of names: each by its name, and good callers are served beside it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Ask, World, try_ask};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /public` of `a`, or `POST` with its body to come (RFC 7541, static table).
fn head(method: u8) -> Vec<u8> {
    [&[method, 0x86, 0x04, 7][..], b"/public", &[0x01, 1, b'a']].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// What became of a connection that was written to for so long: whether it was ended, and how many bytes it took.
struct Flooded {
    ended: bool,
    written: usize,
}

/// Writes `next(n)` over and over, reading what comes.
async fn flood(address: SocketAddr, seconds: f64, mut next: impl FnMut(u32) -> Vec<u8>) -> Flooded {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            read.extend_from_slice(&buffer[..count]);
            // As far as whole frames go; the last tells of the end.
            while let Some(head) = read.first_chunk::<9>() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let kind = head[3];
                if read.len() < 9 + length {
                    break;
                }
                read.drain(..9 + length);
                if kind == GOAWAY {
                    return;
                }
            }
        }
    });
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut written = 0;
    let mut piece = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
    let mut number = 0;
    while Instant::now() < until && !reading.is_finished() {
        let sending = tokio::time::timeout(Duration::from_millis(500), to.write_all(&piece));
        match sending.await {
            Ok(Ok(())) => written += piece.len(),
            Ok(Err(_)) => break,
            // It does not take any more for now.
            Err(_) => continue,
        }
        piece = next(number);
        number += 1;
    }
    let ended = tokio::time::timeout(Duration::from_millis(500), reading).await.is_ok();
    Flooded { ended, written }
}

/// How long good callers waited at most beside `flooding`, each on a connection of its own.
async fn beside<T>(world: &World, flooding: impl Future<Output = T>) -> (T, Duration) {
    let address = world.address();
    let mut longest = Duration::ZERO;
    let mut flooding = std::pin::pin!(flooding);
    loop {
        let began = Instant::now();
        let asking = try_ask(address, Ask::get("/public"));
        tokio::select! {
            flooded = flooding.as_mut() => return (flooded, longest),
            answer = asking => {
                assert_eq!(answer.map(|answer| answer.status), Some(200));
                longest = longest.max(began.elapsed());
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A flood by name: it must be ended if `ends`, and good callers must not wait for it.
async fn survives(name: &str, ends: bool, next: impl FnMut(u32) -> Vec<u8>) {
    let world = World::start().await;
    let (flooded, longest) = beside(&world, flood(world.address(), 3.0, next)).await;
    assert!(flooded.ended || !ends, "{name}: still open after {} bytes", flooded.written);
    assert!(longest < Duration::from_secs(2), "{name}: a good caller waited {longest:?}");
    let open = "portcullis_http_requests_in_flight";
    let began = Instant::now();
    while world.metric(open).await != Some(0.0) {
        assert!(began.elapsed() < Duration::from_secs(10), "{name}: requests are left over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    survives("rapid reset", true, |number| {
        let each = (0..50).flat_map(|index| {
            let stream = 1 + 2 * (number * 50 + index);
            let cancel = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(GET)), cancel].concat()
        });
        each.collect()
    })
    .await;
}

/// CVE-2025-8671: the server is made to reset what it was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_you_reset() {
    survives("made-you-reset", true, |number| {
        let each = (0..50).flat_map(|index| {
            let stream = 1 + 2 * (number * 50 + index);
            let overflow = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
            [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(GET)), overflow].concat()
        });
        each.collect()
    })
    .await;
}

/// CVE-2024-27316 and its kin: a head without an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation() {
    survives("CONTINUATION", true, |number| {
        let field = [&[0x00, 3][..], b"x-y", &[0x7f, 0x81, 0x3d], &[b'z'; 7936]].concat();
        match number {
            0 => frame(HEADERS, 0, 1, &head(GET)),
            _ => frame(CONTINUATION, 0, 1, &field),
        }
    })
    .await;
}

/// One large field put into the table once and named again and again (RFC 7541 section 7.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bomb() {
    let world = World::start().await;
    let next = |number: u32| {
        let large = [&[0x40, 6][..], b"x-bomb", &[0x7f, 0xa1, 0x1a], &[b'z'; 3488]].concat();
        let first = if number == 0 { large } else { Vec::new() };
        let block = [head(GET), first, vec![0xbe; 8000]].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * number, &block)
    };
    let (_, longest) = beside(&world, flood(world.address(), 2.0, next)).await;
    assert!(longest < Duration::from_secs(2), "a good caller waited {longest:?}");
    // Named eight thousand times it is 28 MB, and no request.
    let text = world.lines.text();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let asked: Vec<_> = lines.filter(|line| line["protocol"] == "HTTP/2").collect();
    assert!(asked.iter().all(|line| line["status"] != 200), "a bomb was let through: {asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data() {
    survives("empty DATA", true, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &head(POST)),
        _ => frame(DATA, 0, 1, &[]).repeat(200),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_pings() {
    survives("SETTINGS", false, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(100)).await;
    survives("PING", false, |_| frame(PING, 0, 0, b"12345678").repeat(100)).await;
}

/// No name of a stranger's making becomes a label, nor anything else that is kept.
#[tokio::test]
async fn made_up_hosts_and_paths_leave_nothing_behind() {
    let world = World::start().await;
    world.get("/public", "VIEWER").await;
    let series = async || world.ops("/metrics").await.text().lines().count();
    for number in 0..20 {
        let ask =
            Ask::new(&format!("M{number}"), &format!("/{number}")).header("host", &format!("h{number}"));
        world.send(ask).await;
    }
    let before = series().await;
    for number in 20..300 {
        let ask =
            Ask::new(&format!("M{number}"), &format!("/{number}")).header("host", &format!("h{number}"));
        world.send(ask).await;
    }
    assert_eq!(series().await, before);
}
