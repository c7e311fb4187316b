//! A real Redis for a test, on a port of its own, gone with the test.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What every gateway of a test seals with.
pub(crate) const KEY: &str = "a key that only these tests have 0123456789";

pub(crate) struct Redis {
    process: Child,
    pub(crate) port: u16,
}

impl Redis {
    /// Nothing, and the reason printed, where Redis is not installed; a failure where peers are required.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With more of Redis's own options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        let port = free_port();
        let process = Self::spawn(port, options);
        if process.is_none() {
            assert!(std::env::var_os("PORTCULLIS_REQUIRE_PEERS").is_none(), "redis-server is not installed");
            println!("skipped: redis-server is not installed");
        }
        Some(Self { process: process?, port })
    }

    fn spawn(port: u16, options: &[&str]) -> Option<Child> {
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // For `debug sleep`.
            .args(["--enable-debug-command", "local"])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let began = Instant::now();
        while std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "redis-server did not start");
            #[expect(
                clippy::disallowed_methods,
                reason = "a server that comes up is waited for, on whatever thread"
            )]
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(process)
    }

    /// The overrides that make a gateway share it.
    pub(crate) fn overrides(&self) -> Vec<(String, String)> {
        vec![
            ("sessions.shared.redis".to_owned(), format!("redis://127.0.0.1:{}", self.port)),
            ("sessions.shared.key.value".to_owned(), KEY.to_owned()),
        ]
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.process = Self::spawn(self.port, &[]).unwrap();
    }

    /// Stops it where it stands: connections stay open and nothing answers.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success()
        );
    }

    /// One command, by Redis's own client.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let run = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8_lossy(&run.stdout).into_owned()
    }
}

/// A port of loopback that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind(super::ANY).unwrap().local_addr().unwrap().port()
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// While it lives, Redis is held up again and again.
pub(crate) struct Slow(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Redis {
    /// Holds every exchange up for longer than a gateway waits.
    pub(crate) fn slow_down(&self) -> Slow {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (flag, port) = (std::sync::Arc::clone(&stop), self.port.to_string());
        let thread = std::thread::spawn(move || {
            while !flag.load(std::sync::atomic::Ordering::Relaxed) {
                let slept = Command::new("redis-cli").args(["-p", &port, "debug", "sleep", "0.1"]).output();
                assert_eq!(slept.unwrap().stdout, b"OK\n", "it is not slow");
            }
        });
        Slow(stop, Some(thread))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(self.1.take().map(std::thread::JoinHandle::join));
    }
}
