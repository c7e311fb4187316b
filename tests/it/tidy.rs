//! The house, held against its plan: who imports whom, what the pure core may not touch, names, sizes, words.
//!
//! A failure here says what to do. Changing a table is a change of design, with a commit and a reason of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const IDENTITY: &str = "identity";
const CORE: [&str; 3] = ["identity", "session", "policy"];

/// Who may import whom. `settings` stands for the plain values an IO module is built with.
const IMPORTS: [(&str, &[&str]); 17] = [
    (IDENTITY, &[]),
    ("session", &["identity"]),
    ("policy", &["identity", "session"]),
    ("telemetry", &["identity", "session", "policy"]),
    ("directory", &["identity", "session", "policy", "telemetry"]),
    ("stytch", &["identity", "session", "policy", "directory", "telemetry"]),
    ("engine", &["identity", "session", "policy", "directory", "telemetry"]),
    ("revocation", &["identity", "session", "directory", "stytch", "engine", "telemetry"]),
    ("server", &["telemetry"]),
    ("upstream", &["telemetry"]),
    ("doors", &["identity", "session", "policy", "engine", "revocation", "server", "upstream", "telemetry"]),
    (
        "admin",
        &[
            "identity",
            "session",
            "policy",
            "engine",
            "directory",
            "revocation",
            "server",
            "upstream",
            "telemetry",
        ],
    ),
    ("config", &["identity", "session", "policy", "settings"]),
    ("emulator", &[]),
    (
        "app",
        &[
            "identity",
            "session",
            "policy",
            "telemetry",
            "directory",
            "stytch",
            "engine",
            "revocation",
            "server",
            "upstream",
            "doors",
            "admin",
            "config",
            "emulator",
        ],
    ),
    ("cli", &["app", "config", "engine", "policy", "session", "identity", "stytch", "emulator", "telemetry"]),
    ("main", &["cli"]),
];

/// What the pure core must not touch: IO, clocks, logs, runtimes.
const IMPURE: [&str; 16] = [
    "tokio",
    "hyper",
    "moka",
    "tracing",
    "prometheus",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "std::thread",
    "std::io",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "async fn",
    "fastrand",
];

/// Words that say nothing about what a thing is.
const EMPTY_WORDS: [&str; 7] = ["handler", "manager", "helper", "util", "common", "middleware", "misc"];

/// Words of a workplace, not of this project. Split so that this file does not hold them.
const FOREIGN: [(&str, &str); 9] = [
    ("/wo", "rk/"),
    ("clau", "de"),
    ("anthro", "pic"),
    ("index.cr", "ates.io"),
    ("pythonho", "sted"),
    ("registry.npm", "js"),
    ("deb.deb", "ian"),
    ("sub", "agent"),
    ("/root/", ".cargo"),
];

const MAX_LINES: usize = 600;
/// Longer files and why.
const LONGER: [(&str, &str); 0] = [];

pub(crate) struct Source {
    pub(crate) path: PathBuf,
    text: String,
}

impl Source {
    /// The first folder or file below `src`.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src").unwrap();
        let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
        first.trim_end_matches(".rs")
    }

    pub(crate) fn is_test(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "tests.rs")
    }

    /// The code without comments and without its own tests.
    pub(crate) fn code(&self) -> String {
        let before_tests = self.text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = before_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("target") {
            // What cargo built there.
        } else if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
}

pub(crate) fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files(Path::new("src"), ".rs", &mut paths);
    paths.sort();
    paths.into_iter().map(|path| Source { text: std::fs::read_to_string(&path).unwrap(), path }).collect()
}

/// What follows every `crate::` in the code, in both spellings of a use.
fn imports(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let module: String =
            rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        let names = rest[module.len()..].trim_start_matches("::");
        let names: String = match names.strip_prefix('{') {
            Some(list) => list.chars().take_while(|letter| *letter != '}').collect(),
            None => names.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect(),
        };
        found.push((module, names));
    }
    found
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "lib" && !source.is_test()) {
        let module = source.module();
        let allowed = IMPORTS.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            broken
                .push(format!("`{module}` is no room of this house: name it with one of the design's words"));
            continue;
        };
        for (wanted, names) in imports(&source.code()) {
            let fine = wanted == module
                || allowed.contains(&wanted.as_str())
                || (allowed.contains(&"settings") && only_settings(&wanted, &names));
            if !fine {
                broken.push(format!(
                    "{}: `{module}` may not import `{wanted}` ({names})",
                    source.path.display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Whether every name is defined in the module's `settings.rs` (or checks one of its values).
fn only_settings(module: &str, names: &str) -> bool {
    let settings = std::fs::read_to_string(format!("src/{module}/settings.rs")).unwrap_or_default();
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.into_iter().all(|name| settings.contains(&format!("pub struct {name}")) || name == "check_filter")
}

#[test]
fn the_core_is_pure() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| CORE.contains(&source.module()) && !source.is_test()) {
        for word in IMPURE {
            if source.code().contains(word) {
                broken.push(format!(
                    "{}: `{word}` has no place in the pure core; pass the value in",
                    source.path.display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_policy_makes_a_permit() {
    for source in sources().iter().filter(|source| source.module() != "policy") {
        assert!(!source.code().contains("Permit {"), "{} makes a permit", source.path.display());
    }
}

#[test]
fn only_one_place_decides() {
    for source in sources().iter().filter(|source| !matches!(source.module(), "policy" | "engine")) {
        let calls = source.code().contains("decide(route") || source.code().contains("policy::decide");
        assert!(!calls, "{} decides; only the engine does", source.path.display());
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    for source in sources() {
        assert!(
            source.text.starts_with("//! "),
            "{}: open with `//!`: what it is for",
            source.path.display()
        );
        let says_no = source.text.lines().take_while(|line| line.starts_with("//!")).any(|line| {
            let line = line.to_ascii_lowercase();
            line.contains("must not") || line.contains("nothing else")
        });
        let exempt = source.is_test() || source.path == Path::new("src/lib.rs");
        assert!(says_no || exempt, "{}: say in the opening what it must not do", source.path.display());
    }
}

#[test]
fn files_stay_short() {
    let mut tests = Vec::new();
    files(Path::new("tests"), ".rs", &mut tests);
    let all = sources().into_iter().map(|source| source.path).chain(tests);
    for path in all {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        let excused = LONGER.iter().any(|(name, _)| Path::new(name) == path);
        assert!(lines <= MAX_LINES || excused, "{} has {lines} lines: split it by subject", path.display());
    }
}

#[test]
fn a_statement_binds_one_thing() {
    let pairs = |source: &Source| -> Vec<String> {
        let code = source.code();
        let lets = code.match_indices("let (").filter_map(|(at, _)| code[at..].split_once(") = ("));
        let plain = lets.filter(|(names, values)| {
            let mut depth = 1;
            let closed = values.find(|letter| {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                depth == 0
            });
            let is_pattern = names["let (".len()..].contains(['(', '=', '{', ';']);
            !is_pattern && closed.is_some_and(|at| values[at..].starts_with(");"))
        });
        plain.map(|(names, _)| format!("{}: {names})", source.path.display())).collect()
    };
    let found: Vec<String> = sources().iter().flat_map(pairs).collect();
    assert!(found.is_empty(), "`let (a, b) = (x, y);` saves a line and hides two statements: {found:#?}");
}

#[test]
fn names_mean_something() {
    for source in sources() {
        let name = source.path.to_str().unwrap().to_ascii_lowercase();
        for word in EMPTY_WORDS {
            assert!(!name.contains(word), "{name}: `{word}` says nothing; use the field's term");
        }
        for line in source.code().lines() {
            let defined =
                ["struct ", "enum ", "trait ", "fn ", "mod "].iter().find_map(|kind| line.split(kind).nth(1));
            let Some(defined) = defined.filter(|_| !line.contains('"')) else {
                continue;
            };
            let defined = defined.to_ascii_lowercase();
            let defined: String =
                defined.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            for word in EMPTY_WORDS {
                assert!(!defined.contains(word), "{}: `{defined}` is named `{word}`", source.path.display());
            }
        }
    }
}

#[test]
fn the_top_level_is_as_planned() {
    let planned: BTreeSet<&str> = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "rustfmt.toml",
        "clippy.toml",
        "deny.toml",
        "src",
        "config",
        "deploy",
        "benches",
        "tests",
        "docs",
        "fuzz",
        "target",
        "proptest-regressions",
    ]
    .into();
    for entry in std::fs::read_dir(".").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || planned.contains(name.as_str()),
            "`{name}` has no place at the top level"
        );
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let mut all = Vec::new();
    for folder in ["src", "tests", "docs", "config", "deploy", "benches"] {
        files(Path::new(folder), "", &mut all);
    }
    all.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", ".ci/run"].map(PathBuf::from));
    for path in all {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let text = text.to_ascii_lowercase();
        for (one, other) in FOREIGN {
            assert!(!text.contains(&format!("{one}{other}")), "{} names `{one}{other}`", path.display());
        }
    }
}
