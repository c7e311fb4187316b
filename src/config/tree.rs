//! The merged configuration as a tree, and paths into it.
//!
//! Must not know what any key means.

use std::fmt;

use serde_json::Value;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The place of a value in the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    pub(super) fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }

    pub(super) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// The item of a list that this is, or is in: the outermost.
    pub(super) fn item(&self) -> Option<Self> {
        let at = self.0.iter().position(|step| matches!(step, Step::Index(_)))?;
        Some(Self(self.0.get(..=at)?.to_vec()))
    }

    pub(super) fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Takes the value at this place out of the tree, so that reading can go on without it.
    pub(super) fn remove_from(&self, tree: &mut Value) -> Option<Value> {
        let (last, above) = self.0.split_last()?;
        match (Self(above.to_vec()).find_mut(tree)?, last) {
            (Value::Object(fields), Step::Key(key)) => fields.remove(key),
            // The list keeps its length, so that later places stay what they are.
            (Value::Array(items), Step::Index(index)) => items.get_mut(*index).map(Value::take),
            _ => None,
        }
    }

    pub(super) fn find_mut<'a>(&self, tree: &'a mut Value) -> Option<&'a mut Value> {
        self.0.iter().try_fold(tree, |value, step| match (value, step) {
            (Value::Object(fields), Step::Key(key)) => fields.get_mut(key),
            (Value::Array(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        })
    }
}

impl From<&serde_path_to_error::Path> for Path {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        let steps = path.iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { variant } => Some(Step::Key(variant.clone())),
            Segment::Unknown => None,
        });
        Self(steps.collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if place == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
