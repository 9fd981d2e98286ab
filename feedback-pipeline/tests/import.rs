//! Import: the result for each format, repeated imports that change nothing, and the exact message of every
//! refusal.

use feedback_pipeline::import::{Command, run};
use schemas::{Dataset, Problem, Rollout};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Published data outside the repository.
pub(crate) fn real_data() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("..").join("shared").join("data");
    std::env::var_os("ARES_REAL_DATA").map_or_else(usual, PathBuf::from)
}

pub(crate) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn dataset(&self) -> Dataset {
        Dataset::open(self.path("data")).unwrap()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.dataset().problems().unwrap()
    }

    pub(crate) fn scienceqa(&self, from: &str) -> Result<(), String> {
        self.run(Command::Scienceqa {
            from: self.path(from),
            data: self.path("data"),
            captions: None,
            images: None,
        })
    }

    pub(crate) fn aokvqa(&self, from: &str, images: Option<&str>) -> Result<(), String> {
        let images = images.map(|images| self.path(images));
        self.run(Command::Aokvqa { from: self.path(from), data: self.path("data"), images })
    }

    pub(crate) fn jsonl(&self, from: &str) -> Result<(), String> {
        let licence = "CC0-1.0".to_owned();
        self.run(Command::Jsonl {
            from: self.path(from),
            data: Some(self.path("data")),
            images: None,
            licence,
        })
    }

    fn rationales(&self, from: &str, split: Option<&str>, skip_unknown: bool) -> Result<(), String> {
        let split = split.map(str::to_owned);
        self.run(Command::Rationales {
            from: self.path(from),
            data: self.path("data"),
            round: 1,
            split,
            skip_unknown,
            written_by: None,
            map: Vec::new(),
        })
    }

    /// Runs an import; a refusal must be bad input (exit status 2). Paths in messages are shortened to `@/`.
    pub(crate) fn run(&self, command: Command) -> Result<(), String> {
        run(command).map_err(|error| {
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string().replace(&format!("{}/", self.folder.path().display()), "@/")
        })
    }

    /// Every file of the dataset with its bytes, but for lock files.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, files);
                } else if path.extension().is_none_or(|extension| extension != "lock") {
                    files.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(&self.path("data"), &mut files);
        files
    }
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and the rest";
pub(crate) const JPEG: &[u8] = b"\xff\xd8\xff\xe0 and the rest";

pub(crate) const PROBLEMS: &str = r#"{
  "7": {"question": "Which is farthest north?", "choices": ["Maine", "Ohio"], "answer": 0, "hint": "", "image": "image.png",
        "lecture": "Maps have directions.\nNorth is up.", "solution": "Look at the map. Maine is farthest north.",
        "task": "closed choice", "grade": "grade2", "subject": "social science", "topic": "geography",
        "category": "Geography", "skill": "Read a map", "split": "train"},
  "9": {"question": "Is it solid?", "choices": ["yes", "no"], "answer": 1, "hint": "A gas.", "image": null, "solution": "",
        "split": "test"},
  "8": {"question": "What rhymes?", "choices": ["cat", "hat", "dog"], "answer": 2, "hint": "", "image": "image.png",
        "solution": "Dog does not rhyme.", "split": "train"},
  "5": {"question": "Nobody asks.", "choices": ["a", "b"], "answer": 0, "hint": "", "image": null, "solution": ""}
}"#;
const SPLITS: &str = r#"{"train": ["8", "7"], "test": ["9"], "trainval": ["8", "7"]}"#;

fn published() -> Folder {
    let folder = Folder::new();
    folder.write("from/problems.json", PROBLEMS);
    folder.write("from/pid_splits.json", SPLITS);
    folder.write("from/captions.json", r#"{"model": "m", "captions": {"7": "a map of states"}}"#);
    folder.write("from/images/train/7/image.png", PNG);
    folder
}

#[test]
fn scienceqa_becomes_problems_in_the_order_of_the_splits() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    let problems = folder.problems();
    let ids: Vec<_> =
        problems.iter().map(|problem| (problem.problem_id.as_str(), problem.split.as_str())).collect();
    assert_eq!(ids, [("8", "train"), ("7", "train"), ("9", "test")]);
    let map = &problems[1];
    assert_eq!(map.lecture, "Maps have directions.\nNorth is up.");
    assert_eq!(map.caption, "a map of states");
    assert_eq!(map.image.as_deref(), Some("images/7.png"));
    assert_eq!(map.grade.as_deref(), Some("grade2"));
    assert_eq!(problems[2].image, None);
    assert_eq!(fs::read(folder.path("data/images/7.png")).unwrap(), PNG);
    // The file is missing, but the problem still has a picture path.
    assert_eq!(problems[0].image.as_deref(), Some("images/8.png"));
    let card = folder.dataset().card().unwrap();
    assert_eq!((card.name.as_str(), card.licence.as_str()), ("data", "CC BY-NC-SA 4.0"));
}

#[test]
fn the_same_import_again_changes_nothing() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    let before = folder.contents();
    folder.scienceqa("from").unwrap();
    assert_eq!(folder.contents(), before);
}

#[test]
fn a_file_takes_each_problems_own_split() {
    let folder = published();
    folder.scienceqa("from/problems.json").unwrap();
    let ids: Vec<_> = folder.problems().into_iter().map(|problem| problem.problem_id).collect();
    assert_eq!(ids, ["7", "8", "9"]);
}

#[test]
fn later_imports_add_problems_and_what_was_missing() {
    let folder = published();
    folder.write("first/problems.json", PROBLEMS);
    folder.write("first/pid_splits.json", r#"{"train": ["7"]}"#);
    folder.scienceqa("first").unwrap();
    assert_eq!(folder.problems()[0].caption, "");
    folder.write("from/images/train/8/image.png", JPEG);
    folder.scienceqa("from").unwrap();
    let problems = folder.problems();
    assert_eq!(problems.len(), 3);
    assert_eq!(problems[0].image.as_deref(), Some("images/8.jpg"));
    assert_eq!(problems[1].caption, "a map of states");
    let before = folder.contents();
    folder.scienceqa("first").unwrap();
    assert_eq!(folder.contents(), before);
}

#[test]
fn another_problem_under_the_same_id_is_refused() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    let before = folder.contents();
    folder.write("from/problems.json", PROBLEMS.replace("Is it solid?", "Is it liquid?"));
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/data: problem `9` already exists with a different question; import into a separate folder"
    );
    assert_eq!(folder.contents(), before);
}

/// Each broken source with its exact message; the dataset folder must not be created.
#[test]
fn scienceqa_refusals_name_the_place() {
    let problem = |field: &str, value: &str| {
        let mut fields = BTreeMap::from([
            ("question", r#""Q?""#),
            ("choices", r#"["a", "b"]"#),
            ("answer", "0"),
            ("image", "null"),
            ("solution", r#""S.""#),
            ("split", r#""train""#),
        ]);
        fields.insert(field, value);
        let fields: Vec<_> =
            fields.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("\"{k}\": {v}")).collect();
        format!("{{\"3\": {{{}}}}}", fields.join(", "))
    };
    let many = format!("[{}]", vec![r#""x""#; 27].join(", "));
    let cases: Vec<(String, &str)> = vec![
        (
            "{\"1\": {\"question\": \"Q\",\n  oops}}".into(),
            "@/p.json: line 2, column 3: key must be a string",
        ),
        ("{\"1\": ".into(), "@/p.json: line 1, column 6: EOF while parsing a value"),
        ("[]".into(), "@/p.json: expected a JSON object, found a list of 0"),
        ("{}".into(), "@/p.json: expected problems, found none"),
        (r#"{"1": {}, "1": {}}"#.into(), "@/p.json: line 1, column 13: key `1` appears twice"),
        (r#"{"1": 5}"#.into(), "@/p.json, problem `1`: expected an object, found 5"),
        (problem("question", ""), "@/p.json, problem `3`: `question`: expected a text, found none"),
        (problem("question", "null"), "@/p.json, problem `3`: `question`: expected a text, found null"),
        (problem("question", "12"), "@/p.json, problem `3`: `question`: expected a text, found 12"),
        (problem("hint", "[]"), "@/p.json, problem `3`: `hint`: expected a text, found a list of 0"),
        (
            problem("choices", "[]"),
            "@/p.json, problem `3`: `choices`: expected 1 to 26 choices, (A) to (Z), found 0",
        ),
        (
            problem("choices", &many),
            "@/p.json, problem `3`: `choices`: expected 1 to 26 choices, (A) to (Z), found 27",
        ),
        (
            problem("choices", "\"a\""),
            "@/p.json, problem `3`: `choices`: expected a list of texts, found the text `a`",
        ),
        (problem("choices", "[\"a\", 1]"), "@/p.json, problem `3`: `choices[1]`: expected a text, found 1"),
        (
            problem("answer", "2"),
            "@/p.json, problem `3`: `answer`: expected an index below 2, the number of choices, found 2",
        ),
        (
            problem("answer", "-1"),
            "@/p.json, problem `3`: `answer`: expected a whole number from 0, found -1",
        ),
        (
            problem("answer", "\"A\""),
            "@/p.json, problem `3`: `answer`: expected a whole number from 0, found the text `A`",
        ),
        (
            problem("answer", "null"),
            "@/p.json, problem `3`: `answer`: expected the index of the correct choice, found none",
        ),
        (
            problem("split", "\"minitrain\""),
            "@/p.json, problem `3`: `split`: expected train, val or test, found `minitrain`",
        ),
        (problem("split", "null"), "@/p.json: expected problems, found none; 1 belong to no split"),
        (problem("image", "true"), "@/p.json, problem `3`: `image`: expected a text, found true"),
        (
            problem("split", "\"test\"").replace("\"3\"", "\"../3\""),
            "@/p.json, problem `../3`: `problem_id`: expected a name that can be part of a path, found `../3`",
        ),
    ];
    for (text, expected) in cases {
        let folder = Folder::new();
        folder.write("p.json", &text);
        assert_eq!(folder.scienceqa("p.json").unwrap_err(), expected, "{text}");
        assert!(!folder.path("data").exists(), "{text}");
    }
}

#[test]
fn scienceqa_refuses_missing_and_foreign_files() {
    let folder = Folder::new();
    assert_eq!(
        folder.scienceqa("gone").unwrap_err(),
        "cannot read @/gone: No such file or directory (os error 2)"
    );
    folder.write("from/notes.txt", "");
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from: expected problems.json and pid_splits.json, or Parquet files such as data/train-*.parquet, found neither"
    );
    folder.write("from/problems.json", PROBLEMS.replace("\"split\"", "\"set\""));
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from: expected pid_splits.json, or a `split` in each problem of problems.json, found neither"
    );
    folder.write("from/problems.json", PROBLEMS);
    folder.write("from/pid_splits.json", r#"{"train": ["7", "99"]}"#);
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from/pid_splits.json: `train`: expected problems of problems.json, found `99`"
    );
    folder.write("from/pid_splits.json", r#"{"train": ["7"], "test": ["7"]}"#);
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from/pid_splits.json: problem `7` is in `test` and also in `train`"
    );
    folder.write("from/pid_splits.json", r#"{"train": "7"}"#);
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from/pid_splits.json: `train`: expected a list of texts, found the text `7`"
    );
    folder.write("from/pid_splits.json", SPLITS);
    folder.write("from/captions.json", r#"{"7": "a map"}"#);
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from/captions.json: `captions`: expected an object from problem id to text, found none"
    );
    folder.write("from/captions.json", r#"{"captions": {"7": 1}}"#);
    assert_eq!(
        folder.scienceqa("from").unwrap_err(),
        "@/from/captions.json: `captions.7`: expected a text, found 1"
    );
    folder.write("latin1.json", b"{\n\"1\": \"caf\xe9\"}");
    assert_eq!(
        folder.scienceqa("latin1.json").unwrap_err(),
        "@/latin1.json: line 2: expected UTF-8 text, found another encoding"
    );
    assert!(!folder.path("data").exists());
    folder.write("data", "no folder");
    folder.write("from/captions.json", r#"{"captions": {}}"#);
    assert_eq!(folder.scienceqa("from").unwrap_err(), "@/data: expected a dataset folder, found a file");
}

pub(crate) const QUESTION: &str = r#"{"split": "val", "image_id": 461751, "question_id": "22jb", "question": "What is it?",
    "choices": ["food", "cigarette"], "correct_choice_idx": 1, "direct_answers": ["cigarette"],
    "difficult_direct_answer": false, "rationales": ["He smokes.", " It is lit. ", "The man is smoking."]}"#;

#[test]
fn aokvqa_joins_rationales_and_hides_test_answers() {
    let folder = Folder::new();
    folder.write("from/aokvqa_v1p0_val.json", format!("[{QUESTION}]"));
    let hidden =
        r#"[{"split": "test", "image_id": 7, "question_id": "x", "question": "Q?", "choices": ["a", "b"]}]"#;
    folder.write("from/aokvqa_v1p0_test.json", hidden);
    folder.write("coco/val2017/000000461751.jpg", JPEG);
    folder.aokvqa("from", Some("coco")).unwrap();
    let problems = folder.problems();
    assert_eq!(problems[0].problem_id, "22jb");
    assert_eq!(problems[0].solution, "He smokes. It is lit. The man is smoking.");
    let unended = QUESTION.replace("He smokes.", "He smokes").replace(" It is lit. ", "\\\"It is lit.\\\"");
    folder.write("other/aokvqa_v1p0_val.json", format!("[{unended}]"));
    fs::remove_dir_all(folder.path("data")).unwrap();
    folder.aokvqa("other", None).unwrap();
    assert_eq!(folder.problems()[0].solution, "He smokes. \"It is lit.\" The man is smoking.");
    fs::remove_dir_all(folder.path("data")).unwrap();
    folder.aokvqa("from", Some("coco")).unwrap();
    assert_eq!(problems[0].image.as_deref(), Some("images/000000461751.jpg"));
    assert_eq!(fs::read(folder.path("data/images/000000461751.jpg")).unwrap(), JPEG);
    assert_eq!((problems[1].split.as_str(), problems[1].answer_index), ("test", None));
    let before = folder.contents();
    folder.aokvqa("from", None).unwrap();
    assert_eq!(folder.contents(), before);
}

#[test]
fn aokvqa_refusals_name_the_place() {
    let cases = [
        ("{}".to_owned(), "@/from/aokvqa_v1p0_val.json: expected a list of questions, found an object"),
        (
            "[{}]".to_owned(),
            "@/from/aokvqa_v1p0_val.json, question 1: `question_id`: expected a text, found none",
        ),
        (
            format!("[{}]", QUESTION.replace("461751", "\"x\"")),
            "@/from/aokvqa_v1p0_val.json, question `22jb`: `image_id`: expected a whole number from 0, found the text `x`",
        ),
        (
            format!("[{}]", QUESTION.replace("\"val\"", "\"minival\"")),
            "@/from/aokvqa_v1p0_val.json, question `22jb`: `split`: expected train, val or test, found `minival`",
        ),
        (
            format!("[{QUESTION}, {QUESTION}]"),
            "@/from/aokvqa_v1p0_val.json, question 2: problem_id `22jb` appears twice, first at \
             @/from/aokvqa_v1p0_val.json, question 1",
        ),
    ];
    for (text, expected) in cases {
        let folder = Folder::new();
        folder.write("from/aokvqa_v1p0_val.json", &text);
        assert_eq!(folder.aokvqa("from", None).unwrap_err(), expected);
        assert!(!folder.path("data").exists());
    }
    let folder = Folder::new();
    folder.write("from/other.json", "[]");
    assert_eq!(
        folder.aokvqa("from", None).unwrap_err(),
        "@/from: expected aokvqa_v1p0_train.json, aokvqa_v1p0_val.json or aokvqa_v1p0_test.json, or Parquet \
         files such as data/train-*.parquet, found none"
    );
}

const LINE: &str =
    r#"{"problem_id": "a1", "split": "train", "question": "Q?", "choices": ["x", "y"], "answer_index": 1}"#;

#[test]
fn jsonl_takes_columns_as_fields() {
    let folder = Folder::new();
    let second = LINE
        .replace("a1", "a2")
        .replace("1}", "0, \"image\": \"pictures/cat.png\", \"solution\": \"Because.\"}");
    folder.write("own.jsonl", format!("{LINE}\n\n{second}\n"));
    folder.write("pictures/cat.png", JPEG);
    folder.jsonl("own.jsonl").unwrap();
    let problems = folder.problems();
    assert_eq!(problems[0].answer_index, Some(1));
    assert_eq!(problems[1].image.as_deref(), Some("images/a2.jpg"));
    assert_eq!(problems[1].source, "own.jsonl");
    assert_eq!(folder.dataset().card().unwrap().licence, "CC0-1.0");
    let before = folder.contents();
    folder.jsonl("own.jsonl").unwrap();
    assert_eq!(folder.contents(), before);
}

#[test]
fn jsonl_refusals_name_line_and_field() {
    let cases = [
        (format!("{LINE}\n{{\"problem_id\": }}"), "@/own.jsonl, line 2: column 16: expected value"),
        (format!("{LINE}\n[1]"), "@/own.jsonl, line 2: expected an object, found a list of 1"),
        (
            format!("{LINE}\n{LINE}"),
            "@/own.jsonl, line 2: problem_id `a1` appears twice, first at @/own.jsonl, line 1",
        ),
        (
            LINE.replace("split", "spilt"),
            "@/own.jsonl, line 1: unknown field `spilt`; known: problem_id, split, question, \
            choices, answer_index, hint, caption, lecture, solution, image, subject, topic, category, skill, grade, source",
        ),
        (
            LINE.replace("\"train\"", "null"),
            "@/own.jsonl, line 1: `split`: expected train, val or test, found none",
        ),
        (
            LINE.replace("1}", "1.5}"),
            "@/own.jsonl, line 1: `answer_index`: expected a whole number from 0, found 1.5",
        ),
        (String::new(), "@/own.jsonl: expected problems, found none"),
    ];
    for (text, expected) in cases {
        let folder = Folder::new();
        folder.write("own.jsonl", &text);
        assert_eq!(folder.jsonl("own.jsonl").unwrap_err(), expected);
        assert!(!folder.path("data").exists());
    }
}

fn rollouts(folder: &Folder) -> Vec<Rollout> {
    folder.dataset().read::<Rollout>(1).unwrap()
}

#[test]
fn pictures_that_the_source_never_had_are_listed_until_they_come() {
    let folder = Folder::new();
    let line = |id: &str| {
        format!(
            "{{\"problem_id\":\"{id}\",\"split\":\"train\",\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer_index\":0,\"image\":\"{id}.png\"}}\n"
        )
    };
    folder.write("own.jsonl", line("a") + &line("b"));
    let list = || fs::read_to_string(folder.path("data/images/missing.txt")).unwrap();
    folder.jsonl("own.jsonl").unwrap();
    assert_eq!(list(), "a\nb\n");
    let before = folder.contents();
    folder.jsonl("own.jsonl").unwrap();
    assert_eq!(folder.contents(), before);
    folder.write("a.png", [0x89, b'P', b'N', b'G', 0, 0, 0, 0, 0, 0, 0, 0]);
    folder.jsonl("own.jsonl").unwrap();
    assert_eq!(list(), "b\n");
}

#[test]
fn rationales_become_rollouts_without_tokens() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    folder
        .write("r.json", r#"{"7": "Solution: Look at the map.nMaine is farthest north.", "9": "Solution:"}"#);
    folder.rationales("r.json", None, false).unwrap();
    let rows = rollouts(&folder);
    assert_eq!(
        rows[0].rollout_id,
        format!("import-{}-7-r1-s0", &rows[0].policy[7..15]),
        "train's own is 7-r1-s0"
    );
    let texts: Vec<_> =
        rows[0].sentences.iter().map(|sentence| (sentence.text.as_str(), sentence.token_end)).collect();
    assert_eq!(texts, [("Look at the map.", 0), ("Maine is farthest north.", 0)]);
    assert!(rows[0].token_ids.is_empty() && rows[0].logprobs.is_empty() && !rows[0].truncated);
    assert!(rows[0].policy.starts_with("import:") && rows[0].policy.len() == 23);
    assert!(rows[1].sentences.is_empty());
    let before = folder.contents();
    folder.rationales("r.json", None, false).unwrap();
    assert_eq!(folder.contents(), before);
    // Nor do those of one split become further samples, regardless of the order.
    folder.rationales("r.json", Some("test"), false).unwrap();
    assert_eq!(rollouts(&folder).len(), rows.len());
    let folder = published();
    folder.scienceqa("from").unwrap();
    folder.write("r.json", r#"{"7": "Solution: Look at the map.", "9": "Solution: Maine."}"#);
    let split_of =
        |id: &str| folder.problems().into_iter().find(|problem| problem.problem_id == id).unwrap().split;
    folder.rationales("r.json", Some(&split_of("7")), false).unwrap();
    for _ in 0..2 {
        folder.rationales("r.json", None, false).unwrap();
        assert_eq!(rollouts(&folder).len(), 2);
    }
}

#[test]
fn repeated_problems_become_samples_and_another_file_goes_on() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    let line = |text: &str| format!("{{\"problem_id\": \"7\", \"rationale\": \"{text}\"}}\n");
    folder.write("r.jsonl", line("One.") + &line("Two."));
    folder.rationales("r.jsonl", None, false).unwrap();
    folder.write("more.txt", line("Three.") + &line("Four."));
    folder.rationales("more.txt", None, false).unwrap();
    let mut rows = rollouts(&folder);
    rows.sort_by_key(|row| row.sample);
    let rows: Vec<_> = rows.iter().map(|row| (row.sample, row.rationale.as_str())).collect();
    assert_eq!(rows, [(0, "One."), (1, "Two."), (2, "Three."), (3, "Four.")]);
    let before = folder.contents();
    folder.rationales("r.jsonl", None, false).unwrap();
    assert_eq!(folder.contents(), before);
}

#[test]
fn predictions_follow_the_splits_order() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    let labels = r#""labels": ["Solution: Dog does not rhyme.", "Solution: Look at the map.nMaine is farthest north."]"#;
    folder.write(
        "predictions_ans_test.json",
        format!("{{\"num_fail\": 2, \"preds\": [\"Dog.\", \"Maine.\"], {labels}}}"),
    );
    folder.rationales("predictions_ans_test.json", Some("train"), false).unwrap();
    let rows: Vec<_> = rollouts(&folder).into_iter().map(|row| (row.problem_id, row.rationale)).collect();
    assert_eq!(rows, [("8".into(), "Dog.".into()), ("7".into(), "Maine.".into())]);
}

#[test]
fn rationale_refusals_name_the_place() {
    let folder = published();
    folder.scienceqa("from").unwrap();
    let before = folder.contents();
    let cases: [(&str, Option<&str>, &str); 10] = [
        (
            r#"{"7": "A.", "70": "B.", "71": "C."}"#,
            None,
            "@/r.json: 2 of 3 problem ids are not in @/data: `70`, `71`; --skip-unknown skips them",
        ),
        (r#"{"7": 5}"#, None, "@/r.json, problem `7`: expected a text, found 5"),
        (r#"{"7": "A.", "7": "B."}"#, None, "@/r.json: line 1, column 15: key `7` appears twice"),
        ("{}", None, "@/r.json: expected rationales of the dataset's problems, found none"),
        ("{\"7\": \"A.\"", None, "@/r.json: line 1, column 10: EOF while parsing an object"),
        (
            "[]",
            None,
            "@/r.json: expected an object from problem id to rationale, or with `preds`, found a list of 0",
        ),
        (
            r#"{"preds": ["A."]}"#,
            None,
            "@/r.json: predictions have no problem ids: pass the split whose order they follow with --split train, val or test",
        ),
        (
            r#"{"preds": ["A."]}"#,
            Some("train"),
            "@/r.json: `preds`: expected 2 texts, the problems of split `train`, found 1",
        ),
        (
            r#"{"preds": ["The answer is (A).", "The answer is (B)."]}"#,
            Some("train"),
            "@/r.json: `preds`: expected rationales, found answers; use the file of the rationale stage",
        ),
        (
            r#"{"preds": ["A.", "B."], "labels": ["Look at the map. Maine is farthest north.", "Dog does not rhyme."]}"#,
            Some("train"),
            "@/r.json: `labels`: expected the dataset's solutions in the same order, found different texts \
             for 2 of 2 problems, first `8`",
        ),
    ];
    for (text, split, expected) in cases {
        folder.write("r.json", text);
        assert_eq!(folder.rationales("r.json", split, false).unwrap_err(), expected);
    }
    folder.write("r.jsonl", "{\"problem_id\": \"7\", \"rationale\": \"A.\"}\n{\"problem_id\": \"7\"}\n");
    assert_eq!(
        folder.rationales("r.jsonl", None, false).unwrap_err(),
        "@/r.jsonl, line 2: `rationale`: expected a text, found none"
    );
    assert_eq!(folder.contents(), before);
    folder.write("r.json", r#"{"7": "A.", "70": "B."}"#);
    folder.rationales("r.json", None, true).unwrap();
    assert_eq!(rollouts(&folder).len(), 1);
}

#[test]
fn rationales_need_a_dataset() {
    let folder = Folder::new();
    folder.write("r.json", r#"{"7": "A."}"#);
    let message = folder.rationales("r.json", None, false).unwrap_err();
    assert_eq!(message, "@/data is not a dataset folder: problems.parquet is missing");
}

#[test]
#[cfg_attr(not(real_data), ignore = "needs real data: ARES_REAL_DATA")]
fn the_published_files_have_their_numbers() {
    let real = real_data();
    let folder = Folder::new();
    let scienceqa = |from: PathBuf, data: &str| {
        run(Command::Scienceqa { from, data: folder.path(data), captions: None, images: None }).unwrap();
        Dataset::open(folder.path(data)).unwrap().problems().unwrap()
    };
    let problems = scienceqa(real.join("scienceqa"), "small");
    for split in ["train", "val", "test"] {
        assert_eq!(problems.iter().filter(|problem| problem.split == split).count(), 50);
    }
    assert_eq!(problems.iter().filter(|problem| problem.image.is_some()).count(), 67);
    let half = scienceqa(real.join("scienceqa/problems_test_half.json"), "half");
    assert_eq!(half.len(), 2121);
    let copied = fs::read_dir(folder.path("half/images")).unwrap().count();
    assert_eq!(copied, 69, "68 pictures and missing.txt");

    let data = folder.path("aokvqa");
    run(Command::Aokvqa { from: real.join("aokvqa"), data: data.clone(), images: None }).unwrap();
    assert_eq!(Dataset::open(&data).unwrap().problems().unwrap().len(), 1145);

    let from = real.join("scienceqa/mm_cot_rationales_test_half.json");
    let data = folder.path("half");
    let (written_by, map) = (None, Vec::new());
    run(Command::Rationales {
        from,
        data: data.clone(),
        round: 1,
        split: None,
        skip_unknown: false,
        written_by,
        map,
    })
    .unwrap();
    let rollouts: Vec<Rollout> = Dataset::open(&data).unwrap().read(1).unwrap();
    assert_eq!(rollouts.len(), 2121);
    assert!(rollouts.iter().any(|rollout| rollout.sentences.is_empty()));
}
