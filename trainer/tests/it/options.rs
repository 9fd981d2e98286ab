//! Options of RL and fine-tuning through the real `train`: their effects on metrics and files.

use crate::small::{Place, error_lines, provenance, tokenizer_folder};
use crate::t5::{Loaded, read_student};
use schemas::{Correction, Metric, Rationale, Rollout};
use std::collections::BTreeMap;
use std::path::PathBuf;
use trainer::checkpoint::hf;
use trainer::checkpoint::hf::read_safetensors;

/// A sampled and scored round.
fn scored() -> Place {
    Place::new(40).scored()
}

fn run(place: &Place, stage: &str, flags: &[&str]) -> String {
    let output = place.train(&["--round", "1", "--stage", stage]).args(flags).output().expect("train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn values(place: &Place, name: &str) -> Vec<f64> {
    let mut rows: Vec<Metric> = place.dataset().read(1).expect("metrics");
    rows.retain(|row| row.name == name);
    rows.sort_by_key(|row| row.step);
    rows.into_iter().map(|row| row.value).collect()
}

/// Ratios start from the log-probabilities of sampling; if the policy's input differs from that of sampling, they are
/// recomputed.
#[test]
fn other_sources_than_those_of_sampling_are_reported() {
    let start = scored();
    let warns = |flags: &[&str]| {
        let place = start.copy();
        let train = place.train(&["--round", "1", "--stage", "rl"]).args(flags).output().expect("train");
        let said = String::from_utf8_lossy(&train.stderr).into_owned();
        assert!(train.status.success(), "{said}");
        let kl = place.numbers("rl", "kl_to_sampler")[0];
        assert!(kl < 1e-6, "ratios start at 1, whatever the policy is shown: {kl}");
        said.contains("log-probabilities stored with the rollouts differ from")
    };
    assert!(!warns(&[]));
    assert!(warns(&["--max-source-tokens", "12"]));
}

#[test]
fn values_are_learned_before_the_policy_learns() {
    let place = scored();
    for trunk in ["separate", "shared"] {
        let place = place.copy();
        let values_of = ["--baseline", "model", "--value-folds", "1", "--value-model", trunk];
        let flags = [&values_of[..], &["--value-passes", "12", "--value-learning-rate", "1e-2"]].concat();
        run(&place, "rl", &flags);
        let losses = values(&place, "warmup_value_loss");
        let explained = values(&place, "warmup_explained_variance");
        assert!(losses.last() < losses.first(), "{trunk}: {losses:?}");
        assert!(explained.last() > explained.first(), "{trunk}: {explained:?}");
        // What they explain of the returns that they were fitted to, whole sentences.
        assert!(values(&place, "baseline_explained_variance")[0] > explained[0], "{trunk}");
        assert!(values(&place, "value_loss").is_empty(), "nothing can use what they would learn later");
        assert_eq!(place.hidden_files(), Vec::<PathBuf>::new());
    }
}

/// Each fold has a value model that did not see its problems; with a single fold, it recognizes its training data.
#[test]
fn values_are_of_problems_that_were_not_seen() {
    let start = scored();
    let learned = |folds: &str, explained: &str| {
        let place = start.copy();
        let model = ["--baseline", "model", "--value-passes", "60", "--value-learning-rate", "3e-3"];
        run(&place, "rl", &[&model[..], &["--value-folds", folds, "--passes", "1"]].concat());
        assert_eq!(place.hidden_files(), Vec::<PathBuf>::new());
        (values(&place, "held_out_explained_variance").len(), values(&place, explained)[0])
    };
    let (folds, of_seen) = learned("1", "baseline_explained_variance");
    assert_eq!(folds, 1);
    let (folds, of_unseen) = learned("2", "baseline_explained_variance");
    assert_eq!(folds, 2);
    assert!(of_seen > of_unseen + 0.2, "seen {of_seen}, unseen {of_unseen}");
}

#[test]
fn bfloat16_learns_the_same_on_any_processor() {
    let start = scored();
    let learned = |dtype: &str| {
        let place = start.copy();
        let baseline = ["--baseline", "model", "--value-passes", "1"];
        let flags = ["--dtype", dtype, "--passes", "2", "--rl-learning-rate", "1e-3"];
        let flags = [&flags[..], &baseline].concat();
        let train = place.train(&["--round", "1", "--stage", "rl"]).args(flags).output().expect("train");
        let said = String::from_utf8_lossy(&train.stderr).into_owned();
        assert!(train.status.success(), "{said}");
        place.write_corrections(|_| {});
        run(&place, "sft", &["--dtype", dtype]);
        let weights =
            std::fs::read(place.checkpoint("round-1/sft").join("model.safetensors")).expect("weights");
        (values(&place, "loss"), weights, said)
    };
    let (exact, exact_weights, said) = learned("float32");
    assert!(!said.contains("bfloat16"), "{said}");
    let (losses, weights, said) = learned("bfloat16");
    assert_eq!(losses.len(), exact.len());
    for (loss, exact) in losses.iter().zip(&exact) {
        assert!((loss - exact).abs() < 0.02 * exact.abs().max(1.0), "{losses:?} {exact:?}");
    }
    // A processor that cannot multiply such numbers says so, and computes in float32.
    let multiplies = trainer::backend::libtorch::multiplies_bfloat16(tch::Device::Cpu);
    assert_eq!(said.contains("matrix products run in float32"), !multiplies, "{said}");
    assert_eq!(weights == exact_weights, !multiplies);
}

#[test]
fn passes_are_shuffled() {
    let start = scored();
    let learned = |flags: &[&str]| {
        let place = start.copy();
        run(&place, "rl", &[&["--passes", "1", "--rl-accumulation", "1"], flags].concat());
        std::fs::read(place.checkpoint("round-1/rl").join("model.safetensors")).expect("weights")
    };
    let shuffled = learned(&[]);
    assert!(shuffled == learned(&["--shuffle", "true"]), "as the default, and the same each time");
    assert!(shuffled != learned(&["--shuffle", "false"]));
}

#[test]
fn a_loss_that_is_no_number_stops_and_names_the_batch() {
    let place = scored();
    let stops = |stage: &str, flags: &[&str]| {
        let train = place.train(&["--round", "1", "--stage", stage]).args(flags).output().expect("train");
        let said = String::from_utf8_lossy(&train.stderr).into_owned();
        assert_eq!(train.status.code(), Some(1), "{said}");
        let batch = place.path().join(format!("checkpoints/round-1/.{stage}-step.batch.json"));
        let rows: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&batch).expect("the saved batch")).expect("json");
        let rows = rows.as_array().expect("rows");
        assert!(!rows.is_empty());
        for row in rows {
            let id = row["problem_id"].as_str().expect("id");
            assert!(said.contains(id), "{id} in: {said}");
            assert!(row["source"].as_array().is_some_and(|tokens| !tokens.is_empty()));
        }
        assert!(said.contains(&batch.display().to_string()), "{said}");
    };
    // Values whose error has no square in float32.
    let sampled: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    let far = sampled.iter().cloned().map(|mut row| {
        row.values = vec![1e30; row.token_ids.len()];
        row
    });
    place.dataset().write_part(1, "sampled-00000", far, &provenance()).expect("written");
    stops("rl", &["--baseline", "sampled", "--value-loss", "true"]);
    assert!(!place.checkpoint("round-1/rl").exists());

    place.dataset().write_part(1, "sampled-00000", sampled, &provenance()).expect("written");
    place.stage("rl");
    place.write_corrections(|_| {});
    // An embedding whose products are beyond float32.
    let folder = place.checkpoint("round-1/rl");
    let Loaded { config, mut weights } = read_student(&folder).expect("student");
    let far = weights.get("shared.weight") * 4e37;
    weights.insert("shared.weight", far);
    if let Some(head) = weights.find("lm_head.weight").map(|head| head * 4e37) {
        weights.insert("lm_head.weight", head);
    }
    std::fs::remove_dir_all(&folder).expect("removed");
    hf::write_student(&folder, &config, &weights, &tokenizer_folder()).expect("written");
    let policy = read_student(&folder).expect("student").weights.fingerprint();
    let said: Vec<Rationale> = place.dataset().read(1).expect("rationales");
    let said = said.into_iter().map(|row| Rationale { policy: policy.clone(), ..row });
    place.dataset().write_part(1, "rl-train-00000", said, &provenance()).expect("written");
    stops("sft", &[]);
    assert!(!place.checkpoint("round-1/sft").exists());
}

#[test]
fn problems_imported_later_are_sampled_until_rl_is_done() {
    let place = Place::new(40);
    place.stage("rollout");
    let of = |place: &Place| -> BTreeMap<String, usize> {
        let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
        let mut counts = BTreeMap::new();
        rollouts.into_iter().for_each(|row| *counts.entry(row.problem_id).or_default() += 1);
        counts
    };
    let before = of(&place);
    place.write_problems(60);
    let said = place.stage("rollout");
    assert!(said.contains("for 20 problems"), "{said}");
    let after = of(&place);
    assert_eq!(after.len(), before.len() + 20);
    assert!(after.values().all(|count| *count == 2), "{after:?}");
    assert!(place.stage("rollout").contains("nothing to do"));

    place.write_scores(&place.dataset().read::<Rollout>(1).expect("rollouts"), |_| {});
    place.stage("rl");
    place.write_problems(62);
    let train = place.train(&["--round", "1", "--stage", "rollout"]).output().expect("train");
    let said = String::from_utf8_lossy(&train.stderr).into_owned();
    assert!(train.status.success() && said.contains("2 train problems have no rollouts"), "{said}");
    assert_eq!(of(&place), after);
}

#[test]
fn a_stage_is_not_done_again_beside_what_its_older_policy_said() {
    let place = scored();
    place.stage("rl");
    std::fs::remove_dir_all(place.checkpoint("round-1/rl")).expect("removed");
    let error = place.refused("rl");
    assert!(error[0].contains("of which there are rationales of split train after rl"), "{error:?}");
    assert!(error[1].contains("remove the round's checkpoints, rationales"), "{error:?}");

    let place = scored();
    place.stage("rl");
    place.write_corrections(|_| {});
    place.stage("sft");
    place.stage("answer");
    std::fs::remove_dir_all(place.checkpoint("round-1/sft")).expect("removed");
    let rationales = place.dataset().root().join("rationales/round-1");
    for entry in std::fs::read_dir(&rationales).expect("folder").flatten() {
        if entry.file_name().to_string_lossy().starts_with("part-sft-") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
    let error = place.refused("sft");
    assert!(error[0].ends_with("round-1/answer"), "an adapter of the older policy: {error:?}");
    std::fs::remove_dir_all(place.checkpoint("round-1/answer")).expect("removed");
    std::fs::remove_dir_all(place.dataset().root().join("answers")).expect("removed");
    place.stage("sft");
    assert!(place.stage("answer").contains("answers after sft"));
}

#[test]
fn no_pass_leaves_the_policy_as_it_was() {
    let place = scored();
    run(&place, "rl", &["--passes", "0"]);
    let weights =
        |name: &str| read_safetensors(&place.checkpoint(name).join("model.safetensors")).expect("weights");
    assert!(weights("round-1/rl") == weights("base"));
}

#[test]
fn training_ends_where_no_pass_is_better() {
    let place = scored();
    place.stage("rl");
    place.write_corrections(|_| {});
    // A learning rate far too high, so that later passes are worse.
    let flags =
        ["--sft-epochs", "9", "--sft-learning-rate", "0.3", "--sft-keep", "val_loss", "--sft-patience", "2"];
    run(&place, "sft", &flags);
    let losses = values(&place, "val_loss");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let at = losses.iter().position(|loss| *loss == best).expect("a best pass");
    assert!(losses.len() < 9, "{losses:?}");
    assert_eq!(losses.len(), at + 3, "two passes without a better one: {losses:?}");
    assert_eq!(place.hidden_files(), Vec::<PathBuf>::new());
}

#[test]
fn well_scored_samples_are_learned() {
    let place = scored();
    place.stage("rl");
    let line = run(&place, "sft", &["--filter", "scored", "--min-score", "0.4"]);
    assert!(line.contains("sampled rationales with a mean score of 0.4 or more learned, of "), "{line}");
    let place = scored();
    place.stage("rl");
    let mut command =
        place.train(&["--round", "1", "--stage", "sft", "--filter", "scored", "--min-score", "1"]);
    let lines = error_lines(&command.output().expect("train"));
    assert!(
        lines[0].contains("expected sampled rationales with a mean score of 1 or more, found none of "),
        "{lines:?}"
    );
}

#[test]
fn rationales_are_measured_and_events_written() {
    let place = scored();
    let board = place.path().join("board");
    run(&place, "rl", &["--tensorboard", board.to_str().expect("path")]);
    for name in ["sentences", "repeated", "truncated", "empty", "rouge_l", "bleu"] {
        assert_eq!(values(&place, &format!("{name}/rl/train")).len(), 1, "{name}");
    }
    let events = std::fs::read_dir(board.join("round-1/rl")).expect("events").count();
    assert!(events >= 1);
}

#[test]
fn patience_needs_a_number() {
    let place = Place::new(2);
    let lines = error_lines(&place.train(&["--round", "1", "--sft-patience", "2"]).output().expect("train"));
    assert!(
        lines[0].contains("sft.patience: expected sft.keep = val_loss or val_rouge_l with it, found last"),
        "{lines:?}"
    );
}

#[test]
fn only_corrections_that_changed_are_learned_where_asked() {
    let place = scored();
    place.stage("rl");
    place.write_corrections(|correction| correction.changed = correction.problem_id.ends_with('1'));
    let corrections: Vec<Correction> = place.dataset().read(1).expect("corrections");
    let (all, changed) = (corrections.len(), corrections.iter().filter(|row| row.changed).count());
    assert!(changed > 0 && changed < all);
    for (filter, learned) in [("all", all), ("changed", changed)] {
        let line = run(&place.copy(), "sft", &["--filter", filter]);
        assert!(
            line.contains(&format!("{learned} corrections learned, {changed} of them changed")),
            "{line}"
        );
    }
}

#[test]
fn padding_counts_as_a_target_only_where_asked() {
    let start = scored();
    start.stage("rl");
    start.write_corrections(|_| {});
    // 50 tokens of padding that a random student does not expect weigh more than the text.
    let first = |flags: &[&str]| {
        let place = start.copy();
        run(&place, "sft", &[&["--sft-epochs", "1", "--max-target-tokens", "50"], flags].concat());
        (place.numbers("sft", "loss")[0], place.numbers("sft", "length")[0])
    };
    let (loss, length) = first(&[]);
    let (padded_loss, padded_length) = first(&["--padded-loss", "true"]);
    assert!(length < 50.0 && padded_length == 50.0, "{length} {padded_length}");
    assert!((loss - padded_loss).abs() > 1e-3, "{loss} {padded_loss}");
}

#[test]
fn corrections_of_another_policys_rationales_are_refused() {
    let place = scored();
    place.stage("rl");
    place.write_corrections(|correction| {
        if correction.problem_id == "p7" {
            correction.original += " It was said by an older policy.";
        }
    });
    let error = place.refused("sft");
    assert!(error[0].contains("rationale p7-r1-rl: expected the correction of \""), "{error:?}");
    assert!(error[0].contains("It was said by an older policy."), "{error:?}");
    assert!(error[1].contains("remove the corrections of the round"), "{error:?}");
}

#[test]
fn rationales_and_adapters_of_another_policy_are_refused() {
    let place = Place::new(20);
    let eval = |place: &Place| place.train(&["eval"]).output().expect("train");
    assert!(eval(&place).status.success());
    assert!(String::from_utf8_lossy(&eval(&place).stdout).contains("already exist"));
    // Another base student takes the place of the first.
    let Loaded { config, mut weights } = read_student(&place.checkpoint("base")).expect("student");
    let moved = weights.get("shared.weight") * 1.5;
    weights.insert("shared.weight", moved);
    std::fs::remove_dir_all(place.checkpoint("base")).expect("removed");
    hf::write_student(&place.checkpoint("base"), &config, &weights, &tokenizer_folder()).expect("written");
    let error = error_lines(&eval(&place));
    assert!(error[0].contains("checkpoints/base, which is policy "), "{error:?}");
    assert!(error[1].contains("remove the round's rationales part-base-"), "{error:?}");
    for folder in ["rationales", "answers"] {
        std::fs::remove_dir_all(place.dataset().root().join(folder)).expect("removed");
    }
    let error = error_lines(&eval(&place));
    assert!(error[0].contains("round-0/answer: expected an adapter of "), "{error:?}");
    std::fs::remove_dir_all(place.checkpoint("round-0/answer")).expect("removed");
    assert!(eval(&place).status.success());
}

#[test]
fn a_disk_that_refuses_step_checkpoints_stops_nothing() {
    let start = scored();
    let weights = |place: &Place| {
        std::fs::read(place.checkpoint("round-1/rl").join("model.safetensors")).expect("weights")
    };
    let undisturbed = start.copy();
    undisturbed.stage("rl");
    // A file cannot be renamed to the path of a folder.
    std::fs::create_dir_all(start.checkpoint("round-1/.rl-step.safetensors/in the way")).expect("folder");
    let output = start.train(&["--round", "1", "--stage", "rl"]).output().expect("train");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: cannot write a step checkpoint, keeping the older one: "), "{said}");
    assert!(weights(&start) == weights(&undisturbed));
    let left: Vec<PathBuf> =
        start.hidden_files().into_iter().filter(|path| path.to_string_lossy().contains("metrics")).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "metrics of places that were not saved");
}
