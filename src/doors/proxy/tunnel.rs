//! A tunnel after a WebSocket upgrade: bytes both ways until both sides ended, both are silent for too long, or the
//! session behind it may not go on.
//!
//! Must not look inside, nor outlive its silence or its lease.

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::websocket::{FrameTracker, close_frame, going_away};
use crate::engine::Lease;
use crate::policy::Reason;
use crate::server::Drain;

/// How long a tunnel goes on once everyone is told to leave.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a tunnel whose session ended waits for a frame to end, and then for the client to close.
const GRACE: Duration = Duration::from_millis(250);
const BUFFER_BYTES: usize = 16 * 1024;

/// Waits for both sides to switch, then copies for as long as the lease holds.
pub(super) async fn open_tunnel(
    client: OnUpgrade,
    origin: OnUpgrade,
    silence: Duration,
    drain: Drain,
    lease: Option<Arc<Lease>>,
) {
    let switched =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::try_join!(client, origin) }).await;
    let Ok(Ok((client, origin))) = switched else {
        return;
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_origin, mut to_origin) = tokio::io::split(TokioIo::new(origin));
    let moved = Notify::new();
    // Frames are followed towards the client: a tunnel may have to end between two of them.
    let mut up = Copying::new(None);
    let mut down = Copying::new(Some(FrameTracker::default()));
    let over = {
        let copying = async {
            tokio::join!(
                up.run(&mut from_client, &mut to_origin, &moved),
                down.run(&mut from_origin, &mut to_client, &moved)
            )
        };
        let ended = async {
            match &lease {
                Some(lease) => lease.ended().await,
                None => std::future::pending().await,
            }
        };
        let watching = async { while tokio::time::timeout(silence, moved.notified()).await.is_ok() {} };
        let leaving = async {
            drain.begun().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            // Looked at first, and whatever either direction waits for: one that is read by nobody ends as well.
            biased;
            reason = ended => Some(End::Refused(reason)),
            _ = copying => None,
            () = watching => None,
            () = leaving => Some(End::Leaving),
        }
    };
    let Some(end) = over else { return };
    // From here on nothing reaches the origin.
    let whole =
        tokio::time::timeout(GRACE, down.finish_frame(&mut from_origin, &mut to_client, &moved)).await;
    if !matches!(whole, Ok(Ok(()))) {
        // In the middle of a frame nothing more can be said.
        if matches!(end, End::Leaving) {
            drain.note_cut();
        }
        return;
    }
    let farewell = async {
        to_client.write_all(&end.close_frame()).await?;
        to_client.flush().await?;
        // The client answers with a close of its own, perhaps behind what it had already sent.
        let mut buffer = vec![0; BUFFER_BYTES];
        while from_client.read(&mut buffer).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    drop(tokio::time::timeout(GRACE, farewell).await);
    drop(tokio::time::timeout(GRACE, to_client.shutdown()).await);
}

/// Why a tunnel ends that neither side ended.
enum End {
    Refused(Reason),
    /// The gateway leaves.
    Leaving,
}

impl End {
    fn close_frame(&self) -> Vec<u8> {
        match self {
            Self::Refused(reason) => close_frame(*reason),
            Self::Leaving => going_away(),
        }
    }
}

/// One direction: what was read and is not yet written, and where in a frame what was written ends.
struct Copying {
    buffer: Vec<u8>,
    written: usize,
    filled: usize,
    tracker: Option<FrameTracker>,
}

impl Copying {
    fn new(tracker: Option<FrameTracker>) -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], written: 0, filled: 0, tracker }
    }

    /// Copies until either end is reached. May be dropped at any time: what it holds says how far it came.
    async fn run(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        moved: &Notify,
    ) {
        while self.fill(from).await.is_ok() {
            moved.notify_one();
            let waiting = self.filled - self.written;
            if self.write(to, waiting, moved).await.is_err() {
                break;
            }
        }
        drop(to.shutdown().await);
    }

    /// Passes on what is left of the frame that was begun, and no more.
    async fn finish_frame(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        moved: &Notify,
    ) -> std::io::Result<()> {
        while let Some(tracker) = self.tracker.as_ref().filter(|tracker| !tracker.is_between_frames()) {
            let mut tracker = tracker.clone();
            self.fill(from).await?;
            let rest = tracker.pass_frame(self.buffer.get(self.written..self.filled).unwrap_or_default());
            self.write(to, rest, moved).await?;
        }
        Ok(())
    }

    /// Reads, unless something waits to be written. The end of the stream is an error of its kind.
    async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
        if self.written == self.filled {
            (self.written, self.filled) = (0, 0);
            self.filled = from.read(&mut self.buffer).await?;
            if self.filled == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn write(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        count: usize,
        moved: &Notify,
    ) -> std::io::Result<()> {
        let until = self.written + count;
        while self.written < until {
            let waiting = self.buffer.get(self.written..until).unwrap_or_default();
            let count = to.write(waiting).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            if let Some(tracker) = &mut self.tracker {
                tracker.pass(waiting.get(..count).unwrap_or_default());
            }
            self.written += count;
            // A client that takes a long message slowly is not silent.
            moved.notify_one();
        }
        to.flush().await
    }
}
