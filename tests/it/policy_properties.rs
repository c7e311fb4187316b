//! Must show 1: what holds of every requirement, whatever it is made of and whoever is held against it.

use std::sync::Arc;
use std::time::Duration;

use portcullis::identity::{OrganizationId, SessionId};
use portcullis::policy::{
    CanonicalPath, ClaimRequirement, ClaimTest, Environment, Fact, FactorRequirement, Facts, Grants,
    HostName, OrganizationFrom, OrganizationNames, OrganizationNaming, OrganizationPlace, OrganizationRoles,
    PathPattern, Permission, PermissionRequirement, RbacPolicy, Reason, Refusal, Remedy, Requirement,
};
use portcullis::session::{Claim, DeliveryMethod, Factor, FactorCategory, FactorKind, MemberSession};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{Showing, at, member, now};

fn name(text: &str) -> Arc<str> {
    Arc::from(text)
}

/// Whom and what a requirement is held against.
#[derive(Debug, Clone)]
struct Situation {
    caller: CallerKind,
    session: MemberSession,
    facts: Facts,
    client_ip: Option<std::net::IpAddr>,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum CallerKind {
    Member,
    Machine,
    App,
}

impl Situation {
    fn judge(&self, requirement: &Requirement) -> Result<(), Refusal> {
        let (host, path) =
            (HostName::parse("acme.example.com").unwrap(), CanonicalPath::parse(&self.path).unwrap());
        let patterns = [PathPattern::parse("/orgs/{org}/**").unwrap()];
        let environment = Environment {
            client_ip: self.client_ip,
            certificate_names: &[],
            host: &host,
            path: &path,
            patterns: &patterns,
            facts: &self.facts,
        };
        let showing = match self.caller {
            CallerKind::Member => Showing::Session(self.session.clone()),
            CallerKind::Machine => Showing::machine("a"),
            CallerKind::App => Showing::app("organization-1", "a", true),
        };
        showing.judge(requirement, environment)
    }

    fn allows(&self, requirement: &Requirement) -> bool {
        self.judge(requirement).is_ok()
    }
}

fn any_factor_requirement() -> impl Strategy<Value = FactorRequirement> {
    let kind = proptest::option::of(prop_oneof!["totp", "password", "sso", "retina", "oauth"]);
    let category =
        proptest::option::of(prop_oneof![Just(FactorCategory::Primary), Just(FactorCategory::Secondary)]);
    let delivery = proptest::option::of(prop_oneof!["sms", "oauth_exchange_x", "knowledge"]);
    let connection = proptest::option::of(Just("saml-1"));
    (kind, category, delivery, connection, proptest::option::of(0_u64..100)).prop_map(
        |(kind, category, delivery, connection, age)| FactorRequirement {
            kind: kind.map(|kind| FactorKind::from_name(&kind)),
            category,
            delivery: delivery.map(|delivery| DeliveryMethod::new(&delivery)),
            connection_id: connection.map(name),
            max_age: age.map(Duration::from_secs),
        },
    )
}

/// Every leaf there is.
fn any_leaf() -> impl Strategy<Value = Requirement> {
    let claim = prop_oneof![
        any::<bool>().prop_map(ClaimTest::Exists),
        Just(ClaimTest::OneOf(vec![json!("gold"), json!(1)])),
    ];
    let naming = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(id, slug, external_id)| OrganizationNaming { id, slug, external_id });
    let place = prop_oneof![
        Just(OrganizationPlace::PathParameter(name("org"))),
        Just(OrganizationPlace::HostLabel { before: name(""), after: name(".example.com") }),
    ];
    let scopes = || proptest::collection::vec("[ab]".prop_map(|scope| name(&scope)), 0..2);
    prop_oneof![
        Just(Requirement::Authenticated),
        "[ab]".prop_map(|role| Requirement::Role(name(&role))),
        ("[ab]", "[ab]", proptest::option::of("organization-[12]")).prop_map(
            |(resource, action, organization)| {
                Requirement::Permission(PermissionRequirement {
                    resource: name(&resource),
                    action: name(&action),
                    organization: organization.map(|id| name(&id)),
                })
            }
        ),
        any_factor_requirement().prop_map(Requirement::Factor),
        proptest::option::of(0_u64..100)
            .prop_map(|age| Requirement::Mfa { max_age: age.map(Duration::from_secs) }),
        proptest::collection::vec(prop_oneof!["organization-[12]", "acme", "globex"], 1..3)
            .prop_map(|names| Requirement::Organization(names.iter().map(|text| name(text)).collect())),
        (place, naming).prop_map(|(place, by)| Requirement::OrganizationFrom(OrganizationFrom { place, by })),
        (0_u64..100).prop_map(|max| Requirement::SessionAge { max: Duration::from_secs(max) }),
        ("/[ab]", claim).prop_map(|(pointer, test)| {
            Requirement::Claim(ClaimRequirement { pointer: name(&pointer), test })
        }),
        any::<bool>().prop_map(Requirement::Impersonated),
        scopes().prop_map(|scopes| Requirement::Machine { scopes }),
        scopes().prop_map(|scopes| Requirement::App { scopes }),
        Just(Requirement::ClientIp(vec!["10.0.0.0/8".parse().unwrap()])),
    ]
}

fn any_requirement() -> impl Strategy<Value = Requirement> {
    any_leaf().prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Requirement::All),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Requirement::Any),
            inner.clone().prop_map(|part| Requirement::Not(Box::new(part))),
            inner.prop_map(|part| Requirement::Named { name: name("named"), requirement: Arc::new(part) }),
        ]
    })
}

fn any_factor() -> impl Strategy<Value = Factor> {
    let kind =
        prop_oneof!["totp", "password", "sso", "impersonated", "retina", "oauth", "imported", "unreadable"];
    let delivery = prop_oneof!["", "sms", "oauth_exchange_x", "knowledge"];
    let connection = proptest::option::of(prop_oneof![Just("saml-1"), Just("saml-2")]);
    (kind, delivery, proptest::option::of(-5_i64..120), connection).prop_map(
        |(kind, delivery, ago, connection)| Factor {
            kind: if kind == "unreadable" { FactorKind::Unreadable } else { FactorKind::from_name(&kind) },
            delivery: if delivery.is_empty() {
                DeliveryMethod::untold()
            } else {
                DeliveryMethod::new(&delivery)
            },
            last_authenticated_at: ago.map(at),
            connection_id: connection.map(name),
            email: None,
            impersonator: None,
        },
    )
}

fn any_session() -> impl Strategy<Value = MemberSession> {
    let roles = proptest::option::of(proptest::collection::vec("[ab]", 0..3));
    let claim = ("/[ab]", proptest::option::of(prop_oneof![Just(json!("gold")), Just(json!("1"))]));
    (
        roles,
        proptest::collection::vec(any_factor(), 0..4),
        proptest::collection::vec(claim, 0..3),
        proptest::option::of(prop_oneof!["acme", "globex"]),
        proptest::option::of(-60_i64..120),
    )
        .prop_map(|(roles, factors, claims, slug, started)| MemberSession {
            session_id: SessionId::parse("session-1").unwrap(),
            member: member("organization-1"),
            organization_slug: slug.map(|slug| name(&slug)),
            started_at: started.map(at),
            expires_at: at(-3_600),
            roles: roles.map(|roles| roles.iter().map(|role| name(role)).collect()),
            factors,
            claims: claims
                .into_iter()
                .map(|(pointer, value)| Claim { pointer: name(&pointer), value })
                .collect(),
        })
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let grants = || {
        let permission = ("[ab]", prop_oneof!["[ab]", r"\*"]).prop_map(|(resource, action)| Permission {
            resource_id: name(&resource),
            actions: vec![name(&action)],
        });
        proptest::collection::vec(("[ab]", permission), 0..3).prop_map(|entries| {
            Grants::new(entries.into_iter().map(|(grantee, permission)| (name(&grantee), vec![permission])))
        })
    };
    let policy = (grants(), grants())
        .prop_map(|(roles, scopes)| Arc::new(RbacPolicy { roles, scopes, ..RbacPolicy::default() }));
    let own = grants().prop_map(|own| Arc::new(OrganizationRoles(own)));
    let names = proptest::option::of("acme|globex").prop_map(|external| {
        Arc::new(OrganizationNames { slug: Some(name("acme")), external_id: external.map(|id| name(&id)) })
    });
    let owner = (prop_oneof!["acme", "globex"], proptest::option::of("organization-[12]"))
        .prop_map(|(name, id)| (name, id.map(|id| OrganizationId::parse(&id).unwrap())));
    (
        proptest::option::of(policy),
        proptest::option::of(own),
        proptest::option::of(names),
        proptest::collection::vec(owner, 0..2),
    )
        .prop_map(|(policy, organization_roles, organization_names, owners)| Facts {
            policy: policy.map(|policy| Fact::written(policy, now())),
            organization_roles: organization_roles.map(|roles| Fact::written(roles, now())),
            organization_names: organization_names.map(|names| Fact::written(names, now())),
            owners: owners.into_iter().map(|(name, id)| (name, Fact::written(id, now()))).collect(),
        })
}

fn any_situation() -> impl Strategy<Value = Situation> {
    let caller = prop_oneof![
        4 => Just(CallerKind::Member), 1 => Just(CallerKind::Machine), 1 => Just(CallerKind::App),
    ];
    let client_ip =
        prop_oneof![Just(None), Just(Some([10, 1, 2, 3].into())), Just(Some([192, 0, 2, 1].into())),];
    let path = prop_oneof!["/orgs/(acme|globex|organization-1)/x", Just("/elsewhere".to_owned())];
    (caller, any_session(), any_facts(), client_ip, path).prop_map(
        |(caller, session, facts, client_ip, path)| Situation { caller, session, facts, client_ip, path },
    )
}

/// What is not told, taken away: roles, dates, claims, factors made unreadable, facts, the address.
fn with_less_told(situation: &Situation, which: u8) -> Situation {
    let mut less = situation.clone();
    match which {
        0 => less.session.roles = None,
        1 => less.session.started_at = None,
        2 => less.session.claims.clear(),
        3 => {
            for factor in &mut less.session.factors {
                factor.kind = FactorKind::Unreadable;
            }
        }
        4 => less.facts.policy = None,
        5 => less.facts.organization_roles = None,
        6 => {
            less.session.organization_slug = None;
            less.facts.organization_names = None;
        }
        7 => less.facts.owners.clear(),
        _ => less.client_ip = None,
    }
    less
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_requirement_more_under_all_never_allows_more(
        one in any_requirement(), more in any_requirement(), situation in any_situation()
    ) {
        // The kinds of callers a route takes are those of all its parts, so the other part must not bring one in.
        let both = Requirement::All(vec![one.clone(), more]);
        if situation.caller == CallerKind::Member {
            prop_assert!(situation.allows(&one) || !situation.allows(&both));
        } else if situation.allows(&both) {
            let admitted = Requirement::All(vec![
                one,
                Requirement::Any(vec![
                    Requirement::Machine { scopes: Vec::new() },
                    Requirement::App { scopes: Vec::new() },
                ]),
            ]);
            prop_assert!(situation.allows(&admitted));
        }
    }

    /// Not through `not`, nor through anything else.
    #[test]
    fn what_is_no_longer_told_never_turns_a_refusal_into_an_allow(
        one in any_requirement(), situation in any_situation(), which in 0_u8..9
    ) {
        let less = with_less_told(&situation, which);
        prop_assert!(situation.allows(&one) || !less.allows(&one));
    }

    #[test]
    fn nobody_is_both_allowed_and_not(one in any_requirement(), situation in any_situation()) {
        if situation.caller == CallerKind::Member {
            let opposite = Requirement::Not(Box::new(one.clone()));
            prop_assert!(!(situation.allows(&one) && situation.allows(&opposite)));
        }
    }

    #[test]
    fn nobody_is_challenged_for_a_factor_while_a_role_is_missing(
        one in any_requirement(), situation in any_situation(), before in any::<bool>()
    ) {
        let role = Requirement::Role(name("held by nobody"));
        let both = Requirement::All(if before { vec![role, one] } else { vec![one, role] });
        let refusal = situation.judge(&both).unwrap_err();
        prop_assert_eq!(refusal.challenge, None);
        let asks = [
            Reason::FactorMissing, Reason::FactorStale, Reason::MfaMissing, Reason::MfaStale, Reason::SessionTooOld,
        ];
        prop_assert!(!asks.contains(&refusal.reason), "{:?}", refusal.reason);
    }

    #[test]
    fn who_is_challenged_is_told_of_a_step_and_nobody_else_is(one in any_requirement(), situation in any_situation()) {
        if let Err(refusal) = situation.judge(&one) {
            prop_assert_eq!(refusal.challenge.is_some(), refusal.reason.remedy() == Remedy::StepUp);
        }
    }

    #[test]
    fn a_machine_or_an_app_passes_only_where_its_kind_is_asked_for(
        one in any_requirement(), situation in any_situation()
    ) {
        let asked = one.any_part(&|part| match situation.caller {
            CallerKind::Member => true,
            CallerKind::Machine => matches!(part, Requirement::Machine { .. }),
            CallerKind::App => matches!(part, Requirement::App { .. }),
        });
        prop_assert!(asked || !situation.allows(&one));
    }
}

proptest! {
    // Each looks through thousands of sessions.
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever does what they are asked gets in: with every factor proven anew and a session just begun.
    #[test]
    fn a_challenge_names_a_way_in(one in any_requirement(), situation in any_situation()) {
        if let Err(Refusal { challenge: Some(_), .. }) = situation.judge(&one) {
            prop_assert_eq!(situation.caller, CallerKind::Member);
            let mut steps = vec![situation];
            // A factor of each kind and delivery a requirement may name, in every selection of up to three.
            let fresh = |kind: &str, delivery: &str, connection: Option<&str>| Factor {
                kind: FactorKind::from_name(kind),
                delivery: DeliveryMethod::new(delivery),
                last_authenticated_at: Some(at(0)),
                connection_id: connection.map(name),
                email: None,
                impersonator: None,
            };
            let mut offered = Vec::new();
            for kind in ["totp", "password", "sso", "retina", "oauth"] {
                for delivery in ["proven_now", "sms", "oauth_exchange_x", "knowledge"] {
                    for connection in [None, Some("saml-1")] {
                        offered.push(fresh(kind, delivery, connection));
                    }
                }
            }
            let mut way_in = false;
            for chosen in 0..3 {
                let mut next = Vec::new();
                for step in &steps {
                    let mut anew = step.clone();
                    anew.session.started_at = Some(at(0));
                    way_in |= step.allows(&one) || anew.allows(&one);
                    // The third is one of each kind: three of every selection are more than can be looked through.
                    next.extend(offered.iter().step_by(if chosen < 2 { 1 } else { 8 }).map(|factor| {
                        let mut with = step.clone();
                        with.session.factors.push(factor.clone());
                        with
                    }));
                }
                if way_in || next.len() > 10_000 {
                    break;
                }
                steps = next;
            }
            way_in |= steps.iter().any(|step| {
                let mut anew = step.clone();
                anew.session.started_at = Some(at(0));
                step.allows(&one) || anew.allows(&one)
            });
            prop_assert!(way_in, "{one:?}");
        }
    }
}
