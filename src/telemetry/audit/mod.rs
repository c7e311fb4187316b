//! The audit stream: decision records of which none is lost. Who decides takes a place first, and is told once the record
//! was written.
//!
//! Must not drop a record, nor let more of them wait than there are places; must not block whoever waits.

mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::mem;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::stream::Stream;
use super::json_line::JsonLines;
use super::lines::LineWriter;
use super::metrics::Metrics;
use super::record::DecisionRecord;
use super::settings::AuditSettings;

/// Requests that may be decided on, or whose records may wait, at once. Each is a line or two, of half a kilobyte as a rule
/// and at most what a request's head may hold.
const PLACES: usize = 8192;
/// Refusals of what is no request to decide on, likewise: a flood of those must not keep decisions waiting.
const PLACES_AT_THE_DOOR: usize = 4096;
/// How long until what could not be done is tried again; longer each time in a row, up to the second.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

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
    places_at_the_door: Arc<Semaphore>,
    deadline: Duration,
    metrics: Metrics,
}

/// A place for the records of one decision, taken before it is made.
pub struct AuditEntry {
    place: OwnedSemaphorePermit,
    open: Arc<Open>,
    /// What is left of the deadline.
    left: Duration,
    metrics: Metrics,
}

/// A record that waits to be written.
pub struct PendingRecord {
    written: oneshot::Receiver<()>,
    left: Duration,
    since: Instant,
    metrics: Metrics,
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
    /// Somebody wants to leave: what could not be written is tried at once.
    hurry: bool,
    /// Nothing is waiting, and the thread must be woken.
    asleep: bool,
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

    /// What waits, once something does, or `at_latest`; nothing once it is over.
    fn take(&self, at_latest: Option<Duration>) -> Option<Waiting> {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            if waiting.over {
                return None;
            }
            waiting.asleep = true;
            let Some(at_latest) = at_latest else {
                waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            (waiting, _) =
                self.woken.wait_timeout(waiting, at_latest).unwrap_or_else(PoisonError::into_inner);
            break;
        }
        let over = waiting.over;
        Some(mem::replace(&mut *waiting, Waiting { over, ..Waiting::default() }))
    }

    /// Rests until something is asked for, or for so long: whether the file shall be opened again, and whether it is over.
    fn rest(&self, at_most: Duration) -> (bool, bool) {
        let resting = |waiting: &mut Waiting| !waiting.reopen && !waiting.over && !waiting.hurry;
        let rested = self.woken.wait_timeout_while(self.lock(), at_most, resting);
        let (mut waiting, _) = rested.unwrap_or_else(PoisonError::into_inner);
        waiting.hurry = false;
        (mem::take(&mut waiting.reopen), waiting.over)
    }

    fn push(&self, record: &DecisionRecord<'_>, place: Option<(OwnedSemaphorePermit, oneshot::Sender<()>)>) {
        let mut json = JsonLines::new();
        let line = json.line(record);
        let mut waiting = self.lock();
        waiting.lines.extend_from_slice(line);
        waiting.records += 1;
        waiting.places.extend(place);
        let asleep = mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.woken.notify_one();
        }
    }
}

impl DecisionLog {
    /// Opens the file of the audit stream by its name again, for whoever moved it away.
    pub fn reopen(&self) {
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }

    /// Waits until everything handed over was written, at most `patience` for each stream. Blocks. False if decisions are
    /// left that were not recorded.
    pub fn flush(&self, patience: Duration) -> bool {
        let recorded = self.audit.as_ref().is_none_or(|audit| audit.flush(patience));
        self.lines.flush(patience);
        recorded
    }
}

impl AuditLog {
    /// Opens the file and starts the thread that writes; it ends when the last clone is dropped and everything is written.
    pub fn start(settings: &AuditSettings, metrics: Metrics) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let open = Arc::new(Open(Arc::clone(&desk)));
        let mut stream = Stream::open(settings, metrics.clone())?;
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some(taken) = desk.take(stream.reopen.map(|_| AGAIN_AFTER[1])) {
                if stream.keep(&desk, taken).is_err() {
                    return;
                }
            }
        })?;
        let places = |count| Arc::new(Semaphore::new(count));
        Ok(Self {
            open,
            places: places(PLACES),
            places_at_the_door: places(PLACES_AT_THE_DOOR),
            deadline: settings.deadline,
            metrics,
        })
    }

    /// A place for one decision, or `None` if there was none within the deadline: then nothing may be decided.
    pub async fn reserve(&self) -> Option<AuditEntry> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(self.entry(place, self.deadline));
        }
        // Rarely waited for: in a box, so that nobody carries it about.
        let since = Instant::now();
        let waiting = tokio::time::timeout(self.deadline, Arc::clone(&self.places).acquire_owned());
        let place = Box::pin(waiting).await.ok()?.ok()?;
        Some(self.entry(place, self.deadline.saturating_sub(since.elapsed())))
    }

    /// A place for the refusal of what is no request to decide on, if there is one now.
    pub fn reserve_at_the_door(&self) -> Option<AuditEntry> {
        let place = Arc::clone(&self.places_at_the_door).try_acquire_owned().ok()?;
        Some(self.entry(place, self.deadline))
    }

    fn entry(&self, place: OwnedSemaphorePermit, left: Duration) -> AuditEntry {
        AuditEntry { place, open: Arc::clone(&self.open), left, metrics: self.metrics.clone() }
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

    fn flush(&self, patience: Duration) -> bool {
        let (done, written) = sync_channel(1);
        let mut waiting = self.open.0.lock();
        waiting.flushes.push(done);
        waiting.hurry = true;
        drop(waiting);
        self.open.0.woken.notify_one();
        written.recv_timeout(patience).is_ok()
    }
}

impl AuditEntry {
    /// Records the decision. It may be acted on once that was written.
    pub fn record(self, record: &DecisionRecord<'_>) -> PendingRecord {
        let (done, written) = oneshot::channel();
        self.open.0.push(record, Some((self.place, done)));
        PendingRecord { written, left: self.left, since: Instant::now(), metrics: self.metrics }
    }
}

impl PendingRecord {
    /// Waits until the record was written: false if it was not within the deadline. It still will be.
    pub async fn written(self) -> bool {
        let written = tokio::time::timeout(self.left, self.written);
        let written = matches!(Box::pin(written).await, Ok(Ok(())));
        self.metrics.audit_wait.observe(self.since.elapsed().as_secs_f64());
        written
    }
}
