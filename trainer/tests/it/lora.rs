//! Rounds whose stages train LoRA adapters on one trunk, through the real `train`.

use crate::checkpoints::assert_contains;
use crate::small::{Place, error_lines};
use crate::t5::read_student;
use schemas::provenance::sha256_hex;
use schemas::{Answer, Rationale, Rollout};
use std::fs;
use std::path::Path;
use tch::Device;
use trainer::checkpoint::folder;
use trainer::checkpoint::hf::read_safetensors;
use trainer::checkpoint::peft::read_adapter;
use trainer::model::lora::{is_lora, merge};

const RANK: [&str; 2] = ["--student-lora-rank", "4"];

fn succeeds(place: &Place, arguments: &[&str]) -> String {
    let output = place.train(arguments).output().expect("train");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stage(place: &Place, round: &str, stage: &str, flags: &[&str]) -> String {
    succeeds(place, &[&["--round", round, "--stage", stage], flags].concat())
}

fn refused(place: &Place, arguments: &[&str]) -> String {
    error_lines(&place.train(arguments).output().expect("train")).join("\n")
}

fn hash(path: &Path) -> String {
    sha256_hex(&fs::read(path).expect("a file"))
}

/// Round 1 up to the fine-tuned adapter.
fn fine_tuned() -> Place {
    let place = Place::new(40).scored();
    stage(&place, "1", "rl", &RANK);
    place.write_corrections(|_| {});
    stage(&place, "1", "sft", &RANK);
    place
}

#[test]
fn a_round_of_adapters_leaves_its_trunk_alone() {
    let place = Place::new(40).scored();
    let trunk = place.checkpoint("base/model.safetensors");
    let before = hash(&trunk);
    stage(&place, "1", "rl", &[&RANK[..], &["--baseline", "model", "--value-passes", "1"]].concat());
    place.write_corrections(|_| {});
    stage(&place, "1", "sft", &RANK);
    stage(&place, "1", "answer", &RANK);
    assert_eq!(hash(&trunk), before);

    let base = read_student(&place.checkpoint("base")).expect("base");
    let mut moved = Vec::new();
    for name in ["round-1/rl", "round-1/sft"] {
        let folder = place.checkpoint(name);
        assert!(!folder.join("model.safetensors").exists(), "{name}: an adapter alone");
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json")).expect("config"))
                .expect("json");
        assert_eq!((&json["r"], &json["lora_alpha"]), (&4.into(), &32.0.into()), "{json}");
        assert_eq!(json["base_model_name_or_path"], place.checkpoint("base").display().to_string());
        let mut weights = base.weights.copy_to(Device::Cpu);
        read_adapter(&folder, &base.config, &mut weights, Device::Cpu).expect("PEFT's layout");
        let matrices = weights.iter().filter(|(name, _)| is_lora(name) && name.ends_with(".B"));
        moved.push(matrices.map(|(_, matrix)| matrix.abs().max().double_value(&[])).fold(0.0, f64::max));
        assert_eq!(folder::read(&folder).expect("student").fingerprint, weights.fingerprint());
    }
    assert!(moved[0] > 0.0 && moved[1] > moved[0], "each stage goes on with the adapter: {moved:?}");
    // Rationales and answers are those of the adapted policies.
    let policy = |name: &str| folder::read(&place.checkpoint(name)).expect("student").fingerprint;
    let rationales: Vec<Rationale> = place.dataset().read(1).expect("rationales");
    for row in &rationales {
        assert_eq!(row.policy, policy(&format!("round-1/{}", row.stage)), "{}", row.rationale_id);
    }
    assert!(!place.dataset().read::<Answer>(1).expect("answers").is_empty());
}

/// In round 2 the reference is the base student, the trunk without its adapter.
#[test]
fn the_next_round_starts_from_an_adapter_or_from_what_was_merged() {
    let place = fine_tuned();
    let merged = place.copy();
    let (adapter, out) = (merged.checkpoint("round-1/sft"), merged.checkpoint("merged"));
    let paths = [adapter.display().to_string(), out.display().to_string()];
    let said = succeeds(&merged, &["merge", &paths[0], "--out", &paths[1]]);
    assert!(said.contains("merged with"), "{said}");
    assert!(refused(&merged, &["merge", &paths[1], "--out", "other"]).contains("found a whole checkpoint"));
    assert!(
        refused(&merged, &["merge", &paths[0], "--out", &paths[1]])
            .contains("expected a checkpoint or nothing")
    );
    fs::remove_dir_all(&adapter).expect("removed");
    fs::rename(&out, &adapter).expect("renamed");

    let rollouts = [&place, &merged].map(|place| {
        stage(place, "2", "rollout", &RANK);
        let rollouts: Vec<Rollout> = place.dataset().read(2).expect("rollouts");
        place.write_scores(&rollouts, |_| {});
        rollouts
    });
    for (adapted, whole) in rollouts[0].iter().zip(&rollouts[1]) {
        assert_eq!((&adapted.token_ids, &adapted.logprobs), (&whole.token_ids, &whole.logprobs));
        assert_eq!(adapted.ref_logprobs, whole.ref_logprobs);
        assert_ne!(adapted.policy, whole.policy);
    }
    assert!(
        rollouts[0].iter().any(|row| row.logprobs != row.ref_logprobs),
        "the base student is the reference"
    );

    // Either continues with an adapter; the one on the merged weights is new.
    for (place, trunk) in [(&place, "base"), (&merged, "round-1/sft")] {
        stage(place, "2", "rl", &RANK);
        let (_, found) =
            folder::read(&place.checkpoint("round-2/rl")).expect("student").adapter.expect("one");
        assert_eq!(found.folder, place.checkpoint(trunk));
    }
    // Training all weights may also start from an adapter.
    let whole = fine_tuned();
    stage(&whole, "2", "rollout", &[]);
    whole.write_scores(&whole.dataset().read::<Rollout>(2).expect("rollouts"), |_| {});
    stage(&whole, "2", "rl", &[]);
    assert!(whole.checkpoint("round-2/rl/model.safetensors").is_file());
    assert!(!whole.checkpoint("round-2/rl/adapter_config.json").exists());
}

#[test]
fn pretraining_makes_an_adapter_that_rounds_go_on_with() {
    let place = Place::new(40);
    fs::rename(place.checkpoint("base"), place.checkpoint("init")).expect("renamed");
    let (init, base) = ("checkpoints/init", "checkpoints/base");
    let pretrain = ["pretrain", "--from", init, "--out", base, "--epochs", "2"];
    succeeds(&place, &[&pretrain[..], &RANK].concat());
    assert!(place.checkpoint("base/adapter_config.json").is_file());
    assert!(succeeds(&place, &[&pretrain[..], &RANK].concat()).contains("already exists"));
    succeeds(&place, &["eval", "--checkpoint", "base"]);
    let place = place.scored_with(&RANK);
    stage(&place, "1", "rl", &RANK);
    let read = |name: &str| folder::read(&place.checkpoint(name)).expect("student");
    let (base, after) = (read("base"), read("round-1/rl"));
    let trunks = [&base, &after].map(|stored| stored.adapter.as_ref().expect("an adapter").1.folder.clone());
    assert!(trunks.iter().all(|trunk| trunk.ends_with("checkpoints/init")), "{trunks:?}");
    assert_eq!(base.weights.trunk_fingerprint(), after.weights.trunk_fingerprint());
    assert_ne!(base.fingerprint, after.fingerprint);
}

/// PEFT writes no tokenizer into an adapter's folder.
#[test]
fn an_adapter_without_a_tokenizer_has_that_of_its_trunk() {
    let place = Place::new(40);
    fs::rename(place.checkpoint("base"), place.checkpoint("init")).expect("renamed");
    let pretrain = |from: &str, out: &str, flags: &[&str]| {
        let (from, out) = (format!("checkpoints/{from}"), format!("checkpoints/{out}"));
        let arguments = ["pretrain", "--from", &from, "--out", &out, "--epochs", "1", "--share", "0.3"];
        succeeds(&place, &[&arguments[..], flags].concat());
    };
    pretrain("init", "base", &RANK);
    fs::remove_file(place.checkpoint("base/tokenizer.json")).expect("removed");
    let tokenizer = |name: &str| hash(&place.checkpoint(name).join("tokenizer.json"));
    for (out, flags) in [("adapted", &RANK[..]), ("whole", &RANK[..0])] {
        pretrain("base", out, flags);
        assert_eq!(tokenizer(out), tokenizer("init"), "{out}");
    }
    // So do a round that starts from it, and its answer model.
    let place = place.scored();
    stage(&place, "1", "rl", &[]);
    place.write_corrections(|_| {});
    stage(&place, "1", "sft", &[]);
    stage(&place, "1", "answer", &[]);
    for name in ["rl", "sft", "answer"] {
        assert!(place.checkpoint(&format!("round-1/{name}/tokenizer.json")).is_file(), "{name}");
    }
}

/// One pass serves policy and values; the value model's only own weights are its head.
#[test]
fn values_may_share_the_policys_adapter() {
    let place = Place::new(40).scored();
    let shared = ["--value-model", "shared", "--value-loss", "true", "--dtype", "bfloat16"];
    stage(&place, "1", "rl", &[&RANK[..], &shared].concat());
    assert!(place.checkpoint("round-1/rl/adapter_model.safetensors").is_file());
    assert!(place.numbers("rl", "value_loss").iter().all(|loss| loss.is_finite()));
    for algorithm in ["grpo", "dpo"] {
        let place = Place::new(40).scored();
        stage(&place, "1", "rl", &[&RANK[..], &["--algorithm", algorithm, "--dpo-margin", "0.05"]].concat());
        assert!(place.checkpoint("round-1/rl/adapter_model.safetensors").is_file(), "{algorithm}");
    }
}

#[test]
fn an_adapter_of_other_settings_is_not_trained_on() {
    let place = Place::new(40).scored();
    stage(&place, "1", "rl", &[&RANK[..], &["--lora-targets", "q,v"]].concat());
    let found = folder::read(&place.checkpoint("round-1/rl")).expect("student").adapter.expect("one").0;
    assert_eq!(found.target_modules, ["q", "v"]);
    place.write_corrections(|_| {});
    for flags in [&RANK[..], &["--student-lora-rank", "2", "--lora-targets", "q,v"]] {
        let lines = refused(&place, &[&["--round", "1", "--stage", "sft"], flags].concat());
        assert_contains(
            &lines,
            &["round-1/rl: student.lora_rank, lora_alpha and lora_targets", "train merge"],
        );
    }
    let lines = refused(
        &place,
        &["--round", "1", "--stage", "sft", "--student-lora-rank", "4", "--lora-targets", "q,query"],
    );
    assert_contains(
        &lines,
        &["student.lora_targets: expected all-linear, or some of q, k, v", "found `query`"],
    );
    assert!(place.hidden_files().is_empty(), "nothing was trained");
    stage(&place, "1", "sft", &[&RANK[..], &["--lora-targets", "v, q"]].concat());
}

#[test]
fn an_adapter_needs_its_trunk() {
    let place = fine_tuned();
    let moved = place.path().join("elsewhere");
    fs::rename(place.path().join("checkpoints"), &moved).expect("moved");
    // The trunk is still next to it.
    assert!(folder::read(&moved.join("round-1/sft")).is_ok());
    fs::rename(moved.join("base"), moved.join("other")).expect("moved");
    let lost = folder::read(&moved.join("round-1/sft")).expect_err("no trunk").to_string();
    assert_contains(&lost, &["expected the checkpoint that this adapter was trained on, found none at"]);
    // Another student in its place.
    let mut other = read_student(&moved.join("other")).expect("base");
    let changed = other.weights.get("lm_head.weight") + 1.0;
    other.weights.insert("lm_head.weight", changed);
    let of = moved.join("other");
    trainer::checkpoint::hf::write_student(&moved.join("base"), &other.config, &other.weights, &of)
        .expect("written");
    let wrong = folder::read(&moved.join("round-1/sft")).expect_err("another").to_string();
    assert_contains(&wrong, &["expected its trunk", "with fingerprint"]);
}

#[test]
fn merged_weights_are_the_trunk_and_the_scaled_product() {
    let place = fine_tuned();
    let folder = place.checkpoint("round-1/sft");
    let mut stored = folder::read(&folder).expect("student");
    let found = read_safetensors(&folder.join("adapter_model.safetensors")).expect("matrices");
    let name = "decoder.block.0.layer.1.EncDecAttention.v";
    let matrix = |side: &str| found[&format!("base_model.model.{name}.lora_{side}.weight")].shallow_clone();
    let weight = format!("{name}.weight");
    let expected = stored.weights.get(&weight).copy() + matrix("B").matmul(&matrix("A")) * (32.0 / 4.0);
    merge(&mut stored.weights);
    let off = (stored.weights.get(&weight) - expected).abs().max().double_value(&[]);
    assert!(off < 1e-6, "{off:e}");
}
