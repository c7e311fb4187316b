//! `portcullis routes`: the route table as it is tried.
//!
//! Must not sort it; the table itself ranks.

use http::Method;

use super::{ConfigArgs, Outcome, say};
use crate::config::SecretPolicy;
use crate::policy::{Access, RouteTable, Span};

pub(super) fn run(args: &ConfigArgs) -> Outcome {
    let config = args.load(SecretPolicy::NotNeeded)?;
    let table = RouteTable::new(config.routes);
    let mut rows =
        vec![["HOST", "PATH", "METHODS", "ROUTE", "MAX STALENESS", "UPSTREAM", "ACCESS"].map(str::to_owned)];
    rows.extend(table.iter().map(|(host, path, route)| {
        let methods: Vec<&str> = route.matches.methods.iter().map(Method::as_str).collect();
        [
            host.to_string(),
            path.to_string(),
            if methods.is_empty() { "any".to_owned() } else { methods.join(",") },
            route.name.to_string(),
            Span(route.freshness.max_staleness).to_string(),
            route.upstream.to_string(),
            match &route.access {
                Access::Public => "public".to_owned(),
                Access::Require(requirement) => match &route.shadow {
                    Some(shadow) => format!("{}; tries {}", requirement.sentence(), shadow.sentence()),
                    None => requirement.sentence(),
                },
            },
        ]
    }));
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    Ok(())
}
