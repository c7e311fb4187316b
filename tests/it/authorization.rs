//! Must show 2: permissions and scopes beside the official package's own local checks, on random policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis::identity::SessionId;
use portcullis::policy::{
    CanonicalPath, Environment, Fact, Facts, HostName, PermissionRequirement, Reason, Requirement,
};
use portcullis::session::MemberSession;
use portcullis::stytch::{read_organization_roles, read_policy};
use serde_json::{Value, json};

use crate::support::{Showing, ask_script, at, member, now, python};

/// Small, so that names meet: near misses, wildcards in every place, and names that look like others.
const ROLES: [&str; 5] = ["stytch_admin", "editor", "Editor", "*", ""];
const RESOURCES: [&str; 4] = ["reports", "Reports", "*", ""];
const ACTIONS: [&str; 5] = ["read", "*", "Read", "read.all", ""];
const SCOPES: [&str; 8] =
    ["read:reports", "read:*", "*", "*:reports", "read", "write:reports", "openid", "read:"];
const ORGANIZATIONS: [&str; 3] = ["organization-1", "organization-2", "Organization-1"];
const CASES: usize = 6_000;

fn some(pool: &[&'static str], most: usize) -> Vec<&'static str> {
    (0..fastrand::usize(..=most)).map(|_| pool[fastrand::usize(..pool.len())]).collect()
}

fn one(pool: &[&'static str]) -> &'static str {
    pool[fastrand::usize(..pool.len())]
}

fn permissions() -> Vec<Value> {
    let permission = || json!({ "resource_id": one(&RESOURCES), "actions": some(&ACTIONS, 3) });
    (0..fastrand::usize(..=4)).map(|_| permission()).collect()
}

fn granted(name: &str, pool: &[&'static str], most: usize) -> Vec<Value> {
    some(pool, most)
        .into_iter()
        .map(|grantee| json!({ name: grantee, "description": "", "permissions": permissions() }))
        .collect()
}

/// A policy, who asks, and what for.
fn any_case(what: &str) -> Value {
    let pool: &[&str] = if what == "member" { &ROLES } else { &SCOPES };
    // Mostly in the caller's own organization, as checks are.
    let organization = if fastrand::u8(..) < 200 { ORGANIZATIONS[0] } else { one(&ORGANIZATIONS) };
    json!({
        "what": what,
        "policy": {
            "roles": granted("role_id", &ROLES, 6), "scopes": granted("scope", &SCOPES, 8),
            "resources": [{ "resource_id": "reports", "description": "", "actions": ["read"] }],
        },
        "organization_policy": { "roles": granted("role_id", &ROLES, 2) },
        "held": some(pool, 5),
        "required": some(&SCOPES, 2),
        "organization_id": ORGANIZATIONS[0],
        "check": { "organization_id": organization, "resource_id": one(&RESOURCES), "action": one(&ACTIONS) },
    })
}

fn text<'a>(case: &'a Value, pointer: &str) -> &'a str {
    case.pointer(pointer).and_then(Value::as_str).unwrap()
}

fn texts(case: &Value, name: &str) -> Vec<Arc<str>> {
    case[name].as_array().unwrap().iter().map(|value| Arc::from(value.as_str().unwrap())).collect()
}

fn known<V>(value: V) -> Fact<Arc<V>> {
    Fact::written(Arc::new(value), now())
}

/// What the gateway makes of it: the policies read off the wire, the requirement judged as on a route.
fn ours(case: &Value) -> &'static str {
    let held = texts(case, "held");
    let policy = json!({ "status_code": 200, "request_id": "r", "policy": case["policy"] });
    let own = json!({ "status_code": 200, "request_id": "r", "org_policy": case["organization_policy"] });
    let facts = Facts {
        policy: Some(known(read_policy(policy.to_string().as_bytes()).unwrap())),
        organization_roles: Some(known(read_organization_roles(own.to_string().as_bytes()).unwrap())),
        ..Facts::default()
    };
    let (host, path) = (HostName::parse("h").unwrap(), CanonicalPath::parse("/").unwrap());
    let environment = Environment {
        client_ip: None,
        certificate_names: &[],
        host: &host,
        path: &path,
        patterns: &[],
        facts: &facts,
    };
    let wanted = Requirement::Permission(PermissionRequirement {
        resource: Arc::from(text(case, "/check/resource_id")),
        action: Arc::from(text(case, "/check/action")),
        organization: Some(Arc::from(text(case, "/check/organization_id"))),
    });
    let organization = text(case, "/organization_id");
    let scopes = held.join(" ");
    let (showing, wanted) = match text(case, "/what") {
        "member" => {
            let session = MemberSession {
                session_id: SessionId::parse("session-1").unwrap(),
                member: member(organization),
                organization_slug: None,
                started_at: Some(at(60)),
                expires_at: at(-3_600),
                roles: Some(held),
                factors: Vec::new(),
                claims: Vec::new(),
            };
            (Showing::Session(session), wanted)
        }
        "app" => {
            let app = Requirement::App { scopes: Vec::new() };
            (Showing::app(organization, &scopes, true), Requirement::All(vec![app, wanted]))
        }
        _ => (Showing::machine(&scopes), Requirement::Machine { scopes: texts(case, "required") }),
    };
    let judged = showing.judge(&wanted, environment);
    match judged.map_err(|refusal| refusal.reason) {
        Ok(_) => "allowed",
        Err(Reason::PermissionMissing | Reason::ScopeMissing) => "denied",
        Err(Reason::OrganizationMismatch) => "other_organization",
        Err(other) => other.code(),
    }
}

#[test]
fn permissions_and_scopes_come_to_what_the_official_package_says() {
    let Some(python) = python("stytch") else { return };
    let seed = fastrand::get_seed();
    let cases: Vec<Value> =
        (0..CASES).map(|number| any_case(["member", "app", "machine"][number % 3])).collect();
    let theirs = ask_script(&python, "tests/sdk/rbac_check.py", &cases);
    let mut counted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut disagreements = Vec::new();
    for (case, theirs) in cases.iter().zip(&theirs) {
        let ours = ours(case);
        *counted.entry((text(case, "/what"), ours)).or_default() += 1;
        if ours != theirs {
            disagreements.push(format!("{ours}, the package says {theirs}: {case}"));
        }
    }
    println!("{CASES} cases: {counted:?}; {} disagreements", disagreements.len());
    assert!(disagreements.is_empty(), "seed {seed}\n{}", disagreements.join("\n"));
    // Each kind must have been allowed and refused often, or nothing was compared.
    for kind in ["member", "app", "machine"] {
        for verdict in ["allowed", "denied"] {
            assert!(counted.get(&(kind, verdict)).is_some_and(|count| *count > 200), "{kind} {verdict}");
        }
    }
}
