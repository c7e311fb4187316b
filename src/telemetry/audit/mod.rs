//! The audit stream: decision records of which none is lost. Who decides takes a place first, and is told once the record
//! was written.
//!
//! Must not drop a record, nor let more of them wait than there are places; must not block whoever waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::json_line::JsonLines;
use super::lines::LineWriter;
use super::metrics::Metrics;
use super::record::DecisionRecord;
use super::settings::AuditSettings;

/// Decisions whose records may wait at once.
const PLACES: usize = 1024;
/// How long until what could not be written is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where decisions are recorded.
#[derive(Clone)]
pub struct DecisionLog {
    /// The stream that requests are written to, which may drop lines.
    pub lines: LineWriter,
    /// The stream that takes the records of decisions instead, if none may be lost.
    pub audit: Option<AuditLog>,
}

/// Where decision records go that must not be lost.
#[derive(Clone)]
pub struct AuditLog {
    open: Arc<Open>,
    places: Arc<Semaphore>,
    deadline: Duration,
}

/// A place for the records of one decision, taken before it is made.
pub struct AuditEntry {
    place: OwnedSemaphorePermit,
    open: Arc<Open>,
    deadline: Duration,
}

/// A record that waits to be written.
pub struct PendingRecord {
    written: oneshot::Receiver<()>,
    deadline: Duration,
}

/// Tells the thread, when nobody can record any more, that it is over.
struct Open(Arc<Desk>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.woken.notify_one();
    }
}

#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

/// What was recorded and not yet written.
#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    records: u64,
    /// Told, and their places given back, once the lines were written.
    places: Vec<(OwnedSemaphorePermit, oneshot::Sender<()>)>,
    flushes: Vec<SyncSender<()>>,
    /// The file must be opened by its name again.
    reopen: bool,
    over: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.flushes.is_empty() && !self.reopen
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, once something does; nothing once it is over.
    fn take(&self) -> Option<Waiting> {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            if waiting.over {
                return None;
            }
            waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let over = waiting.over;
        Some(mem::replace(&mut *waiting, Waiting { over, ..Waiting::default() }))
    }

    fn push(&self, record: &DecisionRecord<'_>, place: Option<(OwnedSemaphorePermit, oneshot::Sender<()>)>) {
        let mut json = JsonLines::new();
        let line = json.line(record);
        let mut waiting = self.lock();
        waiting.lines.extend_from_slice(line);
        waiting.records += 1;
        waiting.places.extend(place);
        drop(waiting);
        self.woken.notify_one();
    }
}

impl DecisionLog {
    /// Opens the file of the audit stream by its name again, for whoever moved it away.
    pub fn reopen(&self) {
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }

    /// Waits until everything handed over was written, at most `patience` for each stream. Blocks.
    pub fn flush(&self, patience: Duration) {
        self.lines.flush(patience);
        if let Some(audit) = &self.audit {
            audit.flush(patience);
        }
    }
}

impl AuditLog {
    /// Opens the file and starts the thread that writes; it ends when the last clone is dropped and everything is written.
    pub fn start(settings: &AuditSettings, metrics: Metrics) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let open = Arc::new(Open(Arc::clone(&desk)));
        let mut stream = Stream {
            file: opened(&settings.file)?,
            path: settings.file.clone(),
            sync: settings.sync,
            metrics,
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some(taken) = desk.take() {
                stream.keep(&desk, taken);
            }
        })?;
        Ok(Self { open, places: Arc::new(Semaphore::new(PLACES)), deadline: settings.deadline })
    }

    /// A place for one decision, or `None` if there was none within the deadline: then nothing may be decided.
    pub async fn reserve(&self) -> Option<AuditEntry> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let waiting = Arc::clone(&self.places).acquire_owned();
                tokio::time::timeout(self.deadline, waiting).await.ok()?.ok()?
            }
        };
        Some(AuditEntry { place, open: Arc::clone(&self.open), deadline: self.deadline })
    }

    /// Records without a place what follows at most once on what had one: that a decision does not stand, or that an open
    /// stream was ended.
    pub fn append(&self, record: &DecisionRecord<'_>) {
        self.open.0.push(record, None);
    }

    fn reopen(&self) {
        self.open.0.lock().reopen = true;
        self.open.0.woken.notify_one();
    }

    fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        self.open.0.lock().flushes.push(done);
        self.open.0.woken.notify_one();
        written.recv_timeout(patience).unwrap_or_default();
    }
}

impl AuditEntry {
    /// Records the decision. It may be acted on once that was written.
    pub fn record(self, record: &DecisionRecord<'_>) -> PendingRecord {
        let (done, written) = oneshot::channel();
        self.open.0.push(record, Some((self.place, done)));
        PendingRecord { written, deadline: self.deadline }
    }
}

impl PendingRecord {
    /// Waits until the record was written: false if it was not within the deadline. It still will be.
    pub async fn written(self) -> bool {
        matches!(tokio::time::timeout(self.deadline, self.written).await, Ok(Ok(())))
    }
}

/// Where the lines go, as the thread knows it.
struct Stream {
    file: File,
    path: PathBuf,
    sync: bool,
    metrics: Metrics,
}

impl Stream {
    /// Writes what was taken, however long that takes; nothing else is taken meanwhile. Once nobody can record any more,
    /// what cannot be written is told of and given up.
    fn keep(&mut self, desk: &Desk, taken: Waiting) {
        let Waiting { lines, records, places, flushes, mut reopen, .. } = taken;
        let mut done = 0;
        loop {
            if mem::take(&mut reopen) {
                match opened(&self.path) {
                    Ok(file) => {
                        self.file = file;
                        // What was begun in one file is not ended in another.
                        done = lines.get(..done).map_or(0, begun);
                    }
                    Err(error) => self.fail("the audit file cannot be opened again", &error),
                }
            }
            match self.write(&lines, &mut done) {
                Ok(()) => break,
                Err(error) => {
                    self.fail("decisions cannot be recorded, and requests are refused for it", &error);
                }
            }
            let mut waiting = desk.lock();
            if waiting.over {
                tracing::error!(records, "decisions were not recorded before the end");
                return;
            }
            reopen = mem::take(&mut waiting.reopen);
            drop(waiting);
            std::thread::park_timeout(AGAIN_AFTER);
        }
        if !lines.is_empty() && self.metrics.audit_failing.get() != 0 {
            self.metrics.audit_failing.set(0);
            tracing::info!("decisions are recorded again");
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

    fn fail(&mut self, what: &'static str, error: &io::Error) {
        self.metrics.audit_write_failures.inc();
        if self.metrics.audit_failing.get() == 0 {
            self.metrics.audit_failing.set(1);
            tracing::error!(error = %error, file = %self.path.display(), "{what}");
        }
    }
}

/// Where the line begins that these bytes end in.
fn begun(written: &[u8]) -> usize {
    written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// The file, to be appended to. A line that a crash cut short is ended.
fn opened(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) && !path.starts_with("/dev") {
        let problem = "a named pipe would hold everything up until somebody reads it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() && ends_within_a_line(path)? {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn ends_within_a_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests;
