//! kill -9 of one of several ranks in every stage: the others end and name it, and the same command continues to the result of
//! an uninterrupted run.

use crate::kill::left;
use crate::ranks::{FLAGS, free_port, run, signal, stage, start};
use crate::small::Place;
use schemas::Rollout;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::time::Duration;

/// A moment of a stage: when this file exists.
type Moment = (&'static str, fn(&Place) -> PathBuf);

/// In the order of a round; several of one stage cover its training and what follows.
const MOMENTS: [Moment; 8] = [
    ("rollout", |place| place.dataset().part_path::<Rollout>(1, "sampled-00000")),
    ("rl", |place| place.checkpoint("round-1/.rl-values-0-step.safetensors")),
    ("rl", |place| place.checkpoint("round-1/.rl-step.safetensors")),
    ("rl", |place| place.checkpoint("round-1/rl/config.json")),
    ("sft", |place| place.checkpoint("round-1/.sft-step.safetensors")),
    ("sft", |place| place.checkpoint("round-1/sft/config.json")),
    ("answer", |place| place.checkpoint("round-1/.answer-step.safetensors")),
    ("answer", |place| place.checkpoint("round-1/answer/adapter_config.json")),
];

#[test]
fn a_rank_killed_in_any_stage_is_named_and_the_round_ends_as_an_undisturbed_one() {
    // More train problems than a part of rollouts holds.
    let calm = Place::new(270);
    let flags = [&FLAGS[..], &["--shard-optimizer", "true"]].concat();
    let mut victim = 0;
    for name in ["rollout", "rl", "sft", "answer"] {
        let prepared = calm.copy();
        stage(&calm, 2, name, &flags);
        let expected = left(&calm);
        let arguments = [&["--round", "1", "--stage", name], &flags[..]].concat();
        for (_, file) in MOMENTS.iter().filter(|(of, _)| *of == name) {
            // Repeated if both had ended before the kill.
            let killed = (0..10).find_map(|_| {
                let place = prepared.copy();
                kill(&place, &arguments, &file(&place), victim).then_some(place)
            });
            let Some(place) = killed else { panic!("{name}: no kill at {}", file(&prepared).display()) };
            // Regardless of which ranks a launcher restarts.
            for (rank, output) in run(&place, 2, &arguments).iter().enumerate() {
                assert!(output.status.success(), "{name}, rank {rank}: {}", errors(output));
            }
            let differences = left(&place).differences(&expected);
            let at = file(&place);
            assert!(
                differences.is_empty(),
                "{name}, rank {victim} killed at {}: {}",
                at.display(),
                differences.join("\n")
            );
            victim = 1 - victim;
        }
        match name {
            "rollout" => calm.write_scores(&calm.dataset().read::<Rollout>(1).expect("rollouts"), |_| {}),
            "rl" => calm.write_corrections(|_| {}),
            _ => {}
        }
    }
}

/// Starts two ranks and kills one once a file exists; false if they had succeeded before.
fn kill(place: &Place, arguments: &[&str], file: &Path, victim: usize) -> bool {
    let port = free_port();
    let mut ranks: Vec<Child> = (0..2).map(|rank| start(place, arguments, (rank, 2), &port)).collect();
    while !file.exists() {
        if ranks[0].try_wait().expect("status").is_some() {
            for rank in ranks {
                let output = rank.wait_with_output().expect("output");
                assert!(output.status.success(), "{}", errors(&output));
            }
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&ranks[victim], "-KILL");
    let outputs: Vec<Output> =
        ranks.into_iter().map(|rank| rank.wait_with_output().expect("output")).collect();
    let said = errors(&outputs[1 - victim]);
    if outputs[victim].status.code().is_some() {
        assert!(outputs.iter().all(|output| output.status.success()), "{said}");
        return false;
    }
    assert_eq!(outputs[1 - victim].status.code(), Some(1), "{said}");
    // Detected by the closed connection, not after student.rank_timeout_secs.
    assert!(said.contains(&format!("error: rank {victim} has ended (")), "{said}");
    assert!(said.contains("the same command continues from the last step checkpoint"), "{said}");
    true
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
