//! What an operator sees and does: metrics, probes, logs, leaving.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{ANY, Ask, Lines, Origin, Reply, USUAL, World, ask, config_for, install_crypto};
use portcullis::app::Gateway;
use portcullis::emulator::{Emulator, EmulatorSettings};

#[tokio::test]
async fn every_request_leaves_one_access_line_and_one_decision_record() {
    let world = World::start().await;
    let answer = world.send(Ask::get("/admin?secret=query").bearer(&world.persona("VIEWER").jwt)).await;
    let id = answer.header("x-request-id").to_owned();
    let access = world.lines.find(&["\"log\":\"access\"", &id]).await;
    let decision = world.lines.find(&["\"log\":\"decision\"", &id]).await;
    assert_eq!((access["status"].as_u64(), access["reason"].as_str()), (Some(403), Some("role_missing")));
    assert_eq!((access["route"].as_str(), access["path"].as_str()), (Some("admin"), Some("/admin")));
    assert_eq!(
        (decision["decision"].as_str(), decision["reason"].as_str()),
        (Some("refuse"), Some("role_missing"))
    );
    assert_eq!(decision["member_id"], world.persona("VIEWER").member_id);
    let malformed = world.send(Ask::get("/a%2fb")).await;
    let line = world.lines.find(&["\"log\":\"access\"", malformed.header("x-request-id")]).await;
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(400), Some("path_ambiguous")));
}

#[tokio::test]
async fn no_secret_appears_in_any_output() {
    let world = World::start().await;
    let viewer = world.persona("VIEWER").clone();
    let secrets = [viewer.jwt.as_str(), viewer.token.as_str(), &world.emulator.secret(), "query-secret"];
    let mut outputs = String::new();
    for ask in [
        Ask::get("/?x=query-secret").bearer(&viewer.jwt),
        Ask::get("/admin").cookie("stytch_session", &viewer.token),
        Ask::get("/a;b?x=query-secret").bearer(&viewer.jwt),
    ] {
        let answer = world.send(ask).await;
        if answer.status != 200 {
            outputs.push_str(&answer.text());
            outputs.push_str(&format!("{:?}", answer.headers));
        }
    }
    world.fault(json!({ "status": 401 })).await;
    outputs.push_str(&world.get("/", "ADMIN").await.text());
    world.lines.find(&["directory_credentials_rejected"]).await;
    outputs.push_str(&world.lines.text());
    outputs.push_str(&world.ops("/metrics").await.text());
    for secret in secrets {
        assert!(!outputs.contains(secret), "a secret was told");
    }
}

#[tokio::test]
async fn metrics_count_what_happened_under_labels_of_our_own() {
    let world = World::start().await;
    world.get("/", "VIEWER").await;
    world.get("/", "VIEWER").await;
    world.get("/admin", "VIEWER").await;
    world.send(Ask::new("BREW", "/public/pot")).await;
    let text = world.ops("/metrics").await.text();
    for line in [
        "portcullis_decisions_total{decision=\"allow\",reason=\"\",route=\"everything\"} 2",
        "portcullis_decisions_total{decision=\"refuse\",reason=\"role_missing\",route=\"admin\"} 1",
        // The refusal is confirmed: the JWT may be newer than the list.
        "portcullis_session_lookups_total{result=\"miss\",tier=\"memory\"} 2",
        "portcullis_session_lookups_total{result=\"hit\",tier=\"memory\"} 2",
        "portcullis_directory_requests_total{operation=\"list\",outcome=\"ok\"} 2",
        "portcullis_session_cache_entries 1",
        "portcullis_upstream_requests_total{outcome=\"ok\",upstream=\"app\"} 3",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    assert!(text.contains("method=\"_OTHER\"") && !text.contains("BREW"));
    assert!(!text.contains("member-test") && !text.contains("/public/pot"));
}

/// A metric exists only with its line of documentation, and the other way round.
#[tokio::test]
async fn every_metric_is_documented() {
    let world = World::start().await;
    world.get("/", "VIEWER").await;
    world.get("/admin", "VIEWER").await;
    let documented = std::fs::read_to_string("docs/metrics.md").unwrap();
    let rows: Vec<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let text = world.ops("/metrics").await.text();
    let exposed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .filter(|name| !name.starts_with("process_"))
        .collect();
    for name in &exposed {
        assert!(rows.contains(&name.split('{').next().unwrap()), "`{name}` has no row in docs/metrics.md");
    }
    for row in rows.iter().filter(|row| row.starts_with("portcullis_")) {
        // A family without a sample yet is not exposed.
        let rare = [
            "portcullis_connections_rejected_total",
            "portcullis_revocations_total",
            "portcullis_shadow_decisions_total",
            // Where there is an audit stream.
            "portcullis_audit_failing",
            // Where traces are on.
            "portcullis_spans_total",
            "portcullis_streams_closed_total",
            // Of listeners that answer TLS.
            "portcullis_tls_certificate_not_after_timestamp_seconds",
            "portcullis_tls_certificate_reloads_total",
        ];
        assert!(exposed.contains(row) || rare.contains(row), "`{row}` is documented but does not exist");
    }
}

#[tokio::test]
async fn every_reason_is_documented() {
    let documented = std::fs::read_to_string("docs/reasons.md").unwrap();
    let rows: Vec<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let codes: Vec<&str> = portcullis::policy::Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(rows, codes, "docs/reasons.md has a row for each reason, in order");
    for reason in portcullis::policy::Reason::ALL {
        let row =
            documented.lines().find(|line| line.starts_with(&format!("| `{}`", reason.code()))).unwrap();
        let challenged =
            reason.status() == 401 || reason.remedy() == portcullis::policy::Remedy::AskForAccess;
        let challenge = match reason.bearer_error() {
            _ if !challenged => "—".to_owned(),
            None => "`Bearer`".to_owned(),
            Some(error) => format!("`{error}`"),
        };
        let (status, title, advice) = (reason.status().as_u16(), reason.title(), reason.remedy().advice());
        let expected = format!("| `{}` | {status} | {title} | {advice} | {challenge} |", reason.code());
        assert_eq!(row, expected);
    }
}

#[tokio::test]
async fn readiness_waits_for_keys_and_not_for_the_session_api() {
    let world = World::start().await;
    world.fault(json!({ "status": 500 })).await;
    assert_eq!(world.ops("/readyz").await.status, 200);
    assert_eq!(world.ops("/livez").await.text(), "ok\n");
    assert_eq!(world.ops("/startupz").await.status, 200);
    assert_eq!(world.ops("/elsewhere").await.status, 404);

    install_crypto();
    let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
    let config =
        config_for(USUAL, &emulator, "http://127.0.0.1:1", &[("stytch.base_url", "http://127.0.0.1:1")]);
    let gateway = Gateway::start(config, Lines::default()).await.unwrap();
    let unready = ask(gateway.ops(), Ask::get("/readyz")).await;
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("fail verification keys loaded"), "{}", unready.text());
    let jwt = &emulator.personas()[0].jwt;
    let refused = ask(gateway.traffic()[0].0, Ask::get("/").bearer(jwt)).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "keys_unavailable"));
}

#[tokio::test]
async fn leaving_lets_running_requests_finish_and_takes_no_new_ones() {
    let slow = vec!["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "s", "l", "o", "w"];
    let origin = Origin::start(Reply::Pieces(slow)).await;
    let World { gateway, .. } = World::before(&origin).await;
    let (traffic, ops) = (gateway.traffic()[0].0, gateway.ops());
    let running = tokio::spawn(ask(traffic, Ask::get("/public")));
    while origin.heads().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    let leaving = tokio::spawn(gateway.shut_down());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(ops, Ask::get("/readyz")).await.status, 503);
    assert_eq!(running.await.unwrap().text(), "slow");
    assert!(leaving.await.unwrap(), "something was cut off");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(tokio::net::TcpStream::connect(traffic).await.is_err());
}

#[tokio::test]
async fn leaving_has_an_end() {
    let origin = Origin::start(Reply::Silence).await;
    let yaml = "drain_timeout: 300ms\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let World { gateway, .. } = World::with(yaml, &[("upstreams.app.url", &origin.url())]).await;
    let stuck =
        tokio::spawn(crate::support::raw(gateway.traffic()[0].0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    while origin.heads().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!gateway.shut_down().await, "a request that never ends was said to have ended");
    stuck.abort();
}

/// With a seed, a gateway that cannot reach the API begins with its keys; without either it stays unready.
#[tokio::test]
async fn seeded_keys_verify_until_keys_can_be_fetched() {
    install_crypto();
    let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
    let api = emulator.url().trim_start_matches("http://").parse().unwrap();
    let path = format!("/v1/b2b/sessions/jwks/{}", emulator.project_id());
    let (folder, lines) = (tempfile::tempdir().unwrap(), Lines::default());
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, ask(api, Ask::get(&path)).await.body).unwrap();
    let overrides = [
        ("stytch.base_url", "http://127.0.0.1:1"),
        ("stytch.keys.file", file.to_str().unwrap()),
        ("sessions.jwt_evidence", "outage"),
    ];
    let echo = portcullis::emulator::EchoOrigin::start(ANY).await.unwrap();
    let origin = format!("http://{}", echo.address());
    let gateway =
        Gateway::start(config_for(USUAL, &emulator, &origin, &overrides), lines.clone()).await.unwrap();
    assert_eq!(ask(gateway.ops(), Ask::get("/readyz")).await.status, 200);
    let viewer = emulator.personas().into_iter().find(|persona| persona.name == "VIEWER").unwrap();
    let address = gateway.traffic()[0].0;
    let path = format!("/_emulator/sessions/{}/jwt", viewer.session_id);
    let minted = ask(api, Ask::new("POST", &path).body("{\"issued_ago_seconds\":60}")).await.json();
    let served = ask(address, Ask::get("/").bearer(minted["session_jwt"].as_str().unwrap())).await;
    assert_eq!(served.seen("x-auth-session-id").as_deref(), Some(viewer.session_id.as_str()));
    // Marked for what it is, to the application and in the record.
    let age: u64 = served.seen("x-auth-evidence-age").unwrap().parse().unwrap();
    assert!((60..=70).contains(&age), "{age}");
    let record = lines.find(&["\"log\":\"decision\"", "\"evidence\":\"jwt\""]).await;
    assert!(record["evidence_age_ms"].as_f64().unwrap() >= 60_000.0, "{record}");
    // Its claims are held against the policy as a list would be.
    assert_eq!(ask(address, Ask::get("/admin").bearer(&viewer.jwt)).await.reason(), "role_missing");
    // The opaque token of the same session says nothing by itself.
    assert_eq!(ask(address, Ask::get("/").cookie("stytch_session", &viewer.token)).await.status, 503);
}

#[tokio::test]
async fn the_kubelet_can_ask_an_application_on_loopback_through_the_ops_listener() {
    let yaml =
        "ops: { probes: { app: { upstream: app, path: /healthz }, away: { upstream: gone, timeout: 1s } } }
upstreams: { gone: { url: \"http://127.0.0.1:1\" } }
routes: [ { name: a, match: { path: /** }, require: authenticated, upstream: app } ]
";
    for (answer, status) in [("200 OK", 200), ("503 Service Unavailable", 503), ("404 Not Found", 404)] {
        let reply = format!("HTTP/1.1 {answer}\r\nContent-Length: 6\r\nX-Secret: x\r\n\r\nhidden");
        let origin = Origin::start(Reply::text(&reply)).await;
        let world = World::with_origin(yaml, &[], &origin.url()).await;
        let told = world.ops("/probe/app").await;
        assert_eq!(told.status, status);
        assert!(!told.text().contains("hidden") && !told.headers.contains_key("x-secret"));
        let heads = origin.heads();
        assert!(heads[0].starts_with("GET /healthz HTTP/1.1\r\n"), "{heads:?}");
        assert_eq!(world.ops("/probe/away").await.status, 503);
        assert_eq!(world.ops("/probe/other").await.status, 404);
        assert_eq!(world.ops("/probe/app/../x").await.status, 404);
    }
}
