//! The report: its numbers match those computed by hand, and no text of a dataset is interpreted as HTML.

use crate::fixture::*;
use feedback_pipeline::inspect::report;
use schemas::{Dataset, Settings};
use serde_json::Value;
use tempfile::TempDir;

const SOLUTION: &str = "Look at the map. Dover is farthest south.";
const EVIL: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)> Dover is south.";

fn made(dataset: &Dataset, round: u32) -> String {
    let written = report::run(dataset, round, None, &Settings::default()).unwrap();
    assert_eq!(written.path, dataset.root().join(format!("report-round-{round}.html")));
    std::fs::read_to_string(written.path).unwrap()
}

/// The JSON in the script element with an id.
fn data(html: &str, id: &str) -> Value {
    let start = html.find(&format!("id=\"{id}\">")).unwrap() + id.len() + 6;
    let end = start + html[start..].find("</script>").unwrap();
    serde_json::from_str(&html[start..end]).unwrap()
}

/// Text of the table row that begins with a heading, without tags.
fn row(html: &str, heading: &str) -> Vec<String> {
    let start = html.find(&format!("<tr><th scope=\"row\">{heading}</th>")).unwrap();
    let row = &html[start..start + html[start..].find("</tr>").unwrap()];
    let cells = row.split("<t").skip(3).filter_map(|cell| cell.split_once('>'));
    let plain = |text: &str| {
        let mut inside = false;
        let shown = |c: &char| {
            inside = match c {
                '<' => true,
                '>' => false,
                _ => return !inside,
            };
            false
        };
        text.chars().filter(shown).collect::<String>()
    };
    cells.map(|(_, text)| plain(text)).collect()
}

/// One round with everything, and the base student before it.
fn whole(folder: &TempDir) -> Dataset {
    let problems = vec![
        problem("a", "train", "maps", SOLUTION),
        problem("b", "train", "magnets", SOLUTION),
        problem("c", "test", "maps", SOLUTION),
    ];
    let dataset = dataset(folder, problems);
    let rollouts = [
        rollout("a", 1, 0, "Look at the map. Dover is farthest south."),
        rollout("a", 1, 1, "Look at the map. Hull is farthest south. Look at the map."),
        rollout("b", 1, 0, "Bananas fly."),
        rollout("b", 1, 1, "Not scored."),
    ];
    let scored = [
        scores(&rollouts[0], &[0.5, 1.0]),
        scores(&rollouts[1], &[0.5, 0.0, 0.0]),
        scores(&rollouts[2], &[0.3]),
    ];
    let mut policies = rollouts.to_vec();
    policies.iter_mut().for_each(|rollout| rollout.policy = "base0".to_owned());
    dataset.write_part(1, "0", policies, &provenance()).unwrap();
    dataset.write_part(1, "00000", scored.concat(), &provenance()).unwrap();
    let base = [rationale("c", 0, "base", "test", "Look at the map. Hull is farthest south.")];
    dataset.write_part(0, "base", base, &provenance()).unwrap();
    let rl = [
        rationale("a", 1, "rl", "train", "Look at the map. Look at the map. Hull is farthest south."),
        rationale("b", 1, "rl", "train", SOLUTION),
    ];
    let corrections =
        [correction(&rl[0], SOLUTION), correction(&rl[1], "Look at the map.\nDover is farthest south.")];
    dataset.write_part(1, "rl", rl, &provenance()).unwrap();
    dataset.write_part(1, "00000", corrections, &provenance()).unwrap();
    dataset.write_part(1, "sft", [rationale("c", 1, "sft", "test", SOLUTION)], &provenance()).unwrap();
    dataset.write_part(0, "base", [answer("c", 0, "base", "test", false)], &provenance()).unwrap();
    dataset.write_part(1, "sft", [answer("c", 1, "sft", "test", true)], &provenance()).unwrap();
    dataset.write_part(1, "00000", [judgement("c", "base", true, "win")], &provenance()).unwrap();
    dataset.write_part(1, "rl", (0..5).map(|step| metric(step, 1.0)), &provenance()).unwrap();
    dataset.write_part(1, "0", [reject("b", "malformed: no JSON", "<b>hm</b>")], &provenance()).unwrap();
    dataset
}

#[test]
fn numbers_are_those_worked_by_hand() {
    let folder = TempDir::new().unwrap();
    let html = made(&whole(&folder), 1);
    // Sentences 0.5 1.0 0.5 0.0 0.0 0.3: mean 2.3 / 6; one of three rollouts has none below 0.5.
    let base = row(&html, "base student");
    assert_eq!(base, ["0.383", "33.3 %", "–", "–", "0.500", "0.0 %", "0.0 %", "0.0 %", "–", "0.0 %"]);
    // One sentence of five is repeated.
    assert_eq!(row(&html, "round 1, after RL")[6], "20.0 %");
    let sft = row(&html, "round 1, after SFT");
    assert_eq!((sft[4].as_str(), sft[5].as_str(), sft[9].as_str()), ("1.000", "100.0 %", "100.0 %"));
    // Maps: 0.5 1.0 0.5 0.0 0.0, magnets: 0.3.
    assert_eq!(row(&html, "maps skill"), ["0.400", "50.0 %", "2"]);
    assert_eq!(row(&html, "magnets skill"), ["0.300", "0.0 %", "1"]);
    assert_eq!(row(&html, "all"), ["100.0 %", "20.7 – 100.0 %", "1", "0", "0"]);
    assert!(html.contains("1: 0.43, 2: 0.50, 3: 0.00"), "mean score by position");
    assert!(html.contains("0.0: 33.33 %") || html.contains("0.0: 33.30 %"), "share by score");
    assert!(html.contains("rl, by optimizer step") && html.contains("malformed"));
    let cards = data(&html, "cards");
    let cards = cards.as_array().unwrap();
    assert_eq!(cards.len(), 3);
    let a = &cards[0];
    assert_eq!(a["mean"], 0.4);
    assert_eq!(a["samples"][1]["lines"][2], serde_json::json!(["Look at the map.", 0.0, true]));
    assert_eq!(a["samples"][1]["lines"][1], serde_json::json!(["Hull is farthest south.", 0.0, false]));
    assert_eq!(a["said"][0]["lines"][1][2], true, "what was removed is marked");
    let diff =
        serde_json::json!([[0, "Look at the map. "], [-1, "Hull"], [1, "Dover"], [0, " is farthest south."]]);
    assert_eq!((&a["said"][0]["correction"], &a["said"][0]["changed"]), (&diff, &Value::Bool(true)));
    assert_eq!(cards[1]["rejects"][0][1], "malformed: no JSON");
    assert_eq!(cards[2]["answers"][0]["correct"], true);
}

#[test]
fn html_in_a_dataset_stays_text() {
    let folder = TempDir::new().unwrap();
    let mut evil = problem("a", "test", EVIL, EVIL);
    evil.question = EVIL.to_owned();
    evil.choices[0] = EVIL.to_owned();
    let dataset = dataset(&folder, vec![evil]);
    let rollout = rollout("a", 1, 0, EVIL);
    dataset
        .write_part(1, "00000", scores(&rollout, &vec![0.5; rollout.sentences.len()]), &provenance())
        .unwrap();
    dataset.write_part(1, "0", [rollout], &provenance()).unwrap();
    dataset.write_part(1, "0", [reject("a", EVIL, EVIL)], &provenance()).unwrap();
    let html = made(&dataset, 1);
    assert!(!html.contains("<script>alert") && !html.contains("<img"), "a text became part of the page");
    assert_eq!(html.matches("<script").count(), 3, "two of data, one of code");
    assert!(html.contains("script-src &#x27;sha256-") || html.contains("script-src 'sha256-"));
    assert_eq!(data(&html, "cards")[0]["question"], EVIL);
}

#[test]
fn a_round_without_anything_is_an_error() {
    let folder = TempDir::new().unwrap();
    let error = report::run(&whole(&folder), 7, None, &Settings::default()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("expected a round with rollouts or rationales"), "{error}");
}

#[test]
fn a_report_takes_the_place_of_nothing_but_a_report() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder, vec![problem("a", "test", "maps", "")]);
    dataset.write_part(1, "0", [rollout("a", 1, 0, "Dover is south.")], &provenance()).unwrap();
    let out = dataset.root().join("r.html");
    for _ in 0..2 {
        report::run(&dataset, 1, Some(&out), &Settings::default()).unwrap();
    }
    for path in [dataset.problems_path(), dataset.root().join("short")] {
        if !path.exists() {
            std::fs::write(&path, "x").unwrap();
        }
        let before = std::fs::read(&path).unwrap();
        assert_eq!(report::run(&dataset, 1, Some(&path), &Settings::default()).unwrap_err().exit_code(), 2);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn rollouts_alone_make_a_report() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder, vec![problem("a", "test", "maps", "")]);
    dataset.write_part(1, "0", [rollout("a", 1, 0, "Dover is south.")], &provenance()).unwrap();
    let html = made(&dataset, 1);
    assert!(
        html.contains("rollouts, none scored yet") && html.contains("No rollout of this round has scores.")
    );
}

/// Labels given in the page contain the ids of their rows.
#[test]
fn samples_can_be_labelled_by_their_ids() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder, vec![problem("1", "train", "geography", SOLUTION)]);
    let own = rollout("1", 1, 0, "Dover is south.");
    let mut imported = rollout("1", 1, 1, "Hull is south.");
    imported.rollout_id = "import-0123-1-r1-s1".to_owned();
    dataset.write_part(1, "00000", [own, imported], &provenance()).unwrap();
    let html = made(&dataset, 1);
    assert!(html.contains(r#"<div id="list" data-name="ports" data-round="1">"#), "{html}");
    let cards = data(&html, "cards");
    let ids: Vec<&Value> =
        cards[0]["samples"].as_array().unwrap().iter().map(|sample| &sample["id"]).collect();
    // The usual id follows from problem, round and number.
    assert_eq!(ids, [&Value::Null, &Value::from("import-0123-1-r1-s1")]);
}

/// The policy that a round started from against the one after RL, on the problems that both decoded or were sampled on.
#[test]
fn what_rl_changed_is_in_the_report() {
    let folder = TempDir::new().unwrap();
    let splits = ["train", "train", "val", "test", "test"];
    let ids = ["a", "b", "c", "d", "e"];
    let problems = ids.iter().zip(splits).map(|(id, split)| problem(id, split, "maps", SOLUTION));
    let dataset = dataset(&folder, problems.collect());
    let (right, wrong) = (SOLUTION, "Look at the map. Hull is farthest south.");
    let said = |round: u32, stage: &str, texts: [&str; 5]| {
        let of = |((id, split), text): ((&&str, &str), &str)| rationale(id, round, stage, split, text);
        ids.iter().zip(splits).zip(texts).map(of).collect::<Vec<_>>()
    };
    // Sentences score 1.0 each, or 1.0 and 0.0.
    let rows = said(0, "base", [wrong, right, wrong, right, right]);
    let base = rows[0].policy.clone();
    dataset.write_part(0, "base", rows, &provenance()).unwrap();
    let rows = said(1, "rl", [right, right, right, wrong, right]);
    dataset.write_part(1, "rl", rows[..4].to_vec(), &provenance()).unwrap();
    let of = |round, stage| ["d", "e"].map(|id| answer(id, round, stage, "test", stage == "rl" || id == "d"));
    dataset.write_part(0, "base", of(0, "base"), &provenance()).unwrap();
    dataset.write_part(1, "rl", of(1, "rl"), &provenance()).unwrap();
    let sampled = |round: u32, policy: &str, of: [f32; 2]| {
        let mut rollouts: Vec<_> = ["a", "b"].iter().map(|id| rollout(id, round, 0, "Dover.")).collect();
        rollouts.iter_mut().for_each(|rollout| rollout.policy = policy.to_owned());
        let rows: Vec<_> = rollouts.iter().zip(of).flat_map(|(row, score)| scores(row, &[score])).collect();
        dataset.write_part(round, "0", rollouts, &provenance()).unwrap();
        dataset.write_part(round, "00000", rows, &provenance()).unwrap();
    };
    sampled(1, &base, [0.2, 0.3]);
    sampled(2, &rows[0].policy, [0.4, 0.6]);
    // Round 2 ended with RL, and decoded nothing.
    let ends = schemas::Metric { round: 2, name: "ends_round".to_owned(), ..metric(0, 1.0) };
    dataset.write_part(2, "rl", [ends], &provenance()).unwrap();
    sampled(3, "rl2", [0.4, 0.4]);
    let written = report::run(&dataset, 3, None, &Settings::default()).unwrap();
    let html = std::fs::read_to_string(&written.path).unwrap();
    // Two problems drawn with replacement: both times one, or each once.
    let train = ["0.750", "1.000", "+0.250", "+0.000 to +0.500", "2", "may be chance"];
    assert_eq!(row(&html, "round 1, train"), train);
    assert_eq!(row(&html, "round 1, val"), ["0.500", "1.000", "+0.500", "–", "1", "too few problems"]);
    assert_eq!(row(&html, "round 1, test")[..3], ["1.000", "0.500", "-0.500"], "of problem d alone");
    assert_eq!(row(&html, "round 1, test answers")[..3], ["0.500", "1.000", "+0.500"]);
    let samples = ["0.250", "0.500", "+0.250", "+0.200 to +0.300", "2", "better"];
    assert_eq!(row(&html, "round 1, samples"), samples);
    let worse = ["0.500", "0.400", "-0.100", "-0.200 to +0.000", "2", "may be chance"];
    assert_eq!(row(&html, "round 2, samples"), worse);
    assert_eq!(row(&html, "round 2, after RL")[0], "0.400");
    assert!(!html.contains("round 2, train") && !html.contains("round 3, samples"));
    // The same in the terminal, in lines that fit.
    for line in written.summary.lines() {
        assert!(line.chars().count() <= 122, "{line}");
    }
    let line = written.summary.lines().find(|line| line.starts_with("round 1, samples")).unwrap();
    assert_eq!(
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).skip(1).collect::<Vec<_>>(),
        samples
    );
}
