//! What a run must report or refuse instead of continuing silently, and what a resumed run may continue.

use crate::checkpoints::values;
use crate::small::{PICTURE, Place, error_lines, provenance};
use schemas::{Problem, Rationale, Rollout, table};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use trainer::data::vision::features;

fn said(mut command: Command) -> String {
    let output = command.output().expect("train");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_gpu_that_is_not_used_is_told() {
    let place = Place::new(12);
    let rollout = |device: &str| {
        let mut command = place.copy().train(&["--round", "1", "--stage", "rollout", "--device", device]);
        command.current_dir(place.path()).env("CUDA_VISIBLE_DEVICES", "0");
        command
    };
    if fs::exists("/dev/nvidiactl").expect("looked") {
        return; // the GPU of this machine may be used
    }
    let auto = said(rollout("auto"));
    assert!(
        auto.contains("warning: no GPU is used: CUDA_VISIBLE_DEVICES is 0, but there is no NVIDIA driver"),
        "{auto}"
    );
    assert!(!said(rollout("cpu")).contains("warning: no GPU"));
}

#[test]
fn texts_cut_off_by_their_limit_are_told_with_the_setting() {
    let place = Place::new(40);
    let sampled = said(place.train(&["--round", "1", "--stage", "rollout"]));
    let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    let truncated = rollouts.iter().filter(|rollout| rollout.truncated).count();
    assert!(truncated * 2 > rollouts.len(), "this student knows no end");
    let expected = format!(
        "round 1: sampled rationales: {truncated} of {} ({:.1} %) were cut off at rollout.max_new_tokens = 6",
        rollouts.len(),
        truncated as f64 * 100.0 / rollouts.len() as f64
    );
    assert!(sampled.contains(&expected), "{expected}: {sampled}");
    let place = place.copy().scored();
    let decoded = said(place.train(&["--round", "1", "--stage", "rl"]));
    assert!(decoded.contains("round 1: rationales of train after rl: "), "{decoded}");
    assert!(decoded.contains("cut off at rollout.max_new_tokens = 6"), "{decoded}");
}

/// Starts a stage, and interrupts it once it has written a step checkpoint.
fn interrupt(place: &Place, stage: &str, flags: &[&str]) {
    let mut command = place.train(&["--round", "1", "--stage", stage]);
    let mut child = command.args(flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("train");
    let step = place.checkpoint(&format!("round-1/.{stage}-step.safetensors"));
    while !step.exists() {
        assert!(child.try_wait().expect("train").is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
    assert_eq!(child.wait().expect("train").code(), Some(130));
}

/// Every setting of a stage that changes its weights, and the machine.
#[test]
fn a_step_checkpoint_of_other_settings_is_not_continued() {
    let scored = Place::new(40).scored();
    let rl = ["--passes", "300", "--rl-minibatch", "8", "--rl-accumulation", "1"];
    interrupt(&scored, "rl", &rl);
    for change in [
        &["--rl-learning-rate", "2e-3"][..],
        &["--clip", "0.1"],
        &["--gamma", "0.9"],
        &["--lambda", "0.5"],
        &["--value-coefficient", "0.3"],
        &["--neutral-score", "0.3"],
        &["--rl-weight-decay", "0.2"],
        &["--rl-max-grad-norm", "0.1"],
        &["--seed", "43"],
        &["--threads", "2"],
    ] {
        let flags: Vec<&str> = rl.iter().chain(change).copied().collect();
        let text = stopped_after_start(&scored.copy(), "rl", &flags);
        assert!(text.contains("starting over"), "{change:?}: {text}");
        assert!(!text.contains("continuing after step"), "{change:?}: {text}");
    }
    let text = stopped_after_start(&scored.copy(), "rl", &rl);
    assert!(text.contains("continuing after step"), "{text}");

    let place = Place::new(40).scored();
    place.stage("rl");
    place.write_corrections(|_| {});
    let sft = ["--sft-epochs", "300", "--sft-batch", "8"];
    interrupt(&place, "sft", &sft);
    for change in [
        &["--sft-learning-rate", "2e-3"][..],
        &["--sft-weight-decay", "0.2"],
        &["--sft-max-grad-norm", "0.1"],
        &["--sft-warmup", "0.1"],
        &["--seed", "43"],
        &["--max-target-tokens", "12"],
        &["--threads", "2"],
    ] {
        let flags: Vec<&str> = sft.iter().chain(change).copied().collect();
        let text = stopped_after_start(&place.copy(), "sft", &flags);
        assert!(text.contains("starting over"), "{change:?}: {text}");
    }
    let text = stopped_after_start(&place.copy(), "sft", &[&sft[..], &["--threads", "2"]].concat());
    assert!(text.contains("was written on cpu, 1 threads, and this is cpu, 2 threads"), "{text}");
    let text = stopped_after_start(&place.copy(), "sft", &sft);
    assert!(text.contains("continuing after step"), "{text}");
}

/// The output of a stage until it has decided whether to continue; it is then killed.
fn stopped_after_start(place: &Place, stage: &str, flags: &[&str]) -> String {
    use std::io::{BufRead, BufReader};
    let mut command = place.train(&["--round", "1", "--stage", stage]);
    let mut child = command.args(flags).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train");
    let mut text = String::new();
    for line in BufReader::new(child.stderr.take().expect("stderr")).lines() {
        let line = line.expect("text");
        text += &line;
        text.push('\n');
        if line.contains("starting over") || line.contains("continuing after step") {
            break;
        }
    }
    child.kill().and_then(|()| child.wait()).expect("killed");
    text
}

/// The features of a trained network take hours; a second command without --vit must not replace them.
#[test]
fn features_of_another_network_are_replaced_on_request_only() {
    let place = Place::new(3);
    let rows = (0..3).map(|number| Problem {
        image: Some(format!("images/p{number}.png")),
        ..crate::small::problem(number)
    });
    table::write(&place.dataset().problems_path(), rows, &provenance()).expect("written");
    fs::create_dir_all(place.dataset().images_dir()).expect("folder");
    for number in 0..3 {
        fs::write(place.dataset().images_dir().join(format!("p{number}.png")), PICTURE).expect("written");
    }
    let vit = values("vit").display().to_string();
    let path = place.dataset().vision_path("vit");
    let encoder = || {
        let bytes = fs::read(&path).expect("features");
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("header");
        header.metadata().as_ref().expect("metadata")["ares.encoder"].clone()
    };
    let features =
        |flags: &[&str]| place.train(&[&["features"][..], flags].concat()).output().expect("train");
    let line = |flags: &[&str]| {
        let output = features(flags);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(line(&[]).contains("by the trial network (random weights)"));
    assert_eq!(encoder(), "trial network (random weights)");
    assert!(
        line(&["--vit", &vit]).contains("features of 3 pictures"),
        "those of the trial network are no loss"
    );
    assert_eq!(encoder(), "vit");
    let kept = fs::read(&path).expect("features");
    assert!(line(&["--vit", &vit]).contains("nothing to do"));
    let lines = error_lines(&features(&[]));
    assert!(lines[0].contains("features of vit already exist"), "{lines:?}");
    assert!(lines[1].contains("--replace"), "{lines:?}");
    assert!(fs::read(&path).expect("features") == kept, "left as they were");
    line(&["--replace"]);
    assert_eq!(encoder(), "trial network (random weights)");
    // A file that does not record its network.
    let three =
        (0..3).map(|row| (format!("p{row}"), tch::Tensor::ones([2, 4], (tch::Kind::Half, tch::Device::Cpu))));
    features::write(&path, &three.collect(), "another").expect("written");
    assert!(error_lines(&features(&[]))[0].contains("features of another already exist"));
}

#[test]
fn pointers_of_git_lfs_are_called_by_their_name() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 990345061\n";
    let start = Place::new(12);
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let place = start.copy();
        let path = place.checkpoint("base").join(name);
        fs::write(&path, pointer).expect("written");
        let lines = place.refused("rollout");
        let expected = format!(
            "{}: expected the file itself, found a pointer of Git LFS to 990345061 bytes",
            path.display()
        );
        assert!(lines[0].contains(&expected), "{lines:?}");
        assert!(lines[1].contains("git lfs pull"), "{lines:?}");
    }
    let place = start.copy();
    let (weights, bin) = ("model.safetensors", "pytorch_model.bin");
    fs::rename(place.checkpoint("base").join(weights), place.checkpoint("base").join(bin)).expect("renamed");
    fs::write(place.checkpoint("base").join(bin), pointer).expect("written");
    assert!(place.refused("rollout")[0].contains("pointer of Git LFS"));
    for path in ["data/vision/vit.safetensors", "data/problems.parquet"] {
        let place = start.copy();
        fs::create_dir_all(place.path().join("data/vision")).expect("folder");
        fs::write(place.path().join(path), pointer).expect("written");
        let output = place.train(&["--round", "1", "--stage", "rollout"]).output().expect("train");
        assert!(error_lines(&output)[0].contains("pointer of Git LFS"), "{path}");
    }
}

#[test]
fn rationales_that_are_all_empty_are_told_as_what_they_are() {
    let place = Place::new(12).scored();
    place.stage("rl");
    let mut rows: Vec<Rationale> = place.dataset().read(1).expect("rationales");
    for row in &mut rows {
        (row.rationale, row.deduplicated, row.sentences) = (String::new(), String::new(), Vec::new());
    }
    place.dataset().write_part(1, "rl-train-00000", rows, &provenance()).expect("written");
    let said = place.stage("sft");
    assert!(said.contains(&schemas::Rationale::nothing_to_correct(1)), "{said}");
    assert!(!said.contains("next: collect-feedback"), "{said}");
}
