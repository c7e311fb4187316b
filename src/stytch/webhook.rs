//! Stytch's webhooks: whether a delivery is genuine (Svix signatures), and what it says.
//!
//! Must not act on an event, nor look into a body before its signature was verified.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::identity::{MemberId, OrganizationId, ProjectId, Secret};
use crate::session::RevocationTarget;

/// How far a delivery's date may lie from our clock, before or ahead (docs.svix.com, "verifying payloads manually").
const TOLERANCE: Duration = Duration::from_secs(300);

/// A signing secret, parsed once.
#[derive(Clone)]
pub struct WebhookSecret(hmac::Key);

/// The text is no signing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a signing secret: `whsec_` and base64 of at least 16 bytes are expected")]
pub struct InvalidWebhookSecret;

impl WebhookSecret {
    pub fn parse(secret: &Secret) -> Result<Self, InvalidWebhookSecret> {
        let encoded = secret.expose().strip_prefix("whsec_").unwrap_or_else(|| secret.expose());
        let key = STANDARD.decode(encoded.trim()).map_err(|_| InvalidWebhookSecret)?;
        if key.len() < 16 {
            return Err(InvalidWebhookSecret);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }
}

/// What a delivery says about itself, from the headers `svix-id`, `svix-timestamp` and `svix-signature` or their
/// white-label names `webhook-…`.
#[derive(Debug, Clone, Copy)]
pub struct Signature<'a> {
    /// The same for every try at one delivery.
    pub id: &'a str,
    /// Seconds since the epoch.
    pub timestamp: &'a str,
    /// `v1,<base64>`, several with spaces between.
    pub signatures: &'a str,
}

/// Why a delivery is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error("no signature verifies")]
    Signature,
    #[error("the delivery is dated more than five minutes from now")]
    Expired,
    #[error("the body is no event")]
    Malformed,
    #[error("the event is of another project")]
    OtherProject,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookEvent {
    /// What is known about the target is out of date.
    Changed(RevocationTarget),
    /// Something changed in an organization the event does not name.
    ChangedSomewhere,
    /// Nothing that is cached here depends on it.
    Irrelevant,
}

/// Verifies one delivery against any of the secrets, and reads it.
pub fn verify_webhook(
    body: &[u8],
    signature: &Signature<'_>,
    secrets: &[WebhookSecret],
    project_id: &ProjectId,
    now: Timestamp,
) -> Result<WebhookEvent, WebhookError> {
    // The signature first: a stranger learns nothing about our clock.
    let mut message = format!("{}.{}.", signature.id, signature.timestamp).into_bytes();
    message.extend_from_slice(body);
    let given =
        signature.signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
    let genuine = given.take(8).any(|tag| {
        // Constant time in the tag; which of our secrets it was is no secret.
        secrets.iter().any(|secret| hmac::verify(&secret.0, &message, &tag).is_ok())
    });
    if !genuine {
        return Err(WebhookError::Signature);
    }
    let sent = signature.timestamp.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let sent = sent.ok_or(WebhookError::Expired)?;
    if now.duration_since(sent).unsigned_abs() > TOLERANCE {
        return Err(WebhookError::Expired);
    }
    read_event(body, project_id)
}

#[derive(Deserialize)]
struct WireEvent {
    project_id: String,
    action: String,
    object_type: String,
    id: String,
    #[serde(flatten)]
    rest: Value,
}

/// Told from the body alone: the event's type is not in it, and is written in more than one way elsewhere.
fn read_event(body: &[u8], project_id: &ProjectId) -> Result<WebhookEvent, WebhookError> {
    let event: WireEvent = serde_json::from_slice(body).map_err(|_| WebhookError::Malformed)?;
    if event.project_id != project_id.as_str() {
        return Err(WebhookError::OtherProject);
    }
    let kind = event.object_type.to_ascii_lowercase();
    let action = event.action.to_ascii_uppercase();
    if !matches!(action.as_str(), "CREATE" | "UPDATE" | "DELETE") {
        return Ok(WebhookEvent::Irrelevant);
    }
    // The entity under the key named by its type; absent where it was deleted.
    let entity = event.rest.get(&event.object_type).or_else(|| event.rest.get(&kind));
    let organization = || {
        let id = entity?.get("organization_id")?.as_str()?;
        OrganizationId::parse(id).ok().map(RevocationTarget::Organization)
    };
    Ok(match kind.as_str() {
        // A new one ends nothing, but "no such member" may be believed of it.
        "member" => {
            let id = MemberId::parse(&event.id).map_err(|_| WebhookError::Malformed)?;
            WebhookEvent::Changed(RevocationTarget::Member(id))
        }
        "organization" => {
            let id = OrganizationId::parse(&event.id).map_err(|_| WebhookError::Malformed)?;
            WebhookEvent::Changed(RevocationTarget::Organization(id))
        }
        // Roles that come with a connection end with it; a new one has given none yet.
        connection if connection.ends_with("_connection") && action != "CREATE" => {
            organization().map_or(WebhookEvent::ChangedSomewhere, WebhookEvent::Changed)
        }
        _ => WebhookEvent::Irrelevant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> WebhookSecret {
        WebhookSecret::parse(&Secret::new(text.to_owned())).unwrap()
    }

    fn project() -> ProjectId {
        ProjectId::parse("project-test-1").unwrap()
    }

    fn event(json: &str) -> Result<WebhookEvent, WebhookError> {
        read_event(json.as_bytes(), &project())
    }

    #[test]
    fn the_published_vector_verifies_and_nothing_near_it_does() {
        let secrets = [secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")];
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let good = Signature {
            id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            timestamp: "1649367553",
            signatures: "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        };
        let at = |second: i64| Timestamp::from_second(1_649_367_553 + second).unwrap();
        let verify = |body: &[u8], signature: &Signature<'_>, now| {
            verify_webhook(body, signature, &secrets, &project(), now)
        };
        // Genuine, but no event of ours.
        assert_eq!(verify(body, &good, at(0)), Err(WebhookError::Malformed));
        assert_eq!(verify(body, &good, at(300)), Err(WebhookError::Malformed));
        assert_eq!(verify(body, &good, at(301)), Err(WebhookError::Expired));
        assert_eq!(verify(body, &good, at(-301)), Err(WebhookError::Expired));
        for bad in [
            Signature { id: "msg_other", ..good },
            Signature { timestamp: "1649367554", ..good },
            Signature { signatures: "v1a,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=", ..good },
            Signature { signatures: "v1,AAAA", ..good },
            Signature { signatures: "", ..good },
        ] {
            assert_eq!(verify(body, &bad, at(0)), Err(WebhookError::Signature), "{bad:?}");
        }
        assert_eq!(verify(b"{}", &good, at(0)), Err(WebhookError::Signature));
        let rotated = format!("v1,AAAA {}", good.signatures);
        assert_eq!(
            verify(body, &Signature { signatures: &rotated, ..good }, at(0)),
            Err(WebhookError::Malformed)
        );
    }

    #[test]
    fn every_event_is_about_whom_the_reference_says() {
        let json = |kind: &str, action: &str, more: &str| {
            format!(
                r#"{{"project_id":"project-test-1","object_type":"{kind}","action":"{action}","id":"x-1"{more}}}"#
            )
        };
        let member = || WebhookEvent::Changed(RevocationTarget::Member(MemberId::parse("x-1").unwrap()));
        let organization =
            |id| WebhookEvent::Changed(RevocationTarget::Organization(OrganizationId::parse(id).unwrap()));
        for action in ["CREATE", "UPDATE", "DELETE", "update"] {
            assert_eq!(event(&json("member", action, "")), Ok(member()));
            assert_eq!(event(&json("organization", action, "")), Ok(organization("x-1")));
        }
        for kind in ["saml_connection", "oidc_connection", "scim_connection"] {
            let entity = format!(r#","{kind}":{{"organization_id":"o-1"}}"#);
            assert_eq!(event(&json(kind, "UPDATE", &entity)), Ok(organization("o-1")));
            assert_eq!(event(&json(kind, "DELETE", "")), Ok(WebhookEvent::ChangedSomewhere));
            assert_eq!(event(&json(kind, "CREATE", &entity)), Ok(WebhookEvent::Irrelevant));
        }
        assert_eq!(event(&json("rbac_policy", "UPDATE", "")), Ok(WebhookEvent::Irrelevant));
        assert_eq!(event(&json("member", "ARCHIVE", "")), Ok(WebhookEvent::Irrelevant));
        assert_eq!(
            event(&json("member", "UPDATE", "").replace("test-1", "test-2")),
            Err(WebhookError::OtherProject)
        );
        assert_eq!(event("[]"), Err(WebhookError::Malformed));
    }
}
