//! One round in several processes: what they write equals what one process writes.

use crate::small::{PICTURE, Place, problem, provenance};
use schemas::{Answer, Problem, Rationale, Rollout, Table, table};
use serde::Serialize;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use trainer::checkpoint::hf::read_safetensors;

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

/// Runs all ranks and waits for them.
pub(crate) fn run(place: &Place, world: usize, arguments: &[&str]) -> Vec<Output> {
    let port = free_port();
    let ranks: Vec<Child> = (0..world).map(|rank| start(place, arguments, (rank, world), &port)).collect();
    ranks.into_iter().map(|rank| rank.wait_with_output().expect("output")).collect()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A successful command of all ranks; only rank 0 prints anything.
fn succeeds(place: &Place, world: usize, arguments: &[&str]) -> String {
    let outputs = run(place, world, arguments);
    for (rank, output) in outputs.iter().enumerate() {
        assert!(output.status.success(), "{arguments:?}, rank {rank}: {}", errors(output));
        assert!(rank == 0 || output.stdout.is_empty(), "rank {rank} speaks");
        assert!(rank == 0 || output.stderr.is_empty(), "rank {rank} speaks: {}", errors(output));
    }
    String::from_utf8_lossy(&outputs[0].stdout).into_owned()
}

pub(crate) fn stage(place: &Place, world: usize, stage: &str, flags: &[&str]) {
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

/// The same student without dropout, whose masks depend on the batches.
fn without_dropout(place: Place) -> Place {
    let path = place.checkpoint("base/config.json");
    let text = fs::read_to_string(&path).expect("config");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("json");
    config["dropout_rate"] = 0.0.into();
    fs::write(&path, config.to_string()).expect("written");
    place
}

/// Such a student with weights whose gradients are summed during the backward pass, which takes float32.
fn wide() -> Place {
    without_dropout(Place::with_student(70, |config| config.d_ff = 2048))
}

/// Settings of the rounds below: separate value passes, and checkpoint selection by loss.
pub(crate) const FLAGS: [&str; 18] = [
    "--dtype",
    "float32",
    "--lora-dropout",
    "0",
    // AdamW makes full steps for gradients close to 0, whose sign depends on rounding.
    "--rl-learning-rate",
    "2e-5",
    "--sft-learning-rate",
    "1e-4",
    "--answer-learning-rate",
    "1e-4",
    "--baseline",
    "model",
    "--value-passes",
    "1",
    "--sft-keep",
    "val_loss",
    "--max-tokens-per-batch",
    "400",
];

#[test]
fn a_round_of_several_ranks_equals_that_of_one_process() {
    let start = wide();
    let base = start.checkpoint("base").display().to_string();
    let places: Vec<Place> = (1..4).map(|_| start.copy()).collect();
    for (place, world) in places.iter().zip(1..) {
        let out = place.checkpoint("pretrained").display().to_string();
        let pretrain = ["pretrain", "--from", &base, "--out", &out, "--epochs", "1", "--share", "0.3"];
        let pretrain = [&pretrain[..], &FLAGS].concat();
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
            assert!(off < 1e-5, "{world} ranks, {file}: off by {off:e}");
        }
        let moved =
            apart(&one.checkpoint("base/model.safetensors"), &one.checkpoint("round-1/rl/model.safetensors"));
        assert!(moved > 5e-5, "it has learned: {moved:e}");
        assert_eq!(rows::<Rationale>(place), rows::<Rationale>(one), "{world} ranks");
        assert_eq!(rows::<Answer>(place), rows::<Answer>(one), "{world} ranks");
        for name in ["loss", "val_loss"] {
            let (found, expected) = (place.numbers("sft", name), one.numbers("sft", name));
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {expected:?}");
        }
    }
}

/// The other objectives, whose last backward pass of a step is another one: that of the pairs, or the policy's after that of a
/// value model of its own.
#[test]
fn objectives_of_several_ranks_learn_what_they_learn_in_one_process() {
    let start = wide().scored_with(&["--dtype", "float32"]);
    for objective in [
        &["--algorithm", "dpo", "--dpo-margin", "0.001"][..],
        &["--value-loss", "true", "--value-folds", "1"],
        &["--value-loss", "true", "--value-model", "shared"],
    ] {
        let (one, two) = (start.copy(), start.copy());
        let small = ["--rl-minibatch", "8", "--rl-accumulation", "2", "--max-kl", "0", "--passes", "2"];
        let flags = [&FLAGS[..], &small, objective].concat();
        stage(&one, 1, "rl", &flags);
        stage(&two, 2, "rl", &flags);
        let weights = |place: &Place| place.checkpoint("round-1/rl/model.safetensors");
        let off = apart(&weights(&one), &weights(&two));
        assert!(off < 1e-5, "{objective:?}: off by {off:e}");
        let moved = apart(&weights(&one), &one.checkpoint("base/model.safetensors"));
        assert!(moved > 5e-5, "{objective:?}: it has learned: {moved:e}");
    }
}

/// Sharding the optimizer's state leaves the weights bit-identical, and their bfloat16 copies are updated on all ranks.
#[test]
fn ranks_that_share_out_the_optimizers_state_learn_the_same() {
    let start = Place::new(60);
    let round = |flags: &[&str]| {
        let place = start.copy();
        let flags = [&FLAGS[2..], &["--dtype", "bfloat16", "--value-loss", "true"], flags].concat();
        stage(&place, 2, "rollout", &flags);
        let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
        place.write_scores(&rollouts, |_| {});
        stage(&place, 2, "rl", &flags);
        place.write_corrections(|_| {});
        stage(&place, 2, "sft", &flags);
        stage(&place, 2, "answer", &flags);
        assert!(place.hidden_files().is_empty(), "{:?}", place.hidden_files());
        ["rl/model", "sft/model", "answer/adapter_model"]
            .map(|file| fs::read(place.checkpoint(&format!("round-1/{file}.safetensors"))).expect("weights"))
    };
    let (whole, shards) = (round(&[]), round(&["--shard-optimizer", "true"]));
    assert!(whole[0] != whole[1], "it has learned");
    assert!(whole == shards);
}

/// Waits for a file, or for the end of the process that is to write it.
fn wait_for(path: &Path, rank: &mut Child) {
    while !path.exists() {
        assert!(rank.try_wait().expect("status").is_none(), "it ended before {}", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn signal(rank: &Child, name: &str) {
    let status = Command::new("kill").args([name, &rank.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

/// A training of many steps, each of which is saved.
const LONG: [&str; 10] =
    ["--round", "1", "--stage", "rl", "--passes", "10", "--rl-minibatch", "8", "--rl-accumulation", "1"];

#[test]
fn ranks_that_were_killed_or_interrupted_go_on_in_any_number() {
    let start_of = without_dropout(Place::new(40)).scored();
    let long = [&LONG[..], &["--max-kl", "0", "--rl-learning-rate", "2e-5"]].concat();
    let calm = start_of.copy();
    succeeds(&calm, 2, &long);
    let weights = |place: &Place| place.checkpoint("round-1/rl/model.safetensors");
    let expected = fs::read(weights(&calm)).expect("weights");
    // The state is sharded before the kill, after it, or both; in the uninterrupted run it is not.
    let (whole, shards) = (&[][..], &["--shard-optimizer", "true"][..]);
    for (victim, how, then, (flags, then_flags)) in [
        (1, "-KILL", 2, (whole, whole)),
        (0, "-KILL", 2, (shards, shards)),
        (1, "-INT", 2, (shards, whole)),
        (0, "-INT", 2, (whole, shards)),
        (1, "-KILL", 3, (shards, shards)),
        (0, "-INT", 1, (shards, shards)),
    ] {
        let place = start_of.copy();
        let port = free_port();
        let then_long = [&long, then_flags].concat();
        let long = [&long, flags].concat();
        let mut ranks: Vec<Child> = (0..2).map(|rank| start(&place, &long, (rank, 2), &port)).collect();
        wait_for(&place.checkpoint("round-1/.rl-step.safetensors"), &mut ranks[0]);
        signal(&ranks[victim], how);
        let outputs: Vec<Output> =
            ranks.into_iter().map(|rank| rank.wait_with_output().expect("output")).collect();
        for (rank, output) in outputs.iter().enumerate() {
            let said = errors(output);
            if how == "-INT" {
                assert_eq!(output.status.code(), Some(130), "{said}");
            } else if rank != victim {
                assert_eq!(output.status.code(), Some(1), "{said}");
                assert!(said.contains(&format!("rank {victim} has ended")), "{said}");
                assert!(said.contains("continues from the last step checkpoint"), "{said}");
            }
        }
        let said = if then == 1 {
            errors(&place.train(&then_long).output().expect("train"))
        } else {
            errors(&run(&place, then, &then_long)[0])
        };
        assert!(said.contains("continuing after step"), "{said}");
        if then == 2 {
            assert!(fs::read(weights(&place)).expect("weights") == expected, "{how} of rank {victim}");
        } else {
            let off = apart(&weights(&place), &weights(&calm));
            assert!(off < 1e-5, "then {then}: off by {off:e}");
        }
        assert!(place.hidden_files().is_empty(), "{:?}", place.hidden_files());
    }
}

#[test]
fn a_rank_that_stands_still_is_given_up() {
    let place = without_dropout(Place::new(40)).scored();
    let port = free_port();
    let arguments = [&LONG[..], &["--max-kl", "0", "--rank-timeout-secs", "2"]].concat();
    let mut ranks: Vec<Child> = (0..2).map(|rank| start(&place, &arguments, (rank, 2), &port)).collect();
    wait_for(&place.checkpoint("round-1/.rl-step.safetensors"), &mut ranks[0]);
    signal(&ranks[1], "-STOP");
    let stopped = ranks.pop().expect("a rank");
    let output = ranks.pop().expect("a rank").wait_with_output().expect("output");
    signal(&stopped, "-KILL");
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let expected = "rank 1 has not answered for 2 s (student.rank_timeout_secs)";
    assert!(errors(&output).contains(expected), "{}", errors(&output));
    let _ = stopped.wait_with_output();
}

/// Whether a rank has begun to look for the others, which a thread of that name does.
#[cfg(target_os = "linux")]
fn is_joining(rank: &Child) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", rank.id())).expect("tasks");
    let mut names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
    names.any(|name| name.is_ok_and(|name| name.trim() == "join"))
}

/// Whether it waits for rank 1, or for the store of rank 0.
#[test]
#[cfg(target_os = "linux")]
fn a_rank_that_waits_for_others_ends_when_it_is_interrupted() {
    let place = Place::new(12);
    let arguments = ["--round", "1", "--stage", "rollout", "--join-timeout-secs", "30"];
    for (rank, how) in [(0, "-INT"), (1, "-TERM")] {
        let mut child = start(&place, &arguments, (rank, 2), &free_port());
        while !is_joining(&child) {
            assert!(child.try_wait().expect("status").is_none(), "rank {rank} has ended by itself");
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(&child, how);
        let output = child.wait_with_output().expect("output");
        assert_eq!(output.status.code(), Some(130), "rank {rank}: {}", errors(&output));
    }
}

#[test]
fn what_ranks_cannot_do_together_is_told_by_each() {
    let place = Place::new(12);
    let rollout = ["--round", "1", "--stage", "rollout"];
    // Other settings on one rank.
    let port = free_port();
    let ranks: Vec<Child> = [["--seed", "1"], ["--seed", "2"]]
        .iter()
        .enumerate()
        .map(|(rank, flag)| start(&place, &[&rollout[..], flag].concat(), (rank, 2), &port))
        .collect();
    for rank in ranks {
        let output = rank.wait_with_output().expect("output");
        assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
        let expected = "rank 0 was started with `rollout.seed = 1`, rank 1 with `rollout.seed = 2`";
        assert!(errors(&output).contains(expected), "{}", errors(&output));
    }
    // A dataset that another process works on.
    let lock = place.dataset().lock("train").expect("locked");
    for (rank, output) in run(&place, 2, &rollout).iter().enumerate() {
        assert_eq!(output.status.code(), Some(2), "{}", errors(output));
        assert!(errors(output).contains("is in use by another train"), "rank {rank}: {}", errors(output));
    }
    drop(lock);
    // A file that rank 0 cannot write, as on a full disk.
    let part = place.dataset().part_path::<Rollout>(1, "sampled-00000");
    let in_the_way = schemas::file::beside(&part).expect("folder");
    fs::create_dir(&in_the_way).expect("folder");
    for (rank, output) in run(&place, 2, &rollout).iter().enumerate() {
        assert!(!output.status.success());
        assert!(errors(output).contains("cannot create"), "rank {rank}: {}", errors(output));
        assert_eq!(errors(output).contains("rank 1 of 2: error: rank 0: cannot create"), rank == 1);
    }
    fs::remove_dir(&in_the_way).expect("folder");
    // Only half of a launcher's variables are set.
    let output = place.train(&rollout).env("RANK", "0").output().expect("train");
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("expected WORLD_SIZE as well"), "{}", errors(&output));
    // After all of this the same command samples.
    succeeds(&place, 2, &rollout);
}

/// Two machines without a shared disk: each would decide by its own files what is left to do.
#[test]
fn ranks_that_see_other_files_or_weights_are_refused() {
    let refused = |places: [&Place; 2], stage: &str, expected: &str| {
        let port = free_port();
        let arguments = ["--round", "1", "--stage", stage, "--rank-timeout-secs", "2"];
        let ranks: Vec<Child> = places
            .iter()
            .enumerate()
            .map(|(rank, place)| start(place, &arguments, (rank, 2), &port))
            .collect();
        for rank in ranks {
            let output = rank.wait_with_output().expect("output");
            assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
            assert!(errors(&output).contains(expected), "{}", errors(&output));
        }
    };
    let place = Place::new(12);
    let other = place.copy();
    let path = other.checkpoint("base").join("model.safetensors");
    let mut bytes = fs::read(&path).expect("weights");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&path, bytes).expect("written");
    refused([&place, &other], "rollout", "rank 1 read a different student from ");

    let other = place.copy();
    let path = other.checkpoint("base").join("tokenizer.json");
    let text = fs::read_to_string(&path).expect("tokenizer");
    let changed = text.replace("\"normalized\": false", "\"normalized\": true ");
    assert!(changed != text && changed.len() == text.len());
    fs::write(&path, changed).expect("written");
    refused([&place, &other], "rollout", "rank 1 read a different tokenizer from ");
    assert!(place.dataset().read::<Rollout>(1).expect("rollouts").is_empty());

    let other = place.copy();
    place.stage("rollout");
    let part = "data/rollouts/round-1/part-sampled-00000.parquet";
    refused([&place, &other], "rl", &format!("rank 1 has no {part}, which rank 0 has"));
    refused([&other, &place], "rl", &format!("rank 1 has {part}, which rank 0 does not have"));
}

/// All of them would write the same folder.
#[test]
fn one_rank_merges_and_describes_a_student() {
    let place = Place::new(20);
    let path = |name: &str| place.checkpoint(name).display().to_string();
    let (base, adapter, merged) = (path("base"), path("adapter"), path("merged"));
    let pretrain = ["pretrain", "--from", &base, "--out", &adapter, "--epochs", "1"];
    let output =
        place.train(&[&pretrain[..], &["--student-lora-rank", "4"]].concat()).output().expect("train");
    assert!(output.status.success(), "{}", errors(&output));
    let said = succeeds(&place, 2, &["merge", &adapter, "--out", &merged]);
    assert!(said.contains("merged with"), "{said}");
    assert!(place.checkpoint("merged/model.safetensors").is_file());
    let said = succeeds(&place, 2, &["info", &merged]);
    assert!(said.contains("vocabulary"), "{said}");
}

/// Features of a random network, by one process and by two; of 37 pictures the last batches are smaller.
#[test]
fn ranks_share_pictures() {
    let place = Place::new(1);
    let dataset = place.dataset();
    fs::create_dir_all(dataset.images_dir()).expect("folder");
    let rows = (0..37).map(|number| {
        let image = format!("images/p{number}.png");
        fs::write(dataset.root().join(&image), PICTURE).expect("written");
        Problem { image: Some(image), ..problem(number) }
    });
    table::write(&dataset.problems_path(), rows, &provenance()).expect("written");
    let other = place.copy();
    assert!(place.train(&["features"]).output().expect("train").status.success());
    succeeds(&other, 2, &["features"]);
    let bytes = |place: &Place| fs::read(place.dataset().vision_path("vit")).expect("features");
    assert!(bytes(&place) == bytes(&other));
}
