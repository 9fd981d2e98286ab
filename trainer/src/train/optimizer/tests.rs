//! Steps against PyTorch's, whose results `tests/reference/make_optimizer_values.py` stored; and a step without enough memory.

use super::*;
use crate::collective::Group;
use crate::collective::tests::on_ranks;
use crate::nn::weights::Weights;
use serde::Deserialize;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

#[derive(Deserialize)]
struct Values {
    weight_decay: f64,
    max_grad_norm: f64,
    start: BTreeMap<String, Vec<f32>>,
    shapes: BTreeMap<String, Vec<i64>>,
    steps: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    learning_rate: f64,
    gradients: BTreeMap<String, Vec<f32>>,
    norm: f64,
    weights: BTreeMap<String, Vec<f32>>,
}

fn values() -> Values {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/values/optimizer.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("values")).expect("values")
}

fn tensors(
    numbers: &BTreeMap<String, Vec<f32>>,
    shapes: &BTreeMap<String, Vec<i64>>,
) -> BTreeMap<String, Tensor> {
    let tensor = |(name, numbers): (&String, &Vec<f32>)| {
        (name.clone(), Tensor::from_slice(numbers).view(shapes[name].as_slice()))
    };
    numbers.iter().map(tensor).collect()
}

/// Gives a weight this gradient.
fn give(weight: &Tensor, gradient: &Tensor) {
    (weight * gradient).sum(Kind::Float).backward();
}

#[test]
fn steps_of_the_kernel_are_those_of_pytorch() {
    compare(AdamW::new(values().weight_decay));
}

#[test]
fn steps_by_operations_are_those_of_pytorch() {
    compare(AdamW::new(values().weight_decay).by_operations());
}

fn compare(mut optimizer: AdamW) {
    let values = values();
    let weights = Weights::new(tensors(&values.start, &values.shapes));
    weights.train_only(|_| true);
    let sets = [("student", &weights)];
    for (step, stored) in values.steps.iter().enumerate() {
        for (name, gradient) in tensors(&stored.gradients, &values.shapes) {
            give(&weights.get(&name), &gradient);
        }
        let norm = gradient_norm(&sets);
        assert!((norm / stored.norm - 1.0).abs() < 1e-6, "step {step}: norm {norm}, not {}", stored.norm);
        optimizer.step(&sets, stored.learning_rate, clip_factor(norm, Some(values.max_grad_norm)));
        for (name, expected) in tensors(&stored.weights, &values.shapes) {
            let off = (weights.get(&name).detach() - expected).abs().max().double_value(&[]);
            assert!(off < 5e-7, "step {step}, {name}: off by {off:e}");
        }
    }
    assert_eq!(optimizer.steps(), values.steps.len() as u64);
}

/// Ranks with a sharded state make bit-identical steps to one process with the same gradients; each keeps about its share of
/// the moments, and all have all weights and their copies.
#[test]
fn steps_of_shared_out_weights_are_those_of_one_process() {
    for (world, by_operations) in [(2, false), (3, false), (2, true)] {
        let steps = |group: &Group, shards: bool| {
            // Ranks are threads here, and share libtorch's random numbers.
            let numbers = |shape: &[i64]| {
                Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).sin().view(shape)
            };
            let named = [("a", numbers(&[900, 400])), ("bias", numbers(&[77])), ("z", numbers(&[5]))];
            let weights = Weights::new(named.map(|(name, tensor)| (name.to_owned(), tensor)).into());
            weights.train_only(|_| true);
            let sets = [("student", &weights)];
            let mut optimizer = AdamW::new(0.1);
            if by_operations {
                optimizer = optimizer.by_operations();
            }
            if shards {
                optimizer = optimizer.sharded(Shards::new(&sets, group));
            }
            let input = numbers(&[4, 400]).to_kind(Kind::BFloat16);
            let product = || weights.copies().product(&["a".to_owned()], &[weights.get("a")], &input);
            for _ in 0..3 {
                product().to_kind(Kind::Float).square().sum(Kind::Float).backward();
                give(&weights.get("bias"), &numbers(&[77]));
                optimizer.step(&sets, 0.01, 0.5);
                optimizer.spread(&sets).expect("all are there");
                let left = weights.get("bias").grad().count_nonzero(0).int64_value(&[]);
                assert_eq!((left, weights.copies().gradients().len()), (0, 0), "gradients are forgotten");
            }
            let copy = no_grad(product).to_kind(Kind::Float).sum(Kind::Double).double_value(&[]);
            let bytes: usize = optimizer.state().iter().map(|(_, moment)| moment.numel() * 4).sum();
            (weights.fingerprint(), copy.to_bits(), bytes)
        };
        let (weights, copy, bytes) = steps(&Group::alone(), false);
        assert_eq!(bytes, 2 * 4 * (900 * 400 + 77));
        for found in on_ranks(world, |group| steps(&group, true)) {
            assert_eq!((found.0, found.1), (weights.clone(), copy), "{world} ranks");
            let share = found.2 as f64 / bytes as f64;
            assert!(share < 1.02 / world as f64, "{world} ranks keep {share} of the state each");
        }
    }
}

#[test]
fn norms_and_biases_do_not_decay() {
    for name in [
        "student.encoder.block.0.layer.0.layer_norm.weight",
        "student.decoder.final_layer_norm.weight",
        "student.encoder.image_dense.bias",
        "student.encoder.mha_layer.in_proj_bias",
        "value.v_head.0.bias",
    ] {
        assert!(!decays(name), "{name}");
    }
    for name in [
        "student.shared.weight",
        "value.v_head.0.weight",
        "student.lora.encoder.block.0.layer.0.SelfAttention.q.A",
    ] {
        assert!(decays(name), "{name}");
    }
}

#[cfg(target_os = "linux")]
mod crowded {
    use super::*;
    use crate::backend::memory::unless_out_of_memory;
    use std::process::Command;

    /// 32 MiB in float32.
    const NUMBERS: i64 = 1 << 23;

    /// The limit holds for a whole process, so the test itself runs in one of its own.
    #[test]
    fn a_step_without_room_is_finished_in_slices() {
        let mut command = Command::new(std::env::current_exe().expect("tests"));
        command.args([
            "--exact",
            "train::optimizer::tests::crowded::in_a_process",
            "--ignored",
            "--nocapture",
        ]);
        let output = command.output().expect("tests");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    #[ignore = "limits the memory of its process; the test above runs it"]
    fn in_a_process() {
        tch::set_num_threads(1);
        let made = |_: i32| {
            let random = |seed| {
                tch::manual_seed(seed);
                Tensor::randn([NUMBERS], (Kind::Float, Device::Cpu))
            };
            let weights = Weights::new([("a".to_owned(), random(1)), ("b".to_owned(), random(2))].into());
            weights.train_only(|_| true);
            give(&weights.get("a"), &random(3));
            give(&weights.get("b"), &random(4));
            weights
        };
        let (found, expected) = (made(0), made(1));
        // Memory for all moments and hardly more.
        limit(Some(4 * NUMBERS as u64 * 4 + (40 << 20)));
        let mut optimizer = AdamW::new(0.1).by_operations();
        let mut refused = 0;
        while unless_out_of_memory(|| optimizer.step(&[("student", &found)], 1e-2, 0.5)).is_none() {
            refused += 1;
            assert!(optimizer.take_smaller_slices(), "no slice is small enough");
        }
        limit(None);
        assert!(refused > 0, "the step fitted");
        assert_eq!(optimizer.steps(), 1);
        let mut undisturbed = AdamW::new(0.1).by_operations();
        undisturbed.step(&[("student", &expected)], 1e-2, 0.5);
        for name in ["a", "b"] {
            assert!(found.get(name).equal(&expected.get(name)), "{name}");
            assert_eq!(found.get(name).grad().count_nonzero(0).int64_value(&[]), 0, "{name}");
        }
    }

    /// Lets the process map `more` additional bytes; without it, there is no limit.
    #[allow(unsafe_code)]
    fn limit(more: Option<u64>) {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
        let pages: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).expect("pages");
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls get a valid struct.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
            limit.rlim_cur = more.map_or(limit.rlim_max, |more| pages * 4096 + more);
            assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
        }
    }
}

/// Of gradients that are 0 but for rounding, AdamW would make a whole step.
#[test]
fn rounding_is_no_gradient() {
    assert_eq!(clip_factor(3e-7, Some(1.0)), 0.0);
    assert_eq!(clip_factor(3e-7, None), 0.0);
    assert_eq!(clip_factor(2e-6, Some(1.0)), 1.0);
    assert!(clip_factor(f64::NAN, None) == 1.0, "the step has refused it before");
}
