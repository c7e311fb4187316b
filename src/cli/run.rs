//! `portcullis run`: the gateway, until it is told to end.
//!
//! Must not start with a configuration that has a mistake in it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ConfigArgs, Failed, Outcome, fail, runtime, told_to_end};
use crate::app::Gateway;
use crate::config::SecretPolicy;
use crate::policy::Access;
use crate::telemetry::init_log;

pub(super) fn run(args: &ConfigArgs) -> Outcome {
    let config = args.load(SecretPolicy::Required)?;
    init_log(&config.log);
    raise_descriptor_limit();
    for route in config.routes.iter().filter(|route| matches!(route.access, Access::Public)) {
        tracing::warn!(route = %route.name, "this route is public: anybody passes");
    }
    runtime()?.block_on(async {
        let gateway = Gateway::start(config, std::io::stdout()).await.map_err(fail)?;
        told_to_end().await;
        if gateway.shut_down().await { Ok(()) } else { Err(Failed) }
    })
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
