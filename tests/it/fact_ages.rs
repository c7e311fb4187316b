//! A fact that a decision rests on is never older than its route allows, whichever cache it comes from.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{ADMIN_TOKEN, Ask, World};

const STRICT: &str = r#"
sessions: { deadline: 1s, negative_for: 100ms }
routes:
  - { name: write, match: { path: /write }, require: { permission: { resource: reports, action: write } }, max_staleness: 1s }
  - { name: audit, match: { path: /audit }, require: { permission: { resource: reports, action: read } }, max_staleness: 1s }
  - name: tenant
    match: { path: "/orgs/{org}/**" }
    require: { organization_from: { path_param: org, by: [external_id] } }
    max_staleness: 1s
  - { name: usual, match: { path: /usual }, require: { permission: { resource: reports, action: write } } }
"#;
const BOUND: Duration = Duration::from_secs(1);

/// Asks until a refusal, and fails on an allow of a request that began when everything known from before `changed` was
/// older than the bound. The reason of the refusal.
async fn refused_within_the_bound(world: &World, path: &str, persona: &str, changed: Instant) -> String {
    loop {
        let began = Instant::now();
        let answer = world.get(path, persona).await;
        if answer.status != 200 {
            return answer.reason();
        }
        let stood = began.duration_since(changed);
        assert!(stood <= BOUND, "{path} was allowed {stood:?} after what it rests on was gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_permission_that_a_role_lost_is_refused_within_the_routes_bound() {
    let world = World::with(STRICT, &[]).await;
    assert_eq!(world.get("/write", "ADMIN").await.status, 200);
    let mut policy = world.control("GET", "policy", json!({})).await;
    for role in policy["roles"].as_array_mut().unwrap() {
        role["permissions"] = json!([]);
    }
    world.control("PUT", "policy", policy).await;
    let changed = Instant::now();
    assert_eq!(refused_within_the_bound(&world, "/write", "ADMIN", changed).await, "permission_missing");
}

#[tokio::test]
async fn a_role_of_the_organizations_own_policy_is_held_to_the_routes_bound_too() {
    let world = World::with(STRICT, &[]).await;
    let id = &world.persona("IMPERSONATED").session_id;
    world.control("PATCH", &format!("sessions/{id}"), json!({ "roles": ["acme_auditor"] })).await;
    assert_eq!(world.get("/audit", "IMPERSONATED").await.status, 200);
    let organization = &world.persona("IMPERSONATED").organization_id;
    world.control("PATCH", &format!("organizations/{organization}"), json!({ "roles": [] })).await;
    let changed = Instant::now();
    assert_eq!(
        refused_within_the_bound(&world, "/audit", "IMPERSONATED", changed).await,
        "permission_missing"
    );
}

#[tokio::test]
async fn an_external_id_that_moved_to_another_tenant_opens_nothing_past_the_routes_bound() {
    let world = World::with(STRICT, &[]).await;
    let path = "/orgs/acme-external/page";
    assert_eq!(world.get(path, "VIEWER").await.status, 200);
    for (persona, external_id) in [("VIEWER", "acme-other"), ("OTHER_ORG", "acme-external")] {
        let id = &world.persona(persona).organization_id;
        world.control("PATCH", &format!("organizations/{id}"), json!({ "external_id": external_id })).await;
    }
    let changed = Instant::now();
    assert_eq!(refused_within_the_bound(&world, path, "VIEWER", changed).await, "organization_mismatch");
}

#[tokio::test]
async fn a_policy_that_cannot_be_had_is_bridged_for_no_longer_than_the_route_says() {
    for (operation, path, persona) in
        [("policy", "/write", "ADMIN"), ("organization_policy", "/audit", "IMPERSONATED")]
    {
        let world = World::with(STRICT, &[]).await;
        let id = &world.persona("IMPERSONATED").session_id;
        world.control("PATCH", &format!("sessions/{id}"), json!({ "roles": ["acme_auditor"] })).await;
        assert_eq!(world.get(path, persona).await.status, 200);
        world
            .fault(json!({ "operation": operation, "status": 500, "error_type": "internal_server_error" }))
            .await;
        let refused = refused_within_the_bound(&world, path, persona, Instant::now()).await;
        assert_eq!(refused, "policy_unavailable");
        assert_eq!(world.get("/usual", "ADMIN").await.status, 200, "a route with the usual ages is bridged");
    }
}

#[tokio::test]
async fn the_age_that_the_application_and_the_record_see_is_that_of_the_oldest_fact() {
    let world =
        World::with(STRICT, &[("sessions.fresh_for", "200ms"), ("sessions.stale_while_revalidate", "60s")])
            .await;
    assert_eq!(world.get("/usual", "ADMIN").await.status, 200);
    // The session list is renewed behind the requests; the policy is not for a while.
    let began = Instant::now();
    let age = loop {
        let answer = world.get("/usual", "ADMIN").await;
        let age = answer.seen("x-auth-evidence-age").unwrap().parse::<u64>().unwrap();
        if age >= 2 {
            break age;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the age stays at {age}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let record = world.lines.find(&["\"log\":\"decision\"", &format!("\"evidence_age_ms\":{age}")]).await;
    assert_eq!(record["route"], "usual");
}

#[tokio::test]
async fn explaining_names_every_fact_with_its_age() {
    let yaml = format!("{STRICT}admin: {{ address: 127.0.0.1:0, token: {{ value: {ADMIN_TOKEN} }} }}\n");
    let world = World::with(&yaml, &[]).await;
    assert_eq!(world.get("/usual", "ADMIN").await.status, 200);
    let persona = world.persona("ADMIN");
    let member = format!("{}/{}", persona.organization_id, persona.member_id);
    let question = json!({ "url": "https://any.example/usual", "member": member });
    let ask = Ask::new("POST", "/admin/explain").header("content-type", "application/json");
    let ask = ask.bearer(ADMIN_TOKEN).body(question.to_string());
    let answer = crate::support::ask(world.gateway.admin().unwrap(), ask).await;
    let report = answer.json();
    let named: Vec<&str> =
        report["facts"].as_array().unwrap().iter().map(|fact| fact["fact"].as_str().unwrap()).collect();
    assert_eq!(named, ["session list", "project policy", "organization policy"], "{report}");
    assert!(report["facts"].as_array().unwrap().iter().all(|fact| fact["age_ms"].is_u64()), "{report}");
}
