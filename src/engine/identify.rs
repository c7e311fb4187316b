//! From candidates in a request to one verified caller (section 4.6 of the design).
//!
//! Must not judge what the caller may do, nor send an expired or unverified JWT anywhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::check::Engine;
use super::recent::RecentToken;
use super::snapshot::Snapshot;
use super::{AccessRequest, Waits};
use crate::directory::{Answer, DirectoryError, TokenOwner, TokenQuery};
use crate::identity::{
    Bound, Candidate, Credential, CredentialDigest, CredentialSource, JwtError, JwtRules, JwtSubject,
    MemberPrincipal, MemberRef, Now, Principal, Secret, SessionId, VerifiedJwt, basic_password,
    find_candidates, find_credentials, payload_of, verify_ended_or_not, verify_jwt,
};
use crate::policy::{Reason, Refusal};
use crate::session::{ActiveSessions, session_of_claims};

/// How often tokens that are good no more are dropped from those remembered by their bytes.
const RECENT_TOKENS_EVERY: Duration = Duration::from_secs(60);

/// How long after its end a JWT opens its member's own budget of unknown tokens.
const OWN_BUDGET_FOR: SignedDuration = SignedDuration::from_hours(24);

/// A caller and how they were known.
pub(super) struct Identified {
    pub(super) principal: Principal,
    /// `Authorization` carried a credential of theirs, whether or not it was the one that won.
    pub(super) by_authorization: bool,
    /// Browsers attach the credential that won by themselves, whichever page makes the request.
    pub(super) is_ambient: bool,
    /// What their token says of its session, where that counts.
    pub(super) vouched: Option<Arc<ActiveSessions>>,
    /// The JWT it was, where it was one.
    pub(super) recent: Option<Arc<RecentToken>>,
    /// The member whom a trusted peer named besides a session's own credential, as it spelled them: the directory must find
    /// the same.
    pub(super) named: Option<MemberRef>,
}

/// A verified token as it is remembered, with the key set and the rules that verified it.
#[derive(Debug, Clone)]
pub(super) struct VerifiedToken {
    jwt: Arc<VerifiedJwt>,
    principal: Principal,
    generation: u64,
    rules: Arc<JwtRules>,
    vouched: Option<Arc<ActiveSessions>>,
}

impl VerifiedToken {
    /// What one takes at least, in bytes; a token's own word about its session counts by its size.
    pub(super) const LEAST_BYTES: u32 = 512;

    /// Whether the keys and the rules in force are those that verified it. Its dates are another question.
    fn still_holds(&self, generation: u64, rules: &Arc<JwtRules>) -> bool {
        self.generation == generation && Arc::ptr_eq(&self.rules, rules)
    }

    fn check_dates(&self, now: Now) -> Result<(), CredentialRejection> {
        self.jwt.check_dates(now.wall, self.rules.leeway).map_err(CredentialRejection::Jwt)
    }

    pub(super) fn weight(&self) -> u32 {
        let vouched = self.vouched.as_ref().map_or(0, |vouched| vouched.weight());
        // An app's token is kept whole, since its introspection needs it.
        let token = match &self.principal {
            Principal::App(app) => app.token.expose().len(),
            _ => 0,
        };
        u32::try_from(vouched + token).unwrap_or(u32::MAX).saturating_add(Self::LEAST_BYTES)
    }
}

/// A credential that was verified.
struct Verified {
    principal: Principal,
    vouched: Option<Arc<ActiveSessions>>,
    recent: Option<Arc<RecentToken>>,
}

impl From<Principal> for Verified {
    fn from(principal: Principal) -> Self {
        Self { principal, vouched: None, recent: None }
    }
}

impl From<Arc<RecentToken>> for Verified {
    fn from(recent: Arc<RecentToken>) -> Self {
        let VerifiedToken { principal, vouched, .. } = &*recent.known;
        Self { principal: principal.clone(), vouched: vouched.clone(), recent: Some(recent) }
    }
}

/// Why one candidate is no credential. For whoever looks after the gateway, never for the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialRejection {
    #[error("{0}")]
    Jwt(JwtError),
    #[error("no active session has this token")]
    Unknown,
    #[error("it is too long, not text, or there twice")]
    Malformed,
    #[error("{0}")]
    Directory(DirectoryError),
    /// It has to be looked up, and the caller holds its share of what may wait for that.
    #[error("too many requests of the caller wait for lookups")]
    OverShare,
    /// Finding out would need IO, and another candidate was verified already.
    #[error("another credential was verified before it")]
    NotLookedAt,
}

impl Identified {
    /// A second credential of the same caller. With a trusted identity and a session's own credential, the session is what
    /// is judged, and the identity must turn out to be its member's.
    ///
    /// Two members named by two peers do not agree, whoever they are.
    fn join(&mut self, verified: Verified) -> Result<(), Refusal> {
        let Verified { principal, vouched, recent } = verified;
        let any_session = |principal: &Principal| match principal {
            Principal::Member(principal) if principal.session_id().is_none() => {
                Some(principal.member.clone())
            }
            _ => None,
        };
        match (any_session(&self.principal), any_session(&principal)) {
            (Some(named), None) => {
                self.named = Some(named);
                self.principal = principal;
                self.vouched = vouched;
                self.recent = recent;
            }
            (None, Some(named)) if self.named.as_ref().is_some_and(|known| *known != named) => {
                return Err(Reason::CredentialsDisagree.into());
            }
            (None, Some(named)) => self.named = Some(named),
            _ => {}
        }
        Ok(())
    }
}

impl Engine {
    /// The first candidate that verifies, unless a later one names another session; and the reading of the clock that still
    /// stands, if nothing was waited for.
    pub(super) async fn identify(
        &self,
        request: &AccessRequest<'_>,
        snapshot: &Snapshot,
        rejections: &mut Vec<CredentialRejection>,
        now: Now,
    ) -> Result<(Identified, Option<Now>), Refusal> {
        let peer = request.client_ip;
        let mut winner: Option<Identified> = None;
        // Stood upon until something may have been waited for.
        let mut reading = Some(now);
        let basic = basic_password(request.headers, &snapshot.credentials);
        let basic = basic.as_ref().map(|password| password.as_slice());
        for (source, candidate) in
            find_candidates(request.headers, basic, &snapshot.credentials, request.peer)
        {
            let waits = winner.is_none().then_some(request.waits);
            let now = *reading.get_or_insert_with(|| self.clock.now());
            let verified = match self.known(&candidate, snapshot, now) {
                Some(known) => known,
                None => match candidate.into_credential() {
                    Some(Credential::Jwt(token)) => {
                        reading = None;
                        self.verify(token, peer, snapshot, waits, now).await
                    }
                    Some(Credential::SessionToken(token)) => {
                        reading = None;
                        self.resolve(token, peer, None, waits).await.map(Verified::from)
                    }
                    Some(Credential::TrustedIdentity(member)) => Ok(Principal::any_session_of(member).into()),
                    None => Err(CredentialRejection::Malformed),
                },
            };
            let source = snapshot.credentials.get(source);
            let is_bearer = source == Some(&CredentialSource::Bearer);
            let by_authorization = is_bearer || source == Some(&CredentialSource::BasicPassword);
            match (verified, &mut winner) {
                (Ok(Verified { principal, vouched, recent }), None) => {
                    let is_ambient = !is_bearer;
                    let named = None;
                    winner =
                        Some(Identified { principal, by_authorization, is_ambient, vouched, recent, named });
                }
                (Ok(verified), Some(first)) if !verified.principal.agrees_with(&first.principal) => {
                    return Err(Reason::CredentialsDisagree.into());
                }
                (Ok(verified), Some(first)) => {
                    first.by_authorization |= by_authorization;
                    first.join(verified)?;
                }
                (Err(why), _) => rejections.push(why),
            }
        }
        if winner.is_none() && rejections.iter().any(CredentialRejection::is_over_budget) {
            winner = Box::pin(self.identify_by_own_budget(request, basic, snapshot)).await;
        }
        // What was our trouble outranks what was wrong with the credential; nothing at all is "missing".
        winner.map(|winner| (winner, reading)).ok_or_else(|| {
            let told = rejections
                .iter()
                .filter_map(CredentialRejection::refusal)
                .max_by_key(|refusal| rank(refusal.reason));
            told.unwrap_or_else(|| Reason::CredentialMissing.into())
        })
    }

    /// The owner of an opaque token that others' junk kept us from asking about, where a genuine, expired JWT beside it names a
    /// member: a browser that comes back after five minutes has both.
    async fn identify_by_own_budget(
        &self,
        request: &AccessRequest<'_>,
        basic: Option<&[u8]>,
        snapshot: &Snapshot,
    ) -> Option<Identified> {
        let keys = self.sources.keys.keys();
        let rules = &snapshot.jwt_rules;
        let found = find_credentials(request.headers, basic, &snapshot.credentials, request.peer).candidates;
        let member = found.iter().find_map(|(_, credential)| {
            let Credential::Jwt(token) = credential else { return None };
            let jwt = verify_ended_or_not(token, &keys, rules).ok()?;
            let now = self.clock.now().wall;
            if now.duration_since(jwt.expires_at) > OWN_BUDGET_FOR {
                return None;
            }
            match jwt.subject {
                JwtSubject::Session { member, .. } => Some(member),
                JwtSubject::Machine { .. } | JwtSubject::App { .. } => None,
            }
        })?;
        for (source, credential) in found {
            let Credential::SessionToken(token) = credential else { continue };
            let asked =
                self.resolve(token, request.client_ip, Some(member.clone()), Some(request.waits)).await;
            if let Ok(principal) = asked {
                let source = snapshot.credentials.get(source);
                let is_bearer = source == Some(&CredentialSource::Bearer);
                let by_authorization = is_bearer || source == Some(&CredentialSource::BasicPassword);
                let vouched = None;
                let recent = None;
                let named = None;
                let is_ambient = !is_bearer;
                return Some(Identified { principal, by_authorization, is_ambient, vouched, recent, named });
            }
        }
        None
    }

    /// Every session that a request holds a genuine credential of, an expired JWT included: what its sender may end. And
    /// why, if one could be there that cannot be found out about now.
    pub async fn sessions_of(
        &self,
        request: &AccessRequest<'_>,
        snapshot: &Snapshot,
    ) -> (Vec<SessionId>, Option<Refusal>) {
        let mut sessions: Vec<SessionId> = Vec::new();
        let mut unknown = None;
        let basic = basic_password(request.headers, &snapshot.credentials);
        let basic = basic.as_ref().map(|password| password.as_slice());
        let found = find_credentials(request.headers, basic, &snapshot.credentials, request.peer);
        for (_, credential) in found.candidates {
            let found = match credential {
                Credential::Jwt(token) => self.session_of(token, snapshot).await,
                Credential::SessionToken(token) => {
                    match self.resolve(token, request.client_ip, None, Some(request.waits)).await {
                        Ok(principal) => Ok(principal.session_id().cloned()),
                        Err(CredentialRejection::Directory(error)) => Err(error.refusal()),
                        Err(_) => Ok(None),
                    }
                }
                // Whoever vouches for a member holds none of their sessions.
                Credential::TrustedIdentity(_) => Ok(None),
            };
            match found {
                Ok(session_id) => sessions.extend(session_id.filter(|id| !sessions.contains(id))),
                Err(refusal) => unknown = Some(refusal),
            }
        }
        (sessions, unknown)
    }

    /// The session of a JWT, whether or not it expired; nothing if it is not genuine.
    async fn session_of(&self, token: &str, snapshot: &Snapshot) -> Result<Option<SessionId>, Refusal> {
        let rules = &snapshot.jwt_rules;
        let mut verified = verify_ended_or_not(token, &self.sources.keys.keys(), rules);
        if let Err(JwtError::UnknownKey(key_id)) = &verified {
            let keys = self.sources.keys.refetch_for(key_id).wait().await.map_err(|error| error.refusal())?;
            verified = verify_ended_or_not(token, &keys, rules);
        }
        Ok(verified.ok().and_then(|jwt| match jwt.subject {
            JwtSubject::Session { session_id, .. } => Some(session_id),
            JwtSubject::Machine { .. } | JwtSubject::App { .. } => None,
        }))
    }

    /// A JWT that was verified a moment ago, known by its bytes.
    fn known(
        &self,
        candidate: &Candidate<'_>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Option<Result<Verified, CredentialRejection>> {
        let Candidate::Text(text) = candidate else { return None };
        let recent = self.recent.get(text)?;
        let generation = self.sources.keys.keys().generation();
        let holds = recent.known.still_holds(generation, &snapshot.jwt_rules);
        holds.then(|| recent.known.check_dates(now).map(|()| recent.into()))
    }

    async fn verify(
        &self,
        token: &str,
        peer: Option<IpAddr>,
        snapshot: &Snapshot,
        waits: Option<Waits<'_>>,
        now: Now,
    ) -> Result<Verified, CredentialRejection> {
        let mut keys = self.sources.keys.keys();
        let still_holds = |known: &VerifiedToken| known.still_holds(keys.generation(), &snapshot.jwt_rules);
        let digest = CredentialDigest::of(token);
        if let Some(known) = self.tokens.get(&digest).filter(|known| still_holds(known)) {
            known.check_dates(now)?;
            return Ok(self.recent.put(token, known).into());
        }
        let mut verified = verify_jwt(token, &keys, &snapshot.jwt_rules, now.wall);
        if let Err(JwtError::UnknownKey(key_id)) = &verified {
            let waits = waits.ok_or(CredentialRejection::NotLookedAt)?;
            let answer = self.sources.keys.refetch_for(key_id);
            if answer.is_pending() && !waits.are_allowed(None) {
                return Err(CredentialRejection::OverShare);
            }
            keys = answer.wait().await.map_err(CredentialRejection::Directory)?;
            verified = verify_jwt(token, &keys, &snapshot.jwt_rules, self.clock.now().wall);
        }
        let jwt = Arc::new(verified.map_err(CredentialRejection::Jwt)?);
        let vouched = if snapshot.jwt_evidence { self.vouched(token, &jwt, snapshot) } else { None };
        let rules = Arc::clone(&snapshot.jwt_rules);
        let principal = jwt.principal(token);
        let known = Arc::new(VerifiedToken { jwt, principal, generation: keys.generation(), rules, vouched });
        self.tokens.insert(digest, Arc::clone(&known));
        self.vouch(peer);
        Ok(self.recent.put(token, known).into())
    }

    /// Drops tokens that are remembered by their bytes and are good no more, now and then; ends only with the runtime.
    pub async fn keep_recent_tokens(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RECENT_TOKENS_EVERY).await;
            let now = self.clock.now();
            let snapshot = self.snapshot();
            let keys = self.sources.keys.keys();
            self.recent.retain(|known| {
                known.still_holds(keys.generation(), &snapshot.jwt_rules) && known.check_dates(now).is_ok()
            });
        }
    }

    /// The session as the verified token tells it, dated when the token was made.
    fn vouched(&self, token: &str, jwt: &VerifiedJwt, snapshot: &Snapshot) -> Option<Arc<ActiveSessions>> {
        let JwtSubject::Session { member, session_id } = &jwt.subject else { return None };
        let payload = payload_of(token)?;
        let pointers = &snapshot.claim_pointers;
        let session = session_of_claims(&payload, member, session_id, jwt.expires_at, pointers)?;
        let now = self.clock.now();
        let made = now.minus(now.age_of(jwt.issued_at, snapshot.jwt_rules.leeway)?);
        Some(Arc::new(ActiveSessions::new(member.clone(), &[session], made)))
    }

    async fn resolve(
        &self,
        token: &str,
        peer: Option<IpAddr>,
        member: Option<MemberRef>,
        waits: Option<Waits<'_>>,
    ) -> Result<Principal, CredentialRejection> {
        let now = self.clock.now();
        let digest = CredentialDigest::of(token);
        let token = Secret::new(token.to_owned());
        let query = TokenQuery { token, digest, peer, member, newer_than: None, now };
        let owner = match self.sources.directory.resolve(&query) {
            Answer::Pending(answer) => {
                if !waits.ok_or(CredentialRejection::NotLookedAt)?.are_allowed(None) {
                    return Err(CredentialRejection::OverShare);
                }
                let owner = answer.await.map_err(CredentialRejection::Directory)?;
                if matches!(owner, TokenOwner::Session(_)) {
                    self.vouch(peer);
                }
                owner
            }
            Answer::Ready(known) => known.map_err(CredentialRejection::Directory)?,
        };
        match owner {
            TokenOwner::Session(binding) => Ok(Principal::from(MemberPrincipal {
                member: binding.member.clone(),
                bound: Bound::Session(binding.session_id.clone()),
                issued_at: None,
                seen_at: Some(binding.resolved_at.monotonic),
            })),
            TokenOwner::Nobody { .. } => Err(CredentialRejection::Unknown),
        }
    }
}

impl Engine {
    /// Something genuine that was not seen before came from there.
    fn vouch(&self, peer: Option<IpAddr>) {
        if let Some(peer) = peer {
            self.sources.attempts.vouch(peer, self.clock.now().monotonic);
        }
    }
}

impl CredentialRejection {
    /// Whether others' unknown tokens may be why.
    fn is_over_budget(&self) -> bool {
        matches!(self, Self::Directory(DirectoryError::TooManyUnknown { .. }))
    }

    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Jwt(JwtError::Expired) => Some(Reason::CredentialExpired.into()),
            Self::Jwt(_) | Self::Unknown | Self::Malformed => Some(Reason::CredentialInvalid.into()),
            Self::Directory(error) => Some(error.refusal()),
            Self::OverShare => Some(Reason::CallerShare.into()),
            Self::NotLookedAt => None,
        }
    }
}

/// Among several rejections credentials: our trouble, then the most telling.
fn rank(reason: Reason) -> u8 {
    match reason {
        Reason::CredentialInvalid => 0,
        Reason::CredentialExpired => 1,
        _ => 2,
    }
}
