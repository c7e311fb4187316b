//! Auth bypasses other proxies had, each tried here. A test is named after its advisory.

use crate::support::{Ask, Origin, Reply, World, raw};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends raw requests that must not get past `/admin`'s door, nor arrive at the origin as anything that some origin could
/// take for it.
async fn never_reaches_admin(requests: &[&str]) {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    for request in requests {
        let answer = raw(world.address(), request).await;
        assert!(!answer.contains(" 200 ") || !origin.heads().is_empty(), "{request:?}: {answer}");
        for head in origin.heads() {
            let line = head.lines().next().unwrap_or_default().to_ascii_lowercase();
            let path = line.split(' ').nth(1).unwrap_or_default();
            assert!(!worst_reading(path).starts_with("/admin"), "{request:?} became {line:?}");
        }
    }
}

/// The path as the most careless origin reads it: no query, no fragment, decoded twice, backslashes for slashes, parameters
/// and empty segments dropped, dots resolved.
fn worst_reading(path: &str) -> String {
    let decode = |text: &str| {
        let mut read = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            read.push_str(before);
            match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => {
                    read.push(char::from(byte));
                    rest = &after[2..];
                }
                None => {
                    read.push('%');
                    rest = after;
                }
            }
        }
        read + rest
    };
    let bare = path.split(['?', '#']).next().unwrap_or_default();
    let decoded = decode(&decode(bare)).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    for segment in decoded.split('/').map(|segment| segment.split([';', '#']).next().unwrap_or_default()) {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    format!("/{}", kept.join("/"))
}

#[test]
fn the_worst_reading_finds_what_it_is_there_to_find() {
    for path in [
        "/admin?/public/",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public%2f..%2fadmin",
        "/public/..%5cadmin",
        "/public/..;/admin",
        "/public//../admin",
        "/public/%252e%252e/admin",
        "/admin%23/public",
        "/%61dmin",
    ] {
        assert!(worst_reading(path).starts_with("/admin"), "{path}");
    }
    assert_eq!(worst_reading("/public/admin?x"), "/public/admin");
}

/// What the origin sees of a forged field on a public and on a protected route.
async fn never_forged(name: &str) {
    let world = World::start().await;
    for ask in [Ask::get("/public"), Ask::get("/").bearer(&world.persona("VIEWER").jwt)] {
        let answer = world.send(ask.header(name, "forged-value")).await;
        assert!(!answer.text().contains("forged-value"), "{name}: {}", answer.text());
    }
}

macro_rules! unreachable {
    ($($name:ident: [$($request:expr),+ $(,)?];)*) => {
        $(#[tokio::test] async fn $name() { never_reaches_admin(&[$($request),+]).await; })*
    };
}

macro_rules! unforgeable {
    ($($name:ident: [$($field:expr),+ $(,)?];)*) => {
        $(#[tokio::test] async fn $name() { $(never_forged($field).await;)+ })*
    };
}

unreachable! {
    // Rules matched on path and query together.
    cve_o2p_2025_54576: ["GET /admin?/public/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET /admin?x=/public/x HTTP/1.1\r\nHost: a\r\n\r\n"];
    // A fragment widened a skip rule.
    cve_o2p_2026_41059: ["GET /admin#/public/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET /admin%23/public/ HTTP/1.1\r\nHost: a\r\n\r\n"];
    // A header chose the rule while the real path went upstream.
    cve_o2p_2026_40575: ["GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-Uri: /public/x\r\n\r\n"];
    // A health checker's user agent was let through anywhere.
    cve_o2p_2026_34457: ["GET /admin HTTP/1.1\r\nHost: a\r\nUser-Agent: GoogleHC/1.0\r\n\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.30\r\n\r\n"];
    // Matched raw, forwarded normalised.
    cve_oathkeeper_2026_33494: ["GET /public/../admin HTTP/1.1\r\nHost: a\r\n\r\n", "GET /public/%2e%2e/admin HTTP/1.1\r\nHost: a\r\n\r\n"];
    // The scheme of an untrusted header chose the rule.
    cve_oathkeeper_2026_33495: ["GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n"];
    // Encoded separators seen by one and not by the other.
    cve_traefik_2025_66490: ["GET /public%2f..%2fadmin HTTP/1.1\r\nHost: a\r\n\r\n", "GET /public/..%5cadmin HTTP/1.1\r\nHost: a\r\n\r\n", "GET /public/..;/admin HTTP/1.1\r\nHost: a\r\n\r\n"];
    // No normalisation before the rule.
    cve_envoy_2019_9901: ["GET /public//../admin HTTP/1.1\r\nHost: a\r\n\r\n", "GET /public/./../admin HTTP/1.1\r\nHost: a\r\n\r\n"];
    // `%2f` and `%2F`, host and case.
    cve_heimdall_2026_42274: ["GET /public%2F%2e%2e%2Fadmin HTTP/1.1\r\nHost: A\r\n\r\n"];
    // The raw target chose "public", the normalised one the backend.
    cve_unifi_2026_34908: ["GET /admin/..%2fpublic HTTP/1.1\r\nHost: a\r\n\r\n", "GET /public/%252e%252e/admin HTTP/1.1\r\nHost: a\r\n\r\n"];
    // A path without its leading slash.
    cve_grpc_go_2026_33186: ["GET admin HTTP/1.1\r\nHost: a\r\n\r\n"];
    // Any bearer token will do.
    cve_envoy_2022_29226: ["GET /admin HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer eyJhbGciOiJub25lIn0.e30.\r\n\r\n"];
    // Fragment in the URL, absolute form.
    cve_traefik_2023_47106: ["GET http://a/admin#/public HTTP/1.1\r\nHost: a\r\n\r\n"];
    // A rewriting header names another URL for the origin to act on.
    x_original_url: ["GET /admin HTTP/1.1\r\nHost: a\r\nX-Original-URL: /public/x\r\n\r\n"];
}

unforgeable! {
    cve_o2p_2025_64484: ["x_forwarded_email", "x-forwarded_email", "x-forwarded-email"];
    cve_traefik_2026_39858: ["x_auth_member_id", "X-AUTH_MEMBER-ID", "x-auth_roles"];
    cve_traefik_2026_35051: ["x-forwarded-prefix", "x-forwarded-port", "x-forwarded-server", "x-forwarded-method"];
    cve_caddy_2026_30851: ["x-auth-impersonator", "x-auth-machine", "x-auth-email"];
    cve_caddy_2026_52845: ["x.auth.member.id", "x-auth.roles"];
    mod_auth_openidc_222: ["x-auth-member-id", "x-auth-roles"];
    x_rewriting: ["x-original-url", "x-rewrite-url", "x-http-method-override", "x-method-override", "x-http-method"];
}

/// `Connection` named the proxy's own header away.
#[tokio::test]
async fn cve_oathkeeper_ghsa_w9mr_and_traefik_2024_45410() {
    let world = World::start().await;
    let jwt = &world.persona("VIEWER").jwt;
    for connection in ["x-auth-member-id", "X-Auth-Member-Id, close", "x-forwarded-for"] {
        let answer = world.send(Ask::get("/").bearer(jwt).header("connection", connection)).await;
        assert!(answer.seen("x-auth-member-id").is_some() && answer.seen("x-forwarded-for").is_some());
    }
}

/// A list of one member served to another: keys are whole members, and the answer is checked.
#[tokio::test]
async fn cve_oathkeeper_2026_33496_and_traefik_2026_71326() {
    let world = World::start().await;
    let viewer = world.get("/", "VIEWER").await.seen("x-auth-member-id");
    let other = world.get("/", "OTHER_ORG").await.seen("x-auth-member-id");
    assert_ne!(viewer, other);
    assert_eq!(other.as_deref(), Some(world.persona("OTHER_ORG").member_id.as_str()));
}

/// Cached evidence skipped the checks of the next route: policy runs on every request.
#[tokio::test]
async fn cve_oathkeeper_ghsa_qvp4() {
    let world = World::start().await;
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    assert_eq!(world.get("/admin", "VIEWER").await.status, 403);
    assert_eq!(world.get("/acme", "OTHER_ORG").await.status, 403);
}

/// Hosts compared with case: a rule was missed.
#[tokio::test]
async fn cve_authelia_2026_48794_and_caddy_2026_27587() {
    let yaml = "routes:\n  - { name: closed, match: { host: app.example.com, path: /** }, require: authenticated }\n  - { name: open, match: { host: '*', path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    for host in ["app.example.com", "APP.example.com", "App.Example.Com:80", "app.example.com."] {
        assert_eq!(world.send(Ask::get("/").header("host", host)).await.status, 401, "{host}");
    }
    assert_eq!(world.send(Ask::get("/").header("host", "other.example.com")).await.status, 200);
}

/// The host reached `Forwarded` as it was sent.
#[tokio::test]
async fn cve_heimdall_ghsa_4jgr() {
    let world = World::start().await;
    for host in ["a\";for=evil", "a;b", "a b", "a,b"] {
        assert_eq!(world.send(Ask::get("/public").header("host", host)).await.status, 400, "{host}");
    }
}

/// CONNECT and early answers put one user's bytes on another's connection.
#[tokio::test]
async fn connect_is_not_offered() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    let answer = raw(
        world.address(),
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(origin.heads().is_empty());
}

/// Cached introspection skipped the scopes of the next route: what is kept is what the directory said, not the verdict.
#[tokio::test]
async fn cve_oathkeeper_ghsa_qvp4_for_the_tokens_of_apps() {
    let yaml = "routes:
  - { name: one, match: { path: /one }, require: { app: { scopes: [openid] } } }
  - { name: two, match: { path: /two }, require: { app: { scopes: [openid, \"write:portal\"] } } }
";
    let world = World::with(yaml, &[]).await;
    let token = world.app_token("VIEWER", serde_json::json!({ "scope": "openid" })).await;
    for _ in 0..2 {
        assert_eq!(world.send(Ask::get("/one").bearer(&token)).await.status, 200);
        assert_eq!(world.send(Ask::get("/two").bearer(&token)).await.reason(), "scope_missing");
    }
    assert_eq!(world.calls("introspect").await, 1, "it was asked about once");
}

/// A session from before the sign-in page was shown came to count after it.
#[tokio::test]
async fn cve_o2p_2026_34454() {
    let yaml = "sign_in: { url: \"https://login.example.com/\" }
routes: [ { name: all, match: { path: /** }, require: authenticated } ]
";
    let world = World::with(yaml, &[]).await;
    world.revoke("VIEWER_LAPTOP").await;
    let old = &world.persona("VIEWER_LAPTOP").jwt;
    let open = |jwt: &str| Ask::get("/").header("accept", "text/html").cookie("stytch_session_jwt", jwt);
    assert_eq!(world.send(open(old)).await.status, 302);
    // The same member signs in anew: the new session counts, and the old one never again.
    assert_eq!(world.send(open(&world.persona("VIEWER").jwt)).await.status, 200);
    assert_eq!(world.send(open(old)).await.status, 302);
    assert_eq!(
        world.send(Ask::get("/").cookie("stytch_session_jwt", old)).await.reason(),
        "session_not_found"
    );
}

/// The way back was chosen by whoever made the link.
#[tokio::test]
async fn cve_o2p_ghsa_5m6c_and_pomerium_2021_29651() {
    let yaml = "sign_in: { url: \"https://login.example.com/\", return_param: next }
routes: [ { name: all, match: { host: app.example.com, path: /** }, require: authenticated } ]
";
    let world = World::with(yaml, &[]).await;
    let open = |host: &str, path: &str| Ask::get(path).header("accept", "text/html").header("host", host);
    for path in [
        "/?next=https://evil.example/",
        "/a?redirect_uri=//evil.example",
        "/%5Cevil.example?x",
        "/@evil.example",
    ] {
        let answer = world.send(open("app.example.com", path)).await;
        if answer.status == 302 {
            let location = answer.header("location");
            assert!(
                location.starts_with("https://login.example.com/?next=http%3A%2F%2Fapp.example.com%2F"),
                "{location}"
            );
            assert_eq!(location.matches("next=").count(), 1, "{location}");
        } else {
            assert_eq!(answer.status, 400, "{path}");
        }
    }
    for (host, path, status) in [
        ("evil.example", "/", 421),
        ("app.example.com@evil.example", "/", 400),
        ("app.example.com.evil.example", "/", 421),
        ("app.example.com", "//evil.example/", 400),
    ] {
        assert_eq!(world.send(open(host, path)).await.status, status, "{host} {path}");
    }
}
