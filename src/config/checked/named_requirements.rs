//! The requirements of a configuration as they are read: those with names, and what one is made of.
//!
//! Must not read a requirement: `requirement` does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::policy::Requirement;

/// A requirement as it is enforced, and as it would be with what is only tried.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    /// Nothing where all of it is only tried.
    pub(super) enforced: Option<Requirement>,
    pub(super) shadowed: Requirement,
    /// Set if the two differ.
    pub(super) tries: bool,
    /// Number of requirements in it, named ones included, and the depth of their nesting.
    pub(super) parts: usize,
    pub(super) depth: usize,
}

impl Tried {
    pub(super) fn plain(requirement: Requirement) -> Self {
        Self { enforced: Some(requirement.clone()), shadowed: requirement, tries: false, parts: 1, depth: 1 }
    }

    /// This in something else.
    pub(super) fn within(self, wrap: impl Fn(Requirement) -> Requirement) -> Self {
        Self {
            enforced: self.enforced.map(&wrap),
            shadowed: wrap(self.shadowed),
            parts: self.parts + 1,
            depth: self.depth + 1,
            ..self
        }
    }

    pub(super) fn join(parts: Vec<Self>, join: fn(Vec<Requirement>) -> Requirement) -> Self {
        let enforced: Vec<Requirement> = parts.iter().filter_map(|part| part.enforced.clone()).collect();
        let nothing = enforced.is_empty() && !parts.is_empty();
        Self {
            enforced: (!nothing).then(|| join(enforced)),
            tries: parts.iter().any(|part| part.tries),
            parts: parts.iter().map(|part| part.parts).sum::<usize>() + 1,
            depth: parts.iter().map(|part| part.depth).max().unwrap_or_default() + 1,
            shadowed: join(parts.into_iter().map(|part| part.shadowed).collect()),
        }
    }
}

/// The requirements that have names: as written, and as far as they were read.
#[derive(Default)]
pub(super) struct NamedRequirements {
    pub(super) written: BTreeMap<String, Value>,
    pub(super) read: BTreeMap<String, Option<Tried>>,
    /// Those being read just now, to find one that uses itself.
    pub(super) under_way: Vec<String>,
    pub(super) used: BTreeSet<String>,
}
