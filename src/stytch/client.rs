//! The calls the directory is made of: list a member's sessions, find whose session a token is.
//!
//! Must not extend, refresh or otherwise change a session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;

use super::credentials::OwnCredentials;
use super::exchange::{ApiAnswer, Exchange, Operation};
use super::settings::StytchSettings;
use super::wire::{ApiError, read_session_list, read_token_owner};
use crate::directory::{
    Answer, Clock, DirectoryError, SessionDirectory, SessionQuery, TokenOwner, TokenQuery,
};
use crate::identity::{MemberId, Now, SessionId};
use crate::session::{Evidence, Revocation};
use crate::telemetry::Metrics;

/// What is revoked at the API.
#[derive(Debug, Clone, Copy)]
pub enum Revoked<'a> {
    Session(&'a SessionId),
    /// All sessions of the member.
    Member(&'a MemberId),
}

/// The Stytch B2B API as the last tier of the directory. Cheap to clone.
#[derive(Clone)]
pub struct StytchClient {
    exchange: Exchange,
    credentials: OwnCredentials,
    clock: Arc<dyn Clock>,
    pointers: Arc<[Arc<str>]>,
    deadline: Duration,
}

impl StytchClient {
    pub fn new(
        settings: &StytchSettings,
        tls: &Arc<rustls::ClientConfig>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let exchange = Exchange::new(settings, tls, metrics.clone());
        let credentials = OwnCredentials::new(exchange.clone(), settings.deadline, metrics);
        let (pointers, deadline) = (Arc::clone(&settings.claim_pointers), settings.deadline);
        Self { exchange, credentials, clock, pointers, deadline }
    }

    /// Ends one session, or all of a member's, at the API. Revoking what is revoked already is no error.
    ///
    /// Source: `POST /v1/b2b/sessions/revoke`.
    pub async fn revoke(&self, target: Revoked<'_>) -> Result<(), DirectoryError> {
        let body = match target {
            Revoked::Session(id) => serde_json::json!({ "member_session_id": id.as_str() }),
            Revoked::Member(id) => serde_json::json!({ "member_id": id.as_str() }),
        };
        let (sent, path) = (self.clock.now(), "/v1/b2b/sessions/revoke");
        let body = Bytes::from(body.to_string());
        let call = self.call(Operation::Revoke, Method::POST, path, Some(body));
        let answer =
            tokio::time::timeout(self.deadline, call).await.map_err(|_| DirectoryError::Timeout)??;
        if answer.status.is_success() {
            return Ok(());
        }
        let error = ApiError::read(&answer.body);
        if answer.status == StatusCode::NOT_FOUND && error.is_any(&["session_not_found", "member_not_found"])
        {
            return Ok(());
        }
        Err(self.fault(Operation::Revoke, &answer, &error, sent).await)
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    async fn list(self, query: SessionQuery) -> Result<Evidence, DirectoryError> {
        // Identifiers are made of characters that stand for themselves in a query, save `|` and `:`.
        let encode = |id: &str| id.replace('|', "%7C").replace(':', "%3A");
        let path = format!(
            "/v1/b2b/sessions?organization_id={}&member_id={}",
            encode(query.member.organization_id.as_str()),
            encode(query.member.member_id.as_str())
        );
        let sent = self.clock.now();
        let answer = self.call(Operation::List, Method::GET, &path, None).await?;
        if answer.status.is_success() {
            return read_session_list(&answer.body, &query.member, query.spelling, sent, &self.pointers)
                .map(Evidence::Sessions);
        }
        let error = ApiError::read(&answer.body);
        if error.is_any(&["member_not_found", "organization_not_found", "session_not_found"])
            && answer.status == StatusCode::NOT_FOUND
        {
            return Ok(Evidence::NoSuchMember(sent));
        }
        Err(self.fault(Operation::List, &answer, &error, sent).await)
    }

    async fn authenticate(self, query: TokenQuery) -> Result<TokenOwner, DirectoryError> {
        let body = serde_json::json!({ "session_token": query.token.expose() }).to_string();
        let sent = self.clock.now();
        let path = "/v1/b2b/sessions/authenticate";
        let answer = self.call(Operation::Authenticate, Method::POST, path, Some(Bytes::from(body))).await?;
        if answer.status.is_success() {
            return read_token_owner(&answer.body, sent)
                .map(|binding| TokenOwner::Session(Arc::new(binding)));
        }
        let error = ApiError::read(&answer.body);
        let unknown = match answer.status {
            StatusCode::NOT_FOUND => {
                error.is_any(&["session_not_found", "member_not_found", "organization_not_found"])
            }
            StatusCode::BAD_REQUEST => {
                error.is_any(&["invalid_session_token", "unable_to_parse_session_jwt"])
            }
            _ => false,
        };
        if unknown {
            return Ok(TokenOwner::Nobody { asked_at: sent });
        }
        Err(self.fault(Operation::Authenticate, &answer, &error, sent).await)
    }

    async fn call(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<ApiAnswer, DirectoryError> {
        if self.credentials.are_rejected() {
            return Err(DirectoryError::CredentialsRejected);
        }
        self.exchange.call(operation, method, path, body).await
    }

    /// What an answer other than a good one or a clear "no such" means.
    async fn fault(
        &self,
        operation: Operation,
        answer: &ApiAnswer,
        error: &ApiError,
        now: Now,
    ) -> DirectoryError {
        let status = answer.status.as_u16();
        tracing::warn!(
            operation = operation.label(),
            status,
            error_type = %error.kind(),
            request_id = %error.request_id(),
            "the session directory answered with an error"
        );
        match answer.status {
            StatusCode::UNAUTHORIZED if self.credentials.doubt().await => DirectoryError::CredentialsRejected,
            StatusCode::TOO_MANY_REQUESTS => {
                DirectoryError::RateLimited { retry_after: retry_after(&answer.headers, now.wall) }
            }
            status if status.is_server_error() => DirectoryError::Failed { status: status.as_u16() },
            _ => DirectoryError::Refused { status },
        }
    }
}

impl SessionDirectory for StytchClient {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        Answer::pending(self.clone().list(query.clone()))
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        Answer::pending(self.clone().authenticate(query.clone()))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

/// Seconds or a date (RFC 9110 section 10.2.3), at most a minute.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()?;
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(Duration::from_secs(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        let now = Timestamp::from_second(784_111_777).unwrap();
        let wait = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, http::HeaderValue::from_static(text))]);
            retry_after(&headers, now)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:27 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
