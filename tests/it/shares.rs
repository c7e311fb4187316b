//! What one caller can take of what all share, and what is left for the others.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{Answer, Ask, Origin, Reply, World, ask, try_ask};

/// Two pages: one that never answers and one that does.
async fn world(yaml: &str, overrides: &[(&str, &str)]) -> (World, Origin, Origin) {
    let (slow, good) = (
        Origin::start(Reply::Silence).await,
        Origin::start(Reply::text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await,
    );
    let yaml = format!(
        "{yaml}
upstreams: {{ slow: {{ url: \"{}\", max_connections: 32, max_waiting: 32, wait_timeout: 1s }} }}
routes:
  - {{ name: slow, match: {{ path: /slow }}, require: authenticated, upstream: slow }}
  - {{ name: open, match: {{ path: /open }}, public: true, upstream: slow }}
  - {{ name: good, match: {{ path: /** }}, require: authenticated, upstream: app }}
",
        slow.url()
    );
    let world = World::with_origin(&yaml, overrides, &good.url()).await;
    (world, slow, good)
}

fn hold(address: SocketAddr, count: usize, what: impl Fn() -> Ask) -> Vec<JoinHandle<Option<Answer>>> {
    (0..count)
        .map(|_| {
            let ask = what();
            tokio::spawn(async move { try_ask(address, ask).await })
        })
        .collect()
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to be");
}

#[tokio::test]
async fn one_member_on_a_slow_page_leaves_the_server_to_the_others() {
    for http2 in [false, true] {
        let (world, slow, _) = world("", &[]).await;
        let by = |name: &str| {
            let ask = Ask::get("/slow").bearer(&world.persona(name).jwt);
            if http2 { ask.http2() } else { ask }
        };
        let greedy = hold(world.address(), 80, || by("VIEWER"));
        // Over half of 32 connections, then a queue of 32 that it may fill half of.
        until(async || slow.heads().len() >= 17).await;
        let refused = "portcullis_caller_share_refusals_total{limit=\"connections\"}";
        until(async || world.metric(refused).await >= Some(29.0)).await;
        // The other member gets a connection of its own at once, eight times over.
        let others = hold(world.address(), 8, || by("ADMIN"));
        until(async || slow.heads().len() == 17 + 8).await;
        assert_eq!(world.get("/", "VIEWER").await.status, 200, "other servers are free");
        let answers = futures(greedy, Duration::from_secs(3)).await;
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
        assert_eq!(refused.len(), 80 - 17, "refused at once, or when the wait ended");
        for answer in refused {
            assert_eq!((answer.reason().as_str(), answer.header("retry-after")), ("caller_share", "1"));
        }
        others.iter().for_each(JoinHandle::abort);
    }
}

/// Those that answered in time; the rest are still waiting for the origin.
async fn futures(asked: Vec<JoinHandle<Option<Answer>>>, within: Duration) -> Vec<Answer> {
    let until = tokio::time::Instant::now() + within;
    let mut answers = Vec::new();
    for one in asked {
        let aborted = one.abort_handle();
        match tokio::time::timeout_at(until, one).await {
            Ok(answer) => answers.extend(answer.unwrap()),
            Err(_) => aborted.abort(),
        }
    }
    answers
}

#[tokio::test]
async fn one_member_leaves_the_gateways_own_requests_to_the_others() {
    let limits = "limits: { max_requests: 32 }";
    let (world, slow, _) = world(limits, &[]).await;
    let by = |name: &str, path: &str| Ask::get(path).bearer(&world.persona(name).jwt);
    let held = hold(world.address(), 16, || by("VIEWER", "/slow"));
    until(async || slow.heads().len() == 16).await;
    // Under half it may go on; above it, its eighth is long used up.
    let more = hold(world.address(), 1, || by("VIEWER", "/slow"));
    until(async || slow.heads().len() == 17).await;
    for ask in [by("VIEWER", "/"), by("VIEWER", "/").http2(), by("VIEWER", "/")] {
        let answer = world.send(ask).await;
        assert_eq!((answer.status, answer.reason().as_str()), (429, "caller_share"));
    }
    let body = Ask::new("POST", "/").bearer(&world.persona("VIEWER").jwt).body("unread");
    assert_eq!(world.send(body).await.status, 429);
    for _ in 0..20 {
        assert_eq!(world.send(by("ADMIN", "/")).await.status, 200);
    }
    let refused = "portcullis_caller_share_refusals_total{limit=\"requests\"}";
    assert_eq!(world.metric(refused).await, Some(4.0));
    held.iter().chain(&more).for_each(JoinHandle::abort);
    until(async || world.metric("portcullis_http_requests_in_flight").await == Some(0.0)).await;
    assert_eq!(world.send(by("VIEWER", "/")).await.status, 200, "and it is let in again");
}

#[tokio::test]
async fn a_whole_share_lets_one_member_take_all() {
    let limits = "limits: { max_requests: 20, caller_share: 1/1 }";
    let (world, slow, _) = world(limits, &[]).await;
    let held = hold(world.address(), 20, || Ask::get("/slow").bearer(&world.persona("VIEWER").jwt));
    until(async || slow.heads().len() == 20).await;
    assert_eq!(world.get("/", "ADMIN").await.reason(), "overloaded");
    held.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn anonymous_callers_have_shares_only_where_their_addresses_are_known() {
    let limits = "limits: { max_requests: 32 }";
    for (listener, status) in [
        ("listeners: [ { address: \"127.0.0.1:0\", clients: direct } ]", 429),
        ("listeners: [ { address: \"127.0.0.1:0\", forwarded: { from: [127.0.0.0/8] } } ]", 429),
        ("listeners: [ { address: \"127.0.0.1:0\" } ]", 200),
    ] {
        let (world, slow, _) = world(&format!("{limits}\n{listener}"), &[]).await;
        let open = || Ask::get("/open").header("x-forwarded-for", "192.0.2.7");
        let held = hold(world.address(), 17, open);
        until(async || slow.heads().len() == 17).await;
        let one_more = hold(world.address(), 1, open);
        if status == 429 {
            let answer = futures(one_more, Duration::from_secs(5)).await;
            assert_eq!((answer[0].status, answer[0].reason().as_str()), (429, "caller_share"), "{listener}");
        } else {
            until(async || slow.heads().len() == 18).await;
            one_more[0].abort();
        }
        assert_eq!(world.get("/", "ADMIN").await.status, 200, "a member is not its address");
        held.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn streams_hold_no_slot_of_the_requests_and_have_shares_of_their_own() {
    let events = "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream;charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n: hi\r\n";
    let origin = Origin::start(Reply::text(events)).await;
    let yaml = "limits: { max_requests: 4, max_open_streams: 20 }
routes: [ { name: all, match: { path: /** }, require: authenticated } ]";
    let overrides = [("upstreams.app.max_connections", "4"), ("upstreams.app.max_open_streams", "32")];
    let world = World::with_origin(yaml, &overrides, &origin.url()).await;
    let open = async |name: &str| {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        let jwt = &world.persona(name).jwt;
        let head = format!("GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {jwt}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = vec![0; 12];
        stream.read_exact(&mut seen).await.unwrap();
        (String::from_utf8(seen).unwrap()[9..].to_owned(), stream)
    };
    let mut held = Vec::new();
    for _ in 0..11 {
        let (status, stream) = open("VIEWER").await;
        assert_eq!(status, "200");
        held.push(stream);
    }
    assert_eq!(open("VIEWER").await.0, "429", "over half of 20, and over its eight");
    for _ in 0..8 {
        let (status, stream) = open("ADMIN").await;
        assert_eq!(status, "200");
        held.push(stream);
    }
    let refused = "portcullis_caller_share_refusals_total{limit=\"streams\"}";
    assert_eq!(world.metric(refused).await, Some(1.0));
    held.clear();
    until(async || world.metric("portcullis_http_requests_in_flight").await == Some(0.0)).await;
    assert_eq!(open("VIEWER").await.0, "200");
}

#[tokio::test]
async fn a_probe_asks_the_application_once_a_second_whoever_asks() {
    let origin = Origin::start(Reply::text("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let yaml = "ops: { probes: { app: { upstream: app, path: /healthz } } }
routes: [ { name: all, match: { path: /** }, require: authenticated } ]";
    let world = World::with_origin(yaml, &[], &origin.url()).await;
    let ops = world.gateway.ops();
    let began = tokio::time::Instant::now();
    let asked: Vec<_> =
        (0..40).map(|_| tokio::spawn(async move { ask(ops, Ask::get("/probe/app")).await })).collect();
    for one in asked {
        assert_eq!(one.await.unwrap().status, 204);
    }
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(origin.heads().len() <= most, "{} requests for 40 probes", origin.heads().len());
}

#[tokio::test]
async fn a_prober_that_leaves_does_not_make_the_next_one_ask_again() {
    let origin = Origin::start(Reply::Pieces(vec!["HTTP/1.1 204", " No Content\r\n\r\n"])).await;
    let yaml = "ops: { probes: { app: { upstream: app, path: /healthz } } }
routes: [ { name: all, match: { path: /** }, require: authenticated } ]";
    let world = World::with_origin(yaml, &[], &origin.url()).await;
    let ops = world.gateway.ops();
    let began = tokio::time::Instant::now();
    let first = tokio::spawn(async move { ask(ops, Ask::get("/probe/app")).await });
    until(async || origin.heads().len() == 1).await;
    first.abort();
    assert_eq!(ask(ops, Ask::get("/probe/app")).await.status, 204);
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(origin.heads().len() <= most, "{} requests for two probes", origin.heads().len());
}

#[tokio::test]
async fn requests_whose_caller_is_looked_up_leave_slots_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    for audit in ["", "log: { audit: { file: AUDIT } }\n"] {
        let audit_file = folder.path().join("audit.jsonl");
        let yaml = format!(
            "{}limits: {{ max_requests: 32 }}
listeners: [ {{ address: \"127.0.0.1:0\", forwarded: {{ from: [127.0.0.0/8] }} }} ]
sessions: {{ unknown_tokens: {{ per_peer: 50, in_total: 400 }}, deadline: 30s }}",
            audit.replace("AUDIT", &audit_file.display().to_string())
        );
        let (world, _, _) = world(&yaml, &[]).await;
        assert_eq!(world.get("/", "ADMIN").await.status, 200);
        world.fault(json!({ "operation": "authenticate", "hang": true })).await;
        let address = world.address();
        let refused = "portcullis_caller_share_refusals_total{limit=\"requests\"}";
        let junk = move |n: usize, client: &str| {
            let ask = Ask::get("/").cookie("stytch_session", &format!("junk-{n}"));
            let ask = ask.header("x-forwarded-for", client);
            tokio::spawn(async move { try_ask(address, ask).await })
        };
        let held: Vec<_> = (0..24).map(|n| junk(n, "198.51.100.7")).collect();
        until(async || world.metric(refused).await == Some(7.0)).await;
        let others: Vec<_> = (0..8).map(|n| junk(100 + n, &format!("203.0.113.{n}"))).collect();
        until(async || world.metric("portcullis_http_requests_in_flight").await == Some(17.0 + 8.0)).await;
        assert_eq!(world.get("/", "ADMIN").await.status, 200, "a caller that is known waits for nobody");
        let answer = junk(200, "198.51.100.7").await.unwrap().unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (429, "caller_share"));
        let decided =
            "portcullis_decisions_total{decision=\"refuse\",reason=\"caller_share\",route=\"good\"}";
        assert_eq!(world.metric(decided).await, Some(8.0), "each is recorded once");
        if !audit.is_empty() {
            let text = std::fs::read_to_string(&audit_file).unwrap();
            assert_eq!(text.matches("caller_share").count(), 8);
        }
        held.iter().chain(&others).for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn one_members_look_ups_leave_slots_to_the_others_wherever_it_calls_from() {
    let yaml = "limits: { max_requests: 32 }\nsessions: { deadline: 30s }";
    let (world, _, _) = world(yaml, &[]).await;
    assert_eq!(world.get("/", "ADMIN").await.status, 200);
    world.fault(json!({ "operation": "list", "hang": true })).await;
    let held = hold(world.address(), 40, || Ask::get("/").bearer(&world.persona("VIEWER").jwt));
    let refused = "portcullis_caller_share_refusals_total{limit=\"requests\"}";
    until(async || world.metric(refused).await == Some(23.0)).await;
    assert_eq!(world.get("/", "ADMIN").await.status, 200);
    held.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_body_that_is_read_only_to_be_discarded_occupies_no_slot() {
    let (world, ..) = world("limits: { max_requests: 4, caller_share: 1/1 }", &[]).await;
    let jwt = &world.persona("VIEWER").jwt;
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    let heads = [
        "POST / HTTP/1.1\r\nHost: a\r\n".to_owned(),
        format!("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nAuthorization: Bearer {jwt}\r\n"),
    ];
    let mut held = Vec::new();
    for head in heads.iter().cycle().take(8) {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        let request = format!("{head}Content-Length: 100\r\n\r\nhalf");
        stream.write_all(request.as_bytes()).await.unwrap();
        held.push(stream);
    }
    until(async || world.metric("portcullis_http_requests_in_flight").await >= Some(1.0)).await;
    for _ in 0..4 {
        assert_eq!(world.get("/", "VIEWER").await.status, 200, "while they are waited for");
    }
}

#[tokio::test]
async fn junk_tokens_are_asked_about_less_while_the_api_limits_the_lists() {
    let yaml = "listeners: [ { address: \"127.0.0.1:0\", forwarded: { from: [127.0.0.0/8] } } ]
sessions: { unknown_tokens: { per_peer: 2, in_total: 64 } }
routes: [ { name: all, match: { path: /** }, require: authenticated, max_staleness: 1s, stale_if_error: 60s } ]";
    let world = World::with(yaml, &[]).await;
    let junk = async |from: usize, count: usize| {
        let before = world.calls("authenticate").await;
        let address = world.address();
        let asked: Vec<_> = (from..from + count)
            .map(|n| {
                let client = format!("198.{}.{}.1", n / 250, n % 250);
                let ask = Ask::get("/").header("x-forwarded-for", &client);
                let ask = ask.cookie("stytch_session", &format!("junk-{n}"));
                tokio::spawn(async move { try_ask(address, ask).await })
            })
            .collect();
        futures(asked, Duration::from_secs(10)).await;
        world.calls("authenticate").await - before
    };
    // The API counts all of a project's calls together, and others used them up.
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    world.fault(json!({ "per_second": 0 })).await;
    let limited = world.get("/", "ADMIN").await;
    assert_eq!((limited.status, limited.reason().as_str()), (503, "directory_rate_limited"));
    let while_limited = junk(1_000, 250).await;
    assert!(while_limited < 125, "{while_limited} calls for junk while lists are limited");
    assert_eq!(world.get("/", "VIEWER").await.status, 200, "evidence bridges it");
}

#[tokio::test]
async fn an_expired_jwt_beside_its_token_opens_a_budget_that_junk_cannot_use_up() {
    let yaml = "sessions: { unknown_tokens: { per_peer: 1, in_total: 4 } }
routes: [ { name: all, match: { path: /** }, require: authenticated } ]";
    let world = World::with(yaml, &[]).await;
    for n in 0..25 {
        world.send(Ask::get("/").cookie("stytch_session", &format!("junk-{n}"))).await;
    }
    let viewer = world.persona("VIEWER");
    let cookies = |jwt: &str| {
        let cookies = format!("stytch_session={}; stytch_session_jwt={jwt}", viewer.token);
        Ask::get("/").header("cookie", &cookies)
    };
    let refused = world.send(cookies("not.a.jwt")).await;
    assert_eq!((refused.status, refused.reason().as_str()), (429, "credential_attempts"));
    let path = format!("sessions/{}/jwt", viewer.session_id);
    let minted = world.control("POST", &path, json!({ "issued_ago_seconds": 3_600 })).await;
    let expired = minted["session_jwt"].as_str().unwrap();
    assert_eq!(world.send(Ask::get("/").bearer(expired)).await.reason(), "credential_expired");
    let answer = world.send(cookies(expired)).await;
    assert_eq!(answer.seen("x-auth-member-id"), Some(viewer.member_id.clone()));
}
