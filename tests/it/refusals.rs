//! How a refusal is told: to a browser, to a script, to a page of another origin, to a gRPC client.

use http::HeaderMap;

use crate::support::{Answer, Ask, World};

const APPLICATION: &str = r#"
sessions: { deadline: 1s }
sign_in: { url: "https://login.example.com/start", step_up_url: "https://login.example.com/prove", return_param: next }
cors: { origins: ["https://spa.example.com"], credentials: true }
routes:
  - { name: public, match: { path: /public/** }, public: true }
  - { name: admin, match: { path: /admin/** }, require: { all: [ { role: stytch_admin }, { factor: { type: totp, max_age: 15m } } ] } }
  - { name: machine, match: { path: /machine }, require: { machine: {} } }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

/// As a browser asks for a page that somebody opens.
fn open(path: &str) -> Ask {
    Ask::get(path)
        .header("accept", HTML)
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document")
        .header("host", "app.example.com")
}

fn location(answer: &Answer) -> &str {
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.header("location")
}

/// The cookie an answer sets, as it is sent back.
fn trail(answer: &Answer) -> (String, String) {
    let set = answer.header("set-cookie");
    let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
    (name.to_owned(), value.to_owned())
}

#[tokio::test]
async fn a_browser_is_sent_to_sign_in_and_back_to_the_very_page() {
    let world = World::with(APPLICATION, &[]).await;
    let answer = world.send(open("/reports/7?tab=sum%20up&sort=a%26b")).await;
    assert_eq!(
        location(&answer),
        "https://login.example.com/start?next=http%3A%2F%2Fapp.example.com%2Freports%2F7%3Ftab%3Dsum%2520up%26sort%3Da%2526b\
         &reason=credential_missing"
    );
    let stale = &world.persona("STALE_FACTOR").jwt;
    let answer = world.send(open("/admin/users").cookie("stytch_session_jwt", stale)).await;
    assert_eq!(
        location(&answer),
        "https://login.example.com/prove?next=http%3A%2F%2Fapp.example.com%2Fadmin%2Fusers&reason=factor_stale\
         &acr_values=urn%3Aportcullis%3Afactor%3Atotp&max_age=900"
    );
    assert!(answer.header("set-cookie").contains("HttpOnly"), "{}", answer.header("set-cookie"));
    // Without fetch metadata, as an old browser asks.
    let old = Ask::get("/reports").header("accept", HTML).header("host", "app.example.com");
    assert!(location(&world.send(old).await).starts_with("https://login.example.com/start?"));
}

#[tokio::test]
async fn a_script_a_form_and_a_frame_are_never_sent_elsewhere() {
    let world = World::with(APPLICATION, &[]).await;
    let fetch = |mode: &str| Ask::get("/x").header("sec-fetch-mode", mode).header("accept", "*/*");
    let post = Ask::new("POST", "/x").header("accept", HTML).header("sec-fetch-mode", "navigate");
    let asked = [
        ("fetch", fetch("cors")),
        ("same-origin fetch", fetch("same-origin")),
        ("image", fetch("no-cors")),
        (
            "XMLHttpRequest of old",
            Ask::get("/x").header("accept", HTML).header("x-requested-with", "XMLHttpRequest"),
        ),
        ("curl", Ask::get("/x").header("accept", "*/*")),
        ("an API client", Ask::get("/x").header("accept", "application/json")),
        ("a form", post.clone().header("sec-fetch-dest", "document")),
        ("a deletion", Ask::new("DELETE", "/x").header("accept", HTML)),
        (
            "a frame",
            Ask::get("/x")
                .header("accept", HTML)
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "iframe"),
        ),
    ];
    for (what, ask) in asked {
        let answer = world.send(ask).await;
        assert_eq!(answer.status, 401, "{what}");
        assert!(answer.header("location").is_empty() && answer.header("set-cookie").is_empty(), "{what}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{what}");
    }
    // Whoever sent a form gets a page that says so, and not a problem in JSON.
    let page = world.send(post.header("sec-fetch-dest", "document")).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
}

#[tokio::test]
async fn who_may_not_come_in_is_told_so_and_not_sent_round() {
    let world = World::with(APPLICATION, &[]).await;
    let viewer = &world.persona("VIEWER").jwt;
    let forbidden = world.send(open("/admin/users").cookie("stytch_session_jwt", viewer)).await;
    assert_eq!((forbidden.status, forbidden.header("content-type")), (403, "text/html; charset=utf-8"));
    let page = forbidden.text();
    assert!(page.contains("role_missing") && page.contains(forbidden.header("x-request-id")), "{page}");
    assert!(!page.contains("stytch_admin"), "what the route asks is nobody's business");
    // A session is not what the route takes: signing in would lead back to the same refusal.
    let kind = world.send(open("/machine").cookie("stytch_session_jwt", viewer)).await;
    assert_eq!(kind.status, 401);
    assert!(kind.text().contains("credential_kind"));
    let nowhere = world.send(open("/x/..%2f..")).await;
    assert_eq!((nowhere.status, nowhere.header("content-type")), (400, "text/html; charset=utf-8"));
}

#[tokio::test]
async fn a_sign_in_that_leads_nowhere_ends_after_a_few_turns() {
    let world = World::with(APPLICATION, &[]).await;
    let (mut turns, mut cookie) = (0, None::<(String, String)>);
    let page = loop {
        let mut ask = open("/reports");
        if let Some((name, value)) = &cookie {
            ask = ask.cookie(name, value);
        }
        let answer = world.send(ask).await;
        if answer.status != 302 {
            break answer;
        }
        turns += 1;
        cookie = Some(trail(&answer));
        assert!(turns < 20, "it goes on for ever");
    };
    assert_eq!((turns, page.status), (4, 401));
    assert!(
        page.text().contains("login.example.com&#x2f;start?next=http%3A"),
        "there is still a way: {}",
        page.text()
    );
    // In another tab another page is open, and goes its own way.
    let (name, value) = cookie.unwrap();
    assert_eq!(world.send(open("/other").cookie(&name, &value)).await.status, 302);
    // The cookie is ours: no application sees it.
    let seen = world.send(open("/public").cookie(&name, &value)).await;
    assert!(seen.seen("cookie").is_none_or(|cookie| !cookie.contains(&name)), "{}", seen.text());
}

#[tokio::test]
async fn a_page_of_ones_own_takes_the_place_of_the_built_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("refusal.html");
    std::fs::write(&page, "<h1>Acme: {{ heading }}</h1>{{ reason }} {{ request_id }} {{ status }}").unwrap();
    let yaml = format!(
        "refusals: {{ page: {} }}\nroutes: [ {{ name: all, match: {{ path: /** }}, require: authenticated }} ]\n",
        page.display()
    );
    let world = World::with(&yaml, &[]).await;
    let answer = world.send(open("/")).await;
    assert_eq!(answer.status, 401, "without `sign_in` there is nowhere to go");
    let expected =
        format!("<h1>Acme: Please sign in</h1>credential_missing {} 401", answer.header("x-request-id"));
    assert_eq!(answer.text(), expected);
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
}

#[test]
fn a_page_that_cannot_be_made_says_what_is_wrong_with_it() {
    for (template, complaint) in [
        ("{{ headng }}", "there is no `headng`; there are `status`"),
        ("{{ heading", "in line 1"),
        ("{% for part in unmet %}{{ part }}{% endfor %}{{ sign_in or reason }}{{ range(3) }}", ""),
    ] {
        let found = portcullis::doors::try_page(template).err().unwrap_or_default();
        assert!(found.contains(complaint) && found.is_empty() == complaint.is_empty(), "{template}: {found}");
    }
}

#[tokio::test]
async fn a_directory_that_is_down_is_a_page_too() {
    let world = World::with(APPLICATION, &[]).await;
    let fault =
        serde_json::json!({ "operation": "list", "status": 503, "error_type": "internal_server_error" });
    world.fault(fault).await;
    let down = world.send(open("/reports").cookie("stytch_session_jwt", &world.persona("VIEWER").jwt)).await;
    assert_eq!(down.status, 503);
    assert!(!down.header("retry-after").is_empty());
    assert!(down.text().contains("This is not your fault"), "{}", down.text());
}

#[tokio::test]
async fn preflights_are_answered_here_and_refusals_are_read_by_the_listed_origin_alone() {
    let world = World::with(APPLICATION, &[]).await;
    let preflight = |origin: &str| {
        Ask::new("OPTIONS", "/reports")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let shares = |headers: &HeaderMap| headers.contains_key("access-control-allow-origin");
    let answer = world.send(preflight("https://spa.example.com")).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), "https://spa.example.com");
    assert_eq!(answer.header("access-control-allow-methods"), "PUT");
    assert_eq!(answer.header("access-control-allow-headers"), "authorization,content-type");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    let strange = world.send(preflight("https://spa.example.com.evil.net")).await;
    assert_eq!(strange.status, 401, "for anybody else it is a request like any other");
    assert!(!shares(&strange.headers));
    for (path, status) in [("/reports", 401), ("/.portcullis/whoami", 401)] {
        let ours = world.send(Ask::get(path).header("origin", "https://spa.example.com")).await;
        assert_eq!(
            (ours.status, ours.header("access-control-allow-origin")),
            (status, "https://spa.example.com")
        );
        assert!(ours.header("access-control-expose-headers").contains("www-authenticate"));
        let strange = world.send(Ask::get(path).header("origin", "https://evil.example")).await;
        assert!(!shares(&strange.headers), "{path}");
        assert!(strange.header("vary").to_ascii_lowercase().contains("origin"), "{path}");
    }
    // What an application answers is its own to share, unless the gateway is asked to.
    let application = Ask::get("/public").header("origin", "https://spa.example.com");
    assert!(!shares(&world.send(application.clone()).await.headers));
    let shared = World::with(APPLICATION, &[("cors.applications", "true")]).await;
    assert!(shares(&shared.send(application).await.headers));
}

#[tokio::test]
async fn a_grpc_client_gets_a_status_and_no_html() {
    let world = World::with(APPLICATION, &[]).await;
    let call = |path: &str| Ask::new("POST", path).http2().header("content-type", "application/grpc");
    let missing = world.send(call("/pkg.Service/Call")).await;
    assert_eq!((missing.status, missing.header("grpc-status")), (200, "16"));
    assert!(missing.header("grpc-message").starts_with("credential_missing"), "{:?}", missing.headers);
    let forbidden = world.send(call("/admin/Call").bearer(&world.persona("VIEWER").jwt)).await;
    assert_eq!((forbidden.header("grpc-status"), forbidden.body.len()), ("7", 0));
    // Over HTTP/1.1 there is no gRPC; what says it is gets what programs get.
    let plain = Ask::new("POST", "/x").header("content-type", "application/grpc");
    assert_eq!(world.send(plain).await.status, 401);
    let web = Ask::new("POST", "/x").header("content-type", "application/grpc-web+proto");
    assert_eq!(world.send(web).await.header("grpc-status"), "16");
}
