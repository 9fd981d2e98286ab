//! One optimizer step of fine-tuning and of reinforcement learning.

use super::system::Clock;
use super::{Bench, Measurement, Work};
use crate::error::{Error, Result};
use crate::model::Student;
use crate::model::lora::LoraConfig;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use crate::objective::loss::Coefficients;
use crate::objective::ppo::Learner;
use crate::objective::sft::{Example, backward};
use crate::objective::{ScoredRollout, value_model};
use crate::rollout::distribution::Distribution;
use crate::train::optimizer::{AdamW, clip_factor, gradient_norm};

impl Bench<'_> {
    /// Random weights; all are trained or, with `student.lora_rank`, only an adapter's.
    fn trained_weights(&self) -> Result<Weights> {
        let mut weights = self.weights();
        let lora = LoraConfig::of(&self.settings.student, &self.config).map_err(|message| {
            Error::input(format!("student.lora_targets: {message}"), "train bench --help")
        })?;
        if let Some(lora) = lora {
            lora.add_to(&mut weights, &self.config, 1, self.device);
        }
        weights.train();
        Ok(weights)
    }

    /// The trained adapter, for the name of a measurement.
    fn adapter(&self) -> String {
        match self.settings.student.lora_rank {
            0 => String::new(),
            rank => format!(" lora {rank}"),
        }
    }

    pub(super) fn fine_tuning(&self) -> Result<Measurement> {
        let weights = self.trained_weights()?;
        let student = Student::new(&weights, &self.config);
        let sets = [("student", &weights)];
        let mut optimizer = AdamW::new(0.01);
        let budget = self.settings.student.max_tokens_per_batch;
        let mode = Mode { train: true, kind: self.kind() };
        let mut times = Vec::new();
        for (index, lengths) in self.batches.iter().enumerate() {
            let examples: Vec<Example> = lengths
                .iter()
                .enumerate()
                .map(|(row, &(source, target))| Example {
                    problem_id: row.to_string(),
                    source: self.tokens(source, row),
                    target: self.tokens(target, row + 100),
                })
                .collect();
            let examples: Vec<&Example> = examples.iter().collect();
            let start = Clock::start();
            let _ = backward(&student, &examples, &self.features, mode, budget);
            let norm = gradient_norm(&sets);
            optimizer.step(&sets, 8e-5, clip_factor(norm, Some(1.0)));
            self.wait();
            times.extend((index > 0).then(|| start.elapsed()));
        }
        let variant = self.format() + &self.adapter();
        Ok(self.measurement(Work::Sft, variant, &times, weights.trained_count()))
    }

    pub(super) fn reinforcement(&self) -> Result<Measurement> {
        let rl = &self.settings.rl;
        let weights = self.trained_weights()?;
        let student = Student::new(&weights, &self.config);
        let learns_values = rl.learns_values_along();
        let seed = self.settings.rollout.seed;
        let value = learns_values.then(|| value_model::initial((&student, &weights), rl, seed, 1));
        let learner = Learner {
            policy: &student,
            policy_weights: &weights,
            value: value.as_ref().map(|(model, weights)| (model, weights)),
            distribution: Distribution::of(self.settings),
        };
        let mut sets = vec![("policy", &weights)];
        sets.extend(value.as_ref().map(|(_, weights)| ("value", weights)));
        let mut optimizer = AdamW::new(0.01);
        let budget = self.settings.student.max_tokens_per_batch;
        let mode = Mode { train: false, kind: self.kind() };
        let mut times = Vec::new();
        for (index, lengths) in self.batches.iter().enumerate() {
            let numbers = |count: usize, salt: usize| -> Vec<f32> {
                (0..count).map(|i| (((i + salt) * 31) as f32).sin() * 0.1).collect()
            };
            let rollouts: Vec<ScoredRollout> = lengths
                .iter()
                .enumerate()
                .map(|(row, &(source, target))| ScoredRollout {
                    problem_id: row.to_string(),
                    source: self.tokens(source, row),
                    tokens: self.tokens(target, row + 100),
                    old_logprobs: vec![-10.0; target],
                    advantages: numbers(target, row),
                    returns: numbers(target, row + 7),
                    values: numbers(target, row + 11),
                })
                .collect();
            let rollouts: Vec<&ScoredRollout> = rollouts.iter().collect();
            let start = Clock::start();
            learner.backward(&rollouts, &self.features, rl, mode, budget, 1.0).numbers(Coefficients::of(rl));
            let norm = gradient_norm(&sets);
            optimizer.step(&sets, 2e-5, clip_factor(norm, rl.max_grad_norm));
            self.wait();
            times.extend((index > 0).then(|| start.elapsed()));
        }
        let trunk = if value.is_some() { format!(" {}", rl.value_model) } else { String::new() };
        let variant = format!("{}{trunk} {}{}", rl.algorithm, self.format(), self.adapter());
        let parameters = sets.iter().map(|(_, weights)| weights.trained_count()).sum();
        Ok(self.measurement(Work::Ppo, variant, &times, parameters))
    }
}
