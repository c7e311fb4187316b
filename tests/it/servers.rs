//! Several servers behind one upstream: what callers see when some are gone, hung, slow or wrong.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::configuration::{GOOD, mistakes};
use crate::support::{ANY, Ask, Origin, Reply, World, try_ask};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// A gateway with everything public, before `servers`, with `more` said of the upstream.
async fn before(servers: &[String], more: &str) -> World {
    let servers = servers.join(", ");
    let yaml = format!(
        "upstreams: {{ several: {{ servers: [{servers}]{more} }} }}
routes: [ {{ name: everything, match: {{ path: /** }}, public: true, upstream: several }} ]
"
    );
    World::with_origin(&yaml, &[], "http://127.0.0.1:9").await
}

/// Where nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn statuses(world: &World, ask: &Ask, count: usize) -> Vec<u16> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(world.send(ask.clone()).await.status);
    }
    seen
}

#[tokio::test]
async fn requests_are_spread_over_the_servers() {
    let origins = [Origin::start(Reply::text(OK)).await, Origin::start(Reply::text(OK)).await];
    let world = before(&[origins[0].url(), origins[1].url()], "").await;
    assert_eq!(statuses(&world, &Ask::get("/"), 60).await, [200; 60]);
    let heads = origins.each_ref().map(|origin| origin.heads().len());
    assert_eq!(heads[0] + heads[1], 60);
    assert!(heads[0] > 10 && heads[1] > 10, "{heads:?}");
}

#[tokio::test]
async fn callers_do_not_see_that_half_the_servers_are_gone() {
    let origins = [Origin::start(Reply::text(OK)).await, Origin::start(Reply::text(OK)).await];
    let servers = [nobody().await, origins[0].url(), nobody().await, origins[1].url()];
    let world = before(&servers, "").await;
    assert_eq!(statuses(&world, &Ask::get("/"), 60).await, [200; 60]);
    let post = Ask::new("POST", "/").body("once");
    assert_eq!(statuses(&world, &post, 20).await, [200; 20]);
    let posted: usize = origins
        .iter()
        .map(|origin| origin.heads().iter().filter(|head| head.contains("POST / ")).count())
        .sum();
    assert_eq!(posted, 20);
    let state =
        |state: &str| format!("portcullis_upstream_servers{{state=\"{state}\",upstream=\"several\"}}");
    assert_eq!(world.metric(&state("ejected")).await, Some(2.0));
    assert_eq!(world.metric(&state("available")).await, Some(2.0));
    assert_eq!(world.metric("portcullis_upstream_ejections_total{upstream=\"several\"}").await, Some(2.0));
    assert!(world.metric("portcullis_upstream_retries_total{upstream=\"several\"}").await.unwrap() >= 6.0);
}

#[tokio::test]
async fn what_may_have_arrived_is_repeated_only_if_that_is_safe() {
    let origins = [Origin::start(Reply::Close).await, Origin::start(Reply::text(OK)).await];
    let world = before(&[origins[0].url(), origins[1].url()], ", ejection: { after: 1000 }").await;
    let gets = statuses(&world, &Ask::get("/"), 10).await;
    assert_eq!(gets, [200; 10]);
    for ask in [Ask::new("POST", "/").body("once"), Ask::new("DELETE", "/"), Ask::get("/").body("x")] {
        let before: usize = origins.iter().map(|origin| origin.heads().len()).sum();
        let seen = statuses(&world, &ask, 20).await;
        assert!(seen.contains(&200) && seen.contains(&502), "{seen:?}");
        let after: usize = origins.iter().map(|origin| origin.heads().len()).sum();
        assert_eq!(after - before, 20, "sent twice");
    }
}

#[tokio::test]
async fn the_budget_ends_the_retries() {
    let origins = [Origin::start(Reply::Close).await, Origin::start(Reply::Close).await];
    let more = ", ejection: { after: 1000 }, retries: { attempts: 3, budget_percent: 10 }";
    let world = before(&[origins[0].url(), origins[1].url()], more).await;
    let answer = world.send(Ask::get("/")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (502, "origin_closed"));
    assert_eq!(statuses(&world, &Ask::get("/"), 99).await, [502; 99]);
    let sent: usize = origins.iter().map(|origin| origin.heads().len()).sum();
    assert_eq!(sent, 100 + 10 + 10, "ten at first, and one for each ten requests");
}

#[tokio::test]
async fn a_hung_server_costs_one_try() {
    let origins = [Origin::start(Reply::Silence).await, Origin::start(Reply::text(OK)).await];
    let more = ", retries: { attempts: 1, per_try_timeout: 200ms }, ejection: { period: 1h }";
    let world = before(&[origins[0].url(), origins[1].url()], more).await;
    assert_eq!(statuses(&world, &Ask::get("/"), 20).await, [200; 20]);
    assert_eq!(origins[0].heads().len(), 3, "left out after three");
}

#[tokio::test]
async fn the_deadline_covers_every_try() {
    let origins = [Origin::start(Reply::Silence).await, Origin::start(Reply::Silence).await];
    let more = ", retries: { attempts: 5, per_try_timeout: 300ms }, deadline: 500ms";
    let world = before(&[origins[0].url(), origins[1].url()], more).await;
    let began = Instant::now();
    let answer = world.send(Ask::get("/")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (504, "origin_timeout"));
    assert!(began.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn a_server_that_runs_into_the_deadline_is_left_out_as_well() {
    let origins = [Origin::start(Reply::Silence).await, Origin::start(Reply::text(OK)).await];
    let more = ", deadline: 200ms, ejection: { after: 2, period: 1h }";
    let world = before(&[origins[0].url(), origins[1].url()], more).await;
    let seen = statuses(&world, &Ask::get("/"), 30).await;
    assert_eq!(seen.iter().filter(|status| **status == 504).count(), 2, "{seen:?}");
}

#[tokio::test]
async fn all_servers_gone_is_told_and_is_over_when_one_is_back() {
    let servers = [nobody().await, nobody().await];
    let world = before(&servers, ", ejection: { period: 1h }").await;
    for _ in 0..10 {
        let answer = world.send(Ask::get("/")).await;
        assert_eq!((answer.status, answer.reason().as_str()), (502, "origin_unreachable"));
    }
    let address = servers[1].trim_start_matches("http://").parse().unwrap();
    let _back = Origin::start_at(address, Reply::text(OK)).await;
    assert_eq!(statuses(&world, &Ask::get("/"), 10).await, [200; 10]);
}

#[tokio::test]
async fn a_server_whose_health_check_fails_is_left_out_until_it_passes() {
    let origins = [Origin::start(Reply::text(BROKEN)).await, Origin::start(Reply::text(OK)).await];
    let health = ", health: { path: '/healthz?deep', every: 50ms, unhealthy_after: 2 }";
    let world = before(&[origins[0].url(), origins[1].url()], health).await;
    let unhealthy = "portcullis_upstream_servers{state=\"unhealthy\",upstream=\"several\"}";
    let began = Instant::now();
    while world.metric(unhealthy).await != Some(1.0) {
        assert!(began.elapsed() < Duration::from_secs(10), "it was not found unhealthy");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(statuses(&world, &Ask::get("/"), 20).await, [200; 20]);
    let checks: Vec<String> = origins[0].heads();
    assert!(checks[0].starts_with("GET /healthz?deep HTTP/1.1\r\n"), "{}", checks[0]);
    let host = format!("host: {}\r\n", origins[0].address());
    assert!(checks[0].to_ascii_lowercase().contains(&host), "{}", checks[0]);
}

#[tokio::test]
async fn more_than_may_wait_are_refused_at_once_and_the_rest_in_time() {
    let origin = Origin::start(Reply::Silence).await;
    let more = ", max_connections: 1, max_waiting: 1, wait_timeout: 1s";
    let world = before(&[origin.url()], more).await;
    let address = world.address();
    let ask = |delay: u64| async move {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let began = Instant::now();
        let answer = crate::support::ask(address, Ask::get("/")).await;
        (answer.status, answer.reason(), began.elapsed())
    };
    let held = tokio::spawn(async move { try_ask(address, Ask::get("/")).await });
    let ((waited, reason, after), (refused, also, at_once)) = tokio::join!(ask(200), ask(400));
    assert_eq!((waited, reason.as_str(), refused, also.as_str()), (503, "origin_busy", 503, "origin_busy"));
    assert!(after >= Duration::from_millis(900), "{after:?}");
    assert!(at_once < Duration::from_millis(700), "{at_once:?}");
    held.abort();
}

#[tokio::test]
async fn a_connection_is_not_kept_longer_than_the_server_keeps_it() {
    let kept = |seconds: u32| {
        format!("HTTP/1.1 200 OK\r\nKeep-Alive: max=9, timeout={seconds}\r\nContent-Length: 2\r\n\r\nok")
    };
    for (seconds, connections) in [(1, 5), (60, 1)] {
        let origin = Origin::start(Reply::text(&kept(seconds))).await;
        let world = before(&[origin.url()], "").await;
        assert_eq!(statuses(&world, &Ask::get("/"), 5).await, [200; 5]);
        assert_eq!(origin.connections(), connections, "timeout={seconds}");
    }
}

#[tokio::test]
async fn a_name_nobody_knows_is_an_origin_that_cannot_be_reached() {
    let world = before(&["http://nowhere.invalid:80".to_owned()], "").await;
    let answer = world.send(Ask::get("/")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (502, "origin_unreachable"));
}

#[tokio::test]
async fn localhost_is_found_in_whichever_family_it_listens() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = before(&[format!("http://localhost:{}", origin.address().port())], "").await;
    assert_eq!(statuses(&world, &Ask::get("/"), 3).await, [200; 3]);
    assert_eq!(origin.connections(), 1);
}

/// What is written of an upstream, and what must be said about it.
#[test]
fn mistakes_around_upstreams_are_found() {
    let rows = [
        ("{}", "C005", "has no `url`"),
        ("{ servers: [] }", "C005", "has no `url`"),
        ("{ url: 'http://a', servers: ['http://b'] }", "C007", "not by both"),
        ("{ servers: ['http://a', 'http://a:80'] }", "C007", "named twice"),
        ("{ servers: ['http://a', 'https://b'] }", "C007", "some in the clear"),
        ("{ servers: ['http://a', 'http://b/c'] }", "C004", "not the address of an origin"),
        ("{ url: 'http://a', protocol: h3 }", "C004", "not a protocol"),
        ("{ url: 'http://a', tls: { ca_file: ca.pem } }", "C007", "under TLS"),
        ("{ url: 'https://a', tls: { certificate: c.pem } }", "C005", "needs `certificate` and `key`"),
        ("{ url: 'https://a', tls: { server_name: 'a b' } }", "C004", "not the name of a server"),
        ("{ url: 'http://a', health: { every: 1s } }", "C005", "needs a `path`"),
        ("{ url: 'http://a', health: { path: healthz } }", "C004", "not a path to ask for"),
        ("{ url: 'http://a', health: { path: '/a#b' } }", "C004", "not a path to ask for"),
        ("{ url: 'http://a', retries: { attempts: 6 } }", "C004", "more than 5"),
        ("{ url: 'http://a', retries: { budget_percent: 101 } }", "C004", "at most 100"),
        ("{ url: 'http://a', ejection: { after: 0 } }", "C004", "at least 1"),
        ("{ url: 'http://a', deadline: 0s }", "C004", "greater than 0"),
    ];
    for (upstream, code, part) in rows {
        let text = GOOD.replace("{ url: \"http://127.0.0.1:3000\" }", upstream);
        let told = mistakes(&text);
        assert_eq!(told.len(), 1, "{upstream}: {told:?}");
        assert!(told[0].0 == code && told[0].2.contains(part), "{upstream}: {told:?}");
    }
    let socket = GOOD
        .replace("3000\"", "3000\", protocol: http2")
        .replace("require: auth", "websocket: true\n    require: auth");
    assert!(mistakes(&socket)[0].2.contains("no WebSocket"), "{:?}", mistakes(&socket));
}

/// Serves one connection after the other, each until it is closed: whoever opens another waits for that.
async fn one_at_a_time(stall: Duration) -> String {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                read.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&read).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if head.contains("content-length: 4") && body.len() < 4 {
                    continue;
                }
                read.clear();
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await);
                tokio::time::sleep(stall).await;
                drop(stream.write_all(b"ok").await);
            }
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn requests_of_every_kind_share_the_connections_there_may_be() {
    let server = one_at_a_time(Duration::ZERO).await;
    let world = before(&[server], ", max_connections: 1, response_timeout: 2s").await;
    for _ in 0..3 {
        assert_eq!(world.send(Ask::get("/")).await.status, 200);
        let post = Ask::new("POST", "/").body("once");
        assert_eq!(world.send(post).await.status, 200, "the connection before was in its way");
    }
}

#[tokio::test]
async fn what_comes_after_an_answer_is_nobodys() {
    // To HEAD it answers with a body, a moment later: on that connection, that would be the next caller's answer.
    let server = one_at_a_time(Duration::from_millis(30)).await;
    let world = before(&[server], "").await;
    assert_eq!(world.send(Ask::new("HEAD", "/")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = world.send(Ask::get("/")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}
