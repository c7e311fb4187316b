//! The files a configuration was read from, and whether they are still what was read.
//!
//! Must not keep what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// Files with a digest of what was read of each; none of one that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadFiles(BTreeMap<PathBuf, Option<Vec<u8>>>);

impl ReadFiles {
    /// Reads a file, and remembers what it was.
    pub(super) fn read(&mut self, path: &Path) -> std::io::Result<String> {
        let read = std::fs::read(path);
        self.0.insert(path.to_owned(), read.as_ref().ok().map(|bytes| digest_of(bytes)));
        String::from_utf8(read?).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    /// These files as they are now. Reads them.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path.clone(), now(&path))).collect())
    }

    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Whether any of them is something else now. Reads them: not for a thread that serves.
    pub fn are_changed(&self) -> bool {
        self.0.iter().any(|(path, known)| now(path) != *known)
    }

    /// These, and those of `before` as they are now: what cannot be used may have named fewer. Reads them.
    #[must_use]
    pub fn and_those_of(mut self, before: &Self) -> Self {
        for path in before.paths() {
            self.0.entry(path.clone()).or_insert_with(|| now(path));
        }
        self
    }
}

fn now(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok().map(|bytes| digest_of(&bytes))
}

fn digest_of(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}
