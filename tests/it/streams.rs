//! Open streams: each kind ends properly when its session may not go on, and only then.

use std::time::Duration;

use http::HeaderValue;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{End, OpenStream, Origin, Reply, WebSocket, World};

const YAML: &str = r#"
admin: { address: "127.0.0.1:0", token: { value: a-token-of-some-length } }
sessions: { fresh_for: 500ms, stale_while_revalidate: 500ms, stale_if_error: 1s, deadline: 1s }
streams: { recheck: 600s }
routes:
  - { name: admin, match: { path: /admin/** }, require: { role: stytch_admin } }
  - { name: everything, match: { path: /** }, require: authenticated, websocket: true }
"#;

fn open_ended(kind: &str) -> Reply {
    Reply::Bytes(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n"
        )
        .into_bytes(),
    )
}

async fn world(reply: Reply, overrides: &[(&str, &str)]) -> World {
    let origin = Origin::start(reply).await;
    World::with_origin(YAML, overrides, &origin.url()).await
}

async fn revoke(world: &World, persona: &str) {
    let body = json!({ "member_session_id": world.persona(persona).session_id, "upstream": true });
    let done = world.admin(body).await;
    assert_eq!(done.status, 200, "{}", done.text());
}

async fn closed_for(world: &World, reason: &str) -> Option<f64> {
    world.metric(&format!("portcullis_streams_closed_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn events_end_cleanly_when_the_session_is_revoked_and_others_go_on() {
    for http2 in [false, true] {
        let world = world(open_ended("text/event-stream"), &[]).await;
        let jwt = |name: &str| world.persona(name).jwt.clone();
        let stream = OpenStream::open(world.address(), "/events", &jwt("VIEWER"), http2).await;
        let mut other = OpenStream::open(world.address(), "/events", &jwt("ADMIN"), http2).await;
        revoke(&world, "VIEWER").await;
        let (end, took) = stream.end().await;
        assert_eq!(end, End::Whole(None));
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(closed_for(&world, "session_not_found").await, Some(1.0));
        assert!(other.stays_open(Duration::from_millis(300)).await);
        world.lines.find(&["\"decision\":\"end\"", "session_not_found"]).await;
        drop(other);
        tokio::time::timeout(Duration::from_secs(5), async {
            while world.metric("portcullis_streams_open").await != Some(0.0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("a lease was not given back");
    }
}

#[tokio::test]
async fn a_grpc_stream_says_unauthenticated_in_its_trailers() {
    let world = world(open_ended("application/grpc+proto"), &[]).await;
    let stream = OpenStream::open(world.address(), "/s.S/M", &world.persona("VIEWER").jwt, true).await;
    revoke(&world, "VIEWER").await;
    let (End::Whole(Some(trailers)), _) = stream.end().await else { panic!("no trailers") };
    assert_eq!(trailers.get("grpc-status"), Some(&HeaderValue::from_static("16")));
    assert!(trailers.contains_key("grpc-message"));
}

#[tokio::test]
async fn a_download_that_is_cut_does_not_look_complete() {
    for http2 in [false, true] {
        for head in
            ["Transfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n", "Content-Length: 100\r\n\r\ndata:\n"]
        {
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n{head}");
            let world = world(Reply::Bytes(reply.into_bytes()), &[]).await;
            let stream =
                OpenStream::open(world.address(), "/file", &world.persona("VIEWER").jwt, http2).await;
            revoke(&world, "VIEWER").await;
            assert_eq!(stream.end().await.0, End::Broken, "{head} over HTTP/2: {http2}");
        }
    }
}

#[tokio::test]
async fn a_websocket_is_closed_with_1008() {
    let world = world(Reply::Socket, &[]).await;
    let socket = WebSocket::open(world.address(), "/socket", &world.persona("VIEWER").jwt).await;
    revoke(&world, "VIEWER").await;
    let (code, took) = socket.end().await;
    assert_eq!(code, Some(CloseCode::Policy));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_refused() {
    let world = world(Reply::Silence, &[]).await;
    let (address, jwt) = (world.address(), world.persona("VIEWER").jwt.clone());
    let ask = crate::support::Ask::get("/slow").bearer(&jwt);
    let waiting = tokio::spawn(crate::support::ask(address, ask));
    while world.metric("portcullis_streams_open").await != Some(1.0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    revoke(&world, "VIEWER").await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (401, "session_not_found"));
}

#[tokio::test]
async fn without_any_event_a_stream_ends_at_the_next_look() {
    let world = world(open_ended("text/event-stream"), &[("streams.recheck", "300ms")]).await;
    let jwt = &world.persona("VIEWER").jwt;
    let mut stream = OpenStream::open(world.address(), "/events", jwt, false).await;
    assert!(stream.stays_open(Duration::from_millis(1_500)).await);
    // Behind the gateway's back: its lists are at most a second old.
    world.revoke("VIEWER").await;
    let (end, took) = stream.end().await;
    assert_eq!(end, End::Whole(None));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_stream_ends_when_its_session_expires() {
    let world = world(open_ended("text/event-stream"), &[]).await;
    let id = &world.persona("VIEWER").session_id;
    let soon = jiff::Timestamp::now() + Duration::from_millis(1_500);
    world.control("PATCH", &format!("sessions/{id}"), json!({ "expires_at": soon })).await;
    let stream = OpenStream::open(world.address(), "/events", &world.persona("VIEWER").jwt, false).await;
    let (end, took) = stream.end().await;
    assert_eq!(end, End::Whole(None));
    assert!(took < Duration::from_secs(4), "{took:?}");
    let found = async {
        while closed_for(&world, "session_expired")
            .await
            .or(closed_for(&world, "session_not_found").await)
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), found).await.expect("it was not counted");
}

#[tokio::test]
async fn a_role_taken_away_ends_only_the_streams_that_need_it() {
    let world = world(open_ended("text/event-stream"), &[]).await;
    let persona = world.persona("ADMIN").clone();
    let needs_role = OpenStream::open(world.address(), "/admin/events", &persona.jwt, false).await;
    let mut plain = OpenStream::open(world.address(), "/events", &persona.jwt, false).await;
    let session = format!("sessions/{}", persona.session_id);
    world.control("PATCH", &session, json!({ "roles": ["viewer"] })).await;
    assert_eq!(world.admin(json!({ "member_id": persona.member_id })).await.status, 200);
    assert_eq!(needs_role.end().await.0, End::Whole(None));
    assert_eq!(closed_for(&world, "role_missing").await, Some(1.0));
    assert!(plain.stays_open(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn while_the_directory_fails_a_stream_goes_on_as_long_as_a_request_would() {
    let world = world(open_ended("text/event-stream"), &[("streams.recheck", "200ms")]).await;
    let jwt = &world.persona("VIEWER").jwt;
    let mut stream = OpenStream::open(world.address(), "/events", jwt, false).await;
    world.fault(json!({ "operation": "list", "status": 500 })).await;
    assert!(stream.stays_open(Duration::from_millis(800)).await, "it is bridged for two seconds");
    let (end, took) = stream.end().await;
    assert_eq!(end, End::Whole(None));
    assert!(took < Duration::from_secs(4), "{took:?}");
    let closed = world.ops("/metrics").await.text();
    let line =
        closed.lines().find(|line| line.starts_with("portcullis_streams_closed_total")).unwrap().to_owned();
    assert!(line.contains("directory_"), "{line}");
}

#[tokio::test]
async fn an_outage_that_ends_streams_is_not_called_the_callers_fault() {
    let overrides = [("streams.recheck", "200ms"), ("sessions.stale_if_error", "0s")];
    let sockets = world(Reply::Socket, &overrides).await;
    let calls = world(open_ended("application/grpc"), &overrides).await;
    let socket = WebSocket::open(sockets.address(), "/socket", &sockets.persona("VIEWER").jwt).await;
    let call = OpenStream::open(calls.address(), "/s.S/M", &calls.persona("VIEWER").jwt, true).await;
    for world in [&sockets, &calls] {
        world.fault(json!({ "operation": "list", "status": 500 })).await;
    }
    assert_eq!(socket.end().await.0, Some(CloseCode::Again), "1013");
    let (End::Whole(Some(trailers)), _) = call.end().await else { panic!("no trailers") };
    assert_eq!(trailers.get("grpc-status"), Some(&HeaderValue::from_static("14")));
    // Nor is a role that is missing a matter of signing in.
    let calls = world(open_ended("application/grpc"), &[]).await;
    let persona = calls.persona("ADMIN").clone();
    let call = OpenStream::open(calls.address(), "/admin/s.S/M", &persona.jwt, true).await;
    calls.control("PATCH", &format!("sessions/{}", persona.session_id), json!({ "roles": ["viewer"] })).await;
    assert_eq!(calls.admin(json!({ "member_id": persona.member_id })).await.status, 200);
    let (End::Whole(Some(trailers)), _) = call.end().await else { panic!("no trailers") };
    assert_eq!(trailers.get("grpc-status"), Some(&HeaderValue::from_static("7")));
}

#[tokio::test]
async fn a_member_with_many_streams_is_looked_at_once_for_all_of_them() {
    let overrides = [("streams.recheck", "500ms"), ("sessions.fresh_for", "100ms")];
    let world = world(open_ended("text/event-stream"), &overrides).await;
    let jwt = &world.persona("VIEWER").jwt;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(OpenStream::open(world.address(), "/events", jwt, true).await);
    }
    let before = world.calls("list").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calls = world.calls("list").await - before;
    assert!((2..=6).contains(&calls), "{calls} calls in four looks at fifty streams");
    assert_eq!(world.metric("portcullis_streams_open").await, Some(50.0));
}
