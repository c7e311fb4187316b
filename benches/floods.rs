//! 50,000 random tokens and 50,000 JWTs with an unknown key id, beside good callers: what the API is asked, whether a
//! good caller is refused, and what a good request costs.
//!
//! Must not be aimed at anything but loopback.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a bench that cannot be set up should end"
)]

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use support::{Connection, Replica, Stage};

const YAML: &str = "routes: [ { name: everything, match: { path: /** }, require: authenticated } ]\n";
const FLOOD: usize = 50_000;
const GOOD: usize = 40_000;

#[derive(Clone, Copy)]
enum Junk {
    Tokens,
    UnknownKeys,
}

impl Junk {
    fn header(self, number: usize) -> String {
        match self {
            Self::Tokens => format!("cookie: stytch_session=junk-{number:040x}"),
            Self::UnknownKeys => {
                let encode = |json: String| URL_SAFE_NO_PAD.encode(json);
                let header = encode(format!(r#"{{"alg":"RS256","typ":"JWT","kid":"jwk-test-{number}"}}"#));
                let claims = encode(format!(r#"{{"iss":"x","n":{number}}}"#));
                format!("authorization: Bearer {header}.{claims}.{}", "A".repeat(342))
            }
        }
    }
}

/// Sends `count` junk requests from several connections, half of them from one address and half from two hundred.
async fn flood(replica: &Replica, junk: Junk, count: usize) {
    let address = replica.address;
    let senders = (0..8_u8).map(|sender| {
        tokio::spawn(async move {
            let mut connection = Connection::open(address, Some(Ipv4Addr::new(127, 0, 0, 2))).await;
            for index in 0..count / 8 {
                if sender >= 4 && index % 30 == 0 {
                    let last = u8::try_from(index / 30 % 200).unwrap();
                    connection =
                        Connection::open(address, Some(Ipv4Addr::new(127, 0, 10 + sender, last))).await;
                }
                let number = usize::from(sender) * count + index;
                let (status, body) = connection.get("/", &junk.header(number)).await;
                assert!(matches!(status, 401 | 429), "{status} {body}");
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
}

/// Sends good requests; every hundredth with a token that was never seen before. How many were refused.
async fn good(replica: &Replica, count: usize, jwts: &Arc<Vec<String>>, tokens: &[String]) -> usize {
    let address = replica.address;
    let fresh: Vec<Vec<String>> =
        tokens.chunks(tokens.len().div_ceil(4).max(1)).map(<[String]>::to_vec).collect();
    let senders = (0..4).map(|sender| {
        let (jwts, mut fresh) = (Arc::clone(jwts), fresh.get(sender).cloned().unwrap_or_default());
        tokio::spawn(async move {
            let mut connection = Connection::open(address, None).await;
            let mut refused = 0;
            for index in 0..count / 4 {
                let header = match fresh.pop().filter(|_| index % 100 == 0) {
                    Some(token) => format!("cookie: stytch_session={token}"),
                    None => format!("authorization: Bearer {}", jwts[index % jwts.len()]),
                };
                refused += usize::from(connection.get("/", &header).await.0 != 200);
            }
            refused
        })
    });
    let mut refused = 0;
    for sender in senders.collect::<Vec<_>>() {
        refused += sender.await.unwrap();
    }
    refused
}

fn main() {
    // `cargo test` runs benches without an argument of their own; only `cargo bench` is meant.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(run());
}

async fn run() {
    let stage = Stage::start().await;
    let mut jwts = Vec::new();
    for _ in 0..50 {
        jwts.push(stage.session().await.1);
    }
    let jwts = Arc::new(jwts);
    println!(
        "| flood | good alone, CPU µs | flood alone, CPU µs a junk request | good beside the flood, CPU µs | good refused | calls authenticate / keys / list | time |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, junk) in
        [("50,000 random tokens", Junk::Tokens), ("50,000 JWTs of unknown keys", Junk::UnknownKeys)]
    {
        let replica = stage.replica(YAML, None, &[]).await;
        let cost = |before: Duration, requests: usize| {
            (replica.process.cpu().saturating_sub(before)).as_secs_f64() * 1e6 / requests as f64
        };
        let mut tokens = Vec::new();
        for _ in 0..100 {
            tokens.push(stage.session().await.2);
        }
        good(&replica, 4_000, &jwts, &[]).await;
        let before = replica.process.cpu();
        good(&replica, GOOD, &jwts, &[]).await;
        let alone = cost(before, GOOD);
        stage.control("DELETE", "calls", serde_json::json!({})).await;
        let (before, began) = (replica.process.cpu(), Instant::now());
        flood(&replica, junk, FLOOD).await;
        let (junk_cost, took) = (cost(before, FLOOD), began.elapsed());
        let calls = (stage.calls("authenticate").await, stage.calls("keys").await, stage.calls("list").await);
        let before = replica.process.cpu();
        let ((), refused) = tokio::join!(flood(&replica, junk, FLOOD), good(&replica, GOOD, &jwts, &tokens));
        let both = replica.process.cpu().saturating_sub(before).as_secs_f64() * 1e6;
        let beside = (both - junk_cost * FLOOD as f64) / GOOD as f64;
        println!(
            "| {name} | {alone:.1} | {junk_cost:.1} | {beside:.1} | {refused} of {GOOD} | {} / {} / {} | {took:.1?} |",
            calls.0, calls.1, calls.2
        );
    }
}
