//! The calls the directory is made of: list a member's sessions, find whose session a token is.
//!
//! Must not extend, refresh or otherwise change a session.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, StatusCode};

use super::credentials::OwnCredentials;
use super::exchange::{ApiAnswer, Exchange, Operation};
use super::settings::StytchSettings;
use super::wire::{ApiError, read_session_list, read_token_owner};
use crate::directory::{
    Answer, Breaker, CallOutcome, Clock, DirectoryError, SessionDirectory, SessionQuery, TokenOwner,
    TokenQuery,
};
use crate::identity::{MemberId, Now, ProjectId, Secret, SessionId};
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
    /// The custom claims that are kept of an answer. They change with the rules.
    pointers: Arc<ArcSwap<Vec<Arc<str>>>>,
    deadline: Duration,
    revoking: Breaker,
    project_id: ProjectId,
    metrics: Metrics,
}

impl StytchClient {
    pub fn new(
        settings: &StytchSettings,
        tls: &Arc<rustls::ClientConfig>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let exchange = Exchange::new(settings, tls, metrics.clone());
        let state = metrics.directory_breaker_state.with_label_values(&["revoke"]);
        let revoking = Breaker::new("revoke", state);
        let credentials = OwnCredentials::new(exchange.clone(), settings.deadline, metrics.clone());
        let pointers = Arc::new(ArcSwap::from_pointee(settings.claim_pointers.to_vec()));
        let project_id = settings.project_id.clone();
        let deadline = settings.deadline;
        Self { exchange, credentials, clock, pointers, deadline, revoking, project_id, metrics }
    }

    /// Keeps other custom claims from now on. True if they are others.
    pub fn keep_claims(&self, pointers: &[Arc<str>]) -> bool {
        let before = self.pointers.swap(Arc::new(pointers.to_vec()));
        before.as_slice() != pointers
    }

    /// Ends one session, or all of a member's, at the API. Revoking what is revoked already is no error.
    ///
    /// Source: `POST /v1/b2b/sessions/revoke`.
    pub async fn revoke(&self, target: Revoked<'_>) -> Result<(), DirectoryError> {
        let admission = self
            .revoking
            .admit(self.clock.now().monotonic)
            .map_err(|retry_after| DirectoryError::CircuitOpen { retry_after })?;
        let ended = self.try_revoke(target).await;
        if let Some(outcome) = CallOutcome::of(&ended) {
            admission.settle(outcome, self.clock.now().monotonic);
        }
        ended
    }

    async fn try_revoke(&self, target: Revoked<'_>) -> Result<(), DirectoryError> {
        let body = match target {
            Revoked::Session(id) => serde_json::json!({ "member_session_id": id.as_str() }),
            Revoked::Member(id) => serde_json::json!({ "member_id": id.as_str() }),
        };
        let sent = self.clock.now();
        let path = "/v1/b2b/sessions/revoke";
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

    /// Shows `secret` of the project from now on; if the one before was refused, this one is tried at once.
    pub fn use_secret(&self, secret: &Secret) {
        if self.exchange.use_secret(&self.project_id, secret) {
            self.credentials.changed();
        }
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(super) fn project_id(&self) -> &ProjectId {
        &self.project_id
    }

    /// A good answer's body; nothing where the API says there is no such organization. Every other 404 is a fault (section
    /// 4.4).
    pub(super) async fn get_or_missing(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Option<Bytes>, DirectoryError> {
        let sent = self.clock.now();
        let answer = self.call(operation, method, path, body).await?;
        if answer.status.is_success() {
            return Ok(Some(answer.body));
        }
        let error = ApiError::read(&answer.body);
        if answer.status == StatusCode::NOT_FOUND && error.is_any(&["organization_not_found"]) {
            return Ok(None);
        }
        Err(self.fault(operation, &answer, &error, sent).await)
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
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
            let pointers = self.pointers.load();
            return read_session_list(&answer.body, &query.member, query.spelling, sent, &pointers)
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
        let answer = self.exchange.call(operation, method, path, body).await?;
        if answer.status.is_success() {
            self.metrics.conditions.clear(operation.label());
        }
        Ok(answer)
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
        let kind = error.kind();
        let request_id = error.request_id();
        tracing::debug!(
            operation = operation.label(),
            status,
            kind,
            request_id,
            "the session API refused a call"
        );
        let fault = match answer.status {
            StatusCode::UNAUTHORIZED if self.credentials.doubt().await => DirectoryError::CredentialsRejected,
            _ => answer.fault(error.is_the_apis(), now.wall),
        };
        let what = format!(
            "the session API at `{}` answers `{}` with errors",
            self.exchange.address(),
            operation.label()
        );
        self.metrics.conditions.raise(operation.label(), &what, &format!("status {status} `{kind}`"));
        fault
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
