//! No circle of imports between the files of a room: each can be read after those that it names.
//!
//! A file and the files below its own folder are one subject, and may name each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::{Source, sources};

/// Circles that are known: files of one of these may name each other.
const KNOWN: [(&str, &[&str]); 2] = [
    // Deciding, recording and remembering tokens are still one object.
    ("engine", &["authorize", "check", "header_edits", "identify", "recent", "record"]),
    // A stand-in for the API, of one piece as the API is.
    ("emulator", &["api", "faults", "signing", "state", "tokens"]),
];

/// A module as its path below the crate: `["policy", "table"]`.
type Module = Vec<String>;

/// What one file takes by `use` or names by a path, and what it hands on under a name.
#[derive(Default)]
struct File {
    uses: Vec<Vec<String>>,
    hands_on: BTreeMap<String, Vec<String>>,
}

struct Tree(BTreeMap<Module, File>);

#[test]
fn no_circle_of_imports_within_a_room() {
    let tree = Tree(sources().iter().filter(|source| !source.is_test()).map(read).collect());
    let edges: BTreeMap<&Module, BTreeSet<Module>> =
        tree.0.iter().map(|(module, file)| (module, tree.named_by(module, file))).collect();
    let reach: BTreeMap<&Module, BTreeSet<&Module>> =
        edges.keys().map(|module| (*module, reachable(&edges, module))).collect();
    let mut circles = Vec::new();
    for (one, beyond) in &reach {
        let back = beyond.iter().filter(|other| one < *other && reach[**other].contains(*one));
        circles.extend(back.filter(|other| !is_known(one, other)).map(|other| {
            format!("{} and {} name each other, perhaps by way of others", one.join("/"), other.join("/"))
        }));
    }
    assert!(circles.is_empty(), "move the definition that both need to a file of its own:\n{circles:#?}");
}

fn is_known(one: &Module, other: &Module) -> bool {
    let is_in = |module: &Module, room: &str, files: &[&str]| matches!(module.as_slice(), [first, file, ..] if first == room && files.contains(&file.as_str()));
    KNOWN.iter().any(|(room, files)| is_in(one, room, files) && is_in(other, room, files))
}

fn reachable<'a>(edges: &'a BTreeMap<&Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<&'a Module> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for named in &edges[module] {
            if found.insert(named) {
                next.push(named);
            }
        }
    }
    found
}

fn read(source: &Source) -> (Module, File) {
    let below = source.path.strip_prefix("src").unwrap().with_extension("");
    let mut module: Module =
        below.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let code = source.code();
    let mut file = File::default();
    for statement in code.split(';') {
        // Whatever stands before it on the same line or above ended with a brace or an attribute.
        let Some(at) = statement.rfind("use ").filter(|at| !is_within_a_word(statement, *at)) else {
            continue;
        };
        let (before, tree) = (&statement[..at], &statement[at + 4..]);
        let is_handed_on = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
        for path in expand(&tree.split_whitespace().collect::<Vec<_>>().join(" ")) {
            if is_handed_on && let Some(name) = path.last() {
                file.hands_on.insert(name.clone(), path.clone());
            } else {
                file.uses.push(path);
            }
        }
    }
    for (at, _) in code.match_indices("super::").filter(|(at, _)| !is_within_a_word(&code, *at)) {
        let is_of_path = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
        let path = code[at..].split(|letter| !is_of_path(letter)).next().unwrap_or_default();
        file.uses.push(path.split("::").map(str::to_owned).filter(|part| !part.is_empty()).collect());
    }
    (module, file)
}

fn is_within_a_word(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | ':'))
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.split("::").map(|part| part.trim().to_owned()).collect()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in inner.chars() {
        match letter {
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| expand(&format!("{before}{part}"))).collect()
}

impl Tree {
    /// The files of the same room that a file names, but those above and below it.
    fn named_by(&self, module: &Module, file: &File) -> BTreeSet<Module> {
        let named = file.uses.iter().filter_map(|path| self.resolve(module, path, 0));
        let is_apart = |other: &Module| !other.starts_with(module) && !module.starts_with(other);
        named.filter(|other| other.first() == module.first() && is_apart(other)).collect()
    }

    /// The file that a path leads to: where a module hands a name on, the one that it is from.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (first, mut rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" => Module::new(),
            "self" => from.clone(),
            "super" => from[..from.len().checked_sub(1)?].to_vec(),
            child => [from.as_slice(), &[child.to_owned()]].concat(),
        };
        while let Some((part, after)) = rest.split_first() {
            match part.as_str() {
                "super" => drop(module.pop()),
                part => {
                    let below = [module.as_slice(), &[part.to_owned()]].concat();
                    if !self.0.contains_key(&below) {
                        break;
                    }
                    module = below;
                }
            }
            rest = after;
        }
        let file = self.0.get(&module)?;
        let handed_on = rest.first().and_then(|name| file.hands_on.get(name)).filter(|_| depth < 8);
        handed_on.and_then(|path| self.resolve(&module, path, depth + 1)).or(Some(module))
    }
}
