//! Whether RL made the policy better: compares greedy rationales of split val before and after by their similarity to the gold
//! solutions. A Teacher's scores for them would cost money, and arrive later.

use super::context::Context;
use super::decode;
use super::policy::Policy;
use super::text_metrics;
use crate::data::corpus::Corpus;
use crate::error::{Error, Result};
use crate::rollout::Generator;
use crate::seed;
use schemas::settings::{RlKeep, RlSettings};
use schemas::{Metric, Problem};

/// Maximum number of val problems decoded; always the same ones.
const PROBLEMS: usize = 512;

/// With fewer problems, no interval of the change is computed.
const LEAST_PROBLEMS: usize = 4;

/// Val problems that a policy is evaluated on.
pub(super) struct Comparison<'a> {
    context: &'a Context,
    corpus: &'a Corpus,
    problems: Vec<&'a Problem>,
}

/// Metrics of a policy's greedy rationales of val.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    /// ROUGE-L of each problem's rationale against its solution, 0 to 1.
    rouge_l: Vec<f64>,
    /// Mean number of sentences, without repetitions.
    sentences: f64,
}

/// Comparison on the same problems, before and after.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// Mean ROUGE-L before and after.
    pub(super) rouge_l: [f64; 2],
    /// Mean number of sentences before and after.
    pub(super) sentences: [f64; 2],
    /// Half the width of the 95 % interval of the change in ROUGE-L, over problems; `None` if there are too few.
    pub(super) half_width: Option<f64>,
}

impl<'a> Comparison<'a> {
    /// The val problems with a solution; `None` if there are none.
    ///
    /// # Errors
    /// If there are none but `rl.keep = best` needs them.
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

    /// Evaluates a policy's greedy rationales.
    ///
    /// # Errors
    /// If not even one problem fits into memory, or the run is interrupted.
    pub(super) fn of(&self, policy: &Policy) -> Result<Measured> {
        let kind = self.context.sampling_kind();
        let generator = Generator::new(&policy.student, &policy.weights, kind)?;
        let said = decode::texts(self.context, (policy, &generator), self.corpus, &self.problems)?;
        let solutions = self.problems.iter().map(|problem| problem.solution.as_str());
        let pairs = said.iter().map(String::as_str).zip(solutions);
        let sentences: usize = said.iter().map(|text| text.lines().count()).sum();
        Ok(Measured {
            rouge_l: pairs.map(|pair| text_metrics::rouge_l(&[pair]).unwrap_or_default()).collect(),
            sentences: sentences as f64 / said.len().max(1) as f64,
        })
    }
}

impl Change {
    /// Compares the metrics of two policies.
    pub(super) fn between(before: &Measured, after: &Measured) -> Self {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let changes: Vec<f64> =
            before.rouge_l.iter().zip(&after.rouge_l).map(|(before, after)| after - before).collect();
        Self {
            rouge_l: [mean(&before.rouge_l), mean(&after.rouge_l)],
            sentences: [before.sentences, after.sentences],
            half_width: half_width(&changes),
        }
    }

    /// Whether the policy is worse than before, if only by chance.
    pub(super) fn is_worse(&self) -> bool {
        self.rouge_l[1] < self.rouge_l[0]
    }

    /// Whether the interval of the change contains 0, or is unknown.
    pub(super) fn may_be_chance(&self) -> bool {
        let [before, after] = self.rouge_l;
        before != after && self.half_width.is_none_or(|half| (after - before).abs() <= half)
    }

    /// The metrics by name.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let ([before, after], [short, long]) = (self.rouge_l, self.sentences);
        let half = self.half_width.map(|half| ("rouge_l/half_width", half));
        let means = [("rouge_l/before", before), ("rouge_l/after", after)];
        let sentences = [("sentences/before", short), ("sentences/after", long)];
        means.into_iter().chain(half).chain(sentences)
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [before, after] = self.rouge_l;
        write!(f, "ROUGE-L on val {before:.3} → {after:.3}")?;
        match self.half_width {
            Some(half) if before != after => {
                let chance = if self.may_be_chance() { ", may be chance" } else { "" };
                write!(f, " (change {:+.3} ± {half:.3}{chance})", after - before)
            }
            _ => Ok(()),
        }
    }
}

/// Half the width of the 95 % interval of the mean of some values (Student's t); `None` if there are too few.
fn half_width(values: &[f64]) -> Option<f64> {
    if values.len() < LEAST_PROBLEMS {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some(quantile_of_t(count - 1.0) * (variance / count).sqrt())
}

/// The 97.5 % point of Student's t with `freedom` degrees of freedom, within 1 % from 3 on (Cornish–Fisher expansion;
/// Abramowitz and Stegun, 26.7.5).
fn quantile_of_t(freedom: f64) -> f64 {
    let z = 1.959_963_984_540_054_f64;
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / freedom + second / freedom.powi(2) + third / freedom.powi(3)
}

/// The most likely reason why a policy became worse, from its training metrics and its current output.
pub(super) fn likely_cause(rl: &RlSettings, rows: &[Metric], change: &Change) -> String {
    let last = |name: &str| rows.iter().rev().find(|row| row.name == name).map(|row| row.value);
    let most = |name: &str| {
        let values = rows.iter().filter(|row| row.name == name).map(|row| row.value);
        values.fold(f64::NEG_INFINITY, f64::max)
    };
    let [sentences, now] = change.sentences;
    // The answer reward alone does not reward length.
    let is_scored = last("mean_sentence_score").is_some();
    if most("kl_to_sampler") > 0.1 || most("clip_fraction") > 0.3 {
        "it moved far from the sampling policy; lower rl.learning_rate or rl.passes, or set rl.max_kl".into()
    } else if last("explained_variance").is_some_and(|share| share < 0.0) {
        "values predict returns worse than their mean; set rl.baseline = leave_one_out, or train them longer \
         (rl.value_passes)"
            .into()
    } else if last("entropy").zip(last("sampler_entropy")).is_some_and(|(now, then)| now < 0.5 * then) {
        "its samples became similar; lower rl.learning_rate or rl.passes".into()
    } else if is_scored && now > 1.3 * sentences {
        format!(
            "its rationales grew from {sentences:.1} to {now:.1} sentences: each sentence above rl.neutral_score adds to \
             the reward; raise rl.neutral_score, or set rl.reward = rationale"
        )
    } else if is_scored && now < 0.7 * sentences {
        format!(
            "its rationales shrank from {sentences:.1} to {now:.1} sentences: each sentence below rl.neutral_score costs \
             reward; lower rl.neutral_score, or set rl.reward = rationale"
        )
    } else if let Some(share) =
        last("differing/problems").filter(|share| rl.compares_samples() && *share < 0.2)
    {
        format!(
            "only {:.1} % of the problems have samples with different rewards, so few problems drive training; raise \
             rollout.samples",
            share * 100.0
        )
    } else if change.may_be_chance() {
        "the difference may be chance".into()
    } else {
        let (reward, next) = match is_scored {
            true => ("scores", ", or look at the scores (collect-feedback report)"),
            false => ("the answer reward", ""),
        };
        format!("{reward} and gold solutions may favour different texts; raise rollout.samples{next}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::MetricLog;
    use schemas::Settings;
    use schemas::settings::{Algorithm, BaselineKind};

    fn change(rouge_l: [f64; 2], sentences: [f64; 2], half_width: Option<f64>) -> Change {
        Change { rouge_l, sentences, half_width }
    }

    #[test]
    fn the_likely_cause_is_named() {
        let worse = change([0.5, 0.4], [4.0, 4.0], Some(0.02));
        let rl = Settings::default().rl;
        let cause_with = |rl: &RlSettings, numbers: &[(&str, f64)], change: &Change| {
            let mut log = MetricLog::new(1, "rl");
            log.push(0, 0.0, [("mean_sentence_score", 0.5)]);
            for (step, (name, value)) in (1..).zip(numbers) {
                log.push(step, 0.0, [(*name, *value)]);
            }
            likely_cause(rl, log.rows(), change)
        };
        let cause_of = |numbers: &[(&str, f64)], change: &Change| cause_with(&rl, numbers, change);
        let cause = |numbers: &[(&str, f64)]| cause_of(numbers, &worse);
        assert!(cause(&[("kl_to_sampler", 0.3), ("kl_to_sampler", 0.05)]).starts_with("it moved far"));
        assert!(cause(&[("explained_variance", -0.2)]).starts_with("values predict"));
        let entropies = [("entropy", 0.1), ("sampler_entropy", 0.5), ("kl_to_sampler", 0.01)];
        assert!(cause(&entropies).starts_with("its samples became similar"));
        assert!(cause(&[("kl_to_sampler", 0.01)]).starts_with("scores and gold solutions"));
        assert!(
            cause(&[("differing/problems", 0.08)]).starts_with("only 8.0 % of the problems have samples")
        );
        // Values teach something of equal samples, too.
        for (algorithm, baseline, expected) in [
            (Algorithm::Ppo, BaselineKind::Model, "scores and gold solutions"),
            (Algorithm::Ppo, BaselineKind::Sampled, "scores and gold solutions"),
            (Algorithm::Grpo, BaselineKind::Model, "only 8.0 %"),
            (Algorithm::Dpo, BaselineKind::Sampled, "only 8.0 %"),
        ] {
            let rl = RlSettings { algorithm, baseline, ..rl.clone() };
            let found = cause_with(&rl, &[("differing/problems", 0.08)], &worse);
            assert!(found.starts_with(expected), "{algorithm}, {baseline:?}: {found}");
        }
        assert!(cause(&[("differing/problems", 0.8)]).starts_with("scores and gold solutions"));
        let longer = change([0.5, 0.4], [4.0, 6.0], Some(0.02));
        assert!(cause_of(&[], &longer).starts_with("its rationales grew from 4.0 to 6.0 sentences"));
        let shorter = change([0.5, 0.4], [4.0, 2.0], Some(0.02));
        assert!(cause_of(&[], &shorter).starts_with("its rationales shrank from 4.0 to 2.0 sentences"));
        let unscored = likely_cause(&rl, &[], &longer);
        assert!(unscored.starts_with("the answer reward and gold solutions"), "{unscored}");
        let slightly = change([0.5, 0.49], [4.0, 4.0], Some(0.02));
        assert_eq!(cause_of(&[], &slightly), "the difference may be chance");
    }

    /// Quantiles of Student's t from published tables.
    #[test]
    fn the_interval_is_that_of_students_t() {
        for (freedom, point) in [(3.0, 3.182), (4.0, 2.776), (9.0, 2.262), (30.0, 2.042), (99.0, 1.984)] {
            assert!((quantile_of_t(freedom) / point - 1.0).abs() < 0.01, "{freedom}");
        }
        // Changes 0.1, 0.3, 0.1, 0.3: mean 0.2, standard deviation 0.1155, standard error 0.0577.
        let measured = |values: [f64; 4]| Measured { rouge_l: values.to_vec(), sentences: 2.0 };
        let before = measured([0.1, 0.2, 0.3, 0.4]);
        let found = Change::between(&before, &measured([0.2, 0.5, 0.4, 0.7]));
        assert!((found.half_width.expect("four") - 3.182 * 0.057_735).abs() < 0.006, "{found:?}");
        assert!(!found.may_be_chance() && !found.is_worse());
        assert_eq!(found.to_string(), "ROUGE-L on val 0.250 → 0.450 (change +0.200 ± 0.182)");
        let same = Change::between(&before, &before);
        assert_eq!(same.to_string(), "ROUGE-L on val 0.250 → 0.250");
        assert!(!same.may_be_chance() && !same.is_worse());
        let mixed = Change::between(&before, &measured([0.2, 0.0, 0.3, 0.4]));
        assert!(mixed.is_worse() && mixed.to_string().ends_with(", may be chance)"), "{mixed}");
        assert_eq!(half_width(&[0.1; 3]), None);
    }
}
