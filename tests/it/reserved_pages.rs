//! The gateway's own pages: who am I, signing out, webhooks, and the admin API beside them.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::support::{ADMIN_TOKEN, Answer, Ask, USUAL, World, ask};

const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];

async fn world() -> World {
    let yaml = format!(
        "admin: {{ address: \"127.0.0.1:0\", token: {{ value: {ADMIN_TOKEN} }} }}
webhooks: {{ secrets: [ {{ value: {} }}, {{ value: {} }} ] }}
sign_out: {{ redirect_to: \"https://www.example.com/bye\", cookie_domain: example.com, origins: [\"https://app.example.com\"] }}
{USUAL}",
        SECRETS[0], SECRETS[1]
    );
    World::with(&yaml, &[]).await
}

#[tokio::test]
async fn whoami_tells_the_caller_about_themselves_and_nothing_secret() {
    let world = world().await;
    let persona = world.persona("ADMIN");
    let answer = world.get("/.portcullis/whoami", "ADMIN").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    let who = answer.json();
    assert_eq!(who["member_id"], persona.member_id.as_str());
    assert_eq!(who["session_id"], persona.session_id.as_str());
    assert_eq!(who["organization_slug"], "acme");
    assert!(who["roles"].as_array().unwrap().contains(&json!("stytch_admin")));
    let totp = who["factors"].as_array().unwrap().iter().find(|factor| factor["type"] == "totp").unwrap();
    assert!(totp["age_seconds"].as_u64().unwrap() < 900);
    assert!(
        who["evidence_age_seconds"].as_f64().unwrap() >= 0.0
            && who["expires_in_seconds"].as_u64().unwrap() > 60
    );
    for secret in [&persona.jwt, &persona.token] {
        assert!(!answer.text().contains(secret.as_str()));
    }
    // In the path's one spelling only, and only for whoever is signed in.
    assert_eq!(world.send(Ask::get("/.portcullis/whoami")).await.reason(), "credential_missing");
    assert_eq!(world.get("/.PORTCULLIS/whoami", "ADMIN").await.reason(), "reserved_path");
    assert_eq!(world.get("/.portcullis/other", "ADMIN").await.reason(), "reserved_path");
    let post = world.send(Ask::new("POST", "/.portcullis/whoami").bearer(&persona.jwt)).await;
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    world.revoke("ADMIN").await;
    let member = json!({ "member_id": persona.member_id });
    assert_eq!(world.admin(member).await.status, 200);
    assert_eq!(world.get("/.portcullis/whoami", "ADMIN").await.reason(), "session_not_found");
}

#[tokio::test]
async fn signing_out_ends_the_session_everywhere_and_clears_the_cookies() {
    let world = world().await;
    let persona = world.persona("VIEWER");
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    let form = world.send(Ask::get("/.portcullis/sign-out")).await;
    assert!(form.status == 200 && form.text().contains("<form method=\"post\">"));
    assert!(form.header("content-security-policy").contains("https://www.example.com"));
    assert_eq!(world.get("/", "VIEWER").await.status, 200, "looking at the form signs nobody out");

    let out = |origin: &str| {
        let request = Ask::new("POST", "/.portcullis/sign-out").cookie("stytch_session", &persona.token);
        if origin.is_empty() { request } else { request.header("origin", origin) }
    };
    for foreign in ["https://evil.example", "null", "", "https://app.example.com.evil.example"] {
        let refused = world.send(out(foreign)).await;
        assert_eq!((refused.status, refused.reason().as_str()), (403, "foreign_origin"), "{foreign}");
    }
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    let done = world.send(out(&format!("http://{}", world.address()))).await;
    assert_eq!((done.status, done.header("location")), (303, "https://www.example.com/bye"));
    let cookies: Vec<&str> =
        done.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    for name in ["stytch_session", "stytch_session_jwt"] {
        for end in ["SameSite=Lax", "Domain=example.com"] {
            let cleared = |cookie: &&str| {
                cookie.starts_with(&format!("{name}=; Path=/; Max-Age=0")) && cookie.ends_with(end)
            };
            assert!(cookies.iter().any(cleared), "{name} {end}: {cookies:?}");
        }
    }
    // At the API, and here at once, JWT and token alike.
    assert_eq!(world.calls("revoke").await, 1);
    assert_eq!(world.get("/", "VIEWER").await.reason(), "session_not_found");
    let by_token = world.send(Ask::get("/").cookie("stytch_session", &persona.token)).await;
    assert_eq!(by_token.status, 401);
    // Again, with nothing left to end, from a page that is listed.
    let again = world.send(out("https://app.example.com")).await;
    assert_eq!(again.status, 303);
}

#[tokio::test]
async fn a_sign_out_that_the_api_did_not_take_is_not_called_one() {
    let world = world().await;
    world.fault(json!({ "operation": "revoke", "status": 500 })).await;
    let request = Ask::new("POST", "/.portcullis/sign-out").bearer(&world.persona("VIEWER").jwt);
    let refused = world.send(request.clone()).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "directory_failed"));
    assert!(!refused.headers.contains_key("set-cookie"));
    world.heal().await;
    assert_eq!(world.send(request).await.status, 303, "a token sent by hand needs no origin");
}

/// A JWT of the viewer's session, made so long ago, or by a key that was made after the gateway asked for keys.
async fn minted(world: &World, issued_ago: u64) -> String {
    let path = format!("sessions/{}/jwt", world.persona("VIEWER").session_id);
    let made = world.control("POST", &path, json!({ "issued_ago_seconds": issued_ago })).await;
    made["session_jwt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn whose_session_a_jwt_is_is_found_out_before_anybody_is_told_they_are_signed_out() {
    let world = world().await;
    let out = |jwt: &str| Ask::new("POST", "/.portcullis/sign-out").bearer(jwt);
    world.fault(json!({ "operation": "keys", "status": 500 })).await;
    world.control("POST", "keys/rotate", json!({})).await;
    let by_new_key = minted(&world, 0).await;
    let unknown = world.send(out(&by_new_key)).await;
    assert_eq!((unknown.status, unknown.reason().as_str()), (503, "keys_unavailable"));
    assert!(!unknown.headers.contains_key("set-cookie"));
    assert_eq!(world.calls("revoke").await, 0);
    world.heal().await;
    let done = async {
        while world.send(out(&by_new_key)).await.status != 303 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), done).await.expect("the key was not looked up");
    assert_eq!(world.calls("revoke").await, 1);
    assert_eq!(world.get("/", "VIEWER").await.reason(), "session_not_found");
}

#[tokio::test]
async fn an_expired_jwt_ends_its_session_once_and_costs_nothing_after() {
    let world = world().await;
    let expired = minted(&world, 3_600).await;
    assert_eq!(world.send(Ask::get("/").bearer(&expired)).await.reason(), "credential_expired");
    for _ in 0..20 {
        let request = Ask::new("POST", "/.portcullis/sign-out").bearer(&expired);
        assert_eq!(world.send(request).await.status, 303);
    }
    assert_eq!(world.calls("revoke").await, 1);
    assert_eq!(world.metric("portcullis_revocations_total{source=\"sign_out\"}").await, Some(1.0));
    assert_eq!(world.get("/", "VIEWER").await.reason(), "session_not_found");
    // One that is not genuine ends nothing.
    let forged = format!("{}A", minted(&world, 0).await);
    assert_eq!(world.send(Ask::new("POST", "/.portcullis/sign-out").bearer(&forged)).await.status, 303);
    assert_eq!(world.calls("revoke").await, 1);
}

#[tokio::test]
async fn the_admin_api_takes_what_it_should_from_whom_it_should() {
    let world = world().await;
    let admin = world.gateway.admin().unwrap();
    let persona = world.persona("VIEWER");
    let call = |body: Value| {
        let json = Ask::new("POST", "/admin/revoke").header("content-type", "application/json");
        json.bearer(ADMIN_TOKEN).body(body.to_string())
    };
    let session = json!({ "member_session_id": persona.session_id });
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    for (request, status) in [
        (call(json!({})), 400),
        (call(json!({ "member_id": "a", "member_session_id": "b" })), 400),
        (call(json!({ "member_id": "a b" })), 400),
        (call(json!({ "user_id": "a" })), 400),
        (call(json!({ "organization_id": "o", "upstream": true })), 400),
        (call(json!({ "member_id": "a" })).header("content-type", "text/plain"), 200),
        (Ask::new("POST", "/admin/revoke").bearer(ADMIN_TOKEN).body("{\"member_id\":\"a\"}"), 415),
        (Ask::get("/admin/revoke").bearer(ADMIN_TOKEN), 405),
        (Ask::get("/elsewhere").bearer(ADMIN_TOKEN), 404),
        (call(session.clone()).header("origin", "http://localhost:1"), 403),
        (call(session.clone()).header("sec-fetch-site", "none"), 403),
        (Ask::new("POST", "/admin/revoke").body(session.to_string()), 401),
        (Ask::new("POST", "/admin/revoke").bearer("a-token-of-some-lengt").body(session.to_string()), 401),
        (Ask::new("POST", "/admin/revoke").bearer("").body(session.to_string()), 401),
    ] {
        let answer = ask(admin, request).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    // Forgotten here, and found again: the API still knows it.
    let calls = world.calls("list").await;
    assert_eq!(world.admin(session.clone()).await.status, 200);
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    assert_eq!(world.calls("list").await, calls + 1);
    // Revoked upstream as well.
    let both = json!({ "member_session_id": persona.session_id, "upstream": true });
    assert_eq!(world.admin(both.clone()).await.json()["revoked_upstream"], true);
    assert_eq!(world.get("/", "VIEWER").await.reason(), "session_not_found");
    // Once more costs nobody anything.
    assert_eq!((world.admin(both).await.status, world.calls("revoke").await), (200, 1));
    world.fault(json!({ "operation": "revoke", "status": 500 })).await;
    let other = json!({ "member_id": world.persona("ADMIN").member_id, "upstream": true });
    let failed = world.admin(other).await;
    assert!(failed.status == 502 && failed.text().contains("forgotten here"), "{}", failed.text());
}

/// Signs as Svix does.
fn delivery(world: &World, secret: &str, id: &str, ago: i64, body: &Value) -> Ask {
    let mut body = body.clone();
    body["project_id"] = json!(world.emulator.project_id());
    let body = body.to_string();
    let timestamp = jiff::Timestamp::now().as_second() - ago;
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let tag =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{timestamp}.{body}").as_bytes());
    Ask::new("POST", "/.portcullis/webhooks/stytch")
        .header("svix-id", id)
        .header("svix-timestamp", &timestamp.to_string())
        .header("svix-signature", &format!("v1,{}", STANDARD.encode(tag)))
        .body(body)
}

async fn revocations(world: &World) -> f64 {
    world.metric("portcullis_revocations_total{source=\"webhook\"}").await.unwrap_or_default()
}

#[tokio::test]
async fn a_webhook_makes_what_is_known_too_old_once_and_only_if_it_is_genuine() {
    let world = world().await;
    let persona = world.persona("VIEWER");
    let event = json!({ "action": "DELETE", "object_type": "member", "id": persona.member_id });
    let reason = async |request: Ask| -> (u16, String) {
        let answer: Answer = world.send(request).await;
        (answer.status, if answer.status == 200 { String::new() } else { answer.reason() })
    };
    let invalid = (400, "webhook_invalid".to_owned());
    assert_eq!(world.get("/", "VIEWER").await.status, 200);
    world.revoke("VIEWER").await;
    let good = delivery(&world, SECRETS[0], "msg_1", 0, &event);
    assert_eq!(reason(good.clone().body("{}")).await, invalid, "tampered");
    assert_eq!(reason(good.clone().header("svix-id", "msg_2")).await.0, 200, "the first header counts");
    assert_eq!(revocations(&world).await, 1.0);
    assert_eq!(world.get("/", "VIEWER").await.reason(), "session_not_found");
    assert_eq!(reason(good).await.0, 200, "a copy is acknowledged");
    assert_eq!(revocations(&world).await, 1.0, "and nothing is done");
    let calls: [(&str, i64, bool); 4] = [
        (SECRETS[1], 0, true),
        (SECRETS[0], 301, false),
        (SECRETS[0], -310, false),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, false),
    ];
    for (index, (secret, ago, good)) in calls.into_iter().enumerate() {
        let id = format!("msg_1{index}");
        let told = reason(delivery(&world, secret, &id, ago, &event)).await;
        assert_eq!(told.0, if good { 200 } else { 400 }, "{secret} {ago}");
    }
    let other = json!({ "action": "UPDATE", "object_type": "member", "id": "m" });
    let mut elsewhere = delivery(&world, SECRETS[0], "msg_5", 0, &other);
    elsewhere = elsewhere.body(other.to_string());
    assert_eq!(reason(elsewhere).await, invalid, "not what was signed");
    assert_eq!(reason(Ask::new("POST", "/.portcullis/webhooks/stytch").body("{}")).await, invalid);
    assert_eq!(reason(Ask::get("/.portcullis/webhooks/stytch")).await.0, 405);
    let large = delivery(&world, SECRETS[0], "msg_6", 0, &other).body(vec![b'x'; 2_000_000]);
    assert_eq!(reason(large).await.1, "body_too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_begin_deliveries_do_not_keep_genuine_ones_waiting() {
    let world = world().await;
    let timestamp = jiff::Timestamp::now().as_second();
    let mut slow = Vec::new();
    for _ in 0..150 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(world.address()).await.unwrap();
        let head = format!(
            "POST /.portcullis/webhooks/stytch HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nsvix-id: x\r\n\
             svix-timestamp: {timestamp}\r\nsvix-signature: v1,AAAA\r\n\r\nx"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let event = json!({ "action": "UPDATE", "object_type": "member", "id": "m" });
    let began = std::time::Instant::now();
    assert_eq!(world.send(delivery(&world, SECRETS[0], "msg_1", 0, &event)).await.status, 200);
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_event_about_nobody_in_particular_makes_everything_ask_again_softly() {
    let world = world().await;
    for name in ["VIEWER", "ADMIN"] {
        assert_eq!(world.get("/", name).await.status, 200);
    }
    let calls = world.calls("list").await;
    let event = json!({ "action": "DELETE", "object_type": "saml_connection", "id": "saml-1" });
    // A second must pass since the last lookup before there is another.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    assert_eq!(world.send(delivery(&world, SECRETS[0], "msg_1", 0, &event)).await.status, 200);
    for _ in 0..3 {
        for name in ["VIEWER", "ADMIN"] {
            assert_eq!(world.get("/", name).await.status, 200);
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.calls("list").await, calls + 2);
}

#[tokio::test]
async fn without_a_secret_there_is_no_webhook() {
    let world = World::start().await;
    let request = Ask::new("POST", "/.portcullis/webhooks/stytch").body("{}");
    assert_eq!(world.send(request).await.reason(), "reserved_path");
    assert!(world.gateway.admin().is_none());
}
