//! What the application is told of its caller, under which names, and never more than fits.

use serde_json::json;

use crate::support::{Ask, World};

const ROUTES: &str = "routes:
  - { name: open, match: { path: /open }, public: true }
  - { name: machine, match: { path: /machine }, require: { any: [ authenticated, { machine: {} } ] } }
  - { name: all, match: { path: /** }, require: authenticated }
";

#[tokio::test]
async fn an_application_moves_over_with_the_names_it_knows() {
    let presets: [(&str, &[(&str, &str)]); 3] = [
        (
            "oauth2-proxy",
            &[
                ("x-forwarded-email", "ada@acme.example"),
                ("x-forwarded-groups", "stytch_member,stytch_admin,editor"),
            ],
        ),
        (
            "oauth2-proxy-auth-request",
            &[
                ("x-auth-request-email", "ada@acme.example"),
                ("x-auth-request-groups", "stytch_member,stytch_admin,editor"),
            ],
        ),
        (
            "authelia",
            &[("remote-email", "ada@acme.example"), ("remote-groups", "stytch_member,stytch_admin,editor")],
        ),
    ];
    let users = ["x-forwarded-user", "x-auth-request-user", "remote-user"];
    for ((preset, expected), user) in presets.into_iter().zip(users) {
        let world = World::with(&format!("identity: {{ preset: {preset} }}\n{ROUTES}"), &[]).await;
        let answer = world.get("/", "ADMIN").await;
        assert_eq!(answer.seen(user).as_deref(), Some(world.persona("ADMIN").member_id.as_str()), "{preset}");
        for (name, value) in expected {
            assert_eq!(answer.seen(name).as_deref(), Some(*value), "{preset} {name}");
        }
        // Nobody but us says it, in whatever spelling, on whatever route.
        let folded = user.replace('-', "_");
        for path in ["/open", "/"] {
            let forged = Ask::get(path)
                .header(user, "root")
                .header(&folded, "root")
                .bearer(&world.persona("VIEWER").jwt);
            let text = world.send(forged).await.text();
            assert!(!text.contains("root"), "{preset} {path}: {text}");
        }
        // The usual ones are removed even where they are not the ones injected.
        let forged = Ask::get("/open").header("x-auth-member-id", "root");
        assert_eq!(world.send(forged).await.seen("x-auth-member-id"), None, "{preset}");
    }
}

#[tokio::test]
async fn headers_of_ones_own_hold_one_thing_each_and_cannot_be_broken_out_of() {
    let yaml = format!(
        "identity:
  preset: [portcullis]
  headers:
    - {{ name: x-tenant, from: organization_slug }}
    - {{ name: x-role-list, from: roles, separator: \"|\" }}
    - {{ name: x-roles-json, from: roles, format: json }}
    - {{ name: x-tier, claim: /tier }}
    - {{ name: x-odd, claim: /odd }}
{ROUTES}"
    );
    let world = World::with(&yaml, &[]).await;
    let admin = &world.persona("ADMIN").session_id;
    let change =
        json!({ "custom_claims": { "tier": "gold, 100%", "odd": "a\r\nX-Auth-Roles: root\u{7f}é" } });
    world.control("PATCH", &format!("sessions/{admin}"), change).await;
    let answer = world.get("/", "ADMIN").await;
    for (name, value) in [
        ("x-tenant", "acme"),
        ("x-role-list", "stytch_member|stytch_admin|editor"),
        ("x-roles-json", r#"["stytch_member","stytch_admin","editor"]"#),
        ("x-tier", "gold%2C%20100%25"),
        ("x-odd", "a%0D%0AX-Auth-Roles:%20root%7F%C3%A9"),
        ("x-auth-kind", "member"),
    ] {
        assert_eq!(answer.seen(name).as_deref(), Some(value), "{name}");
    }
    let viewer = world.get("/", "VIEWER").await;
    assert_eq!(viewer.seen("x-tier"), None, "what is not there is not sent");
    // A machine has no organization and no session, and its header says what it is.
    let machine = world.machine_token(json!({})).await;
    let answer = world.send(Ask::get("/machine").bearer(&machine).header("x-tenant", "acme")).await;
    assert_eq!(answer.seen("x-auth-kind").as_deref(), Some("machine"));
    for name in ["x-tenant", "x-auth-organization-id", "x-auth-member-id", "x-auth-session-id"] {
        assert_eq!(answer.seen(name), None, "{name}");
    }
}

/// Whatever the headers are called, an application can tell a member from an app that acts for them.
#[tokio::test]
async fn an_app_never_passes_for_its_member_under_names_of_ones_own() {
    let yaml = "identity: { preset: none, headers: [ { name: x-user, from: member_id } ] }
routes: [ { name: app, match: { path: /** }, require: { any: [ authenticated, { app: {} } ] } } ]
";
    let world = World::with(yaml, &[]).await;
    let token = world.app_token("VIEWER", json!({})).await;
    let member = world.persona("VIEWER").member_id.clone();
    for (token, kind) in [(&token, "app"), (&world.persona("VIEWER").jwt, "member")] {
        let answer = world.send(Ask::get("/").bearer(token)).await;
        assert_eq!(answer.seen("x-user").as_deref(), Some(member.as_str()));
        assert_eq!(answer.seen("x-auth-kind").as_deref(), Some(kind));
    }
}

#[tokio::test]
async fn a_caller_about_whom_there_is_too_much_to_say_is_refused_and_not_cut_short() {
    let yaml = format!("identity: {{ max_value_bytes: 256 }}\n{ROUTES}");
    let world = World::with(&yaml, &[]).await;
    let id = &world.persona("VIEWER").session_id;
    let roles: Vec<String> = (0..60).map(|number| format!("role-{number}")).collect();
    world.control("PATCH", &format!("sessions/{id}"), json!({ "roles": roles })).await;
    let answer = world.get("/", "VIEWER").await;
    assert_eq!((answer.status, answer.reason().as_str()), (500, "identity_oversized"));
    assert_eq!(world.get("/", "ADMIN").await.status, 200);
}

#[tokio::test]
async fn a_shadow_is_counted_and_told_and_never_enforced() {
    let world = World::with(
        "routes:
  - { name: tried, match: { path: /tried }, require: authenticated, shadow: { role: stytch_admin } }
  - { name: inner, match: { path: /inner }, require: { all: [ authenticated, { shadow: { role: stytch_admin } } ] } }
  - { name: kind, match: { path: /kind }, require: authenticated, shadow: { app: {} } }
  - name: part
    match: { path: /part }
    require: { role: stytch_admin }
    shadow: { mfa: {} }
",
        &[],
    )
    .await;
    for (path, persona, status) in [
        ("/tried", "ADMIN", 200),
        ("/tried", "VIEWER", 200),
        ("/inner", "VIEWER", 200),
        ("/part", "VIEWER", 403),
        ("/part", "ADMIN", 200),
    ] {
        assert_eq!(world.get(path, persona).await.status, status, "{path} {persona}");
    }
    // What only the shadow asks about fails nobody.
    let app = world.app_token("VIEWER", json!({})).await;
    let fault = json!({ "operation": "introspect", "status": 503, "error_type": "internal_server_error" });
    world.fault(fault).await;
    assert_eq!(world.send(Ask::get("/kind").bearer(&app)).await.reason(), "credential_kind");
    let line = world.lines.find(&["\"log\":\"shadow\"", "would_refuse"]).await;
    assert_eq!(
        (&line["route"], &line["decision"], &line["shadow_reason"]),
        (&json!("tried"), &json!("allow"), &json!("role_missing"))
    );
    assert_eq!(line["member_id"], world.persona("VIEWER").member_id.as_str());
    for (labels, count) in [
        ("reason=\"\",result=\"same\",route=\"tried\"", 1.0),
        ("reason=\"role_missing\",result=\"would_refuse\",route=\"tried\"", 1.0),
        ("reason=\"role_missing\",result=\"would_refuse\",route=\"inner\"", 1.0),
        ("reason=\"mfa_missing\",result=\"other_reason\",route=\"part\"", 1.0),
        ("reason=\"\",result=\"same\",route=\"part\"", 1.0),
    ] {
        let found = world.metric(&format!("portcullis_shadow_decisions_total{{{labels}}}")).await;
        assert_eq!(found, Some(count), "{labels}");
    }
}
