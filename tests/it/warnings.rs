//! What `check` asks about a configuration that can be run, where, and how it is silenced.

use serde_json::Value;

use crate::policy_tools::{PORTAL, RBAC, file, path, portcullis};

const POOR: &str = "tests/it/cases/portal/poor.yaml";

/// Must show 3: every warning, and none where it is allowed.
#[test]
fn check_asks_what_a_reviewer_would() {
    let warnings = |file: &str| -> Vec<(String, u64)> {
        let args = ["check", "-c", file, "--without-secrets", "--rbac", RBAC, "--format", "json"];
        let told: Value = serde_json::from_slice(&portcullis(&args).stdout).unwrap();
        let told = told.as_array().unwrap().iter();
        told.map(|warning| (warning["code"].as_str().unwrap().to_owned(), warning["line"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(warnings(PORTAL), []);
    let found = warnings(POOR);
    let mut codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            "W101", "W101", "W102", "W102", "W103", "W103", "W104", "W104", "W105", "W105", "W106", "W107",
            "W108", "W109", "W111", "W112", "W113", "W113"
        ]
    );
    // Without the comments that allow them there are more.
    let bare = |name: &str| std::fs::read_to_string(name).unwrap().replace("# allow ", "# ");
    assert_eq!(warnings(path(&file(".yaml", &bare(POOR)))).len(), found.len() + 1);
    assert_eq!(
        warnings(path(&file(".yaml", &bare(PORTAL))))
            .iter()
            .map(|(code, _)| code.as_str())
            .collect::<Vec<_>>(),
        ["W101", "W111"]
    );

    let lenient = portcullis(&["check", "-c", POOR, "--without-secrets"]);
    assert!(lenient.status.success());
    let strict = portcullis(&["check", "-c", POOR, "--without-secrets", "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&strict.stderr).contains("warning[W101]: public route `open`"));
    assert!(String::from_utf8_lossy(&strict.stderr).contains("16 warnings"));
}

#[test]
fn every_code_is_documented() {
    let documented = std::fs::read_to_string("docs/policy.md").unwrap();
    let source = std::fs::read_to_string("src/config/diagnostics.rs").unwrap();
    let codes = source.split('"').filter(|text| {
        text.len() == 4 && text.starts_with(['C', 'W']) && text[1..].bytes().all(|byte| byte.is_ascii_digit())
    });
    let mut count = 0;
    for code in codes {
        count += 1;
        assert!(documented.contains(&format!("| {code} |")), "{code} has no row in docs/policy.md");
    }
    assert!(count > 16, "{count}");
}

/// A warning is placed at the part it is about, and silenced there.
#[test]
fn a_warning_stands_and_is_silenced_where_its_part_is_written() {
    let config = |sign_in: &str, above: &str| {
        file(
            ".yaml",
            &format!(
                "stytch: {{ project_id: project-test-1, secret: {{ env: S }} }}
listeners: [ {{ address: 127.0.0.1:8080 }} ]
upstreams: {{ app: {{ url: 'http://127.0.0.1:3000' }} }}
{sign_in}
routes:
  - name: administration
    match: {{ path: /administration/** }}
    require:
      all:
        - role: a
        {above}
        - factor: {{ type: totp }}
        - client_ip: [0.0.0.0/2, 64.0.0.0/2, 192.0.2.0/24]
  - name: tried
    match: {{ path: /tried/** }}
    require: authenticated
    shadow: {{ all: [ {{ role: b }}, {{ not: {{ role: b }} }} ] }}
"
            ),
        )
    };
    let warnings = |config: &tempfile::NamedTempFile| {
        let args = ["check", "-c", path(config), "--without-secrets", "--format", "json"];
        let told: Value = serde_json::from_slice(&portcullis(&args).stdout).unwrap();
        let told = told.as_array().unwrap().iter();
        told.map(|warning| {
            format!("{} {}", warning["code"].as_str().unwrap(), warning["path"].as_str().unwrap())
        })
        .collect::<Vec<_>>()
    };
    let all = warnings(&config("", "# nothing"));
    assert_eq!(
        all,
        ["W106 routes[0].require.all[1]", "W104 routes[0].require.all[2]", "W107 routes[1].shadow"]
    );
    assert_eq!(warnings(&config("", "# allow W106: theirs is a hardware key")), all[1..]);
    let behind_tls = "sign_in: { url: 'https://login.example.com/' }";
    assert!(warnings(&config(behind_tls, "")).iter().any(|warning| warning.starts_with("W110")));
    let told = "sign_in: { url: 'https://login.example.com/', scheme: https }";
    assert!(!warnings(&config(told, "")).iter().any(|warning| warning.starts_with("W110")));
}

#[test]
fn check_tells_what_a_short_max_staleness_costs() {
    let yaml = r#"
stytch: { project_id: project-test-11111111-1111-4111-8111-111111111111, secret: { value: s } }
upstreams: { app: { url: http://127.0.0.1:3000 } }
routes:
  - { name: read, match: { path: /read }, require: { permission: { resource: a, action: b } }, max_staleness: 5s }
  - { name: page, match: { path: /page }, require: authenticated, max_staleness: 1s }
  - { name: tried, match: { path: /tried }, require: authenticated, shadow: { permission: { resource: a, action: b } }, max_staleness: 5s }
  - { name: rest, match: { path: /** }, require: { permission: { resource: a, action: b } } }
"#;
    let told = portcullis(&["check", "-c", path(&file(".yaml", yaml))]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let costs: Vec<&str> = told.lines().filter(|line| line.starts_with("cost: ")).collect();
    let [read, page, tried] = costs[..] else { panic!("{told}") };
    assert!(read.contains("`read` (evidence at most 5s old)"), "{read}");
    assert!(
        read.ends_with(
            "per member 12 for the session list; per token of an app 12 for its introspection; per organization 15 for its policy; 15 for the project's policy"
        ),
        "{read}"
    );
    assert!(page.contains("per member 60 for the session list"), "{page}");
    assert!(page.ends_with("per token of an app 60 for its introspection"), "{page}");
    assert!(tried.ends_with("15 for its policy; 15 for the project's policy"), "{tried}");
}

/// Whether an exact path asks for something fresher than what lies below it.
#[test]
fn check_asks_about_what_is_proven_longer_ago_below_an_exact_path() {
    for (here, below, warned) in [
        ("{ mfa: { max_age: 5m } }", "{ mfa: { max_age: 1h } }", true),
        ("{ mfa: { max_age: 5m } }", "mfa", true),
        ("{ mfa: { max_age: 1h } }", "{ mfa: { max_age: 5m } }", false),
        ("{ session_age: { max: 1h } }", "{ session_age: { max: 8h } }", true),
        ("{ factor: { type: totp, max_age: 5m } }", "{ factor: { type: totp, max_age: 1h } }", true),
        ("{ factor: { type: totp, max_age: 5m } }", "{ factor: { type: sso, max_age: 1h } }", false),
        ("{ all: [ { role: a }, { mfa: { max_age: 5m } } ] }", "{ all: [ { mfa: { max_age: 1h } } ] }", true),
        ("{ all: [ { role: a }, { mfa: { max_age: 1h } } ] }", "{ mfa: { max_age: 5m } }", false),
        ("{ role: a }", "{ role: b }", false),
    ] {
        let yaml = format!(
            "stytch: {{ project_id: project-test-1, secret: {{ value: s }} }}
upstreams: {{ app: {{ url: \"http://127.0.0.1:3000\" }} }}
routes: [ {{ name: one, match: {{ path: /a }}, require: {here} }}, {{ name: rest, match: {{ path: /** }}, require: {below} }} ]\n"
        );
        let told = portcullis(&["check", "-c", path(&file(".yaml", &yaml))]);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.contains("warning[W111]"), warned, "{here} {below}\n{told}");
    }
}

/// What lies below an exact path, and which of its neighbours is asked about.
#[test]
fn check_asks_about_what_lies_below_an_exact_path() {
    for (routes, warned) in [
        ("{ path: /admin }, require: { role: a }", true),
        ("{ path: /admin/ }, require: { role: a }", true),
        ("{ path: /admin }, require: { all: [ authenticated, { role: a } ] }", true),
        ("{ path: /admin }, public: true", true),
        ("{ path: /healthz }, public: true", false),
        ("{ path: /admin }, require: authenticated", false),
        ("{ path: [/admin, /admin/**] }, require: { role: a }", false),
        ("{ path: /report.csv }, require: { role: a }", false),
        ("{ path: / }, require: { role: a }", false),
        ("{ path: /admin/* }, require: { role: a }", false),
    ] {
        let yaml = format!(
            "stytch: {{ project_id: project-test-1, secret: {{ value: s }} }}
upstreams: {{ app: {{ url: \"http://127.0.0.1:3000\" }} }}
routes: [ {{ name: one, match: {routes} }}, {{ name: rest, match: {{ path: /** }}, require: authenticated }} ]\n"
        );
        let told = portcullis(&["check", "-c", path(&file(".yaml", &yaml))]);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.contains("warning[W111]"), warned, "{routes}\n{told}");
        if warned && !routes.contains("public") {
            assert!(told.contains("did you mean `/admin/**`?"), "{told}");
        }
    }
}

/// A pattern that is there already is not proposed.
#[test]
fn the_hint_about_an_exact_path_names_what_is_missing() {
    let yaml = "stytch: { project_id: project-test-1, secret: { value: s } }
upstreams: { app: { url: \"http://127.0.0.1:3000\" } }
routes:
  - { name: one, match: { path: /exact }, require: { role: a } }
  - { name: below, match: { path: /exact/** }, require: authenticated }
";
    let told = portcullis(&["check", "-c", path(&file(".yaml", yaml))]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("let `/exact/**` ask for the same") && !told.contains("did you mean"), "{told}");
}
