//! The closed list of reasons a request is refused for.
//!
//! Must not hold anything of the request: a reason's words are fixed, so nothing a caller sent can appear in them.

use http::StatusCode;

/// What a refused caller, or whoever looks after the gateway, can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Send a different request.
    ChangeRequest,
    /// Sign in, and come back with a session.
    SignIn,
    /// Come with a credential of another kind; signing in makes none.
    OtherCredential,
    /// Prove a stronger or fresher factor (RFC 9470).
    StepUp,
    /// Ask somebody who grants access.
    AskForAccess,
    /// The fault is not the caller's; try again later.
    Retry,
    /// Too much came from the caller's side; wait and try again.
    SlowDown,
}

impl Remedy {
    /// What to do, for people.
    pub fn advice(self) -> &'static str {
        match self {
            Self::ChangeRequest => "send a different request",
            Self::SignIn => "sign in",
            Self::OtherCredential => "send a credential of a kind the route takes",
            Self::StepUp => "prove the factor named in the challenge, then repeat the request",
            Self::AskForAccess => "ask whoever grants access",
            Self::Retry => "try again later; this is not the caller's fault",
            Self::SlowDown => "wait, then try again",
        }
    }
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $variant:ident $code:literal $status:ident $remedy:ident $title:literal;)*) => {
        /// Why a request was refused. Each has a code, a status, a remedy, a metric label and a row in `docs/reasons.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$meta])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name: in problem documents, metrics, records.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            pub fn remedy(self) -> Remedy {
                match self { $(Self::$variant => Remedy::$remedy,)* }
            }

            /// One sentence for people, safe to show anybody.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    MalformedRequest "malformed_request" BAD_REQUEST ChangeRequest "the request is malformed";
    PathAmbiguous "path_ambiguous" BAD_REQUEST ChangeRequest "the path could be understood in more than one way";
    PathTooLong "path_too_long" URI_TOO_LONG ChangeRequest "the path is longer than the gateway takes";
    HeadersTooMany "headers_too_many" REQUEST_HEADER_FIELDS_TOO_LARGE ChangeRequest "the request has more header fields than the gateway takes";
    HostInvalid "host_invalid" BAD_REQUEST ChangeRequest "the request names no host, more than one, or a malformed one";
    ConnectRefused "connect_refused" METHOD_NOT_ALLOWED ChangeRequest "CONNECT is not offered here";
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE ChangeRequest "the body is larger than this route takes";
    RequestTimeout "request_timeout" REQUEST_TIMEOUT ChangeRequest "the request's body did not arrive in time";
    RequestIncomplete "request_incomplete" BAD_REQUEST ChangeRequest "the request's body ended early or was malformed";
    Overloaded "overloaded" SERVICE_UNAVAILABLE Retry "more requests are under way than the gateway takes";
    CallerShare "caller_share" TOO_MANY_REQUESTS SlowDown "too many of the caller's requests are under way at once";
    AuditUnavailable "audit_unavailable" SERVICE_UNAVAILABLE Retry "the decision could not be recorded";
    ServerNameMismatch "server_name_mismatch" MISDIRECTED_REQUEST ChangeRequest "the connection was made for another host";
    Misdirected "misdirected" MISDIRECTED_REQUEST ChangeRequest "no route answers for this host";
    RouteNotFound "route_not_found" NOT_FOUND ChangeRequest "no route answers for this path";
    ReservedPath "reserved_path" NOT_FOUND ChangeRequest "the path belongs to the gateway and nothing is there";
    ForeignOrigin "foreign_origin" FORBIDDEN ChangeRequest "the request was not made by a page of this application";
    WebhookInvalid "webhook_invalid" BAD_REQUEST ChangeRequest "the webhook delivery is not genuine, too old, or no event";
    WebhookBusy "webhook_busy" SERVICE_UNAVAILABLE Retry "too many webhook deliveries are arriving at once";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED ChangeRequest "the route does not take this method";
    CredentialMissing "credential_missing" UNAUTHORIZED SignIn "a session is required";
    CredentialInvalid "credential_invalid" UNAUTHORIZED SignIn "the session credential is not valid";
    CredentialExpired "credential_expired" UNAUTHORIZED SignIn "the session credential expired";
    CredentialKind "credential_kind" UNAUTHORIZED OtherCredential "the token is of a kind this route does not take";
    CredentialAttempts "credential_attempts" TOO_MANY_REQUESTS SlowDown "too many unknown session tokens came from here";
    CredentialsDisagree "credentials_disagree" UNAUTHORIZED SignIn "the request carries credentials of different sessions";
    MemberNotFound "member_not_found" UNAUTHORIZED SignIn "the member no longer exists";
    SessionNotFound "session_not_found" UNAUTHORIZED SignIn "the session was ended";
    SessionExpired "session_expired" UNAUTHORIZED SignIn "the session expired";
    TokenInactive "token_inactive" UNAUTHORIZED SignIn "the app's token was revoked";
    FactorMissing "factor_missing" UNAUTHORIZED StepUp "a further authentication factor is required";
    FactorStale "factor_stale" UNAUTHORIZED StepUp "an authentication factor must be proven again";
    MfaMissing "mfa_missing" UNAUTHORIZED StepUp "multi-factor authentication is required";
    MfaStale "mfa_stale" UNAUTHORIZED StepUp "the second authentication factor must be proven again";
    SessionTooOld "session_too_old" UNAUTHORIZED StepUp "a more recent sign-in is required";
    RequirementNotMet "requirement_not_met" FORBIDDEN AskForAccess "the session does not meet what the route requires";
    RoleMissing "role_missing" FORBIDDEN AskForAccess "a role is missing";
    PermissionMissing "permission_missing" FORBIDDEN AskForAccess "a permission is missing";
    ScopeMissing "scope_missing" FORBIDDEN AskForAccess "the token lacks a scope";
    ClientIpForbidden "client_ip_forbidden" FORBIDDEN ChangeRequest "the route is not open to this network address";
    ClientCertificateMissing "client_certificate_missing" FORBIDDEN ChangeRequest "the route asks for a client certificate that was not shown";
    OrganizationMismatch "organization_mismatch" FORBIDDEN AskForAccess "the route belongs to another organization";
    ImpersonationMismatch "impersonation_mismatch" FORBIDDEN AskForAccess "impersonated sessions are treated differently here";
    ClaimMismatch "claim_mismatch" FORBIDDEN AskForAccess "a custom claim of the session is not what the route requires";
    EvidenceUnknown "evidence_unknown" FORBIDDEN AskForAccess "the session does not show what the route requires";
    PolicyUnavailable "policy_unavailable" SERVICE_UNAVAILABLE Retry "the policy to judge permissions by is not loaded";
    OrganizationUnavailable "organization_unavailable" SERVICE_UNAVAILABLE Retry "the organization's names cannot be looked up";
    KeysUnavailable "keys_unavailable" SERVICE_UNAVAILABLE Retry "the keys to verify sessions are not loaded";
    DirectoryUnreachable "directory_unreachable" SERVICE_UNAVAILABLE Retry "the session directory cannot be reached";
    DirectoryTimeout "directory_timeout" SERVICE_UNAVAILABLE Retry "the session directory did not answer in time";
    DirectoryFailed "directory_failed" SERVICE_UNAVAILABLE Retry "the session directory failed";
    DirectoryRateLimited "directory_rate_limited" SERVICE_UNAVAILABLE Retry "the session directory is limiting requests";
    DirectoryCredentialsRejected "directory_credentials_rejected" SERVICE_UNAVAILABLE Retry "the session directory rejects the gateway";
    DirectoryRefused "directory_refused" SERVICE_UNAVAILABLE Retry "the session directory refused the lookup";
    DirectoryMalformed "directory_malformed" SERVICE_UNAVAILABLE Retry "the session directory's answer cannot be read";
    DirectoryOversized "directory_oversized" SERVICE_UNAVAILABLE Retry "the session directory's answer is too large";
    DirectoryMismatched "directory_mismatched" SERVICE_UNAVAILABLE Retry "the session directory answered about somebody else";
    DirectoryCircuitOpen "directory_circuit_open" SERVICE_UNAVAILABLE Retry "the session directory failed and is left alone for a moment";
    DirectoryBusy "directory_busy" SERVICE_UNAVAILABLE Retry "too many lookups are under way";
    IdentityOversized "identity_oversized" INTERNAL_SERVER_ERROR Retry "what the application would be told about the caller is too long";
    AssertionFailed "assertion_failed" INTERNAL_SERVER_ERROR Retry "the assertion about the caller cannot be signed";
    OriginUnreachable "origin_unreachable" BAD_GATEWAY Retry "the application cannot be reached";
    OriginUntrusted "origin_untrusted" BAD_GATEWAY Retry "no secure connection to the application can be made";
    OriginClosed "origin_closed" BAD_GATEWAY Retry "the application ended the connection before it answered";
    OriginTimeout "origin_timeout" GATEWAY_TIMEOUT Retry "the application did not answer in time";
    OriginMalformed "origin_malformed" BAD_GATEWAY Retry "the application's answer cannot be read";
    OriginBusy "origin_busy" SERVICE_UNAVAILABLE Retry "too many requests are waiting for the application";
}

impl Reason {
    /// Which of several reasons is told: what forbids outranks what a step could mend, later in the list outranks earlier.
    pub fn rank(self) -> u8 {
        let place = Self::ALL.iter().position(|reason| *reason == self).unwrap_or_default();
        u8::try_from(place).unwrap_or(u8::MAX)
    }

    /// Whether it rests on what the directory said, so that fresher evidence could change it.
    pub fn rests_on_evidence(self) -> bool {
        matches!(
            self,
            Self::MemberNotFound
                | Self::SessionNotFound
                | Self::SessionExpired
                | Self::FactorMissing
                | Self::FactorStale
                | Self::MfaMissing
                | Self::MfaStale
                | Self::SessionTooOld
                | Self::RequirementNotMet
                | Self::RoleMissing
                | Self::PermissionMissing
                | Self::OrganizationMismatch
                | Self::ImpersonationMismatch
                | Self::ClaimMismatch
                | Self::EvidenceUnknown
        )
    }

    /// The `error` of a `WWW-Authenticate` challenge (RFC 6750 section 3.1, RFC 9470 section 3), if it has one.
    pub fn bearer_error(self) -> Option<&'static str> {
        if self == Self::CredentialMissing {
            return None;
        }
        match self.remedy() {
            Remedy::StepUp => Some("insufficient_user_authentication"),
            _ if self.status() == StatusCode::UNAUTHORIZED => Some("invalid_token"),
            Remedy::AskForAccess => Some("insufficient_scope"),
            Remedy::ChangeRequest
            | Remedy::SignIn
            | Remedy::OtherCredential
            | Remedy::Retry
            | Remedy::SlowDown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_the_directory_is_never_the_callers_fault() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL.iter().filter(|reason| reason.code().starts_with("directory_")) {
            assert_eq!(reason.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(reason.remedy(), Remedy::Retry);
        }
    }

    #[test]
    fn what_forbids_outranks_what_a_step_could_mend() {
        let weakest =
            Reason::ALL.iter().filter(|reason| reason.remedy() == Remedy::AskForAccess).map(|r| r.rank());
        let strongest =
            Reason::ALL.iter().filter(|reason| reason.remedy() == Remedy::StepUp).map(|r| r.rank());
        assert!(weakest.min() > strongest.max());
    }
}
