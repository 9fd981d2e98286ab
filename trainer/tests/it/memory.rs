//! A step that does not fit into memory, through the real `train` under the system's memory limit.

use crate::small::Place;
use schemas::{Metric, Rollout};
use std::process::Output;

/// The stage with at most this much address space. Without memory for a thread's signal stack, Rust panics; printing a
/// backtrace without memory would then deadlock.
fn within(place: &Place, megabytes: u64, stage: &str, flags: &[&str]) -> Output {
    let train = place.train(&["--round", "1", "--stage", stage]);
    let mut command = std::process::Command::new("bash");
    let limited = "ulimit -v $1; shift; exec timeout --foreground --signal KILL 300 \"$@\"";
    command.current_dir(place.path()).env("RUST_BACKTRACE", "0").args(["-c", limited, "bash"]);
    command.arg((megabytes * 1024).to_string()).arg(train.get_program()).args(train.get_args()).args(flags);
    let output = command.output().expect("bash");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(137), "{stage} at {megabytes} MB hangs: {said}");
    output
}

/// Raises the limit until the stage's training first succeeds: with less memory than it would use, in smaller pieces. Later
/// work of the stage may need more memory than that.
fn trained_in_smaller_pieces(place: &Place, stage: &str, flags: &[&str]) {
    for megabytes in (512..8192).step_by(16) {
        let place = place.copy();
        let output = within(&place, megabytes, stage, flags);
        if !place.checkpoint(&format!("round-1/{stage}")).join("model.safetensors").is_file() {
            assert!(!output.status.success(), "without a checkpoint");
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("out of memory; continuing with at most"), "{stage} at {megabytes} MB: {said}");
        return;
    }
    panic!("{stage} never ended");
}

fn first_loss(place: &Place) -> f64 {
    let rows: Vec<Metric> = place.dataset().read(1).expect("metrics");
    rows.iter().find(|row| row.stage == "rl" && row.name == "loss" && row.step == 1).expect("a loss").value
}

#[test]
#[cfg(target_os = "linux")]
fn a_step_without_room_is_taken_in_smaller_pieces() {
    let place = Place::new(1200);
    place.stage("rollout");
    place.write_scores(&place.dataset().read::<Rollout>(1).expect("rollouts"), |_| {});
    let rl = ["--passes", "1", "--minibatch", "4000", "--accumulation", "1"];
    trained_in_smaller_pieces(&place, "rl", &rl);
    // In pieces, the loss equals that of the whole.
    let (whole, pieces) = (place.copy(), place.copy());
    for (place, budget) in [(&whole, "10000000"), (&pieces, "500")] {
        let mut command = place.train(&["--round", "1", "--stage", "rl", "--max-tokens-per-batch", budget]);
        let output = command.args(rl).output().expect("train");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!((first_loss(&whole) - first_loss(&pieces)).abs() < 1e-5);
    whole.write_corrections(|_| {});
    trained_in_smaller_pieces(&whole, "sft", &["--sft-epochs", "1", "--sft-batch", "1200"]);
}
