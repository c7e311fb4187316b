//! A bounded queue of lines and the one thread that writes them, so that no request waits for the log.
//!
//! Must not block the caller: a full queue drops the line and counts it.

use std::io::{BufWriter, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus::IntCounter;

/// Lines that may wait to be written.
const QUEUE: usize = 8192;
/// How long a line may wait before it is written.
const GATHER_FOR: Duration = Duration::from_millis(5);

enum Entry {
    Line(String),
    /// Everything before this was written once it is answered.
    Flush(SyncSender<()>),
}

/// Where access lines and decision records go.
#[derive(Clone)]
pub struct LineWriter {
    queue: Option<SyncSender<Entry>>,
    dropped: IntCounter,
}

impl LineWriter {
    /// Starts the writing thread; it ends when the last clone is dropped and everything is written.
    pub fn start(sink: impl Write + Send + 'static, dropped: IntCounter) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel::<Entry>(QUEUE);
        std::thread::Builder::new().name("log-lines".to_owned()).spawn(move || {
            let mut sink = BufWriter::new(sink);
            while let Ok(entry) = lines.recv() {
                let mut next = Some(entry);
                while let Some(entry) = next {
                    // A closed sink must not end the gateway; the lines are lost as the operator asked.
                    match entry {
                        Entry::Line(line) => {
                            drop(sink.write_all(line.as_bytes()));
                            drop(sink.write_all(b"\n"));
                        }
                        Entry::Flush(done) => {
                            drop(sink.flush());
                            done.try_send(()).unwrap_or_default();
                        }
                    }
                    next = lines.try_recv().ok();
                }
                drop(sink.flush());
                // Lines gather while this rests: a thread that waits for each must be woken for each, by the request.
                std::thread::park_timeout(GATHER_FOR);
            }
        })?;
        Ok(Self { queue: Some(queue), dropped })
    }

    /// A writer that drops everything, for when the configuration turns the access log off.
    pub fn off(dropped: IntCounter) -> Self {
        Self { queue: None, dropped }
    }

    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Waits until everything handed over was written, at most `patience`. Blocks.
    pub fn flush(&self, patience: Duration) {
        if let Some(queue) = &self.queue {
            let (done, written) = sync_channel(1);
            if queue.try_send(Entry::Flush(done)).is_ok() {
                written.recv_timeout(patience).unwrap_or_default();
            }
        }
    }

    pub fn write(&self, line: String) {
        if let Some(queue) = &self.queue {
            match queue.try_send(Entry::Line(line)) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.inc(),
            }
        }
    }
}
