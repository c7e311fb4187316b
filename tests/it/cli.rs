//! The program as it is typed.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn portcullis(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(args).env("NO_COLOR", "1").env_remove("PORTCULLIS_CONFIG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(ending: &str, content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

const CONFIGURATION: &str = r#"
stytch: { project_id: project-test-1, secret: { env: PORTCULLIS_TEST_SECRET } }
upstreams: { app: { url: "http://127.0.0.1:3000" } }
routes:
  - { name: everything, match: { path: /** }, require: authenticated }
  - name: admin
    match: { path: /admin/**, methods: [GET, POST] }
    require: { all: [ { role: admin }, { factor: { type: totp, max_age: 15m } } ] }
"#;

#[test]
fn check_says_yes_or_what_is_wrong() {
    let good = file(".yaml", CONFIGURATION);
    let path = good.path().to_str().unwrap();
    let missing = portcullis(&["check", "-c", path]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("environment variable `PORTCULLIS_TEST_SECRET` is not set"));
    assert!(portcullis(&["check", "-c", path, "--without-secrets"]).status.success());

    let bad = file(".yaml", &CONFIGURATION.replace("authenticated", "nobody").replace("url:", "uri:"));
    let path = bad.path().to_str().unwrap();
    let told = portcullis(&["check", "-c", path, "--without-secrets"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(text(&told.stderr).contains("2 mistakes found"), "{}", text(&told.stderr));
    let json = portcullis(&["check", "-c", path, "--without-secrets", "--format", "json"]);
    let told: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told[0]["code"], "C002");
    assert_eq!(told[0]["hint"], "did you mean `url`?");
}

#[test]
fn the_environment_outranks_the_file_and_is_named_in_mistakes() {
    let config = file(".yaml", CONFIGURATION);
    let check = |variable: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let args = ["routes", "-c", config.path().to_str().unwrap()];
        command.args(args).env("NO_COLOR", "1").env(variable, value).output().unwrap()
    };
    let set = check("PORTCULLIS_SESSIONS__FRESH_FOR", "7s");
    assert!(text(&set.stdout).contains("27s"), "{}", text(&set.stdout));
    let wrong = check("PORTCULLIS_SESSIONS__FRESH_FOR", "soon");
    assert!(text(&wrong.stderr).contains("environment variable `PORTCULLIS_SESSIONS__FRESH_FOR`"));
    let misspelt = check("PORTCULLIS_SESIONS__FRESH_FOR", "7s");
    assert!(text(&misspelt.stderr).contains("environment variable `PORTCULLIS_SESIONS__FRESH_FOR`"));
    assert_eq!(check("PORTCULLIS_DRAIN_TIMEOUT", "soon").status.code(), Some(1));
}

#[test]
fn routes_are_listed_in_the_order_they_are_tried() {
    let config = file(".yaml", CONFIGURATION);
    let out = portcullis(&["routes", "-c", config.path().to_str().unwrap()]);
    let table = text(&out.stdout);
    let admin = table.find("/admin/**").unwrap();
    assert!(admin < table.find("everything").unwrap(), "{table}");
    assert!(table.contains("GET,POST"));
}

#[test]
fn explain_tells_each_requirement_with_what_was_seen() {
    let config = file(".yaml", CONFIGURATION);
    let sessions = file(
        ".json",
        r#"{"member_sessions":[{"member_session_id":"session-1","member_id":"member-1","organization_id":"organization-1",
           "organization_slug":"acme","started_at":"2026-01-01T00:00:00Z","expires_at":"2999-01-01T00:00:00Z","roles":["admin"],
           "authentication_factors":[{"type":"totp","delivery_method":"authenticator_app","last_authenticated_at":"2026-01-01T00:00:00Z"}]}]}"#,
    );
    let explain = |url: &str| {
        let (config, sessions) = (config.path().to_str().unwrap(), sessions.path().to_str().unwrap());
        text(
            &portcullis(&[
                "explain",
                "-c",
                config,
                "--url",
                url,
                "--member",
                "acme/member-1",
                "--sessions",
                sessions,
            ])
            .stdout,
        )
    };
    let stepped = explain("https://app.example.com/admin/users");
    for part in [
        "route     admin",
        "[met] role `admin`",
        "[not met] factor `totp`",
        "factor_stale",
        "urn:portcullis:factor:totp",
    ] {
        assert!(stepped.contains(part), "{part} is missing in:\n{stepped}");
    }
    let allowed = explain("https://app.example.com/");
    assert!(allowed.contains("decision  allow") && allowed.contains("x-auth-roles: admin"), "{allowed}");
    let nobody = portcullis(&["explain", "-c", config.path().to_str().unwrap(), "--url", "http://a/admin"]);
    assert!(text(&nobody.stdout).contains("credential_missing"));
    let reserved =
        portcullis(&["explain", "-c", config.path().to_str().unwrap(), "--url", "http://a/.portcullis/x"]);
    assert!(text(&reserved.stdout).contains("refuse 404 reserved_path"));
    let ambiguous =
        portcullis(&["explain", "-c", config.path().to_str().unwrap(), "--url", "http://a/a%5cb"]);
    assert!(text(&ambiguous.stdout).contains("the path has a backslash"));
}

#[test]
fn the_schema_and_the_version_are_printed() {
    let schema: serde_json::Value = serde_json::from_slice(&portcullis(&["schema"]).stdout).unwrap();
    assert_eq!(schema["title"], "Portcullis");
    assert!(text(&portcullis(&["version"]).stdout).starts_with("portcullis "));
}

/// Must show 1, by machine: the demo says where it is, and its requests do what they say.
#[test]
fn the_demo_exports_what_scripts_need_and_ends_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let export = folder.path().join("demo.env");
    let ports = ["--port", "0", "--ops-port", "0", "--admin-port", "0", "--emulator-port", "0"];
    let mut demo = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("demo")
        .args(ports)
        .arg("--export")
        .arg(&export)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !export.exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "the demo did not start");
        std::thread::yield_now();
    }
    let exported = std::fs::read_to_string(&export).unwrap();
    let value = |name: &str| {
        let line = exported.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("{name} was not exported")).to_owned()
    };
    for name in
        ["PROJECT_ID", "PROJECT_SECRET", "EMULATOR_URL", "TOKEN_VIEWER", "JWT_IMPERSONATED", "JWT_OTHER_ORG"]
    {
        value(name);
    }
    let address = value("GATEWAY_URL").trim_start_matches("http://").parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = |path: &str, jwt: Option<&str>| {
        let mut request = crate::support::Ask::get(path);
        if let Some(jwt) = jwt {
            request = request.bearer(&value(jwt));
        }
        runtime.block_on(crate::support::ask(address, request)).status
    };
    assert_eq!(status("/", None), 401);
    assert_eq!(status("/", Some("JWT_VIEWER")), 200);
    assert_eq!(status("/admin", Some("JWT_VIEWER")), 403);
    assert_eq!(status("/admin", Some("JWT_ADMIN")), 200);
    assert_eq!(status("/admin", Some("JWT_STALE_FACTOR")), 401);
    let ops = value("OPS_URL").trim_start_matches("http://").to_owned();
    assert!(portcullis(&["health", "--address", &ops]).status.success());
    let told = Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(demo.wait().unwrap().success());
    assert!(!portcullis(&["health", "--address", &ops]).status.success());
}
