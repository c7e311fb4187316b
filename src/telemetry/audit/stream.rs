//! The file of the audit stream: written whole or tried again, and opened by its name again when told.
//!
//! Must not take a line for written that was not, nor end in one file what was begun in another.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{AGAIN_AFTER, Desk, Waiting};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::settings::AuditSettings;

/// Where the lines go, as the thread knows it.
pub(super) struct Stream {
    file: File,
    /// Nothing where it is standard output.
    path: Option<PathBuf>,
    sync: bool,
    /// From when on the file is to be opened by its name again.
    pub(super) reopen: Option<Instant>,
    metrics: Metrics,
}

/// Nobody can record any more, and what was recorded cannot be written.
pub(super) struct GivenUp;

impl Stream {
    pub(super) fn open(settings: &AuditSettings, metrics: Metrics) -> io::Result<Self> {
        let file = match &settings.file {
            Some(path) => opened(path, settings.sync)?,
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        };
        for operation in ["write", "reopen"] {
            metrics.audit_failing.with_label_values(&[operation]).set(0);
        }
        Ok(Self { file, path: settings.file.clone(), sync: settings.sync, reopen: None, metrics })
    }

    /// Writes what was taken, however long that takes; nothing else is taken meanwhile. Once nobody can record any more,
    /// what cannot be written is told of and given up.
    pub(super) fn keep(&mut self, desk: &Desk, taken: Waiting) -> Result<(), GivenUp> {
        let Waiting { lines, records, places, flushes, reopen, .. } = taken;
        self.ask_to_reopen(reopen);
        let mut done = 0;
        let mut pause = AGAIN_AFTER[0];
        loop {
            if self.reopen.is_some_and(|due| due <= Instant::now()) && self.open_again() {
                // What was begun in one file is not ended in another, nor is the disk known to have what it was not asked
                // for.
                done = if self.sync { 0 } else { lines.get(..done).map_or(0, begun) };
            }
            let Err(error) = self.write(&lines, &mut done) else { break };
            self.fail("write", "decisions cannot be recorded, and requests are refused for it", &error);
            let (reopen, over) = desk.rest(pause);
            if over {
                tracing::error!(records, "decisions were not recorded before the end");
                return Err(GivenUp);
            }
            self.ask_to_reopen(reopen);
            pause = (pause * 2).min(AGAIN_AFTER[1]);
        }
        if !lines.is_empty() {
            self.mend("write", "decisions are recorded again");
        }
        self.metrics.audit_records.inc_by(records);
        for (place, told) in places {
            drop(place);
            // Nobody listens where the client left.
            told.send(()).unwrap_or_default();
        }
        for flush in flushes {
            flush.try_send(()).unwrap_or_default();
        }
        Ok(())
    }

    fn ask_to_reopen(&mut self, asked: bool) {
        if asked && self.path.is_some() {
            self.reopen = Some(Instant::now());
        }
    }

    /// Opens the file by its name again: true if it could be. Until then the one before is written to.
    fn open_again(&mut self) -> bool {
        let Some(path) = &self.path else { return false };
        match opened(path, self.sync) {
            Ok(file) => {
                self.file = file;
                self.reopen = None;
                self.mend("reopen", "the audit file was opened again");
                true
            }
            Err(error) => {
                self.reopen = Some(Instant::now() + AGAIN_AFTER[1]);
                let what = "the audit file cannot be opened again; the one before is written to";
                self.fail("reopen", what, &error);
                false
            }
        }
    }

    /// Writes the lines past `done`, which it keeps.
    fn write(&mut self, lines: &[u8], done: &mut usize) -> io::Result<()> {
        while let Some(rest) = lines.get(*done..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.sync && !lines.is_empty() {
            // What the disk refused once it may have forgotten: all of it is written again.
            self.file.sync_data().inspect_err(|_| *done = 0)?;
        }
        Ok(())
    }

    fn fail(&self, operation: &str, what: &'static str, error: &io::Error) {
        self.metrics.audit_write_failures.inc();
        let failing = self.metrics.audit_failing.with_label_values(&[operation]);
        if failing.get() == 0 {
            failing.set(1);
            let file = self.path.as_deref().unwrap_or_else(|| Path::new("/dev/stdout"));
            tracing::error!(error = %error, file = %file.display(), "{what}");
        }
    }

    fn mend(&self, operation: &str, what: &'static str) {
        let failing = self.metrics.audit_failing.with_label_values(&[operation]);
        if failing.get() != 0 {
            failing.set(0);
            tracing::info!("{what}");
        }
    }
}

/// Where the line begins that these bytes end in.
pub(super) fn begun(written: &[u8]) -> usize {
    written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// The file, to be appended to. A line that a crash cut short is ended.
fn opened(path: &Path, sync: bool) -> io::Result<File> {
    let refused = |problem: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, problem.to_owned()));
    let found = std::fs::metadata(path).ok();
    if found.as_ref().is_some_and(|found| found.file_type().is_fifo()) {
        return refused("a named pipe would hold everything up until somebody reads it");
    }
    let regular = found.is_none_or(|found| found.is_file());
    if sync && !regular {
        return refused("`sync` is for files on a disk");
    }
    let mut file = OpenOptions::new().append(true).read(regular).create(true).mode(0o600).open(path)?;
    let length = if regular { file.metadata()?.len() } else { 0 };
    if length > 0 {
        let mut last = [0];
        file.read_exact_at(&mut last, length - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
