//! The admin listener: who may look, who may change something, and whether the page and the API are what they say.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Answer, Ask, World, ask, is_here, node};

const TOKEN: &str = "a-token-of-some-length";
const YAML: &str = r#"
admin: { address: "127.0.0.1:0", token: { value: a-token-of-some-length } }
sessions: { deadline: 1s }
routes:
  - { name: public, match: { path: /public/** }, public: true }
  - { name: admin, match: { path: /admin/** }, require: { role: stytch_admin } }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

async fn world() -> World {
    World::with(YAML, &[]).await
}

async fn admin(world: &World, request: Ask) -> Answer {
    ask(world.gateway.admin().unwrap(), request).await
}

fn call(method: &str, path: &str, body: &Value) -> Ask {
    let request = Ask::new(method, path).header("content-type", "application/json").bearer(TOKEN);
    request.body(body.to_string())
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()))
}

#[tokio::test]
async fn whoever_is_here_may_look_and_only_who_has_the_token_may_change_anything() {
    let world = world().await;
    assert_eq!(admin(&world, Ask::get("/")).await.status, 200);
    assert_eq!(admin(&world, Ask::get("/admin/status")).await.status, 200);
    // A name that leads here and is not ours: what a page elsewhere would have its browser ask for.
    for host in ["rebound.example.com", "rebound.example.com:80", "127.0.0.1.example.com"] {
        let request = Ask::get("/").header("host", host);
        assert_eq!(admin(&world, request).await.status, 421, "{host}");
    }
    for (method, path, body) in [
        ("POST", "/admin/reload", json!({})),
        ("POST", "/admin/drain", json!({})),
        ("POST", "/admin/evict", json!({ "everything": true })),
        ("POST", "/admin/revoke", json!({ "member_id": "m" })),
        ("POST", "/admin/explain", json!({ "url": "http://a/" })),
        ("PUT", "/admin/log", json!({ "filter": "debug" })),
    ] {
        let bare = Ask::new(method, path).header("content-type", "application/json").body(body.to_string());
        assert_eq!(admin(&world, bare).await.status, 401, "{path}");
        let from_page = call(method, path, &body).header("origin", "http://127.0.0.1:9181");
        assert_eq!(admin(&world, from_page).await.status, 403, "{path}");
        let from_page = call(method, path, &body).header("sec-fetch-site", "same-origin");
        assert_eq!(admin(&world, from_page).await.status, 403, "{path}");
        let wrong =
            Ask::new(method, path).header("content-type", "application/json").bearer("another-token-of-some");
        assert_eq!(admin(&world, wrong.body(body.to_string())).await.status, 401, "{path}");
        assert_eq!(admin(&world, Ask::new("DELETE", path).bearer(TOKEN)).await.status, 405, "{path}");
    }
    // None of them did anything.
    assert_eq!(world.ops("/readyz").await.status, 200);
    let page = admin(&world, Ask::get("/")).await;
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert_eq!(page.headers["x-frame-options"], "DENY");
    assert_eq!(page.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn elsewhere_than_on_loopback_looking_takes_the_token_too() {
    let yaml = YAML.replace("127.0.0.1:0", "0.0.0.0:0");
    let world = World::with(&yaml, &[]).await;
    let unknown = admin(&world, Ask::get("/")).await;
    assert_eq!(unknown.status, 401);
    let challenges: Vec<_> = unknown.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(challenges.len(), 2, "a browser asks for a password");
    assert_eq!(admin(&world, Ask::get("/").bearer(TOKEN)).await.status, 200);
    // `anybody:a-token-of-some-length`
    let password = "Basic YW55Ym9keTphLXRva2VuLW9mLXNvbWUtbGVuZ3Ro";
    assert_eq!(admin(&world, Ask::get("/").header("authorization", password)).await.status, 200);
    let change = Ask::new("POST", "/admin/drain").header("authorization", password);
    assert_eq!(admin(&world, change).await.status, 401, "a browser sends a password by itself");
    let wrong = "Basic YW55Ym9keTphLXRva2VuLW9mLXNvbWUtbGVuZ3Ri";
    assert_eq!(admin(&world, Ask::get("/").header("authorization", wrong)).await.status, 401);
}

#[tokio::test]
async fn without_a_token_there_is_the_page_and_nothing_can_be_changed() {
    let yaml =
        "admin: { address: \"127.0.0.1:0\" }\nroutes: [ { name: a, match: { path: /** }, public: true } ]\n";
    let world = World::with(yaml, &[]).await;
    assert_eq!(admin(&world, Ask::get("/")).await.status, 200);
    let told = admin(&world, Ask::new("POST", "/admin/drain").bearer("")).await;
    assert_eq!(told.status, 403);
    assert!(told.text().contains("admin.token"), "{}", told.text());
}

#[tokio::test]
async fn the_status_tells_what_is_wrong_and_what_was_refused() {
    let world = world().await;
    world.get("/", "VIEWER").await;
    world.get("/admin/users", "VIEWER").await;
    world.send(Ask::get("/secret-path?token=s3cr3t")).await;
    let status = json_of(&admin(&world, Ask::get("/admin/status")).await);
    assert_eq!(status["verdict"], "healthy", "{status}");
    let routes: Vec<_> = status["routes"].as_array().unwrap().iter().map(|route| &route["name"]).collect();
    assert_eq!(routes, ["public", "admin", "everything"]);
    let refusals = status["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 2, "{status}");
    assert_eq!(
        (&refusals[0]["reason"], &refusals[0]["path"]),
        (&json!("credential_missing"), &json!("/secret-path"))
    );
    assert_eq!(refusals[1]["reason"], "role_missing");
    assert_eq!(refusals[1]["from"], "127.0.0.0/24");
    let id = refusals[1]["request_id"].as_str().unwrap();
    let page = admin(&world, Ask::get(&format!("/refusals/{id}"))).await;
    assert_eq!(page.status, 200);
    for told in ["a role is missing", "role `stytch_admin`", "127.0.0.0/24", "portcullis explain"] {
        let text = page.text().replace("&#x2f;", "/");
        assert!(text.contains(told), "{told}: {text}");
    }
    assert_eq!(admin(&world, Ask::get("/refusals/another")).await.status, 404);

    world.fault(json!({ "status": 401 })).await;
    let request = call("POST", "/admin/evict", &json!({ "member_id": world.persona("VIEWER").member_id }));
    assert_eq!(admin(&world, request).await.status, 200);
    assert_eq!(world.get("/", "VIEWER").await.status, 503);
    let status = json_of(&admin(&world, Ask::get("/admin/status")).await);
    assert_eq!(status["verdict"], "degraded");
    let worst = &status["findings"][0];
    assert_eq!(worst["severity"], "critical");
    assert!(worst["what"].as_str().unwrap().contains("rejects our project id or secret"), "{worst}");
    let text = format!("{status}{}", admin(&world, Ask::get("/")).await.text());
    let persona = world.persona("VIEWER");
    for secret in
        [&persona.jwt, &persona.token, &persona.session_id, &persona.member_id, &world.emulator.secret()]
    {
        assert!(!text.contains(secret.as_str()), "{secret} is shown");
    }
    assert!(!text.contains("s3cr3t") && !text.contains(TOKEN));
}

#[tokio::test]
async fn evicting_asks_anew_and_revokes_nothing() {
    let world = world().await;
    world.get("/", "VIEWER").await;
    let calls = world.calls("list").await;
    world.get("/", "VIEWER").await;
    assert_eq!(world.calls("list").await, calls);
    for body in [json!({ "member_id": world.persona("VIEWER").member_id }), json!({ "everything": true })] {
        let before = world.calls("list").await;
        assert_eq!(admin(&world, call("POST", "/admin/evict", &body)).await.status, 200);
        assert_eq!(world.get("/", "VIEWER").await.status, 200);
        let began = std::time::Instant::now();
        // Softened, it may be asked about behind the answer.
        while world.calls("list").await == before {
            assert!(began.elapsed().as_secs() < 5, "{body}");
            assert_eq!(world.get("/", "VIEWER").await.status, 200);
        }
    }
    assert_eq!(world.calls("revoke").await, 0);
    for body in [json!({}), json!({ "member_id": "a", "everything": true }), json!({ "member_id": "a b" })] {
        assert_eq!(admin(&world, call("POST", "/admin/evict", &body)).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn leaving_can_be_announced_and_requests_are_still_answered() {
    let world = world().await;
    assert_eq!(admin(&world, call("POST", "/admin/drain", &json!({}))).await.status, 200);
    assert_eq!(world.ops("/readyz").await.status, 503);
    assert_eq!(world.ops("/livez").await.status, 200);
    let answer = world.get("/", "VIEWER").await;
    assert_eq!((answer.status, &answer.headers["connection"]), (200, &"close".parse().unwrap()));
    assert_eq!(json_of(&admin(&world, Ask::get("/admin/status")).await)["verdict"], "leaving");
    // Where there is no file there is nothing to read again.
    drop(world);
}

#[tokio::test]
async fn the_description_of_the_api_is_of_this_api() {
    let world = world().await;
    let described = json_of(&admin(&world, Ask::get("/admin/openapi.json")).await);
    assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    let told = admin(&world, Ask::get("/admin/nowhere")).await;
    assert_eq!(told.status, 404);
    let listed: BTreeSet<String> = json_of(&told)["error"]
        .as_str()
        .unwrap()
        .trim_start_matches("there are ")
        .split(", ")
        .map(str::to_owned)
        .collect();
    let paths = described["paths"].as_object().unwrap();
    let mut known: BTreeSet<String> = paths.keys().cloned().collect();
    assert!(known.remove("/refusals/{request_id}"));
    assert_eq!(known, listed);
    for (path, operations) in paths {
        let operations = operations.as_object().unwrap();
        // What is not described is not answered.
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            if path.contains('{') {
                continue;
            }
            let described = operations.contains_key(&method.to_lowercase());
            let status = admin(&world, call(method, path, &json!({ "unknown": 1 }))).await.status;
            assert_eq!(status != 405, described, "{method} {path}: {status}");
            if method == "GET" && described {
                assert_eq!(status, 200, "{path}");
            }
            let responses = &operations.get(&method.to_lowercase()).map(|operation| &operation["responses"]);
            if let Some(responses) = responses {
                assert!(
                    responses.get(status.to_string()).is_some(),
                    "{method} {path}: {status} is not described"
                );
            }
        }
    }
    let status = json_of(&admin(&world, Ask::get("/admin/status")).await);
    let required = described["components"]["schemas"]["Status"]["required"].as_array().unwrap();
    let keys: BTreeSet<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, required.iter().map(|key| key.as_str().unwrap()).collect());
}

#[tokio::test]
async fn the_log_can_be_asked_for_its_filter() {
    let world = world().await;
    let bad = call("PUT", "/admin/log", &json!({ "filter": "portcullis=nonsense=what" }));
    assert_eq!(admin(&world, bad).await.status, 400);
    assert_eq!(admin(&world, Ask::get("/admin/log")).await.status, 200);
}

/// Axe, light and dark, with and without a script, led by `tests/sdk/status_page.mjs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_usable_in_chromium() {
    if !is_here("chromium") || node("puppeteer-core").is_none() || node("axe-core").is_none() {
        return;
    }
    let world = World::with(YAML, &[]).await;
    for path in ["/", "/admin/users", "/public/x", "/a%00b"] {
        world.get(path, "VIEWER").await;
    }
    world.send(Ask::get("/%3Cscript%3Ealert(1)")).await;
    let url = format!("http://{}/", world.gateway.admin().unwrap());
    let browser = Command::new("node")
        .args(["tests/sdk/status_page.mjs", &url, &format!("http://{}/", world.address())])
        .stdin(Stdio::null())
        .output();
    let output = tokio::task::spawn_blocking(move || browser).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.lines().filter(|line| line.starts_with("passed: ")).count(), 6);
}
