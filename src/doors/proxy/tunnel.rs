//! A tunnel after a WebSocket upgrade: bytes both ways until either side ends, both are silent for too long, or the
//! session behind it may not go on.
//!
//! Must not look inside, nor outlive its silence or its lease.

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::websocket::{FrameTracker, close_frame};
use crate::engine::Lease;
use crate::policy::Reason;
use crate::server::Drain;

/// How long a tunnel goes on once everyone is told to leave.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a tunnel whose session ended waits for a frame to end, and then for the client to close.
const GRACE: Duration = Duration::from_millis(250);
const BUFFER_BYTES: usize = 16 * 1024;

/// How the direction to the client ended.
enum Ended {
    /// By itself.
    Done,
    /// For want of a lease, between two frames.
    BetweenFrames(Reason),
    /// For want of a lease, in the middle of a frame: nothing more can be said.
    InAFrame,
}

/// Waits for both sides to switch, then copies.
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
    let mut ended = Ended::Done;
    {
        let upward = copy(&mut from_client, &mut to_origin, &moved);
        let downward = copy_leased(&mut from_origin, &mut to_client, &moved, lease.as_deref());
        let copying = async {
            let mut upward = std::pin::pin!(upward);
            let mut downward = std::pin::pin!(downward);
            // Either side's end ends the tunnel once the other direction had its chance to finish; want of a lease
            // ends both at once.
            tokio::select! {
                () = &mut upward => downward.await,
                ended = &mut downward => {
                    if matches!(ended, Ended::Done) {
                        upward.await;
                    }
                    ended
                }
            }
        };
        let watching = async { while tokio::time::timeout(silence, moved.notified()).await.is_ok() {} };
        let leaving = async {
            drain.begun().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            how = copying => ended = how,
            () = watching => {}
            () = leaving => {}
        }
    }
    if let Ended::BetweenFrames(reason) = ended {
        let farewell = async {
            to_client.write_all(&close_frame(reason.title())).await?;
            to_client.flush().await?;
            // The client answers with a close of its own, perhaps behind what it had already sent.
            let mut buffer = vec![0; BUFFER_BYTES];
            while from_client.read(&mut buffer).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        drop(tokio::time::timeout(GRACE, farewell).await);
        drop(tokio::time::timeout(GRACE, to_client.shutdown()).await);
    }
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), moved: &Notify) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !pass_on(to, buffer.get(..count).unwrap_or_default(), moved).await {
            break;
        }
    }
    drop(to.shutdown().await);
}

/// As `copy`, for as long as the lease holds, knowing where frames end.
async fn copy_leased(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Notify,
    lease: Option<&Lease>,
) -> Ended {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut tracker = FrameTracker::default();
    let ended = async {
        match lease {
            Some(lease) => lease.ended().await,
            None => std::future::pending().await,
        }
    };
    let mut ended = std::pin::pin!(ended);
    let mut over: Option<(Reason, Instant)> = None;
    loop {
        if let Some((reason, _)) = over
            && tracker.is_between_frames()
        {
            return Ended::BetweenFrames(reason);
        }
        let until = over.map_or_else(Instant::now, |(_, until)| until);
        let read = tokio::select! {
            biased;
            reason = &mut ended, if over.is_none() => {
                over = Some((reason, Instant::now() + GRACE));
                continue;
            }
            () = tokio::time::sleep_until(until), if over.is_some() => return Ended::InAFrame,
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else { break };
        let bytes = buffer.get(..count).unwrap_or_default();
        let bytes = if over.is_some() {
            // What is left of the frame, and no more.
            let rest = tracker.pass_frame(bytes);
            bytes.get(..rest).unwrap_or_default()
        } else {
            tracker.pass(bytes);
            bytes
        };
        if !pass_on(to, bytes, moved).await {
            break;
        }
    }
    drop(to.shutdown().await);
    Ended::Done
}

async fn pass_on(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], moved: &Notify) -> bool {
    moved.notify_one();
    to.write_all(bytes).await.is_ok() && to.flush().await.is_ok()
}
