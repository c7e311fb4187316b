//! From a file's name to a checked configuration, or to every mistake in it.
//!
//! Must not stop at the first mistake, nor take a missing file for an empty one.

use std::cell::RefCell;
use std::path::{Path as FilePath, PathBuf};

use serde_json::Value;

use super::checked::{AdminPart, Config, Environment, SecretPolicy, check, check_admin};
use super::diagnostics::{Code, Diagnostic, Problem, line_of, render_human};
use super::files::ReadFiles;
use super::layers::Layers;
use super::lint::{lint, lint_roles};
use super::locate::Places;
use super::mask::{mask, mask_unreadable};
use super::raw::RawConfig;
use super::resolved::{ResolvedValue, derived_defaults, resolve};
use super::suggest::did_you_mean;
use super::tree::Path;
use crate::policy::RbacPolicy;

/// The most mistakes reported at once.
const MAX_PROBLEMS: usize = 100;

/// What a configuration is loaded from.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub file: PathBuf,
    /// `key=value` pairs of the command line.
    pub overrides: Vec<(String, String)>,
    pub secrets: SecretPolicy,
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Invalid {
    pub diagnostics: Vec<Diagnostic>,
    /// What was read, or should have been.
    pub files: ReadFiles,
    text: String,
}

impl Invalid {
    /// The mistakes for people.
    pub fn render(&self, colour: bool) -> String {
        render_human(&self.diagnostics, &self.text, colour)
    }
}

/// A configuration that can be run, with what is worth a question.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    /// What was read for it: the file itself and the secrets and pages it names.
    pub files: ReadFiles,
    /// Every value that is set, and where it is from; secrets hidden.
    pub set: Vec<ResolvedValue>,
    /// Defaults that follow from other values, or are lists.
    pub derived: Vec<ResolvedValue>,
    name: String,
    text: String,
    /// The text with its secrets hidden.
    shown: String,
}

impl Loaded {
    /// The warnings for people.
    pub fn render(&self, colour: bool) -> String {
        render_human(&self.warnings, &self.shown, colour)
    }

    /// Adds a warning for every role and permission that the project's policy does not know.
    pub fn hold_against(&mut self, policy: &RbacPolicy) {
        let problems = lint_roles(&self.config, policy);
        if let Ok((_, places)) = parse(&self.name, &self.text) {
            self.warnings.extend(placed(problems, &self.name, &self.text, &places, None));
            self.warnings.sort_by_key(|warning| (warning.line.unwrap_or(usize::MAX), warning.column));
        }
    }
}

/// Reads, layers and checks a configuration.
pub fn load(options: &LoadOptions) -> Result<Config, Invalid> {
    load_with_warnings(options).map(|loaded| loaded.config)
}

/// As [`load`], with what a reviewer would ask about.
pub fn load_with_warnings(options: &LoadOptions) -> Result<Loaded, Invalid> {
    let name = options.file.display().to_string();
    let files = RefCell::new(ReadFiles::default());
    let read_file = |path: &FilePath| files.borrow_mut().read(path);
    let text = match read_file(&options.file) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("`{name}` cannot be read: {error}");
            let mut diagnostic = Diagnostic::in_text(Code::Syntax, message, &name, "", None);
            diagnostic.hint = Some(
                "name the configuration with `-c FILE`; `config/minimal.yaml` is one to begin with"
                    .to_owned(),
            );
            return Err(Invalid { diagnostics: vec![diagnostic], files: files.take(), text: String::new() });
        }
    };
    let environment = Environment {
        variable: &|name| std::env::var(name).ok(),
        file: &read_file,
        base: options.file.parent().unwrap_or_else(|| FilePath::new(".")),
        secrets: options.secrets,
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let read = read(&name, &text, variables, &options.overrides, &environment);
    match read {
        Ok(loaded) => Ok(Loaded { files: files.take(), ..loaded }),
        Err(invalid) => Err(Invalid { files: files.take(), ..invalid }),
    }
}

/// The part that says where a running gateway is asked, whatever mistakes are elsewhere; nothing if the file cannot be read.
pub fn load_admin(options: &LoadOptions) -> Option<AdminPart> {
    let name = options.file.display().to_string();
    let (file, _) = parse(&name, &std::fs::read_to_string(&options.file).ok()?).ok()?;
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let layers = Layers::new(file, variables, &options.overrides);
    let raw = shape(&mut layers.merged().ok()?, &layers, &mut Vec::new());
    let environment = Environment {
        variable: &|name| std::env::var(name).ok(),
        file: &|path| std::fs::read_to_string(path),
        base: options.file.parent().unwrap_or_else(|| FilePath::new(".")),
        secrets: SecretPolicy::NotNeeded,
    };
    Some(check_admin(&raw, &environment))
}

fn read(
    name: &str,
    text: &str,
    variables: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
    environment: &Environment<'_>,
) -> Result<Loaded, Invalid> {
    let unreadable = |diagnostic| Invalid {
        diagnostics: vec![diagnostic],
        files: ReadFiles::default(),
        text: mask_unreadable(text),
    };
    let (file, places) = parse(name, text).map_err(|diagnostic| unreadable(*diagnostic))?;
    let layers = Layers::new(file, variables, overrides);
    let merged = layers.merged();
    let mut tree =
        merged.map_err(|message| unreadable(Diagnostic::in_text(Code::Syntax, message, name, text, None)))?;

    let whole = tree.clone();
    let mut problems: Vec<Problem> = places
        .repeated
        .iter()
        .map(|(path, _)| Problem {
            code: Code::Conflict,
            path: path.clone(),
            at_key: true,
            message: format!("`{path}` is written twice"),
            hint: None,
        })
        .collect();
    let raw = shape(&mut tree, &layers, &mut problems);
    let shapeless = problems.clone();
    let config = check(&raw, environment, &mut problems);
    // What was taken out because of its shape is not missing.
    let told = |problem: &Problem| {
        problem.code != Code::Missing
            || !shapeless.iter().any(|earlier| {
                let meant = earlier.meant();
                let excuses = |path: &Path| path.starts_with(&problem.path) || problem.path.starts_with(path);
                excuses(&earlier.path) || meant.is_some_and(|path| excuses(&path))
            })
    };
    problems.retain(told);
    let (mut warnings, problems): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().partition(|problem| problem.code.is_warning());
    match config {
        Some(config) if problems.is_empty() => {
            warnings.extend(lint(&config));
            Ok(Loaded {
                warnings: placed(warnings, name, text, &places, Some(&layers)),
                derived: derived_defaults(&config),
                config,
                set: resolve(&whole, &layers, name, text, &places),
                files: ReadFiles::default(),
                name: name.to_owned(),
                text: text.to_owned(),
                shown: mask(text, &places, &[]),
            })
        }
        _ => {
            let unknown = problems.iter().filter(|problem| problem.code == Code::UnknownKey);
            let unknown: Vec<Path> = unknown.map(|problem| problem.path.clone()).collect();
            let shown = mask(text, &places, &unknown.iter().collect::<Vec<_>>());
            let diagnostics = placed(problems, name, text, &places, Some(&layers));
            Err(Invalid { diagnostics, files: ReadFiles::default(), text: shown })
        }
    }
}

/// The problems with their places, in the order of the text; warnings that are allowed where they stand are left out.
fn placed(
    problems: Vec<Problem>,
    name: &str,
    text: &str,
    places: &Places,
    layers: Option<&Layers>,
) -> Vec<Diagnostic> {
    let place = |problem: Problem| {
        let item = problem.path.item().and_then(|path| Some(line_of(text, places.find(&path)?.value.start)));
        let elsewhere = layers.and_then(|layers| layers.elsewhere(&problem.path.to_string()));
        let is_warning = problem.code.is_warning();
        let diagnostic = Diagnostic::place(problem, name, text, places, elsewhere);
        (!is_warning || !diagnostic.is_allowed(text, item)).then_some(diagnostic)
    };
    let mut placed: Vec<Diagnostic> = problems.into_iter().filter_map(place).collect();
    placed.sort_by_key(|diagnostic| (diagnostic.line.unwrap_or(usize::MAX), diagnostic.column));
    placed
}

/// The file as a tree, by the ending of its name.
fn parse(name: &str, text: &str) -> Result<(Value, Places), Box<Diagnostic>> {
    let ending = FilePath::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or("yaml");
    let fail = |message: String, span| Box::new(Diagnostic::in_text(Code::Syntax, message, name, text, span));
    match ending {
        "toml" => {
            let value: toml::Value =
                toml::from_str(text).map_err(|error| fail(error.message().to_owned(), error.span()))?;
            let value = serde_json::to_value(value).map_err(|error| fail(error.to_string(), None))?;
            Ok((value, Places::of_toml(text)))
        }
        "json" => {
            let value = serde_json::from_str(text).map_err(|error| {
                let at = offset(text, error.line(), error.column());
                fail(error.to_string(), Some(at..at))
            })?;
            Ok((value, Places::of_yaml(text)))
        }
        _ => {
            let options = serde_saphyr::Options::default();
            let value: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let span = error.location().map(|location| {
                    let at = offset(
                        text,
                        usize::try_from(location.line()).unwrap_or(1),
                        usize::try_from(location.column()).unwrap_or(1),
                    );
                    at..at
                });
                let message = error.without_snippet().to_string();
                fail(message.lines().next().unwrap_or_default().to_owned(), span)
            })?;
            Ok((if value.is_null() { serde_json::json!({}) } else { value }, Places::of_yaml(text)))
        }
    }
}

/// Reads the tree into its shape; what does not fit is reported, taken out, and reading goes on.
fn shape(tree: &mut Value, layers: &Layers, problems: &mut Vec<Problem>) -> RawConfig {
    for _ in 0..MAX_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, RawConfig>(&*tree) {
            Ok(raw) => return raw,
            Err(error) => error,
        };
        let mut path = Path::from(error.path());
        let message = error.inner().to_string();
        if let Some((key, known)) = unknown_key(&message) {
            // The reader names the mapping or the key in it, depending on where it noticed.
            if path.last_key() != Some(key.as_str()) || path.remove_from(&mut tree.clone()).is_none() {
                path = path.key(&key);
            }
            let hint = replaced(&key)
                .or_else(|| did_you_mean(&key, known.iter().map(String::as_str)))
                .or_else(|| Some(format!("known here: {}", known.join(", "))));
            let message = format!("unknown key `{key}`");
            problems.push(Problem {
                code: Code::UnknownKey,
                path: path.clone(),
                at_key: true,
                message,
                hint,
            });
        } else if coerce(tree, &path, layers) {
            continue;
        } else {
            let (message, hint) = wrong_type(&path, &message);
            problems.push(Problem {
                code: Code::WrongType,
                path: path.clone(),
                at_key: false,
                message,
                hint,
            });
        }
        if path.remove_from(tree).is_none() {
            break;
        }
    }
    RawConfig::default()
}

impl Problem {
    /// Where a misspelt key would have been: not missing either.
    fn meant(&self) -> Option<Path> {
        let name = self.hint.as_deref().filter(|_| self.code == Code::UnknownKey)?.split('`').nth(1)?;
        Some(self.path.parent()?.key(name))
    }
}

/// Text from the environment or the command line becomes a number or a truth where the shape wants one.
fn coerce(tree: &mut Value, path: &Path, layers: &Layers) -> bool {
    if layers.elsewhere(&path.to_string()).is_none() {
        return false;
    }
    let Some(place) = path.find_mut(tree) else {
        return false;
    };
    let Some(text) = place.as_str() else {
        return false;
    };
    let value = match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match text.parse::<u64>() {
            Ok(number) => Value::from(number),
            Err(_) => match text.parse().ok().and_then(serde_json::Number::from_f64) {
                Some(number) => Value::Number(number),
                None => return false,
            },
        },
    };
    *place = value;
    true
}

/// "unknown field `a`, expected one of `b`, `c`" into the key and what is known.
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let quoted: Vec<String> =
        message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let (key, known) = quoted.split_first()?;
    Some((key.clone(), known.to_vec()))
}

fn wrong_type(path: &Path, message: &str) -> (String, Option<String>) {
    let what = path.last_key().unwrap_or("the configuration");
    if path.is_secret() {
        // The reader's sentence would repeat the secret.
        let hint = "give it as `{ env: NAME }`, `{ file: PATH }` or `{ value: \"…\" }`".to_owned();
        return (format!("`{what}` is not written like this"), Some(hint));
    }
    let message = format!("`{what}` has the wrong type: {}", plain(message));
    let wants_text = message.contains("a string");
    (
        message,
        wants_text.then(|| "a length of time has a unit, such as `10s`; a text can be quoted".to_owned()),
    )
}

/// The reader's sentence without the reader's names for things.
fn plain(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    message
        .replace("invalid type: ", "it is ")
        .replace("struct Raw", "a mapping for ")
        .replace("a sequence", "a list")
        .replace("sequence", "list")
        .replace("u64", "a whole number")
        .replace("f64", "a number")
}

/// What took the place of a key that there was once.
fn replaced(key: &str) -> Option<String> {
    let hint = match key {
        "case_insensitive" => "it is `letter_case: insensitive` now; `false` is `sensitive`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The byte a line and a column, counted in characters, stand for.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = text.get(start..).unwrap_or_default();
    let within = rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at);
    start + within
}

#[cfg(test)]
mod tests;
