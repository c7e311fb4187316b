//! Programs and packages that only some machines have. `PORTCULLIS_REQUIRE_PEERS=1` turns a skip into a failure.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Ended with the test, whatever comes of it.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether the program is there; says so if it is not.
pub(crate) fn is_here(program: &str) -> bool {
    is_here_with(program, "--version")
}

/// The same for a program that tells its version in another way.
pub(crate) fn is_here_with(program: &str, option: &str) -> bool {
    found(program, Command::new(program).arg(option))
}

/// Where Python has the package; `PORTCULLIS_PYTHON` names another interpreter than `python3`.
pub(crate) fn python(package: &str) -> Option<String> {
    let python = std::env::var("PORTCULLIS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = format!("import {package}");
    found(&format!("the Python package {package}"), Command::new(&python).args(["-c", &import]))
        .then_some(python)
}

/// The folder whose `node_modules` has the package, as `PORTCULLIS_NODE_PACKAGES` names it.
pub(crate) fn node(package: &str) -> Option<String> {
    let folder = std::env::var("PORTCULLIS_NODE_PACKAGES").unwrap_or_else(|_| ".".to_owned());
    let resolve = format!("require('node:module').createRequire('{folder}/').resolve('{package}')");
    found(&format!("the Node package {package}"), Command::new("node").args(["-e", &resolve]))
        .then_some(folder)
}

fn found(what: &str, trial: &mut Command) -> bool {
    let found =
        trial.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !found {
        assert!(
            std::env::var_os("PORTCULLIS_REQUIRE_PEERS").is_none(),
            "`{what}` is required and not installed"
        );
        eprintln!("skipped: `{what}` is not installed");
    }
    found
}

/// What the script makes of `asked`, both in JSON.
pub(crate) fn ask_script(python: &str, script: &str, asked: &[Value]) -> Vec<Value> {
    let mut running =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    serde_json::to_writer(running.stdin.take().unwrap(), asked).unwrap();
    let answered = running.wait_with_output().unwrap();
    assert!(answered.status.success(), "{script} failed");
    serde_json::from_slice(&answered.stdout).unwrap()
}
