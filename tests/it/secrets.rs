//! A run with known secrets, and everything it says: none of them is in it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::emulator::{EchoOrigin, Emulator, EmulatorSettings};
use serde_json::json;

use crate::support::{ANY, Ask, Running, ask, free_port, install_crypto, try_ask};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_of_a_run_holds_a_secret() {
    install_crypto();
    let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
    let echo = EchoOrigin::start(ANY).await.unwrap();
    let [traffic, ops, admin] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let persona = emulator.personas().remove(0);
    // Ours, and what callers show. A word of each is enough to know it by.
    let (token, webhook) = ("hush-admin-token-0001", "whsec_aHVzaC13ZWJob29rLXNlY3JldC0wMDAx");
    let (key, previous) = ("hush-shared-key-0001-0123456789abcdef", "hush-before-key-0001-0123456789abcdef");
    let (password, assertion) = ("hush-redis-password-0001", "hush-assertion-0001-0123456789abcdef");
    let collector = "hush-collector-key-0001";
    let shown = "hush-shown-by-a-caller-0001";
    let signature = persona.jwt.rsplit('.').next().unwrap().to_owned();
    let project = emulator.secret();
    let secrets = [
        &project,
        token,
        webhook,
        key,
        previous,
        password,
        assertion,
        collector,
        shown,
        &persona.token,
        &signature,
    ];

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portcullis.yaml");
    let yaml = format!(
        "listeners: [ {{ address: \"{traffic}\" }} ]
ops: {{ address: \"{ops}\" }}
admin: {{ address: \"{admin}\", token: {{ value: {token} }} }}
stytch: {{ project_id: {}, secret: {{ env: PROJECT_SECRET }}, base_url: \"{}\" }}
webhooks: {{ secrets: [ {{ value: {webhook} }} ] }}
identity: {{ assertion: {{ secret: {{ value: {assertion} }} }} }}
sessions: {{ shared: {{ redis: \"redis://127.0.0.1:1\", username: me, password: {{ value: {password} }}, key: {{ value: {key} }}, previous_key: {{ value: {previous} }} }} }}
tracing: {{ endpoint: \"http://127.0.0.1:1\", timeout: 100ms }}
upstreams: {{ app: {{ url: \"http://{}\" }} }}
log: {{ level: trace, audit: {{ file: audit.jsonl }} }}
routes:
  - {{ name: admin, match: {{ path: /admin/** }}, require: {{ role: stytch_admin }} }}
  - {{ name: everything, match: {{ path: /** }}, require: authenticated }}
",
        emulator.project_id(),
        emulator.url(),
        echo.address()
    );
    std::fs::write(&file, &yaml).unwrap();
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let program = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("-c").arg(&file).env("PROJECT_SECRET", &project);
        command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={collector}"));
        command
    };
    let mut running = program(&["run"]);
    running.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&err).unwrap());
    let mut running = Running(running.spawn().unwrap());
    let (traffic, ops, admin) = (traffic.parse().unwrap(), ops.parse().unwrap(), admin.parse().unwrap());
    let began = Instant::now();
    while try_ask(ops, Ask::get("/readyz")).await.is_none_or(|answer| answer.status != 200) {
        assert!(began.elapsed() < Duration::from_secs(20), "it is not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let mut said = Vec::new();
    let cookie = format!("stytch_session={}", persona.token);
    for request in [
        Ask::get("/a").bearer(&persona.jwt),
        Ask::get("/a").bearer(&persona.token),
        Ask::get("/a").header("cookie", &cookie),
        Ask::get("/admin/x").bearer(&persona.jwt),
        Ask::get("/a").bearer(shown),
        Ask::get(&format!("/a?token={shown}")),
        Ask::get("/a").header("authorization", &format!("Basic {shown}")),
        Ask::get("/.portcullis/whoami").header("cookie", &cookie),
        Ask::new("POST", "/.portcullis/webhooks/stytch").header("svix-signature", shown).body("{}"),
    ] {
        let answer = ask(traffic, request).await;
        // What is answered from the application is the caller's own: it echoes.
        if answer.status != 200 {
            said.push(format!("{:?}{}", answer.headers, answer.text()));
        }
    }
    let explain = json!({ "method": "GET", "url": "http://a/admin/x", "jwt": persona.jwt }).to_string();
    for (address, request) in [
        (ops, Ask::get("/metrics")),
        (ops, Ask::get("/readyz")),
        (admin, Ask::get("/")),
        (admin, Ask::get("/admin/status").bearer(token)),
        (admin, Ask::get("/admin/config").bearer(token)),
        (
            admin,
            Ask::new("POST", "/admin/explain")
                .bearer(token)
                .header("content-type", "application/json")
                .body(explain),
        ),
        (admin, Ask::new("POST", "/admin/reload").bearer(shown)),
    ] {
        let answer = ask(address, request).await;
        assert!(answer.status < 500, "{}", answer.text());
        said.push(format!("{:?}{}", answer.headers, answer.text()));
    }
    let mut told = |arguments: &[&str]| {
        let output = program(arguments).output().unwrap();
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
        said.push(String::from_utf8_lossy(&output.stderr).into_owned());
    };
    told(&["config"]);
    told(&["config", "--format", "json"]);
    told(&["status"]);
    told(&["explain", "--url", "http://a/admin/x", "--jwt", &persona.jwt]);
    // A mistake in the line of every secret, for the command, the log and the page.
    std::fs::write(&file, yaml.replace("{ value:", "{ vaule:").replace("routes:", "ruotes:")).unwrap();
    told(&["check"]);
    told(&["check", "--format", "json"]);
    told(&["reload"]);
    // The token of the command is one of them, so it is the watcher that tells the program.
    let page = loop {
        let page = ask(admin, Ask::get("/")).await.text();
        if page.contains("vaule") {
            break page;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the page does not tell of it: {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    said.push(page);
    let stopped =
        Command::new("kill").arg(running.0.id().to_string()).stderr(Stdio::null()).status().unwrap();
    assert!(stopped.success() && running.0.wait().unwrap().success());
    let (lines, log) = (std::fs::read_to_string(&out).unwrap(), std::fs::read_to_string(&err).unwrap());
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let count = |text: &str| text.lines().count();
    assert!(
        count(&lines) >= 9 && count(&audit) >= 9 && log.contains("TRACE"),
        "there is something to look through"
    );
    said.extend([lines, log, audit]);

    for secret in secrets {
        for text in &said {
            let at = text.find(secret);
            assert_eq!(at, None, "`{secret}` in: {}", &text[at.unwrap_or(0).saturating_sub(300)..]);
        }
    }
}
