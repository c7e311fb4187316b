//! Which of several servers is asked next.
//!
//! Must not leave a caller without a server while there is one: when all are out, all are asked again.

use std::sync::Arc;
use std::time::Duration;

/// What is asked of a server when one is chosen.
pub(super) trait Candidate {
    fn is_available(&self, now: Duration) -> bool;
    fn load(&self) -> usize;
}

/// The less loaded of two taken at random: nearly as even as asking all of them, without their rushing to the same one.
/// Those in `tried` are left out; those that are not available are asked only where no other is.
pub(super) fn choose<'a, S: Candidate>(
    servers: &'a [Arc<S>],
    tried: &[Arc<S>],
    now: Duration,
    random: impl Fn(usize) -> usize,
) -> Option<&'a Arc<S>> {
    if let ([only], []) = (servers, tried) {
        return Some(only);
    }
    let untried = |server: &&Arc<S>| !tried.iter().any(|tried| Arc::ptr_eq(tried, server));
    let available = || servers.iter().filter(untried).filter(|server| server.is_available(now));
    match available().count() {
        0 => {
            let count = servers.iter().filter(untried).count();
            servers.iter().filter(untried).nth(if count > 1 { random(count) } else { 0 })
        }
        1 => available().next(),
        count => {
            let first = random(count);
            // Any but the first.
            let second = (first + 1 + random(count - 1)) % count;
            let pair = available().nth(first).zip(available().nth(second));
            pair.map(|(first, second)| if second.load() < first.load() { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Fake(&'static str, bool, usize);

    impl Candidate for Fake {
        fn is_available(&self, _: Duration) -> bool {
            self.1
        }

        fn load(&self) -> usize {
            self.2
        }
    }

    fn names(servers: &[Arc<Fake>], tried: &[Arc<Fake>]) -> Vec<&'static str> {
        let mut seen = Vec::new();
        for seed in 0..60 {
            let state = Cell::new(seed);
            let random = |bound: usize| {
                state.set(state.get() * 7 + 3);
                state.get() % bound
            };
            let chosen = choose(servers, tried, Duration::ZERO, random);
            seen.extend(chosen.map(|server| server.0));
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn the_busiest_is_never_asked_and_the_others_are() {
        let servers = [("a", 5), ("b", 1), ("c", 9)].map(|(name, load)| Arc::new(Fake(name, true, load)));
        assert_eq!(names(&servers, &[]), ["a", "b"]);
    }

    #[test]
    fn those_that_are_out_are_asked_only_where_no_other_is() {
        let servers = [("a", false), ("b", true), ("c", false)].map(|(name, up)| Arc::new(Fake(name, up, 0)));
        assert_eq!(names(&servers, &[]), ["b"]);
        assert_eq!(names(&servers, &servers[1..2]), ["a", "c"]);
        assert_eq!(names(&servers, &servers), Vec::<&str>::new());
        assert_eq!(names(&servers[..1], &[]), ["a"]);
    }
}
