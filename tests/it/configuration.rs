//! Configurations: the ones that come with the project, and ones with mistakes.

use std::path::Path;

use portcullis::config::{
    Config, Invalid, LoadOptions, SecretPolicy, json_schema, load, load_with_warnings, markdown_reference,
    with_defaults,
};

fn read(name: &str, text: &str, overrides: &[(&str, &str)]) -> Result<Config, Invalid> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    let overrides = overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    load(&LoadOptions { file, overrides, secrets: SecretPolicy::Required })
}

/// Code, line and message of every mistake.
pub(crate) fn mistakes(text: &str) -> Vec<(String, Option<usize>, String)> {
    match read("x.yaml", text, &[]) {
        Ok(_) => Vec::new(),
        Err(invalid) => {
            let each = invalid.diagnostics.into_iter();
            each.map(|mistake| (mistake.code.to_owned(), mistake.line, mistake.message)).collect()
        }
    }
}

pub(crate) const GOOD: &str = r#"stytch:
  project_id: project-test-1
  secret: { value: s }
upstreams:
  app: { url: "http://127.0.0.1:3000" }
routes:
  - name: everything
    match: { path: /** }
    require: authenticated
"#;

#[test]
fn the_configurations_that_come_with_the_project_are_valid() {
    for name in ["minimal.yaml", "sidecar.yaml", "edge.yaml", "full.yaml"] {
        let options = LoadOptions {
            file: Path::new("config").join(name),
            overrides: Vec::new(),
            secrets: SecretPolicy::NotNeeded,
        };
        if let Err(invalid) = load(&options) {
            panic!("{}", invalid.render(false));
        }
        let text = std::fs::read_to_string(options.file).unwrap();
        assert!(text.contains("yaml-language-server: $schema="), "{name} has no line for editors");
    }
}

/// Every default that the reference names, by its path: of the one upstream that [`GOOD`] has, of no other list or map.
fn documented_defaults() -> Vec<(String, String)> {
    let reference = markdown_reference();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in reference.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = match title.trim_matches('`').replace("upstreams.NAME", "upstreams.app") {
                top if top == "Top level" => String::new(),
                section => format!("{section}."),
            };
        }
        let row = line.strip_prefix("| `").and_then(|row| row.split_once("` | "));
        let is_of_many = section.contains('[') || section.contains(".NAME");
        let Some((key, about)) = row.filter(|_| !is_of_many) else { continue };
        let default = about.split_once("Default: `").and_then(|(_, rest)| rest.split_once('`'));
        // Not one that depends on something else.
        if let Some((default, rest)) = default
            && (rest.starts_with('.') || rest.starts_with(','))
        {
            found.push((format!("{section}{key}"), default.to_owned()));
        }
    }
    found
}

/// What a part needs before its other values mean anything.
const NEEDED: [(&str, &str, &str); 8] = [
    ("admin.", "admin.token.value", "a-token-of-some-length"),
    ("cors.", "cors.origins", "[https://app.example.com]"),
    ("identity.assertion.", "identity.assertion.lifetime", "60s"),
    ("log.audit.", "log.audit.file", "/var/log/audit.jsonl"),
    ("sessions.shared.", "sessions.shared.url", "redis://127.0.0.1:6379"),
    ("sign_in.", "sign_in.url", "https://login.example.com"),
    ("tracing.", "tracing.endpoint", "http://127.0.0.1:4318"),
    ("upstreams.app.health.", "upstreams.app.health.path", "/healthz"),
];

#[test]
fn a_documented_default_is_the_one_in_force() {
    let (mut compared, mut failed) = (0, Vec::new());
    for (path, default) in documented_defaults() {
        let needed = NEEDED.iter().find(|(part, ..)| path.starts_with(part));
        let needed: Vec<(&str, &str)> = needed.iter().map(|(_, path, value)| (*path, *value)).collect();
        let shown =
            |overrides: &[(&str, &str)]| read("x.yaml", GOOD, overrides).map(|set| format!("{set:?}"));
        let unset = shown(&needed);
        match shown(&[&needed[..], &[(&path, &default)]].concat()) {
            Ok(set) => {
                assert!(unset.is_ok_and(|unset| unset == set), "{path} is not {default} where it is not set");
                compared += 1;
            }
            Err(_) => failed.push(path),
        }
    }
    assert!(compared >= 70, "{compared} defaults compared; not read: {failed:?}");
}

#[test]
fn the_defaults_that_are_shown_are_those_in_force_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    std::fs::write(&file, GOOD).unwrap();
    let loaded =
        load_with_warnings(&LoadOptions { file, overrides: Vec::new(), secrets: SecretPolicy::Required });
    let loaded = loaded.unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
    let shown = with_defaults(&loaded.set, &loaded.derived);
    let value = |path: &str| {
        let found = shown.iter().find(|value| value.path == path);
        found.map(|value| value.value.as_str().map_or_else(|| value.value.to_string(), str::to_owned))
    };
    for (path, expected) in [
        ("listeners[0].address", "0.0.0.0:8080"),
        ("credentials[0].cookie", "stytch_session_jwt"),
        ("credentials[1].cookie", "stytch_session"),
        ("credentials[2].bearer", "true"),
        ("stytch.base_url", "https://test.stytch.com"),
        ("limits.max_open_streams", "20000"),
        ("limits.max_connections_per_peer", "5000"),
    ] {
        assert_eq!(value(path).as_deref(), Some(expected), "{path}");
    }
    for path in ["log.audit.deadline", "tracing.timeout", "sign_in.return_param", "cors.max_age"] {
        assert_eq!(value(path), None, "nothing of the part is set: {path}");
    }
    let with_audit = GOOD.to_owned()
        + "log: { audit: { file: audit.jsonl } }\nlisteners: [ { address: \"127.0.0.1:1\" } ]\n";
    std::fs::write(folder.path().join("y.yaml"), with_audit).unwrap();
    let file = folder.path().join("y.yaml");
    let loaded =
        load_with_warnings(&LoadOptions { file, overrides: Vec::new(), secrets: SecretPolicy::Required });
    let loaded = loaded.unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
    let shown = with_defaults(&loaded.set, &loaded.derived);
    let origins = |path: &str| shown.iter().filter(|value| value.path == path).count();
    assert_eq!((origins("log.audit.deadline"), origins("listeners[0].address")), (1, 1));
}

#[test]
fn every_key_is_in_the_full_configuration() {
    let full = std::fs::read_to_string("config/full.yaml").unwrap();
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
    let mut shapes: Vec<&serde_json::Value> = vec![&schema];
    shapes.extend(schema["definitions"].as_object().unwrap().values());
    for shape in shapes {
        for key in shape["properties"].as_object().into_iter().flatten().map(|(key, _)| key) {
            assert!(full.contains(&format!("{key}:")), "`{key}` is not in config/full.yaml");
        }
    }
}

#[test]
fn what_is_generated_is_committed() {
    for (file, made) in
        [("config/schema.json", json_schema()), ("docs/configuration.md", markdown_reference())]
    {
        let committed = std::fs::read_to_string(file).unwrap_or_default();
        assert!(committed.trim() == made.trim(), "{file} is out of date: `portcullis schema` makes it");
    }
}

/// Must show 7.
#[test]
fn five_mistakes_are_told_at_once_each_at_its_line() {
    let text = r#"stytch:
  project_id: project-test-1
  secret: { value: s }
  base_url: http://api.example.com
sessions:
  fresh_fro: 10s
  negative_for: 2
upstreams:
  app: { url: "http://127.0.0.1:3000" }
routes:
  - name: admin
    match: { path: admin }
    require: { role: admin }
    upstream: apq
"#;
    let told = mistakes(text);
    let places: Vec<(&str, usize)> =
        told.iter().map(|(code, line, _)| (code.as_str(), line.unwrap())).collect();
    assert_eq!(places, [("C004", 4), ("C002", 6), ("C003", 7), ("C004", 12), ("C006", 14)], "{told:#?}");
    let human = read("x.yaml", text, &[]).unwrap_err().render(false);
    for part in ["^^^", "did you mean `fresh_for`?", "did you mean `app`?", "use `https`", "6 |", "14 |"] {
        assert!(human.contains(part), "{part} is missing in:\n{human}");
    }
}

/// A line of YAML, the code of its one mistake, and what must be said about it.
#[test]
fn mistakes_around_the_directory_and_the_gateways_own_ends_are_found() {
    const SHARED: &str = "sessions: { shared: { redis: REDIS, key: { value: KEY } } }";
    let key = "0123456789abcdef0123456789abcdef";
    let shared = |redis: &str, key: &str| SHARED.replace("REDIS", redis).replace("KEY", key);
    let rows: [(&str, &str, &str); 27] = [
        ("admin: { address: '0.0.0.0:9181' }", "C005", "`admin.token` is missing"),
        ("admin: { token: { value: short } }", "C004", "fewer than 16 characters"),
        ("admin: { token: { value: 0123456789abcdef }, address: nowhere }", "C004", "nowhere"),
        ("webhooks: { secrets: [ { value: whsec_short } ] }", "C004", "no signing secret"),
        ("webhooks: { secret: { value: x } }", "C002", "secret"),
        ("sign_out: { redirect_to: http://example.com }", "C004", "no place to go to"),
        ("sign_out: { redirect_to: //example.com }", "C004", "no place to go to"),
        ("sign_out: { redirect_to: 'javascript:alert(1)' }", "C004", "no place to go to"),
        ("sign_out: { redirect_to: '/\\example.com' }", "C004", "no place to go to"),
        ("sign_out: { cookie_domain: 'a; b' }", "C004", "no domain"),
        ("sign_out: { origins: [ app.example.com ] }", "C004", "no origin"),
        ("sign_out: { origins: [ 'https://app.example.com/x' ] }", "C004", "no origin"),
        ("sign_out: { origins: [ 'https://App.example.com' ] }", "C004", "write `https://app.example.com`"),
        ("sign_out: { origins: [ 'https://a.example:443' ] }", "C004", "write `https://a.example`"),
        ("streams: { recheck: 0s }", "C004", "recheck"),
        ("streams: { recheck: 1ms }", "C004", "no time for anything else"),
        ("sessions: { jwt_evidence: always }", "C004", "`never` or `outage`"),
        ("sessions: { max_bytes: 1000 }", "C004", "next to nothing"),
        ("sessions: { unknown_tokens: { per_peer: 0 } }", "C004", "per_peer"),
        ("sessions: { shared: { key: { value: 0123456789abcdef0123456789abcdef } } }", "C005", "redis"),
        (&shared("redis://127.0.0.1", "short"), "C004", "fewer than 32 characters"),
        (&shared("redis://user:hush@127.0.0.1", key), "C004", "keys of their own"),
        (&shared("http://127.0.0.1", key), "C004", "not the address of a Redis"),
        (&shared("redis://127.0.0.1/x", key), "C004", "not the address of a Redis"),
        (
            &shared("redis://127.0.0.1", key).replacen("redis:", "prefix: 'a b', redis:", 1),
            "C004",
            "names in Redis",
        ),
        (&shared("redis://127.0.0.1", key).replacen("redis:", "timeout: 5s, redis:", 1), "C004", "no help"),
        (
            &shared("redis://127.0.0.1", key).replacen("redis:", "ca_file: none.pem, redis:", 1),
            "C004",
            "none.pem",
        ),
    ];
    for (line, code, part) in rows {
        let text = format!("{GOOD}{line}\n");
        let told = mistakes(&text);
        let [(found, Some(10), _)] = told.as_slice() else { panic!("{line}: {told:#?}") };
        let human = read("x.yaml", &text, &[]).unwrap_err().render(false);
        assert!(found == code && human.contains(part), "{line}: {human}");
        for secret in ["hush", "short"] {
            assert!(!human.contains(secret), "{line}: {human}");
        }
    }
    let keys = GOOD.replace("  secret:", "  keys: { file: no-such-file }\n  secret:");
    assert!(
        matches!(mistakes(&keys).as_slice(), [(_, Some(3), message)] if message.contains("no-such-file"))
    );
}

#[test]
fn mistakes_are_found_wherever_they_are() {
    let required = |text: &str| GOOD.replace("require: authenticated", &format!("require: {text}"));
    let cases = [
        ("", "C005"),
        ("stytch: [", "C001"),
        ("a: 1\na: 2\n", "C001"),
        (&GOOD.replace("authenticated", "authentcated"), "C004"),
        (&GOOD.replace("require: authenticated", "require: [authenticated]"), "C004"),
        (&GOOD.replace("require: authenticated", "require: { role: a, mfa: true }"), "C004"),
        (&GOOD.replace("require: authenticated", "require: { all: [] }"), "C004"),
        (&GOOD.replace("require: authenticated", "require: { factor: { typ: totp } }"), "C002"),
        (&GOOD.replace("require: authenticated", "require: { factor: { type: totpp } }"), "C004"),
        (&GOOD.replace("require: authenticated", "require: { factor: { type: totp, max_age: 15 } }"), "C003"),
        (&GOOD.replace("require: authenticated", "public: true\n    require: authenticated"), "C007"),
        (&GOOD.replace("    require: authenticated\n", ""), "C005"),
        (&GOOD.replace("/**", "/a//b"), "C004"),
        (&GOOD.replace("{ path: /** }", "{ path: /**, host: 'a:80' }"), "C004"),
        (&GOOD.replace("{ path: /** }", "{ path: /**, methods: [get] }"), "C004"),
        (&GOOD.replace("{ value: s }", "{ value: s, env: X }"), "C007"),
        (&GOOD.replace("{ value: s }", "{ env: PORTCULLIS_TEST_NOT_SET }"), "C004"),
        (&GOOD.replace("{ value: s }", "{ file: no-such-file }"), "C004"),
        (&GOOD.replace("http://127.0.0.1:3000", "127.0.0.1:3000"), "C004"),
        (&GOOD.replace("http://127.0.0.1:3000", "http://127.0.0.1:3000/path"), "C004"),
        (&format!("{GOOD}  - {{ name: everything, match: {{ path: /x }}, public: true }}\n"), "C007"),
        (&format!("{GOOD}  - {{ name: hidden, match: {{ path: /** }}, public: true }}\n"), "C007"),
        (&required("{ permission: { resource: x } }"), "C005"),
        (&required("{ permission: { resource: x, action: y, organization: acme } }"), "C004"),
        (&required("{ organization: [acme, 123] }"), "C003"),
        (&required("{ organization_from: { host: app.example.com } }"), "C004"),
        (&required("{ organization_from: { host: '{org}' } }"), "C004"),
        (&required("{ organization_from: { host: '{org}.x', path_param: org } }"), "C007"),
        (&required("{ organization_from: { path_param: org } }"), "C004"),
        (&required("{ organization_from: { host: '{org}.x', by: [name] } }"), "C004"),
        (&required("{ machine: [a] }"), "C003"),
        (&required("{ machine: { scopes: ['a b'] } }"), "C003"),
        (&required("{ app: { scope: openid } }"), "C002"),
        (&required("{ client_ip: 10.0.0.1/8 }"), "C004"),
        (&required("{ client_ip: [] }"), "C003"),
        (&required("{ client_ip: '::ffff:10.0.0.1' }"), "C004"),
        (&required("{ use: nothing }"), "C006"),
        (&required("{ shadow: authenticated }"), "C004"),
        (&required("{ not: { shadow: authenticated } }"), "C004"),
        (&required("{ factor: { category: tertiary } }"), "C004"),
        (&required("{ factor: { delivery_method: smss } }"), "C004"),
        (&required("{ claim: { pointer: /a~b, exists: true } }"), "C004"),
        (&format!("{GOOD}requirements: {{ a: {{ use: b }}, b: {{ use: a }} }}\n"), "C007"),
        (&format!("{GOOD}identity: {{ preset: [none, authelia] }}\n"), "C007"),
        (&format!("{GOOD}identity: {{ preset: autelia }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ header_prefix: content- }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ headers: [ {{ name: set-cookie, from: roles }} ] }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ headers: [ {{ name: x-a, from: role }} ] }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ headers: [ {{ name: x-a, from: roles, claim: /x }} ] }}\n"), "C007"),
        (
            &format!(
                "{GOOD}identity: {{ headers: [ {{ name: x-a, from: roles }}, {{ name: X-A, from: email }} ] }}\n"
            ),
            "C007",
        ),
        (
            &format!("{GOOD}identity: {{ headers: [ {{ name: x-a, from: roles, separator: ab }} ] }}\n"),
            "C004",
        ),
        (&format!("{GOOD}identity: {{ assertion: {{ algorithm: RS256 }} }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ assertion: {{ lifetime: 2h }} }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ assertion: {{ lifetime: 60s, rotate_every: 90s }} }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ assertion: {{ secret: {{ value: short }} }} }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ assertion: {{ header: x-auth-roles }} }}\n"), "C007"),
        (&format!("{GOOD}identity: {{ assertion: {{ audience: \"\" }} }}\n"), "C004"),
        (&format!("{GOOD}sign_in: {{ return_param: next }}\n"), "C005"),
        (&format!("{GOOD}sign_in: {{ url: login }}\n"), "C004"),
        (&format!("{GOOD}sign_in: {{ url: \"https://l/?next=x\" }}\n"), "C007"),
        (&format!("{GOOD}sign_in: {{ url: \"https://l/\", return_param: reason }}\n"), "C007"),
        (&format!("{GOOD}sign_in: {{ url: \"https://l/\", scheme: ftp }}\n"), "C004"),
        (&format!("{GOOD}cors: {{}}\n"), "C005"),
        (&format!("{GOOD}cors: {{ origins: [https://a.example/] }}\n"), "C004"),
        (&format!("{GOOD}cors: {{ origins: [https://a.example], methods: [get] }}\n"), "C004"),
        (&format!("{GOOD}cors: {{ origins: [https://a.example], headers: [\"*\"] }}\n"), "C004"),
        (&format!("{GOOD}refusals: {{ page: no-such-file }}\n"), "C004"),
        (&format!("{GOOD}refusals: {{ type_prefix: \"a b\" }}\n"), "C004"),
        (
            &format!(
                "{GOOD}credentials: [ {{ trusted_identity: {{ organization_header: x-o, member_header: x-m }} }} ]\n"
            ),
            "C005",
        ),
        (
            &format!(
                "{GOOD}credentials: [ {{ trusted_identity: {{ organization_header: x-o, member_header: x-m, peers: [10.0.0.0/8] }} }} ]\n"
            ),
            "C004",
        ),
        (
            &format!(
                "{GOOD}credentials: [ {{ trusted_identity: {{ organization_header: x-o, member_header: x-o, peers: [10.0.0.1] }} }} ]\n"
            ),
            "C007",
        ),
        (
            &format!(
                "{GOOD}credentials: [ {{ trusted_identity: {{ organization_header: x-o, member_header: authorization, peers: [10.0.0.1] }} }} ]\n"
            ),
            "C004",
        ),
        (
            &format!(
                "{GOOD}credentials: [ {{ trusted_identity: {{ organization_header: x-o, member_header: x-m, client_certificate: [a] }} }} ]\n"
            ),
            "C007",
        ),
        (&GOOD.replace("require: authenticated", "require: authenticated\n    audience: x"), "C007"),
        (&GOOD.replace("require: authenticated", "public: true\n    shadow: authenticated"), "C007"),
        (&required("{ all: [authenticated, { shadow: mfa }] }\n    shadow: mfa"), "C007"),
        (&GOOD.replace("/**", "'/a/{b}{c}'"), "C004"),
        (&format!("{GOOD}sessions: {{ fresh_for: 0s, stale_while_revalidate: 0s }}\n"), "C004"),
        (&format!("{GOOD}identity: {{ header_prefix: X_Auth }}\n"), "C004"),
        (&format!("{GOOD}log: {{ level: loud=maybe }}\n"), "C004"),
        (&format!("{GOOD}log: {{ access_format: clf }}\n"), "C004"),
        (&format!("{GOOD}log: {{ audit: {{ file: /dev/stdout }} }}\n"), "C007"),
        (&format!("{GOOD}log: {{ audit: {{ file: /dev/stderr }} }}\n"), "C007"),
        (&format!("{GOOD}log: {{ access: false, audit: {{ file: /dev/stdout, sync: true }} }}\n"), "C007"),
        (&format!("{GOOD}log: {{ audit: {{ file: audit.jsonl, deadline: 1m }} }}\n"), "C004"),
        (&format!("{GOOD}log: {{ audit: {{ sync: true }} }}\n"), "C005"),
        (&format!("{GOOD}listeners: []\n"), "C005"),
        (&format!("{GOOD}listeners: [ {{ address: nowhere }} ]\n"), "C004"),
        (&format!("{GOOD}credentials: [ {{ cookie: stytch_intermediate_session_token }} ]\n"), "C004"),
    ];
    for (text, code) in cases {
        let told = mistakes(text);
        assert!(told.iter().any(|(found, _, _)| found == code), "{code} expected for:\n{text}\n{told:#?}");
    }
    assert!(mistakes(GOOD).is_empty());
}

/// Requirements that use each other can grow without end; neither reading nor deciding does.
#[test]
fn requirements_that_use_each_other_stay_small() {
    let chain: String = (1..2_000).map(|n| format!("  a{n}: {{ use: a{} }}\n", n - 1)).collect();
    let doubling: String =
        (1..40).map(|n| format!("  a{n}: {{ all: [{{ use: a{0} }}, {{ use: a{0} }}] }}\n", n - 1)).collect();
    for named in [chain, doubling] {
        let began = std::time::Instant::now();
        let told = mistakes(&format!("requirements:\n  a0: authenticated\n{named}{GOOD}"));
        assert!(told.iter().any(|(code, _, _)| code == "C004"), "{told:?}");
        assert!(began.elapsed() < std::time::Duration::from_secs(20));
    }
}

#[test]
fn no_mistake_shows_a_secret() {
    let secret = |text: &str| GOOD.replace("secret: { value: s }", text);
    for text in [
        secret("secret: secret-test-hush"),
        secret("secret: { value: secret-test-hush, env: X }"),
        secret("secret: { value: secret-test-hush, vlaue: x }"),
        secret("secret: { value: [secret-test-hush] }"),
        secret("secert: { value: secret-test-hush }"),
        secret("stytch_secret: secret-test-hush"),
        secret("secret:\n    env: X\n    vaule: secret-test-hush"),
        secret("secret: { value: secret-test-hush: x }"),
        secret("secret: { value: s }\n  base_url: https://me:hush@api.example.com/x"),
        GOOD.replace("http://127", "http://me:hush@127"),
        format!("{GOOD}password: secret-test-hush\n"),
    ] {
        let invalid = read("x.yaml", &text, &[]).unwrap_err();
        let told = invalid.render(false) + &portcullis::config::render_json(&invalid.diagnostics);
        assert!(!told.contains("hush"), "{text}\n{told}");
        assert!(told.contains("^"), "nothing is pointed at:\n{told}");
    }
    let told = read("x.yaml", GOOD, &[("stytch.secret", "secret-test-hush")]).unwrap_err().render(false);
    assert!(!told.contains("hush"), "{told}");
}

#[test]
fn a_secret_that_is_not_there_is_pointed_at() {
    let told = read("x.yaml", &GOOD.replace("{ value: s }", "{ env: PORTCULLIS_TEST_NOT_SET }"), &[])
        .unwrap_err()
        .render(false);
    assert!(told.contains("^^^^") && told.contains("put it there, or check `--without-secrets`"), "{told}");
}

#[test]
fn letters_of_any_alphabet_do_not_upset_the_pointer() {
    assert_eq!(mistakes("\u{e9}\u{e9}\u{e9}\u{e9}: [}\n")[0].0, "C001");
    assert_eq!(
        mistakes(&GOOD.replace("name: everything", "name: \u{e9}\u{e9}\u{e9}, nmae: x"))[0].1,
        Some(7)
    );
}

#[test]
fn a_missing_file_is_no_empty_configuration() {
    let options =
        LoadOptions { file: "no/such.yaml".into(), overrides: Vec::new(), secrets: SecretPolicy::Required };
    assert!(load(&options).unwrap_err().render(false).contains("cannot be read"));
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = r#"
[stytch]
project_id = "project-test-1"
secret = { value = "s" }
[upstreams.app]
url = "http://127.0.0.1:3000"
[[routes]]
name = "everything"
match = { path = "/**" }
require = "authenticated"
"#;
    assert!(read("x.toml", toml, &[]).is_ok());
    let json = r#"{"stytch":{"project_id":"project-test-1","secret":{"value":"s"}},
        "upstreams":{"app":{"url":"http://127.0.0.1:3000"}},
        "routes":[{"name":"everything","match":{"path":"/**"},"require":"authenticated"}]}"#;
    assert!(read("x.json", json, &[]).is_ok());
    let wrong = read("x.toml", &toml.replace("authenticated", "nobody"), &[]).unwrap_err();
    assert_eq!(wrong.diagnostics[0].line, Some(10));
}

#[test]
fn the_command_line_outranks_the_file_and_keeps_text_as_text() {
    let set = |key, value| read("x.yaml", GOOD, &[(key, value)]);
    assert_eq!(set("stytch.secret.value", "0012").unwrap().stytch.secret.expose(), "0012");
    assert_eq!(set("stytch.secret.value", "true").unwrap().stytch.secret.expose(), "true");
    assert_eq!(set("sessions.max_entries", "7").unwrap().memory.max_entries, 7);
    assert_eq!(set("sessions.fresh_for", "7s").unwrap().routes[0].freshness.fresh_for.as_secs(), 7);
    let wrong = set("sessions.fresh_for", "soon").unwrap_err();
    assert!(wrong.diagnostics[0].message.contains("option `--set sessions.fresh_for`"), "{wrong:?}");
}

#[test]
fn a_route_that_bounds_its_evidence_does_not_take_older_for_want_of_better() {
    let text = GOOD.replace("require: authenticated", "require: authenticated\n    max_staleness: 5s");
    let freshness = read("x.yaml", &text, &[]).unwrap().routes[0].freshness;
    assert_eq!((freshness.max_staleness.as_secs(), freshness.stale_if_error.as_secs()), (5, 0));
    let freshness = read("x.yaml", GOOD, &[]).unwrap().routes[0].freshness;
    assert_eq!((freshness.max_staleness.as_secs(), freshness.stale_if_error.as_secs()), (30, 300));
}
