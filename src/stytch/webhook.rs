//! Stytch's webhooks: whether a delivery is genuine (Svix signatures), and what it says.
//!
//! Must not act on an event, nor look into a body before its signature was verified.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
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
}

/// What follows from a genuine event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookEvent {
    /// What is known about the target does not hold any more.
    Ended(RevocationTarget),
    /// Something about an organization is different, and nobody's session ended by it.
    Changed(OrganizationId),
    /// Something changed in an organization the event does not name, or in a way that cannot be read.
    ChangedSomewhere,
    /// Nothing that is cached here depends on it.
    Irrelevant,
    /// It is about another project: a webhook that leads to the wrong place.
    OtherProject,
}

impl Signature<'_> {
    /// Whether the delivery is dated within five minutes of `now`: looked at before anything is read or computed.
    pub fn is_timely(&self, now: Timestamp) -> bool {
        let sent = self.timestamp.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        sent.is_some_and(|sent| now.duration_since(sent).unsigned_abs() <= TOLERANCE)
    }
}

/// Verifies one delivery against any of the secrets, and reads it.
pub fn verify_webhook(
    body: &[u8],
    signature: &Signature<'_>,
    secrets: &[WebhookSecret],
    project_id: &ProjectId,
    now: Timestamp,
) -> Result<WebhookEvent, WebhookError> {
    let given =
        signature.signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
    let given: Vec<Vec<u8>> = given.filter(|tag| tag.len() == 32).take(8).collect();
    let genuine = secrets.iter().any(|secret| {
        let mut context = hmac::Context::with_key(&secret.0);
        for part in [signature.id.as_bytes(), b".", signature.timestamp.as_bytes(), b".", body] {
            context.update(part);
        }
        let made = context.sign();
        // Constant time in the tag; which of our secrets it was is no secret.
        given.iter().any(|tag| verify_slices_are_equal(made.as_ref(), tag).is_ok())
    });
    if !genuine {
        return Err(WebhookError::Signature);
    }
    if !signature.is_timely(now) {
        return Err(WebhookError::Expired);
    }
    Ok(read_webhook_event(body, project_id))
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

/// Reads a genuine delivery, from the body alone: the event's type is not in it, and is written in more than one way
/// elsewhere.
pub fn read_webhook_event(body: &[u8], project_id: &ProjectId) -> WebhookEvent {
    let Ok(event) = serde_json::from_slice::<WireEvent>(body) else {
        return WebhookEvent::ChangedSomewhere;
    };
    if event.project_id != project_id.as_str() {
        return WebhookEvent::OtherProject;
    }
    let kind = event.object_type.to_ascii_lowercase();
    let action = event.action.to_ascii_uppercase();
    if !matches!(action.as_str(), "CREATE" | "UPDATE" | "DELETE") {
        return WebhookEvent::Irrelevant;
    }
    // The entity under the key named by its type; absent where it was deleted.
    let entity = event.rest.get(&event.object_type).or_else(|| event.rest.get(&kind));
    let organization = || {
        let id = entity?.get("organization_id")?.as_str()?;
        OrganizationId::parse(id).ok()
    };
    match kind.as_str() {
        // A new one ends nothing, but "no such member" may be believed of it.
        "member" => MemberId::parse(&event.id)
            .map_or(WebhookEvent::ChangedSomewhere, |id| WebhookEvent::Ended(RevocationTarget::Member(id))),
        "organization" => OrganizationId::parse(&event.id).map_or(WebhookEvent::ChangedSomewhere, |id| {
            if action == "UPDATE" {
                WebhookEvent::Changed(id)
            } else {
                WebhookEvent::Ended(RevocationTarget::Organization(id))
            }
        }),
        // Roles that come with a connection end with it; a new one has given none yet.
        // How these are written is not certain, only what they end in.
        connection if connection.ends_with("connection") && action != "CREATE" => {
            organization().map_or(WebhookEvent::ChangedSomewhere, WebhookEvent::Changed)
        }
        _ => WebhookEvent::Irrelevant,
    }
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

    fn event(json: &str) -> WebhookEvent {
        read_webhook_event(json.as_bytes(), &project())
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
        // Genuine, though no event that can be read.
        assert_eq!(verify(body, &good, at(0)), Ok(WebhookEvent::ChangedSomewhere));
        assert_eq!(verify(body, &good, at(300)), Ok(WebhookEvent::ChangedSomewhere));
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
            Ok(WebhookEvent::ChangedSomewhere)
        );
    }

    #[test]
    fn every_event_is_about_whom_the_reference_says() {
        let json = |kind: &str, action: &str, more: &str| {
            format!(
                r#"{{"project_id":"project-test-1","object_type":"{kind}","action":"{action}","id":"x-1"{more}}}"#
            )
        };
        let member = || WebhookEvent::Ended(RevocationTarget::Member(MemberId::parse("x-1").unwrap()));
        let id = |id| OrganizationId::parse(id).unwrap();
        for action in ["CREATE", "UPDATE", "DELETE", "update"] {
            assert_eq!(event(&json("member", action, "")), member());
        }
        for action in ["CREATE", "DELETE"] {
            let ended = WebhookEvent::Ended(RevocationTarget::Organization(id("x-1")));
            assert_eq!(event(&json("organization", action, "")), ended);
        }
        // A new name or slug ends nobody's session.
        assert_eq!(event(&json("organization", "UPDATE", "")), WebhookEvent::Changed(id("x-1")));
        for kind in ["saml_connection", "oidc_connection", "scim_connection", "SAMLConnection"] {
            let entity = format!(r#","{kind}":{{"organization_id":"o-1"}}"#);
            assert_eq!(event(&json(kind, "UPDATE", &entity)), WebhookEvent::Changed(id("o-1")));
            assert_eq!(event(&json(kind, "DELETE", "")), WebhookEvent::ChangedSomewhere);
            assert_eq!(event(&json(kind, "CREATE", &entity)), WebhookEvent::Irrelevant);
        }
        assert_eq!(event(&json("rbac_policy", "UPDATE", "")), WebhookEvent::Irrelevant);
        assert_eq!(event(&json("member", "ARCHIVE", "")), WebhookEvent::Irrelevant);
        let elsewhere = json("member", "UPDATE", "").replace("test-1", "test-2");
        assert_eq!(event(&elsewhere), WebhookEvent::OtherProject);
        assert_eq!(event("[]"), WebhookEvent::ChangedSomewhere);
    }
}
