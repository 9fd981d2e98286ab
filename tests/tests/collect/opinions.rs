//! Several opinions on each rollout: repeats by one Teacher, several Teachers, and both.

use crate::shared::{Place, Tables, fast};
use schemas::opinions::CombinedScore;
use schemas::{Score, table};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use workspace_tests::command::{Ran, collect_feedback, run, start};
use workspace_tests::teacher_service::{BatchOptions, Fault, Faults, Options, Service, TeacherService};

const SCORES: [&str; 2] = ["--stage", "scores"];
const MAIN: &str = "gpt-4o";
const OTHER: &str = "claude-haiku-5-5";

/// Rows of each opinion: Teacher and repeat.
fn rows(tables: &Tables) -> BTreeMap<(String, u32), usize> {
    let mut rows = BTreeMap::new();
    for row in &tables.scores {
        *rows.entry((row.teacher.clone(), row.repeat.unwrap())).or_default() += 1;
    }
    rows
}

fn opinion(teacher: &str, repeat: u32) -> (String, u32) {
    (teacher.to_owned(), repeat)
}

/// Scores without the parts that only a later opinion adds.
fn first(tables: &Tables) -> Vec<Score> {
    tables.scores.iter().filter(|row| row.teacher == MAIN && row.repeat == Some(0)).cloned().collect()
}

#[test]
fn repeats_are_bought_once_and_stand_side_by_side() {
    let place = Place::new(10, 2);
    let service = place.service(Options { own_mind: 0.3, ..fast() });
    let ran = place.collect(&service, &[&SCORES[..], &["--model", MAIN]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let before = place.tables();
    assert_eq!(service.stats().requests, 20);
    // Two more opinions are added to a scored round: nothing that was paid for is requested again.
    let ran = place.collect(&service, &[&SCORES[..], &["--model", MAIN, "--repeats", "3"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("20 rollouts have scores by gpt-4o; nothing to do"), "{}", ran.stdout);
    assert!(ran.stdout.contains("20 rollouts scored by gpt-4o (scoring 3), 0 rejected"), "{}", ran.stdout);
    assert!(ran.stdout.contains("next: train --round 1 --repeats 3"), "{}", ran.stdout);
    let stats = service.stats();
    assert_eq!((stats.requests, stats.seen.len(), stats.bought_again()), (60, 60, 0));
    let tables = place.tables();
    assert_eq!(rows(&tables), (0..3).map(|repeat| (opinion(MAIN, repeat), 60)).collect());
    assert_eq!(first(&tables), before.scores);
    // No cache at the service can answer a repeat by another, and replies may differ.
    let bodies: BTreeSet<String> = service.requests().iter().map(|one| one.body.to_string()).collect();
    assert_eq!(bodies.len(), 60);
    let temperatures = |wanted: f64| {
        service.requests().iter().filter(|one| one.body["temperature"].as_f64() == Some(wanted)).count()
    };
    assert_eq!((temperatures(0.0), temperatures(1.0)), (20, 40));
    let keys: BTreeSet<&str> = tables.scores.iter().map(|row| row.request_key.as_str()).collect();
    assert_eq!(keys.len(), 60);
    assert!(tables.requests.iter().all(|row| row.repeat.is_some() && !row.cached));

    let status = place.reference(&["status"]);
    for line in [
        "scores by gpt-4o: 20 rollouts = 20 scored",
        "scores by gpt-4o (scoring 2): 20 rollouts = 20 scored",
        "The books balance.",
    ] {
        assert!(status.stdout.contains(line), "{line}: {}", status.stdout);
    }
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    assert_eq!(place.tables(), tables);
    let again = place.collect(&service, &[&SCORES[..], &["--model", MAIN, "--repeats", "3"]].concat());
    assert_eq!((again.status, service.stats().requests), (Some(0), 60), "{}", again.stderr);
    // With fewer repeats, the other rows stay in the table.
    let fewer = place.collect(&service, &[&SCORES[..], &["--model", MAIN]].concat());
    assert_eq!((fewer.status, service.stats().requests), (Some(0), 60), "{}", fewer.stderr);
    assert_eq!(place.tables(), tables);
}

/// A round with two Teachers: one of each API.
struct Two {
    place: Place,
    openai: TeacherService,
    anthropic: TeacherService,
}

impl Two {
    fn new(problems: usize, samples: u32, options: Options) -> Self {
        let place = Place::new(problems, samples);
        let openai = place.service(options.clone());
        let anthropic = place.service(Options {
            service: Service::Anthropic,
            own_mind: 0.4,
            key: Some("b-key".into()),
            ..options
        });
        let two = Self { place, openai, anthropic };
        two.settings("repeats = 2", "");
        two
    }

    /// Writes the settings, with lines of the main Teacher and of the other.
    fn settings(&self, main: &str, other: &str) {
        let settings = format!(
            "[teacher]\nprovider = \"openai\"\nmodel = \"{MAIN}\"\nbase_url = \"{}\"\nsamples_per_request = 1\n{main}\n\n\
             [[teachers]]\nprovider = \"anthropic\"\nmodel = \"{OTHER}\"\nbase_url = \"{}\"\napi_key_env = \"OTHER_KEY\"\n{other}\n",
            self.openai.url(),
            self.anthropic.url()
        );
        std::fs::write(self.place.path().join("ares.toml"), settings).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = collect_feedback(self.place.path(), arguments);
        command.env("OTHER_KEY", "b-key");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments)).unwrap()
    }

    fn collect(&self, more: &[&str]) -> Ran {
        self.run(&[&["--round", "1", "--stage", "scores"][..], more].concat())
    }

    fn requests(&self) -> (u64, u64) {
        (self.openai.stats().requests, self.anthropic.stats().requests)
    }

    fn bought_again(&self) -> u64 {
        self.openai.stats().bought_again() + self.anthropic.stats().bought_again()
    }

    fn dollars(&self) -> f64 {
        self.place.tables().requests.iter().map(|row| row.cost_usd.unwrap()).sum()
    }

    /// Rows of each opinion in a complete round.
    fn whole(rows: usize) -> BTreeMap<(String, u32), usize> {
        [MAIN, OTHER]
            .iter()
            .flat_map(|teacher| (0..2).map(|repeat| (opinion(teacher, repeat), rows)))
            .collect()
    }
}

#[test]
fn two_teachers_and_two_repeats_survive_kills_and_buy_nothing_twice() {
    const CONCURRENCY: u64 = 8;
    let options = Options { latency: Duration::from_millis(30), own_mind: 0.2, ..fast() };
    let calm = Two::new(60, 2, options.clone());
    assert_eq!(calm.collect(&[]).status, Some(0));
    assert_eq!(calm.requests(), (240, 240));
    let expected = calm.place.tables();
    assert_eq!(rows(&expected), Two::whole(360));

    let two = Two::new(60, 2, options);
    let concurrency = format!("concurrency = {CONCURRENCY}");
    two.settings("repeats = 2", &concurrency);
    let arguments = ["--round", "1", "--stage", "scores", "--concurrency", "8"];
    let mut kills = 0;
    // In the first scoring of each Teacher, and in the second.
    for wanted in [60, 180, 300, 420] {
        let mut child = start(two.command(&arguments)).unwrap();
        while two.openai.stats().good + two.anthropic.stats().good < wanted {
            std::thread::sleep(Duration::from_millis(2));
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let ran = two.run(&arguments);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(two.place.tables(), expected);
    let (openai, anthropic) = two.requests();
    assert!(openai + anthropic <= 480 + kills * CONCURRENCY, "{openai} {anthropic}");
    let status = two.run(&["status"]);
    assert!(status.stdout.contains("The books balance."), "{}", status.stdout);
    assert!(!status.stdout.contains("contains replies worth another"), "{}", status.stdout);
    assert_eq!(two.run(&["rebuild"]).status, Some(0));
    assert_eq!(two.place.tables(), expected);
}

#[test]
fn costs_of_all_teachers_are_estimated_and_capped_as_one() {
    let calm = Two::new(30, 2, fast());
    assert_eq!(calm.collect(&[]).status, Some(0));
    let (whole, tables) = (calm.dollars(), calm.place.tables());

    let two = Two::new(30, 2, fast());
    let estimate = two.run(&["estimate", "--round", "1", "--stage", "scores"]);
    assert_eq!(estimate.status, Some(0), "{}", estimate.stderr);
    for line in ["scores with gpt-4o:", "scores with claude-haiku-5-5:", "scores with gpt-4o, scoring 2:"] {
        assert!(estimate.stdout.contains(line), "{line}: {}", estimate.stdout);
    }
    let total = estimate.stdout.split("all together:").nth(1).unwrap_or_default();
    assert!(total.contains(&format!("requests        {:>12}", 240)), "{total}");
    let words: Vec<&str> = total.split_whitespace().collect();
    let dollars: f64 = words[words.iter().position(|word| *word == "dollars").unwrap() + 1].parse().unwrap();
    assert!((0.3..3.0).contains(&(dollars / whole)), "{dollars} of {whole}");
    assert_eq!(two.requests(), (0, 0));

    // The budget ends the run in the middle of the scorings.
    let cap = whole * 0.6;
    let ran = two.collect(&["--max-usd", &cap.to_string()]);
    assert_eq!(ran.status, Some(3), "{}{}", ran.stdout, ran.stderr);
    assert!(two.dollars() <= cap && two.dollars() > 0.8 * cap, "{} of {cap}", two.dollars());
    assert!(ran.stdout.contains("rollouts wait for claude-haiku-5-5 (scoring 2)"), "{}", ran.stdout);
    let ran = two.collect(&["--max-usd", &(whole * 1.1).to_string()]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!((two.place.tables(), two.bought_again()), (tables, 0));
}

#[test]
fn one_teacher_that_fails_costs_the_others_nothing() {
    let faults = Faults { seed: 1, share: 1.0, kinds: vec![Fault::NoMoney], after: 10 };
    let place = Place::new(20, 2);
    let openai = place.service(Options { own_mind: 0.2, ..fast() });
    let key = Some("b-key".to_owned());
    let broke = place.service(Options { service: Service::Anthropic, faults, key: key.clone(), ..fast() });
    let mut two = Two { place, openai, anthropic: broke };
    two.settings("repeats = 2", "concurrency = 2");
    let ran = two.collect(&[]);
    assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
    let found = rows(&two.place.tables());
    assert_eq!((found[&opinion(MAIN, 0)], found[&opinion(MAIN, 1)]), (120, 120), "{found:?}");
    let some = found[&opinion(OTHER, 0)];
    assert!(some > 0 && some < 120 && !found.contains_key(&opinion(OTHER, 1)), "{found:?}");
    let missing = format!("{} rollouts wait for claude-haiku-5-5\n", 40 - some / 3);
    assert!(ran.stdout.contains(&missing), "{missing}: {}", ran.stdout);
    assert!(ran.stdout.contains("40 rollouts wait for claude-haiku-5-5 (scoring 2)"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("run the same command again to request only what is missing"),
        "{}",
        ran.stdout
    );
    assert!(two.run(&["status"]).stdout.contains("The books balance."));
    // A missing key is reported before anything is sent.
    let (before, good) = (two.openai.stats().requests, two.anthropic.stats().good);
    let ran = run(collect_feedback(two.place.path(), &["--round", "1", "--stage", "scores"])).unwrap();
    assert_eq!(ran.status, Some(2), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("OTHER_KEY is not set"), "{}", ran.stderr);
    // Its service works again: only what is missing is requested.
    two.anthropic = two.place.service(Options { service: Service::Anthropic, key, ..fast() });
    two.settings("repeats = 2", "");
    let ran = two.collect(&[]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!((two.openai.stats().requests, two.anthropic.stats().requests + good), (before, 80));
    assert_eq!(rows(&two.place.tables()), Two::whole(120));
}

#[test]
fn teachers_come_later_and_go() {
    let two = Two::new(12, 2, fast());
    let alone = std::fs::read_to_string(two.place.path().join("ares.toml")).unwrap();
    let alone = alone.split("[[teachers]]").next().unwrap().replace("repeats = 2", "");
    let path = two.place.path().join("ares.toml");
    // A second Teacher's opinion is added to a round scored by one.
    std::fs::write(&path, &alone).unwrap();
    assert_eq!(two.collect(&[]).status, Some(0));
    two.settings("", "");
    let ran = two.collect(&[]);
    assert_eq!((ran.status, two.requests()), (Some(0), (24, 24)), "{}", ran.stderr);
    let both = two.place.tables();
    assert_eq!(rows(&both), [(opinion(MAIN, 0), 72), (opinion(OTHER, 0), 72)].into());
    // The other is removed: its scores stay, and do not replace missing ones.
    std::fs::write(&path, &alone).unwrap();
    let ran = two.collect(&[]);
    assert_eq!((ran.status, two.requests()), (Some(0), (24, 24)), "{}", ran.stderr);
    assert_eq!(two.place.tables(), both);
    // The first is removed, so the other is alone; then it returns as the second.
    let swapped = format!(
        "[teacher]\nprovider = \"anthropic\"\nmodel = \"{OTHER}\"\nbase_url = \"{}\"\napi_key_env = \"OTHER_KEY\"\nsamples_per_request = 1\n",
        two.anthropic.url()
    );
    let main = format!(
        "\n[[teachers]]\nprovider = \"openai\"\nmodel = \"{MAIN}\"\nbase_url = \"{}\"\n",
        two.openai.url()
    );
    for settings in [swapped.clone(), swapped.clone() + &main] {
        std::fs::write(&path, settings).unwrap();
        let ran = two.collect(&[]);
        assert_eq!((ran.status, two.requests()), (Some(0), (24, 24)), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(two.place.tables(), both);
    }
    // More rollouts are added: both Teachers are asked about those.
    workspace_tests::small_dataset::write_rollouts(&two.place.dataset, "00000", 0..12, 3).unwrap();
    let ran = two.collect(&[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let found = rows(&two.place.tables());
    assert_eq!(found, [(opinion(MAIN, 0), 108), (opinion(OTHER, 0), 108)].into());
    assert_eq!(two.bought_again(), 0);
    let tables = two.place.tables();
    assert_eq!(two.run(&["rebuild"]).status, Some(0));
    assert_eq!(two.place.tables(), tables);

    // Discarded and restored, one by one; a further Teacher may be named by flags.
    let which = ["--round", "1", "--stage", "scores", "--teacher", "openai", "--model", MAIN];
    let ran = two.run(&[&["discard"][..], &which].concat());
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(rows(&two.place.tables()), [(opinion(OTHER, 0), 108)].into());
    let refused = two.collect(&[]);
    assert_eq!(refused.status, Some(2), "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("undiscard"), "{}", refused.stderr);
    let ran = two.run(&[&["undiscard"][..], &which].concat());
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(two.place.tables(), tables);
}

#[test]
fn rejects_are_of_one_opinion() {
    let faults = Faults { seed: 5, share: 0.3, kinds: vec![Fault::Refusal], after: 0 };
    let two = Two::new(20, 2, Options { faults, ..fast() });
    let ran = two.collect(&[]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    let tables = two.place.tables();
    let rejects = |teacher: &str, repeat| {
        let is_own =
            |row: &&schemas::Reject| row.teacher.as_deref() == Some(teacher) && row.repeat == Some(repeat);
        tables.rejects.iter().filter(is_own).count()
    };
    let found = rows(&tables);
    for (teacher, repeat) in [(MAIN, 0), (MAIN, 1), (OTHER, 0), (OTHER, 1)] {
        let rejected = rejects(teacher, repeat);
        assert!(rejected > 0 && rejected * 3 + found[&opinion(teacher, repeat)] == 120, "{teacher} {repeat}");
    }
    let (status, before) = (two.run(&["status"]), two.requests());
    assert!(status.stdout.contains("The books balance."), "{}", status.stdout);
    // Neither rejects nor opinions of the other are requested again.
    assert_eq!((two.collect(&[]).status, two.requests()), (Some(0), before));
    assert_eq!(two.run(&["rebuild"]).status, Some(0));
    assert_eq!(two.place.tables(), tables);
}

#[test]
fn opinions_are_asked_for_in_groups_and_in_batches() {
    let two = Two::new(9, 3, Options { own_mind: 0.3, ..fast() });
    let settings = std::fs::read_to_string(two.place.path().join("ares.toml")).unwrap();
    std::fs::write(two.place.path().join("ares.toml"), settings.replace("samples_per_request = 1\n", ""))
        .unwrap();
    let ran = two.collect(&["--batch"]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    let tables = two.place.tables();
    assert_eq!(rows(&tables), Two::whole(81));
    let asked = [&two.openai, &two.anthropic].map(TeacherService::stats);
    assert_eq!(asked.each_ref().map(|stats| (stats.requests, stats.batches)), [(18, 2), (18, 2)]);
    assert!(tables.requests.iter().all(|row| row.items == Some(3) || row.items == Some(2)));
    // Without batches nothing is left to do.
    let ran = two.collect(&[]);
    assert_eq!((ran.status, two.requests()), (Some(0), (18, 18)), "{}", ran.stderr);
    let status = two.run(&["status"]);
    assert!(status.stdout.contains("The books balance."), "{}", status.stdout);
    assert!(status.stdout.contains("grouped in 36 requests"), "{}", status.stdout);
    assert!(!status.stdout.contains("requested again individually"), "{}", status.stdout);
    assert_eq!(two.run(&["rebuild"]).status, Some(0));
    assert_eq!(two.place.tables(), tables);
}

#[test]
fn batches_of_all_opinions_run_at_once_and_survive_a_kill() {
    let batch = BatchOptions { latency: Duration::from_secs(3_600), ..BatchOptions::default() };
    let two = Two::new(9, 2, Options { batch, ..fast() });
    let arguments = ["--round", "1", "--stage", "scores", "--batch"];
    let mut child = start(two.command(&arguments)).unwrap();
    while two.openai.stats().batches + two.anthropic.stats().batches < 4 {
        std::thread::sleep(Duration::from_millis(5));
        assert!(child.try_wait().unwrap().is_none(), "it ended");
    }
    assert!(two.place.tables().scores.is_empty(), "none has ended");
    child.kill().unwrap();
    child.wait().unwrap();
    // Nothing is sent again while they run.
    let mut child = start(two.command(&arguments)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!([two.openai.stats().batches, two.anthropic.stats().batches], [2, 2]);
    assert_eq!(two.requests(), (36, 36));
    // Nor without batches.
    let ran = two.collect(&[]);
    assert_eq!((ran.status, two.requests()), (Some(0), (36, 36)), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("next: collect-feedback --round 1 --batch"), "{}", ran.stdout);
}

#[test]
fn exports_and_reports_combine() {
    let two = Two::new(8, 2, Options { own_mind: 0.3, ..fast() });
    assert_eq!(two.collect(&[]).status, Some(0));
    let mut by_sentence: BTreeMap<(String, u32), Vec<f64>> = BTreeMap::new();
    for row in two.place.tables().scores {
        by_sentence.entry((row.rollout_id, row.sentence_index)).or_default().push(row.score.into());
    }
    let to = two.place.folder.path().join("prm");
    let ran = two.run(&[
        "export",
        "--round",
        "1",
        "--as",
        "prm",
        "--keep-duplicates",
        "--to",
        to.to_str().unwrap(),
    ]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    let text = std::fs::read_to_string(to.join("train.jsonl")).unwrap();
    let (mut sentences, mut apart) = (0, 0);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = line["ares"]["rows"][0].as_str().unwrap().to_owned();
        let pairs = line["scores"].as_array().unwrap().iter().zip(line["spreads"].as_array().unwrap());
        for ((score, spread), place) in pairs.zip(0..) {
            let all = &by_sentence[&(id.clone(), place)];
            assert_eq!(all.len(), 4);
            let mean = all.iter().sum::<f64>() / 4.0;
            let (low, high) =
                all.iter().fold((1.0_f64, 0.0_f64), |(low, high), one| (low.min(*one), high.max(*one)));
            assert!((score.as_f64().unwrap() - mean).abs() < 1e-5, "{id} {place}");
            assert!((spread.as_f64().unwrap() - (high - low)).abs() < 1e-5, "{id} {place}");
            (sentences, apart) = (sentences + 1, apart + usize::from(high - low > 0.05));
        }
    }
    assert!(sentences > 20 && apart > 10, "{sentences} {apart}");

    let to = two.place.folder.path().join("hub");
    let ran = two.run(&["export", "--round", "1", "--as", "hub", "--to", to.to_str().unwrap()]);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    let mut combined = Vec::new();
    for split in ["train", "test"] {
        let path = to.join(format!("combined_scores/{split}.parquet"));
        combined.extend(table::read::<CombinedScore>(&path).unwrap());
    }
    assert_eq!(combined.len(), by_sentence.len());
    for row in combined {
        let all = &by_sentence[&(row.rollout_id.clone(), row.sentence_index)];
        assert!((f64::from(row.score) - all.iter().sum::<f64>() / 4.0).abs() < 1e-5, "{row:?}");
        assert_eq!(row.opinions.len(), 4, "{row:?}");
        assert!(row.spread > 0.0 && row.spread < 0.41, "{row:?}");
    }

    let page = two.place.folder.path().join("report.html");
    let ran = two.run(&["report", "--round", "1", "--out", page.to_str().unwrap()]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains("Several Teachers answered this round"), "they were asked for");
    let all: Vec<f64> = by_sentence.values().map(|all| all.iter().sum::<f64>() / all.len() as f64).collect();
    let mean = format!("{:.3}", all.iter().sum::<f64>() / all.len() as f64);
    assert!(html.contains(&mean) || ran.stdout.contains(&mean), "{mean}: {}", ran.stdout);
    assert!(html.contains("claude-haiku-5-5 (scoring 2) 0."), "each opinion is shown");
    let labels = two.place.folder.path().join("labels.jsonl");
    let line = |((id, place), _): (&(String, u32), &Vec<f64>)| {
        format!("{{\"rollout_id\":\"{id}\",\"sentence_index\":{place},\"score\":1.0}}\n")
    };
    std::fs::write(&labels, by_sentence.iter().map(line).collect::<String>()).unwrap();
    let ran = two.run(&["audit", "--round", "1", "--labels", labels.to_str().unwrap()]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("gpt-4o (scoring 2)"), "{}", ran.stdout);
    let ran = two.run(&["audit", "--round", "1", "--sample", "3", "--teacher", "reference"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("scored by claude-haiku-5-5 and gpt-4o"), "{}", ran.stdout);
}

#[test]
fn settings_of_teachers_are_checked() {
    let two = Two::new(2, 1, fast());
    let refused = |main: &str, other: &str, expected: &str| {
        two.settings(main, other);
        let ran = two.collect(&[]);
        assert_eq!(ran.status, Some(2), "{}", ran.stdout);
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    };
    refused("", "repeat = 3", "unknown key `repeat` of [[teachers]]; did you mean `repeats`?");
    refused("", "combine = \"mean\"", "it belongs to `[teacher]`, for all Teachers");
    refused("repeats = 0", "", "teacher.repeats: expected at least 1, found 0");
    refused("", "repeats = 0", "repeats of [[teachers]] 1: expected at least 1, found 0");
    refused("combine = \"max\"", "", "expected one of `mean`, `median`, `trimmed_mean`");
    refused(
        "api_key_env = \"sk-secret\"",
        "",
        "teacher.api_key_env: expected the name of an environment variable",
    );
    two.settings("", "");
    let path = two.place.path().join("ares.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(OTHER, MAIN)).unwrap();
    let ran = two.collect(&[]);
    assert!(ran.stderr.contains("expected a model that no other Teacher has"), "{}", ran.stderr);
    std::fs::write(&path, text.replace("[[teachers]]", "[teachers]")).unwrap();
    let ran = two.collect(&[]);
    assert!(ran.stderr.contains("teachers: expected [[teachers]], a list of sections"), "{}", ran.stderr);
    assert_eq!(two.requests(), (0, 0));
}
