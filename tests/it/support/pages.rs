//! Pages of the documentation, and what their reader would type.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use super::{PROGRAM, said};

/// Ports that pages name; each becomes a free one.
const PORTS: [&str; 14] = [
    "8080", "8081", "8443", "9180", "9181", "9182", "9280", "9281", "3000", "3001", "6379", "9090", "4180",
    "8090",
];

/// A fenced part of a page: what comes after the fence's marks, and what is in it.
pub(crate) struct Block {
    pub(crate) page: PathBuf,
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn language(&self) -> &str {
        self.kind.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn place(&self) -> String {
        format!("{}: {}", self.page.display(), self.text.lines().next().unwrap_or_default())
    }
}

pub(crate) fn pages() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md", "benches/README.md"]
            .map(PathBuf::from)
            .into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn blocks_of(page: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                open =
                    Some(Block { page: page.to_owned(), kind: kind.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence is not closed", page.display());
    found
}

/// Runs what a page has its reader type, in an empty folder, and compares each status it prints with what the page says
/// (`# 200` at the end of a line).
pub(crate) fn run_page(page: &str) -> Option<String> {
    let blocks = blocks_of(Path::new(page));
    let script: Vec<&str> = blocks
        .iter()
        // It is built already; and what is of a real host or cluster is not for a test to do.
        .filter(|block| block.kind == "sh" && !block.text.starts_with("cargo build"))
        .map(|block| block.text.as_str())
        .collect();
    let script = script.join("\n");
    let expected: Vec<&str> = script
        .lines()
        .filter_map(|line| line.rsplit_once("# ").map(|(_, code)| code.trim()))
        .filter(|code| is_status(code))
        .collect();
    let mut script = format!("set -e -m\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    let free: Vec<String> = PORTS.iter().map(|_| lasting_port().to_string()).collect();
    for (usual, free) in PORTS.iter().zip(&free) {
        script = script.replace(usual, free);
    }
    let port = |usual: &str| {
        let at = PORTS.iter().position(|port| *port == usual).unwrap();
        format!("127.0.0.1:{}", free[at])
    };
    // The tutorial has what is usual.
    script =
        script.replace("portcullis emulate &", &format!("portcullis emulate --address {} &", port("9182")));
    let folder = tempfile::tempdir().unwrap();
    let programs = Path::new(PROGRAM).parent().unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["60", "bash", "-c", &script])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{}:/usr/sbin", programs.display(), std::env::var("PATH").unwrap()))
        .env("SOURCE", env!("CARGO_MANIFEST_DIR"))
        .env_remove("PORTCULLIS_CONFIG");
    if !script.contains("ops:") {
        command.env("PORTCULLIS_OPS__ADDRESS", port("9180")).env("PORTCULLIS_ADMIN__ADDRESS", port("9181"));
    }
    let told = command.output().unwrap();
    let logs = || {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
        logs.map(|log| std::fs::read_to_string(log).unwrap_or_default()).collect::<String>()
    };
    assert!(told.status.success(), "{page}: {}\n{}\n{}", told.status, said(&told), logs());
    let output = String::from_utf8(told.stdout).unwrap();
    let seen: Vec<&str> = output.lines().filter(|line| is_status(line)).collect();
    assert_eq!(seen, expected, "{page}: {output}\n{}", logs());
    assert!(!expected.is_empty(), "{page} shows nothing");
    Some(output)
}

/// A port that nobody is given by chance before the page comes to it: outside of what the system hands out.
fn lasting_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no port is free");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn is_status(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}
