//! Repeated stages with leftovers of older ones, and commands that could confuse their inputs.

use crate::small::{Place, error_lines, provenance};
use schemas::{Answer, Metric, Rollout, Sentence, table};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use trainer::checkpoint::hf::read_safetensors;

fn refused(mut command: Command) -> String {
    error_lines(&command.output().expect("train")).join("\n")
}

fn succeeds(place: &Place, arguments: &[&str]) -> String {
    let output = place.train(arguments).output().expect("train");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// Answers of an older policy must not be taken for the new one's.
#[test]
fn rl_is_not_done_again_beside_answers() {
    let place = Place::new(40).fine_tuned();
    place.stage("answer");
    for folder in ["checkpoints/round-1", "data/rationales", "data/corrections"] {
        fs::remove_dir_all(place.path().join(folder)).expect("removed");
    }
    let lines = place.refused("rl");
    assert!(lines[0].contains("answers/round-1/part-sft.parquet"), "{lines:?}");
    fs::remove_dir_all(place.path().join("data/answers")).expect("removed");
    place.stage("rl");
}

/// Metrics of the older policy must not be compared with the new one's.
#[test]
fn metrics_of_an_older_policy_go_when_rl_is_done_again() {
    let place = Place::new(40).fine_tuned();
    place.stage("answer");
    succeeds(&place, &["eval", "--round", "1", "--checkpoint", "rl"]);
    let stages = |place: &Place| -> BTreeSet<String> {
        place.dataset().read::<Metric>(1).expect("metrics").into_iter().map(|row| row.stage).collect()
    };
    let of = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    assert_eq!(stages(&place), of(&["rl", "sft", "answer", "eval"]));
    for folder in ["checkpoints/round-1", "data/rationales", "data/corrections", "data/answers"] {
        fs::remove_dir_all(place.path().join(folder)).expect("removed");
    }
    place.stage("rl");
    assert_eq!(stages(&place), of(&["rl"]));
}

/// An adapter answers from the rationales that it was trained on.
#[test]
fn an_adapter_of_other_rationales_is_not_answered_with() {
    let place = Place::new(40).fine_tuned();
    place.stage("answer");
    fs::remove_dir_all(place.path().join("data/answers")).expect("removed");
    for split in ["train", "val", "test"] {
        fs::remove_file(place.path().join(format!("data/rationales/round-1/part-sft-{split}-00000.parquet")))
            .expect("removed");
    }
    succeeds(&place, &["--round", "1", "--stage", "sft", "--rollout-max-new-tokens", "3"]);
    let lines = place.refused("answer");
    assert!(lines[0].contains("expected an adapter trained with these settings and rationales"), "{lines:?}");
}

/// Checkpoints of the same name that another dataset left.
#[test]
fn a_checkpoint_without_the_scores_it_learned_from_is_refused() {
    let place = Place::new(40).fine_tuned();
    for table in ["scores", "rationales", "corrections"] {
        fs::remove_dir_all(place.path().join("data").join(table)).expect("removed");
    }
    let lines = refused(place.train(&["--round", "1"]));
    assert!(lines.contains("the dataset has no scores of this round"), "{lines}");
    assert!(place.dataset().read::<schemas::Rationale>(1).expect("rationales").is_empty());
}

#[test]
fn a_folder_in_the_way_is_refused_before_training() {
    let place = Place::new(40).scored();
    let folder = place.checkpoint("round-1/rl");
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join("notes.txt"), "mine").expect("written");
    let lines = place.refused("rl");
    assert!(
        lines[0].contains("expected a checkpoint or nothing, found a folder or file without one"),
        "{lines:?}"
    );
    let base = place.checkpoint("base").display().to_string();
    let out = folder.display().to_string();
    let lines = refused(place.train(&["pretrain", "--from", &base, "--out", &out, "--epochs", "1"]));
    assert!(lines.contains("expected a checkpoint or nothing"), "{lines}");
    assert_eq!(place.hidden_files().len(), 0, "nothing was trained");
}

#[test]
fn an_adapter_of_other_settings_is_not_answered_with() {
    let place = Place::new(40).fine_tuned();
    place.stage("answer");
    fs::remove_dir_all(place.path().join("data/answers")).expect("removed");
    let answer = ["--round", "1", "--stage", "answer"];
    for other in [["--prompt-format", "QCM-A"], ["--lora-rank", "2"]] {
        let lines = refused(place.train(&[&answer[..], &other].concat()));
        assert!(lines.contains("expected an adapter trained with these settings and rationales"), "{lines}");
    }
    place.stage("answer");
    assert!(!place.dataset().read::<Answer>(1).expect("answers").is_empty());
}

/// A round number with the base student would be ambiguous.
#[test]
fn the_base_student_has_no_round_and_the_others_have_one() {
    let place = Place::new(40);
    for arguments in [
        &["eval", "--round", "1"][..],
        &["eval", "--round", "2", "--checkpoint", "base"],
        &["eval", "--checkpoint", "sft"],
    ] {
        let lines = refused(place.train(arguments));
        assert!(
            lines.contains("expected a round with --checkpoint rl or sft, and none with base"),
            "{lines}"
        );
    }
    let lines = refused(place.train(&["eval", "--round", "1", "--checkpoint", "sft"]));
    assert!(lines.contains("round-1/sft: expected a checkpoint, found none"), "{lines}");
    assert!(lines.contains("next: train --round 1"), "{lines}");
}

/// Round 2 is based on the policy that round 1 ended with when it was sampled.
#[test]
fn a_round_that_was_done_again_is_told_to_the_next() {
    let place = Place::new(40).fine_tuned();
    let rollout = ["--round", "2", "--stage", "rollout"];
    assert!(!succeeds(&place, &rollout).contains("was repeated since"));
    fs::remove_dir_all(place.checkpoint("round-1/sft")).expect("removed");
    for part in ["part-sft-train-00000", "part-sft-val-00000", "part-sft-test-00000"] {
        let _ = fs::remove_file(place.path().join(format!("data/rationales/round-1/{part}.parquet")));
    }
    let again = place.train(&["--round", "1", "--stage", "sft", "--sft-learning-rate", "3e-3"]).output();
    assert!(again.expect("train").status.success());
    assert!(succeeds(&place, &rollout).contains("was repeated since"));
}

/// Even if they differ in their KL penalty: after whitening, that small difference would be the whole signal.
#[test]
fn samples_that_do_not_differ_teach_nothing() {
    let place = Place::new(40);
    place.stage("rollout");
    let mut rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    for (number, rollout) in rollouts.iter_mut().enumerate() {
        let shift = 0.01 * (number % 3) as f32;
        rollout.ref_logprobs.iter_mut().for_each(|logprob| *logprob -= shift);
    }
    let part = place.dataset().part_path::<Rollout>(1, "sampled-00000");
    table::write(&part, rollouts.iter().cloned(), &provenance()).expect("written");
    place.write_scores(&rollouts, |score| score.score = 0.5);
    for algorithm in ["grpo", "ppo", "dpo"] {
        let place = place.copy();
        let rl = ["--round", "1", "--stage", "rl", "--reward", "rationale", "--algorithm", algorithm];
        let output = place.train(&rl).args(["--penalize-empty", "false"]).output().expect("train");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{algorithm}: {said}");
        assert!(said.contains("there is nothing to learn"), "{algorithm}: {said}");
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(line.contains("which differ too little to learn from"), "{algorithm}: {line}");
        let weights = |name: &str| {
            read_safetensors(&place.checkpoint(name).join("model.safetensors")).expect("weights")
        };
        assert!(weights("round-1/rl") == weights("base"), "{algorithm}: not even weight decay");
    }
}

/// One sample of each problem: those of all problems are its baseline, which is reported.
#[test]
fn a_single_sample_is_compared_with_other_problems() {
    let place = Place::new(40).scored_with(&["--samples", "1"]);
    for algorithm in ["ppo", "grpo"] {
        let place = place.copy();
        let rl = ["--round", "1", "--stage", "rl", "--algorithm", algorithm];
        let said = succeeds(&place, &rl);
        assert!(
            said.contains("have one scored sample, which is compared with the samples of all problems"),
            "{said}"
        );
        assert!(!place.numbers("rl", "loss").is_empty(), "{algorithm}");
    }
}

/// Rationales of another model, possibly of other splits, are scored but not learned.
#[test]
fn imported_rationales_are_not_fine_tuned_from() {
    let place = Place::new(40);
    place.stage("rollout");
    let sampled: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    let imported = |number: usize| Rollout {
        rollout_id: format!("import-p{number}"),
        problem_id: format!("p{number}"),
        rationale: "It is imported.".into(),
        token_ids: Vec::new(),
        logprobs: Vec::new(),
        ref_logprobs: Vec::new(),
        values: Vec::new(),
        sentences: vec![Sentence { text: "It is imported.".into(), token_end: 0 }],
        policy: "import:0123".into(),
        ..sampled[0].clone()
    };
    // Of splits val and test.
    let others: Vec<Rollout> = [14, 15].map(imported).into();
    place.dataset().write_part(1, "import-0123", others.clone(), &provenance()).expect("written");
    place.write_scores(&[sampled.clone(), others].concat(), |score| score.score = 1.0);
    place.stage("rl");
    let sft = ["--round", "1", "--stage", "sft", "--filter", "scored", "--min-score", "1"];
    let output = place.train(&sft).output().expect("train");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let with_sentences = sampled.iter().filter(|rollout| !rollout.sentences.is_empty()).count();
    assert!(said.contains(&format!("of {with_sentences} scored")), "{said}");
}

/// A second Ctrl-C ends the process at once without a crash.
#[test]
fn a_second_interrupt_ends_with_its_status() {
    let start = Place::new(200).scored();
    for _ in 0..6 {
        let place = start.copy();
        let mut command = place.train(&["--round", "1", "--stage", "rl", "--passes", "50", "--max-kl", "0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train");
        let pid = child.id().to_string();
        let interrupt = || {
            let status = Command::new("kill").args(["-INT", &pid]).status();
            assert!(status.expect("kill").success());
        };
        let step = place.checkpoint("round-1/.rl-step.safetensors");
        while !step.exists() {
            // Until it trains.
            if child.try_wait().expect("train").is_some() {
                let output = child.wait_with_output().expect("output");
                panic!(
                    "it ended before its first step checkpoint: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        interrupt();
        interrupt();
        let output = child.wait_with_output().expect("output");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{:?} {said}", output.status);
        assert!(said.contains("interrupted: stopping"), "{said}");
    }
}

/// Folders as an earlier version named them, in the dataset and in the checkpoints.
#[test]
fn folders_of_an_earlier_version_are_continued_and_renamed() {
    let place = Place::new(40).fine_tuned();
    let rename = |folder: &str| {
        let folder = place.path().join(folder);
        fs::rename(folder.join("round-1"), folder.join("round=1")).expect("renamed");
    };
    let folders = [
        "data/rollouts",
        "data/scores",
        "data/rationales",
        "data/corrections",
        "data/metrics",
        "checkpoints",
    ];
    folders.iter().for_each(|folder| rename(folder));
    let errors = succeeds(&place, &["--round", "1"]);
    assert!(errors.contains("data: folders of rounds renamed from"), "{errors}");
    assert!(errors.contains("checkpoints: folders of rounds renamed from"), "{errors}");
    for folder in folders {
        let folder = place.path().join(folder);
        assert!(folder.join("round-1").is_dir() && !folder.join("round=1").exists(), "{folder:?}");
    }
    assert!(place.checkpoint("round-1/answer").is_dir() && place.checkpoint("round-1/sft").is_dir());
}
