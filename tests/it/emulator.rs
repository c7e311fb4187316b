//! The stand-in held to the facts of the API. The official SDKs are run against it by `tests/sdk`.

use std::net::SocketAddr;

use base64::Engine as _;
use portcullis::emulator::{Emulator, EmulatorSettings};
use serde_json::{Value, json};

use crate::support::{ANY, Answer, Ask, ask};

struct Api {
    emulator: Emulator,
    address: SocketAddr,
}

impl Api {
    async fn start() -> Self {
        let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
        let address = emulator.url().trim_start_matches("http://").parse().unwrap();
        Self { emulator, address }
    }

    fn basic(&self) -> String {
        let pair = format!("{}:{}", self.emulator.project_id(), self.emulator.secret());
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    async fn get(&self, path: &str) -> Answer {
        ask(self.address, Ask::get(path).header("authorization", &self.basic())).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        let request = Ask::new("POST", path).header("authorization", &self.basic());
        ask(self.address, request.header("content-type", "application/json").body(body.to_string())).await
    }
}

#[tokio::test]
async fn errors_have_all_five_keys() {
    let api = Api::start().await;
    let cases = [
        (api.get("/v1/b2b/sessions").await, 400, "bad_request"),
        (api.get("/v1/b2b/sessions?organization_id=x&member_id=y").await, 404, "organization_not_found"),
        (api.get("/v1/b2b/sessions?organization_id=acme&member_id=y").await, 404, "member_not_found"),
        (api.get("/v1/b2b/nothing").await, 404, "route_not_found"),
        (ask(api.address, Ask::get("/v1/b2b/rbac/policy")).await, 401, "unauthorized_credentials"),
        (api.post("/v1/b2b/sessions/authenticate", json!({})).await, 400, "no_session_arguments"),
        (
            api.post("/v1/b2b/sessions/authenticate", json!({ "session_token": "a", "session_jwt": "b" }))
                .await,
            400,
            "too_many_session_arguments",
        ),
        (
            api.post("/v1/b2b/sessions/authenticate", json!({ "session_token": "a" })).await,
            404,
            "session_not_found",
        ),
        (
            api.post("/v1/b2b/sessions/authenticate", json!({ "session_jwt": "a.b.c" })).await,
            400,
            "unable_to_parse_session_jwt",
        ),
    ];
    for (answer, status, kind) in cases {
        assert_eq!(
            (answer.status, answer.json()["error_type"].as_str()),
            (status, Some(kind)),
            "{}",
            answer.text()
        );
        for key in ["status_code", "request_id", "error_message", "error_url"] {
            assert!(!answer.json()[key].is_null(), "{key} is missing in {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_list_holds_every_live_session_and_no_token() {
    let api = Api::start().await;
    let personas = api.emulator.personas();
    let viewer = personas.iter().find(|persona| persona.name == "VIEWER").unwrap();
    let list = |organization: &str, member: &str| {
        format!("/v1/b2b/sessions?organization_id={organization}&member_id={member}")
    };
    for (organization, member) in [
        (viewer.organization_id.as_str(), viewer.member_id.as_str()),
        ("acme", "payroll-1"),
        ("acme-external", &viewer.member_id),
    ] {
        let answer = api.get(&list(organization, member)).await;
        let sessions = answer.json()["member_sessions"].as_array().unwrap().clone();
        assert_eq!(sessions.len(), 2);
        assert!(!answer.text().contains(&viewer.token) && !answer.text().contains("session_jwt"));
        for field in [
            "member_session_id",
            "member_id",
            "started_at",
            "last_accessed_at",
            "expires_at",
            "authentication_factors",
            "organization_id",
            "organization_slug",
            "roles",
            "custom_claims",
        ] {
            assert!(!sessions[0][field].is_null(), "{field}");
        }
    }
    api.post("/v1/b2b/sessions/revoke", json!({ "member_id": viewer.member_id })).await;
    let after = api.get(&list("acme", "payroll-1")).await.json();
    assert_eq!(after["member_sessions"], json!([]));
    let again = api.post("/v1/b2b/sessions/revoke", json!({ "member_session_id": viewer.session_id })).await;
    assert_eq!(again.status, 200, "revoking twice is no error");
}

#[tokio::test]
async fn every_documented_factor_comes_with_its_object() {
    let api = Api::start().await;
    let documented = [
        ("magic_link", "email", "email_factor"),
        ("magic_link", "embedded", "embeddable_magic_link_factor"),
        ("email_otp", "email", "email_factor"),
        ("otp", "sms", "phone_number_factor"),
        ("otp", "whatsapp", "phone_number_factor"),
        ("oauth", "oauth_google", "google_oauth_factor"),
        ("oauth", "oauth_microsoft", "microsoft_oauth_factor"),
        ("oauth", "oauth_hubspot", "hubspot_oauth_factor"),
        ("oauth", "oauth_slack", "slack_oauth_factor"),
        ("oauth", "oauth_github", "github_oauth_factor"),
        ("oauth", "oauth_gitlab", "git_lab_oauth_factor"),
        ("oauth", "oauth_linkedin", "linked_in_oauth_factor"),
        ("oauth", "oauth_tiktok", "tik_tok_oauth_factor"),
        ("oauth", "oauth_exchange_google", "google_oauth_exchange_factor"),
        ("oauth", "oauth_access_token_exchange", "oauth_access_token_exchange_factor"),
        ("sso", "sso_saml", "saml_sso_factor"),
        ("sso", "sso_oidc", "oidc_sso_factor"),
        ("totp", "authenticator_app", "authenticator_app_factor"),
        ("recovery_codes", "recovery_code", "recovery_code_factor"),
        ("impersonated", "impersonation", "impersonated_factor"),
        ("trusted_auth_token", "trusted_token_exchange", "trusted_auth_token_factor"),
        ("webauthn", "webauthn_registration", "webauthn_factor"),
        ("crypto", "crypto_wallet", "crypto_wallet_factor"),
        ("signature_challenge", "biometric", "biometric_factor"),
    ];
    let factors: Vec<Value> = documented
        .iter()
        .map(|(kind, delivery, _)| json!({ "type": kind, "delivery_method": delivery, "proven_ago": "1m" }))
        .collect();
    let member = &api.emulator.personas()[0].member_id;
    let seed = json!({ "member": member, "factors": factors });
    let made = ask(api.address, Ask::new("POST", "/_emulator/sessions").body(seed.to_string())).await.json();
    for (factor, (_, delivery, object)) in
        made["member_session"]["authentication_factors"].as_array().unwrap().iter().zip(documented)
    {
        assert!(factor[object].is_object(), "{delivery}: {factor}");
        assert!(factor["last_authenticated_at"].is_string());
    }
}

#[tokio::test]
async fn authenticate_mints_decides_and_extends_only_when_asked() {
    let api = Api::start().await;
    let personas = api.emulator.personas();
    let admin = personas.iter().find(|persona| persona.name == "ADMIN").unwrap();
    let path = "/v1/b2b/sessions/authenticate";
    let plain = api.post(path, json!({ "session_token": admin.token })).await.json();
    let again = api.post(path, json!({ "session_jwt": plain["session_jwt"] })).await.json();
    assert_eq!(again["member_session"]["expires_at"], plain["member_session"]["expires_at"]);
    assert!(plain.get("verdict").is_none());
    let longer =
        api.post(path, json!({ "session_token": admin.token, "session_duration_minutes": 5 })).await.json();
    assert_ne!(longer["member_session"]["expires_at"], plain["member_session"]["expires_at"]);
    assert_eq!(
        api.post(path, json!({ "session_token": admin.token, "session_duration_minutes": 4 })).await.status,
        400
    );

    let check = |organization: &str, action: &str| {
        let check = json!({ "organization_id": organization, "resource_id": "reports", "action": action });
        json!({ "session_token": admin.token, "authorization_check": check })
    };
    let allowed = api.post(path, check(&admin.organization_id, "write")).await.json();
    assert_eq!(allowed["verdict"]["granting_roles"], json!(["stytch_admin", "editor"]));
    let elsewhere = api.post(path, check("organization-test-x", "write")).await;
    assert_eq!(
        (elsewhere.status, elsewhere.json()["error_type"].as_str()),
        (403, Some("session_authorization_tenancy_error"))
    );
    let viewer = personas.iter().find(|persona| persona.name == "VIEWER").unwrap();
    let mut refused = check(&viewer.organization_id, "write");
    refused["session_token"] = json!(viewer.token);
    assert_eq!(api.post(path, refused).await.json()["error_type"], "session_authorization_error");
}

#[tokio::test]
async fn keys_have_all_nine_fields_and_machines_get_tokens_in_json_and_forms() {
    let api = Api::start().await;
    let project = api.emulator.project_id();
    let keys = ask(api.address, Ask::get(&format!("/v1/b2b/sessions/jwks/{project}"))).await;
    assert_eq!((keys.status, keys.header("cache-control")), (200, "public, max-age=900"));
    for field in ["kty", "use", "key_ops", "alg", "kid", "x5c", "x5tS256", "n", "e"] {
        assert!(!keys.json()["keys"][0][field].is_null(), "{field}");
    }
    let path = format!("/v1/public/{project}/oauth2/token");
    let form = "grant_type=client_credentials&client_id=m2m-client-test-cccccccc-0000-4000-8000-000000000001&client_secret=m2m-secret-emulator&scope=read%3Areports";
    let request =
        Ask::new("POST", &path).header("content-type", "application/x-www-form-urlencoded").body(form);
    let granted = ask(api.address, request).await;
    assert_eq!(
        (granted.json()["token_type"].as_str(), granted.json()["expires_in"].as_u64()),
        (Some("bearer"), Some(3600))
    );
    let wrong = Ask::new("POST", &path)
        .header("content-type", "application/json")
        .body("{\"grant_type\":\"client_credentials\"}");
    assert_eq!(ask(api.address, wrong).await.json()["error"], "invalid_client");
}
