//! Bad input through the real `train`: exit status 2, and a message with the place, the expected and the found value.

use crate::small::{Place, error_lines, provenance, tokenizer_folder};
use crate::t5::read_student;
use arrow::array::{ArrayRef, Float32Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use schemas::{Correction, Problem, Rationale, Reject, Rollout, Score, Sentence, file, table};
use std::fs::{self, File};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::hf::{read_safetensors, write_safetensors};
use trainer::data::vision::features;
use trainer::nn::weights::Weights;

/// A dataset of a few problems; rollouts are written directly instead of sampled.
fn place() -> Place {
    Place::new(12)
}

/// Rollouts as the base student could have sampled them: two for each of three problems.
fn rollouts(place: &Place) -> Vec<Rollout> {
    let policy = read_student(&place.checkpoint("base")).expect("student").weights.fingerprint();
    let rollout = |number: u32| {
        let problem_id = format!("p{}", number / 2);
        Rollout {
            rollout_id: Rollout::id(&problem_id, 1, number % 2),
            problem_id,
            round: 1,
            sample: number % 2,
            rationale: "One. Two.".into(),
            token_ids: vec![5, 6, 7, 1],
            logprobs: vec![-1.0; 4],
            ref_logprobs: vec![-1.0; 4],
            values: vec![0.0; 4],
            sentences: vec![
                Sentence { text: "One.".into(), token_end: 0 },
                Sentence { text: "Two.".into(), token_end: 2 },
            ],
            truncated: false,
            policy: policy.clone(),
            seed: 1,
        }
    };
    (0..6).map(rollout).collect()
}

fn write_rollouts(place: &Place, rollouts: &[Rollout]) {
    place.dataset().write_part(1, "test", rollouts.iter().cloned(), &provenance()).expect("written");
}

#[test]
fn a_tokenizer_of_the_same_size_with_other_tokens() {
    let place = place();
    let file = place.checkpoint("base").join("tokenizer.json");
    let text = fs::read_to_string(&file).expect("tokenizer");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
    fs::write(&file, json.to_string()).expect("the same words in a file that was written anew");
    place.stage("rollout");
    json["model"]["vocab"].as_array_mut().expect("pieces").swap(40, 41);
    fs::write(&file, json.to_string()).expect("written");
    let expected = "expected the tokenizer that the weights were written with, found another vocabulary";
    assert_eq!(place.refused("rl"), [format!("error: {}: {expected}", file.display())]);
}

#[test]
fn the_tokenizer_of_another_student() {
    let place = place();
    let file = place.checkpoint("base").join("tokenizer.json");
    let text = fs::read_to_string(&file).expect("tokenizer");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
    json["model"]["vocab"].as_array_mut().expect("pieces").push(serde_json::json!(["other", -9.0]));
    fs::write(&file, json.to_string()).expect("written");
    let expected = format!(
        "error: {}: expected 1 to 567 tokens, for the checkpoint's 567 rows, found 568",
        file.display()
    );
    assert_eq!(place.refused("rollout"), [expected]);
}

#[test]
fn missing_and_extra_tensors() {
    let place = place();
    let file = place.checkpoint("base").join("model.safetensors");
    let mut weights = Weights::new(read_safetensors(&file).expect("weights"));
    let head = weights.remove("lm_head.weight").expect("head");
    weights.insert("lm_head.bias", head.narrow(0, 0, 1));
    weights.remove("encoder.gate_dense.bias");
    let tensors = weights.iter().map(|(name, tensor)| (name.to_owned(), tensor));
    write_safetensors(&file, tensors, &[]).expect("written");
    let expected = [
        format!("error: {}: weights do not fit the student:", file.display()),
        "  encoder.gate_dense.bias: expected shape [32], found no such weight".into(),
        "  lm_head.weight: expected shape [567, 32], found no such weight".into(),
        "  lm_head.bias: expected no such weight, found shape [1, 32]".into(),
    ];
    assert_eq!(place.refused("rollout"), expected);
}

#[test]
fn features_of_another_shape() {
    let place = place();
    let path = place.dataset().vision_path("vit");
    let rows = [("p0".to_owned(), Tensor::zeros([3, 24], (Kind::Half, Device::Cpu)))].into();
    features::write(&path, &rows, "vit").expect("written");
    let expected = [
        "error: data/vision/vit.safetensors: expected features 16 wide, as the student takes them, found 24",
        "make a student for these features (train init --image-feature-width 24), or other features",
    ];
    assert_eq!(place.refused("rollout"), expected);
}

#[test]
fn scores_of_rollouts_that_are_not_there() {
    let place = place();
    let rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    place.write_scores(&rollouts, |score| {
        if score.rollout_id == "p1-r1-s0" {
            score.rollout_id = "p9-r1-s0".into();
        }
    });
    let expected = [
        "error: scores, round 1: rollout p9-r1-s0, sentence 0: expected a rollout of this round, found none",
        "remove the scores that belong to other rollouts, or restore those rollouts",
    ];
    assert_eq!(place.refused("rl"), expected);
}

#[test]
fn scores_of_other_rollouts_under_the_same_names() {
    let place = place();
    let rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    place.write_scores(&rollouts, |score| {
        if score.rollout_id == "p2-r1-s1" && score.sentence_index == 1 {
            score.sentence = "Three.".into();
        }
    });
    let expected = "error: scores, round 1: rollout p2-r1-s1, sentence 1: expected `Two.`, found `Three.`";
    assert_eq!(place.refused("rl")[0], expected);
}

#[test]
fn scores_of_some_sentences_only_or_of_too_many() {
    let place = place();
    let rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    let mut shortened = rollouts.clone();
    shortened[3].sentences.pop();
    place.write_scores(&shortened, |_| {});
    assert_eq!(
        place.refused("rl"),
        ["error: scores, round 1: rollout p1-r1-s1: expected a score for each of 2 sentences, found 1"]
    );
    place.write_scores(&rollouts, |score| {
        if score.rollout_id == "p0-r1-s0" {
            score.sentence_index += 1;
        }
    });
    let line = &place.refused("rl")[0];
    assert_eq!(line, "error: scores, round 1: rollout p0-r1-s0, sentence 1: expected `Two.`, found `One.`");
    place.write_scores(&rollouts, |score| {
        if score.rollout_id == "p0-r1-s0" && score.sentence_index == 1 {
            score.sentence_index = 2;
        }
    });
    let line = &place.refused("rl")[0];
    assert_eq!(line, "error: scores, round 1: rollout p0-r1-s0, sentence 2: expected a sentence below 2");
}

#[test]
fn scores_that_are_no_numbers() {
    let place = place();
    let rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    place.write_scores(&rollouts, |_| {});
    // Our own writer refuses NaN, so another program's file is needed.
    let path = place.dataset().part_path::<Score>(1, "test");
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(File::open(&path).expect("file")).expect("parquet");
    let metadata = builder.metadata().file_metadata().key_value_metadata().cloned();
    let batches: Vec<RecordBatch> =
        builder.build().expect("rows").map(|batch| batch.expect("rows")).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(metadata).build();
    let file = File::create(&path).expect("file");
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).expect("writer");
    for batch in batches {
        let at = batch.schema().index_of("score").expect("column");
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        let mut scores = vec![0.5f32; batch.num_rows()];
        scores[4] = f32::NAN;
        columns[at] = Arc::new(Float32Array::from(scores));
        let batch = RecordBatch::try_new(batch.schema(), columns).expect("batch");
        writer.write(&batch).expect("written");
    }
    writer.close().expect("written");
    let expected = "error: data/scores/round-1/part-test.parquet: column `score`, row 4: expected a number from 0 to \
                    1, found NaN";
    assert_eq!(place.refused("rl"), [expected]);
}

#[test]
fn rollouts_that_do_not_fit_together() {
    let place = place();
    let good = rollouts(&place);
    let refused = |change: &dyn Fn(&mut Rollout)| {
        let mut rollouts = good.clone();
        change(&mut rollouts[2]);
        write_rollouts(&place, &rollouts);
        place.write_scores(&rollouts, |_| {});
        place.refused("rl").remove(0)
    };
    for (line, change) in [
        (
            "error: rollouts, round 1: p1-r1-s0: expected finite numbers, found NaN",
            &(|rollout: &mut Rollout| rollout.logprobs[1] = f32::NAN) as &dyn Fn(&mut Rollout),
        ),
        ("error: rollouts, round 1: p1-r1-s0: expected 4 values, found 3", &|rollout: &mut Rollout| {
            rollout.values.truncate(3)
        }),
        ("error: rollouts, round 1: p1-r1-s0: expected 4 ref_logprobs, found 5", &|rollout: &mut Rollout| {
            rollout.ref_logprobs.push(0.0)
        }),
        (
            "error: rollouts, round 1: p1-r1-s0: expected tokens below 567, found 567",
            &|rollout: &mut Rollout| rollout.token_ids[0] = 567,
        ),
        (
            "error: rollouts, round 1: p1-r1-s0: expected a token_end below 4, found 4",
            &|rollout: &mut Rollout| rollout.sentences[1].token_end = 4,
        ),
    ] {
        assert_eq!(refused(change), line);
    }
    let line = refused(&|rollout: &mut Rollout| rollout.policy = "0123456789abcdef".into());
    let begin = "error: round 1: rollout p1-r1-s0 was sampled by policy 0123456789ab, but ";
    assert!(line.starts_with(begin), "{line}");
}

#[test]
fn nothing_scored_waits_and_nothing_to_score_is_refused() {
    let place = place();
    let mut rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    let line = place.stage("rl");
    assert!(
        line.starts_with("round 1: 6 rationales wait for scores; next: collect-feedback --round 1"),
        "{line}"
    );
    assert!(!place.checkpoint("round-1/rl").exists());

    // All rejected.
    let rejects = rollouts.iter().map(|rollout| Reject {
        teacher: None,
        repeat: None,
        kind: "scores".into(),
        subject_id: rollout.rollout_id.clone(),
        problem_id: rollout.problem_id.clone(),
        round: 1,
        reason: "no JSON".into(),
        reply: String::new(),
        attempts: 3,
        request_key: "k".into(),
    });
    place.dataset().write_part::<Reject>(1, "test", rejects, &provenance()).expect("written");
    let expected = [
        "error: round 1: rl.min_coverage: expected 95.0 % of 6 rollouts scored, found 0.0 % (6 rejected)",
        "look at the rejects table; collect-feedback --retry-rejects asks about them again; or lower --min-coverage",
    ];
    assert_eq!(place.refused("rl"), expected);

    // All empty: a rationale without a sentence cannot be scored.
    for rollout in &mut rollouts {
        rollout.sentences.clear();
        rollout.rationale.clear();
    }
    write_rollouts(&place, &rollouts);
    let expected = "error: round 1: expected scored rollouts to learn from, found none (6 are empty)";
    assert_eq!(place.refused("rl"), [expected]);
}

#[test]
fn empty_rationales_are_the_worst_ones() {
    let place = place();
    let mut rollouts = rollouts(&place);
    rollouts[1].sentences.clear();
    write_rollouts(&place, &rollouts);
    place.write_scores(&rollouts, |_| {});
    let without = place.copy();
    let flags = ["--round", "1", "--stage", "rl", "--penalize-empty", "false", "--baseline", "model"];
    let output = without.train(&flags).output().expect("train");
    let line = String::from_utf8_lossy(&output.stdout);
    assert!(line.contains("ppo on 5 rollouts") && line.contains("(left out: 1 empty)"), "{line}");
    let line = place.stage("rl");
    assert!(line.contains("ppo on 6 rollouts") && !line.contains("left out"), "{line}");
    // Next to a sample with two sentences of 0.4, which earns -0.2 in total: the empty one earns -0.5.
    let rewards = place.numbers("rl", "mean_reward");
    assert!((rewards[0] - (5.0 * -0.2 - 0.5) / 6.0).abs() < 1e-6, "{rewards:?}");
}

#[test]
fn corrections_that_are_empty_or_of_other_rationales() {
    let place = place();
    let rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    place.write_scores(&rollouts, |_| {});
    place.stage("rl");
    let first = place.dataset().read::<Rationale>(1).expect("rationales").remove(0).rationale_id;
    let refused = |change: &dyn Fn(&mut Correction)| {
        place.write_corrections(|correction| {
            if correction.rationale_id == first {
                change(correction);
            }
        });
        place.refused("sft")
    };
    let expected =
        format!("error: corrections, round 1: rationale {first}: expected a text, found an empty one");
    assert_eq!(refused(&|correction| correction.corrected = " \n".into()), [expected]);
    let expected = "error: corrections, round 1: expected a rationale of stage rl, found `p99-r1-rl`";
    assert_eq!(refused(&|correction| correction.rationale_id = "p99-r1-rl".into()), [expected]);
}

#[test]
fn a_problem_longer_than_the_model_is_cut_at_its_end() {
    let place = place();
    let long = |number: usize| Problem {
        question: crate::small::problem(number).question.repeat(100),
        ..crate::small::problem(number)
    };
    let path = place.dataset().problems_path();
    table::write(&path, (0..4).map(long), &provenance()).expect("written");
    place.stage("rollout");
    let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    assert_eq!(rollouts.len(), 8);
    assert!(rollouts.iter().all(|rollout| !rollout.token_ids.is_empty()));
}

#[test]
fn rollouts_that_contradict_themselves() {
    let place = place();
    let rollouts = rollouts(&place);
    write_rollouts(&place, &rollouts);
    place.write_scores(&rollouts, |_| {});
    let refused = |change: &dyn Fn(&mut Rollout)| {
        let mut changed = rollouts.clone();
        change(&mut changed[3]);
        write_rollouts(&place, &changed);
        place.refused("rl").swap_remove(0)
    };
    let positive = refused(&|row| row.logprobs[1] = 5.0);
    assert_eq!(
        positive,
        "error: rollouts, round 1: p1-r1-s1: expected log-probabilities of at most 0, found 5"
    );
    let order = refused(&|row| (row.sentences[0].token_end, row.sentences[1].token_end) = (2, 0));
    assert!(order.contains("p1-r1-s1: expected sentences in order"), "{order}");
    let values = |change: &dyn Fn(&mut Rollout)| {
        let mut changed = rollouts.clone();
        change(&mut changed[3]);
        write_rollouts(&place, &changed);
        let flags = ["--round", "1", "--stage", "rl", "--baseline", "sampled"];
        error_lines(&place.train(&flags).output().expect("train")).swap_remove(0)
    };
    let values = values(&|row| row.values.clear());
    assert!(values.contains("found 0: they were not sampled for rl.baseline"), "{values}");
    let round = refused(&|row| row.round = 7);
    assert!(round.contains("column `round`, row 3: expected 1, found 7"), "{round}");
    write_rollouts(&place, &rollouts);
    place.dataset().write_part(1, "copy", rollouts[..1].iter().cloned(), &provenance()).expect("written");
    assert_eq!(place.refused("rl")[0], "error: rollouts, round 1: p0-r1-s0 appears twice");
}

#[test]
fn rationales_of_another_policy() {
    let place = place().scored();
    place.stage("rl");
    place.write_corrections(|_| {});
    let said: Vec<Rationale> = place.dataset().read(1).expect("rationales");
    let said = said.into_iter().map(|row| Rationale { policy: "abc".into(), ..row });
    place.dataset().write_part(1, "rl-train-00000", said, &provenance()).expect("written");
    let refused = place.refused("sft").swap_remove(0);
    assert!(refused.ends_with("found one of policy abc"), "{refused}");
    assert!(!place.checkpoint("round-1/sft").exists());
}

#[test]
fn features_then_init_make_a_student_that_fits() {
    let place = place();
    let dataset = place.dataset();
    let picture = dataset.images_dir().join("p0.png");
    file::write_bytes(&picture, crate::small::PICTURE).expect("written");
    let rows = (0..12).map(|number| Problem {
        image: (number == 0).then(|| "images/p0.png".into()),
        ..crate::small::problem(number)
    });
    table::write(&dataset.problems_path(), rows, &provenance()).expect("written");
    let run = |arguments: &[&str]| place.train(arguments).output().expect("train");
    assert!(run(&["features"]).status.success());
    let tokenizer = tokenizer_folder().display().to_string();
    let output = run(&["init", "--tokenizer", &tokenizer, "--out", "checkpoints/new"]);
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(line.ends_with("for image features 128 wide\n"), "{line}{:?}", output);
    fs::remove_dir_all(place.checkpoint("base")).expect("removed");
    fs::rename(place.checkpoint("new"), place.checkpoint("base")).expect("renamed");
    place.stage("rollout");

    let output = run(&[
        "init",
        "--tokenizer",
        &tokenizer,
        "--image-feature-width",
        "1024",
        "--out",
        "checkpoints/other",
    ]);
    let expected = [
        "error: --image-feature-width: expected 128, the width of data/vision/vit.safetensors, found 1024",
        "omit the flag to use the width of the features",
    ];
    assert_eq!(error_lines(&output), expected);

    // A student for other features is refused when it is created.
    fs::remove_file(dataset.vision_path("vit")).expect("removed");
    let rows = [("p0".to_owned(), Tensor::zeros([3, 24], (Kind::Half, Device::Cpu)))].into();
    features::write(&dataset.vision_path("vit"), &rows, "vit").expect("written");
    let output = run(&["init", "--from", "checkpoints/base", "--out", "checkpoints/other"]);
    let expected =
        "error: data/vision/vit.safetensors: expected features 128 wide, as the student takes them, found 24";
    assert_eq!(error_lines(&output)[0], expected);
}

#[test]
fn lengths_of_the_benchmark_that_are_no_numbers() {
    let place = place();
    let file = place.path().join("lengths.txt");
    for (text, line) in [("12 40\n12 abc 40\n", 2), ("12\n", 1), ("0 7\n", 1), ("12, 5000\n", 1)] {
        fs::write(&file, text).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_train"));
        let bench = command.args(["bench", "--shapes", "tiny", "--work", "sft", "--lengths"]).arg(&file);
        let error = error_lines(&bench.output().expect("train"));
        let place = format!("line {line}: expected source and target tokens, each from 1 to 4095, found ");
        assert!(error[0].contains(&place), "{error:?}");
    }
}
