//! What the origin receives, and what of its answer comes back.

use crate::support::{Ask, Origin, Reply, World, raw, raw_patiently};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn identity_is_injected_and_every_forged_spelling_removed() {
    let world = World::start().await;
    let viewer = world.persona("VIEWER");
    let mut ask = Ask::get("/").bearer(&viewer.jwt).header("accept", "text/plain").header("x-kept", "1");
    let forged = [
        "X-Auth-Member-Id",
        "x_auth_member_id",
        "x-auth_roles",
        "X-Auth-Impersonator",
        "x-auth-anything",
        "X-Forwarded-For",
        "x-forwarded-user",
        "Forwarded",
        "X-Real-IP",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "x-request-id",
        "traceparent",
        "tracestate",
        "odd_name",
    ];
    for name in forged {
        ask = ask.header(name, "forged");
    }
    let answer = world.send(ask).await;
    assert_eq!(answer.seen("x-auth-member-id").unwrap(), viewer.member_id);
    assert_eq!(answer.seen("x-auth-organization-id").unwrap(), viewer.organization_id);
    assert_eq!(answer.seen("x-auth-organization-slug").unwrap(), "acme");
    assert_eq!(answer.seen("x-auth-session-id").unwrap(), viewer.session_id);
    assert_eq!(answer.seen("x-auth-roles").unwrap(), "stytch_member,viewer");
    assert_eq!(answer.seen("x-auth-factors").unwrap(), "magic_link");
    assert_eq!(answer.seen("x-auth-email").unwrap(), "vera@acme.example");
    assert_eq!(answer.seen("x-auth-kind").unwrap(), "member");
    assert_eq!(answer.seen("x-auth-evidence-age").unwrap(), "0");
    assert_eq!(answer.seen("x-forwarded-for").unwrap(), "127.0.0.1");
    assert_eq!(answer.seen("x-forwarded-proto").unwrap(), "http");
    assert_eq!(answer.seen("x-request-id").unwrap(), answer.header("x-request-id"));
    assert_eq!(answer.seen("x-kept").unwrap(), "1");
    assert_eq!(answer.seen("authorization"), None);
    assert!(!answer.text().contains("forged"), "{}", answer.text());
}

#[tokio::test]
async fn a_public_route_is_stripped_as_well_and_says_nothing_of_the_caller() {
    let world = World::start().await;
    let viewer = world.persona("VIEWER");
    let ask = Ask::get("/public/x")
        .header("x-auth-member-id", "forged")
        .header("X_AUTH_ROLES", "forged")
        .header("authorization", "Basic eDp5")
        .header(
            "cookie",
            &format!("theme=dark; stytch_session={}; stytch_session_jwt={}", viewer.token, viewer.jwt),
        );
    let answer = world.send(ask).await;
    assert!(!answer.text().contains("forged"));
    assert_eq!(answer.seen("x-auth-kind"), None);
    assert_eq!(answer.seen("cookie").unwrap(), "theme=dark");
    // Not a credential of ours, so not ours to take.
    assert_eq!(answer.seen("authorization").unwrap(), "Basic eDp5");
}

#[tokio::test]
async fn connection_cannot_name_identity_away() {
    let world = World::start().await;
    let jwt = &world.persona("VIEWER").jwt;
    let answer = world
        .send(
            Ask::get("/")
                .bearer(jwt)
                .header("connection", "X-Auth-Member-Id, x-forwarded-for, x-drop")
                .header("x-drop", "1"),
        )
        .await;
    assert!(answer.seen("x-auth-member-id").is_some());
    assert!(answer.seen("x-forwarded-for").is_some());
    assert_eq!(answer.seen("x-drop"), None);
    assert_eq!(answer.seen("connection"), None);
}

#[tokio::test]
async fn the_path_that_was_matched_is_the_path_that_is_sent() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    for (sent, forwarded) in [
        ("/public/a", "/public/a"),
        ("/public/%61?x=%2F..&y=a;b", "/public/a?x=%2F..&y=a;b"),
        ("/other/../public/%7euser", "/public/~user"),
        ("/public/%c3%a9", "/public/%C3%A9"),
        ("/public/a?", "/public/a?"),
    ] {
        assert_eq!(world.send(Ask::get(sent)).await.status, 200, "{sent}");
        let heads = origin.heads();
        let line = heads.last().unwrap().lines().next().unwrap().to_owned();
        assert_eq!(line, format!("GET {forwarded} HTTP/1.1"), "{sent}");
    }
}

#[tokio::test]
async fn the_answer_is_cleaned_of_identity_and_hop_by_hop_fields() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-internal\r\nx-internal: 1\r\nKeep-Alive: timeout=5\r\n\
                  x-auth-member-id: leaked\r\nX_Auth_Roles: leaked\r\nx-request-id: theirs\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nok";
    let origin = Origin::start(Reply::text(answer)).await;
    let world = World::before(&origin).await;
    let answer = world.send(Ask::get("/public")).await;
    for gone in ["connection", "x-internal", "keep-alive", "x-auth-member-id", "x_auth_roles"] {
        assert!(!answer.headers.contains_key(gone), "{gone}");
    }
    assert_ne!(answer.header("x-request-id"), "theirs");
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn an_origin_that_fails_has_its_own_reasons() {
    for (reply, status, reason) in [
        (Reply::Close, 502, "origin_closed"),
        (Reply::text("HTTP/1.1 nonsense\r\n\r\n"), 502, "origin_malformed"),
        (
            Reply::text(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
            502,
            "origin_malformed",
        ),
    ] {
        let origin = Origin::start(reply).await;
        let answer = World::before(&origin).await.send(Ask::get("/public")).await;
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason));
    }
    let yaml = "routes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let dead = World::with(yaml, &[("upstreams.app.url", "http://127.0.0.1:1")]).await;
    let answer = dead.send(Ask::get("/")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (502, "origin_unreachable"));
    assert!(answer.headers.contains_key("retry-after"));

    let silent = Origin::start(Reply::Silence).await;
    let overrides =
        [("upstreams.app.url", silent.url()), ("upstreams.app.response_timeout", "200ms".to_owned())];
    let overrides: Vec<(&str, &str)> = overrides.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let answer = World::with(yaml, &overrides).await.send(Ask::get("/")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (504, "origin_timeout"));
}

#[tokio::test]
async fn connections_to_the_origin_are_kept_and_one_answer_too_many_ends_them() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    for _ in 0..3 {
        assert_eq!(world.send(Ask::get("/public")).await.text(), "ok");
    }
    // An origin that answers twice: the second answer reaches nobody.
    let twice =
        Origin::start(Reply::text(&format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"))).await;
    let world = World::before(&twice).await;
    for _ in 0..20 {
        assert_eq!(world.send(Ask::get("/public")).await.text(), "ok");
    }
}

#[tokio::test]
async fn a_refusal_with_an_unread_body_ends_the_connection() {
    let world = World::start().await;
    let inner = "GET /public HTTP/1.1\r\nHost: a\r\n\r\n";
    // A body that never arrives whole: the connection ends.
    let unread = format!("POST /admin HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n{inner}");
    let answer = raw_patiently(world.address(), unread).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    // A small one that is there is read, and what was in it stays what it was: a body.
    let read = format!("POST /admin HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let answer = raw_patiently(world.address(), read).await;
    assert!(answer.starts_with("HTTP/1.1 401") && !answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn continue_is_said_only_after_the_decision() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    let ask = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    };
    let refused = raw(world.address(), ask("/admin")).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let allowed = raw(world.address(), ask("/public")).await;
    assert!(allowed.starts_with("HTTP/1.1 100 Continue"), "{allowed}");
    assert!(!origin.heads().concat().to_ascii_lowercase().contains("expect:"));
}

#[tokio::test]
async fn a_body_past_its_limit_is_refused() {
    let yaml = "limits: { max_request_bytes: 10 }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    let fits = world.send(Ask::new("POST", "/").body("0123456789")).await;
    assert_eq!(fits.json()["body_bytes"], 10);
    let announced = world.send(Ask::new("POST", "/").body("0123456789a")).await;
    assert_eq!((announced.status, announced.reason().as_str()), (413, "body_too_large"));
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    let answer = raw(world.address(), chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_session_jwt_in_authorization_never_reaches_the_application() {
    let world = World::start().await;
    let viewer = world.persona("VIEWER");
    for ask in [
        Ask::get("/").cookie("stytch_session_jwt", &viewer.jwt).bearer(&viewer.jwt),
        Ask::get("/").cookie("stytch_session", &viewer.token).bearer(&viewer.token),
        Ask::get("/public").bearer(&viewer.jwt),
    ] {
        assert_eq!(world.send(ask).await.seen("authorization"), None);
    }
}

#[tokio::test]
async fn a_body_is_framed_anew_whatever_the_method() {
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    let chunked = "GET /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    raw(world.address(), chunked).await;
    raw(world.address(), "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 0000\r\n\r\n").await;
    let heads = origin.heads();
    assert!(heads[0].to_ascii_lowercase().contains("transfer-encoding: chunked"), "{heads:?}");
    assert!(heads[1].contains("hi"), "{heads:?}");
    assert!(heads[2].to_ascii_lowercase().contains("content-length: 0\r\n"), "{heads:?}");
}

#[tokio::test]
async fn an_answer_framed_in_two_ways_is_taken_in_one_or_not_at_all() {
    let both =
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let origin = Origin::start(Reply::text(both)).await;
    let answer = World::before(&origin).await.send(Ask::get("/public")).await;
    assert_eq!((answer.text().as_str(), answer.header("content-length")), ("ok", ""));
    let coded = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let origin = Origin::start(Reply::text(coded)).await;
    let answer = World::before(&origin).await.send(Ask::get("/public")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (502, "origin_malformed"));
}

#[tokio::test]
async fn a_connection_that_is_still_uploading_is_not_given_to_the_next_caller() {
    use tokio::io::AsyncWriteExt;
    let origin = Origin::start(Reply::text(OK)).await;
    let world = World::before(&origin).await;
    let mut slow = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    slow.write_all(b"POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx").await.unwrap();
    while origin.heads().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // The origin has answered; the upload goes on. The next caller waits for nobody.
    let next = tokio::time::timeout(std::time::Duration::from_secs(2), world.send(Ask::get("/public")));
    assert_eq!(next.await.expect("the next caller hangs").status, 200);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_the_clients_matter() {
    let yaml = "limits: { body_timeout: 200ms }\nroutes:\n  - { name: public, match: { path: /** }, public: true }\n";
    let world = World::with(yaml, &[]).await;
    let stalled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx";
    let answer = raw_patiently(world.address(), stalled).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(world.metric("portcullis_upstream_requests_total{outcome=\"malformed\"").await, None);
}

#[tokio::test]
async fn a_path_with_a_second_reading_must_be_the_same_routes_in_both() {
    let yaml = r#"
routes:
  - { name: admin, match: { path: /admin/** }, require: { role: stytch_admin } }
  - { name: purge, match: { path: "/v1/users:purge" }, require: { role: stytch_admin } }
  - { name: rest, match: { path: /** }, require: authenticated, path_parameters: keep, encoded_slash: keep }
"#;
    let world = World::with(yaml, &[]).await;
    for path in [
        "/admin;x/users",
        "/admin%2Fusers",
        "/admin;x%2Fy",
        "/admin%3bx",
        "/x/;/admin",
        "/v1/users%3Apurge",
        "/v1/users%3apurge",
        "/v1;/users:purge",
    ] {
        let answer = world.get(path, "VIEWER").await;
        assert_eq!((answer.status, answer.reason().as_str()), (400, "path_ambiguous"), "{path}");
    }
    for path in ["/files/a;v=1", "/files/a%2Fb", "/files/a%3Ab", "/files/a%20b"] {
        assert_eq!(world.get(path, "VIEWER").await.status, 200, "{path}");
    }
    assert_eq!(world.get("/.portcullis;x", "ADMIN").await.reason(), "reserved_path");
}
