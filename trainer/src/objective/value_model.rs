//! The value model: a student with a value head.

use crate::model::ModelConfig;
use crate::model::Student;
use crate::nn::lora_pair::matrix;
use crate::nn::mode::Mode;
use crate::nn::value_head;
use crate::nn::value_head::ValueHead;
use crate::nn::weights::Weights;
use crate::seed;
use schemas::settings::{RlSettings, ValueInit, ValueTrunk};
use tch::{Tensor, no_grad};

/// A value model: a student with a value head, its own head unused. Its student may share the policy's weights; then one pass
/// serves both.
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
    pub fn flush_gradients(&self) {
        self.student.flush_gradients();
        self.head.flush_gradients();
    }

    /// Flushes all of them.
    pub fn flush_all_gradients(&self) {
        self.student.flush_all_gradients();
        self.head.flush_all_gradients();
    }
}

/// The initial value head of a round, from the run's seed: random, or with an output layer of zeros, so that its initial values
/// carry no information.
pub fn initial_head(config: &dyn ModelConfig, init: ValueInit, run_seed: u64, round: u32) -> Weights {
    let seed = seed::for_torch(run_seed, "value head", &round.to_string());
    let weights = value_head::random(config.width(), seed);
    if init == ValueInit::Zero {
        for name in ["v_head.2.weight", "v_head.2.bias"] {
            no_grad(|| drop(weights.get(name).detach().zero_()));
        }
    }
    weights
}

/// The initial value model of a round: a copy of the policy, or the policy itself, with a value head; and its own weights, all
/// of which are trained. If the policy trains an adapter, only the adapter is copied: both are adapters on one trunk.
pub fn initial(
    (student, policy_weights): (&Student, &Weights),
    rl: &RlSettings,
    run_seed: u64,
    round: u32,
) -> (ValueModel, Weights) {
    let config = &*student.config;
    let device = student.device();
    let on_trunk = policy_weights.scaling().is_some();
    let mut weights = match rl.value_model {
        ValueTrunk::Separate if on_trunk => policy_weights.copy_lora(device),
        ValueTrunk::Separate => policy_weights.copy_to(device),
        ValueTrunk::Shared => Weights::default(),
    };
    // Its output head is not used.
    let head = config.head_layer();
    for side in head.iter().flat_map(|head| ["A", "B"].map(|side| matrix(head, side))) {
        weights.remove(&side);
    }
    for (name, tensor) in initial_head(config, rl.value_init, run_seed, round).into_device(device).iter() {
        weights.insert(name, tensor.shallow_clone());
    }
    let of_head = |name: &str| head.is_some_and(|head| name.strip_suffix(".weight") == Some(head));
    weights.train_only(|name| !of_head(name));
    let student = match rl.value_model {
        ValueTrunk::Separate if on_trunk => Student::new(&policy_weights.with_lora_of(&weights), config),
        ValueTrunk::Separate => Student::new(&weights, config),
        ValueTrunk::Shared => Student::new(policy_weights, config),
    };
    (ValueModel { student, head: ValueHead::new(&weights) }, weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Source;
    use crate::model::lora::LoraConfig;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use tch::{Device, Kind};

    fn states(student: &Student, kind: Kind) -> Tensor {
        let source = Source {
            ids: Tensor::from_slice(&[5i64, 9, 7, 1]).view([1, 4]),
            mask: Tensor::ones([1, 4], (Kind::Float, Device::Cpu)),
            image: Tensor::ones([1, 2, 8], (Kind::Float, Device::Cpu)),
        };
        student.hidden(&source, &Tensor::from_slice(&[0i64, 4, 8]).view([1, 3]), Mode { train: false, kind })
    }

    /// Policy and value model are two adapters on one trunk.
    #[test]
    fn a_value_model_is_another_adapter_on_the_policys_trunk() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let mut policy_weights = random_weights(&config, 1);
        let lora = LoraConfig::new(&config, 2, 4.0, 0.0);
        lora.add_to(&mut policy_weights, &config, 3, Device::Cpu);
        for (name, matrix) in policy_weights.iter().filter(|(name, _)| name.ends_with(".B")) {
            // Not random: other tests draw from the same generator at the same time.
            let waves = Tensor::arange(matrix.numel() as i64, (Kind::Float, Device::Cpu)).sin() * 0.1;
            matrix.shallow_clone().copy_(&waves.view_as(matrix));
            assert!(matrix.abs().max().double_value(&[]) > 0.0, "{name}");
        }
        policy_weights.train();
        let policy = Student::new(&policy_weights, &config);
        let rl = RlSettings { value_model: ValueTrunk::Separate, ..RlSettings::default() };
        let (model, weights) = initial((&policy, &policy_weights), &rl, 1, 1);

        assert!(!model.student.reads_same_weights(&policy), "one pass does not serve both");
        assert!(model.student.shares_copies(&policy), "copies in another format are held once");
        let names: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
        assert!(
            names.iter().all(|name| name.starts_with("lora.") || name.starts_with("v_head.")),
            "{names:?}"
        );
        assert!(!names.contains(&"lora.lm_head.A") && policy_weights.find("lora.lm_head.A").is_some());
        for kind in [Kind::Float, Kind::BFloat16] {
            assert_eq!(states(&model.student, kind), states(&policy, kind), "it starts as the policy");
        }

        // Gradients of values reach only its own adapter, in any compute dtype. The output layer starts at zero, and would pass
        // no gradient down.
        no_grad(|| drop(weights.get("v_head.2.weight").detach().fill_(0.3)));
        let mut gradients = Vec::new();
        for kind in [Kind::Float, Kind::BFloat16] {
            let mode = Mode { train: false, kind };
            model.values(&states(&model.student, kind), mode).square().sum(Kind::Float).backward();
            model.flush_gradients();
            model.flush_all_gradients();
            assert!(policy_weights.gradients().is_empty(), "the policy and the trunk have none");
            let found = weights.gradients();
            let name = "lora.decoder.block.1.layer.2.DenseReluDense.wo.B";
            gradients.push(found[name].to_kind(Kind::Float).copy());
            crate::train::optimizer::zero_gradients(&[("value", &weights)]);
        }
        let off = (&gradients[0] - &gradients[1]).norm() / gradients[0].norm();
        assert!(gradients[0].norm().double_value(&[]) > 0.0);
        assert!(off.double_value(&[]) < 0.05, "{off}");

        // Its step does not change the policy.
        let before = states(&policy, Kind::Float);
        for (_, matrix) in weights.iter() {
            no_grad(|| drop(matrix.detach().g_add_scalar_(0.1)));
        }
        assert_eq!(states(&policy, Kind::Float), before);
        assert_ne!(states(&model.student, Kind::Float), before);
    }

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
