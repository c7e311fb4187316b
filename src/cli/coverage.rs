//! Which routes and requirements the cases of `portcullis test` touched.
//!
//! Must not count a requirement as covered that was never seen both met and not met.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::say;
use crate::config::Config;
use crate::engine::Report;
use crate::policy::{Access, Explanation, Requirement, Truth};

/// What was seen of every route, and of every requirement that holds no others.
pub(super) struct Coverage {
    routes: BTreeMap<String, Route>,
}

#[derive(Default)]
struct Route {
    asked: bool,
    /// By their place in the requirement.
    leaves: BTreeMap<Vec<usize>, Leaf>,
}

struct Leaf {
    text: String,
    met: bool,
    unmet: bool,
}

impl Coverage {
    pub(super) fn of(config: &Config) -> Self {
        let routes = config.routes.iter().map(|route| {
            let mut known = Route::default();
            if let Access::Require(requirement) = &route.access {
                known.learn(requirement, &mut Vec::new());
            }
            (route.name.to_string(), known)
        });
        Self { routes: routes.collect() }
    }

    /// Notes what a case's report shows.
    pub(super) fn saw(&mut self, report: &Report) {
        let Some(route) = report.route.as_ref().and_then(|route| self.routes.get_mut(&route.name)) else {
            return;
        };
        route.asked = true;
        for held in &report.held {
            route.see(&held.requirement, &mut Vec::new());
        }
    }

    /// Of a hundred things that could be covered, how many were.
    pub(super) fn share(&self) -> u32 {
        let (routes, requirements) = self.counts();
        let covered = routes.0 + requirements.0;
        let all = routes.1 + requirements.1;
        u32::try_from((covered * 100).checked_div(all).unwrap_or(100)).unwrap_or(100)
    }

    pub(super) fn tell(&self, each: bool) {
        let ((routes, all_routes), (leaves, all_leaves)) = self.counts();
        say(&format!(
            "coverage  {routes} of {all_routes} routes, {leaves} of {all_leaves} requirements seen met and not met"
        ));
        if each {
            self.gaps().iter().for_each(|gap| say(&format!("          {gap}")));
        }
    }

    pub(super) fn told(&self) -> Value {
        let ((routes, all_routes), (leaves, all_leaves)) = self.counts();
        json!({
            "percent": self.share(),
            "routes": { "covered": routes, "all": all_routes },
            "requirements": { "covered": leaves, "all": all_leaves },
            "gaps": self.gaps(),
        })
    }

    fn counts(&self) -> ((usize, usize), (usize, usize)) {
        let routes = self.routes.values().filter(|route| route.asked).count();
        let leaves = || self.routes.values().flat_map(|route| route.leaves.values());
        let covered = leaves().filter(|leaf| leaf.met && leaf.unmet).count();
        ((routes, self.routes.len()), (covered, leaves().count()))
    }

    fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        for (name, route) in &self.routes {
            if !route.asked {
                gaps.push(format!("route `{name}` was never asked for"));
                continue;
            }
            for leaf in route.leaves.values() {
                let never = match (leaf.met, leaf.unmet) {
                    (true, true) => continue,
                    (true, false) => "never not met",
                    (false, true) => "never met",
                    (false, false) => "never looked at",
                };
                gaps.push(format!("route `{name}`: {} was {never}", leaf.text));
            }
        }
        gaps
    }
}

impl Route {
    fn learn(&mut self, requirement: &Requirement, place: &mut Vec<usize>) {
        if requirement.parts().is_empty() {
            let leaf = Leaf { text: requirement.to_string(), met: false, unmet: false };
            self.leaves.insert(place.clone(), leaf);
        }
        for (index, part) in requirement.parts().iter().enumerate() {
            place.push(index);
            self.learn(part, place);
            place.pop();
        }
    }

    fn see(&mut self, explanation: &Explanation, place: &mut Vec<usize>) {
        if let Some(leaf) = self.leaves.get_mut(place) {
            match explanation.truth {
                Truth::True => leaf.met = true,
                Truth::False | Truth::Unknown => leaf.unmet = true,
            }
        }
        for (index, part) in explanation.parts.iter().enumerate() {
            place.push(index);
            self.see(part, place);
            place.pop();
        }
    }
}
