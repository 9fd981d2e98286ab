//! The value model: a student with a value head.

use crate::seed;
use crate::student::value_head::ValueHead;
use crate::student::{Mode, Student, StudentConfig, Weights};
use schemas::settings::{RlSettings, ValueInit, ValueTrunk};
use tch::{Tensor, no_grad};

/// A value model: a student with a value head, its own head unused. Its student may read the policy's own weights;
/// then one pass serves both.
#[derive(Debug)]
pub struct ValueModel {
    /// The second student.
    pub student: Student,
    /// d → 2d → ReLU → 1.
    pub head: ValueHead,
}

impl ValueModel {
    /// Values [batch, target] of decoder states [batch, target, d] of this model's student.
    pub fn values(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(hidden, mode)
    }

    /// Flushes accumulated gradients of low-precision weights, if they are large.
    pub fn collect_gradients(&self) {
        self.student.collect_gradients();
        self.head.collect_gradients();
    }

    /// Takes up all of it.
    pub fn settle_gradients(&self) {
        self.student.settle_gradients();
        self.head.settle_gradients();
    }
}

/// The value head that a round starts with, made from the run's seed: random, or with an outer layer of zeros, so that
/// nothing it says is mistaken for something it has learned.
pub fn initial_head(config: &StudentConfig, init: ValueInit, run_seed: u64, round: u32) -> Weights {
    let seed = (seed::derive(run_seed, "value head", &round.to_string()) >> 1) as i64;
    let mut weights = Weights::default();
    weights.add_random(config, config.value_head_shapes(), seed);
    if init == ValueInit::Zero {
        for name in ["v_head.2.weight", "v_head.2.bias"] {
            no_grad(|| drop(weights.get(name).detach().zero_()));
        }
    }
    weights
}

/// The value model that a round starts with: a copy of the policy, or the policy itself, with a value head; and the
/// weights that are its own, all of which are trained. Of a policy that trains an adapter, the adapter alone is copied:
/// both are adapters on one trunk.
pub fn initial(
    (student, policy_weights): (&Student, &Weights),
    rl: &RlSettings,
    run_seed: u64,
    round: u32,
) -> (ValueModel, Weights) {
    let config = &student.config;
    let device = student.encoder.device();
    let on_trunk = policy_weights.scaling().is_some();
    let mut weights = match rl.value_model {
        ValueTrunk::Separate if on_trunk => policy_weights.copy_lora(device),
        ValueTrunk::Separate => policy_weights.copy_to(device),
        ValueTrunk::Shared => Weights::default(),
    };
    for layer in LM_HEAD_LORA {
        weights.remove(layer);
    }
    for (name, tensor) in initial_head(config, rl.value_init, run_seed, round).into_device(device).iter() {
        weights.insert(name, tensor.shallow_clone());
    }
    weights.train_only(|name| name != "lm_head.weight");
    let student = match rl.value_model {
        ValueTrunk::Separate if on_trunk => Student::new(&policy_weights.with_lora_of(&weights), config),
        ValueTrunk::Separate => Student::new(&weights, config),
        ValueTrunk::Shared => Student::new(policy_weights, config),
    };
    (ValueModel { student, head: ValueHead::new(&weights) }, weights)
}

/// Of the head that a value model does not use.
const LM_HEAD_LORA: [&str; 2] = ["lora.lm_head.A", "lora.lm_head.B"];

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn a_head_starts_at_zero_and_can_learn() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let hidden = Tensor::ones([1, 2, config.d_model], (Kind::Float, Device::Cpu));
        let largest = |init| {
            let weights = initial_head(&config, init, 1, 1);
            ValueHead::new(&weights).forward(&hidden, Mode::EVAL).abs().max().double_value(&[])
        };
        assert_eq!(largest(ValueInit::Zero), 0.0);
        assert!(largest(ValueInit::Random) > 1e-3);
        let weights = initial_head(&config, ValueInit::Zero, 1, 1);
        weights.train_only(|_| true);
        ValueHead::new(&weights).forward(&hidden, Mode::EVAL).sum(Kind::Float).backward();
        assert!(weights.get("v_head.2.weight").grad().abs().max().double_value(&[]) > 0.0);
    }
}
