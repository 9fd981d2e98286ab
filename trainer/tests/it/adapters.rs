//! LoRA adapters written by PEFT: the same logits in both directions, and refusals with their messages.

use crate::checkpoints::{
    assert_close, assert_contains, assert_same_tensors, copy_folder, expected, fused_logits, values,
};
use crate::t5::{Loaded, read_student};
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use trainer::checkpoint::hf::{read_safetensors, write_safetensors};
use trainer::checkpoint::peft::{Base, base_of, read_adapter, write_adapter};
use trainer::model::Student;
use trainer::model::mm_t5::StudentConfig;
use trainer::nn::weights::Weights;

fn base() -> (StudentConfig, Weights) {
    let Loaded { config, weights } = read_student(&values("student_gated_untied")).expect("student");
    (config, weights)
}

#[test]
fn a_lora_of_peft_gives_the_same_logits_there_and_back() {
    let (config, mut weights) = base();
    let folder = values("adapter_gated_untied");
    let lora = read_adapter(&folder, &config, &mut weights, Device::Cpu).expect("adapter");
    let given = expected("adapter_gated_untied");
    let student = Student::new(&weights, &config);
    assert_close("adapted", &fused_logits(&student, &given), &given["logits"], 1e-5);

    let kept = TempDir::new().expect("folder");
    let copy = kept.path().join("answer");
    let of = Base { config: &config, folder: &values("student_gated_untied"), fingerprint: "f00d" };
    write_adapter(&copy, &lora, &weights, &of, "").expect("written");
    assert_eq!(base_of(&copy).expect("metadata").as_deref(), Some("f00d"));
    assert_eq!(base_of(&folder).expect("metadata"), None, "PEFT does not tell");
    let file = "adapter_model.safetensors";
    let (old, new) = (read_safetensors(&folder.join(file)), read_safetensors(&copy.join(file)));
    assert_same_tensors(&new.expect("copy"), &old.expect("adapter"));
    let (_, mut again) = base();
    assert_eq!(read_adapter(&copy, &config, &mut again, Device::Cpu).expect("copy"), lora);
    assert_eq!(again.fingerprint(), weights.fingerprint());
}

#[test]
fn a_rank_stabilized_one_with_a_copy_of_the_head_gives_the_same_logits() {
    let (config, mut weights) = base();
    let folder = values("adapter_rslora");
    let found = read_safetensors(&folder.join("adapter_model.safetensors")).expect("adapter");
    assert!(found.contains_key("base_model.model.lm_head.base_layer.weight"));
    let lora = read_adapter(&folder, &config, &mut weights, Device::Cpu).expect("adapter");
    assert!(lora.use_rslora);
    assert!((lora.scale() - 4.0 / 2f64.sqrt()).abs() < 1e-12);
    let given = expected("adapter_rslora");
    let student = Student::new(&weights, &config);
    assert_close("adapted", &fused_logits(&student, &given), &given["logits"], 1e-5);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let (config, weights) = base();
    let (_kept, folder) = copy_folder("adapter_gated_untied");
    let file = folder.join("adapter_model.safetensors");
    let mut found = read_safetensors(&file).expect("adapter");
    let layer = |name: &str| format!("base_model.model.{name}.weight");
    assert!(found.remove(&layer("lm_head.lora_A")).is_some());
    found.insert(layer("encoder.gate_dense.lora_B"), Tensor::zeros([32, 3], (Kind::Float, Device::Cpu)));
    found.insert(layer("shared.lora_A"), Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)));
    write_safetensors(&file, found.iter().map(|(name, tensor)| (name.clone(), tensor)), &[])
        .expect("written");
    let mut changed = weights.copy_to(Device::Cpu);
    let message = read_adapter(&folder, &config, &mut changed, Device::Cpu).expect_err("broken").to_string();
    assert_contains(
        &message,
        &[
            "adapter_model.safetensors: weights do not fit the student:",
            "base_model.model.lm_head.lora_A.weight: expected shape [2, 32], found no such weight",
            "base_model.model.encoder.gate_dense.lora_B.weight: expected shape [32, 2], found [32, 3]",
            "base_model.model.shared.lora_A.weight: expected no such weight, found shape [2, 2]",
        ],
    );
    assert_eq!(changed.fingerprint(), weights.fingerprint(), "nothing was added");
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let (_kept, folder) = copy_folder("adapter_rslora");
    let (config, mut weights) = base();
    let other = weights.get("lm_head.weight") + 1.0;
    weights.insert("lm_head.weight", other);
    let message = read_adapter(&folder, &config, &mut weights, Device::Cpu).expect_err("other").to_string();
    assert_contains(
        &message,
        &[
            "base_model.model.lm_head.base_layer.weight: expected a copy of the student's lm_head.weight, found other \
           numbers",
        ],
    );
    assert_eq!(message.lines().count(), 2, "{message}");
}

fn refused(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let (_kept, folder) = copy_folder("adapter_rslora");
    let file = folder.join("adapter_config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).expect("config")).expect("json");
    change(&mut json);
    fs::write(&file, json.to_string()).expect("written");
    let (config, mut weights) = base();
    let message = read_adapter(&folder, &config, &mut weights, Device::Cpu).expect_err("other").to_string();
    let name = Path::new(&file).display().to_string();
    message.strip_prefix(&format!("{name}: ")).unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[test]
fn adapters_of_another_kind_are_refused() {
    for (key, value, expected) in [
        ("peft_type", "\"LOHA\"", "peft_type: expected `LORA`, found `LOHA`"),
        ("bias", "\"all\"", "bias: expected `none`, found `all`"),
        (
            "rank_pattern",
            "{\"q\":8}",
            "rank_pattern: expected it unset, since such adapters are not supported, found {\"q\":8}",
        ),
        (
            "alpha_pattern",
            "{\"q\":8}",
            "alpha_pattern: expected it unset, since such adapters are not supported, found {\"q\":8}",
        ),
        (
            "use_dora",
            "true",
            "use_dora: expected it unset, since such adapters are not supported, found true",
        ),
        (
            "modules_to_save",
            "[\"lm_head\"]",
            "modules_to_save: expected it unset, since such adapters are not supported, found [\"lm_head\"]",
        ),
        (
            "target_modules",
            "\"all-linear\"",
            "target_modules: expected a list of layer names, found \"all-linear\"",
        ),
        (
            "loftq_config",
            "{\"loftq_bits\":4}",
            "loftq_config: expected it unset, since such adapters are not supported, found {\"loftq_bits\":4}",
        ),
        ("r", "0", "r: expected a rank from 1 to 65536, found 0"),
        ("lora_dropout", "1.0", "lora_dropout: expected at least 0 and below 1, found 1"),
    ] {
        let value = serde_json::from_str(value).expect("json");
        assert_eq!(refused(|json| json[key] = value), expected);
    }
}

/// Such an adapter is relative to weights that its initialization changed; on the original weights it computes something else.
#[test]
fn adapters_that_changed_their_base_are_refused() {
    for name in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "a_way_of_tomorrow"] {
        let message = refused(|json| json["init_lora_weights"] = name.into());
        assert!(
            message.starts_with("init_lora_weights: expected true, false or one of gaussian"),
            "{message}"
        );
        assert!(
            message.contains(&format!("found \"{name}\", which changes the base model's weights")),
            "{message}"
        );
    }
    for plain in [
        serde_json::json!(true),
        serde_json::json!(false),
        "gaussian".into(),
        "eva".into(),
        "orthogonal".into(),
    ] {
        let (_kept, folder) = copy_folder("adapter_rslora");
        let file = folder.join("adapter_config.json");
        let text = fs::read_to_string(&file).expect("config");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
        json["init_lora_weights"] = plain.clone();
        fs::write(&file, json.to_string()).expect("written");
        let (config, mut weights) = base();
        assert!(read_adapter(&folder, &config, &mut weights, Device::Cpu).is_ok(), "{plain}");
    }
}
