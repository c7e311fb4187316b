//! Who is calling: identifiers, secrets, finding a credential in a request, verifying a JWT, trusting an identity.
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
mod scopes;
mod secret;
mod trusted;

pub use credential::{
    Candidate, Credential, CredentialSource, FoundCredentials, MAX_CREDENTIAL_BYTES, MAX_VALUES_PER_NAME,
    OWN_COOKIE, SocketPeer, basic_password, find_candidates, find_credentials, other_cookies,
};
pub use digest::CredentialDigest;
pub use ids::{ClientId, InvalidIdentifier, MemberId, MemberRef, OrganizationId, ProjectId, SessionId};
pub use jwt::{
    JwtError, JwtRules, JwtSubject, VerifiedJwt, holds_credential, payload_of, verify_ended_or_not,
    verify_jwt,
};
pub use keys::{InvalidKey, KeySet, VerificationKey};
pub use now::{Monotonic, Now};
pub use peer::network_of;
pub use principal::{AppToken, Bound, Introspection, MachineToken, MemberPrincipal, Principal};
pub use scopes::Scopes;
pub use secret::Secret;
pub use trusted::{MalformedIdentity, TrustedIdentity, TrustedPeers};
