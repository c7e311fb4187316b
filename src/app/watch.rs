//! When the configuration is read again: its files changed, a signal came, or somebody asked.
//!
//! Must not touch what is in force for a file that cannot be used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::reload::{ReloadError, Running};
use crate::admin::{Change, ConfigurationState, Resolved};
use crate::config::{LoadOptions, Loaded, ReadFiles, ResolvedValue, load_with_warnings, with_defaults};

/// Whoever wants to know what became of a change.
pub(super) type ReloadRequests = mpsc::Receiver<oneshot::Sender<Change>>;

/// What the configuration in force was read from, and what it comes to.
pub struct ConfigurationSource {
    pub files: ReadFiles,
    pub set: Vec<ResolvedValue>,
    pub derived: Vec<ResolvedValue>,
}

impl From<&Loaded> for ConfigurationSource {
    fn from(loaded: &Loaded) -> Self {
        Self { files: loaded.files.clone(), set: loaded.set.clone(), derived: loaded.derived.clone() }
    }
}

/// Tells every value in force, worked out for whoever asks.
fn told_when_asked(set: Vec<ResolvedValue>, derived: Vec<ResolvedValue>) -> Resolved {
    Box::new(move || serde_json::to_value(with_defaults(&set, &derived)).unwrap_or_default())
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
    let ConfigurationSource { files, set, derived } = source;
    let (told, mut changes) = mpsc::channel(1);
    let mut keeper = Keeper { running, state, options, files, retry: None, watched: None };
    let name = keeper.options.file.display().to_string();
    keeper.state.is_from(name, checksum(&set), told_when_asked(set, derived));
    keeper.watch(&told);
    // Something may have changed while the gateway started.
    keeper.reload_if_changed().await;
    let hung_up = async |hangup: &mut Option<Signal>| match hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            Some(()) = changes.recv() => {
                settle(&mut changes).await;
                // A folder may be another by the same name now. Before anything is read: what changes after that is told of.
                keeper.watched = None;
                keeper.watch(&told);
                keeper.look_at_certificates();
                keeper.reload_if_changed().await;
            }
            Some(answer) = requests.recv() => {
                keeper.running.records.reopen();
                // Whoever asked may have left.
                drop(answer.send(keeper.reload().await));
            }
            _ = hung_up(&mut hangup) => {
                keeper.running.records.reopen();
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
    files: ReadFiles,
    /// The last change needs these files, and at least one of them was not good: it is tried again when they are others.
    retry: Option<ReadFiles>,
    /// The names that count, with whoever watches the folders they are in.
    watched: Option<(BTreeSet<PathBuf>, RecommendedWatcher)>,
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
        let files =
            self.files.paths().chain(&certificates).chain(self.retry.iter().flat_map(ReadFiles::paths));
        let names: BTreeSet<PathBuf> = files.flat_map(|file| names_of(file)).collect();
        if self.watched.as_ref().is_some_and(|(known, _)| *known == names) {
            return;
        }
        let folders = names.iter().filter_map(|name| name.parent()).filter(|folder| folder.is_dir());
        let folders: BTreeSet<PathBuf> = folders.map(Path::to_owned).collect();
        let told = told.clone();
        let wanted = names.clone();
        let known = folders.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if is_change(&event, |path| wanted.contains(path) || known.contains(path)) {
                // One that waits already does for all.
                let _ = told.try_send(());
            }
        });
        let watched = watcher.and_then(|mut watcher| {
            for folder in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => self.watched = Some((names, watcher)),
            Err(error) => {
                tracing::warn!(%error, "changes of the configuration are not told of; its files are looked at every {LOOK_EVERY:?}");
            }
        }
    }

    async fn reload_if_changed(&mut self) {
        let files = self.files.clone();
        let retry = self.retry.clone();
        let look = move || files.are_changed() || retry.is_some_and(|retry| retry.are_changed());
        if tokio::task::spawn_blocking(look).await.unwrap_or(true) {
            self.reload().await;
        }
    }

    /// Reads the files and puts what they say in force.
    async fn reload(&mut self) -> Change {
        let (options, running, before) =
            (self.options.clone(), Arc::clone(&self.running), self.files.clone());
        let tried = tokio::task::spawn_blocking(move || match load_with_warnings(&options) {
            Ok(loaded) => {
                // Before they are needed: one that comes in between is seen next time.
                let certificates = ReadFiles::of(loaded.config.certificate_files());
                let reloaded = running.reload(&loaded.config);
                Tried::Read(Box::new(loaded), certificates, reloaded)
            }
            Err(invalid) => {
                let files = invalid.files.clone().and_those_of(&before);
                Tried::Invalid(invalid.render(false), files)
            }
        });
        self.retry = None;
        match tried.await {
            Ok(Tried::Read(loaded, certificates, reloaded)) => self.tell(&loaded, certificates, reloaded),
            Ok(Tried::Invalid(error, files)) => {
                tracing::error!(
                    error,
                    "a change of the configuration cannot be used; the one before stays in force"
                );
                self.files = files;
                self.state.failed("invalid", error);
            }
            Err(error) => {
                tracing::error!(%error, "the configuration could not be read; the one before stays");
                self.state.failed("invalid", error.to_string());
            }
        }
        let known = self.state.status().last_change;
        known.unwrap_or_else(|| Change { at: Timestamp::now(), result: "unchanged", error: None })
    }

    /// Tells what became of a configuration without a mistake in it.
    fn tell(&mut self, loaded: &Loaded, certificates: ReadFiles, reloaded: Result<(), ReloadError>) {
        let last = self.state.status().last_change;
        let same = self.files == loaded.files && last.is_none_or(|last| last.error.is_none());
        self.files.clone_from(&loaded.files);
        let checksum = checksum(&loaded.set);
        match reloaded {
            Ok(()) if same => {
                tracing::info!("the configuration was read again and is the same");
                self.state.unchanged();
            }
            Ok(()) => {
                tracing::info!(checksum, "another configuration is in force");
                self.state.applied(checksum, told_when_asked(loaded.set.clone(), loaded.derived.clone()));
            }
            Err(error) => {
                if matches!(error, ReloadError::Origin { .. } | ReloadError::Listener { .. }) {
                    // A certificate may come after the configuration that names it.
                    self.retry = Some(certificates);
                }
                let error = error.to_string();
                tracing::error!(
                    error,
                    "a change of the configuration is refused; the one before stays in force"
                );
                self.state.failed("refused", error);
            }
        }
    }
}

/// What came of reading the files.
enum Tried {
    /// With the certificates as they were.
    Read(Box<Loaded>, ReadFiles, Result<(), ReloadError>),
    /// Why they cannot be used, and what to look at from now on.
    Invalid(String, ReadFiles),
}

/// SHA-256 of everything that is set and shown, in hex: nothing can be guessed from it that is not shown.
fn checksum(set: &[ResolvedValue]) -> String {
    let shown = serde_json::to_vec(set).unwrap_or_default();
    digest(&SHA256, &shown).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Running {
    fn certificate_files(&self) -> Vec<PathBuf> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).certificate_files()
    }
}

/// Every name on the way to a file: its own, each link's that is followed, and what it really is. Whoever changes one of them
/// changes the file.
fn names_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut at = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let mut names = BTreeSet::from([at.clone()]);
    // As many links as the system would follow.
    for _ in 0..40 {
        let parts: Vec<&Path> = at.ancestors().collect();
        let Some(link) = parts.into_iter().rev().find(|part| part.is_symlink()) else { break };
        let (Ok(target), Some(folder)) = (std::fs::read_link(link), link.parent()) else { break };
        let rest = at.strip_prefix(link).unwrap_or_else(|_| Path::new(""));
        let next = folder.join(target);
        let next = if rest.as_os_str().is_empty() { next } else { next.join(rest) };
        names.insert(link.to_owned());
        names.insert(next.clone());
        at = next;
    }
    names
}

/// Reading is no change, and we read; nor is what happens to other files. What cannot be told of is looked at.
fn is_change(event: &notify::Result<notify::Event>, is_wanted: impl Fn(&Path) -> bool) -> bool {
    event.as_ref().map_or(true, |event| {
        let reads = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        };
        !reads && (event.paths.is_empty() || event.paths.iter().any(|path| is_wanted(path)))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_we_read_ourselves_is_no_change_and_what_others_write_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "a").unwrap();
        let (told, heard) = channel();
        let mut watcher = notify::recommended_watcher(move |event| {
            let _ = told.send(is_change(&event, |path| path.ends_with("a.yaml")));
        })
        .unwrap();
        watcher.watch(folder.path(), RecursiveMode::NonRecursive).unwrap();
        let heard_a_change = || {
            let mut any = false;
            while let Ok(change) = heard.recv_timeout(Duration::from_millis(300)) {
                any |= change;
            }
            any
        };
        drop(std::fs::read(&file).unwrap());
        assert!(!heard_a_change(), "reading is taken for a change");
        std::fs::write(folder.path().join("a.log"), "not ours").unwrap();
        assert!(!heard_a_change(), "a log beside it is taken for a change");
        std::fs::write(&file, "b").unwrap();
        assert!(heard_a_change());
        std::fs::rename(&file, folder.path().join("b.yaml")).unwrap();
        assert!(heard_a_change());
    }

    #[test]
    fn every_name_on_the_way_to_a_file_counts() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("versions/1")).unwrap();
        std::fs::write(at("versions/1/a.yaml"), "").unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at(name)).unwrap();
        link("versions/1", "..data");
        link("..data/a.yaml", "a.yaml");
        let names = names_of(&at("a.yaml"));
        for name in ["a.yaml", "..data", "versions/1/a.yaml"] {
            assert!(names.contains(&at(name)), "{name}: {names:?}");
        }
        link("around", "around");
        assert!(names_of(&at("around")).contains(&at("around")), "and one that leads nowhere has an end");
    }
}
