//! What every request of a route counts up, found without a look at its labels.
//!
//! Must not count anything else: whatever is rare goes by its labels.

use std::cell::RefCell;
use std::sync::Arc;

use prometheus::{Histogram, IntCounter};

use super::Metrics;

/// Routes that each thread has at hand; a power of two.
const PLACES: usize = 64;

thread_local! {
    static KNOWN: RefCell<[Option<RouteMetrics>; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

/// The metrics of one route.
pub struct RouteMetrics {
    /// Known by where its name is, which is held here so that no other can be there.
    route: Arc<str>,
    pub allowed: IntCounter,
    pub decision_duration: Histogram,
    pub request_duration: Histogram,
    last: Option<(Answered, IntCounter)>,
}

/// The labels of an answer besides its route.
struct Answered {
    listener: Arc<str>,
    method: &'static str,
    status: u16,
}

impl RouteMetrics {
    /// Has `count` count up what there is of `route`.
    pub fn with<T>(metrics: &Metrics, route: &Arc<str>, count: impl FnOnce(&mut Self) -> T) -> T {
        KNOWN.with_borrow_mut(|known| {
            // Text is aligned to nothing, but what counts it is.
            let place = (Arc::as_ptr(route).addr() / 8) % PLACES;
            let Some(place) = known.get_mut(place) else { return count(&mut Self::new(metrics, route)) };
            match place {
                Some(known) if Arc::ptr_eq(&known.route, route) => count(known),
                place => count(place.insert(Self::new(metrics, route))),
            }
        })
    }

    fn new(metrics: &Metrics, route: &Arc<str>) -> Self {
        Self {
            allowed: metrics.decisions.with_label_values(&[&**route, "allow", ""]),
            decision_duration: metrics.decision_duration.with_label_values(&[route]),
            request_duration: metrics.http_request_duration.with_label_values(&[route]),
            route: Arc::clone(route),
            last: None,
        }
    }

    /// Counts an answer; `code` is the label of its `status`.
    pub fn count_answer(
        &mut self,
        metrics: &Metrics,
        listener: &Arc<str>,
        method: &'static str,
        status: u16,
        code: impl FnOnce(u16) -> String,
    ) {
        if let Some((last, counter)) = &self.last
            && Arc::ptr_eq(&last.listener, listener)
            && (last.method, last.status) == (method, status)
        {
            counter.inc();
            return;
        }
        let labels = [listener, &*self.route, method, &code(status)];
        let counter = metrics.http_requests.with_label_values(&labels);
        counter.inc();
        self.last = Some((Answered { listener: Arc::clone(listener), method, status }, counter));
    }
}
