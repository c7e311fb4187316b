//! When the configuration is read again: its files changed, a signal came, or somebody asked.
//!
//! Must not touch what is in force for a file that cannot be used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::reload::Running;
use crate::admin::{Change, ConfigurationState};
use crate::config::{Invalid, LoadOptions, Loaded, ResolvedValue, load_with_warnings};

/// Whoever wants to know what became of a change.
pub(super) type ReloadRequests = mpsc::Receiver<oneshot::Sender<Change>>;

/// What the configuration in force was read from, and what it comes to.
pub struct ConfigurationSource {
    pub files: Vec<PathBuf>,
    pub resolved: Vec<ResolvedValue>,
}

impl From<&Loaded> for ConfigurationSource {
    fn from(loaded: &Loaded) -> Self {
        Self { files: loaded.files.clone(), resolved: loaded.resolved.clone() }
    }
}

fn as_json(resolved: &[ResolvedValue]) -> serde_json::Value {
    serde_json::to_value(resolved).unwrap_or_default()
}

/// Files that belong together are written one after another: how long nothing may happen before they are read.
const QUIET_FOR: Duration = Duration::from_millis(50);
/// They are read by then, whatever happens.
const AT_LATEST: Duration = Duration::from_millis(250);
/// How often the files are looked at where nothing tells of changes, as on some network mounts.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Keeps what is in force like the files; ends only with the runtime. From here on a hang-up ends nothing any more.
pub(super) fn keep_configuration(
    running: Arc<Running>,
    state: ConfigurationState,
    options: LoadOptions,
    source: ConfigurationSource,
    requests: ReloadRequests,
) {
    // Without the signal there are the other ways.
    let hangup = signal(SignalKind::hangup()).ok();
    tokio::spawn(keep(running, state, options, source, requests, hangup));
}

async fn keep(
    running: Arc<Running>,
    state: ConfigurationState,
    options: LoadOptions,
    source: ConfigurationSource,
    mut requests: ReloadRequests,
    mut hangup: Option<Signal>,
) {
    let ConfigurationSource { files, resolved } = source;
    let (told, mut changes) = mpsc::channel(1);
    let mut keeper = Keeper { running, state, options, files, digest: String::new(), folders: None };
    keeper.digest = keeper.digest_now().await;
    keeper.state.is_from(
        keeper.options.file.display().to_string(),
        keeper.digest.clone(),
        as_json(&resolved),
    );
    keeper.watch(&told);
    let hung_up = async |hangup: &mut Option<Signal>| match hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            Some(()) = changes.recv() => {
                settle(&mut changes).await;
                keeper.look_at_certificates();
                keeper.reload_if_changed().await;
            }
            Some(answer) = requests.recv() => {
                // Whoever asked may have left.
                drop(answer.send(keeper.reload().await));
            }
            _ = hung_up(&mut hangup) => {
                keeper.look_at_certificates();
                keeper.reload().await;
            }
            () = tokio::time::sleep(LOOK_EVERY) => keeper.reload_if_changed().await,
        }
        keeper.watch(&told);
    }
}

/// Waits until nothing has changed for a moment.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + AT_LATEST;
    loop {
        let quiet = (Instant::now() + QUIET_FOR).min(latest);
        match tokio::time::timeout_at(quiet, changes.recv()).await {
            Ok(Some(())) if Instant::now() < latest => {}
            _ => return,
        }
    }
}

struct Keeper {
    running: Arc<Running>,
    state: ConfigurationState,
    options: LoadOptions,
    /// What the configuration was read from the last time.
    files: Vec<PathBuf>,
    digest: String,
    /// The folders that are watched, with whoever watches them.
    folders: Option<(BTreeSet<PathBuf>, RecommendedWatcher)>,
}

impl Keeper {
    fn look_at_certificates(&self) {
        for listener in &self.running.listeners {
            listener.look_at_certificates();
        }
    }

    /// The files' folders are watched and not the files: a ConfigMap is changed by renaming a link beside them, and editors
    /// put a new file in the place of the old.
    fn watch(&mut self, told: &mpsc::Sender<()>) {
        let certificates = self.running.certificate_files();
        let wanted: BTreeSet<PathBuf> =
            self.files.iter().chain(&certificates).flat_map(|file| folders_of(file)).collect();
        if self.folders.as_ref().is_some_and(|(folders, _)| *folders == wanted) {
            return;
        }
        let told = told.clone();
        let watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| {
            // One that waits already does for all.
            let _ = told.try_send(());
        });
        let watched = watcher.and_then(|mut watcher| {
            for folder in &wanted {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => self.folders = Some((wanted, watcher)),
            Err(error) => {
                tracing::warn!(%error, "changes of the configuration are not told of; its files are looked at every {LOOK_EVERY:?}");
            }
        }
    }

    async fn reload_if_changed(&mut self) {
        if self.digest_now().await != self.digest {
            self.reload().await;
        }
    }

    /// Reads the files and puts what they say in force.
    async fn reload(&mut self) -> Change {
        // Before they are read: a change in between is seen next time.
        let digest = self.digest_now().await;
        let same =
            digest == self.digest && self.state.status().last_change.is_none_or(|last| last.error.is_none());
        let options = self.options.clone();
        let read = tokio::task::spawn_blocking(move || load_with_warnings(&options)).await;
        self.digest.clone_from(&digest);
        match read {
            Ok(Ok(loaded)) => self.put_in_force(loaded, digest, same),
            Ok(Err(invalid)) => self.tell_invalid(invalid),
            Err(error) => {
                tracing::error!(%error, "the configuration could not be read; the one before stays");
                self.state.failed("invalid", error.to_string());
            }
        }
        let known = self.state.status().last_change;
        known.unwrap_or_else(|| Change { at: Timestamp::now(), result: "unchanged", error: None })
    }

    fn put_in_force(&mut self, loaded: Loaded, digest: String, same: bool) {
        // New files may have been named.
        self.files.clone_from(&loaded.files);
        match self.running.reload(&loaded.config) {
            Ok(()) if same => {
                tracing::info!("the configuration was read again and is the same");
                self.state.unchanged();
            }
            Ok(()) => {
                tracing::info!(checksum = digest, "another configuration is in force");
                self.state.applied(digest, as_json(&loaded.resolved));
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    error,
                    "a change of the configuration is refused; the one before stays in force"
                );
                self.state.failed("refused", error);
            }
        }
    }

    fn tell_invalid(&mut self, invalid: Invalid) {
        // What cannot be read names no files; those of before may be what is put right.
        let known: BTreeSet<PathBuf> = self.files.drain(..).chain(invalid.files.iter().cloned()).collect();
        self.files = known.into_iter().collect();
        let error = invalid.render(false);
        tracing::error!(error, "a change of the configuration cannot be used; the one before stays in force");
        self.state.failed("invalid", error);
    }

    /// SHA-256 of all files, in hex. One that cannot be read counts as empty: reading it says what is wrong.
    async fn digest_now(&self) -> String {
        let files = self.files.clone();
        let digest = tokio::task::spawn_blocking(move || {
            let mut context = Context::new(&SHA256);
            for file in files {
                let bytes = std::fs::read(&file).unwrap_or_default();
                context.update(&bytes.len().to_le_bytes());
                context.update(&bytes);
            }
            context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
        });
        digest.await.unwrap_or_default()
    }
}

impl Running {
    fn certificate_files(&self) -> Vec<PathBuf> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).certificate_files()
    }
}

/// The folder a file is named in, and the one it is in.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let folder = |file: &Path| match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let real = std::fs::canonicalize(file).ok().map(|real| folder(&real));
    let named = folder(file);
    let named = std::fs::canonicalize(&named).unwrap_or(named);
    [Some(named), real].into_iter().flatten().filter(|folder| folder.is_dir()).collect()
}
