//! kill -9 at random moments of each stage: weights and tables equal those of an uninterrupted run.
//!
//! `ARES_KILLS` is the number of kills in each stage.

use crate::small::Place;
use schemas::provenance::sha256_hex;
use schemas::{Answer, Metric, Rationale, Rollout, Table};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: u32 = 3;

/// Further phases in which a stage may be killed: value passes, and checkpoint selection.
const FLAGS: [&str; 6] = ["--baseline", "model", "--value-passes", "1", "--sft-keep", "val_loss"];

const STAGES: [&str; 4] = ["rollout", "rl", "sft", "answer"];

/// Metrics that depend on time, which differ between runs.
const OF_THE_CLOCK: [&str; 4] = ["second", "tokens_per", "memory", "time"];

/// The results of a run: weights by folder, rows by table, and hidden files, of which there must be none.
#[derive(Debug)]
pub(crate) struct Left {
    weights: BTreeMap<PathBuf, String>,
    tables: BTreeMap<&'static str, Vec<Value>>,
    hidden: Vec<PathBuf>,
}

impl Left {
    /// Names what differs in these results; nothing of results that are equal.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.weights != expected.weights {
            found.push(format!("weights {:#?}, expected {:#?}", self.weights, expected.weights));
        }
        if self.hidden != expected.hidden {
            found.push(format!("hidden files {:?}, expected {:?}", self.hidden, expected.hidden));
        }
        for (table, rows) in &self.tables {
            let wanted = &expected.tables[table];
            if rows != wanted {
                let (count, expected) = (rows.len(), wanted.len());
                let first = rows.iter().zip(wanted).find_map(|(row, wanted)| columns(row, wanted));
                found.push(format!(
                    "{table}: {count} rows, expected {expected}; the first that differ: {first:#?}"
                ));
            }
        }
        found
    }
}

/// The columns in which two rows differ; `None` if they are equal.
fn columns(row: &Value, wanted: &Value) -> Option<Vec<[String; 2]>> {
    let columns = row.as_object().expect("a row").iter().filter(|(name, value)| **value != wanted[*name]);
    let different: Vec<_> = columns
        .map(|(name, value)| [format!("{name} {value}"), format!("expected {}", wanted[name])])
        .collect();
    (!different.is_empty()).then_some(different)
}

pub(crate) fn left(place: &Place) -> Left {
    let mut weights = BTreeMap::new();
    let mut hidden = Vec::new();
    for path in files(place.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let relative = path.strip_prefix(place.path()).expect("inside").to_path_buf();
        if name == "model.safetensors" || name == "adapter_model.safetensors" {
            weights.insert(relative, sha256_hex(&fs::read(&path).expect("weights")));
        } else if name.starts_with('.') && !name.ends_with(".lock") {
            hidden.push(relative);
        }
    }
    let tables =
        [rows::<Rollout>(place), rows::<Rationale>(place), rows::<Answer>(place), rows::<Metric>(place)];
    Left { weights, tables: tables.into(), hidden }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn rows<T: Table + Serialize>(place: &Place) -> (&'static str, Vec<Value>) {
    let rows: Vec<T> = place.dataset().read(1).expect(T::NAME);
    assert!(!rows.is_empty() || T::NAME != "rollouts");
    let rows = rows.iter().filter_map(|row| {
        let mut row = serde_json::to_value(row).expect("json");
        let is_of_the_clock =
            T::NAME == "metrics" && OF_THE_CLOCK.iter().any(|word| row["name"].to_string().contains(word));
        row.as_object_mut().expect("row").remove("at");
        (!is_of_the_clock).then_some(row)
    });
    (T::NAME, rows.collect())
}

/// The same with adapters of policy and value model on one trunk.
const LORA: [&str; 6] = ["--value-loss", "true", "--sft-keep", "val_loss", "--student-lora-rank", "4"];

fn command(place: &Place, stage: &str, flags: &[&str]) -> Command {
    let mut command = place.train(&["--round", "1", "--stage", stage]);
    command.args(flags);
    command
}

fn run(place: &Place, stage: &str, flags: &[&str]) {
    let output = command(place, stage, flags).output().expect("train");
    assert!(output.status.success(), "{stage}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts the stage; its standard error goes to a file.
fn begin(place: &Place, stage: &str, flags: &[&str]) -> Child {
    let said = fs::File::create(place.path().join("said")).expect("file");
    command(place, stage, flags).stdout(Stdio::null()).stderr(said).spawn().expect("train")
}

fn said(place: &Place) -> String {
    String::from_utf8_lossy(&fs::read(place.path().join("said")).expect("file")).into_owned()
}

/// Kills the stage at random moments between its start and the end of an uninterrupted run, until `wanted` kills have hit it;
/// if it ended before, it is started again. `calm`, the time of an uninterrupted run, is corrected if a later one takes less: the
/// machine may have been busy.
fn disturb(
    prepared: &Place,
    (stage, flags): (&str, &[&str]),
    mut calm: Duration,
    expected: &Left,
    wanted: u32,
    moment: &mut u64,
) {
    let mut kills = 0;
    for _ in 0..100 {
        let place = prepared.copy();
        let before = kills;
        while kills < wanted {
            *moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (*moment >> 40) as f64 / (1u64 << 24) as f64;
            let start = Instant::now();
            let mut child = begin(&place, stage, flags);
            let ends = ends_within(&mut child, calm.mul_f64(share));
            if !ends {
                child.kill().expect("killed");
            }
            let status = child.wait().expect("status");
            if status.code().is_some() {
                assert!(status.success(), "{stage} after {kills} kills: {status}: {}", said(&place));
                if kills == before {
                    calm = calm.min(start.elapsed());
                }
                break;
            }
            kills += 1;
        }
        run(&place, stage, flags);
        let differences = left(&place).differences(expected);
        assert!(differences.is_empty(), "{stage} after {kills} kills: {}", differences.join("\n"));
        if kills >= wanted {
            println!("{stage}: {kills} kills within {calm:?}");
            return;
        }
    }
    panic!("{stage}: only {kills} kills hit within {calm:?}");
}

/// Whether a process ends within this time.
fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if child.try_wait().expect("status").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Ctrl-C, by a signal: status 130, and the same command continues to the result of an uninterrupted run.
#[test]
fn an_interrupted_stage_goes_on() {
    let calm = Place::new(270);
    for stage in ["rollout", "rl", "sft", "answer"] {
        let prepared = calm.copy();
        let start = Instant::now();
        run(&calm, stage, &FLAGS);
        let mut took = start.elapsed();
        // Earlier and earlier, so that one signal comes while the stage runs; and again, as a machine may be busy for a while.
        let shares = [0.7, 0.5, 0.35, 0.2, 0.1].into_iter().cycle().take(25);
        let interrupted = shares.into_iter().find_map(|share| {
            let place = prepared.copy();
            let start = Instant::now();
            let mut child = begin(&place, stage, &FLAGS);
            if ends_within(&mut child, took.mul_f64(share)) {
                let status = child.wait().expect("status");
                assert!(status.success(), "{stage}: {status}: {}", said(&place));
                took = took.min(start.elapsed()); // the machine was busy before
                return None;
            }
            let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
            let (status, said) = (child.wait().expect("status"), said(&place));
            if signal.success() && status.code() == Some(130) {
                assert!(said.contains("interrupted"), "{said}");
                return Some(place);
            }
            if status.code().is_none() {
                took = took.mul_f64(1.5); // it had not set its handler yet: the machine is busy now
            } else {
                assert!(status.success(), "{stage}: {status} {said}");
            }
            None
        });
        let Some(place) = interrupted else { panic!("{stage}: no signal came while it ran") };
        run(&place, stage, &FLAGS);
        let differences = left(&place).differences(&left(&calm));
        assert!(differences.is_empty(), "{stage}: {}", differences.join("\n"));
        match stage {
            "rollout" => calm.write_scores(&calm.dataset().read::<Rollout>(1).expect("rollouts"), |_| {}),
            "rl" => calm.write_corrections(|_| {}),
            _ => {}
        }
    }
}

#[test]
fn a_killed_round_ends_as_an_undisturbed_one() {
    let folders = kill_a_round(&FLAGS, &STAGES);
    assert_eq!(folders.len(), 4, "base, rl, sft, answer: {folders:?}");
}

#[test]
fn a_killed_round_of_adapters_ends_as_an_undisturbed_one() {
    let folders = kill_a_round(&LORA, &["rl", "sft"]);
    assert_eq!(folders.len(), 3, "base, rl, sft: {folders:?}");
}

/// Kills these stages of a round, and returns the resulting weights.
fn kill_a_round(flags: &[&str], killed: &[&str]) -> BTreeMap<PathBuf, String> {
    let wanted = std::env::var("ARES_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut moment = 4242;
    // More train problems than a part of rollouts holds.
    let calm = Place::new(270);
    for stage in STAGES.into_iter().filter(|stage| *stage != "answer" || killed.contains(stage)) {
        let prepared = calm.copy();
        let start = Instant::now();
        run(&calm, stage, flags);
        let took = start.elapsed();
        let expected = left(&calm);
        assert_eq!(expected.hidden, Vec::<PathBuf>::new());
        if killed.contains(&stage) {
            if stage == "rl" {
                // As a kill leaves it: unfinished values of a fold that these settings do not have.
                let path = prepared.checkpoint("round-1/.writing-.rl-values-9.safetensors");
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, "half").expect("written");
            }
            disturb(&prepared, (stage, flags), took, &expected, wanted, &mut moment);
        }
        match stage {
            "rollout" => calm.write_scores(&calm.dataset().read::<Rollout>(1).expect("rollouts"), |_| {}),
            "rl" => calm.write_corrections(|_| {}),
            _ => {}
        }
    }
    let folders = left(&calm).weights;
    let different: std::collections::BTreeSet<&String> = folders.values().collect();
    assert_eq!(different.len(), folders.len(), "{folders:?}");
    folders
}
