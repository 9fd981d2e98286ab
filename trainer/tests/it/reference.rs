//! Agreement with values computed by the public ARES code. They lie outside the repository: `ARES_REFERENCE`, or
//! `../shared/reference` next to the workspace when the tests are built; without them these tests are ignored.

use crate::t5::{read_student, read_t5};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::hf::read_safetensors;
use trainer::model::mm_t5::MmT5;
use trainer::model::mm_t5::StudentConfig;
use trainer::model::mm_t5::attention::relative_bucket;
use trainer::model::{Source, Student};
use trainer::nn::mode::Mode;
use trainer::nn::weights::Weights;
use trainer::rollout::logprobs::token_logprobs;
use trainer::rollout::{Sampling, generate};
use trainer::train::optimizer::{AdamW, clip_factor, gradient_norm};

pub(crate) type Tensors = BTreeMap<String, Tensor>;

pub(crate) fn folder() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    let folder = std::env::var_os("ARES_REFERENCE").map_or_else(usual, PathBuf::from);
    tch::set_num_threads(1);
    folder
}

pub(crate) fn tensors(folder: &Path, name: &str) -> Tensors {
    read_safetensors(&folder.join(name)).expect("reference file")
}

pub(crate) fn meta(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).expect("meta")).expect("json")
}

pub(crate) struct Batch {
    pub(crate) source: Source,
    pub(crate) labels: Tensor,
    pub(crate) labels_ignore: Tensor,
}

pub(crate) fn batch(folder: &Path) -> Batch {
    let mut found = tensors(folder, "batch.safetensors");
    let mut take = |name: &str| found.remove(name).expect("batch tensor");
    Batch {
        source: Source { ids: take("input_ids"), mask: take("attention_mask"), image: take("image_ids") },
        labels: take("labels"),
        labels_ignore: take("labels_ignore"),
    }
}

pub(crate) fn student(folder: &Path, name: &str) -> (Student, Weights) {
    let loaded = read_student(&folder.join(name)).expect("student");
    let student = Student::new(&loaded.weights, &loaded.config);
    (student, loaded.weights)
}

/// Weights in a reference folder without a config.
pub(crate) fn weights(folder: &Path, file: &str) -> (StudentConfig, Weights) {
    let config = StudentConfig {
        image_feature_width: 16,
        ..StudentConfig::read(&folder.join("model/config.json")).expect("config")
    };
    let mut found = tensors(folder, file);
    found.retain(|name, _| !name.ends_with("embed_tokens.weight"));
    (config, Weights::new(found))
}

pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let difference = largest_difference(found, expected);
    assert!(difference <= tolerance, "{what}: off by {difference:e}, allowed {tolerance:e}");
}

pub(crate) fn assert_weights_close(weights: &Weights, expected: &Tensors, tolerance: f64) {
    let mut compared = 0;
    for (name, expected) in expected.iter().filter(|(name, _)| !name.ends_with("embed_tokens.weight")) {
        let found = weights.find(name).unwrap_or_else(|| panic!("no {name}"));
        compared += 1;
        if name == "encoder.mha_layer.in_proj_bias" {
            // Softmax does not feel a key bias: its gradient is rounding noise, which Adam amplifies to full steps.
            let d = expected.size()[0] / 3;
            for part in [0, 2] {
                assert_close(
                    name,
                    &found.narrow(0, part * d, d),
                    &expected.narrow(0, part * d, d),
                    tolerance,
                );
            }
            assert_close(name, &found.narrow(0, d, d), &expected.narrow(0, d, d), 3.0 * 8e-5);
            continue;
        }
        assert_close(name, found, expected, tolerance);
    }
    assert!(compared >= 60, "compared only {compared}");
}

pub(crate) fn assert_gradients_close(weights: &Weights, expected: &Tensors, tolerance: f64) {
    assert!(expected.len() >= 60, "only {} gradients", expected.len());
    for (name, expected) in expected {
        let gradient = weights.find(name).unwrap_or_else(|| panic!("no {name}")).grad();
        assert!(gradient.defined(), "no gradient for {name}");
        assert_close(name, &gradient, expected, tolerance);
    }
}

pub(crate) fn shifted(labels: &Tensor) -> Tensor {
    let length = labels.size()[1];
    Tensor::cat(
        &[Tensor::zeros([labels.size()[0], 1], (Kind::Int64, Device::Cpu)), labels.narrow(1, 0, length - 1)],
        1,
    )
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn forward_agrees_in_every_part() {
    let folder = folder();
    let (student, weights) = student(&folder, "model");
    assert_eq!(weights.iter().count(), 60);
    let batch = batch(&folder);
    let expected = tensors(&folder, "forward.safetensors");
    let t5 = MmT5::new(&weights, &read_student(&folder.join("model")).expect("student").config);
    let text = t5.encoder.text(&batch.source.ids, &batch.source.mask, Mode::EVAL);
    assert_close("text", &text, &expected["text_hidden"], 1e-5);
    let parts = t5.encoder.fusion.parts(&text, &batch.source.image, Mode::EVAL);
    assert_close("image embedding", &parts.image_embedding, &expected["image_embedding"], 1e-5);
    assert_close("image attention", &parts.image_attention, &expected["image_att"], 1e-5);
    assert_close("gate", &parts.gate, &expected["gate"], 1e-5);
    assert_close("fused", &parts.fused, &expected["encoder_hidden"], 1e-5);
    let inputs = shifted(&batch.labels);
    assert!(inputs.equal(&expected["decoder_input_ids"]));
    let hidden = student.hidden(&batch.source, &inputs, Mode::EVAL);
    assert_close("decoder", &hidden, &expected["decoder_hidden"], 1e-5);
    let logits = student.logits(&hidden, Mode::EVAL);
    assert_close("logits", &logits, &expected["logits"], 1e-5);
    let logprobs = token_logprobs(&student, &hidden, &batch.labels, Mode::EVAL);
    assert_close("loss with padding", &-logprobs.mean(Kind::Float).view(1), &expected["loss_pad0"], 1e-5);
    let real = batch.labels_ignore.ge(0).to_kind(Kind::Float);
    let loss = -(logprobs * &real).sum(Kind::Float) / real.sum(Kind::Float);
    assert_close("loss without padding", &loss.view(1), &expected["loss_ignore100"], 1e-5);
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn relative_buckets_are_exact() {
    let folder = folder();
    let expected = tensors(&folder, "rel_buckets.safetensors");
    let numbers = |name: &str| Vec::<i64>::try_from(&expected[name]).expect("integers");
    for ((position, both), causal) in
        numbers("relative_position").into_iter().zip(numbers("bidirectional")).zip(numbers("causal"))
    {
        assert_eq!(relative_bucket(position, true, 32, 128), both, "bidirectional {position}");
        assert_eq!(relative_bucket(position, false, 32, 128), causal, "causal {position}");
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn greedy_decoding_gives_the_same_tokens() {
    let folder = folder();
    let (student, _) = student(&folder, "model");
    let source = batch(&folder).source;
    let expected = &tensors(&folder, "generate.safetensors")["greedy"];
    let generated = generate(&student, &source, Sampling::Greedy, &[0; 3], 23, Mode::EVAL);
    for (row, generated) in generated.iter().enumerate() {
        let expected = Vec::<i64>::try_from(expected.get(row as i64)).expect("integers");
        let mut found = vec![0];
        found.extend(&generated.tokens);
        found.resize(expected.len(), 0);
        assert_eq!(found, expected, "row {row}");
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn sampled_logprobs_are_those_of_a_full_pass() {
    let folder = folder();
    let (student, _) = student(&folder, "model");
    let source = batch(&folder).source;
    let sampling = Sampling::Random { top_k: 50, top_p: 1.0, temperature: 1.0 };
    let seeds = [1, 2, 3, 4, 5, 6];
    let generated = generate(&student, &source, sampling, &seeds, 40, Mode::EVAL);
    let alone = |problem: i64, seed: u64| {
        let one = |tensor: &Tensor| tensor.narrow(0, problem, 1);
        let source = Source { ids: one(&source.ids), mask: one(&source.mask), image: one(&source.image) };
        generate(&student, &source, sampling, &[seed], 40, Mode::EVAL).remove(0)
    };
    for (row, generated) in generated.iter().enumerate() {
        // Each row has its own random stream: alone it draws the same tokens.
        assert_eq!(alone(row as i64 / 2, seeds[row]).tokens, generated.tokens, "row {row}");
        let tokens = Tensor::from_slice(&generated.tokens).unsqueeze(0);
        let one = |tensor: &Tensor| tensor.narrow(0, row as i64 / 2, 1);
        let source = Source { ids: one(&source.ids), mask: one(&source.mask), image: one(&source.image) };
        let hidden = student.hidden(&source, &shifted(&tokens), Mode::EVAL);
        let full = token_logprobs(&student, &hidden, &tokens, Mode::EVAL).view(-1);
        assert_close("logprobs", &Tensor::from_slice(&generated.logprobs), &full, 1e-5);
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn fine_tuning_steps_agree_with_pytorch() {
    let folder = folder();
    let meta = meta(&folder);
    for (steps, file) in
        [(1, "after_torch_adamw_sft_step1.safetensors"), (3, "after_torch_adamw_sft_step3.safetensors")]
    {
        let (student, weights) = student(&folder, "model");
        weights.train_only(|_| true);
        let batch = batch(&folder);
        let sets = [("student", &weights)];
        let mut optimizer = AdamW::new(0.01);
        for step in 0..steps {
            let hidden = student.hidden(&batch.source, &shifted(&batch.labels), Mode::EVAL);
            // The public code's loss, with padding as targets.
            let loss = -token_logprobs(&student, &hidden, &batch.labels, Mode::EVAL).mean(Kind::Float);
            loss.backward();
            if step == 0 {
                assert_gradients_close(&weights, &tensors(&folder, "grads_sft.safetensors"), 1e-6);
            }
            let norm = gradient_norm(&sets);
            let expected = meta["sft_torch"][step]["grad_norm"].as_f64().expect("norm");
            assert!((norm - expected).abs() < 1e-4, "norm {norm}, expected {expected}");
            optimizer.step(&sets, 8e-5, clip_factor(norm, Some(1.0)));
        }
        assert_weights_close(&weights, &tensors(&folder, file), 1e-6);
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn our_fine_tuning_loss_leaves_padding_out() {
    let folder = folder();
    let (student, weights) = student(&folder, "model");
    weights.train_only(|_| true);
    let batch = batch(&folder);
    let real = batch.labels_ignore.ge(0);
    let hidden = student.hidden(&batch.source, &shifted(&batch.labels), Mode::EVAL);
    let logprobs = trainer::rollout::logprobs::token_logprobs(&student, &hidden, &batch.labels, Mode::EVAL);
    (-logprobs.masked_select(&real).mean(Kind::Float)).backward();
    assert_gradients_close(&weights, &tensors(&folder, "grads_sft_ignore100.safetensors"), 1e-6);
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn a_text_only_t5_loads() {
    let folder = folder();
    let loaded = read_t5(&folder.join("text_only")).expect("t5");
    assert_eq!(loaded.weights.iter().count(), 52);
    let error = read_student(&folder.join("text_only")).expect_err("no fusion");
    assert!(
        error.to_string().contains("encoder.gate_dense.bias: expected shape [32], found no such weight"),
        "{error}"
    );
}
