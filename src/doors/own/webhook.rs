//! `POST /.portcullis/webhooks/stytch`: deliveries of Stytch's webhooks.
//!
//! Must not say more to a stranger than that no signature verified, nor read what no signature could be for.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::{OwnPages, OwnRequest, Refused, answer, read_body};
use crate::policy::Reason;
use crate::revocation::{Signature, WebhookError};

/// The largest delivery read, in bytes: one entity and what is around it.
const MAX_DELIVERY_BYTES: usize = 256 * 1024;

impl OwnPages {
    pub(super) async fn webhook(&self, own: OwnRequest<'_>) -> Result<Response<Bytes>, Refused> {
        let headers = own.request.headers().clone();
        let signature = signature(&headers).ok_or(Reason::WebhookInvalid)?;
        if !self.revocations.is_timely(&signature) {
            return Err(Reason::WebhookInvalid.into());
        }
        let _place = self.deliveries.acquire().await;
        let body = read_body(own.request, MAX_DELIVERY_BYTES).await.map_err(Refused::from)?;
        self.revocations.deliver(&body, &signature).map_err(|error| {
            if error != WebhookError::Signature {
                tracing::warn!(%error, "a genuine webhook delivery was not taken");
            }
            Refused::from(Reason::WebhookInvalid)
        })?;
        Ok(answer(StatusCode::OK, "application/json", "{}"))
    }
}

/// The three headers, under either of their names.
fn signature(headers: &HeaderMap) -> Option<Signature<'_>> {
    let field = |name: &str| {
        let either = [format!("svix-{name}"), format!("webhook-{name}")];
        either.iter().find_map(|name| headers.get(name))?.to_str().ok()
    };
    Some(Signature { id: field("id")?, timestamp: field("timestamp")?, signatures: field("signature")? })
}
