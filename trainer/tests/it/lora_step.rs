//! One step of fine-tuning an adapter, and the adapter merged, as PEFT and PyTorch compute them
//! (`tests/reference/make_lora_values.py`).

use crate::checkpoints::{assert_close, expected, values};
use crate::t5::{Loaded, read_student};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use trainer::checkpoint::peft::read_adapter;
use trainer::data::vision::{ImageFeatures, features};
use trainer::model::lora::{decoding_weights, is_lora, merge};
use trainer::model::mm_t5::StudentConfig;
use trainer::model::{Source, Student};
use trainer::nn::mode::Mode;
use trainer::nn::weights::Weights;
use trainer::objective::sft::{Example, backward};
use trainer::train::optimizer::{AdamW, clip_factor, gradient_norm};

/// Learning rate, weight decay and clip of the script.
const STEP: (f64, f64, f64) = (1e-2, 0.01, 1.0);

fn adapted() -> (StudentConfig, Weights) {
    let Loaded { config, mut weights } = read_student(&values("student_gated_untied")).expect("student");
    read_adapter(&values("adapter_gated_untied"), &config, &mut weights, Device::Cpu).expect("adapter");
    (config, weights)
}

fn rows(padded: &Tensor) -> Vec<Vec<i64>> {
    let rows = (0..padded.size()[0]).map(|row| Vec::<i64>::try_from(padded.get(row)).expect("integers"));
    rows.map(|row| row.into_iter().take_while(|&id| id != 0).collect()).collect()
}

fn examples(given: &BTreeMap<String, Tensor>) -> Vec<Example> {
    let rows = rows(&given["ids"]).into_iter().zip(rows(&given["labels"]));
    let example = |(row, (source, target)): (usize, (Vec<i64>, Vec<i64>))| Example {
        problem_id: format!("p{row}"),
        source,
        target,
    };
    rows.enumerate().map(example).collect()
}

/// The pictures of the first two problems, as a features file.
fn pictures(given: &BTreeMap<String, Tensor>, width: i64) -> (TempDir, ImageFeatures) {
    let kept = TempDir::new().expect("folder");
    let path = kept.path().join("vit.safetensors");
    let pictures = (0..2i64).map(|row| (format!("p{row}"), given["pictures"].get(row))).collect();
    features::write(&path, &pictures, "vit").expect("features");
    let features = ImageFeatures::open(&path, width).expect("features");
    (kept, features)
}

/// Logits at the targets' padded positions.
fn logits(student: &Student, given: &BTreeMap<String, Tensor>) -> Tensor {
    let (ids, labels) = (&given["ids"], &given["labels"]);
    let size = given["pictures"].size();
    let no_picture = Tensor::zeros([1, size[1], size[2]], (Kind::Float, Device::Cpu));
    let image = Tensor::cat(&[given["pictures"].to_kind(Kind::Float), no_picture], 0);
    let source = Source { ids: ids.shallow_clone(), mask: ids.ne(0).to_kind(Kind::Float), image };
    let start = Tensor::zeros([labels.size()[0], 1], (Kind::Int64, Device::Cpu));
    let shifted = Tensor::cat(&[start, labels.narrow(1, 0, labels.size()[1] - 1)], 1);
    student.logits(&student.hidden(&source, &shifted, Mode::EVAL), Mode::EVAL)
}

/// PEFT's name of a LoRA matrix by ours.
fn peft_name(name: &str) -> String {
    let (layer, side) = name.strip_prefix("lora.").and_then(|name| name.rsplit_once('.')).expect("a matrix");
    format!("base_model.model.{layer}.lora_{side}.weight")
}

#[test]
fn a_step_of_fine_tuning_is_that_of_peft() {
    let given = expected("lora_step");
    let (config, weights) = adapted();
    let trunk = weights.trunk_fingerprint();
    weights.train();
    let student = Student::new(&weights, &config);
    assert_close("logits", &logits(&student, &given), &given["logits"], 1e-5);

    let examples = examples(&given);
    let examples: Vec<&Example> = examples.iter().collect();
    let (_kept, features) = pictures(&given, config.image_feature_width);
    let loss = backward(&student, &examples, &features, Mode::EVAL, None);
    assert_close("loss", &loss.view(1), &given["loss"], 1e-5);
    let gradients = weights.gradients();
    assert_eq!(gradients.len(), given.keys().filter(|key| key.starts_with("gradient.")).count());
    let mut largest = 0.0f64;
    for (name, gradient) in &gradients {
        largest = largest.max(gradient.abs().max().double_value(&[]));
        assert_close(name, gradient, &given[&format!("gradient.{}", peft_name(name))], 1e-6);
    }
    assert!(largest > 1e-3, "gradients are large enough to tell: {largest}");

    let sets = [("student", &weights)];
    let (rate, decay, clip) = STEP;
    let norm = gradient_norm(&sets);
    assert_close("norm", &Tensor::from_slice(&[norm]), &given["norm"], 1e-5);
    AdamW::new(decay).step(&sets, rate, clip_factor(norm, Some(clip)));
    for (name, matrix) in weights.iter().filter(|(name, _)| is_lora(name)) {
        let after = &given[&format!("after.{}", peft_name(name))];
        assert_close(name, &matrix.detach(), after, 1e-5);
    }
    assert_close("logits after", &logits(&student, &given), &given["logits_after"], 1e-4);
    assert_eq!(weights.trunk_fingerprint(), trunk, "the trunk is frozen");
}

#[test]
fn a_merged_adapter_is_that_of_peft() {
    let given = expected("lora_step");
    let (config, mut weights) = adapted();
    for (name, matrix) in weights.iter().filter(|(name, _)| is_lora(name)) {
        matrix.shallow_clone().copy_(&given[&format!("after.{}", peft_name(name))]);
    }
    let apart = decoding_weights(&config, &weights, Kind::Float).expect("merged");
    merge(&mut weights);
    let names: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
    assert_eq!(names, config.shapes().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    for (key, merged) in given.iter().filter(|(key, _)| key.starts_with("merged.")) {
        let name = key.trim_start_matches("merged.");
        assert_close(name, &weights.get(name), merged, 1e-6);
        assert_close(name, &apart.get(name), merged, 1e-6);
    }
    assert!(weights.scaling().is_none() && apart.scaling().is_none());
    let student = Student::new(&weights, &config);
    assert_close("logits", &logits(&student, &given), &given["logits_merged"], 1e-4);
    assert_close("logits", &given["logits_merged"], &given["logits_after"], 1e-4);
}
