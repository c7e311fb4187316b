//! Must show 1: every requirement in every situation, as data.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis::config::{LoadOptions, SecretPolicy, load};
use portcullis::identity::{OrganizationId, SessionId};
use portcullis::policy::{
    Access, CanonicalPath, Environment, Fact, Facts, Grants, HostName, OrganizationNames, OrganizationRoles,
    PathPattern, Permission, RbacPolicy, Requirement, Truth, explain,
};
use portcullis::session::{Claim, DeliveryMethod, Factor, FactorKind, MemberSession};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{Showing, at, member, now};

#[derive(Deserialize)]
struct Group {
    require: Value,
    cases: Vec<Vec<Value>>,
}

/// What a caller shows; left out, it is the usual.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Shown {
    roles: Option<Vec<String>>,
    factors: Vec<String>,
    started: Option<i64>,
    claims: Value,
    organization: String,
    slug: Option<String>,
    looked_up: Option<HashMap<String, String>>,
    owners: Vec<(String, Option<String>)>,
    machine: Option<Vec<String>>,
    app: Option<Vec<String>>,
    revoked: bool,
    policy: bool,
    own_roles: bool,
    ip: Option<std::net::IpAddr>,
    certificate: Vec<String>,
    host: String,
    path: String,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            roles: Some(vec!["stytch_member".into()]),
            factors: vec!["password/knowledge@60".into()],
            started: Some(60),
            claims: Value::Null,
            organization: "organization-1".into(),
            slug: Some("acme".into()),
            looked_up: None,
            owners: Vec::new(),
            machine: None,
            app: None,
            revoked: false,
            policy: true,
            own_roles: true,
            certificate: Vec::new(),
            ip: None,
            host: "a.example".into(),
            path: "/".into(),
        }
    }
}

/// `type/delivery#connection@ago`.
fn factor(text: &str) -> Factor {
    if text == "unreadable" {
        let kind = FactorKind::Unreadable;
        return Factor { kind, ..factor("x/") };
    }
    let (text, ago) =
        text.split_once('@').map_or((text, None), |(text, ago)| (text, Some(ago.parse().unwrap())));
    let (text, connection) =
        text.split_once('#').map_or((text, None), |(text, id)| (text, Some(Arc::from(id))));
    let (kind, delivery) = text.split_once('/').unwrap();
    Factor {
        kind: FactorKind::from_name(kind),
        delivery: if delivery.is_empty() { DeliveryMethod::untold() } else { DeliveryMethod::new(delivery) },
        last_authenticated_at: ago.map(at),
        connection_id: connection,
        email: None,
        impersonator: None,
    }
}

impl Shown {
    fn session(&self, pointers: &[Arc<str>]) -> MemberSession {
        let claim = |pointer: &Arc<str>| Claim {
            pointer: Arc::clone(pointer),
            value: self.claims.pointer(pointer).cloned(),
        };
        MemberSession {
            session_id: SessionId::parse("session-1").unwrap(),
            member: member(&self.organization),
            organization_slug: self.slug.as_deref().map(Arc::from),
            started_at: self.started.map(at),
            expires_at: at(-3_600),
            roles: self
                .roles
                .as_ref()
                .map(|roles| roles.iter().map(|role| Arc::from(role.as_str())).collect()),
            factors: self.factors.iter().map(|text| factor(text)).collect(),
            claims: if self.claims == "unread" { Vec::new() } else { pointers.iter().map(claim).collect() },
        }
    }

    fn facts(&self) -> Facts {
        let permission = |resource: &str, actions: &[&str]| Permission {
            resource_id: Arc::from(resource),
            actions: actions.iter().map(|action| Arc::from(*action)).collect(),
        };
        let grants = |entries: &[(&str, &[&str])]| {
            Grants::new(
                entries
                    .iter()
                    .map(|(name, actions)| (Arc::from(*name), vec![permission("reports", actions)])),
            )
        };
        let policy = RbacPolicy {
            roles: grants(&[("admin", &["*"]), ("editor", &["read", "write"]), ("viewer", &["read"])]),
            scopes: grants(&[("write:portal", &["write"]), ("openid", &[])]),
            resources: HashMap::new(),
        };
        let named = |name: &str| self.looked_up.as_ref()?.get(name).map(|name| Arc::from(name.as_str()));
        Facts {
            policy: self.policy.then(|| Fact::written(Arc::new(policy), now())),
            organization_roles: self.own_roles.then(|| {
                Fact::written(Arc::new(OrganizationRoles(grants(&[("writer", &["write"])]))), now())
            }),
            organization_names: self.looked_up.as_ref().map(|_| {
                let names = OrganizationNames { slug: named("slug"), external_id: named("external_id") };
                Fact::written(Arc::new(names), now())
            }),
            owners: self
                .owners
                .clone()
                .into_iter()
                .map(|(name, owner)| (name, owner.map(|id| OrganizationId::parse(&id).unwrap())))
                .map(|(name, owner)| (name, Fact::written(owner, now())))
                .collect(),
        }
    }
}

/// Every requirement of the data, read as the configuration reads it.
fn requirements(groups: &[Group]) -> Vec<Requirement> {
    let routes: Vec<Value> = groups
        .iter()
        .enumerate()
        .map(|(index, group)| {
            let path = if group.require.to_string().contains("path_param") {
                format!("/{index}/{{org}}/**")
            } else {
                format!("/{index}")
            };
            serde_json::json!({ "name": format!("r{index}"), "match": { "path": path }, "require": group.require })
        })
        .collect();
    let config = serde_json::json!({
        "stytch": { "project_id": "project-test-1", "secret": { "value": "s" } },
        "upstreams": { "app": { "url": "http://127.0.0.1:3000" } },
        "listeners": [ { "tls": {
            "certificates": [ { "certificate": "a.pem", "key": "a.key" } ], "client_ca_file": "ca.pem",
        } } ],
        "routes": routes,
    });
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    let options =
        LoadOptions { file: file.path().to_owned(), overrides: Vec::new(), secrets: SecretPolicy::NotNeeded };
    let config = load(&options).unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
    config
        .routes
        .into_iter()
        .map(|route| match route.access {
            Access::Require(requirement) => requirement,
            Access::Public => panic!("public"),
        })
        .collect()
}

/// The verdict on the requirement, and the reason nobody gets through, if nobody does.
fn came_to(requirement: &Requirement, shown: &Shown) -> (Truth, Option<&'static str>) {
    let (host, path) = (HostName::parse(&shown.host).unwrap(), CanonicalPath::parse(&shown.path).unwrap());
    let facts = shown.facts();
    let patterns = [PathPattern::parse("/orgs/{org}/**").unwrap()];
    let environment = Environment {
        client_ip: shown.ip,
        certificate_names: &shown.certificate,
        host: &host,
        path: &path,
        patterns: &patterns,
        facts: &facts,
    };
    let showing = if let Some(held) = &shown.machine {
        Showing::machine(&held.join(" "))
    } else if let Some(held) = &shown.app {
        Showing::app(&shown.organization, &held.join(" "), !shown.revoked)
    } else {
        Showing::Session(shown.session(&requirement.claim_pointers()))
    };
    let judged = showing.judge(requirement, environment);
    let truth = explain(requirement, &showing.subject(), environment, now()).truth;
    (truth, judged.err().map(|refusal| refusal.reason.code()))
}

#[test]
fn every_requirement_in_every_situation() {
    let text = std::fs::read_to_string("tests/it/cases/requirements.yaml").unwrap();
    let groups: Vec<Group> = serde_saphyr::from_str(&text).unwrap();
    let requirements = requirements(&groups);
    let (mut count, mut wrong) = (0, Vec::new());
    for (group, requirement) in groups.iter().zip(&requirements) {
        for case in &group.cases {
            count += 1;
            let mut shown = case[1].clone();
            let told = |name: &str| shown.get(name).is_some();
            let (no_slug, no_roles) =
                (told("slug") && shown["slug"].is_null(), told("roles") && shown["roles"].is_null());
            let no_start = told("started") && shown["started"].is_null();
            if let Value::Object(fields) = &mut shown {
                fields.retain(|_, value| !value.is_null());
            }
            let mut shown: Shown = serde_json::from_value(shown).unwrap();
            // Null is "not told", and not the usual.
            shown.slug = shown.slug.filter(|_| !no_slug);
            shown.roles = shown.roles.filter(|_| !no_roles);
            shown.started = shown.started.filter(|_| !no_start);
            let (truth, reason) = came_to(requirement, &shown);
            let found = (serde_json::to_value(truth).unwrap(), reason);
            let expected = (case[2].clone(), case.get(3).and_then(Value::as_str));
            if found != expected {
                wrong
                    .push(format!("{} | {}: expected {expected:?}, found {found:?}", group.require, case[0]));
            }
        }
    }
    println!("{count} situations of {} requirements", groups.len());
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 400, "{count}");
}
