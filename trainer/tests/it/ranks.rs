//! One round in several processes: what they write equals what one process writes.

use crate::small::Place;
use schemas::{Answer, Rationale, Rollout, Table};
use serde::Serialize;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use trainer::student::checkpoint::read_safetensors;

/// A port that was free just now.
pub(crate) fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address").port().to_string()
}

/// The real `train`, as one rank of `world` on `port`.
pub(crate) fn start(place: &Place, arguments: &[&str], (rank, world): (usize, usize), port: &str) -> Child {
    let mut command = place.train(arguments);
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", world.to_string());
    command.env("LOCAL_RANK", rank.to_string()).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("train")
}

/// All ranks of a run, which are waited for.
pub(crate) fn run(place: &Place, world: usize, arguments: &[&str]) -> Vec<Output> {
    let port = free_port();
    let ranks: Vec<Child> = (0..world).map(|rank| start(place, arguments, (rank, world), &port)).collect();
    ranks.into_iter().map(|rank| rank.wait_with_output().expect("output")).collect()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command of all ranks that succeeds; rank 0 alone has something to say.
fn succeeds(place: &Place, world: usize, arguments: &[&str]) -> String {
    let outputs = run(place, world, arguments);
    for (rank, output) in outputs.iter().enumerate() {
        assert!(output.status.success(), "{arguments:?}, rank {rank}: {}", errors(output));
        assert!(rank == 0 || output.stdout.is_empty(), "rank {rank} speaks");
        assert!(rank == 0 || output.stderr.is_empty(), "rank {rank} speaks: {}", errors(output));
    }
    String::from_utf8_lossy(&outputs[0].stdout).into_owned()
}

fn stage(place: &Place, world: usize, stage: &str, flags: &[&str]) {
    let arguments = [&["--round", "1", "--stage", stage], flags].concat();
    if world == 1 {
        let output = place.train(&arguments).output().expect("train");
        assert!(output.status.success(), "{stage}: {}", errors(&output));
    } else {
        succeeds(place, world, &arguments);
    }
}

/// Rows of a table, without the fingerprint of weights that differ in their last digits.
fn rows<T: Table + Serialize>(place: &Place) -> Vec<String> {
    let rows: Vec<T> = place.dataset().read(1).expect(T::NAME);
    let without = |row: &T| {
        let mut row = serde_json::to_value(row).expect("json");
        row.as_object_mut().expect("row").remove("policy");
        row.to_string()
    };
    rows.iter().map(without).collect()
}

/// The largest difference between two files of weights.
fn apart(left: &Path, right: &Path) -> f64 {
    let (left, right) = (read_safetensors(left).expect("weights"), read_safetensors(right).expect("weights"));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let off = left.iter().map(|(name, tensor)| (tensor - &right[name]).abs().max().double_value(&[]));
    off.fold(0.0, f64::max)
}

/// The same student without dropout, whose masks depend on which rows are worked on together.
fn without_dropout(place: Place) -> Place {
    let path = place.checkpoint("base/config.json");
    let text = fs::read_to_string(&path).expect("config");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("json");
    config["dropout_rate"] = 0.0.into();
    fs::write(&path, config.to_string()).expect("written");
    place
}

/// Settings of the rounds below: values learned in passes of their own, a pass chosen by its loss.
const FLAGS: [&str; 8] =
    ["--baseline", "model", "--value-passes", "1", "--sft-keep", "val_loss", "--max-tokens-per-batch", "400"];

#[test]
fn a_round_of_several_ranks_equals_that_of_one_process() {
    let start = without_dropout(Place::new(130));
    let base = start.checkpoint("base").display().to_string();
    let places: Vec<Place> = (1..4).map(|_| start.copy()).collect();
    for (place, world) in places.iter().zip(1..) {
        let out = place.checkpoint("pretrained").display().to_string();
        let pretrain = ["pretrain", "--from", &base, "--out", &out, "--epochs", "1", "--share", "0.3"];
        if world == 1 {
            assert!(place.train(&pretrain).output().expect("train").status.success());
        } else {
            succeeds(place, world, &pretrain);
        }
        stage(place, world, "rollout", &FLAGS);
        let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
        place.write_scores(&rollouts, |_| {});
        stage(place, world, "rl", &FLAGS);
        place.write_corrections(|_| {});
        stage(place, world, "sft", &FLAGS);
        stage(place, world, "answer", &FLAGS);
        assert!(place.hidden_files().is_empty(), "{:?}", place.hidden_files());
    }
    let one = &places[0];
    for (place, world) in places.iter().zip(1..).skip(1) {
        let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
        let expected: Vec<Rollout> = one.dataset().read(1).expect("rollouts");
        assert!(rollouts == expected, "{world} ranks sample what one does, to the last bit");
        for file in
            ["pretrained/model", "round-1/rl/model", "round-1/sft/model", "round-1/answer/adapter_model"]
        {
            let file = format!("{file}.safetensors");
            let off = apart(&one.checkpoint(&file), &place.checkpoint(&file));
            println!("{world} ranks, {file}: off by {off:e}");
            assert!(off < 1e-5, "{world} ranks, {file}: off by {off:e}");
        }
        assert_eq!(rows::<Rationale>(place), rows::<Rationale>(one), "{world} ranks");
        assert_eq!(rows::<Answer>(place), rows::<Answer>(one), "{world} ranks");
        for name in ["loss", "val_loss"] {
            let (found, expected) = (place.numbers("sft", name), one.numbers("sft", name));
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {expected:?}");
        }
    }
}
