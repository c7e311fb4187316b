//! `portcullis run`: the gateway, until it is told to end.
//!
//! Must not start with a configuration that has a mistake in it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgs, Ending, Failed, Outcome, fail, runtime};
use crate::app::{ConfigurationSource, Gateway};
use crate::config::SecretPolicy;
use crate::policy::Access;
use crate::telemetry::init_log;

pub(super) fn run(args: &ConfigArgs) -> Outcome {
    let loaded = args.load_whole(SecretPolicy::Required)?;
    let source = ConfigurationSource::from(&loaded);
    let config = loaded.config;
    init_log(&config.log);
    raise_descriptor_limit();
    for route in config.routes.iter().filter(|route| matches!(route.access, Access::Public)) {
        tracing::warn!(route = %route.name, "this route is public: anybody passes");
    }
    let inherited = inherited_sockets();
    let options = args.options(SecretPolicy::Required);
    runtime()?.block_on(async {
        let mut ending = Ending::new();
        // Until the configuration is kept, a hang-up has nothing to say; it must not end the process.
        let hangup = signal(SignalKind::hangup());
        let gateway = tokio::select! {
            started = Gateway::start_with(config, std::io::stdout(), inherited) => started.map_err(fail)?,
            // Nobody was let in yet.
            () = ending.told() => return Ok(()),
        };
        gateway.keep_configuration(options, source);
        drop(hangup);
        tell_supervisor(NotifyState::Ready);
        ending.told().await;
        tell_supervisor(NotifyState::Stopping);
        let clean = tokio::select! {
            clean = gateway.shut_down() => clean,
            // Told twice: whoever says so has no patience left.
            () = ending.told() => false,
        };
        if clean { Ok(()) } else { Err(Failed) }
    })
}

/// Sockets a supervisor opened for us (`LISTEN_FDS`, as in sd_listen_fds(3)): it keeps them open while we are replaced, and
/// nobody who comes in between is turned away.
fn inherited_sockets() -> Vec<std::net::TcpListener> {
    let mut handed_over = listenfd::ListenFd::from_env();
    (0..handed_over.len()).filter_map(|at| handed_over.take_tcp_listener(at).ok().flatten()).collect()
}

/// Tells the supervisor, if there is one that wants to know (sd_notify(3)).
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the supervisor could not be told");
    }
}

/// Every connection takes a descriptor, and the limit a shell starts with is far below what the system would give.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "the limit of open files could not be raised");
    }
}
