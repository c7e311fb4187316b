//! Mistakes in a configuration, told like a compiler's: code, place, hint.
//!
//! Must not be given a text in which secrets can be read: `mask` comes first.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use super::locate::Places;
use super::tree::Path;

/// What kind of mistake, for people who search for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Syntax,
    UnknownKey,
    WrongType,
    InvalidValue,
    Missing,
    UnknownReference,
    Conflict,
    // What is only worth a question.
    PublicShadow,
    Unreachable,
    UnknownRole,
    WideNetwork,
    LongOutage,
    AgelessFactor,
    Contradiction,
    Unused,
    ClearSignIn,
    ClearReturn,
    WeakerBelow,
    OtherMethods,
    CaseTwins,
    ForwardedCredentials,
}

impl Code {
    /// Whether the configuration can be run all the same.
    pub(super) fn is_warning(self) -> bool {
        self.text().starts_with('W')
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Syntax => "C001",
            Self::UnknownKey => "C002",
            Self::WrongType => "C003",
            Self::InvalidValue => "C004",
            Self::Missing => "C005",
            Self::UnknownReference => "C006",
            Self::Conflict => "C007",
            Self::PublicShadow => "W101",
            Self::Unreachable => "W102",
            Self::UnknownRole => "W103",
            Self::WideNetwork => "W104",
            Self::LongOutage => "W105",
            Self::AgelessFactor => "W106",
            Self::Contradiction => "W107",
            Self::Unused => "W108",
            Self::ClearSignIn => "W109",
            Self::ClearReturn => "W110",
            Self::WeakerBelow => "W111",
            Self::OtherMethods => "W112",
            Self::CaseTwins => "W113",
            Self::ForwardedCredentials => "W114",
        }
    }
}

/// A mistake as it was found, not yet placed.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) code: Code,
    pub(super) path: Path,
    /// Whether the key is at fault rather than its value.
    pub(super) at_key: bool,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// A mistake with its place.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnostic {
    pub code: &'static str,
    /// `error`, or `warning` for what can be run all the same.
    pub severity: &'static str,
    pub message: String,
    /// The path of the value, such as `routes[1].upstream`.
    pub path: String,
    pub hint: Option<String>,
    /// `None` for a mistake that came from the environment or the command line.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    #[serde(skip)]
    span: Option<Range<usize>>,
}

impl Diagnostic {
    /// A mistake at a known place of the text, or of the file as a whole.
    pub(super) fn in_text(
        code: Code,
        message: String,
        file: &str,
        text: &str,
        span: Option<Range<usize>>,
    ) -> Self {
        let (line, column) = span.as_ref().map(|span| line_and_column(text, span.start)).unzip();
        Self {
            code: code.text(),
            severity: if code.is_warning() { "warning" } else { "error" },
            message,
            path: String::new(),
            hint: None,
            file: Some(file.to_owned()),
            line,
            column,
            span,
        }
    }

    /// Places a problem in the file, or names where else its value came from.
    pub(super) fn place(
        problem: Problem,
        file: &str,
        text: &str,
        places: &Places,
        elsewhere: Option<String>,
    ) -> Self {
        let found = problem.path.nearest(places);
        let span = found.filter(|_| elsewhere.is_none()).map(|(place, exact)| match &place.key {
            // What is missing is missing from the mapping, whose key says where.
            Some(key) if problem.at_key || !exact => key.clone(),
            _ => place.value.clone(),
        });
        // A block has no first line worth underlining as a whole.
        let span = span.map(|span| {
            let line_end =
                text.get(span.start..).and_then(|rest| rest.find('\n')).map(|length| span.start + length);
            span.start..span.end.min(line_end.unwrap_or(text.len())).max(span.start)
        });
        let mut placed = Self::in_text(problem.code, problem.message, file, text, span);
        placed.path = problem.path.to_string();
        placed.hint = problem.hint;
        if let Some(elsewhere) = elsewhere {
            placed.message = format!("{} (set by {elsewhere})", placed.message);
            placed.file = None;
        }
        placed
    }
}

impl Diagnostic {
    /// Whether a comment of the line it stands on, or of the lines right above it, allows it: `# allow W101: why`.
    ///
    /// `above` are further lines whose comments count: where the thing begins that it is about.
    pub(super) fn is_allowed(&self, text: &str, above: Option<usize>) -> bool {
        let lines: Vec<&str> = text.lines().collect();
        let says = |line: &str| {
            let comment = line.split_once('#').map(|(_, comment)| comment).unwrap_or_default();
            let mut words =
                comment.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
            words.next() == Some("allow")
                && words.take_while(|word| word.starts_with('W')).any(|word| word == self.code)
        };
        let here = |line: usize| {
            let own = lines.get(line.wrapping_sub(1)).is_some_and(|line| says(line));
            let mut before = lines.get(..line.saturating_sub(1)).unwrap_or_default().iter().rev();
            own || before
                .by_ref()
                .take_while(|line| line.trim_start().starts_with('#'))
                .any(|line| says(line))
        };
        self.line.is_some_and(here) || above.is_some_and(here)
    }
}

/// The line a place of the text stands on, from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    line_and_column(text, at).0
}

/// All mistakes for people, with the lines they are on.
pub fn render_human(diagnostics: &[Diagnostic], text: &str, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut told = Vec::new();
    for diagnostic in diagnostics {
        let level = if diagnostic.severity == "warning" { Level::WARNING } else { Level::ERROR };
        let mut group = level
            .primary_title(&diagnostic.message)
            .id(diagnostic.code)
            .elements(Vec::<annotate_snippets::Element<'_>>::new());
        if let (Some(file), Some(span)) = (&diagnostic.file, &diagnostic.span) {
            group = group.element(
                Snippet::source(text).path(file).annotation(AnnotationKind::Primary.span(span.clone())),
            );
        } else if let (Some(file), Some(line)) = (&diagnostic.file, diagnostic.line) {
            group = group.element(Level::NOTE.message(format!("at `{}`, {file}:{line}", diagnostic.path)));
        } else if !diagnostic.path.is_empty() {
            group = group.element(Level::NOTE.message(format!("at `{}`", diagnostic.path)));
        }
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.message(hint));
        }
        told.push(renderer.render(&[group]));
    }
    told.join("\n\n")
}

/// All mistakes for machines.
pub fn render_json(diagnostics: &[Diagnostic]) -> String {
    serde_json::to_string_pretty(diagnostics).unwrap_or_default()
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
