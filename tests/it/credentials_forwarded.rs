//! No credential that the gateway reads reaches an application, verified or not, in headers or in trailers.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portcullis::emulator::EchoOrigin;
use serde_json::json;

use crate::support::{ANY, Ask, Origin, Reply, World, raw};

const ROUTES: &str = r#"
sessions: { deadline: 1s }
credentials: [ { cookie: stytch_session_jwt }, { cookie: stytch_session }, { bearer: true }, { basic: password } ]
routes:
  - { name: public, match: { path: /public/** }, public: true }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("anybody:{password}")))
}

/// A JWT with these claims that nobody signed.
fn forged(claims: &serde_json::Value) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(&json!({ "alg": "RS256", "kid": "k" })), part(claims))
}

#[tokio::test]
async fn whatever_a_configured_source_holds_is_removed_on_every_route() {
    let world = World::with(ROUTES, &[]).await;
    let viewer = world.persona("VIEWER");
    let project = world.emulator.project_id();
    let ours = forged(&json!({ "iss": format!("stytch.com/{project}"), "exp": 1 }));
    let another = forged(&json!({ "iss": "https://idp.example.com", "exp": 1 }));
    let without = forged(&json!({ "exp": 1 }));
    let cases = [
        // A live opaque token beside a cookie that wins, and one that nobody knows.
        (format!("Bearer {}", viewer.token), false),
        ("Bearer an-opaque-token-that-nobody-knows".to_owned(), false),
        (format!("bearer\t{}", viewer.token), false),
        ("Bearer".to_owned(), false),
        (format!("Bearer {}", viewer.jwt), false),
        (format!("Bearer {ours}"), false),
        (format!("Bearer {without}"), false),
        ("Bearer a.b.c".to_owned(), false),
        (format!("Digest username=\"a\", Bearer {}", viewer.token), false),
        (basic(&viewer.token), false),
        (basic("hunter2"), false),
        // An application's own.
        (format!("Bearer {another}"), true),
        ("Digest username=\"a\"".to_owned(), true),
        ("Negotiate YWJj".to_owned(), true),
    ];
    for (value, passes) in &cases {
        for path in ["/public/x", "/page"] {
            // Past its share of unknown tokens an address is refused; the cookie comes first and needs none.
            let ask = Ask::get(path).cookie("stytch_session_jwt", &viewer.jwt).header("authorization", value);
            let answer = world.send(ask).await;
            assert_eq!(answer.status, 200, "{value} {}", answer.text());
            assert_eq!(answer.seen("authorization").is_some(), *passes, "{path} {value}");
            assert_eq!(answer.seen("cookie"), None);
        }
    }
    let two = Ask::get("/public/x").header("authorization", "Digest a").header("authorization", "Digest b");
    assert_eq!(world.send(two).await.status, 400);
}

#[tokio::test]
async fn an_upstream_that_needs_credentials_says_which() {
    let key = ("upstreams.app.forward_credentials", r#"["authorization", "cookies"]"#);
    let yaml = ROUTES
        .replace("routes:", "upstreams: { app: { forward_credentials: [authorization, cookies] } }\nroutes:");
    let world = World::with(&yaml, &[]).await;
    let viewer = world.persona("VIEWER");
    let ask = Ask::get("/page").cookie("stytch_session_jwt", &viewer.jwt).bearer(&viewer.token);
    let answer = world.send(ask).await;
    assert_eq!(answer.seen("authorization").unwrap(), format!("Bearer {}", viewer.token), "{key:?}");
    assert_eq!(answer.seen("cookie").unwrap(), format!("stytch_session_jwt={}", viewer.jwt));
    // Cookies alone: the bearer stays here.
    let yaml = ROUTES.replace("routes:", "upstreams: { app: { forward_credentials: [cookies] } }\nroutes:");
    let world = World::with(&yaml, &[]).await;
    let viewer = world.persona("VIEWER");
    let answer =
        world.send(Ask::get("/page").cookie("stytch_session", &viewer.token).bearer(&viewer.jwt)).await;
    assert_eq!(answer.seen("authorization"), None);
    assert!(answer.seen("cookie").unwrap().starts_with("stytch_session="));
}

#[tokio::test]
async fn the_password_of_basic_is_a_credential_where_it_is_configured() {
    let world = World::with(ROUTES, &[]).await;
    let viewer = world.persona("VIEWER");
    for token in [&viewer.token, &viewer.jwt] {
        let answer = world.send(Ask::get("/page").header("authorization", &basic(token))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.seen("x-auth-member-id").unwrap(), viewer.member_id);
        assert_eq!(answer.seen("authorization"), None);
    }
    // A program is offered Basic, and first: docker and skopeo take the realm of Bearer for a token server's address. A
    // browser, which would ask for a password by itself, is not.
    let offered = |answer: &crate::support::Answer| {
        let values = answer.headers.get_all("www-authenticate").iter();
        values.map(|value| value.to_str().unwrap().split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let pip =
        "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01";
    for accept in ["*/*", pip] {
        let refused = world.send(Ask::get("/page").header("accept", accept)).await;
        assert_eq!((refused.status, offered(&refused)), (401.try_into().unwrap(), vec!["Basic".to_owned()]));
    }
    let wrong = world.send(Ask::get("/page").header("authorization", &basic("nonsense"))).await;
    assert_eq!(offered(&wrong), ["Basic"]);
    let bearer = world.send(Ask::get("/page").bearer("nonsense")).await;
    assert_eq!(offered(&bearer), ["Basic", "Bearer"]);
    for browser in [("sec-fetch-mode", "cors"), ("sec-fetch-mode", "navigate")] {
        let refused =
            world.send(Ask::get("/page").header(browser.0, browser.1).header("accept", "text/html")).await;
        assert_eq!(refused.headers.get_all("www-authenticate").iter().count(), 1, "{browser:?}");
    }
    // Without the source Basic is the application's own.
    let yaml = "routes: [ { name: all, match: { path: /** }, public: true } ]\n";
    let world = World::with(yaml, &[]).await;
    let answer = world.send(Ask::get("/").header("authorization", &basic("own"))).await;
    assert_eq!(answer.seen("authorization").unwrap(), basic("own"));
}

#[tokio::test]
async fn trailers_carry_no_credential_and_nothing_that_frames_or_routes() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie, Content-Length\r\n\r\n\
                  2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\nX-Auth-Roles: admin\r\n\r\n";
    let origin = Origin::start(Reply::text(answer)).await;
    let world = World::with_origin(ROUTES, &[], &origin.url()).await;
    let sent = "POST /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
                Trailer: X-Sum, Cookie, Authorization, Host\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nCookie: s=1\r\n\
                Authorization: Bearer x\r\nHost: b\r\nContent-Length: 9\r\n\r\n";
    let answered = raw(world.address(), sent.as_bytes()).await.to_ascii_lowercase();
    let [head, body] = &origin.heads()[..] else { panic!("{:?}", origin.heads()) };
    assert!(head.to_ascii_lowercase().contains("trailer: x-sum\r\n"), "{head}");
    let body = body.to_ascii_lowercase();
    assert!(body.contains("x-sum: 1"), "{body}");
    for name in ["cookie", "authorization", "host", "content-length"] {
        assert!(!body.contains(name), "{name} in {body}");
    }
    let (_, trailers) = answered.split_once("0\r\n").unwrap();
    assert!(answered.contains("trailer: x-sum\r\n") && trailers.contains("x-sum: 1"), "{answered}");
    for name in ["set-cookie", "content-length", "x-auth-roles"] {
        assert!(!trailers.contains(name), "{name} in {trailers}");
    }
}

#[tokio::test]
async fn an_answer_sets_what_its_upstream_may_set() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAlt-Svc: h3=\":443\"\r\nSet-Cookie: theme=dark\r\n\
                  Set-Cookie: stytch_session=forced; Path=/\r\nSet-Cookie: stytch_session_jwt =x\r\n\
                  Set-Cookie: portcullis_sign_in=x\r\n\
                  Set-Cookie: =stytch_session=forced\r\nSet-Cookie: = portcullis_sign_in=x\r\n\r\nok";
    let origin = Origin::start(Reply::text(answer)).await;
    for (may_set, cookies, alt_svc) in [
        ("", 4, false),
        ("upstreams: { app: { may_set: [] } }", 1, false),
        ("upstreams: { app: { may_set: [session_cookies, alt_svc] } }", 4, true),
    ] {
        let yaml = ROUTES.replace("routes:", &format!("{may_set}\nroutes:"));
        let world = World::with_origin(&yaml, &[], &origin.url()).await;
        let answer = world.send(Ask::get("/public/x")).await;
        let set: Vec<&str> =
            answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(set.len(), cookies, "{may_set} {set:?}");
        assert!(
            set.contains(&"theme=dark") && !set.iter().any(|cookie| cookie.contains("sign_in")),
            "{set:?}"
        );
        assert_eq!(answer.headers.contains_key("alt-svc"), alt_svc, "{may_set}");
    }
}

#[tokio::test]
async fn roles_that_the_directory_does_not_tell_give_no_header() {
    let echo = EchoOrigin::start(ANY).await.unwrap();
    let world = World::with_origin(ROUTES, &[], &format!("http://{}", echo.address())).await;
    let id = &world.persona("VIEWER").session_id;
    world.control("PATCH", &format!("sessions/{id}"), json!({ "roles": [] })).await;
    let answer = world.get("/page", "VIEWER").await;
    assert_eq!((answer.status, answer.seen("x-auth-roles")), (200.try_into().unwrap(), None));
    assert!(answer.seen("x-auth-factors").is_some());
}
