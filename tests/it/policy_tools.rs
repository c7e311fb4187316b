//! What a policy is tried with before anybody meets it: `explain` and `test`.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Ask, World};

pub(crate) const PORTAL: &str = "tests/it/cases/portal/portal.yaml";
const CASES: &str = "tests/it/cases/portal/cases.yaml";
pub(crate) const RBAC: &str = "tests/it/cases/portal/rbac.json";

pub(crate) fn portcullis(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(args).env("NO_COLOR", "1").env_remove("PORTCULLIS_CONFIG").output().unwrap()
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn file(ending: &str, content: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

pub(crate) fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Must show 3: the cases of a policy of thirty routes.
#[test]
fn the_portals_cases_hold_and_say_what_they_cover() {
    let ran = portcullis(&["test", "-c", PORTAL, CASES, "--coverage"]);
    assert!(ran.status.success(), "{}", out(&ran));
    let told = out(&ran);
    assert!(told.contains(" passed, 0 failed"), "{told}");
    assert!(told.contains("route `api-status` was never asked for"), "{told}");
    let json = portcullis(&["test", "-c", PORTAL, CASES, "--format", "json"]);
    let told: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told["failed"], 0);
    assert_eq!(told["coverage"]["routes"]["all"], 30);
    let strict = portcullis(&["test", "-c", PORTAL, CASES, "--fail-under", "99"]);
    assert_eq!(strict.status.code(), Some(1));
}

#[test]
fn a_case_that_fails_says_what_came_instead_and_why() {
    let cases = file(
        ".yaml",
        r#"
now: 2026-01-01T00:00:00Z
callers:
  vera: { organization_slug: acme, roles: [viewer], factors: [{ type: totp, ago: 20m }] }
cases:
  - name: vera administers
    request: GET https://acme.portal.example.com/admin
    as: vera
    expect: { decision: allow, route: tenant, headers: { x-auth-roles: admin } }
"#,
    );
    let ran = portcullis(&["test", "-c", PORTAL, path(&cases)]);
    assert_eq!(ran.status.code(), Some(1));
    let told = out(&ran);
    for part in [
        "FAIL  vera administers",
        "- decision     allow   (expected)",
        "+ decision     refuse   (found)",
        "- route        tenant   (expected)",
        "+ route        tenant-admin   (found)",
        "- header x-auth-roles admin   (expected)",
        "[not met] role `stytch_admin`  — roles viewer",
        "0 passed, 1 failed",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

#[test]
fn a_case_that_cannot_be_understood_is_an_error_with_its_place() {
    for (cases, complaint) in [
        (
            "cases: [{ name: x, request: 'GET https://a/', expect: role_mising }]",
            "`role_mising` is no reason",
        ),
        ("cases: [{ name: x, request: 'GET /a', expect: allow }]", "`/a` has no scheme and host"),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: nemo, expect: allow }]",
            "there is no caller `nemo`",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: { machine: m, app: a }, expect: allow }]",
            "not both",
        ),
        ("cases: [{ name: x, requst: 'GET https://a/', expect: allow }]", "requst"),
        (
            "rbac: nowhere.json\ncases: [{ name: x, request: 'GET https://a/', expect: allow }]",
            "RBAC policy cannot be read",
        ),
        ("cases: []", "it holds no cases"),
        ("cases: [{ name: x, request: 'GET https://a/', expect: {} }]", "it expects nothing"),
        (
            "cases: [{ name: x, request: 'GET https://a/', expect: { rout: a } }]",
            "unknown field `rout`, expected one of decision, reason",
        ),
        (
            "cases: [{ name: x, request: { ur: 'https://a/' }, expect: allow }]",
            "unknown field `ur`, expected one of method, url",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', expect: { headers: { x-auth-rols: null } } }]",
            "injects no header `x-auth-rols`; did you mean `x-auth-roles`?",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: { factors: [{ type: ttop }] }, expect: allow }]",
            "there is no factor `ttop`; did you mean `totp`?",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: { machine: m, roles: [a] }, expect: allow }]",
            "has no session",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: { any_of: [{ rolez: [a] }] }, expect: allow }]",
            "unknown field `rolez`",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: { machine: m, expires_in: 1s }, expect: allow }]",
            "has no session",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', as: { scopes: [a] }, expect: allow }]",
            "a member has roles and no scopes",
        ),
        (
            "cases: [{ name: x, request: 'GET https://a/', expect: allow }, { name: x, request: 'GET https://b/', expect: allow }]",
            "two cases are called `x`",
        ),
    ] {
        let cases = file(".yaml", cases);
        let ran = portcullis(&["test", "-c", PORTAL, path(&cases)]);
        assert_eq!(ran.status.code(), Some(1));
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(told.contains(complaint), "{complaint} is missing in:\n{told}");
    }
}

/// What brings people to `explain` is told there, and nowhere else.
#[test]
fn explain_says_why_a_credential_is_none_and_what_is_wrong_with_a_file() {
    let list = file(".json", r#"{ "foo": [] }"#);
    let other = file(
        ".json",
        r#"{ "member_sessions": [{ "organization_id": "organization-1", "member_id": "member-2" }] }"#,
    );
    let nobody = file(".json", r#"{ "member_sessions": [] }"#);
    let empty = ["explain", "-c", PORTAL, "--url", "https://acme.portal.example.com/", "--member"];
    let empty = portcullis(&[&empty[..], &["organization-1/member-1", "--sessions", path(&nobody)]].concat());
    assert!(out(&empty).contains("session_not_found"), "{}", out(&empty));
    let explain = |more: &[&str]| {
        let args = [&["explain", "-c", PORTAL, "--url", "https://acme.portal.example.com/"], more].concat();
        let ran = portcullis(&args);
        assert_eq!(ran.status.code(), Some(1), "{}", out(&ran));
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    assert!(explain(&["--sessions", path(&list)]).contains("--member ORG/MEMBER"));
    let of = ["--member", "organization-1/member-1", "--sessions"];
    assert!(explain(&[&of[..], &[path(&list)]].concat()).contains("holds no `member_sessions`"));
    assert!(explain(&[&of[..], &[path(&other)]].concat()).contains("sessions of `organization-1/member-2`"));
}

#[test]
fn explain_says_why_no_other_route_and_tells_the_same_as_json() {
    let sessions = json!({ "member_sessions": [{
        "member_session_id": "session-1", "member_id": "member-1", "organization_id": "organization-1",
        "organization_slug": "acme", "started_at": "2026-01-01T00:00:00Z", "expires_at": "2999-01-01T00:00:00Z",
        "roles": ["stytch_admin"], "authentication_factors": [],
    }] });
    let sessions = file(".json", &sessions.to_string());
    let args = [
        "explain",
        "-c",
        PORTAL,
        "--url",
        "https://acme.portal.example.com/reports/7",
        "--method",
        "DELETE",
        "--member",
        "organization-1/member-1",
        "--sessions",
        path(&sessions),
        "--rbac",
        RBAC,
    ];
    let told = out(&portcullis(&args));
    for part in [
        "route     tenant-reports-delete -> upstream `web`",
        "not `tenant-reports` (*.portal.example.com/reports/**): does not take the method",
        "not `tenant` (*.portal.example.com/**): matches, and is outranked",
        "├─ [met] requirement `own_tenant`",
        "│  └─ [met] organization of the host `{org}.portal.example.com`  — the request names `acme`; organization `organization-1`, slug `acme`",
        "├─ [met] permission to `delete` `reports`  — roles stytch_admin",
        "└─ [not met] requirement `fresh_totp`",
        "decision  refuse 401 factor_missing",
        "remedy    prove the factor",
        "urn:portcullis:factor:totp, proven at most 900s ago",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
    let json = portcullis(&[&args[..], &["--format", "json"]].concat());
    let told: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told["refusal"]["reason"], "factor_missing");
    assert_eq!(told["held"][0]["requirement"]["parts"][1]["verdict"], "met");
    assert_eq!(
        told["considered"].as_array().unwrap().iter().filter(|place| place["standing"] == "answers").count(),
        1
    );
}

/// A decision out of the gateway's own log is explained by what holds now.
#[tokio::test]
async fn a_recorded_decision_is_explained() {
    let yaml = format!(
        "{}admin: {{ address: 127.0.0.1:0, token: {{ value: {ADMIN_TOKEN} }} }}\n",
        crate::support::USUAL
    );
    let world = World::with(&yaml, &[]).await;
    assert_eq!(world.get("/admin/users", "VIEWER").await.status, 403);
    let record = world.lines.find(&["\"log\":\"decision\"", "role_missing"]).await;
    assert_eq!((&record["method"], &record["path"]), (&json!("GET"), &json!("/admin/users")));
    let log = file(".log", &world.lines.text());
    let config = file(".yaml", &yaml);
    let set = |key: &str, value: &str| ["--set".to_owned(), format!("{key}={value}")];
    let project = [
        set("stytch.project_id", &world.emulator.project_id()),
        set("stytch.secret.value", &world.emulator.secret()),
        set("stytch.base_url", &world.emulator.url()),
        set("upstreams.app.url", "http://127.0.0.1:1"),
    ]
    .concat();
    let project: Vec<&str> = project.iter().map(String::as_str).collect();
    let explain = [&["explain", "-c", path(&config), "--decision", path(&log)][..], &project].concat();
    let told = out(&tokio::task::spawn_blocking({
        let explain: Vec<String> = explain.iter().map(|part| (*part).to_owned()).collect();
        move || portcullis(&explain.iter().map(String::as_str).collect::<Vec<_>>())
    })
    .await
    .unwrap());
    for part in [
        "recorded  refuse role_missing on route `admin`",
        "[not met] role `stytch_admin`",
        "roles stytch_member, viewer",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
    assert_eq!(told.matches("held against").count(), 1, "the member's other session is not told of\n{told}");
}

/// The admin API tells the same, and changes nothing.
#[tokio::test]
async fn the_admin_api_explains_and_counts_nothing() {
    let yaml = format!(
        "{}admin: {{ address: 127.0.0.1:0, token: {{ value: {ADMIN_TOKEN} }} }}\nidentity: {{ assertion: {{ lifetime: 60s }} }}\n",
        crate::support::USUAL
    );
    let world = World::with(&yaml, &[]).await;
    let explain = async |body: Value| {
        let ask =
            Ask::new("POST", "/admin/explain").header("content-type", "application/json").bearer(ADMIN_TOKEN);
        crate::support::ask(world.gateway.admin().unwrap(), ask.body(body.to_string())).await
    };
    let jwt = &world.persona("STALE_FACTOR").jwt;
    let told = explain(json!({ "url": "https://any.example/admin", "credential": jwt })).await;
    assert_eq!(told.status, 200);
    assert_eq!(told.json()["refusal"]["reason"], "factor_stale");
    assert!(!told.text().contains(jwt), "the credential is not repeated");
    let member = format!("acme/{}", world.persona("ADMIN").member_id);
    let told = explain(json!({ "url": "https://any.example/admin", "member": member })).await;
    assert!(told.text().contains("x-auth-assertion"), "that there would be one is told");
    assert!(!told.text().contains("eyJ"), "and none is made that somebody could use: {}", told.text());
    let told = told.json();
    assert_eq!((&told["decision"], &told["route"]["name"]), (&json!("allow"), &json!("admin")));
    assert!(told["headers"].as_array().unwrap().iter().any(|header| header[0] == "x-auth-roles"));
    assert_eq!(explain(json!({ "url": "/admin" })).await.status, 400);
    let misspelt = explain(json!({ "url": "https://any.example/", "membr": "acme/x" })).await;
    assert!(misspelt.text().contains("unknown field `membr`"), "{}", misspelt.text());
    let stranger = format!("{}AAAA", &jwt[..jwt.len() - 4]);
    let told = explain(json!({ "url": "https://any.example/", "credential": stranger })).await.json();
    assert_eq!(told["refusal"]["reason"], "credential_invalid");
    assert_eq!(told["detail"], "the signature does not verify");
    assert_eq!(
        explain(json!({ "url": "https://a/%5c" })).await.json()["refusal"]["reason"],
        "path_ambiguous"
    );
    assert_eq!(world.metric("portcullis_decisions_total{").await, None);
    let without = Ask::new("POST", "/admin/explain").header("content-type", "application/json").body("{}");
    assert_eq!(crate::support::ask(world.gateway.admin().unwrap(), without).await.status, 401);
}
