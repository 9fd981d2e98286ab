//! ppo and grpo: the clipped policy gradient on the round's own samples. They differ in the baseline of the advantages.

use super::Objective;
use super::advantage::{gae, gae_by_sentence, whiten_all};
use super::baseline::{explained, leave_one_out};
use super::experience::{Experience, groups, has_signal};
use super::grpo;
use super::plan::Plan;
use super::ppo::{Learner, drift, logprobs_of};
use super::reward::neutral;
use super::rows::{ScoredRollout, Sequence};
use super::statistics::Statistics;
use crate::collective::Group;
use crate::data::batch::Portion;
use crate::data::vision::ImageFeatures;
use crate::error::Result;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use crate::rollout::distribution::Distribution;
use schemas::number::{counted, grouped};
use schemas::settings::{Algorithm, BaselineKind, GaeUnit, WhitenOver};
use tch::Kind;

/// Provides values of each rollout's tokens, learned before policy training.
pub type LearnedValues<'a> = dyn Fn(&[Experience]) -> Result<Vec<Vec<f32>>> + 'a;

/// The clipped policy gradient.
pub struct PolicyGradient<'a> {
    /// The round's scored rollouts.
    pub experience: &'a [Experience],
    /// Policy, and the value model trained with it.
    pub learner: Learner<'a>,
    /// Image features of the problems.
    pub features: &'a ImageFeatures,
    /// Settings and number format.
    pub plan: Plan<'a>,
    /// β of the KL penalty in the rewards, which grpo applies to its advantages instead.
    pub kl_coefficient: f64,
    /// Batch size of policy passes without gradients.
    pub together: usize,
    /// Source of the values for `rl.baseline = model`.
    pub learned_values: &'a LearnedValues<'a>,
    /// The ranks that train together.
    pub group: Group,
    /// The result of [`Objective::prepare`].
    pub prepared: Prepared,
}

/// Training rows, and the metrics taken while building them.
#[derive(Debug, Default)]
pub struct Prepared {
    rows: Vec<ScoredRollout>,
    numbers: Vec<(&'static str, f64)>,
}

/// Advantages of a rollout's tokens, with the returns and values they were computed from.
type Taken = (Vec<f32>, Vec<f32>, Vec<f32>);

/// Rollouts whose stored log-probabilities are compared with those of the policy.
const LOOKED_AT: usize = 16;

impl Objective for PolicyGradient<'_> {
    type Row = ScoredRollout;

    fn prepare(&mut self) -> Result<()> {
        let rl = self.plan.settings;
        let compares = rl.algorithm == Algorithm::Grpo || rl.baseline == BaselineKind::LeaveOneOut;
        if compares {
            warn_of_single_samples(self.experience);
        }
        // By the scores, not by the advantages: those would be made of rounding and of the KL penalty, blown up by whitening.
        let has_signal = match rl.algorithm {
            Algorithm::Grpo => grpo::has_signal(self.experience, neutral(rl)),
            _ => has_signal(self.experience, neutral(rl)),
        };
        if compares && !has_signal {
            schemas::warn!(
                "rl: no problem has samples with different scores, so there is nothing to learn, and the policy stays \
                 unchanged; raising rollout.samples may help"
            );
            return Ok(());
        }
        let taken = self.advantages()?;
        let (mut advantages, others): (Vec<_>, Vec<_>) =
            taken.into_iter().map(|(advantages, returns, values)| (advantages, (returns, values))).unzip();
        if rl.algorithm == Algorithm::Ppo && rl.whiten && rl.whiten_over == WhitenOver::Rollouts {
            // If the mean were subtracted, samples as good as the others would get nonzero advantages.
            whiten_all(&mut advantages, rl.baseline != BaselineKind::LeaveOneOut);
        }
        let old_logprobs = self.old_logprobs()?;
        let learns_values = self.learner.value.is_some();
        let rows = self.experience.iter().zip(old_logprobs).zip(advantages.into_iter().zip(others));
        self.prepared.rows = rows
            .map(|((row, old_logprobs), (advantages, (returns, values)))| ScoredRollout {
                problem_id: row.problem_id.clone(),
                source: row.source.clone(),
                tokens: row.tokens.clone(),
                old_logprobs,
                advantages,
                returns: if learns_values { returns } else { Vec::new() },
                values: if learns_values { values } else { Vec::new() },
            })
            .collect();
        Ok(())
    }

    fn measured(&self) -> Vec<(&'static str, f64)> {
        self.prepared.numbers.clone()
    }

    fn rows(&self) -> &[ScoredRollout] {
        &self.prepared.rows
    }

    fn sets(&self) -> Vec<(&'static str, &Weights)> {
        let mut sets = vec![("policy", self.learner.policy_weights)];
        sets.extend(self.learner.value.map(|(_, weights)| ("value", weights)));
        sets
    }

    fn backward(&self, rows: &[&ScoredRollout], portion: Portion<'_>, share: f64) -> Statistics {
        let mode = Mode { train: false, kind: self.plan.kind };
        self.learner.backward(rows, self.features, self.plan.settings, mode, portion, share)
    }

    fn drift(&self, rows: &[&ScoredRollout]) -> Result<Option<f64>> {
        drift(&self.learner, rows, self.features, self.together, self.plan.kind).map(Some)
    }
}

impl PolicyGradient<'_> {
    /// Old log π(a_t) of the ratios: those stored while sampling if the policy still reproduces them and they are under the
    /// trained distribution, else recomputed ones.
    fn old_logprobs(&self) -> Result<Vec<Vec<f32>>> {
        fn sequence(row: &Experience) -> Sequence<'_> {
            Sequence { problem_id: &row.problem_id, source: &row.source, tokens: &row.tokens }
        }
        let all: Vec<Sequence<'_>> = self.experience.iter().map(sequence).collect();
        let all: Vec<&Sequence<'_>> = all.iter().collect();
        let now = |rows: &[&Sequence<'_>]| {
            let of_some = |rows: &[&Sequence<'_>]| {
                logprobs_of(&self.learner, rows, self.features, self.together, self.plan.kind)
            };
            self.group.numbers_of(rows, self.together, of_some)
        };
        if self.learner.distribution != Distribution::FULL {
            return now(&all);
        }
        let step = all.len().div_ceil(LOOKED_AT).max(1);
        let some: Vec<&Sequence<'_>> = all.iter().step_by(step).copied().collect();
        let (mut off, mut tokens) = (0f64, 0usize);
        for (row, now) in self.experience.iter().step_by(step).zip(now(&some)?) {
            let apart = row.logprobs.iter().zip(&now).map(|(old, now)| f64::from((old - now).abs()));
            off += apart.sum::<f64>();
            tokens += now.len();
        }
        let off = off / tokens.max(1) as f64;
        // The largest difference that rounding explains.
        let bound = if self.plan.kind == Kind::Float { 1e-3 } else { 0.1 };
        if off <= bound {
            return Ok(self.experience.iter().map(|row| row.logprobs.clone()).collect());
        }
        schemas::warn!(
            "warning: log-probabilities stored with the rollouts differ from the policy's by {off:.4} nats per token: were \
             they sampled with another student.vision (or other features), max_source_tokens, use_caption or dtype? They \
             are recomputed, so that ratios start at 1"
        );
        now(&all)
    }

    /// Advantages, returns and values of each rollout; the latter two are empty for grpo.
    fn advantages(&mut self) -> Result<Vec<Taken>> {
        let rl = self.plan.settings;
        if rl.algorithm == Algorithm::Grpo {
            let relative = grpo::advantages(self.experience, rl.grpo_scale, self.kl_coefficient, neutral(rl));
            return Ok(relative.into_iter().map(|row| (row, Vec::new(), Vec::new())).collect());
        }
        let values = match rl.baseline {
            BaselineKind::LeaveOneOut => leave_one_out(self.experience, rl.gamma),
            BaselineKind::Model => (self.learned_values)(self.experience)?,
            BaselineKind::Sampled => self.experience.iter().map(|row| row.values.clone()).collect(),
        };
        let explained = explained(self.experience, &values, rl.gamma);
        self.prepared.numbers.extend(explained.map(|share| ("baseline_explained_variance", share)));
        let of_one = |(row, values): (&Experience, Vec<f32>)| {
            let (advantages, returns) = match rl.gae_unit {
                GaeUnit::Token => gae(&row.rewards, &values, rl.gamma, rl.lambda),
                GaeUnit::Sentence => {
                    gae_by_sentence(&row.rewards, &values, &row.end_tokens(), rl.gamma, rl.lambda)
                }
            };
            (advantages, returns, values)
        };
        Ok(self.experience.iter().zip(values).map(of_one).collect())
    }
}

/// Warns of problems whose only sample cannot be compared with others of the same problem.
fn warn_of_single_samples(experience: &[Experience]) {
    let groups = groups(experience);
    let single = groups.values().filter(|members| members.len() == 1).count();
    if single > 0 {
        let have = if single == 1 { "has" } else { "have" };
        schemas::warn!(
            "rl: {} of {} {have} one scored sample, which is compared with the samples of all problems: this \
             reflects differences between problems more than between sentences; raise rollout.samples",
            grouped(single),
            counted(groups.len(), "problem")
        );
    }
}
