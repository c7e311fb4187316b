//! The documentation, held to its word: every page that says so is run, every configuration checked, every command line
//! parsed, every link followed.

use std::path::Path;
use std::process::Command;

use crate::support::{
    Block, PROGRAM, Site, blocks_of, free_port, is_here, is_here_with, pages, run_page, said,
};

fn usual_tools() -> bool {
    is_here("python3") && is_here("curl") && is_here_with("openssl", "version")
}

#[test]
fn the_tutorial_does_what_it_says() {
    if usual_tools() {
        let output = run_page("docs/tutorial.md").unwrap();
        assert!(output.contains("secret plans"), "{output}");
    }
}

#[test]
fn the_page_on_kubernetes_does_what_can_be_done_without_a_cluster() {
    if usual_tools() {
        run_page("docs/how-to/sidecar.md");
    }
}

#[test]
fn the_page_on_the_edge_does_what_it_says() {
    if usual_tools() {
        run_page("docs/how-to/edge.md");
    }
}

#[test]
fn the_page_on_redis_does_what_it_says() {
    if usual_tools() && is_here("redis-server") {
        run_page("docs/how-to/redis.md");
    }
}

#[test]
fn the_page_on_webhooks_does_what_it_says() {
    if usual_tools() {
        run_page("docs/how-to/webhooks.md");
    }
}

#[test]
fn the_page_on_prometheus_does_what_it_says() {
    if usual_tools() && is_here("prometheus") {
        run_page("docs/how-to/prometheus.md");
    }
}

#[test]
fn the_page_on_nginx_does_what_it_says() {
    if usual_tools() && is_here_with("/usr/sbin/nginx", "-v") {
        run_page("docs/how-to/from-nginx-auth-request.md");
    }
}

#[test]
fn the_page_on_oauth2_proxy_does_what_it_says() {
    if usual_tools() {
        run_page("docs/how-to/from-oauth2-proxy.md");
    }
}

/// A configuration that parts of one are laid over.
const REST: &str =
    "stytch: { project_id: project-test-11111111-1111-4111-8111-111111111111, secret: { value: s } }
upstreams: { app: { url: \"http://127.0.0.1:3000\" } }
routes: [ { name: everything, match: { path: /** }, require: authenticated } ]
";

#[test]
fn every_configuration_in_the_pages_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for block in pages().iter().flat_map(|page| blocks_of(page)).filter(|block| block.kind == "yaml") {
        let has = |key: &str| block.text.lines().any(|line| line.starts_with(&format!("{key}:")));
        let rest: String =
            REST.lines().filter(|line| !has(line.split(':').next().unwrap())).collect::<Vec<_>>().join("\n");
        let file = folder.path().join("portcullis.yaml");
        std::fs::write(&file, format!("{rest}\n{}", block.text)).unwrap();
        let told =
            Command::new(PROGRAM).args(["check", "--without-secrets", "-c"]).arg(&file).output().unwrap();
        assert!(told.status.success(), "{}: {}", block.place(), said(&told));
        checked += 1;
    }
    assert!(checked >= 8, "{checked}");
}

#[test]
fn the_cases_in_the_pages_hold() {
    let folder = tempfile::tempdir().unwrap();
    let portal = Path::new("tests/it/cases/portal");
    std::fs::copy(portal.join("rbac.json"), folder.path().join("rbac.json")).unwrap();
    let all: Vec<Block> = pages().iter().flat_map(|page| blocks_of(page)).collect();
    let cases: Vec<&Block> = all.iter().filter(|block| block.kind == "yaml cases").collect();
    assert!(!cases.is_empty());
    for block in cases {
        let file = folder.path().join("cases.yaml");
        std::fs::write(&file, &block.text).unwrap();
        let mut command = Command::new(PROGRAM);
        let told = command.args(["test", "-c"]).arg(portal.join("portal.yaml")).arg(&file).output().unwrap();
        assert!(told.status.success(), "{}: {}", block.place(), said(&told));
    }
}

#[test]
fn the_seeds_in_the_pages_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<Block> = pages().iter().flat_map(|page| blocks_of(page)).collect();
    let seeds: Vec<&Block> = all.iter().filter(|block| block.kind == "yaml seed").collect();
    assert!(!seeds.is_empty());
    for block in seeds {
        let file = folder.path().join("seed.yaml");
        std::fs::write(&file, &block.text).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("timeout");
        // It runs until it is told to end.
        command.args(["--signal=TERM", "2", PROGRAM, "emulate", "--address", &address, "--seed"]).arg(&file);
        let told = command.output().unwrap();
        assert!(said(&told).contains("project-test-1"), "{}: {}", block.place(), said(&told));
    }
}

/// Calls of a running gateway that pages show by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_in_the_pages_is_answered() {
    if !is_here("curl") {
        return;
    }
    let site = Site::new("").await;
    let _running = site.run(&[]);
    site.until_ready().await;
    let session = site.emulator.personas()[0].session_id.clone();
    let mut called = 0;
    for page in ["docs/operating.md", "docs/revocation.md", "docs/policy.md"] {
        for block in blocks_of(Path::new(page)).iter().filter(|block| block.text.contains("curl ")) {
            let text = block.text.replace("$ curl", "curl").replace("curl ", "curl --fail-with-body ");
            let text =
                text.replace("127.0.0.1:9181", &site.admin.to_string()).replace("session-live-…", &session);
            let mut command = Command::new("bash");
            command.args(["-ec", &text]).env("PORTCULLIS_ADMIN_TOKEN", "a-token-of-some-length");
            let told = command.env("ADMIN_TOKEN", "a-token-of-some-length").output().unwrap();
            assert!(told.status.success(), "{}: {}", block.place(), said(&told));
            called += 1;
        }
    }
    assert!(called >= 3, "{called}");
}

/// What is no configuration says what it is, after the language.
#[test]
fn every_block_of_the_pages_is_of_a_kind_that_is_looked_at() {
    let known = [
        "",
        "text",
        "sh",
        "sh host",
        "sh cluster",
        "yaml",
        "yaml cases",
        "yaml seed",
        "yaml kubernetes",
        "yaml values",
        "console",
        "js",
        "python",
        "go",
        "java",
        "rust",
        "nginx",
        "spki",
    ];
    for block in pages().iter().flat_map(|page| blocks_of(page)) {
        assert!(known.contains(&block.kind.as_str()), "{}: `{}`", block.place(), block.kind);
    }
}

/// Commands of ours with options that are there; files of ours that are there.
#[test]
fn every_command_line_in_the_pages_is_one() {
    let mut seen = 0;
    for block in pages().iter().flat_map(|page| blocks_of(page)) {
        if !["sh", "console"].contains(&block.language()) {
            continue;
        }
        let text = block.text.replace("\\\n", " ");
        for line in text.lines() {
            let line = line.split("  #").next().unwrap_or_default();
            for part in line.split(['|', ';', '&']) {
                let words: Vec<&str> = part.split_whitespace().skip_while(|word| *word == "$").collect();
                if let [first, command, options @ ..] = words.as_slice()
                    && *first == "portcullis"
                {
                    seen += 1;
                    assert_options(&block, command, options);
                }
                for word in words.iter().map(|word| word.trim_matches(['"', '\''])) {
                    let word = word.strip_prefix("$SOURCE/").unwrap_or(word);
                    let ours = ["deploy/", "config/", "docs/", "benches/", "tests/"]
                        .iter()
                        .any(|top| word.starts_with(top));
                    assert!(
                        !ours || word.contains('*') || Path::new(word).exists(),
                        "{}: `{word}` is not there",
                        block.place()
                    );
                }
            }
        }
    }
    assert!(seen >= 30, "{seen}");
}

fn assert_options(block: &Block, command: &str, options: &[&str]) {
    let help = Command::new(PROGRAM).args([command, "--help"]).output().unwrap();
    assert!(help.status.success(), "{}: `portcullis {command}` is no command", block.place());
    let help = said(&help);
    for option in options.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
        let option = option.split('=').next().unwrap();
        let there = help.split([' ', ',', '\n', '[', '=']).any(|word| word == option);
        assert!(there, "{}: `portcullis {command}` has no `{option}`", block.place());
    }
}

#[test]
fn every_link_in_the_pages_leads_somewhere() {
    let anchor = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase();
        kept.chars()
            .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect()
    };
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: `{link}` leads nowhere", page.display());
            if !fragment.is_empty() {
                let there = std::fs::read_to_string(&target).unwrap();
                let found = there
                    .lines()
                    .filter_map(|line| line.strip_prefix('#'))
                    .any(|line| anchor(line.trim_start_matches('#')) == fragment);
                assert!(found, "{}: `{link}` has no such part", page.display());
            }
        }
    }
}

#[test]
fn the_command_lines_reference_is_what_the_program_says() {
    let told =
        Command::new(PROGRAM).args(["man", "--markdown"]).env_remove("PORTCULLIS_CONFIG").output().unwrap();
    let page = std::fs::read_to_string("docs/command-line.md").unwrap();
    assert!(page == said(&told), "make it anew: portcullis man --markdown > docs/command-line.md");
}

/// Whoever begins somewhere finds the rest.
#[test]
fn every_page_is_in_the_index() {
    let index = std::fs::read_to_string("docs/README.md").unwrap();
    for page in pages() {
        let Ok(within) = page.strip_prefix("docs") else { continue };
        let name = within.to_str().unwrap();
        assert!(
            name == "README.md" || name.starts_with("decisions/") || index.contains(&format!("]({name})")),
            "`{name}` is in no index"
        );
    }
}
