//! Tokens of every shape against one key. Must not check anything that needs a network.

use std::collections::HashMap;
use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use serde_json::{Value, json};

use super::*;
use crate::identity::VerificationKey;

const NOW: i64 = 1_800_000_000;

fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn keys() -> KeySet {
    let public = key().public_key();
    let modulus = public.modulus().big_endian_without_leading_zero();
    let exponent = public.exponent().big_endian_without_leading_zero();
    let key = VerificationKey::from_components(modulus, exponent).unwrap();
    KeySet::new(HashMap::from([("k1".to_owned(), key)]), 1)
}

fn rules() -> JwtRules {
    JwtRules {
        issuers: vec!["stytch.com/project-test-1".into()],
        audience: "project-test-1".into(),
        leeway: Duration::from_secs(2),
    }
}

fn claims() -> Value {
    json!({
        "iss": "stytch.com/project-test-1", "aud": ["project-test-1"], "sub": "member-test-1",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 290,
        "https://stytch.com/session": { "id": "session-test-1", "roles": ["stytch_member"] },
        "https://stytch.com/organization": { "organization_id": "organization-test-1", "slug": "acme" },
    })
}

fn sign_text(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut signature = vec![0; key().public_modulus_len()];
    key().sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn sign(claims: &Value) -> String {
    sign_text(r#"{"alg":"RS256","kid":"k1","typ":"JWT"}"#, &claims.to_string())
}

fn check(token: &str) -> Result<VerifiedJwt, JwtError> {
    verify_jwt(token, &keys(), &rules(), Timestamp::from_second(NOW).unwrap())
}

fn with(change: impl FnOnce(&mut Value)) -> Result<VerifiedJwt, JwtError> {
    let mut claims = claims();
    change(&mut claims);
    check(&sign(&claims))
}

#[test]
fn a_session_jwt_names_its_member_and_session() {
    let jwt = with(|_| {}).unwrap();
    let JwtSubject::Session { member, session_id } = &jwt.subject else { panic!("no session") };
    assert_eq!(member.member_id.as_str(), "member-test-1");
    assert_eq!(member.organization_id.as_str(), "organization-test-1");
    assert_eq!(session_id.as_str(), "session-test-1");
    let Principal::Member(principal) = jwt.principal("token") else { panic!("no member") };
    assert_eq!(principal.issued_at.unwrap().as_second(), NOW - 10);
}

#[test]
fn dates_are_held_with_a_small_leeway() {
    assert_eq!(with(|c| c["exp"] = json!(NOW - 2)), Err(JwtError::Expired));
    assert!(with(|c| c["exp"] = json!(NOW - 1)).is_ok());
    assert_eq!(with(|c| c["nbf"] = json!(NOW + 3)), Err(JwtError::NotYetValid));
    assert!(with(|c| c["nbf"] = json!(NOW + 2)).is_ok());
    assert_eq!(with(|c| c["iat"] = json!(NOW + 3)), Err(JwtError::NotYetValid));
    assert_eq!(with(|c| c["exp"] = json!("tomorrow")), Err(JwtError::Malformed));
    assert_eq!(with(|c| c["exp"] = Value::Null), Err(JwtError::Malformed));
}

#[test]
fn issuer_and_audience_are_exact() {
    assert_eq!(with(|c| c["iss"] = json!("stytch.com/project-test-12")), Err(JwtError::Issuer));
    assert_eq!(with(|c| c["aud"] = json!(["project-test-2"])), Err(JwtError::Audience));
    assert!(with(|c| c["aud"] = json!("project-test-1")).is_ok());
    assert_eq!(with(|c| c["aud"] = json!([])), Err(JwtError::Audience));
}

fn kind(token: &str) -> Result<&'static str, JwtError> {
    check(token).map(|jwt| match jwt.subject {
        JwtSubject::Session { .. } => "session",
        JwtSubject::Machine { .. } => "machine",
        JwtSubject::App { .. } => "app",
    })
}

#[test]
fn claims_tell_a_session_from_a_machine_and_an_app() {
    let machine = json!({
        "iss": "stytch.com/project-test-1", "aud": ["project-test-1"], "sub": "m2m-client-test-1",
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "scope": "read:users",
    });
    let mut app = claims();
    app.as_object_mut().unwrap().remove("https://stytch.com/session");
    app["client_id"] = json!("connected-app-test-1");
    app["scope"] = json!("openid");
    let kind_with = |token: &Value, name: &str, value: Value| {
        let mut token = token.clone();
        match value {
            Value::Null => drop(token.as_object_mut().unwrap().remove(name)),
            value => token[name] = value,
        }
        kind(&sign(&token))
    };
    const SESSION: &str = "https://stytch.com/session";
    const ORGANIZATION: &str = "https://stytch.com/organization";
    let no_kind = || Err(JwtError::NoKind);
    assert_eq!(kind(&sign(&claims())), Ok("session"));
    assert_eq!(kind(&sign(&machine)), Ok("machine"));
    assert_eq!(kind(&sign(&app)), Ok("app"));
    // A custom claim may have any name; the session claim is what counts.
    assert_eq!(kind_with(&claims(), "client_id", json!("connected-app-test-1")), Ok("session"));
    assert_eq!(kind_with(&claims(), "scope", json!("read:users")), Ok("session"));
    // What lacks something of its kind, or has something of another, is nobody's.
    assert_eq!(kind_with(&claims(), SESSION, Value::Null), no_kind());
    assert_eq!(kind_with(&claims(), ORGANIZATION, Value::Null), no_kind());
    assert_eq!(kind_with(&claims(), "sub", json!("m2m-client-test-1")), no_kind());
    assert_eq!(kind_with(&machine, "scope", Value::Null), no_kind());
    assert_eq!(kind_with(&machine, "scope", json!(["read:users"])), no_kind());
    assert_eq!(kind_with(&machine, "sub", json!("member-test-1")), no_kind());
    assert_eq!(kind_with(&machine, SESSION, claims()[SESSION].clone()), no_kind());
    assert_eq!(kind_with(&machine, ORGANIZATION, claims()[ORGANIZATION].clone()), no_kind());
    assert_eq!(kind_with(&app, "client_id", Value::Null), no_kind());
    assert_eq!(kind_with(&app, "client_id", json!(7)), no_kind());
    assert_eq!(kind_with(&app, ORGANIZATION, Value::Null), no_kind());
    assert_eq!(kind_with(&app, "sub", json!("m2m-client-test-1")), no_kind());
    // An app without a scope claim has no scopes.
    assert_eq!(kind_with(&app, "scope", Value::Null), Ok("app"));
}

#[test]
fn identifiers_that_could_break_a_url_are_refused() {
    assert_eq!(with(|c| c["sub"] = json!("member/../x")), Err(JwtError::NoKind));
    assert_eq!(with(|c| c["sub"] = json!("m\r\nx: y")), Err(JwtError::NoKind));
}

#[test]
fn only_rs256_whatever_the_header_says() {
    for header in [
        r#"{"alg":"none","kid":"k1"}"#,
        r#"{"alg":"HS256","kid":"k1"}"#,
        r#"{"alg":"RS512","kid":"k1"}"#,
        r#"{"alg":"RS256","kid":"k1","crit":["exp"]}"#,
    ] {
        assert_eq!(check(&sign_text(header, &claims().to_string())), Err(JwtError::Algorithm), "{header}");
    }
    let twice = r#"{"alg":"RS256","kid":"k1","alg":"none"}"#;
    assert_eq!(check(&sign_text(twice, &claims().to_string())), Err(JwtError::Malformed));
    let unknown = sign_text(r#"{"alg":"RS256","kid":"k2"}"#, &claims().to_string());
    assert_eq!(check(&unknown), Err(JwtError::UnknownKey("k2".into())));
}

#[test]
fn repeated_members_padding_and_stray_parts_are_refused() {
    let text = claims().to_string();
    let repeated = text.replacen('{', r#"{"sub":"member-test-2","#, 1);
    assert_eq!(check(&sign_text(r#"{"alg":"RS256","kid":"k1"}"#, &repeated)), Err(JwtError::Malformed));
    let good = sign(&claims());
    assert!(check(&format!("{good}=")).is_err());
    assert!(check(&format!("{good}.x")).is_err());
    assert!(check("eyJ.").is_err());
    assert_eq!(check(""), Err(JwtError::Malformed));
}

#[test]
fn one_changed_byte_breaks_the_signature() {
    let good = sign(&claims());
    let other = sign(&{
        let mut claims = claims();
        claims["sub"] = json!("member-test-9");
        claims
    });
    let (_, signature) = good.rsplit_once('.').unwrap();
    let (signed, _) = other.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{signed}.{signature}")), Err(JwtError::Signature));
}
