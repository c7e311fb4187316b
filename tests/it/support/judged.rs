//! Callers made by hand, held against a requirement without a gateway.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis::identity::{
    AppToken, Bound, ClientId, CredentialDigest, Introspection, MachineToken, MemberId, MemberPrincipal,
    MemberRef, Monotonic, Now, OrganizationId, Scopes, Secret,
};
use portcullis::policy::{Environment, Presented, Refusal, Requirement, Subject, judge};
use portcullis::session::{ActiveSessions, Evidence, MemberSession};

/// The moment at which they are judged, in seconds since 1970.
const NOW: i64 = 1_800_000_000;

pub(crate) fn at(ago: i64) -> Timestamp {
    Timestamp::from_second(NOW - ago).unwrap()
}

pub(crate) fn now() -> Now {
    Now { wall: at(0), monotonic: Monotonic::at(Duration::from_secs(1_000)) }
}

pub(crate) fn member(organization: &str) -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse(organization).unwrap(),
        member_id: MemberId::parse("member-1").unwrap(),
    }
}

/// What a caller shows.
#[derive(Debug, Clone)]
pub(crate) enum Showing {
    Session(MemberSession),
    Machine(Arc<MachineToken>),
    App { token: Arc<AppToken>, active: bool },
}

impl Showing {
    pub(crate) fn machine(scopes: &str) -> Self {
        Self::Machine(Arc::new(MachineToken {
            client_id: ClientId::parse("client-1").unwrap(),
            scopes: Scopes::parse(scopes),
            issued_at: at(60),
            expires_at: at(-3_600),
        }))
    }

    pub(crate) fn app(organization: &str, scopes: &str, active: bool) -> Self {
        let token = Arc::new(AppToken {
            client_id: ClientId::parse("client-1").unwrap(),
            member: member(organization),
            scopes: Scopes::parse(scopes),
            issued_at: at(60),
            expires_at: at(-3_600),
            token: Secret::new("token".into()),
            digest: CredentialDigest::of("token"),
        });
        Self::App { token, active }
    }

    pub(crate) fn subject(&self) -> Subject {
        match self {
            Self::Session(session) => Subject::Member(Arc::new(session.clone())),
            Self::Machine(token) => Subject::Machine(Arc::clone(token)),
            Self::App { token, .. } => Subject::App(Arc::clone(token)),
        }
    }

    pub(crate) fn judge(
        &self,
        requirement: &Requirement,
        environment: Environment<'_>,
    ) -> Result<(), Refusal> {
        let judged = match self {
            Self::Session(session) => {
                let member = session.member.clone();
                let bound = Bound::Session(session.session_id.clone());
                let list = ActiveSessions::new(member.clone(), std::slice::from_ref(session), now());
                let evidence = Evidence::Sessions(Arc::new(list));
                let principal = MemberPrincipal { member, bound, issued_at: None, seen_at: None };
                judge(requirement, Presented::Member(&principal, &evidence), environment, now())
            }
            Self::Machine(token) => judge(requirement, Presented::Machine(token), environment, now()),
            Self::App { token, active } => {
                let introspection = Introspection {
                    active: *active,
                    scopes: None,
                    fetched_at: now(),
                    good_until: now().monotonic,
                };
                judge(requirement, Presented::App(token, &introspection), environment, now())
            }
        };
        judged.map(|_| ())
    }
}
