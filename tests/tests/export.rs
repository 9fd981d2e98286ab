//! `collect-feedback export`: the contents of the files, and their origin.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::{Dataset, Judgement, Problem, Rationale, Reject, Rollout, Score, TimestampMs, table};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use workspace_tests::command::{Ran, collect_feedback, run};
use workspace_tests::small_dataset::{Size, make, problem, provenance, rationale};

/// Formats and the files of their train split.
const FORMATS: [(&str, &str); 7] = [
    ("prm", "train.jsonl"),
    ("preference", "train.parquet"),
    ("kto", "train.parquet"),
    ("sft", "train.parquet"),
    ("llamafactory", "sft-train.jsonl"),
    ("verl", "train.parquet"),
    ("hub", "problems/train-00000.parquet"),
];

struct Place {
    folder: tempfile::TempDir,
    dataset: Dataset,
}

impl Place {
    /// Problems with four samples each, scored and corrected by the embedded Teacher.
    fn collected(problems: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dataset = make(&folder.path().join("small"), Size { problems, samples: 4 }).unwrap();
        let place = Self { folder, dataset };
        assert_eq!(place.run(&["--round", "1"]).status, Some(0));
        place
    }

    /// Train problems of the sample set, with their solutions as rationales of one model, and wrong
    /// rationales of another.
    fn sample(problems: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/sample");
        let chosen = Dataset::at(&sample).problems().unwrap().into_iter();
        let chosen: Vec<Problem> = chosen
            .filter(|problem| problem.split == "train" && !problem.solution.is_empty())
            .take(problems)
            .collect();
        let dataset = Dataset::at(folder.path().join("sample"));
        table::write(&dataset.problems_path(), chosen.iter().cloned(), &provenance()).unwrap();
        fs::copy(sample.join("dataset.toml"), dataset.card_path()).unwrap();
        fs::create_dir_all(dataset.images_dir()).unwrap();
        for image in chosen.iter().filter_map(|problem| problem.image.as_ref()) {
            fs::copy(sample.join(image), dataset.root().join(image)).unwrap();
        }
        let place = Self { folder, dataset };
        for name in ["good", "bad"] {
            let line = |(index, problem): (usize, &Problem)| {
                let other = &chosen[(index + 7) % chosen.len()];
                let text = if name == "good" { &problem.solution } else { &other.solution };
                serde_json::json!({ "problem_id": problem.problem_id, "rationale": text }).to_string() + "\n"
            };
            let file = place.folder.path().join(format!("{name}.jsonl"));
            fs::write(&file, chosen.iter().enumerate().map(line).collect::<String>()).unwrap();
            let from = file.to_str().unwrap();
            let ran = place.run(&["import", "rationales", "--from", from, "--round", "1"]);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        }
        let rows = chosen.iter().enumerate().map(|(index, problem)| Rationale {
            rationale_id: Rationale::id(&problem.problem_id, 1, "rl"),
            problem_id: problem.problem_id.clone(),
            deduplicated: chosen[(index + 7) % chosen.len()].solution.clone(),
            ..rationale(0, 1, "rl", "train")
        });
        place.dataset.write_part(1, "rl", rows, &provenance()).unwrap();
        let ran = place.run(&["--round", "1"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("all its rationales were imported"), "{}", ran.stdout);
        place
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(collect_feedback(self.dataset.root(), arguments)).unwrap()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    fn export(&self, format: &str, name: &str, more: &[&str]) -> Ran {
        let out = self.out(name);
        let mut arguments = vec!["export", "--round", "1", "--as", format, "--to", out.to_str().unwrap()];
        arguments.extend(more);
        self.run(&arguments)
    }

    /// The lines of an export that must succeed.
    fn lines(&self, format: &str, more: &[&str]) -> Vec<Value> {
        let name = format!("{format}{}", more.join("").replace(['-', ' '], ""));
        let ran = self.export(format, &name, more);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let file = FORMATS.iter().find(|(other, _)| *other == format).unwrap().1;
        read(&self.out(&name).join(file))
    }

    /// An export that must fail and leave no files.
    fn refused(&self, format: &str, more: &[&str]) -> String {
        let ran = self.export(format, "refused", more);
        assert_eq!(ran.status, Some(2), "{} {}", ran.stdout, ran.stderr);
        let there = fs::read_dir(self.folder.path().join("out")).into_iter().flatten().flatten();
        let there: Vec<_> = there
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().contains("refused"))
            .collect();
        assert!(there.is_empty(), "{there:?}");
        ran.stderr
    }
}

fn read(path: &Path) -> Vec<Value> {
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        let text = fs::read_to_string(path).unwrap();
        return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    }
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let rows = reader.flat_map(|batch| serde_arrow::from_record_batch::<Vec<Cell>>(&batch.unwrap()).unwrap());
    rows.map(|Cell(value)| value).collect()
}

/// A value of any column; bytes are a list of numbers.
struct Cell(Value);

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a cell")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell, E> {
        Ok(Cell(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cell, E> {
        Ok(Cell(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cell, E> {
        Ok(Cell(value.into()))
    }

    fn visit_f32<E>(self, value: f32) -> Result<Cell, E> {
        Ok(Cell(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cell, E> {
        Ok(Cell(value.into()))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Cell, E> {
        Ok(Cell(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Cell, E> {
        Ok(Cell(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cell, D::Error> {
        Cell::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Cell, A::Error> {
        let mut list = Vec::new();
        while let Some(Cell(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Cell(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Cell, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some((name, Cell(field))) = fields.next_entry::<String, Cell>()? {
            map.insert(name, field);
        }
        Ok(Cell(map.into()))
    }
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap()
}

fn rows_left_out(manifest: &Value, rows: &str) -> u64 {
    let all = manifest["left_out"].as_array().unwrap().iter().filter(|left| left["rows"] == rows);
    all.map(|left| left["count"].as_u64().unwrap()).sum()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn rollouts(dataset: &Dataset) -> HashMap<String, Rollout> {
    let rows = dataset.read::<Rollout>(1).unwrap();
    rows.into_iter().map(|row| (row.rollout_id.clone(), row)).collect()
}

#[test]
fn prm_has_a_label_and_the_raw_score_of_each_sentence() {
    let place = Place::sample(12);
    let lines = place.lines("prm", &[]);
    assert_eq!(lines.len(), 24);
    let rollouts = rollouts(&place.dataset);
    let mut scores: HashMap<String, Vec<f32>> = HashMap::new();
    for row in place.dataset.read::<Score>(1).unwrap() {
        scores.entry(row.rollout_id).or_default().push(row.score);
    }
    let mut labels = [0, 0];
    for line in &lines {
        let id = text(&line["ares"]["rows"][0]);
        let sentences: Vec<&str> =
            rollouts[id].sentences.iter().map(|sentence| sentence.text.as_str()).collect();
        assert_eq!(line["completions"], serde_json::json!(sentences));
        let raw: Vec<f32> = serde_json::from_value(line["scores"].clone()).unwrap();
        assert_eq!(raw, scores[id]);
        for (label, score) in line["labels"].as_array().unwrap().iter().zip(raw) {
            assert_eq!(label.as_bool(), Some(score > 0.5), "{line}");
            labels[usize::from(score > 0.5)] += 1;
        }
        for image in line["images"].as_array().unwrap() {
            let own = fs::read(place.dataset.root().join(text(image))).unwrap();
            assert_eq!(fs::read(place.out("prm").join(text(image))).unwrap(), own);
        }
    }
    assert!(labels[0] > 0 && labels[1] > 0, "{labels:?}");
    let strict = place.lines("prm", &["--threshold", "1"]);
    assert!(strict.iter().all(|line| line["labels"].as_array().unwrap().iter().all(|label| label == false)));
}

#[test]
fn preference_prefers_corrections_and_better_samples() {
    let place = Place::sample(12);
    let pairs = place.lines("preference", &[]);
    assert!(!pairs.is_empty());
    let corrections = place.dataset.read::<schemas::Correction>(1).unwrap();
    let folded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for pair in &pairs {
        let row = corrections.iter().find(|row| row.rationale_id == text(&pair["ares"]["rows"][0])).unwrap();
        assert!(row.changed);
        assert_eq!(text(&pair["chosen"][0]["content"]), folded(&row.corrected));
        assert_eq!(text(&pair["rejected"][0]["content"]), folded(&row.original));
    }
    assert_eq!(pairs.len(), corrections.iter().filter(|row| row.changed).count());

    let pairs = place.lines("preference", &["--from", "scores"]);
    let rollouts = rollouts(&place.dataset);
    for pair in &pairs {
        let (high, low) = (pair["score_chosen"].as_f64().unwrap(), pair["score_rejected"].as_f64().unwrap());
        assert!(high - low > 0.0999, "{pair}");
        for (side, row) in [("chosen", 0), ("rejected", 1)] {
            assert_eq!(text(&pair[side][0]["content"]), rollouts[text(&pair["ares"]["rows"][row])].rationale);
        }
    }
    // The good rationale is the gold solution.
    assert!(pairs.len() >= 10, "{}", pairs.len());
    let far = place.lines("preference", &["--from", "scores", "--margin", "0.9"]);
    assert!(far.len() < pairs.len(), "{} {}", far.len(), pairs.len());
    let counted =
        rows_left_out(&manifest(&place.out("preferencefromscoresmargin0.9")), "rollouts for preference");
    assert_eq!(counted as usize + 2 * far.len(), 24);
}

#[test]
fn kto_and_sft_take_what_is_good_enough() {
    let place = Place::sample(12);
    let lines = place.lines("kto", &[]);
    assert_eq!(lines.len(), 24);
    for line in &lines {
        assert_eq!(line["label"].as_bool(), Some(line["score"].as_f64().unwrap() > 0.5), "{line}");
    }
    let worst = place.lines("kto", &["--aggregate", "min"]);
    let good = |lines: &[Value]| lines.iter().filter(|line| line["label"] == true).count();
    assert!(good(&worst) <= good(&lines) && good(&lines) < 24);

    let best = place.lines("sft", &["--from", "scores"]);
    assert!(best.len() <= 12);
    let out = manifest(&place.out("sftfromscores"));
    assert_eq!(rows_left_out(&out, "rollouts for sft") as usize + best.len(), 24);
    let corrected = place.lines("sft", &[]);
    assert_eq!(corrected.len(), 12);
    for line in &corrected {
        assert_eq!(
            (text(&line["prompt"][0]["role"]), text(&line["completion"][0]["role"])),
            ("user", "assistant")
        );
    }
}

#[test]
fn verl_and_llamafactory_mark_where_the_picture_is() {
    let place = Place::collected(12);
    let problems: HashMap<String, Problem> = place
        .dataset
        .problems()
        .unwrap()
        .into_iter()
        .map(|problem| (problem.problem_id.clone(), problem))
        .collect();
    for line in place.lines("verl", &[]) {
        let problem = &problems[text(&line["extra_info"]["problem_id"])];
        assert_eq!(text(&line["prompt"][0]["content"]).starts_with("<image>"), problem.image.is_some());
        assert_eq!(line["images"].as_array().unwrap().len(), usize::from(problem.image.is_some()));
        let letter = ["A", "B"][usize::from(problem.answer_index.unwrap())];
        assert_eq!(text(&line["reward_model"]["ground_truth"]), letter);
    }
    let lines = place.lines("llamafactory", &[]);
    let info: Value = serde_json::from_str(
        &fs::read_to_string(place.out("llamafactory").join("dataset_info.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(info["ares_preference"]["ranking"], true);
    assert_eq!(info["ares_kto"]["columns"]["kto_tag"], "label");
    assert_eq!(lines.len(), 9);
    for line in &lines {
        let images = line["images"].as_array().unwrap();
        assert_eq!(text(&line["messages"][0]["content"]).matches("<image>").count(), images.len());
        assert!(images.iter().all(|image| place.out("llamafactory").join(text(image)).is_file()));
    }
}

#[test]
fn the_hub_folder_holds_the_tables_with_their_pictures() {
    let place = Place::collected(8);
    let problems = place.lines("hub", &[]);
    let picture = fs::read(place.dataset.images_dir().join("p0.png")).unwrap();
    let bytes: Vec<u8> = serde_json::from_value(problems[0]["image"]["bytes"].clone()).unwrap();
    assert_eq!((bytes, problems[1]["image"].is_null()), (picture, true));
    let out = place.out("hub");
    let scores = [read(&out.join("scores/train.parquet")), read(&out.join("scores/test.parquet"))];
    assert_eq!(scores.iter().map(Vec::len).sum::<usize>() as u64, place.dataset.count::<Score>(1).unwrap());
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.starts_with("---\npretty_name: ") && card.contains("license: cc0-1.0"), "{card}");
    for table in ["problems", "rollouts", "scores", "rationales", "corrections"] {
        assert!(card.contains(&format!("- config_name: {table}\n")), "{card}");
    }
}

/// Test problems appear only where they are asked for.
#[test]
fn splits_are_kept_apart() {
    let place = Place::collected(12);
    for (format, file) in FORMATS.iter().filter(|(format, _)| *format != "hub") {
        assert_eq!(place.export(format, format, &[]).status, Some(0));
        let out = place.out(format);
        for line in read(&out.join(file)) {
            let of = if line["ares"].is_null() { &line["extra_info"] } else { &line["ares"] };
            assert_eq!(text(&of["split"]), "train", "{format}");
        }
        assert!(!files(&out).keys().any(|path| path.to_string_lossy().contains("test")), "{format}");
    }
    let ran = place.export("prm", "both", &["--split", "test,train"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let out = place.out("both");
    assert_eq!(
        (read(&out.join("train.jsonl")).len() + read(&out.join("test.jsonl")).len()) as u64,
        48 - left(&out)
    );
    assert!(place.refused("prm", &["--split", "val"]).contains("nothing to export"));
}

fn left(out: &Path) -> u64 {
    rows_left_out(&manifest(out), "rollouts")
}

/// Every rollout is exported or is counted with its reason.
#[test]
fn what_has_no_line_is_counted() {
    let place = Place::collected(12);
    let dataset = &place.dataset;
    let mut scores = dataset.read::<Score>(1).unwrap();
    scores.retain(|row| row.rollout_id != "p0-r1-s0" && row.rollout_id != "p0-r1-s3");
    scores.retain(|row| row.rollout_id != "p1-r1-s0" || row.sentence_index > 0);
    for row in scores.iter_mut().filter(|row| row.rollout_id == "p2-r1-s0") {
        row.sentence = "Something else.".into();
    }
    let [part] = dataset.parts::<Score>(1).unwrap().try_into().unwrap();
    table::write(&part, scores, &provenance()).unwrap();
    let reject = Reject {
        teacher: None,
        repeat: None,
        kind: "scores".into(),
        subject_id: "p0-r1-s3".into(),
        problem_id: "p0".into(),
        round: 1,
        reason: "refusal".into(),
        reply: String::new(),
        attempts: 1,
        request_key: "k".into(),
    };
    dataset.write_part(1, "scores-00009", [reject], &provenance()).unwrap();
    fs::remove_file(dataset.images_dir().join("p6.png")).unwrap();
    fs::write(dataset.images_dir().join("p9.png"), "version https://git-lfs.github.com/spec/v1").unwrap();

    let ran = place.export("prm", "prm", &[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let out = place.out("prm");
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for left in manifest(&out)["left_out"].as_array().unwrap() {
        reasons.insert(text(&left["reason"]).to_owned(), left["count"].as_u64().unwrap());
    }
    let expected = [
        ("feedback is about another text than the table's", 1),
        ("in split test (--split test exports it)", 12),
        ("only partly scored", 1),
        ("picture is missing", 4),
        ("picture is not readable", 4),
        ("rejected: no usable reply", 1),
        ("same text as another of the problem (--keep-duplicates exports it)", 3),
        ("without feedback yet", 1),
    ];
    assert_eq!(reasons, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
    assert_eq!(read(&out.join("train.jsonl")).len() as u64 + left(&out), 48);
    for (reason, count) in expected {
        assert!(ran.stdout.contains(&format!("{count} rollouts: {reason}")), "{}", ran.stdout);
    }
    let all = place.lines("prm", &["--keep-duplicates"]);
    assert_eq!(all.len() as u64 + left(&place.out("prmkeepduplicates")), 48);
    // Without pictures nothing is missing.
    let ran = place.export("prm", "bare", &["--no-images"]);
    assert!(!ran.stdout.contains("picture"), "{}", ran.stdout);
}

#[test]
fn judgements_prefer_the_winner_and_leave_ties_out() {
    let place = Place::collected(12);
    let judgement = |number: usize, verdict: &str, candidate_shown_first| Judgement {
        problem_id: format!("p{number}"),
        round: 1,
        against: "base".into(),
        candidate: format!("Candidate {number}."),
        baseline: format!("Baseline\n{number}."),
        candidate_shown_first,
        verdict: verdict.into(),
        teacher: "judge".into(),
        prompt_version: "v".into(),
        request_key: "k".into(),
        judged_at: TimestampMs(0),
    };
    // Problems 3, 7 and 11 are of the test split.
    let rows = [
        judgement(3, "win", true),
        judgement(3, "win", false),
        judgement(7, "tie", true),
        judgement(11, "loss", true),
        judgement(0, "win", true),
        judgement(0, "loss", false),
    ];
    place.dataset.write_part(1, "00000", rows, &provenance()).unwrap();
    let refused = place.refused("preference", &["--from", "judgements"]);
    assert!(refused.contains("in split test") && refused.contains("two orders disagree"), "{refused}");
    let ran = place.export("preference", "pairs", &["--from", "judgements", "--split", "test"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let pairs = read(&place.out("pairs").join("test.parquet"));
    let sides = |pair: &Value| {
        [text(&pair["chosen"][0]["content"]).to_owned(), text(&pair["rejected"][0]["content"]).to_owned()]
    };
    let expected = [["Candidate 3.", "Baseline 3."], ["Baseline 11.", "Candidate 11."]];
    assert_eq!(pairs.iter().map(sides).collect::<Vec<_>>(), expected.map(|pair| pair.map(str::to_owned)));
    assert!(ran.stdout.contains("1 judgements for preference: tie"), "{}", ran.stdout);
}

#[test]
fn the_same_tables_give_the_same_bytes() {
    let place = Place::collected(12);
    for (format, _) in FORMATS {
        for name in ["first", "second"] {
            let ran = place.export(format, &format!("{format}-{name}"), &[]);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        }
        let of = |name: &str| -> Vec<(PathBuf, Vec<u8>)> {
            let root = place.out(&format!("{format}-{name}"));
            files(&root)
                .into_iter()
                .map(|(path, bytes)| (path.strip_prefix(&root).unwrap().to_owned(), bytes))
                .collect()
        };
        assert!(of("first") == of("second"), "{format}");
        let out = place.out(&format!("{format}-first"));
        let manifest = manifest(&out);
        for file in manifest["files"].as_array().unwrap() {
            let bytes = fs::read(out.join(text(&file["file"]))).unwrap();
            assert_eq!(text(&file["sha256"]), schemas::provenance::sha256_hex(&bytes));
        }
        for source in manifest["sources"].as_array().unwrap() {
            let bytes = fs::read(place.dataset.root().join(text(&source["file"]))).unwrap();
            assert_eq!(text(&source["sha256"]), schemas::provenance::sha256_hex(&bytes));
        }
    }
}

#[test]
fn folders_with_other_files_are_left_alone() {
    let place = Place::collected(8);
    place.lines("prm", &[]);
    let before = files(&place.out("prm"));
    let ran = place.export("kto", "prm", &[]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("--replace replaces the export there"), "{}", ran.stderr);
    assert_eq!(files(&place.out("prm")), before);
    assert_eq!(place.export("kto", "prm", &["--replace"]).status, Some(0));
    assert!(
        place.out("prm").join("train.parquet").is_file() && !place.out("prm").join("train.jsonl").exists()
    );
    // Not even if the dataset looks like an export, and not among its tables.
    let root = place.dataset.root();
    fs::write(root.join("manifest.json"), r#"{"ares_export":1,"files":[]}"#).unwrap();
    let before = files(root);
    let parent = root.parent().unwrap().to_path_buf();
    for own in
        [root.to_path_buf(), parent, root.join("scores/round-2"), root.join("images/x"), root.join(".x")]
    {
        let to = own.to_str().unwrap();
        let ran = place.run(&["export", "--round", "1", "--as", "prm", "--to", to, "--replace"]);
        assert_eq!(ran.status, Some(2), "{to}: {}", ran.stdout);
        assert_eq!(files(root), before);
    }
    let link = root.join("link");
    let real = place.out("real");
    fs::create_dir_all(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let to = link.to_str().unwrap();
    let ran = place.run(&["export", "--round", "1", "--as", "prm", "--to", to]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(real.join("manifest.json").is_file() && link.is_symlink());
}

#[test]
fn wrong_tables_and_flags_are_refused() {
    let place = Place::collected(8);
    let dataset = &place.dataset;
    for (format, flags, expected) in [
        ("prm", ["--from", "corrections"].as_slice(), "expected scores with --as prm, found corrections"),
        ("prm", &["--margin", "0.2"], "--margin: expected none with --as prm --from scores"),
        ("hub", &["--instruction", "x"], "--instruction: expected none with --as hub"),
        ("kto", &["--threshold", "1.5"], "expected a number from 0 to 1, found 1.5"),
        ("sft", &["--from", "judgements"], "round 1 has no judgements"),
    ] {
        let said = place.refused(format, flags);
        assert!(said.contains(expected), "{said}");
    }
    // A Teacher's second score of a sentence in the same scoring.
    let mut again = dataset.read::<Score>(1).unwrap();
    again.truncate(1);
    dataset.write_part(1, "00009", again, &provenance()).unwrap();
    let said = place.refused("prm", &[]);
    let expected =
        "expected one row for sentence 0 of rollout `p0-r1-s0` by each opinion, found 2, by reference-v2";
    assert!(said.contains(expected), "{said}");
    dataset.remove_part::<Score>(1, "00009").unwrap();
    // A table from elsewhere names a file of this machine.
    fs::write(
        place.folder.path().join("private.png"),
        fs::read(dataset.images_dir().join("p0.png")).unwrap(),
    )
    .unwrap();
    let problems = (0..8).map(|number| Problem { image: Some("../private.png".into()), ..problem(number) });
    table::write(&dataset.problems_path(), problems, &provenance()).unwrap();
    for (format, _) in FORMATS {
        let said = place.refused(format, &[]);
        assert!(said.contains("picture path leaves the dataset folder: ../private.png"), "{format}: {said}");
    }
}
