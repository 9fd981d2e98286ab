//! A line of advice when a metric leaves its healthy range.

use schemas::Metric;
use std::collections::BTreeSet;

/// Gives each piece of advice once.
#[derive(Debug, Default)]
pub struct Adviser {
    said: BTreeSet<&'static str>,
    steps: u64,
}

/// A metric's name, the test for unhealthy values, and the advice.
type Rule = (&'static str, fn(f64, f64) -> bool, &'static str);

const RULES: [Rule; 5] = [
    (
        "kl_to_sampler",
        |kl, bound| kl > bound,
        "the policy has moved far from the sampling policy; lower rl.learning_rate or rl.passes, or raise rl.kl_penalty (rl.max_kl ends training)",
    ),
    ("clip_fraction", |share, _| share > 0.3, "most of the gradient is clipped; lower rl.learning_rate"),
    (
        "explained_variance",
        |share, _| share < 0.0,
        "values predict returns worse than their mean; train the value model first, or longer \
         (rl.value_passes), or lower rl.learning_rate",
    ),
    (
        "effective_sample_share",
        |share, _| share < 0.5,
        "a few tokens carry most of the ratio's weight; the rollouts are stale for this policy: sample again",
    ),
    ("ratio_max", |ratio, _| ratio > 20.0, "some tokens have become far more likely; lower rl.learning_rate"),
];

impl Adviser {
    /// State after the steps of these rows, for which an interrupted run has already given advice.
    pub fn after(rows: &[Metric], kl_bound: f64) -> Self {
        let mut adviser = Self::default();
        for step in rows.chunk_by(|a, b| a.step == b.step).filter(|step| step[0].step > 0) {
            adviser.lines(step.iter().map(|row| (row.name.as_str(), row.value)), kl_bound);
        }
        adviser
    }

    /// Advice on the metrics of a step: a line for each that is unhealthy and was not reported before. `kl_bound` is the KL, in
    /// nats per token, above which it is unhealthy.
    pub fn lines<'a>(
        &mut self,
        numbers: impl IntoIterator<Item = (&'a str, f64)>,
        kl_bound: f64,
    ) -> Vec<String> {
        let numbers: Vec<(&str, f64)> = numbers.into_iter().collect();
        let mut lines = Vec::new();
        self.steps += 1;
        let find = |name: &str| numbers.iter().find(|(of, _)| *of == name).map(|(_, value)| *value);
        // On the same tokens, since steps differ far more in their data than through learning.
        if let (Some(now), Some(before)) = (find("entropy"), find("sampler_entropy"))
            && now < 0.5 * before
            && self.said.insert("entropy")
        {
            lines.push(format!(
                "entropy is {now:.3}, less than half of {before:.3} when these tokens were sampled: samples \
                 become similar; lower rl.learning_rate or rl.passes"
            ));
        }
        for &(name, value) in &numbers {
            // Not at the first step: without `rl.value_passes` the value model has learned nothing yet.
            if name == "explained_variance" && self.steps == 1 {
                continue;
            }
            for (of, unhealthy, text) in RULES {
                if of == name && unhealthy(value, kl_bound) && self.said.insert(of) {
                    lines.push(format!("{name} is {value:.3}: {text}"));
                }
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::Adviser;
    use crate::train::metrics::MetricLog;

    #[test]
    fn each_line_is_said_once() {
        let mut adviser = Adviser::default();
        assert!(adviser.lines([("clip_fraction", 0.1), ("explained_variance", 0.5)], 0.1).is_empty());
        let lines = adviser.lines([("clip_fraction", 0.4), ("kl_to_sampler", 0.2)], 0.1);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("clip_fraction is 0.400: "), "{lines:?}");
        assert!(adviser.lines([("clip_fraction", 0.5)], 0.1).is_empty());
        let entropies = |now: f64| [("entropy", now), ("sampler_entropy", 0.8)];
        assert!(adviser.lines(entropies(0.8), 0.1).is_empty());
        assert!(adviser.lines(entropies(0.41), 0.1).is_empty());
        assert!(adviser.lines([("entropy", 0.1), ("sampler_entropy", 0.1)], 0.1).is_empty(), "other tokens");
        assert_eq!(adviser.lines(entropies(0.39), 0.1).len(), 1);
        let mut first = Adviser::default();
        assert!(first.lines([("explained_variance", -0.5)], 0.1).is_empty(), "nothing is learned yet");
        assert_eq!(first.lines([("explained_variance", -0.5)], 0.1).len(), 1);
        // A continued run does not repeat advice.
        let mut log = MetricLog::new(1, "rl");
        log.push(0, 0.0, [("rollouts", 8.0)]);
        log.push(1, 0.1, [("explained_variance", -0.5), ("clip_fraction", 0.4)]);
        let mut adviser = Adviser::after(log.rows(), 0.1);
        assert!(adviser.lines([("clip_fraction", 0.5)], 0.1).is_empty());
        assert_eq!(adviser.lines([("explained_variance", -0.5)], 0.1).len(), 1);
    }
}
