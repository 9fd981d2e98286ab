//! The PEFT adapter of the reference, and how far each mistake would move the logits.

use crate::reference::{Tensors, assert_close, batch, folder, shifted, student, tensors};
use crate::t5::{Loaded, read_student};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use trainer::checkpoint::peft::read_adapter;
use trainer::model::mm_t5::StudentConfig;
use trainer::model::{Source, Student};
use trainer::nn::mode::Mode;
use trainer::nn::weights::Weights;
use trainer::rollout::logprobs::token_logprobs;
use trainer::rollout::{Sampling, generate};

/// The adapter under the file name that PEFT gives it.
fn adapted(folder: &Path) -> (StudentConfig, Weights) {
    let kept = TempDir::new().expect("folder");
    let lora = folder.join("lora");
    fs::copy(lora.join("adapter.safetensors"), kept.path().join("adapter_model.safetensors"))
        .expect("copied");
    fs::copy(lora.join("adapter_config.json"), kept.path().join("adapter_config.json")).expect("copied");
    let Loaded { config, mut weights } = read_student(&folder.join("model")).expect("student");
    read_adapter(kept.path(), &config, &mut weights, Device::Cpu).expect("adapter");
    (config, weights)
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn logits_and_gradients_of_the_adapter_agree() {
    let folder = folder();
    let (config, weights) = adapted(&folder);
    weights.train();
    let student = Student::new(&weights, &config);
    let batch = batch(&folder);
    let expected = tensors(&folder, "lora/forward.safetensors");
    let hidden = student.hidden(&batch.source, &shifted(&batch.labels), Mode::EVAL);
    assert_close("logits", &student.logits(&hidden, Mode::EVAL), &expected["logits"], 1e-5);
    // The public code's loss, with padding as targets.
    let loss = -token_logprobs(&student, &hidden, &batch.labels, Mode::EVAL).mean(Kind::Float);
    assert_close("loss", &loss.view(1), &expected["loss"], 1e-5);
    loss.backward();
    let gradients = tensors(&folder, "lora/grads.safetensors");
    assert_eq!(gradients.len(), 78, "all pairs but the one on out_proj, which never gets a gradient");
    for (name, expected) in &gradients {
        let layer =
            name.strip_prefix("base_model.model.").and_then(|name| name.strip_suffix(".default.weight"));
        let (layer, side) = layer.and_then(|name| name.split_once(".lora_")).expect("PEFT's name");
        let found = weights.get(&format!("lora.{layer}.{side}")).grad();
        assert_close(name, &found, expected, 1e-6);
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn merged_weights_of_the_adapter_agree() {
    let folder = folder();
    let (config, weights) = adapted(&folder);
    let scale = weights.scaling().expect("an adapter").factor;
    let merged = tensors(&folder, "lora/merged.safetensors");
    for (name, _) in config.shapes() {
        let layer = name.trim_end_matches(".weight");
        let found = match (weights.find(&format!("lora.{layer}.A")), weights.find(&format!("lora.{layer}.B")))
        {
            (Some(a), Some(b)) => weights.get(&name) + b.matmul(a) * scale,
            _ => weights.get(&name),
        };
        assert_close(&name, &found, &merged[&name], 1e-5);
    }
}

fn logits(folder: &Path, change: impl FnOnce(&mut StudentConfig, &mut Weights, &mut Source)) -> Tensor {
    let Loaded { mut config, mut weights } = read_student(&folder.join("model")).expect("student");
    let batch = batch(folder);
    let mut source = batch.source;
    change(&mut config, &mut weights, &mut source);
    let student = Student::new(&weights, &config);
    let hidden = student.hidden(&source, &shifted(&batch.labels), Mode::EVAL);
    student.logits(&hidden, Mode::EVAL)
}

/// Each mistake changes the logits exactly as much as in the public code.
#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn mistakes_move_the_logits_as_far_as_in_the_public_code() {
    let folder = folder();
    let text = fs::read_to_string(folder.join("effects.json")).expect("effects");
    let effects: HashMap<String, f64> = serde_json::from_str(&text).expect("json");
    let right = logits(&folder, |_, _, _| {});
    let bias = |stack: &str| format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    let without = |weights: &mut Weights, name: String| {
        let zeros = weights.get(&name).zeros_like();
        weights.insert(name, zeros);
    };
    let moved = |wrong: Tensor| (&right - wrong).abs().max().double_value(&[]);
    for (name, found) in [
        ("no_encoder_rel_bias", moved(logits(&folder, |_, weights, _| without(weights, bias("encoder"))))),
        ("no_decoder_rel_bias", moved(logits(&folder, |_, weights, _| without(weights, bias("decoder"))))),
        ("image_zeroed", moved(logits(&folder, |_, _, source| source.image = source.image.zeros_like()))),
        (
            "lm_head_scaled_by_mistake",
            moved(logits(&folder, |config, _, _| config.scale_decoder_outputs = Some(true))),
        ),
        (
            "pad_input_24_to_40",
            moved(logits(&folder, |_, _, source| {
                source.ids = source.ids.constant_pad_nd([0, 16]);
                source.mask = source.mask.constant_pad_nd([0, 16]);
            })),
        ),
        ("logits_absmax", right.abs().max().double_value(&[])),
    ] {
        let expected = effects[name];
        assert!((found - expected).abs() < 1e-4, "{name}: {found}, expected {expected}");
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn the_first_token_is_drawn_from_the_public_codes_top_50() {
    let folder = folder();
    let (student, _) = student(&folder, "model");
    let source = batch(&folder).source;
    let expected: Tensors = tensors(&folder, "generate.safetensors");
    let start = Tensor::zeros([3, 1], (Kind::Int64, Device::Cpu));
    let logits = student.logits(&student.hidden(&source, &start, Mode::EVAL), Mode::EVAL).squeeze_dim(1);
    assert_close("first step", &logits, &expected["step0_logits"], 1e-5);

    const DRAWS: usize = 4000;
    let seeds: Vec<u64> = (0..3 * DRAWS as u64).collect();
    let sampling = Sampling::Random { top_k: 50, top_p: 1.0, temperature: 1.0 };
    let drawn = generate(&student, &source, sampling, &seeds, 1, Mode::EVAL);
    for row in 0..3usize {
        let ids = Vec::<i64>::try_from(expected["top50_ids"].get(row as i64)).expect("integers");
        let probabilities = Vec::<f32>::try_from(expected["top50_probs"].get(row as i64)).expect("numbers");
        let mut counts: HashMap<i64, f64> = HashMap::new();
        for generated in &drawn[row * DRAWS..(row + 1) * DRAWS] {
            assert!(
                ids.contains(&generated.tokens[0]),
                "row {row}: {} is not among the 50",
                generated.tokens[0]
            );
            *counts.entry(generated.tokens[0]).or_default() += 1.0;
        }
        for (id, probability) in ids.iter().zip(probabilities) {
            let mean = f64::from(probability) * DRAWS as f64;
            let deviation = (mean * (1.0 - f64::from(probability))).sqrt();
            let count = counts.get(id).copied().unwrap_or_default();
            assert!(
                (count - mean).abs() < 4.5 * deviation,
                "row {row}, token {id}: {count}, expected {mean}"
            );
        }
    }
}
