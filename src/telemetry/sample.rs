//! The metrics at one moment, to be held against those of another.
//!
//! Must not name a metric: whoever asks does.

use std::collections::BTreeMap;
use std::time::Instant;

use prometheus::proto::MetricType;

use super::Metrics;

/// Every metric of ours as it was.
pub struct Sample {
    pub at: Instant,
    values: BTreeMap<String, Vec<(Labels, Value)>>,
}

type Labels = Vec<(String, String)>;

enum Value {
    Number(f64),
    Histogram(Distribution),
}

/// Observations by size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    pub count: u64,
    /// Upper bounds, and how many observations are no larger.
    pub buckets: Vec<(f64, u64)>,
}

impl Sample {
    pub fn take(metrics: &Metrics) -> Self {
        let mut values: BTreeMap<String, Vec<(Labels, Value)>> = BTreeMap::new();
        for family in metrics.families() {
            let kind = family.get_field_type();
            let into = values.entry(family.name().to_owned()).or_default();
            for metric in family.get_metric() {
                let labels = metric.get_label().iter();
                let labels = labels.map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
                let value = match kind {
                    MetricType::COUNTER => Value::Number(metric.get_counter().get_value()),
                    MetricType::GAUGE => Value::Number(metric.get_gauge().get_value()),
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        let buckets = histogram.get_bucket().iter();
                        Value::Histogram(Distribution {
                            count: histogram.get_sample_count(),
                            buckets: buckets
                                .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                                .collect(),
                        })
                    }
                    _ => continue,
                };
                into.push((labels, value));
            }
        }
        Self { at: Instant::now(), values }
    }

    fn of<'a>(
        &'a self,
        name: &'a str,
        wanted: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (&'a Labels, &'a Value)> {
        let fits = move |labels: &Labels| {
            wanted.iter().all(|(key, value)| labels.iter().any(|(name, is)| name == key && is == value))
        };
        let all = self.values.get(name).into_iter().flatten();
        all.filter(move |(labels, _)| fits(labels)).map(|(labels, value)| (labels, value))
    }

    /// The sum of all with these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let numbers = self.of(name, labels).map(|(_, value)| match value {
            Value::Number(number) => *number,
            Value::Histogram(_) => 0.0,
        });
        numbers.sum()
    }

    /// The sums of those with these labels, by what `label` says.
    pub fn by(&self, name: &str, labels: &[(&str, &str)], label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.of(name, labels) {
            if let (Some((_, key)), Value::Number(number)) =
                (labels.iter().find(|(name, _)| name == label), value)
            {
                *sums.entry(key.clone()).or_default() += number;
            }
        }
        sums
    }

    /// All observations with these labels.
    pub fn distribution(&self, name: &str, labels: &[(&str, &str)]) -> Distribution {
        let mut whole = Distribution::default();
        for (_, value) in self.of(name, labels) {
            let Value::Histogram(one) = value else { continue };
            whole.count += one.count;
            if whole.buckets.is_empty() {
                whole.buckets.clone_from(&one.buckets);
            } else {
                for (sum, (_, count)) in whole.buckets.iter_mut().zip(&one.buckets) {
                    sum.1 += count;
                }
            }
        }
        whole
    }
}

impl Distribution {
    /// What was observed since `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        self.count = self.count.saturating_sub(before.count);
        for (now, (_, then)) in self.buckets.iter_mut().zip(&before.buckets) {
            now.1 = now.1.saturating_sub(*then);
        }
        self
    }

    /// The value that a share of `quantile` is below, straight lines drawn within buckets as Prometheus does; the largest
    /// bound where it lies beyond. None without observations.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^52")]
        let rank = quantile * self.count as f64;
        let real = |count: u64| count as f64;
        let mut floor = 0.0;
        let mut below = 0;
        for &(bound, count) in &self.buckets {
            if real(count) >= rank {
                let within = real(count - below);
                let share = if within > 0.0 { (rank - real(below)) / within } else { 1.0 };
                return Some(if bound.is_finite() { floor + (bound - floor) * share } else { floor });
            }
            (floor, below) = (bound, count);
        }
        Some(floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_observed_between_two_moments_has_quantiles_of_its_own() {
        let metrics = Metrics::new().unwrap();
        let durations = metrics.http_request_duration.with_label_values(&["a"]);
        (0..1_000).for_each(|_| durations.observe(9.0));
        metrics.decisions.with_label_values(&["a", "allow", ""]).inc_by(3);
        metrics.decisions.with_label_values(&["b", "refuse", "role_missing"]).inc_by(2);
        let before = Sample::take(&metrics);
        (0..99).for_each(|_| durations.observe(0.001));
        durations.observe(3.0);
        let now = Sample::take(&metrics);
        let name = "portcullis_http_request_duration_seconds";
        let labels = [("route", "a")];
        let observed = now.distribution(name, &labels).since(&before.distribution(name, &labels));
        assert_eq!(observed.count, 100);
        assert!(observed.quantile(0.5).unwrap() < 0.01, "{observed:?}");
        assert!(observed.quantile(0.995).unwrap() > 1.0, "{observed:?}");
        assert_eq!(Distribution::default().quantile(0.5), None);
        assert_eq!(now.sum("portcullis_decisions_total", &[]), 5.0);
        let by = now.by("portcullis_decisions_total", &[("decision", "refuse")], "reason");
        assert_eq!(by, BTreeMap::from([("role_missing".to_owned(), 2.0)]));
    }
}
