//! The API's objects in full: sessions, members, organizations and every kind of authentication factor.
//!
//! Must not leave out a field the official SDKs require.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::{Member, Organization, Session, State};
use super::tokens::uuid;

/// Providers whose sub-object is spelled differently from their delivery method.
const SPELLED_APART: [(&str, &str); 3] =
    [("gitlab", "git_lab"), ("linkedin", "linked_in"), ("tiktok", "tik_tok")];

pub(super) fn member_session(state: &State, session: &Session) -> Value {
    let slug = state.organizations.get(&session.organization_id).map_or("", |found| found.slug.as_str());
    json!({
        "member_session_id": session.id,
        "member_id": session.member_id,
        "started_at": session.started_at,
        "last_accessed_at": session.last_accessed_at,
        "expires_at": session.expires_at,
        "authentication_factors": session.factors,
        "organization_id": session.organization_id,
        "organization_slug": slug,
        "roles": session.roles,
        "custom_claims": session.custom_claims,
    })
}

pub(super) fn member(member: &Member) -> Value {
    let direct = json!([{ "type": "direct_assignment", "details": {} }]);
    let roles: Vec<Value> =
        member.roles.iter().map(|role| json!({ "role_id": role, "sources": direct })).collect();
    json!({
        "organization_id": member.organization_id,
        "member_id": member.id,
        "email_address": member.email,
        "status": "active",
        "name": member.name,
        "sso_registrations": [],
        "is_breakglass": false,
        "member_password_id": "",
        "oauth_registrations": [],
        "email_address_verified": true,
        "mfa_phone_number_verified": false,
        "is_admin": member.roles.iter().any(|role| role == "stytch_admin"),
        "totp_registration_id": "",
        "retired_email_addresses": [],
        "is_locked": false,
        "mfa_enrolled": false,
        "mfa_phone_number": "",
        "default_mfa_method": "",
        "roles": roles,
        "trusted_metadata": {},
        "untrusted_metadata": {},
        "created_at": member.created_at,
        "updated_at": member.created_at,
        "external_id": member.external_id,
        "scim_registration": null,
        "lock_created_at": null,
        "lock_expires_at": null,
    })
}

pub(super) fn organization(organization: &Organization) -> Value {
    json!({
        "organization_id": organization.id,
        "organization_name": organization.name,
        "organization_logo_url": "",
        "organization_slug": organization.slug,
        "organization_external_id": organization.external_id,
        "sso_jit_provisioning": "ALL_ALLOWED",
        "sso_jit_provisioning_allowed_connections": [],
        "sso_active_connections": [],
        "sso_default_connection_id": null,
        "scim_active_connection": null,
        "email_allowed_domains": [],
        "email_jit_provisioning": "NOT_ALLOWED",
        "email_invites": "ALL_ALLOWED",
        "auth_methods": "ALL_ALLOWED",
        "allowed_auth_methods": [],
        "mfa_policy": "OPTIONAL",
        "mfa_methods": "ALL_ALLOWED",
        "allowed_mfa_methods": [],
        "rbac_email_implicit_role_assignments": [],
        "oauth_tenant_jit_provisioning": "NOT_ALLOWED",
        "allowed_oauth_tenants": {},
        "claimed_email_domains": [],
        "first_party_connected_apps_allowed_type": "ALL_ALLOWED",
        "allowed_first_party_connected_apps": [],
        "third_party_connected_apps_allowed_type": "ALL_ALLOWED",
        "allowed_third_party_connected_apps": [],
        "custom_roles": organization.roles,
        "trusted_metadata": {},
        "created_at": organization.created_at,
        "updated_at": organization.created_at,
    })
}

/// A factor with the sub-object its delivery method comes with. `details` are laid over that object.
pub(super) fn factor(kind: &str, delivery: &str, proven_at: Option<Timestamp>, details: &Value) -> Value {
    let mut factor = json!({ "type": kind, "delivery_method": delivery });
    if let Value::Object(fields) = &mut factor {
        if let Some(at) = proven_at {
            fields.insert("last_authenticated_at".to_owned(), json!(at));
            fields.insert("created_at".to_owned(), json!(at));
            fields.insert("updated_at".to_owned(), json!(at));
        }
        if let Some((name, mut object)) = sub_object(delivery) {
            super::tokens::merge(&mut object, details);
            fields.insert(name, object);
        }
    }
    factor
}

/// The sub-object of each delivery method. A password has none, nor has an imported factor.
fn sub_object(delivery: &str) -> Option<(String, Value)> {
    let id = |kind: &str| format!("{kind}-test-{}", uuid());
    let named = |name: &str, object: Value| Some((name.to_owned(), object));
    match delivery {
        "email" => {
            named("email_factor", json!({ "email_id": id("email"), "email_address": "member@example.com" }))
        }
        "embedded" => named("embeddable_magic_link_factor", json!({ "embedded_id": id("embedded") })),
        "sms" | "whatsapp" => named(
            "phone_number_factor",
            json!({ "phone_id": id("phone-number"), "phone_number": "+15005550006" }),
        ),
        "sso_saml" | "sso_oidc" => {
            let protocol = delivery.trim_start_matches("sso_");
            let object = json!({
                "id": id(&format!("{protocol}-registration")),
                "provider_id": id(&format!("{protocol}-connection")),
                "external_id": "member@example.com",
            });
            Some((format!("{protocol}_sso_factor"), object))
        }
        "authenticator_app" => named("authenticator_app_factor", json!({ "totp_id": id("totp") })),
        "recovery_code" => {
            named("recovery_code_factor", json!({ "totp_recovery_code_id": id("totp-recovery-code") }))
        }
        "impersonation" => named(
            "impersonated_factor",
            json!({ "impersonator_id": id("impersonator"), "impersonator_email_address": "support@example.com" }),
        ),
        "trusted_token_exchange" => {
            named("trusted_auth_token_factor", json!({ "token_id": id("trusted-auth-token") }))
        }
        "webauthn_registration" => named(
            "webauthn_factor",
            json!({
                "webauthn_registration_id": id("webauthn-registration"),
                "domain": "example.com",
                "user_agent": "",
            }),
        ),
        "crypto_wallet" => named(
            "crypto_wallet_factor",
            json!({
                "crypto_wallet_id": id("crypto-wallet"),
                "crypto_wallet_address": "0x6df2dB4Fb3DA35d241901Bd53367770BF03123f1",
                "crypto_wallet_type": "ethereum",
            }),
        ),
        "biometric" => {
            named("biometric_factor", json!({ "biometric_registration_id": id("biometric-registration") }))
        }
        "oauth_access_token_exchange" => {
            named("oauth_access_token_exchange_factor", json!({ "client_id": id("connected-app") }))
        }
        _ => match delivery.strip_prefix("oauth_") {
            Some(provider) if provider.starts_with("exchange_") => {
                let provider = provider.trim_start_matches("exchange_");
                Some((format!("{provider}_oauth_exchange_factor"), json!({ "email_id": id("email") })))
            }
            Some(provider) => {
                let spelled = SPELLED_APART.iter().find(|(name, _)| *name == provider);
                let provider = spelled.map_or(provider, |(_, spelled)| spelled);
                let object = json!({
                    "id": id("oauth-registration"),
                    "provider_subject": "1234567890",
                    "email_id": id("email"),
                });
                Some((format!("{provider}_oauth_factor"), object))
            }
            None => None,
        },
    }
}
