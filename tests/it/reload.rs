//! The configuration read again while the gateway runs: whole or not at all, by every way it can be asked for.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::app::{ConfigurationSource, Gateway};
use portcullis::emulator::{EchoOrigin, Emulator, EmulatorSettings};

use crate::support::{ANY, Answer, Ask, Lines, ask, install_crypto, options_for};

/// A gateway whose configuration is a file that can be changed.
struct Changing {
    gateway: Gateway,
    emulator: Emulator,
    folder: tempfile::TempDir,
    origins: Vec<EchoOrigin>,
}

/// Everything that tells one version from another: the route, the prefix of its headers, the application.
fn version(number: usize, origins: &[EchoOrigin]) -> String {
    let number = number % 2;
    format!(
        "listeners: [ {{ address: {ANY} }} ]
admin: {{ address: {ANY}, token: {{ value: a-token-of-some-length }} }}
identity: {{ header_prefix: x-v{number}- }}
upstreams:
  app: {{ url: http://127.0.0.1:1 }}
  v{number}: {{ url: http://{} }}
routes:
  - {{ name: v{number}, match: {{ path: /** }}, require: authenticated, upstream: v{number} }}
",
        origins[number].address()
    )
}

impl Changing {
    async fn start() -> Self {
        install_crypto();
        let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
        let origins = vec![EchoOrigin::start(ANY).await.unwrap(), EchoOrigin::start(ANY).await.unwrap()];
        let folder = tempfile::tempdir().unwrap();
        let file = mount(folder.path(), 0, &version(0, &origins));
        let options = options_for(&file, &emulator, "http://127.0.0.1:1", &[]);
        let loaded = portcullis::config::load_with_warnings(&options)
            .unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
        let source = ConfigurationSource::from(&loaded);
        let gateway = Gateway::start(loaded.config, Lines::default()).await.unwrap();
        assert!(gateway.ready(Duration::from_secs(5)).await);
        gateway.keep_configuration(options, source);
        let changing = Self { gateway, emulator, folder, origins };
        // The files are read once before they are watched.
        changing.until(|text| text.contains("portcullis_config_last_reload_successful 1")).await;
        changing
    }

    fn write(&self, number: usize, yaml: &str) {
        mount(self.folder.path(), number, yaml);
    }

    async fn get(&self) -> Answer {
        let jwt = &self.emulator.personas()[0].jwt;
        ask(self.gateway.traffic()[0].0, Ask::get("/").bearer(jwt)).await
    }

    /// Waits until the metrics say so.
    async fn until(&self, holds: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let text = ask(self.gateway.ops(), Ask::get("/metrics")).await.text();
            if holds(&text) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_reloads(&self, result: &str, count: u64) {
        let line = format!("portcullis_config_reloads_total{{result=\"{result}\"}} {count}\n");
        self.until(|text| text.contains(&line)).await;
    }
}

/// Puts a version where the kubelet would: files in a folder of their own, behind a link that is renamed into its place.
fn mount(folder: &Path, number: usize, yaml: &str) -> PathBuf {
    let version = folder.join(format!("..version-{number}"));
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join("portcullis.yaml"), yaml).unwrap();
    let beside = folder.join("..data_tmp");
    symlink(&version, &beside).unwrap();
    std::fs::rename(&beside, folder.join("..data")).unwrap();
    let file = folder.join("portcullis.yaml");
    if !file.exists() {
        symlink("..data/portcullis.yaml", &file).unwrap();
    }
    file
}

/// The one version an answer is of; panics if it is of two.
fn version_of(answer: &Answer, origins: &[EchoOrigin]) -> usize {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let headers = told["headers"].as_object().unwrap();
    let by_header = [0, 1].map(|number| headers.contains_key(&format!("x-v{number}-member-id")));
    let at = told["address"].as_str().unwrap();
    let by_origin = [0, 1].map(|number| origins[number].address().to_string() == at);
    assert_eq!(by_header, by_origin, "{told}");
    usize::from(by_header[1])
}

#[tokio::test]
async fn a_config_map_that_changes_is_in_force_soon_and_one_with_a_mistake_is_not() {
    let changing = Changing::start().await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 0);
    // More than once: a watch on the file itself would see the first change and no other.
    for number in 1..4 {
        let began = Instant::now();
        changing.write(number, &version(number, &changing.origins));
        while version_of(&changing.get().await, &changing.origins) != number % 2 {
            assert!(began.elapsed() < Duration::from_secs(10), "change {number} was not seen");
        }
    }
    changing.until_reloads("applied", 3).await;

    changing.write(4, "routes: [ { name: x, match: { path: nowhere }, publik: true } ]\n");
    changing.until_reloads("invalid", 1).await;
    changing.until(|text| text.contains("portcullis_config_last_reload_successful 0")).await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 1);
    let ready = ask(changing.gateway.ops(), Ask::get("/readyz")).await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("invalid and not in force"), "{}", ready.text());

    let elsewhere =
        version(0, &changing.origins).replace("listeners: [", "ops: { address: 127.0.0.1:9 }\nlisteners: [");
    let moved = elsewhere.replace("listeners: [ {", "listeners: [ { name: other,");
    changing.write(5, &moved);
    changing.until_reloads("refused", 1).await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 1);

    changing.write(6, &version(0, &changing.origins));
    changing.until_reloads("applied", 4).await;
    changing.until(|text| text.contains("portcullis_config_last_reload_successful 1")).await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 0);
}

#[tokio::test]
async fn a_certificate_may_come_after_the_configuration_that_names_it() {
    let changing = Changing::start().await;
    let missing = changing.folder.path().join("authority.pem");
    let line = format!(
        "upstreams:\n  tls: {{ url: https://127.0.0.1:1, tls: {{ ca_file: {} }} }}\n",
        missing.display()
    );
    let wanted = version(1, &changing.origins).replace("upstreams:\n", &line);
    changing.write(1, &wanted);
    changing.until_reloads("refused", 1).await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 0);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&missing, made.cert.pem()).unwrap();
    changing.until_reloads("applied", 1).await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 1);
}

#[tokio::test]
async fn what_changed_while_the_gateway_started_is_not_missed() {
    install_crypto();
    let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
    let origins = vec![EchoOrigin::start(ANY).await.unwrap(), EchoOrigin::start(ANY).await.unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let file = mount(folder.path(), 0, &version(0, &origins));
    let options = options_for(&file, &emulator, "http://127.0.0.1:1", &[]);
    let loaded = portcullis::config::load_with_warnings(&options).unwrap();
    let source = ConfigurationSource::from(&loaded);
    let gateway = Gateway::start(loaded.config, Lines::default()).await.unwrap();
    mount(folder.path(), 1, &version(1, &origins));
    gateway.keep_configuration(options, source);
    let changing = Changing { gateway, emulator, folder, origins };
    changing.until_reloads("applied", 1).await;
    assert_eq!(version_of(&changing.get().await, &changing.origins), 1);
}

#[tokio::test]
async fn no_request_is_lost_or_decided_on_half_of_a_configuration() {
    let changing = Arc::new(Changing::start().await);
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (changing, over, answered) = (Arc::clone(&changing), Arc::clone(&over), Arc::clone(&answered));
        callers.push(tokio::spawn(async move {
            let mut seen = [0_u64; 2];
            while !over.load(Ordering::Relaxed) {
                seen[version_of(&changing.get().await, &changing.origins)] += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            seen
        }));
    }
    let (mut applied, mut invalid) = (0, 0);
    for number in 1..=20 {
        if number % 3 == 0 {
            invalid += 1;
            // Each another one: what is read twice is no change.
            changing.write(number, &format!("routes: [ # {number}"));
            changing.until_reloads("invalid", invalid).await;
        } else {
            applied += 1;
            // Another than the one in force, and seen before the next is written: one that is written over is never read.
            changing.write(number, &version(applied, &changing.origins));
            changing.until_reloads("applied", u64::try_from(applied).unwrap()).await;
            assert_eq!(version_of(&changing.get().await, &changing.origins), applied % 2);
        }
        let before = answered.load(Ordering::Relaxed);
        crate::support::eventually(|| (answered.load(Ordering::Relaxed) >= before + 20).then_some(())).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut seen = [0; 2];
    for caller in callers {
        let one = caller.await.unwrap();
        seen = [seen[0] + one[0], seen[1] + one[1]];
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}
