//! For whom something is being looked up, as far as its trace goes: look-ups run in tasks of their own.
//!
//! Must not be asked for anything that is decided by: it is there for traces that are recorded, and for those alone.

use std::future::poll_fn;
use std::pin::pin;

use super::trace::TraceContext;

tokio::task_local! {
    static CAUSE: TraceContext;
}

/// Runs `future` for `cause`. Costs nothing where there is none.
pub async fn caused_by<F: Future>(cause: Option<TraceContext>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| match &cause {
        None => future.as_mut().poll(context),
        Some(cause) => CAUSE.sync_scope(cause.clone(), || future.as_mut().poll(context)),
    })
    .await
}

/// What the task that runs was begun for, if its trace is recorded.
pub fn cause() -> Option<TraceContext> {
    CAUSE.try_with(Clone::clone).ok()
}
