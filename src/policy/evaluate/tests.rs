//! Every arm of evaluation, as a table.

use std::sync::Arc;

use jiff::Timestamp;

use super::super::steps::refusal_of as refusal_of_case;
use super::*;
use crate::identity::{MemberId, MemberRef, Monotonic, OrganizationId, SessionId};
use crate::policy::{CanonicalPath, Challenge, Environment, Facts, HostName, Reason};
use crate::session::DeliveryMethod;

const NOW: i64 = 1_800_000_000;

fn now() -> Now {
    Now { wall: Timestamp::from_second(NOW).unwrap(), monotonic: Monotonic::default() }
}

/// Runs `look` on the case of a session, at a host and a path that no requirement here asks about.
fn with_case<T>(session: &MemberSession, now: Now, look: impl FnOnce(Case<'_>) -> T) -> T {
    let (host, path, facts) =
        (HostName::parse("a").unwrap(), CanonicalPath::parse("/").unwrap(), Facts::default());
    let subject = Subject::Member(Arc::new(session.clone()));
    let environment = Environment {
        client_ip: None,
        certificate_names: &[],
        host: &host,
        path: &path,
        patterns: &[],
        facts: &facts,
    };
    look(Case { subject: &subject, environment, now })
}

fn evaluate(requirement: &Requirement, session: &MemberSession, now: Now) -> Truth {
    with_case(session, now, |case| super::evaluate(requirement, case))
}

fn refusal_of(requirement: &Requirement, session: &MemberSession, now: Now) -> (Reason, Option<Challenge>) {
    with_case(session, now, |case| refusal_of_case(requirement, case))
}

fn factor(kind: &str, delivery: &str, proven_ago: Option<i64>) -> Factor {
    Factor {
        kind: FactorKind::from_name(kind),
        delivery: DeliveryMethod::new(delivery),
        last_authenticated_at: proven_ago.map(|ago| Timestamp::from_second(NOW - ago).unwrap()),
        connection_id: (kind == "sso").then(|| Arc::from("saml-1")),
        email: None,
        impersonator: None,
    }
}

fn unreadable() -> Factor {
    Factor { kind: FactorKind::Unreadable, ..factor("x", "", None) }
}

pub(crate) fn session(roles: &[&str], factors: Vec<Factor>) -> MemberSession {
    MemberSession {
        claims: Vec::new(),
        session_id: SessionId::parse("session-1").unwrap(),
        member: MemberRef {
            organization_id: OrganizationId::parse("organization-1").unwrap(),
            member_id: MemberId::parse("member-1").unwrap(),
        },
        organization_slug: Some(Arc::from("acme")),
        started_at: Some(Timestamp::from_second(NOW - 600).unwrap()),
        expires_at: Timestamp::from_second(NOW + 600).unwrap(),
        roles: Some(roles.iter().map(|role| Arc::from(*role)).collect()),
        factors,
    }
}

fn role(name: &str) -> Requirement {
    Requirement::Role(Arc::from(name))
}

fn wants(kind: &str, max_age: Option<u64>) -> Requirement {
    Requirement::Factor(FactorRequirement {
        kind: Some(FactorKind::from_name(kind)),
        category: None,
        delivery: None,
        connection_id: None,
        max_age: max_age.map(Duration::from_secs),
    })
}

fn by(kind: Option<&str>, delivery: Option<&str>, connection: Option<&str>) -> Requirement {
    Requirement::Factor(FactorRequirement {
        kind: kind.map(FactorKind::from_name),
        category: None,
        delivery: delivery.map(DeliveryMethod::new),
        connection_id: connection.map(Arc::from),
        max_age: None,
    })
}

fn mfa(max_age: Option<u64>) -> Requirement {
    Requirement::Mfa { max_age: max_age.map(Duration::from_secs) }
}

fn not(requirement: Requirement) -> Requirement {
    Requirement::Not(Box::new(requirement))
}

#[test]
fn every_requirement_is_met_unmet_or_unknown() {
    use Truth::{False, True, Unknown};
    let password = || factor("password", "knowledge", Some(600));
    let totp = |ago| factor("totp", "authenticator_app", ago);
    let full = || session(&["stytch_member", "editor"], vec![password(), totp(Some(60))]);
    let with = |factors| session(&[], factors);
    let no_roles = MemberSession { roles: None, ..full() };
    let no_slug = MemberSession { organization_slug: None, ..full() };
    let no_start = MemberSession { started_at: None, ..full() };
    let sso = |connection: Option<&str>| Factor {
        connection_id: connection.map(Arc::from),
        ..factor("sso", "sso_saml", Some(1))
    };
    let age = |max| Requirement::SessionAge { max: Duration::from_secs(max) };
    let organization = |name: &str| Requirement::Organization(vec![Arc::from("x"), Arc::from(name)]);

    let cases: Vec<(&str, Requirement, MemberSession, Truth)> = vec![
        ("any session", Requirement::Authenticated, with(vec![]), True),
        ("role held", role("editor"), full(), True),
        ("role not held", role("admin"), full(), False),
        ("role differs in case", role("Editor"), full(), False),
        ("roles unknown", role("editor"), no_roles.clone(), Unknown),
        ("roles unknown, not", not(role("editor")), no_roles, Unknown),
        ("factor held", wants("totp", None), full(), True),
        ("factor fresh", wants("totp", Some(60)), full(), True),
        ("factor stale", wants("totp", Some(59)), full(), False),
        ("factor without date", wants("totp", Some(59)), with(vec![totp(None)]), False),
        ("factor without date, no age asked", wants("totp", None), with(vec![totp(None)]), True),
        ("factor dated ahead", wants("totp", Some(59)), with(vec![totp(Some(-3))]), False),
        ("factor within skew", wants("totp", Some(59)), with(vec![totp(Some(-2))]), True),
        ("unknown type by name", wants("retina", None), with(vec![factor("retina", "x", Some(1))]), True),
        ("delivery", by(None, Some("sso_saml"), None), with(vec![sso(None)]), True),
        ("other delivery", by(Some("sso"), Some("sso_oidc"), None), with(vec![sso(None)]), False),
        ("connection", by(Some("sso"), None, Some("saml-1")), with(vec![sso(Some("saml-1"))]), True),
        ("other connection", by(Some("sso"), None, Some("saml-1")), with(vec![sso(Some("saml-2"))]), False),
        ("connection not told", by(Some("sso"), None, Some("saml-1")), with(vec![sso(None)]), Unknown),
        (
            "exchanged is not the original",
            wants("oauth", None),
            with(vec![factor("oauth", "oauth_exchange_google", Some(1))]),
            False,
        ),
        (
            "exchanged by name",
            by(Some("oauth"), Some("oauth_exchange_google"), None),
            with(vec![factor("oauth", "oauth_exchange_google", Some(1))]),
            True,
        ),
        (
            "delivery not told",
            by(Some("otp"), Some("sms"), None),
            with(vec![factor("otp", "", Some(1))]),
            Unknown,
        ),
        ("maybe exchanged", wants("oauth", None), with(vec![factor("oauth", "", Some(1))]), Unknown),
        (
            "maybe exchanged, not",
            not(wants("oauth", None)),
            with(vec![factor("oauth", "", Some(1))]),
            Unknown,
        ),
        (
            "session begun ahead",
            age(599),
            MemberSession {
                claims: Vec::new(),
                started_at: Some(Timestamp::from_second(NOW + 60).unwrap()),
                ..full()
            },
            Unknown,
        ),
        ("unreadable factor", wants("totp", None), with(vec![unreadable()]), Unknown),
        ("unreadable beside a clear one", wants("totp", None), with(vec![unreadable(), totp(Some(1))]), True),
        ("mfa", mfa(None), full(), True),
        ("mfa, age is the secondary's", mfa(Some(60)), full(), True),
        ("mfa, secondary stale", mfa(Some(59)), full(), False),
        (
            "mfa, two primaries",
            mfa(None),
            with(vec![password(), factor("oauth", "oauth_google", Some(1))]),
            False,
        ),
        ("mfa, two secondaries", mfa(None), with(vec![totp(Some(1)), factor("otp", "sms", Some(1))]), False),
        (
            "mfa, exchanged primary",
            mfa(None),
            with(vec![factor("oauth", "oauth_exchange_google", Some(1)), totp(Some(1))]),
            False,
        ),
        ("mfa, unreadable", mfa(None), with(vec![password(), unreadable()]), Unknown),
        ("organization by id", organization("organization-1"), full(), True),
        ("organization by slug", organization("acme"), full(), True),
        ("other organization", organization("globex"), full(), False),
        ("slug not told", organization("globex"), no_slug, Unknown),
        (
            "a slug that poses as an id",
            organization("organization-2"),
            MemberSession {
                claims: Vec::new(),
                organization_slug: Some(Arc::from("organization-2")),
                ..full()
            },
            False,
        ),
        ("session young", age(600), full(), True),
        ("session old", age(599), full(), False),
        ("session start not told", age(599), no_start, Unknown),
        ("not impersonated", Requirement::Impersonated(false), full(), True),
        (
            "impersonated",
            Requirement::Impersonated(false),
            with(vec![factor("impersonated", "impersonation", Some(1))]),
            False,
        ),
        ("maybe impersonated", Requirement::Impersonated(false), with(vec![unreadable()]), Unknown),
        ("all", Requirement::All(vec![role("editor"), mfa(None)]), full(), True),
        ("all, one false", Requirement::All(vec![role("editor"), role("x")]), full(), False),
        ("any", Requirement::Any(vec![role("x"), role("editor")]), full(), True),
        ("any of none", Requirement::Any(vec![]), full(), False),
        ("not", not(role("x")), full(), True),
    ];
    for (name, requirement, session, expected) in cases {
        assert_eq!(evaluate(&requirement, &session, now()), expected, "{name}");
    }
}

#[test]
fn a_challenge_is_made_only_if_meeting_it_leads_to_an_allow() {
    let password = || session(&["editor"], vec![factor("password", "knowledge", Some(600))]);
    let stale = || session(&["editor"], vec![factor("totp", "authenticator_app", Some(600))]);
    let totp = || wants("totp", Some(60));
    let urn = |name: &str| vec![format!("urn:portcullis:{name}")];
    type Case = (&'static str, Requirement, MemberSession, Reason, Option<Vec<String>>);
    let cases: Vec<Case> = vec![
        ("missing factor", totp(), password(), Reason::FactorMissing, Some(urn("factor:totp"))),
        ("stale factor", totp(), stale(), Reason::FactorStale, Some(urn("factor:totp"))),
        ("missing mfa", mfa(None), password(), Reason::MfaMissing, Some(urn("mfa"))),
        (
            "old session",
            Requirement::SessionAge { max: Duration::from_secs(1) },
            password(),
            Reason::SessionTooOld,
            Some(vec![]),
        ),
        (
            "role beside factor",
            Requirement::All(vec![totp(), role("admin")]),
            password(),
            Reason::RoleMissing,
            None,
        ),
        (
            "role or factor",
            Requirement::Any(vec![role("admin"), totp()]),
            password(),
            Reason::FactorMissing,
            Some(urn("factor:totp")),
        ),
        (
            "impossible",
            Requirement::All(vec![totp(), not(wants("totp", None))]),
            password(),
            Reason::RequirementNotMet,
            None,
        ),
        ("not", not(role("editor")), password(), Reason::RequirementNotMet, None),
        (
            "impersonation cannot be proven",
            wants("impersonated", None),
            password(),
            Reason::RequirementNotMet,
            None,
        ),
        ("unknown", role("x"), MemberSession { roles: None, ..password() }, Reason::EvidenceUnknown, None),
    ];
    for (name, requirement, session, reason, acr_values) in cases {
        let (found, challenge) = refusal_of(&requirement, &session, now());
        assert_eq!(found, reason, "{name}");
        assert_eq!(challenge.map(|challenge| challenge.acr_values), acr_values, "{name}");
    }
}

#[test]
fn several_steps_are_asked_at_once_with_the_strictest_age() {
    let both = Requirement::All(vec![wants("totp", Some(900)), wants("password", Some(60))]);
    let (_, challenge) = refusal_of(&both, &session(&[], vec![]), now());
    let challenge = challenge.unwrap();
    assert_eq!(challenge.max_age, Some(Duration::from_secs(60)));
    assert_eq!(challenge.acr_values, ["urn:portcullis:factor:totp", "urn:portcullis:factor:password"]);
}
