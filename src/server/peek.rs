//! Looking at the first bytes of a connection without taking them.
//!
//! Must not poll: a client that sends half of what is waited for costs nothing until it sends more.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Waits until more than `seen` bytes have arrived, and how many did; no more than `seen` where the client stopped sending.
pub(super) async fn peek_past(stream: &TcpStream, seen: usize, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        // Readiness is given up only for a look that saw nothing new, in the same step.
        let looked = stream.try_io(Interest::READABLE, || {
            let (count, _) = recv(stream, &mut *buffer, RecvFlags::PEEK)?;
            if count > seen || count == 0 { Ok(count) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Ok(seen);
                }
            }
            looked => return looked,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn it_wakes_for_more_bytes_and_for_the_end_and_for_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut first = [0; 4];
        client.write_all(b"P").await.unwrap();
        assert_eq!(peek_past(&server, 0, &mut first).await.unwrap(), 1);
        let mut looks = 0;
        {
            let mut more = std::pin::pin!(peek_past(&server, 1, &mut first));
            let mut counted = std::pin::pin!(std::future::poll_fn(|cx| {
                looks += 1;
                more.as_mut().poll(cx)
            }));
            assert!(tokio::time::timeout(Duration::from_millis(100), &mut counted).await.is_err());
            client.write_all(b"R").await.unwrap();
            assert_eq!(counted.await.unwrap(), 2);
        }
        assert!(looks < 6, "{looks} looks for two events");
        client.shutdown().await.unwrap();
        assert_eq!(peek_past(&server, 2, &mut first).await.unwrap(), 2, "nothing more comes");
        assert_eq!(&first[..2], b"PR");
    }
}
