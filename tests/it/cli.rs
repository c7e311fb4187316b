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
fn a_secret_given_from_above_takes_the_place_of_one_in_another_form() {
    let config = file(".yaml", CONFIGURATION);
    let path = config.path().to_str().unwrap();
    let told = portcullis(&["check", "-c", path, "--set", "stytch.secret.value=a-secret"]);
    assert!(told.status.success(), "{}", text(&told.stderr));
    let both = ["--set", "stytch.secret.value=a-secret", "--set", "stytch.secret.file=b"];
    let told = portcullis(&[&["check", "-c", path][..], &both].concat());
    assert!(
        text(&told.stderr).contains("exactly one way"),
        "two from the same place are two: {}",
        text(&told.stderr)
    );
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

#[test]
fn the_resolved_configuration_says_where_values_are_from_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let yaml = "stytch: { project_id: project-test-1, secret: { value: hush-0000000001 } }
admin: { token: { value: hush-0000000000000002 } }
webhooks: { secrets: [ { value: whsec_aHVzaDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMw== } ] }
sessions: { shared: { redis: \"redis://127.0.0.1\", username: me, password: { value: hush-4 }, key: { value: hush-50000000000000000000000000000000000000 } } }
identity: { assertion: { secret: { value: hush-600000000000000000000000000000000000000 } } }
upstreams: { app: { url: http://127.0.0.1:1 } }
routes: [ { name: a, match: { path: /** }, public: true } ]
";
    std::fs::write(&file, yaml).unwrap();
    for format in ["human", "json"] {
        let shown = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["config", "--format", format, "-c"])
            .arg(&file)
            .args(["--set", "sessions.fresh_for=7s"])
            .env("PORTCULLIS_DRAIN_TIMEOUT", "9s")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hush-7")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
            .output()
            .unwrap();
        let told = format!("{}{}", text(&shown.stdout), text(&shown.stderr));
        assert!(shown.status.success(), "{told}");
        assert!(!told.contains("hush") && !told.contains("aHVzaD"), "{told}");
        for part in [
            "[redacted]",
            "a.yaml:1",
            "option `--set sessions.fresh_for`",
            "`PORTCULLIS_DRAIN_TIMEOUT`",
            "`OTEL_EXPORTER_OTLP_HEADERS`",
            "`OTEL_RESOURCE_ATTRIBUTES`",
            "default",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[test]
fn completions_and_manual_pages_are_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    assert!(portcullis(&["man", folder.path().to_str().unwrap()]).status.success());
    let help = text(&portcullis(&["--help"]).stdout);
    let commands =
        help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let mut count = 0;
    for command in commands.map(|line| line.split(' ').next().unwrap()).filter(|word| !word.starts_with('-'))
    {
        assert!(folder.path().join(format!("portcullis-{command}.1")).exists(), "{command}");
        count += 1;
    }
    assert!(count > 15, "{help}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&portcullis(&["completions", shell]).stdout).contains("explain"), "{shell}");
    }
}

#[test]
fn a_sidecar_is_put_into_a_manifest_once() {
    let manifest = "apiVersion: apps/v1
kind: Deployment
metadata: { name: shop }
spec:
  selector: { matchLabels: { app: shop } }
  template:
    metadata: { labels: { app: shop } }
    spec:
      initContainers: [ { name: migrate, image: shop } ]
      volumes: [ { name: v, secret: { secretName: s, defaultMode: 0400 } } ]
      containers:
        - name: shop
          image: shop
          readinessProbe: { httpGet: { path: /ready, port: 3000 }, periodSeconds: 3 }
          livenessProbe: { tcpSocket: { port: 3000 } }
---
apiVersion: v1
kind: Service
metadata: { name: shop }
spec: { selector: { app: shop }, ports: [ { port: 80, targetPort: 3000 } ] }
";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, manifest).unwrap();
    let injected =
        portcullis(&["inject", "-f", file.to_str().unwrap(), "--image", "example.com/portcullis:1"]);
    let told = text(&injected.stderr);
    assert!(injected.status.success(), "{told}");
    for part in [
        "127.0.0.1",
        "port 8080",
        "shop-readiness: { path: /ready }    # of the upstream on port 3000",
        "the liveness probe of `shop` cannot go through the sidecar",
        "warning: Service `shop` sends to 3000",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let resources: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text(&injected.stdout)).unwrap();
    let spec = &resources[0]["spec"]["template"]["spec"];
    let names: Vec<_> = spec["initContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["portcullis", "migrate"], "whatever starts before may need it");
    assert_eq!(spec["initContainers"][0]["image"], "example.com/portcullis:1");
    assert_eq!(spec["containers"][0]["readinessProbe"]["httpGet"]["path"], "/probe/shop-readiness");
    assert_eq!(spec["containers"][0]["readinessProbe"]["periodSeconds"], 3);
    assert_eq!(spec["containers"][0]["livenessProbe"]["tcpSocket"]["port"], 3000);
    assert_eq!(spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 12);
    assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o400, "as kubectl reads it");
    assert_eq!(resources[1]["kind"], "Service");
    std::fs::write(&file, &injected.stdout).unwrap();
    let again = portcullis(&["inject", "-f", file.to_str().unwrap()]);
    let twice: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text(&again.stdout)).unwrap();
    assert_eq!(twice, resources);
    std::fs::write(
        &file,
        manifest.replace("image: shop\n", "image: shop\n          ports: [ { containerPort: 8080 } ]\n"),
    )
    .unwrap();
    let taken = portcullis(&["inject", "-f", file.to_str().unwrap()]);
    assert!(!taken.status.success() && text(&taken.stderr).contains("uses port 8080 itself"));
    std::fs::write(&file, "kind: Service\n").unwrap();
    assert_eq!(portcullis(&["inject", "-f", file.to_str().unwrap()]).status.code(), Some(1));
}
