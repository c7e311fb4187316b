//! Organizations as a boundary, and what their roles permit.

use std::time::Duration;

use serde_json::json;

use crate::support::{Ask, World};

const TENANTS: &str = r#"
sessions: { deadline: 1s, negative_for: 100ms }
stytch: { rbac: { refresh_every: 1s } }
routes:
  - name: tenant-host
    match: { host: "*.app.example.com", path: /** }
    require: { organization_from: { host: "{org}.app.example.com" } }
  - name: tenant-path
    match: { host: "*", path: "/orgs/{org}/**" }
    require: { organization_from: { path_param: org } }
  - name: by-slug
    match: { host: "*", path: "/slugs/{org}" }
    require: { organization_from: { path_param: org, by: [slug] } }
  - { name: read, match: { host: "*", path: /read }, require: { permission: { resource: reports, action: read } } }
  - { name: write, match: { host: "*", path: /write }, require: { permission: { resource: reports, action: write } } }
  - name: app-read
    match: { host: "*", path: /app-read }
    require: { all: [ app, { permission: { resource: reports, action: read } } ] }
"#;

impl World {
    /// The reason of a refusal, or `200`.
    async fn came_to(&self, host: &str, path: &str, persona: &str) -> String {
        let ask = Ask::get(path).header("host", host).bearer(&self.persona(persona).jwt);
        let answer = self.send(ask).await;
        if answer.status == 200 { "200".to_owned() } else { answer.reason() }
    }
}

#[tokio::test]
async fn a_host_label_or_a_path_segment_must_name_the_sessions_own_organization() {
    let world = World::with(TENANTS, &[]).await;
    let id = world.persona("VIEWER").organization_id.clone();
    let mismatch = "organization_mismatch";
    for (host, expected) in [
        ("acme.app.example.com", "200"),
        ("ACME.App.Example.com", "200"),
        ("acme-external.app.example.com", "200"),
        (&*format!("{id}.app.example.com"), "200"),
        ("globex.app.example.com", mismatch),
        ("a.acme.app.example.com", mismatch),
        ("acme.x.app.example.com", mismatch),
    ] {
        assert_eq!(world.came_to(host, "/", "VIEWER").await, expected, "{host}");
    }
    for (path, expected) in [
        ("/orgs/acme/users", "200"),
        ("/orgs/acme-external/users", "200"),
        (&*format!("/orgs/{id}"), "200"),
        ("/orgs/Acme/users", mismatch),
        ("/orgs/globex/users", mismatch),
        ("/orgs/%61cme/users", "200"),
        ("/orgs/acme/../globex/users", mismatch),
        ("/slugs/acme", "200"),
        ("/slugs/acme-external", mismatch),
        (&*format!("/slugs/{id}"), mismatch),
    ] {
        assert_eq!(world.came_to("any.example", path, "VIEWER").await, expected, "{path}");
    }
    assert_eq!(world.came_to("globex.app.example.com", "/", "OTHER_ORG").await, "200");
    assert_eq!(world.came_to("acme.app.example.com", "/", "OTHER_ORG").await, mismatch);
}

#[tokio::test]
async fn names_are_looked_up_only_where_they_are_needed_and_of_the_callers_own_organization() {
    let world = World::with(TENANTS, &[("stytch.rbac.refresh_every", "1h")]).await;
    for _ in 0..5 {
        assert_eq!(world.came_to("acme.app.example.com", "/", "VIEWER").await, "200");
    }
    assert_eq!(
        world.calls("organization").await,
        1,
        "the session tells its slug; whose it is was asked once"
    );
    assert_eq!(world.came_to("any.example", "/slugs/acme", "VIEWER").await, "200");
    assert_eq!(world.calls("organization").await, 1, "where only slugs count there is nothing to ask");
    for _ in 0..5 {
        assert_eq!(world.came_to("acme-external.app.example.com", "/", "VIEWER").await, "200");
    }
    // However many organizations a caller makes up, one is asked about: their own.
    for number in 0..20 {
        world.came_to(&format!("made-up-{number}.app.example.com"), "/", "VIEWER").await;
    }
    assert_eq!(world.calls("organization").await, 3, "its names once, and whose the external id is");
}

/// One tenant's slug that is another's external id: the directory says whose it is, and nobody else passes.
#[tokio::test]
async fn a_slug_that_is_anothers_external_id_opens_nothing() {
    let world = World::with(TENANTS, &[]).await;
    // In the directory of the stand-in the first that fits answers; Globex calls itself what Acme is known by.
    let id = &world.persona("OTHER_ORG").organization_id;
    world.control("PATCH", &format!("organizations/{id}"), json!({ "slug": "acme-external" })).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(world.came_to("acme-external.app.example.com", "/", "VIEWER").await, "200");
    let session = &world.persona("OTHER_ORG").session_id;
    let minted = world.control("POST", &format!("sessions/{session}/jwt"), json!({})).await;
    let ask = Ask::get("/").header("host", "acme-external.app.example.com");
    let answer = world.send(ask.bearer(minted["session_jwt"].as_str().unwrap())).await;
    assert_eq!(answer.reason(), "organization_mismatch");
}

#[tokio::test]
async fn an_organization_that_cannot_be_looked_up_is_our_trouble_and_refuses() {
    let world = World::with(TENANTS, &[]).await;
    world
        .fault(json!({ "operation": "organization", "status": 503, "error_type": "internal_server_error" }))
        .await;
    assert_eq!(
        world.came_to("acme-external.app.example.com", "/", "VIEWER").await,
        "organization_unavailable"
    );
    assert_eq!(world.came_to("any.example", "/slugs/acme", "VIEWER").await, "200", "which needs no look");
}

#[tokio::test]
async fn permissions_come_from_the_projects_roles_and_the_organizations_own() {
    let world = World::with(TENANTS, &[]).await;
    let host = "any.example";
    assert_eq!(world.came_to(host, "/read", "VIEWER").await, "200");
    assert_eq!(world.came_to(host, "/write", "VIEWER").await, "permission_missing");
    assert_eq!(world.came_to(host, "/write", "ADMIN").await, "200");
    assert_eq!(world.came_to(host, "/read", "IMPERSONATED").await, "permission_missing");
    // A role of the organization's own policy; of another organization it means nothing.
    for (persona, expected) in [("IMPERSONATED", "200"), ("OTHER_ORG", "permission_missing")] {
        let id = &world.persona(persona).session_id;
        world.control("PATCH", &format!("sessions/{id}"), json!({ "roles": ["acme_auditor"] })).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(world.came_to(host, "/read", persona).await, expected, "{persona}");
    }
    // An app is judged by the scopes of the policy.
    let app = world.app_token("VIEWER", json!({})).await;
    assert_eq!(world.send(Ask::get("/app-read").header("host", host).bearer(&app)).await.status, 200);
    let less = world.app_token("VIEWER", json!({ "scope": "openid" })).await;
    let refused = world.send(Ask::get("/app-read").header("host", host).bearer(&less)).await;
    assert_eq!(refused.reason(), "permission_missing");
}

#[tokio::test]
async fn a_policy_is_fetched_ahead_refreshed_and_kept_while_the_api_fails() {
    let world = World::with(TENANTS, &[("stytch.rbac.refresh_every", "200ms")]).await;
    let host = "any.example";
    assert_eq!(world.came_to(host, "/write", "VIEWER").await, "permission_missing");
    let mut policy = world.control("GET", "policy", json!({})).await;
    policy["roles"][3]["permissions"][0]["actions"] = json!(["*"]);
    world.control("PUT", "policy", policy).await;
    let began = std::time::Instant::now();
    while world.came_to(host, "/write", "VIEWER").await != "200" {
        assert!(began.elapsed() < Duration::from_secs(5), "the new policy was never taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for operation in ["policy", "organization_policy"] {
        world
            .fault(json!({ "operation": operation, "status": 500, "error_type": "internal_server_error" }))
            .await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.came_to(host, "/write", "VIEWER").await, "200", "the last good one is kept");
}

#[tokio::test]
async fn a_policy_that_was_never_had_refuses() {
    let world = World::with(TENANTS, &[]).await;
    // Another gateway that begins while the policy cannot be had.
    world.fault(json!({ "operation": "policy", "status": 500, "error_type": "internal_server_error" })).await;
    let late = world.replica(TENANTS, &[]).await;
    let ask = Ask::get("/read").header("host", "any.example").bearer(&world.persona("VIEWER").jwt);
    let refused = crate::support::ask(late.traffic()[0].0, ask.clone()).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "policy_unavailable"));
    assert!(!refused.header("retry-after").is_empty());
    world.heal().await;
    // By itself, without a request that waits for it.
    let began = std::time::Instant::now();
    loop {
        let answer = crate::support::ask(late.traffic()[0].0, ask.clone()).await;
        if answer.status == 200 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
