//! `/.portcullis/sign-out`: ends every session the caller holds a credential of, at the API and everywhere here, and
//! clears the cookies.
//!
//! Must not act on a request that a page of somebody else made, nor send anybody where the configuration does not.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::{Refused, ReservedPages, ReservedRequest, answer};
use crate::doors::same_origin::is_same_origin;
use crate::identity::CredentialSource;
use crate::policy::Reason;
use crate::revocation::Source;
use crate::session::RevocationTarget;
use crate::telemetry::DecisionRecord;

const HTML: &str = "text/html; charset=utf-8";
const CONFIRMATION: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Sign out</title><body><main><h1>Sign out?</h1><form method="post"><button autofocus>Sign out</button></form></main></body></html>
"#;
const GOODBYE: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Signed out</title><body><main><h1>You are signed out</h1></main></body></html>
"#;

impl ReservedPages {
    pub(super) async fn sign_out(&self, asked: &ReservedRequest<'_>) -> Result<Response<Bytes>, Refused> {
        if asked.head.method != Method::POST {
            let body = if asked.head.method == Method::HEAD { "" } else { CONFIRMATION };
            return Ok(with_policy(answer(StatusCode::OK, HTML, body), &self.sign_out.form_policy));
        }
        if !self.is_own_doing(asked) {
            return Err(Reason::ForeignOrigin.into());
        }
        let (sessions, unknown) = self.engine.sessions_of(&asked.access(), &asked.rules.snapshot).await;
        // To say "signed out" would not be true if one could not be found out about, or ended. The others end all the same.
        let mut failed = unknown;
        for session_id in sessions {
            let tail = DecisionRecord::session_tail(session_id.as_str()).to_owned();
            match self.revocations.end(RevocationTarget::Session(session_id), Source::SignOut).await {
                Ok(()) => {
                    tracing::info!(request_id = asked.request_id.as_str(), session = tail, "signed out");
                }
                Err(error) => failed = Some(error.refusal()),
            }
        }
        if let Some(refusal) = failed {
            return Err(Refused { refusal, recorded: false });
        }
        let mut response = match &self.sign_out.redirect_to {
            Some(place) => {
                let mut response = answer(StatusCode::SEE_OTHER, HTML, "");
                response.headers_mut().insert(header::LOCATION, place.clone());
                response
            }
            None => with_policy(answer(StatusCode::OK, HTML, GOODBYE), &self.sign_out.form_policy),
        };
        self.clear_cookies(response.headers_mut(), &asked.rules.snapshot.credentials, asked.peer.secure);
        Ok(response)
    }

    /// Whether a page of ours, or one that is listed, made the request; or no page at all, and no cookie speaks for it.
    fn is_own_doing(&self, asked: &ReservedRequest<'_>) -> bool {
        let headers = &asked.head.headers;
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next().map(HeaderValue::to_str), origins.next()) {
            (Some(Ok(origin)), None) => {
                self.sign_out.origins.iter().any(|listed| listed == origin)
                    || is_same_origin(origin, asked.authority, asked.peer)
            }
            // Browsers name the origin of every POST. Whoever sends a token by hand is nobody's victim.
            (None, _) => headers.contains_key(header::AUTHORIZATION) && !headers.contains_key(header::COOKIE),
            _ => false,
        }
    }

    fn clear_cookies(&self, headers: &mut HeaderMap, credentials: &[CredentialSource], secure: bool) {
        let domain = self.sign_out.cookie_domain.as_deref();
        for source in credentials {
            let CredentialSource::Cookie(name) = source else { continue };
            let secure = if secure || name.starts_with("__") { "; Secure" } else { "" };
            let cleared = format!("{name}=; Path=/; Max-Age=0; SameSite=Lax{secure}");
            let of_domain = domain.map(|domain| format!("{cleared}; Domain={domain}"));
            // Both kinds can be there at once, and a browser clears only the one that is named.
            for cookie in std::iter::once(cleared).chain(of_domain) {
                if let Ok(cookie) = HeaderValue::try_from(cookie) {
                    headers.append(header::SET_COOKIE, cookie);
                }
            }
        }
    }
}

fn with_policy(mut response: Response<Bytes>, policy: &HeaderValue) -> Response<Bytes> {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    response
}
