//! `POST /.portcullis/webhooks/stytch`: deliveries of Stytch's webhooks.
//!
//! Must not say more to a stranger than that no signature verified.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::{OwnPages, OwnRequest, Refused, answer, read_body};
use crate::policy::Reason;
use crate::revocation::{Delivery, Signature, WebhookError};

impl OwnPages {
    pub(super) async fn webhook(&self, own: OwnRequest<'_>) -> Result<Response<Bytes>, Refused> {
        let headers = own.request.headers().clone();
        let body = read_body(own.request).await.map_err(Refused::from)?;
        let signature = signature(&headers).ok_or(Reason::WebhookInvalid)?;
        match self.revocations.deliver(&body, &signature) {
            // What was delivered before is acknowledged, or it would be delivered for ever.
            Ok(Delivery::Acted | Delivery::Duplicate | Delivery::Irrelevant) => {
                Ok(answer(StatusCode::OK, "application/json", "{}"))
            }
            Err(error) => {
                if !matches!(error, WebhookError::Signature) {
                    tracing::warn!(%error, "a genuine webhook delivery was not taken");
                }
                Err(Reason::WebhookInvalid.into())
            }
        }
    }
}

/// The three headers, under either of their names.
fn signature(headers: &HeaderMap) -> Option<Signature<'_>> {
    let field = |name: &str| {
        let mut values = headers.get_all(format!("svix-{name}")).iter();
        let mut others = headers.get_all(format!("webhook-{name}")).iter();
        let value = values.next().or_else(|| others.next())?;
        value.to_str().ok()
    };
    Some(Signature { id: field("id")?, timestamp: field("timestamp")?, signatures: field("signature")? })
}
