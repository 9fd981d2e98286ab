//! The PPO step of the public code: rewards, advantages, losses, gradients, and the weights after it.

use crate::reference::{
    Tensors, assert_close, assert_gradients_close, assert_weights_close, batch, folder, meta, shifted,
    student, tensors, weights,
};
use schemas::settings::{Resolved, RlSettings};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor, no_grad};
use trainer::model::Student;
use trainer::model::mm_t5::StudentConfig;
use trainer::nn::mode::Mode;
use trainer::nn::value_head::ValueHead;
use trainer::nn::weights::Weights;
use trainer::objective::advantage::{gae, whiten};
use trainer::objective::loss::{Coefficients, PpoInputs, PpoLoss, ppo_loss};
use trainer::objective::reward::token_rewards;
use trainer::objective::value_model::ValueModel;
use trainer::rollout::logprobs::token_logprobs;
use trainer::train::optimizer::{AdamW, clip_factor, decays, gradient_norm};

/// The settings of the paper.
fn paper() -> RlSettings {
    let preset = [("round.preset".to_owned(), "paper-base".to_owned())];
    Resolved::from_parts(None, &preset.into()).expect("settings").settings.rl
}

/// Policy and value model of the reference, with their inputs.
struct Step {
    reference: Tensors,
    config: StudentConfig,
    policy: Weights,
    value: Weights,
    inputs: Tensor,
    labels: Tensor,
    /// 1 at real tokens.
    mask: Tensor,
}

fn open(folder: &Path) -> Step {
    let reference = tensors(folder, "ppo.safetensors");
    let actions = &reference["actions"];
    let length = actions.size()[1] - 1;
    let (config, policy) = weights(folder, "model/model.safetensors");
    let (_, value) = weights(folder, "value_model/model.safetensors");
    Step {
        inputs: actions.narrow(1, 0, length),
        labels: actions.narrow(1, 1, length),
        mask: reference["loss_mask"].to_kind(Kind::Float),
        reference,
        config,
        policy,
        value,
    }
}

impl Step {
    fn logprobs(&self, folder: &Path, weights: &Weights) -> Tensor {
        let student = Student::new(weights, &self.config);
        let hidden = student.hidden(&batch(folder).source, &self.inputs, Mode::EVAL);
        token_logprobs(&student, &hidden, &self.labels, Mode::EVAL)
    }

    fn values(&self, folder: &Path) -> Tensor {
        let student = Student::new(&self.value, &self.config);
        let model = ValueModel { student, head: ValueHead::new(&self.value) };
        let hidden = model.student.hidden(&batch(folder).source, &self.inputs, Mode::EVAL);
        model.values(&hidden, Mode::EVAL)
    }

    /// Loss of the step, after its gradients went to policy and value model.
    fn loss(&self, folder: &Path) -> PpoLoss {
        self.policy.train_only(|_| true);
        self.value.train_only(|name| name != "lm_head.weight");
        let kept = self.mask.view(-1).nonzero().squeeze_dim(-1);
        let real = |tensor: &Tensor| tensor.contiguous().view(-1).index_select(0, &kept);
        let loss = ppo_loss(
            &PpoInputs {
                logprobs: real(&self.logprobs(folder, &self.policy)),
                old_logprobs: real(&self.reference["old_logprobs"]),
                advantages: real(&self.reference["advantages"]),
                values: Some((real(&self.values(folder)), real(&self.reference["returns"]))),
            },
            Coefficients::of(&paper()),
        );
        loss.total.backward();
        loss
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn logprobs_and_values_of_the_rollouts_agree() {
    let folder = folder();
    let step = open(&folder);
    let masked = |tensor: &Tensor| tensor * &step.mask;
    for (file, name) in [
        ("ref_model/rollout_policy.safetensors", "rollout_logprobs"),
        ("ref_model/model.safetensors", "ref_logprobs"),
        ("model/model.safetensors", "new_logprobs"),
    ] {
        let found = step.logprobs(&folder, &weights(&folder, file).1);
        assert_close(name, &masked(&found), &masked(&step.reference[name]), 1e-5);
    }
    assert_close("values", &masked(&step.values(&folder)), &masked(&step.reference["new_values"]), 1e-5);

    let logprobs = |file: &str| step.logprobs(&folder, &weights(&folder, file).1);
    let policy = logprobs("ref_model/rollout_policy.safetensors");
    let log_ratio = (policy - logprobs("ref_model/model.safetensors")) * &step.reference["kl_mask"];
    assert_close("log ratio to the reference policy", &log_ratio, &step.reference["log_ratio"], 1e-5);
    let kl = log_ratio.exp() - 1.0 - log_ratio;
    assert_close("KL to the reference policy", &kl, &step.reference["kl_k3"], 1e-5);
}

/// The KL is masked as the public code does (one position off), so that its numbers apply.
#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn rewards_advantages_and_returns_agree() {
    let folder = folder();
    let meta = meta(&folder);
    let reference = open(&folder).reference;
    let row = |name: &str, index: i64| Vec::<f32>::try_from(reference[name].get(index)).expect("numbers");
    let kl_mask = &reference["kl_mask"].to_kind(Kind::Float);
    for index in 0..3i64 {
        let at = |list: &serde_json::Value| list[index as usize].as_array().expect("list").clone();
        let ends = at(&meta["sentence_indices"]).into_iter().map(|end| end.as_u64().expect("index") as u32);
        let scores = at(&meta["scores"]).into_iter().map(|score| score.as_f64().expect("score") as f32);
        let ends: Vec<(u32, f32)> = ends.zip(scores).collect();
        let mask = Vec::<f32>::try_from(kl_mask.get(index)).expect("mask");
        let masked =
            |numbers: Vec<f32>| -> Vec<f32> { numbers.iter().zip(&mask).map(|(n, m)| n * m).collect() };
        let (old, refs) = (masked(row("rollout_logprobs", index)), masked(row("ref_logprobs", index)));
        let expected = row("rewards", index);
        let off = |shift: u32| {
            let moved: Vec<(u32, f32)> = ends.iter().map(|&(end, score)| (end - shift, score)).collect();
            let rewards = token_rewards(&old, &refs, &moved, 1e-4, 0.5).expect("rewards");
            rewards.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
        };
        assert!(off(0) < 1e-5, "rewards of row {index} are off by {}", off(0));
        assert!(off(1) > 0.1, "one token earlier must not agree");
        let (advantages, returns) = gae(&expected, &row("old_values", index), 1.0, 0.95);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&advantages, &row("advantages_raw", index)), "advantages of row {index}");
        assert!(close(&returns, &row("returns", index)), "returns of row {index}");
    }
}

/// If a text is shorter than its batch, the public code uses the value after eos as that of a next state. Ours is 0 there, so
/// that the last advantage is r − V.
#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn our_advantages_end_with_the_text() {
    let folder = folder();
    let step = open(&folder);
    let reference = &step.reference;
    let row = |name: &str, index: i64| Vec::<f32>::try_from(reference[name].get(index)).expect("numbers");
    let lengths = Vec::<i64>::try_from(step.mask.sum_dim_intlist(1, false, Kind::Int64)).expect("lengths");
    assert_eq!(lengths, [18, 12, 7]);
    for (index, length) in (0i64..).zip(lengths) {
        let length = length as usize;
        let (rewards, values) = (row("rewards", index), row("old_values", index));
        let (advantages, _) = gae(&rewards[..length], &values[..length], 1.0, 0.95);
        let last = length - 1;
        assert!((advantages[last] - (rewards[last] - values[last])).abs() < 1e-6);
        let behind = values.get(length).copied().unwrap_or(0.0);
        // The KL mask also includes one reward after eos.
        let paid_behind = rewards.get(length).copied().unwrap_or(0.0);
        let theirs = row("advantages_raw", index)[last];
        // δ includes V after eos, and λ times the advantage after eos cancels most of it.
        let expected = advantages[last] + behind + 0.95 * (paid_behind - behind);
        assert!((theirs - expected).abs() < 1e-5, "row {index}: {theirs} {expected}");
        assert_eq!(behind == 0.0, length == 18, "a shorter text shows the difference");
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn whitening_agrees_where_padding_is_let_in_and_only_there() {
    let folder = folder();
    let step = open(&folder);
    let (raw, expected) = (&step.reference["advantages_raw"], &step.reference["advantages"]);
    assert_close("over padding", &whiten(raw, &step.mask.ones_like(), true), expected, 1e-5);
    let ours = whiten(raw, &step.mask, true) * &step.mask;
    let off = (ours - expected * &step.mask).abs().max().double_value(&[]);
    assert!(off > 0.01, "ours leaves padding out, so it must differ, but is off by only {off:e}");
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn losses_and_gradients_of_the_step_agree() {
    let folder = folder();
    let step = open(&folder);
    let loss = step.loss(&folder);
    let reference = &step.reference;
    for (name, found) in [
        ("policy_loss", &loss.policy),
        ("value_loss", &loss.value),
        ("total_loss", &loss.total),
        ("clipfrac", &loss.clip_fraction),
    ] {
        assert_close(name, &found.view(1), &reference[name].view(1), 1e-5);
    }
    let masked_mean = |tensor: &Tensor| (tensor * &step.mask).sum(Kind::Float) / step.mask.sum(Kind::Float);
    let ratio = masked_mean(&reference["ratio"]);
    assert_close("ratio", &loss.ratio, &ratio, 1e-5);
    let log_ratio = masked_mean(&(&reference["new_logprobs"] - &reference["old_logprobs"]));
    assert_close("kl", &loss.kl, &(ratio - 1.0 - log_ratio), 1e-5);
    assert_gradients_close(&step.policy, &tensors(&folder, "grads_ppo_policy.safetensors"), 1e-6);
    assert_gradients_close(&step.value, &tensors(&folder, "grads_ppo_value.safetensors"), 1e-6);
}

/// AdamW as transformers had it until 4.x, which the public code uses: ε outside the bias correction, decay after the step.
/// Ours is PyTorch's. Only the tests implement the old rule.
#[derive(Default)]
struct OldAdamW {
    moments: BTreeMap<String, (Tensor, Tensor)>,
    steps: i32,
}

impl OldAdamW {
    fn step(&mut self, weights: &Weights, learning_rate: f64, scale: f64) {
        self.steps += 1;
        let corrections = (1.0 - 0.999f64.powi(self.steps)).sqrt() / (1.0 - 0.9f64.powi(self.steps));
        no_grad(|| {
            for (name, weight) in weights.iter().filter(|(_, weight)| weight.grad().defined()) {
                let gradient = weight.grad() * scale;
                let empty = || (gradient.zeros_like(), gradient.zeros_like());
                let (m, v) = self.moments.entry(name.to_owned()).or_insert_with(empty);
                *m = &*m * 0.9 + &gradient * 0.1;
                *v = &*v * 0.999 + gradient.square() * 0.001;
                let mut theta = weight.detach();
                let _ = theta.g_sub_(&(&*m / (v.sqrt() + 1e-8) * (learning_rate * corrections)));
                if decays(name) {
                    let _ = theta.g_mul_scalar_(1.0 - learning_rate * 0.01);
                }
                let _ = weight.grad().zero_();
            }
        });
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn weights_after_the_step_agree() {
    let folder = folder();
    let step = open(&folder);
    step.loss(&folder);
    for (weights, file) in
        [(&step.policy, "after_ppo_policy.safetensors"), (&step.value, "after_ppo_value.safetensors")]
    {
        OldAdamW::default().step(weights, 2e-5, 1.0);
        assert_weights_close(weights, &tensors(&folder, file), 1e-6);
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn our_optimizer_makes_the_same_step_where_gradients_are_no_rounding_noise() {
    let folder = folder();
    let step = open(&folder);
    step.loss(&folder);
    for (set, weights, file) in [
        ("policy", &step.policy, "after_ppo_policy.safetensors"),
        ("value", &step.value, "after_ppo_value.safetensors"),
    ] {
        let clear: BTreeMap<String, Tensor> = weights
            .iter()
            .filter(|(_, weight)| weight.grad().defined())
            .map(|(name, weight)| (name.to_owned(), weight.grad().abs().ge(1e-5)))
            .collect();
        AdamW::new(0.01).step(&[(set, weights)], 2e-5, 1.0);
        let expected = tensors(&folder, file);
        let (mut compared, mut all) = (0, 0);
        for (name, clear) in &clear {
            let found = weights.find(name).expect("weight").masked_select(clear);
            // ε weighs √1000 times more in the old rule: 3 % of the step at a gradient of 1e-5.
            assert_close(name, &found, &expected[name].masked_select(clear), 1e-6);
            compared += found.numel();
            all += clear.numel();
        }
        assert!(compared * 2 > all, "compared {compared} of {all}");
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn fine_tuning_with_the_old_optimizer_agrees() {
    let folder = folder();
    let meta = meta(&folder);
    for (steps, file) in
        [(1, "after_hf_adamw_sft_step1.safetensors"), (3, "after_hf_adamw_sft_step3.safetensors")]
    {
        let (student, weights) = student(&folder, "model");
        weights.train_only(|_| true);
        let batch = batch(&folder);
        let mut optimizer = OldAdamW::default();
        for step in 0..steps {
            let hidden = student.hidden(&batch.source, &shifted(&batch.labels), Mode::EVAL);
            let loss = -token_logprobs(&student, &hidden, &batch.labels, Mode::EVAL).mean(Kind::Float);
            let expected = meta["sft_hf"][step]["loss"].as_f64().expect("loss");
            assert!((loss.double_value(&[]) - expected).abs() < 1e-4, "step {step}");
            loss.backward();
            let norm = gradient_norm(&[("student", &weights)]);
            optimizer.step(&weights, 8e-5, clip_factor(norm, Some(1.0)));
        }
        assert_weights_close(&weights, &tensors(&folder, file), 1e-6);
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn the_same_weights_are_left_out_of_decay() {
    let folder = folder();
    let meta = meta(&folder);
    let listed: Vec<&str> =
        meta["no_decay"].as_array().expect("list").iter().filter_map(|name| name.as_str()).collect();
    let (_, weights) = student(&folder, "model");
    let decaying = weights.iter().filter(|(name, _)| decays(name)).count();
    assert_eq!(decaying as u64, meta["n_decay"].as_u64().expect("count"));
    for (name, _) in weights.iter() {
        assert_eq!(decays(name), !listed.contains(&name), "{name}");
    }
}
