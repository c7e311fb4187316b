//! What is served when, what outranks it, and what stands in.

use std::sync::Mutex;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::*;
use crate::directory::ManualClock;

/// A far end that answers what it is told to, when it is told to.
struct FarEnd {
    clock: Arc<ManualClock>,
    cache: FactCache<&'static str, &'static str, u32>,
    calls: Arc<Mutex<Vec<&'static str>>>,
    answer: Arc<Mutex<Result<u32, DirectoryError>>>,
    go: Arc<Notify>,
    held: Arc<Mutex<bool>>,
}

const BOUNDS: Freshness = Freshness {
    fresh_for: Duration::from_secs(10),
    max_staleness: Duration::from_secs(30),
    stale_if_error: Duration::from_secs(60),
};

fn far_end() -> FarEnd {
    let clock = Arc::new(ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let answer = Arc::new(Mutex::new(Ok(1)));
    let go = Arc::new(Notify::new());
    let held = Arc::new(Mutex::new(false));
    let ask = {
        let (calls, answer, go, held) =
            (Arc::clone(&calls), Arc::clone(&answer), Arc::clone(&go), Arc::clone(&held));
        move |input: &&'static str| {
            calls.lock().unwrap().push(*input);
            // As it stands when it is asked, however late it arrives.
            let answer = answer.lock().unwrap().clone();
            let go = Arc::clone(&go);
            let held = *held.lock().unwrap();
            Box::pin(async move {
                if held {
                    go.notified().await;
                }
                answer
            }) as Lookup<u32>
        }
    };
    let bounds = FactBounds {
        max_entries: 100,
        keep_for: Duration::from_secs(3_600),
        deadline: Duration::from_secs(5),
        max_in_flight: 2,
    };
    let metrics = Metrics::new().unwrap();
    let shared: Arc<dyn Clock> = clock.clone();
    let cache = FactCache::new("policy", bounds, shared, &metrics, ask);
    FarEnd { clock, cache, calls, answer, go, held }
}

impl FarEnd {
    async fn get(&self) -> Result<u32, DirectoryError> {
        self.cache
            .get(&"k", &"k", BOUNDS.within(BOUNDS), self.clock.now())
            .wait()
            .await
            .map(|fact| fact.value)
    }

    fn says(&self, answer: Result<u32, DirectoryError>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_fact_is_fresh_then_refreshed_behind_then_waited_for() {
    let far = far_end();
    assert_eq!(far.get().await, Ok(1));
    far.says(Ok(2));
    far.pass(10);
    assert_eq!((far.get().await, far.calls()), (Ok(1), 1));
    far.pass(1);
    assert_eq!(far.get().await, Ok(1), "served while it is asked for again");
    tokio::task::yield_now().await;
    assert_eq!((far.get().await, far.calls()), (Ok(2), 2));
    far.says(Ok(3));
    far.pass(31);
    assert_eq!((far.get().await, far.calls()), (Ok(3), 3));
}

#[tokio::test]
async fn what_is_kept_stands_in_for_so_long_and_only_for_an_outage() {
    let far = far_end();
    assert_eq!(far.get().await, Ok(1));
    far.says(Err(DirectoryError::Unreachable));
    far.pass(31);
    assert_eq!(far.get().await, Ok(1));
    far.pass(60);
    assert_eq!(far.get().await, Err(DirectoryError::Unreachable));
    let refused = far_end();
    assert_eq!(refused.get().await, Ok(1));
    refused.says(Err(DirectoryError::Refused { status: 403 }));
    refused.pass(31);
    assert_eq!(refused.get().await, Err(DirectoryError::Refused { status: 403 }));
}

#[tokio::test]
async fn a_lookup_that_began_before_a_forget_never_lands_after_it() {
    let far = far_end();
    *far.held.lock().unwrap() = true;
    let asking = far.cache.get(&"k", &"k", BOUNDS.within(BOUNDS), far.clock.now());
    let waiting = tokio::spawn(asking.wait());
    tokio::task::yield_now().await;
    far.pass(1);
    far.cache.forget(&"k", far.clock.now());
    far.says(Ok(2));
    *far.held.lock().unwrap() = false;
    far.pass(1);
    far.go.notify_one();
    assert_eq!(
        waiting.await.unwrap().map(|fact| fact.value),
        Ok(2),
        "the old answer was asked for once more"
    );
    assert_eq!(far.get().await, Ok(2));
}

#[tokio::test]
async fn what_was_forgotten_never_stands_in_and_what_was_softened_does() {
    let far = far_end();
    assert_eq!(far.get().await, Ok(1));
    far.says(Err(DirectoryError::Unreachable));
    far.pass(1);
    far.cache.soften(Some(&"k"), far.clock.now());
    assert_eq!((far.get().await, far.calls()), (Ok(1), 2), "asked for, and bridged");
    far.pass(1);
    far.cache.forget(&"k", far.clock.now());
    far.pass(1);
    assert_eq!(far.get().await, Err(DirectoryError::Unreachable));
    far.says(Ok(2));
    far.pass(1);
    assert_eq!(far.get().await, Ok(2));
    far.says(Ok(3));
    far.pass(1);
    far.cache.soften(None, far.clock.now());
    assert_eq!(far.get().await, Ok(3), "everything is asked for again");
}

/// A crowd of our own, after everything was softened at once, is no reason to refuse what is young enough.
#[tokio::test]
async fn what_was_softened_stands_in_while_there_is_no_place_to_ask() {
    let far = far_end();
    assert_eq!(far.get().await, Ok(1));
    far.says(Ok(2));
    *far.held.lock().unwrap() = true;
    let crowd: Vec<&'static str> =
        (0..64).map(|number| &*Box::leak(format!("k{number}").into_boxed_str())).collect();
    for other in &crowd {
        tokio::spawn(far.cache.get(other, other, BOUNDS.within(BOUNDS), far.clock.now()).wait());
    }
    tokio::task::yield_now().await;
    far.pass(1);
    far.cache.soften(None, far.clock.now());
    assert_eq!(far.get().await, Ok(1));
    far.pass(30);
    assert_eq!(far.get().await, Err(DirectoryError::Busy), "too old to stand in for anything but an outage");
}

#[tokio::test]
async fn a_stricter_route_holds_a_fact_to_its_own_ages() {
    let far = far_end();
    let strict = Freshness {
        fresh_for: Duration::from_secs(10),
        max_staleness: Duration::from_secs(5),
        stale_if_error: Duration::ZERO,
    };
    let get = async || {
        let answer = far.cache.get(&"k", &"k", BOUNDS.within(strict), far.clock.now());
        let waited = answer.is_pending();
        answer.wait().await.map(|fact| (fact.value, fact.good_until.since(fact.sent.monotonic), waited))
    };
    let good_for = Duration::from_secs(5);
    assert_eq!(get().await, Ok((1, good_for, true)));
    far.says(Ok(2));
    far.pass(4);
    assert_eq!(get().await, Ok((1, good_for, false)), "four fifths of the bound are not past");
    assert_eq!(far.calls(), 1);
    far.clock.advance(Duration::from_millis(1));
    assert_eq!(get().await, Ok((1, good_for, false)), "served while it is looked up again");
    tokio::task::yield_now().await;
    assert_eq!(get().await, Ok((2, good_for, false)));
    assert_eq!(far.calls(), 2);
    // Past the bound nothing but an answer will do, and a failing far end is bridged for no longer than the route says.
    far.says(Err(DirectoryError::Unreachable));
    far.clock.advance(Duration::from_millis(5_001));
    assert_eq!(get().await, Err(DirectoryError::Unreachable));
    assert_eq!(far.get().await, Ok(2), "a route with longer ages still has it");
}

#[tokio::test]
async fn however_many_ask_a_fact_is_looked_up_once_in_four_fifths_of_its_bound() {
    let far = far_end();
    let strict = Freshness { max_staleness: Duration::from_secs(5), ..BOUNDS };
    for step in 0..600 {
        for _ in 0..10 {
            far.cache.get(&"k", &"k", BOUNDS.within(strict), far.clock.now()).wait().await.unwrap();
        }
        tokio::task::yield_now().await;
        far.clock.advance(Duration::from_millis(100));
        assert!(far.calls() <= 1 + step / 40, "{} calls in {step} tenths of a second", far.calls());
    }
}
