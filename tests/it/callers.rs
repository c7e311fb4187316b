//! Who may call: members, machines, apps and identities that others vouch for, and never one in place of another.

use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Answer, Ask, World};

/// A route for each kind of caller.
const KINDS: &str = r#"
sessions: { deadline: 1s, negative_for: 100ms }
routes:
  - { name: member, match: { path: /member }, require: authenticated }
  - { name: machine, match: { path: /machine }, require: { machine: { scopes: ["read:reports"] } } }
  - { name: app, match: { path: /app }, require: { app: { scopes: [openid] } } }
  - name: either
    match: { path: /either }
    require: { any: [ authenticated, { machine: { scopes: ["read:reports"] } }, { app: { scopes: [openid] } } ] }
  - { name: not-machine, match: { path: /not-machine }, require: { not: { machine: {} } } }
  - { name: strict-app, match: { path: /strict-app }, require: app, max_staleness: 1s }
"#;

impl World {
    /// A machine's token; `wishes` may name its `scope` and merge `claims`.
    pub(crate) async fn machine_token(&self, wishes: Value) -> String {
        let minted = self.control("POST", "machine-token", wishes).await;
        minted["access_token"].as_str().unwrap().to_owned()
    }

    /// A connected app's token for the persona's member.
    pub(crate) async fn app_token(&self, persona: &str, wishes: Value) -> String {
        let path = format!("sessions/{}/app-token", self.persona(persona).session_id);
        let minted = self.control("POST", &path, wishes).await;
        minted["access_token"].as_str().unwrap().to_owned()
    }

    async fn with_bearer(&self, path: &str, token: &str) -> Answer {
        self.send(Ask::get(path).bearer(token)).await
    }
}

/// Must show 4: kinds by routes, all refused but the diagonal.
#[tokio::test]
async fn a_token_of_one_kind_never_passes_for_another() {
    let world = World::with(KINDS, &[]).await;
    let persona = world.persona("VIEWER");
    let credentials = [
        ("session JWT", persona.jwt.clone()),
        ("session token", persona.token.clone()),
        ("machine", world.machine_token(json!({})).await),
        ("app", world.app_token("VIEWER", json!({})).await),
    ];
    let expected = [
        ("session JWT", [200, 401, 401, 200]),
        ("session token", [200, 401, 401, 200]),
        ("machine", [401, 200, 401, 200]),
        ("app", [401, 401, 200, 200]),
    ];
    println!("{:<14} {:>8} {:>8} {:>8} {:>8}", "", "/member", "/machine", "/app", "/either");
    for ((kind, token), (_, statuses)) in credentials.iter().zip(expected) {
        let mut row = Vec::new();
        for path in ["/member", "/machine", "/app", "/either"] {
            let answer = world.with_bearer(path, token).await;
            if answer.status != 200 {
                assert_eq!(answer.reason(), "credential_kind", "{kind} on {path}");
            }
            row.push(answer.status);
        }
        println!("{kind:<14} {:>8} {:>8} {:>8} {:>8}", row[0], row[1], row[2], row[3]);
        assert_eq!(row, statuses, "{kind}");
    }
    // What a route does not forbid is not what it asks for.
    let machine = &credentials[2].1;
    assert_eq!(world.with_bearer("/not-machine", machine).await.reason(), "credential_kind");
    assert_eq!(world.with_bearer("/not-machine", &persona.jwt).await.status, 200);
}

/// Claims of one kind put into a token of another: signed by the right key, and nobody's all the same.
#[tokio::test]
async fn a_token_that_mixes_kinds_is_none() {
    let world = World::with(KINDS, &[]).await;
    let organization = json!({ "organization_id": world.persona("VIEWER").organization_id, "slug": "acme" });
    let session = json!({ "id": world.persona("VIEWER").session_id });
    let mixed = [
        world.machine_token(json!({ "claims": { "https://stytch.com/session": session } })).await,
        world.machine_token(json!({ "claims": { "https://stytch.com/organization": organization } })).await,
        world.machine_token(json!({ "claims": { "sub": world.persona("VIEWER").member_id } })).await,
        world.machine_token(json!({ "claims": { "scope": null } })).await,
        world.app_token("VIEWER", json!({ "claims": { "client_id": null } })).await,
        world.app_token("VIEWER", json!({ "claims": { "sub": "m2m-client-test-1" } })).await,
        world.app_token("VIEWER", json!({ "claims": { "https://stytch.com/organization": null } })).await,
    ];
    for token in &mixed {
        for path in ["/member", "/machine", "/app", "/either"] {
            let answer = world.with_bearer(path, token).await;
            assert_eq!((answer.status, answer.reason().as_str()), (401, "credential_invalid"), "{path}");
        }
    }
    // An ID token is for the app itself: another audience.
    let id_token = world.app_token("VIEWER", json!({ "claims": { "aud": ["connected-app-test-1"] } })).await;
    assert_eq!(world.with_bearer("/either", &id_token).await.reason(), "credential_invalid");
}

#[tokio::test]
async fn a_machine_needs_its_scopes_and_the_origin_is_told_what_it_is() {
    let world = World::with(KINDS, &[]).await;
    let token = world.machine_token(json!({ "scope": "read:* other" })).await;
    let answer = world.with_bearer("/machine", &token).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.seen("x-auth-kind").unwrap(), "machine");
    assert_eq!(
        answer.seen("x-auth-client-id").unwrap(),
        "m2m-client-test-cccccccc-0000-4000-8000-000000000001"
    );
    assert_eq!(answer.seen("x-auth-scopes").unwrap(), "read:*,other");
    for absent in ["x-auth-member-id", "x-auth-organization-id", "x-auth-roles", "authorization"] {
        assert_eq!(answer.seen(absent), None, "{absent}");
    }
    let lacking = world.machine_token(json!({ "scope": "write:reports" })).await;
    let refused = world.with_bearer("/machine", &lacking).await;
    assert_eq!((refused.status, refused.reason().as_str()), (403, "scope_missing"));
    assert!(refused.header("www-authenticate").contains("insufficient_scope"));
    // No directory was asked about any of them.
    assert_eq!(world.calls("list").await + world.calls("introspect").await, 0);
}

#[tokio::test]
async fn an_apps_token_is_asked_about_and_the_answer_kept_within_the_routes_bound() {
    let world = World::with(KINDS, &[]).await;
    let token = world.app_token("VIEWER", json!({})).await;
    for _ in 0..5 {
        let answer = world.with_bearer("/app", &token).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.seen("x-auth-kind").unwrap(), "app");
        assert_eq!(answer.seen("x-auth-member-id").unwrap(), world.persona("VIEWER").member_id);
    }
    assert_eq!(world.calls("introspect").await, 1);
    assert_eq!(world.with_bearer("/strict-app", &token).await.status, 200);
    world.control("POST", "app-tokens/revoke", json!({ "token": token })).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    let refused = world.with_bearer("/strict-app", &token).await;
    assert_eq!((refused.status, refused.reason().as_str()), (401, "token_inactive"));
    // On a route without that kind nobody is asked.
    let before = world.calls("introspect").await;
    assert_eq!(world.with_bearer("/member", &token).await.reason(), "credential_kind");
    assert_eq!(world.calls("introspect").await, before);
}

#[tokio::test]
async fn an_app_with_a_secret_is_asked_about_with_it() {
    let yaml = format!(
        "{KINDS}stytch:\n  apps:\n    - {{ client_id: connected-app-test-dddddddd-0000-4000-8000-000000000002, secret: {{ value: app-secret-emulator }} }}\n"
    );
    let world = World::with(&yaml, &[]).await;
    let private = json!({ "client_id": "connected-app-test-dddddddd-0000-4000-8000-000000000002" });
    let token = world.app_token("VIEWER", private.clone()).await;
    assert_eq!(world.with_bearer("/app", &token).await.status, 200);
    // Without it the API refuses us, which is our trouble and not the caller's.
    let ignorant = World::with(KINDS, &[]).await;
    let token = ignorant.app_token("VIEWER", private).await;
    let refused = ignorant.with_bearer("/app", &token).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "directory_refused"));
}

#[tokio::test]
async fn introspection_that_fails_refuses_until_it_answers_and_bridges_what_it_knew() {
    let world =
        World::with(KINDS, &[("sessions.fresh_for", "100ms"), ("sessions.stale_while_revalidate", "0s")])
            .await;
    let (known, new) =
        (world.app_token("VIEWER", json!({})).await, world.app_token("ADMIN", json!({})).await);
    assert_eq!(world.with_bearer("/app", &known).await.status, 200);
    world
        .fault(json!({ "operation": "introspect", "status": 500, "error_type": "internal_server_error" }))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    assert_eq!(world.with_bearer("/app", &known).await.status, 200, "bridged");
    let refused = world.with_bearer("/app", &new).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "directory_failed"));
    assert!(!refused.header("retry-after").is_empty());
    world.heal().await;
}

/// What was known of an app's token before its member was revoked does not count, fresh or not.
#[tokio::test]
async fn a_revocation_of_its_member_outranks_what_was_known_of_an_apps_token() {
    let yaml = format!("{KINDS}admin: {{ address: 127.0.0.1:0, token: {{ value: {ADMIN_TOKEN} }} }}\n");
    let world = World::with(&yaml, &[]).await;
    let token = world.app_token("VIEWER", json!({})).await;
    assert_eq!(world.with_bearer("/app", &token).await.status, 200);
    world.control("POST", "app-tokens/revoke", json!({ "token": token })).await;
    assert_eq!(world.with_bearer("/app", &token).await.status, 200, "fresh by age");
    world.admin(json!({ "member_id": world.persona("VIEWER").member_id })).await;
    assert_eq!(world.with_bearer("/app", &token).await.reason(), "token_inactive");
}

/// Two headers, believed from this address alone.
const TRUSTED: &str = r#"
sessions: { deadline: 1s, negative_for: 100ms }
credentials:
  - trusted_identity: { organization_header: x-org, member_header: x-member, peers: [PEER] }
  - cookie: stytch_session_jwt
routes:
  - { name: open, match: { path: /open }, public: true }
  - { name: fresh, match: { path: /fresh }, require: { factor: { type: totp, max_age: 15m } } }
  - { name: both, match: { path: /both }, require: { all: [ { factor: { type: oauth } }, { session_age: { max: 1h } } ] } }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

fn named(path: &str, organization: &str, member: &str) -> Ask {
    Ask::get(path).header("x-org", organization).header("x-member", member)
}

#[tokio::test]
async fn a_trusted_peer_names_a_member_who_must_have_a_session_that_meets_everything() {
    let world = World::with(&TRUSTED.replace("PEER", "127.0.0.1"), &[]).await;
    let viewer = world.persona("VIEWER").member_id.clone();
    // By id, by slug, by external ids: the origin is told the directory's own.
    for (organization, member) in [
        (world.persona("VIEWER").organization_id.as_str(), viewer.as_str()),
        ("acme", viewer.as_str()),
        ("acme-external", "payroll-1"),
    ] {
        let answer = world.send(named("/", organization, member)).await;
        assert_eq!(answer.status, 200, "{organization} {member}");
        assert_eq!(answer.seen("x-auth-member-id").unwrap(), viewer);
        assert_eq!(answer.seen("x-org"), None, "the headers it came by go no further");
    }
    let admin = world.persona("ADMIN").member_id.clone();
    assert_eq!(world.send(named("/fresh", "acme", &admin)).await.status, 200);
    let stepped = world.send(named("/fresh", "acme", &viewer)).await;
    assert_eq!((stepped.status, stepped.reason().as_str()), (401, "factor_missing"));
    // One of the viewer's sessions is young and the other signed in by OAuth; neither is both.
    assert_eq!(world.send(named("/both", "acme", &viewer)).await.status, 401);
    // Nobody with a session, nobody at all.
    assert_eq!(world.send(named("/", "globex", &viewer)).await.reason(), "member_not_found");
    let idle = world.control("POST", "members", json!({ "organization": "acme" })).await;
    let idle = idle["member_id"].as_str().unwrap().to_owned();
    assert_eq!(world.send(named("/", "acme", &idle)).await.reason(), "session_not_found");
    // Each header exactly once, each an identifier.
    for odd in [
        named("/", "acme", &viewer).header("x-member", &admin),
        Ask::get("/").header("x-member", &viewer),
        named("/", "acme", "a b"),
    ] {
        assert_eq!(world.send(odd).await.reason(), "credential_invalid");
    }
    // A session of somebody else beside it is a contradiction, one of the same member is not.
    let cookie = |persona: &str| world.persona(persona).jwt.clone();
    let id = world.persona("VIEWER").organization_id.clone();
    let other = named("/", &id, &viewer).cookie("stytch_session_jwt", &cookie("ADMIN"));
    assert_eq!(world.send(other).await.reason(), "credentials_disagree");
    let same = named("/", &id, &viewer).cookie("stytch_session_jwt", &cookie("VIEWER"));
    assert_eq!(world.send(same).await.status, 200);
}

#[tokio::test]
async fn from_anybody_else_the_headers_are_stripped_and_ignored() {
    let world = World::with(&TRUSTED.replace("PEER", "192.0.2.7"), &[]).await;
    let viewer = world.persona("VIEWER").member_id.clone();
    let refused = world.send(named("/", "acme", &viewer).header("x-forwarded-for", "192.0.2.7")).await;
    assert_eq!((refused.status, refused.reason().as_str()), (401, "credential_missing"));
    let jwt = world.persona("ADMIN").jwt.clone();
    for path in ["/", "/open"] {
        let asked =
            named(path, "acme", &viewer).header("x_member", "evil").cookie("stytch_session_jwt", &jwt);
        let answer = world.send(asked).await;
        for name in ["x-org", "x-member", "x_member"] {
            assert_eq!(answer.seen(name), None, "{path} {name}");
        }
    }
}

/// While nothing can be asked, a JWT speaks for its own member and for nobody that a peer named.
#[tokio::test]
async fn in_an_outage_a_session_never_vouches_for_whom_a_peer_named() {
    let yaml =
        TRUSTED.replace("PEER", "127.0.0.1").replace("deadline: 1s,", "deadline: 1s, jwt_evidence: outage,");
    let world = World::with(&yaml, &[]).await;
    let jwt = world.aged_jwt(&world.persona("ADMIN").session_id).await;
    world.fault(json!({ "operation": "list", "status": 503, "error_type": "internal_server_error" })).await;
    let cookie = Ask::get("/").cookie("stytch_session_jwt", &jwt);
    assert_eq!(world.send(cookie).await.status, 200, "its own word counts");
    let viewer = world.persona("VIEWER");
    let both = named("/", &viewer.organization_id, &viewer.member_id).cookie("stytch_session_jwt", &jwt);
    let refused = world.send(both).await;
    assert!(matches!(refused.status, 401 | 503), "{}: {}", refused.status, refused.text());
}
