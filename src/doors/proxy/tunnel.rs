//! A tunnel after a WebSocket upgrade: bytes both ways until either side ends or both are silent for too long.
//!
//! Must not look inside, nor outlive its silence.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::server::Drain;

/// How long a tunnel goes on once everyone is told to leave.
const FAREWELL: Duration = Duration::from_secs(5);
const BUFFER_BYTES: usize = 16 * 1024;

/// Waits for both sides to switch, then copies.
pub(super) async fn open_tunnel(client: OnUpgrade, origin: OnUpgrade, silence: Duration, drain: Drain) {
    let switched =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::try_join!(client, origin) }).await;
    let Ok(Ok((client, origin))) = switched else {
        return;
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_origin, mut to_origin) = tokio::io::split(TokioIo::new(origin));
    let moved = Notify::new();
    let copying = async {
        // Either side's end ends the tunnel once the other direction had its chance to finish.
        tokio::join!(
            copy(&mut from_client, &mut to_origin, &moved),
            copy(&mut from_origin, &mut to_client, &moved)
        )
    };
    let watching = async { while tokio::time::timeout(silence, moved.notified()).await.is_ok() {} };
    let leaving = async {
        drain.begun().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        _ = copying => {}
        () = watching => {}
        () = leaving => {}
    }
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), moved: &Notify) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        moved.notify_one();
        if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    drop(to.shutdown().await);
}
