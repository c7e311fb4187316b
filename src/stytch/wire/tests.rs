//! Answers as the API gives them, and as it might.

use serde_json::json;

use jiff::Timestamp;

use super::*;
use crate::identity::Monotonic;
use crate::session::{Factor, FactorKind};

fn sent() -> Now {
    Now { wall: Timestamp::from_second(1_800_000_000).unwrap(), monotonic: Monotonic::default() }
}

fn asked() -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("organization-test-1").unwrap(),
        member_id: MemberId::parse("member-test-1").unwrap(),
    }
}

fn session() -> Value {
    json!({
        "member_session_id": "session-test-1", "member_id": "member-test-1",
        "organization_id": "organization-test-1", "organization_slug": "acme",
        "started_at": "2026-11-23T10:00:00Z", "last_accessed_at": "2026-11-23T10:00:00.123456Z",
        "expires_at": "2026-11-23T11:00:00.123456789+01:00", "roles": ["stytch_member"],
        "authentication_factors": [], "custom_claims": null, "new_field": {"x": 1},
    })
}

fn read(sessions: Value) -> Result<Arc<ActiveSessions>, DirectoryError> {
    let body = json!({ "status_code": 200, "request_id": "r", "member_sessions": sessions }).to_string();
    read_session_list(body.as_bytes(), &asked(), Spelling::Canonical, sent(), &[])
}

fn factors(factors: Value) -> Vec<Factor> {
    let mut session = session();
    session["authentication_factors"] = factors;
    read(json!([session])).unwrap().sessions().next().unwrap().factors
}

#[test]
fn dates_have_any_number_of_fraction_digits_and_any_offset() {
    let list = read(json!([session()])).unwrap();
    assert_eq!(list.sessions().next().unwrap().expires_at, "2026-11-23T10:00:00.123456789Z".parse().unwrap());
    assert_eq!(list.fetched_at, sent());
}

#[test]
fn absent_and_null_fields_are_unknown_not_empty() {
    let mut bare = session();
    for field in ["roles", "organization_slug", "started_at", "authentication_factors"] {
        bare[field] = Value::Null;
    }
    let list = read(json!([bare])).unwrap();
    let session = &list.sessions().next().unwrap();
    assert_eq!((&session.roles, &session.organization_slug, session.started_at), (&None, &None, None));
    assert_eq!(session.factors[0].kind, FactorKind::Unreadable);
}

#[test]
fn a_factor_is_read_with_what_its_object_tells() {
    let factors = factors(json!([
        { "type": "magic_link", "delivery_method": "email", "last_authenticated_at": "2026-11-23T10:00:00Z",
          "email_factor": { "email_id": "email-1", "email_address": "ada@example.com" } },
        { "type": "sso", "delivery_method": "sso_saml", "sequence_order": "PRIMARY",
          "saml_sso_factor": { "id": "x", "provider_id": "saml-connection-1", "external_id": "y" } },
        { "type": "impersonated", "delivery_method": "impersonation",
          "impersonated_factor": { "impersonator_id": "i", "impersonator_email_address": "eve@example.com" } },
    ]));
    assert_eq!(factors[0].email.as_deref(), Some("ada@example.com"));
    assert_eq!(factors[1].connection_id.as_deref(), Some("saml-connection-1"));
    assert_eq!(factors[1].last_authenticated_at, None);
    assert_eq!(factors[2].impersonator.as_deref(), Some("eve@example.com"));
}

#[test]
fn one_odd_factor_never_loses_the_session() {
    let factors = factors(json!([
        { "type": "retina_scan", "delivery_method": "camera" },
        { "type": 7 },
        "nonsense",
        { "type": "totp", "delivery_method": null, "last_authenticated_at": "yesterday" },
        { "type": "totp", "delivery_method": "authenticator_app", "last_authenticated_at": "2026-11-23T10:00:00Z",
          "authenticator_app_factor": { "totp_id": "t" } },
    ]));
    let kinds: Vec<&str> = factors.iter().map(|factor| factor.kind.name()).collect();
    assert_eq!(kinds, ["retina_scan", "unreadable", "unreadable", "totp", "totp"]);
    assert_eq!(factors[3].last_authenticated_at, None);
    assert!(factors[4].last_authenticated_at.is_some());
}

#[test]
fn an_answer_about_somebody_else_is_a_fault() {
    for (field, value) in [("member_id", "member-test-2"), ("organization_id", "organization-test-2")] {
        let mut other = session();
        other[field] = json!(value);
        assert_eq!(read(json!([other])), Err(DirectoryError::Mismatched), "{field}");
        assert_eq!(read(json!([session(), other])), Err(DirectoryError::Mismatched), "{field}");
    }
}

#[test]
fn a_slug_or_external_id_comes_back_as_the_directorys_own_ids() {
    let body = json!({ "member_sessions": [session()] }).to_string();
    let ask = |organization: &str, member: &str| {
        let asked = MemberRef {
            organization_id: OrganizationId::parse(organization).unwrap(),
            member_id: MemberId::parse(member).unwrap(),
        };
        read_session_list(body.as_bytes(), &asked, Spelling::AsWritten, sent(), &[])
            .map(|list| list.member.clone())
    };
    assert_eq!(ask("acme", "payroll-77"), Ok(asked()));
    assert_eq!(ask("organization-test-2", "member-test-1"), Err(DirectoryError::Mismatched));
    assert_eq!(ask("acme", "member-test-2"), Err(DirectoryError::Mismatched));
}

#[test]
fn what_is_no_list_is_malformed() {
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"member_sessions":null}"#,
        r#"{"member_sessions":[{}]}"#,
        r#"{"member_sessions":[],"member_sessions":[]}"#,
        "<html>502</html>",
    ] {
        let read = read_session_list(body.as_bytes(), &asked(), Spelling::Canonical, sent(), &[]);
        assert!(matches!(read, Err(DirectoryError::Malformed(_))), "{body}: {read:?}");
    }
    for field in ["member_session_id", "member_id", "organization_id", "expires_at"] {
        let mut bad = session();
        bad[field] = json!("a b");
        assert!(matches!(read(json!([bad])), Err(DirectoryError::Malformed(_))), "{field}");
    }
}
