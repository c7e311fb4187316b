//! Who is calling: identifiers, secrets, finding a credential in a request and verifying a session JWT.
//!
//! Pure. It takes bytes, keys and `now`, and returns values. It must not read a clock, log, or do IO.

mod credential;
mod digest;
mod ids;
mod jwt;
mod keys;
mod now;
mod peer;
mod principal;
mod secret;

pub use credential::{
    Credential, CredentialSource, FoundCredentials, MAX_CREDENTIAL_BYTES, MAX_VALUES_PER_NAME,
    find_credentials, remove_credential_cookies,
};
pub use digest::CredentialDigest;
pub use ids::{InvalidIdentifier, MemberId, MemberRef, OrganizationId, ProjectId, SessionId};
pub use jwt::{
    JwtError, JwtRules, SessionJwt, carries_session_jwt, payload_of, verify_ended_or_not, verify_session_jwt,
};
pub use keys::{InvalidKey, KeySet, VerificationKey};
pub use now::{Monotonic, Now};
pub use peer::network_of;
pub use principal::{Bound, Principal};
pub use secret::Secret;
