//! `portcullis run`: the gateway, until it is told to end.
//!
//! Must not start with a configuration that has a mistake in it.

use super::{ConfigArgs, Failed, Outcome, fail, runtime, told_to_end};
use crate::app::Gateway;
use crate::config::SecretPolicy;
use crate::policy::Access;
use crate::telemetry::init_log;

pub(super) fn run(args: &ConfigArgs) -> Outcome {
    let config = args.load(SecretPolicy::Required)?;
    init_log(&config.log);
    for route in config.routes.iter().filter(|route| matches!(route.access, Access::Public)) {
        tracing::warn!(route = %route.name, "this route is public: anybody passes");
    }
    runtime()?.block_on(async {
        let gateway = Gateway::start(config, std::io::stdout()).await.map_err(fail)?;
        told_to_end().await;
        if gateway.shut_down().await { Ok(()) } else { Err(Failed) }
    })
}
