//! Whether RL made the policy better: greedy rationales of split val before and after, by their likeness to the gold
//! solutions. Scores of a Teacher for them would be paid for, and come later.

use super::context::{Context, Policy};
use super::decode;
use super::text_metrics;
use crate::data::corpus::Corpus;
use crate::error::{Error, Result};
use crate::rollout::Generator;
use crate::seed;
use schemas::settings::RlKeep;
use schemas::{Metric, Problem};

/// Most problems of val that are decoded; the same ones each time.
const PROBLEMS: usize = 512;

/// Problems of val that a policy is measured on.
pub(super) struct Comparison<'a> {
    context: &'a Context,
    corpus: &'a Corpus,
    problems: Vec<&'a Problem>,
}

impl<'a> Comparison<'a> {
    /// The val problems with a solution; `None` if there are none.
    ///
    /// # Errors
    /// If there are none, and `rl.keep = best` needs them.
    pub(super) fn new(context: &'a Context, corpus: &'a Corpus) -> Result<Option<Self>> {
        let mut problems: Vec<(u64, &Problem)> = corpus
            .split("val")
            .into_iter()
            .filter(|problem| !problem.solution.trim().is_empty())
            .map(|problem| (seed::derive(0, "comparison", &problem.problem_id), problem))
            .collect();
        if problems.is_empty() && context.settings.rl.keep == RlKeep::Best {
            return Err(Error::input(
                "rl.keep = best: expected val problems with a solution, found none",
                "set rl.keep = last",
            ));
        }
        problems.sort_by_key(|(place, _)| *place);
        problems.truncate(PROBLEMS);
        let problems: Vec<&Problem> = problems.into_iter().map(|(_, problem)| problem).collect();
        Ok((!problems.is_empty()).then_some(Self { context, corpus, problems }))
    }

    /// Mean ROUGE-L of the policy's greedy rationales to the gold solutions, 0 to 1.
    ///
    /// # Errors
    /// If not even one problem fits into memory, or the run is interrupted.
    pub(super) fn of(&self, policy: &Policy) -> Result<f64> {
        let kind = self.context.sampling_kind();
        let generator = Generator::new(&policy.student, &policy.weights, kind)?;
        let said = decode::texts(self.context, (policy, &generator), self.corpus, &self.problems)?;
        let solutions = self.problems.iter().map(|problem| problem.solution.as_str());
        let pairs: Vec<(&str, &str)> = said.iter().map(String::as_str).zip(solutions).collect();
        Ok(text_metrics::rouge_l(&pairs).unwrap_or_default())
    }
}

/// The likeliest reason why a policy became worse, from the numbers of its training.
pub(super) fn likely_cause(rows: &[Metric]) -> &'static str {
    let last = |name: &str| rows.iter().rev().find(|row| row.name == name).map(|row| row.value);
    let most = |name: &str| {
        let values = rows.iter().filter(|row| row.name == name).map(|row| row.value);
        values.fold(f64::NEG_INFINITY, f64::max)
    };
    if most("kl_to_sampler") > 0.1 || most("clip_fraction") > 0.3 {
        "it moved far from the policy that sampled; lower rl.learning_rate or rl.passes, or set rl.max_kl"
    } else if last("explained_variance").is_some_and(|share| share < 0.0) {
        "values predict returns worse than their mean; set rl.baseline = leave_one_out, or train them longer \
         (rl.value_passes)"
    } else if last("entropy").zip(last("sampler_entropy")).is_some_and(|(now, then)| now < 0.5 * then) {
        "its samples became similar; lower rl.learning_rate or rl.passes"
    } else {
        "scores and gold solutions may ask for different things, or the difference is chance; sample more of each \
         problem (rollout.samples), or look at the scores (collect-feedback report)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::MetricLog;

    #[test]
    fn the_likely_cause_is_named() {
        let cause = |numbers: &[(&str, f64)]| {
            let mut log = MetricLog::new(1, "rl");
            for (step, (name, value)) in (1..).zip(numbers) {
                log.push(step, 0.0, [(*name, *value)]);
            }
            likely_cause(log.rows())
        };
        assert!(cause(&[("kl_to_sampler", 0.3), ("kl_to_sampler", 0.05)]).starts_with("it moved far"));
        assert!(cause(&[("explained_variance", -0.2)]).starts_with("values predict"));
        let entropies = [("entropy", 0.1), ("sampler_entropy", 0.5), ("kl_to_sampler", 0.01)];
        assert!(cause(&entropies).starts_with("its samples became similar"));
        assert!(cause(&[("kl_to_sampler", 0.01)]).starts_with("scores and gold solutions"));
    }
}
