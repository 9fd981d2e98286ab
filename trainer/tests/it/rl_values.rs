//! Rewards, advantages, losses and gradients as `tests/reference/make_rl_values.py` computes them from the formulas,
//! for two shapes (gated GELU with a head of its own, ReLU with a tied head) and two widths of picture features.

use crate::checkpoints::{assert_close, values};
use crate::t5::{Loaded, read_student};
use schemas::settings::{BaselineKind, RlSettings, WhitenOver};
use serde::Deserialize;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use trainer::checkpoint::hf::read_safetensors;
use trainer::data::vision::{ImageFeatures, features};
use trainer::model::Student;
use trainer::model::mm_t5::StudentConfig;
use trainer::nn::mode::Mode;
use trainer::nn::value_head::ValueHead;
use trainer::nn::weights::Weights;
use trainer::objective::ScoredRollout;
use trainer::objective::advantage::{gae, whiten};
use trainer::objective::loss::Coefficients;
use trainer::objective::ppo::Learner;
use trainer::objective::reward::token_rewards;
use trainer::objective::sft::{Example, batch_loss};
use trainer::objective::value_model::ValueModel;
use trainer::rollout::distribution::Distribution;

const FOLDERS: [&str; 2] = ["rl_gated_untied", "rl_relu_tied"];

#[derive(Deserialize)]
struct Values {
    settings: Settings,
    losses: BTreeMap<String, f64>,
    whitened: Vec<f32>,
    sft_loss: f64,
    rollouts: Vec<Rollout>,
}

#[derive(Deserialize)]
struct Settings {
    gamma: f64,
    lambda: f64,
    clip: f64,
    kl_coefficient: f64,
    neutral_score: f64,
    value_coefficient: f64,
}

#[derive(Deserialize)]
struct Rollout {
    source: Vec<i64>,
    tokens: Vec<i64>,
    sentence_ends: Vec<(u32, f32)>,
    old_logprobs: Vec<f32>,
    ref_logprobs: Vec<f32>,
    values: Vec<f32>,
    rewards: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
}

/// One folder of values, with its pictures as a features file.
struct Case {
    told: Values,
    tensors: BTreeMap<String, Tensor>,
    config: StudentConfig,
    weights: Weights,
    features: ImageFeatures,
    _kept: TempDir,
}

fn open(name: &str) -> Case {
    let folder = values(name);
    let text = std::fs::read_to_string(folder.join("values.json")).expect("values");
    let tensors = read_safetensors(&folder.join("expected.safetensors")).expect("values");
    let Loaded { config, weights } = read_student(&folder).expect("student");
    let kept = TempDir::new().expect("folder");
    let path = kept.path().join("vit.safetensors");
    // The last problem has no picture.
    let pictures = (0..2i64).map(|row| (format!("p{row}"), tensors["pictures"].get(row))).collect();
    features::write(&path, &pictures, "vit").expect("features");
    let features = ImageFeatures::open(&path, config.image_feature_width).expect("features");
    let told = serde_json::from_str(&text).expect("values");
    Case { told, tensors, config, weights, features, _kept: kept }
}

impl Case {
    fn settings(&self) -> RlSettings {
        let told = &self.told.settings;
        RlSettings {
            clip: told.clip,
            value_coefficient: told.value_coefficient,
            gamma: told.gamma,
            lambda: told.lambda,
            kl_coefficient: told.kl_coefficient,
            neutral_score: told.neutral_score,
            whiten: true,
            whiten_over: WhitenOver::Minibatch,
            // Against values, as in the paper: the mean is subtracted.
            baseline: BaselineKind::Sampled,
            kl_penalty: 0.0,
            ..RlSettings::default()
        }
    }

    fn rewards(&self, rollout: &Rollout, sentence_ends: &[(u32, f32)]) -> Vec<f32> {
        let (old, reference) = (&rollout.old_logprobs, &rollout.ref_logprobs);
        let told = &self.told.settings;
        token_rewards(old, reference, sentence_ends, told.kl_coefficient, told.neutral_score)
            .expect("rewards")
    }

    /// The rollouts as the trainer learns from them.
    fn rollouts(&self) -> Vec<ScoredRollout> {
        let scored = |(row, rollout): (usize, &Rollout)| {
            let rewards = self.rewards(rollout, &rollout.sentence_ends);
            let told = &self.told.settings;
            let (advantages, returns) = gae(&rewards, &rollout.values, told.gamma, told.lambda);
            ScoredRollout {
                problem_id: format!("p{row}"),
                source: rollout.source.clone(),
                tokens: rollout.tokens.clone(),
                old_logprobs: rollout.old_logprobs.clone(),
                advantages,
                returns,
                values: rollout.values.clone(),
            }
        };
        self.told.rollouts.iter().enumerate().map(scored).collect()
    }

    /// Metrics of all rollouts as one minibatch, after its gradients were added to `policy` and `value`.
    fn step(&self, policy: &Weights, value: &Weights) -> BTreeMap<&'static str, f64> {
        policy.train_only(|_| true);
        value.train_only(|name| name != "lm_head.weight");
        let student = Student::new(policy, &self.config);
        let model = ValueModel { student: Student::new(value, &self.config), head: ValueHead::new(value) };
        let learner = Learner {
            policy: &student,
            policy_weights: policy,
            value: Some((&model, value)),
            distribution: Distribution::FULL,
        };
        let rollouts = self.rollouts();
        let rollouts: Vec<&ScoredRollout> = rollouts.iter().collect();
        let settings = self.settings();
        let statistics = learner.backward(&rollouts, &self.features, &settings, Mode::EVAL, None, 1.0);
        statistics.numbers(Coefficients::of(&settings)).into_iter().collect()
    }

    fn value_weights(&self) -> Weights {
        let mut weights = self.weights.copy_to(Device::Cpu);
        for (name, tensor) in self.tensors.iter().filter(|(name, _)| name.starts_with("v_head.")) {
            weights.insert(name, tensor.copy());
        }
        weights
    }

    fn assert_gradients(&self, weights: &Weights, set: &str) {
        let prefix = format!("{set}.");
        let expected = self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?, t)));
        let mut compared = 0;
        for (name, expected) in expected {
            let found = weights.find(name).unwrap_or_else(|| panic!("no {name}")).grad();
            assert!(found.defined(), "no gradient for {set}.{name}");
            assert_close(&format!("{set}.{name}"), &found, expected, 1e-6);
            compared += 1;
        }
        let trained = weights.iter().filter(|(_, weight)| weight.requires_grad()).count();
        assert_eq!(compared, trained, "every trained weight of {set} has a gradient to compare");
    }
}

fn largest(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn rewards_advantages_and_returns_agree() {
    for name in FOLDERS {
        let case = open(name);
        for (row, (rollout, ours)) in case.told.rollouts.iter().zip(case.rollouts()).enumerate() {
            let rewards = case.rewards(rollout, &rollout.sentence_ends);
            assert!(largest(&rewards, &rollout.rewards) < 1e-6, "{name}, row {row}: rewards");
            assert!(largest(&ours.advantages, &rollout.advantages) < 1e-5, "{name}, row {row}: advantages");
            assert!(largest(&ours.returns, &rollout.returns) < 1e-5, "{name}, row {row}: returns");
            // One token earlier, the reward differs.
            let moved: Vec<(u32, f32)> =
                rollout.sentence_ends.iter().map(|&(token, score)| (token - 1, score)).collect();
            assert!(largest(&case.rewards(rollout, &moved), &rollout.rewards) > 0.1, "{name}, row {row}");
        }
    }
}

#[test]
fn whitening_is_over_the_real_tokens_of_the_minibatch() {
    for name in FOLDERS {
        let case = open(name);
        let rollouts = case.rollouts();
        let longest = rollouts.iter().map(|rollout| rollout.tokens.len()).max().expect("rollouts");
        let rows = |numbers: &dyn Fn(&ScoredRollout) -> Vec<f32>| {
            let padded = rollouts.iter().flat_map(|rollout| {
                let mut row = numbers(rollout);
                row.resize(longest, 0.0);
                row
            });
            Tensor::from_slice(&padded.collect::<Vec<_>>()).view([rollouts.len() as i64, longest as i64])
        };
        let advantages = rows(&|rollout| rollout.advantages.clone());
        let mask = rows(&|rollout| vec![1.0; rollout.tokens.len()]);
        let real = |whitened: Tensor| whitened.masked_select(&mask.ge(0.5));
        let expected = Tensor::from_slice(&case.told.whitened);
        assert_close(name, &real(whiten(&advantages, &mask, true)), &expected, 1e-5);
        // The public code includes padding, with another result.
        let theirs = real(whiten(&advantages, &mask.ones_like(), true));
        assert!((theirs - expected).abs().max().double_value(&[]) > 0.01, "{name}");
    }
}

#[test]
fn the_losses_of_a_minibatch_agree() {
    for name in FOLDERS {
        let case = open(name);
        let found = case.step(&case.weights, &case.value_weights());
        for (name, part) in [
            ("policy_loss", "policy"),
            ("value_loss", "value"),
            ("loss", "total"),
            ("clip_fraction", "clip_fraction"),
            ("ratio", "ratio"),
            ("kl_to_sampler", "kl"),
        ] {
            let (found, expected) = (found[name], case.told.losses[part]);
            assert!((found - expected).abs() < 1e-5, "{name}: {part} is {found}, expected {expected}");
        }
    }
}

#[test]
fn the_gradients_of_policy_and_value_model_agree() {
    for name in FOLDERS {
        let case = open(name);
        let value = case.value_weights();
        case.step(&case.weights, &value);
        case.assert_gradients(&case.weights, "policy");
        case.assert_gradients(&value, "value");
    }
}

#[test]
fn a_batch_gives_the_gradients_of_its_rows_weighted_by_their_tokens() {
    // Padding that entered loss or attention would show here: alone, no row has any.
    let case = open(FOLDERS[0]);
    let examples = examples(&case);
    let gradient = |examples: &[&Example]| {
        let weights = case.weights.copy_to(Device::Cpu);
        weights.train_only(|_| true);
        let student = Student::new(&weights, &case.config);
        batch_loss(&student, examples, &case.features, Mode::EVAL).backward();
        let flat: Vec<Tensor> = weights.iter().map(|(_, weight)| weight.grad().view(-1)).collect();
        Tensor::cat(&flat, 0)
    };
    let all: Vec<&Example> = examples.iter().collect();
    let tokens: usize = examples.iter().map(|example| example.target.len()).sum();
    let sum = examples
        .iter()
        .map(|example| gradient(&[example]) * (example.target.len() as f64 / tokens as f64))
        .reduce(|sum, part| sum + part)
        .expect("examples");
    assert_close("gradients", &gradient(&all), &sum, 1e-6);
}

fn examples(case: &Case) -> Vec<Example> {
    let example = |(row, rollout): (usize, &Rollout)| Example {
        problem_id: format!("p{row}"),
        source: rollout.source.clone(),
        target: rollout.tokens.clone(),
    };
    case.told.rollouts.iter().enumerate().map(example).collect()
}

#[test]
fn the_fine_tuning_loss_and_its_gradients_agree() {
    for name in FOLDERS {
        let case = open(name);
        case.weights.train_only(|_| true);
        let student = Student::new(&case.weights, &case.config);
        let examples = examples(&case);
        let examples: Vec<&Example> = examples.iter().collect();
        let loss = batch_loss(&student, &examples, &case.features, Mode::EVAL);
        let found = loss.to_kind(Kind::Double).double_value(&[]);
        assert!((found - case.told.sft_loss).abs() < 1e-5, "{name}: {found}");
        loss.backward();
        case.assert_gradients(&case.weights, "sft");
    }
}
