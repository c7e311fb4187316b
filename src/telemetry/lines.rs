//! A bounded queue of lines and the one thread that writes them, so that no request waits for the log.
//!
//! Must not block the caller: a full queue drops the line and counts it.

use std::io::{BufWriter, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use prometheus::IntCounter;

/// Lines that may wait to be written.
const QUEUE: usize = 8192;

/// Where access lines and decision records go.
#[derive(Clone)]
pub struct LineWriter {
    queue: Option<SyncSender<String>>,
    dropped: IntCounter,
}

impl LineWriter {
    /// Starts the writing thread; it ends when the last clone is dropped and everything is written.
    pub fn start(sink: impl Write + Send + 'static, dropped: IntCounter) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel::<String>(QUEUE);
        std::thread::Builder::new().name("log-lines".to_owned()).spawn(move || {
            let mut sink = BufWriter::new(sink);
            while let Ok(line) = lines.recv() {
                let mut next = Some(line);
                while let Some(line) = next {
                    // A closed sink must not end the gateway; the lines are lost as the operator asked.
                    drop(sink.write_all(line.as_bytes()));
                    drop(sink.write_all(b"\n"));
                    next = lines.try_recv().ok();
                }
                drop(sink.flush());
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

    pub fn write(&self, line: String) {
        if let Some(queue) = &self.queue {
            match queue.try_send(line) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.inc(),
            }
        }
    }
}
