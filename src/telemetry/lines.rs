//! Lines that wait to be written, bounded, and the one thread that writes them, so that no request waits for the log.
//!
//! Must not block the caller: what there is no room for is dropped and counted.

use std::cell::RefCell;
use std::io::Write;
use std::mem;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;

use super::combined_line::CombinedLines;
use super::json_line::JsonLines;
use super::logfmt_line::LogfmtLines;
use super::record::{AccessRecord, DecisionRecord, Record, ShadowRecord};
use super::settings::LineFormat;

/// What may wait to be written, in bytes: some eight thousand lines.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Room that is kept for what waits; more than that is given back once it was written.
const USUAL_BYTES: usize = 64 * 1024;
/// How long a line may wait before it is written.
const GATHER_FOR: Duration = Duration::from_millis(5);

thread_local! {
    /// Lines are written here first, so that nobody holds up anybody while they are.
    static LINES: RefCell<Forms> = const { RefCell::new(Forms::new()) };
}

struct Forms {
    json: JsonLines,
    logfmt: LogfmtLines,
    combined: CombinedLines,
}

impl Forms {
    const fn new() -> Self {
        Self { json: JsonLines::new(), logfmt: LogfmtLines::new(), combined: CombinedLines::new() }
    }

    /// The line of `record`; none in a form that has no room for it.
    fn line(&mut self, format: LineFormat, record: &impl Record) -> &[u8] {
        match format {
            LineFormat::Json => self.json.line(record),
            LineFormat::Logfmt => self.logfmt.line(record),
            LineFormat::Combined => &[],
        }
    }
}

/// Where access lines and decision records go.
#[derive(Clone)]
pub struct LineWriter {
    open: Option<Arc<Open>>,
    dropped: IntCounter,
}

struct Open {
    desk: Arc<Desk>,
    format: LineFormat,
}

/// Tells the thread, when nobody can write any more, that it is over.
impl Drop for Open {
    fn drop(&mut self) {
        self.desk.lock().over = true;
        self.desk.woken.notify_one();
    }
}

#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Told once everything before was written.
    flushes: Vec<SyncSender<()>>,
    over: bool,
    /// Nothing is waiting, and the thread must be woken.
    asleep: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, once something does; nothing once it is over. `written` goes back to be filled again.
    fn take(&self, written: Vec<u8>) -> Option<(Vec<u8>, Vec<SyncSender<()>>)> {
        let mut waiting = self.lock();
        while waiting.bytes.is_empty() && waiting.flushes.is_empty() {
            if waiting.over {
                return None;
            }
            waiting.asleep = true;
            waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.asleep = false;
        Some((mem::replace(&mut waiting.bytes, written), mem::take(&mut waiting.flushes)))
    }
}

impl Waiting {
    /// Whether the thread must be woken.
    fn rouse(&mut self) -> bool {
        mem::take(&mut self.asleep)
    }
}

impl LineWriter {
    /// Starts the writing thread; it ends when the last clone is dropped and everything is written.
    pub fn start(
        mut sink: impl Write + Send + 'static,
        format: LineFormat,
        dropped: IntCounter,
    ) -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let open = Open { desk: Arc::clone(&desk), format };
        let losses = dropped.clone();
        std::thread::Builder::new().name("log-lines".to_owned()).spawn(move || {
            let mut written = Vec::new();
            let mut lost_within = false;
            while let Some((mut bytes, flushes)) = desk.take(written) {
                // A closed sink must not end the gateway.
                lost_within = !write_out(&mut sink, &bytes, lost_within, &losses);
                for done in flushes {
                    done.try_send(()).unwrap_or_default();
                }
                bytes.clear();
                bytes.shrink_to(USUAL_BYTES);
                written = bytes;
                // Lines gather while this rests: a thread that waits for each must be woken for each, by the request.
                std::thread::park_timeout(GATHER_FOR);
            }
        })?;
        Ok(Self { open: Some(Arc::new(open)), dropped })
    }

    /// A writer that drops everything, for when the configuration turns the access log off.
    pub fn off(dropped: IntCounter) -> Self {
        Self { open: None, dropped }
    }

    pub fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// Whether there is room for decisions: the combined format has none.
    pub fn takes_decisions(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.format != LineFormat::Combined)
    }

    /// Whether lines name the client's program, and where it came from.
    pub fn names_agents(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.format == LineFormat::Combined)
    }

    /// Waits until everything handed over was written, at most `patience`. Blocks.
    pub fn flush(&self, patience: Duration) {
        let Some(Open { desk, .. }) = self.open.as_deref() else { return };
        let (done, written) = sync_channel(1);
        let mut waiting = desk.lock();
        waiting.flushes.push(done);
        let asleep = waiting.rouse();
        drop(waiting);
        if asleep {
            desk.woken.notify_one();
        }
        written.recv_timeout(patience).unwrap_or_default();
    }

    pub fn access(&self, record: &AccessRecord<'_>) {
        self.write(|forms, format| match format {
            LineFormat::Combined => forms.combined.line(record),
            _ => forms.line(format, record),
        });
    }

    pub fn decision(&self, record: &DecisionRecord<'_>) {
        if !self.takes_decisions() {
            return;
        }
        self.write(|forms, format| forms.line(format, record));
    }

    pub fn shadow(&self, record: &ShadowRecord<'_>) {
        if !self.takes_decisions() {
            return;
        }
        self.write(|forms, format| forms.line(format, record));
    }

    fn write(&self, line: impl FnOnce(&mut Forms, LineFormat) -> &[u8]) {
        let Some(Open { desk, format }) = self.open.as_deref() else { return };
        LINES.with_borrow_mut(|forms| {
            let line = line(forms, *format);
            let mut waiting = desk.lock();
            if waiting.bytes.len() + line.len() > MOST_BYTES {
                drop(waiting);
                self.dropped.inc();
                return;
            }
            waiting.bytes.extend_from_slice(line);
            let asleep = waiting.rouse();
            drop(waiting);
            if asleep {
                desk.woken.notify_one();
            }
        });
    }
}

/// Writes lines, after one that was cut if that is so; what cannot be written is counted. False if the last one was cut.
fn write_out(sink: &mut impl Write, lines: &[u8], after_cut: bool, dropped: &IntCounter) -> bool {
    let mut rest = lines;
    let mut written = if after_cut { sink.write_all(b"\n") } else { Ok(()) };
    while written.is_ok() && !rest.is_empty() {
        written = sink.write(rest).and_then(|count| match rest.get(count..) {
            Some(left) if count > 0 => {
                rest = left;
                Ok(())
            }
            _ => Err(std::io::ErrorKind::WriteZero.into()),
        });
        if written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::Interrupted) {
            written = Ok(());
        }
    }
    let lost = rest.iter().filter(|byte| **byte == b'\n').count();
    dropped.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
    let cut = !rest.is_empty()
        && rest.len() < lines.len()
        && !lines.get(..lines.len() - rest.len()).is_some_and(|done| done.ends_with(b"\n"));
    drop(sink.flush());
    !(cut || after_cut && rest.len() == lines.len())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A reader that takes nothing until it is let.
    struct Stuck {
        go: Receiver<()>,
        taken: std::sync::mpsc::Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(|_| io::Error::other("nobody lets it go on"))?;
            self.taken.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(request_id: &str) -> ShadowRecord<'_> {
        ShadowRecord {
            ts: jiff::Timestamp::UNIX_EPOCH,
            request_id,
            trace_id: "",
            route: "app",
            decision: "allow",
            reason: None,
            result: "would_refuse",
            shadow_reason: None,
            organization_id: None,
            member_id: None,
        }
    }

    #[test]
    fn a_reader_that_stands_still_loses_lines_and_holds_up_nobody() {
        let (let_go, go) = channel();
        let (taken, received) = channel();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let lines = LineWriter::start(Stuck { go, taken }, LineFormat::Json, dropped.clone()).unwrap();
        let long = "x".repeat(4096);
        let handed_over = 2 * MOST_BYTES / long.len() + 2;
        for _ in 0..handed_over {
            lines.shadow(&record(&long));
        }
        assert!(dropped.get() > 0);
        let_go.send(()).unwrap();
        let_go.send(()).unwrap();
        drop(lines);
        let all: Vec<u8> = received.iter().flatten().collect();
        let whole = all.split(|byte| *byte == b'\n').filter(|line| line.ends_with(b"}")).count();
        assert_eq!(
            whole as u64 + dropped.get(),
            handed_over as u64,
            "every line was written whole or counted"
        );
    }

    /// A reader that takes a few bytes, and then nothing until it is well again.
    struct Ailing {
        takes: usize,
        taken: Vec<u8>,
    }

    impl Write for Ailing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.takes);
            self.takes -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_does_not_run_into_the_next() {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let mut sink = Ailing { takes: 5, taken: Vec::new() };
        assert!(!write_out(&mut sink, b"one\ntwo\nthree\n", false, &dropped), "cut within the second");
        assert_eq!(dropped.get(), 2);
        assert!(!write_out(&mut sink, b"four\n", true, &dropped), "nothing of it was written");
        assert_eq!(dropped.get(), 3);
        sink.takes = 100;
        assert!(write_out(&mut sink, b"five\n", true, &dropped));
        assert_eq!(sink.taken, b"one\nt\nfive\n");
    }
}
