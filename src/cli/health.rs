//! `portcullis health`: asks the ops listener, so that an image needs no other program for its health check.
//!
//! Must not read the configuration; an address is enough.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;

use super::{Failed, Outcome, complain, fail, say};

#[derive(Args)]
pub(super) struct HealthArgs {
    /// The ops listener.
    #[arg(long, env = "PORTCULLIS_OPS_ADDRESS", default_value = "127.0.0.1:9180")]
    address: SocketAddr,
    /// What to ask for: `readyz`, `livez` or `startupz`.
    #[arg(default_value = "readyz", value_parser = ["readyz", "livez", "startupz"])]
    probe: String,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 2)]
    timeout: u64,
}

pub(super) fn run(args: &HealthArgs) -> Outcome {
    let answer = ask(args).map_err(|error| fail(format!("no answer from `{}`: {error}", args.address)))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        say(body.trim_end());
        return Ok(());
    }
    complain(body.trim_end());
    Err(Failed)
}

fn ask(args: &HealthArgs) -> std::io::Result<String> {
    let patience = Duration::from_secs(args.timeout.max(1));
    let mut stream = TcpStream::connect_timeout(&args.address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET /{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", args.probe, args.address)?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
