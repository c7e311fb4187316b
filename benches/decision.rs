//! The decision without IO: `Engine::check` over a directory that answers from memory, and the policy alone.
//!
//! Must not open a socket; what a request costs on the wire is `gateway.rs`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench that cannot be set up should end")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use jiff::Timestamp;
use portcullis::config::{LoadOptions, SecretPolicy, load};
use portcullis::directory::{
    Answer, Attempts, Clock, DirectoryError, KeySource, Memory, MemorySettings, NoFacts, SessionDirectory,
    SessionQuery, SystemClock, TokenOwner, TokenQuery, UnknownTokenSettings,
};
use portcullis::engine::{
    AccessRequest, Engine, EngineSettings, HeaderSettings, ManagedNames, Snapshot, Sources,
};
use portcullis::identity::{
    Bound, CredentialSource, JwtRules, KeySet, MemberId, MemberPrincipal, MemberRef, OrganizationId,
    SessionId, SocketPeer, VerificationKey, verify_jwt,
};
use portcullis::policy::{
    Access, CanonicalPath, Decision, Environment, Fact, FactorRequirement, Facts, ForwardedCredentials,
    Freshness, Grants, HostName, HostPattern, LetterCase, OrganizationNames, OrganizationRoles, PathPattern,
    Permission, Presented, RbacPolicy, Requirement, Route, RouteMatch, RouteTable, decide,
};
use portcullis::session::{
    ActiveSessions, Claim, DeliveryMethod, Evidence, Factor, FactorKind, MemberSession, Revocation,
};
use portcullis::telemetry::{DecisionLog, LineWriter, Metrics, RequestId, TraceContext};

/// Answers any member at once with three sessions of three factors.
struct Answering(Arc<SystemClock>);

impl SessionDirectory for Answering {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let now = self.0.now();
        let factor = |kind, delivery: &str| Factor {
            kind,
            delivery: DeliveryMethod::new(delivery),
            last_authenticated_at: Some(now.wall),
            connection_id: None,
            email: Some(Arc::from("member@example.com")),
            impersonator: None,
        };
        let session = |number: usize| MemberSession {
            session_id: SessionId::parse(&format!("session-{number}-{}", query.member.member_id)).unwrap(),
            member: query.member.clone(),
            organization_slug: Some(Arc::from("acme")),
            started_at: Some(now.wall),
            expires_at: now.wall + Duration::from_secs(36_000),
            roles: Some(vec![Arc::from("stytch_member"), Arc::from("admin")]),
            factors: vec![
                factor(FactorKind::Password, "knowledge"),
                factor(FactorKind::Totp, "authenticator_app"),
                factor(FactorKind::EmailOtp, "email"),
            ],
            claims: Vec::new(),
        };
        let sessions: Vec<_> = (0..3).map(session).collect();
        let list = ActiveSessions::new(query.member.clone(), &sessions, now);
        Answer::Ready(Ok(Evidence::Sessions(Arc::new(list))))
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

struct FixedKeys(Arc<KeySet>);

impl KeySource for FixedKeys {
    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.0)
    }

    fn refetch_for(&self, _key_id: &str) -> Answer<Arc<KeySet>> {
        Answer::Ready(Ok(self.keys()))
    }
}

struct World {
    engine: Engine,
    keys: Arc<KeySet>,
    rules: JwtRules,
    tokens: Vec<HeaderMap>,
}

fn world(members: usize) -> World {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
    let exponent = pair.public_key().exponent().big_endian_without_leading_zero().to_vec();
    let key = VerificationKey::from_components(&modulus, &exponent).unwrap();
    let keys = Arc::new(KeySet::new([("k".to_owned(), key)].into(), 1));
    let rules = JwtRules {
        issuers: vec!["stytch.com/project-test-1".to_owned()],
        audience: "project-test-1".to_owned(),
        leeway: Duration::from_secs(2),
    };
    let clock = Arc::new(SystemClock::start());
    let metrics = Metrics::new().unwrap();
    let freshness = Freshness {
        fresh_for: Duration::from_secs(36_000),
        max_staleness: Duration::from_secs(36_000),
        stale_if_error: Duration::ZERO,
    };
    let settings = MemorySettings {
        max_entries: 200_000,
        max_bytes: 1 << 30,
        max_refreshes: 32,
        negative_for: Duration::from_secs(2),
        token_binding_for: Duration::from_secs(900),
        horizon: Duration::from_secs(36_000),
    };
    let shared: Arc<dyn Clock> = clock.clone();
    let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 }));
    let next = Arc::new(Answering(Arc::clone(&clock)));
    let memory = Memory::new(next, shared, settings, Arc::clone(&attempts), &metrics);
    let snapshot = Snapshot {
        routes: RouteTable::new([route(freshness)]),
        credentials: vec![
            CredentialSource::Cookie("stytch_session_jwt".to_owned()),
            CredentialSource::Bearer,
        ]
        .into(),
        jwt_rules: Arc::new(rules.clone()),
        managed_names: Arc::new(ManagedNames::new(&HeaderSettings::usual("x-auth-"))),
        assertions: None,
        negative_for: Duration::from_secs(2),
        own_route: Arc::new(route(freshness)),
        jwt_evidence: false,
        claim_pointers: Arc::from([]),
    };
    let settings =
        EngineSettings { max_tokens: 200_000, recheck_every: Duration::from_secs(30), max_rechecks: 16 };
    let lines = LineWriter::off(metrics.log_lines_dropped.clone());
    let lines = DecisionLog { lines, audit: None };
    let source: Arc<dyn KeySource> = Arc::new(FixedKeys(Arc::clone(&keys)));
    let engine = Engine::new(
        snapshot,
        Sources {
            directory: Arc::new(memory),
            keys: source,
            rbac: Arc::new(NoFacts),
            organizations: Arc::new(NoFacts),
            apps: Arc::new(NoFacts),
            attempts,
        },
        clock,
        settings,
        metrics,
        lines,
    );
    let tokens = (0..members).map(|number| bearer(&pair, number)).collect();
    World { engine, keys, rules, tokens }
}

fn route(freshness: Freshness) -> Route {
    Route {
        name: Arc::from("admin"),
        matches: RouteMatch {
            hosts: vec![HostPattern::Unnamed],
            paths: vec![PathPattern::parse("/admin/**").unwrap()],
            methods: Vec::new(),
        },
        shadow: None,
        audience: None,
        access: Access::Require(Requirement::All(vec![
            Requirement::Role(Arc::from("admin")),
            Requirement::Factor(FactorRequirement {
                kind: Some(FactorKind::Totp),
                category: None,
                delivery: None,
                connection_id: None,
                max_age: Some(Duration::from_secs(36_000)),
            }),
            Requirement::Impersonated(false),
        ])),
        freshness,
        upstream: Arc::from("app"),
        letter_case: LetterCase::Refuse,
        keep_encoded_slash: false,
        keep_path_parameters: false,
        websocket: None,
        forwards: ForwardedCredentials::default(),
    }
}

/// A token of about 1.7 KB, as the API's are.
fn bearer(pair: &KeyPair, number: usize) -> HeaderMap {
    let now = Timestamp::now().as_second();
    let claims = serde_json::json!({
        "iss": "stytch.com/project-test-1", "aud": ["project-test-1"], "sub": format!("member-{number}"),
        "iat": now, "nbf": now, "exp": now + 36_000, "filler": "x".repeat(700),
        "https://stytch.com/session": { "id": format!("session-0-member-{number}") },
        "https://stytch.com/organization": { "organization_id": "organization-1", "slug": "acme" },
    });
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k","typ":"JWT"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    let value = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    HeaderMap::from_iter([(http::header::AUTHORIZATION, value.parse().unwrap())])
}

impl World {
    async fn check(&self, headers: &HeaderMap) -> bool {
        let request_id = RequestId::new();
        let trace = TraceContext::begin(&request_id);
        let verdict = self
            .engine
            .check(
                &AccessRequest {
                    method: &Method::GET,
                    host: &HostName::parse("app.example.com").unwrap(),
                    path: &CanonicalPath::parse("/admin/users").unwrap(),
                    headers,
                    peer: SocketPeer::default(),
                    client_ip: None,
                    page: portcullis::engine::Page::None,
                    request_id: &request_id,
                    trace: &trace,
                    waits: portcullis::engine::Waits::default(),
                },
                self.engine.rules(),
            )
            .await;
        matches!(verdict.decision, Decision::Allow(_))
    }
}

fn decisions(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for members in [1, 1_000, 100_000] {
        // Signing a hundred thousand tokens takes a while; only checking is measured.
        let world = world(members);
        for headers in &world.tokens {
            assert!(runtime.block_on(world.check(headers)));
        }
        criterion.bench_function(&format!("check, all hot, {members} members"), |bencher| {
            bencher.iter_batched(
                || &world.tokens[fastrand::usize(..members)],
                |headers| black_box(runtime.block_on(world.check(headers))),
                BatchSize::SmallInput,
            );
        });
    }
    let world = world(1);
    let token = world.tokens[0]["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    criterion.bench_function("verify a JWT that is not remembered", |bencher| {
        let now = Timestamp::now();
        bencher.iter(|| verify_jwt(black_box(&token), &world.keys, &world.rules, now).unwrap());
    });
    criterion.bench_function("canonical path, plain", |bencher| {
        bencher.iter(|| CanonicalPath::parse(black_box("/admin/users/42/edit")).unwrap());
    });
    criterion.bench_function("canonical path, encoded", |bencher| {
        bencher.iter(|| CanonicalPath::parse(black_box("/a%64min/./users/%C3%A9/../42")).unwrap());
    });
}

/// Two hundred routes over twelve hosts: exact paths, prefixes, globs and parameters, and on each the hardest requirement.
fn two_hundred_routes() -> RouteTable {
    let requirement = serde_json::json!({ "all": [
        { "organization_from": { "path_param": "org" } },
        { "permission": { "resource": "reports", "action": "export" } },
        { "mfa": { "max_age": "15m" } },
        { "session_age": { "max": "8h" } },
        { "any": [
            { "role": "owner" }, { "role": "auditor" },
            { "factor": { "type": "sso", "connection_id": "saml-connection-1", "max_age": "5m" } },
            { "all": [{ "role": "admin" }, { "factor": { "delivery_method": "authenticator_app", "max_age": "15m" } }] },
        ] },
        { "claim": { "pointer": "/plan/level", "one_of": ["gold", "platinum", "enterprise"] } },
        { "client_ip": (0..16).map(|number| format!("10.{number}.0.0/16")).collect::<Vec<_>>() },
        { "not": { "claim": { "pointer": "/suspended", "one_of": [true] } } },
        { "not": { "factor": { "type": "imported" } } },
        { "impersonated": false },
    ] });
    let route = |number: usize| {
        let host = match number % 13 {
            12 => "*.apps.example.com".to_owned(),
            host => format!("app-{host}.example.com"),
        };
        let path = match number % 4 {
            0 => format!("/service-{number}/orgs/{{org}}"),
            1 => format!("/service-{number}/orgs/{{org}}/**"),
            2 => format!("/*/service-{number}/{{org}}/**"),
            _ => format!("/{{org}}/service-{number}/*.json"),
        };
        serde_json::json!({ "name": format!("route-{number}"), "match": { "host": host, "path": path }, "require": requirement })
    };
    let config = serde_json::json!({
        "stytch": { "project_id": "project-test-1", "secret": { "value": "s" } },
        "upstreams": { "app": { "url": "http://127.0.0.1:3000" } },
        "routes": (0..200).map(route).collect::<Vec<_>>(),
    });
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    let options =
        LoadOptions { file: file.path().to_owned(), overrides: Vec::new(), secrets: SecretPolicy::NotNeeded };
    RouteTable::new(load(&options).map_err(|invalid| invalid.render(false)).unwrap().routes)
}

/// What stands between the caches and the answer: the route found, and its requirement held against the session.
fn policy(criterion: &mut Criterion) {
    let table = two_hundred_routes();
    let now = SystemClock::start().now();
    let member = MemberRef {
        organization_id: OrganizationId::parse("organization-1").unwrap(),
        member_id: MemberId::parse("member-1").unwrap(),
    };
    let factor = |kind, delivery: &str| Factor {
        kind,
        delivery: DeliveryMethod::new(delivery),
        last_authenticated_at: Some(now.wall),
        connection_id: None,
        email: Some(Arc::from("member@example.com")),
        impersonator: None,
    };
    let claim = |pointer: &str, value| Claim { pointer: Arc::from(pointer), value };
    let session = |number: usize| MemberSession {
        session_id: SessionId::parse(&format!("session-{number}")).unwrap(),
        member: member.clone(),
        organization_slug: Some(Arc::from("acme")),
        started_at: Some(now.wall),
        expires_at: now.wall + Duration::from_secs(36_000),
        roles: Some(["stytch_member", "viewer", "billing", "admin"].map(Arc::from).to_vec()),
        factors: vec![
            factor(FactorKind::Password, "knowledge"),
            factor(FactorKind::EmailOtp, "email"),
            factor(FactorKind::Totp, "authenticator_app"),
        ],
        claims: vec![
            claim("/plan/level", Some("enterprise".into())),
            claim("/suspended", Some(false.into())),
        ],
    };
    let sessions: Vec<_> = (0..3).map(session).collect();
    let list = ActiveSessions::new(member.clone(), &sessions, now);
    let evidence = Evidence::Sessions(Arc::new(list));
    let bound = Bound::Session(SessionId::parse("session-1").unwrap());
    let principal = MemberPrincipal { member: member.clone(), bound, issued_at: None, seen_at: None };
    let permission = Permission {
        resource_id: Arc::from("reports"),
        actions: vec![Arc::from("read"), Arc::from("export")],
    };
    let grants =
        Grants::new((0..50).map(|number| (Arc::from(format!("role-{number}")), vec![permission.clone()])));
    let policy = Arc::new(RbacPolicy { roles: grants, ..RbacPolicy::default() });
    let roles = Arc::new(OrganizationRoles(Grants::new([(Arc::from("admin"), vec![permission])])));
    let names = Arc::new(OrganizationNames { slug: Some(Arc::from("acme")), external_id: None });
    let facts = Facts {
        policy: Some(Fact::written(policy, now)),
        organization_roles: Some(Fact::written(roles, now)),
        organization_names: Some(Fact::written(names, now)),
        owners: vec![("acme".to_owned(), Fact::written(Some(member.organization_id.clone()), now))],
    };
    for (place, host, path) in [
        ("an early route", "app-0.example.com", "/service-0/orgs/acme"),
        ("a late route", "app-7.example.com", "/acme/service-163/quarter.json"),
        ("the wildcard host", "portal.apps.example.com", "/v1/service-194/acme/reports/2026/11"),
    ] {
        let (host, path) = (HostName::parse(host).unwrap(), CanonicalPath::parse(path).unwrap());
        let find = || table.find(black_box(&host), black_box(path.text()), &Method::GET);
        let decision = || {
            let route = find().unwrap();
            let environment = Environment {
                client_ip: Some([10, 15, 2, 3].into()),
                certificate_names: &[],
                host: &host,
                path: &path,
                patterns: &route.matches.paths,
                facts: &facts,
            };
            decide(route, Presented::Member(&principal, &evidence), environment, now)
        };
        assert!(matches!(decision(), Decision::Allow(_)), "{:?}", decision());
        criterion.bench_function(&format!("find among 200 routes, {place}"), |bencher| bencher.iter(find));
        criterion.bench_function(&format!("find and decide, 200 routes, {place}"), |bencher| {
            bencher.iter(decision);
        });
    }
}

criterion_group!(benches, policy, decisions);
criterion_main!(benches);
