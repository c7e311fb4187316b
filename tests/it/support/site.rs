//! The real program with everything it needs, in a folder of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use portcullis::emulator::{EchoOrigin, Emulator, EmulatorSettings};

use super::{ANY, Ask, Running, free_port, install_crypto, try_ask};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// What a program of its own needs, and where it is.
pub(crate) struct Site {
    pub(crate) emulator: Emulator,
    pub(crate) echo: EchoOrigin,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) traffic: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) admin: SocketAddr,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Site {
    pub(crate) async fn new(more: &str) -> Self {
        install_crypto();
        let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
        let echo = EchoOrigin::start(ANY).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (traffic, ops, admin) = (loopback(free_port()), loopback(free_port()), loopback(free_port()));
        let yaml = format!(
            "listeners: [ {{ address: {traffic} }} ]
ops: {{ address: {ops} }}
admin: {{ address: {admin}, token: {{ value: a-token-of-some-length }} }}
stytch: {{ project_id: {}, secret: {{ value: {} }}, base_url: \"{}\" }}
upstreams: {{ app: {{ url: http://{} }} }}
log: {{ access: false }}
routes: [ {{ name: everything, match: {{ path: /** }}, require: authenticated }} ]
{more}",
            emulator.project_id(),
            emulator.secret(),
            emulator.url(),
            echo.address()
        );
        std::fs::write(folder.path().join("portcullis.yaml"), yaml).unwrap();
        Self { emulator, echo, folder, traffic, ops, admin }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("portcullis.yaml")
    }

    pub(crate) fn run(&self, environment: &[(&str, &str)]) -> Running {
        self.run_into(Stdio::null(), environment)
    }

    /// As `run`, with its standard output to read.
    pub(crate) fn run_into(&self, output: impl Into<Stdio>, environment: &[(&str, &str)]) -> Running {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "-c"]).arg(self.file()).envs(environment.iter().copied());
        Running(command.stdout(output).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("-c").arg(self.file()).output().unwrap()
    }

    pub(crate) async fn until_ready(&self) {
        let began = Instant::now();
        while try_ask(self.ops, Ask::get("/readyz")).await.is_none_or(|answer| answer.status != 200) {
            assert!(began.elapsed() < Duration::from_secs(20), "it is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn reloads(&self, result: &str) -> f64 {
        let name = format!("portcullis_config_reloads_total{{result=\"{result}\"}}");
        crate::support::metric(self.ops, &name).await
    }

    pub(crate) fn jwt(&self) -> String {
        self.emulator.personas()[0].jwt.clone()
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
    let told = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(told.success());
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
