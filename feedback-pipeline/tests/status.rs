//! Status: every item is counted once, sums match the tables, and faults are named.

use arrow::array::{Float32Array, RecordBatch};
use feedback_pipeline::inspect::status;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::settings::{AnswerReward, CorrectionFilter};
use schemas::{
    Correction, Dataset, Problem, Provenance, Rationale, Reject, Request, Rollout, Score, Sentence, Settings,
    TimestampMs, table,
};
use std::sync::Arc;
use tempfile::TempDir;

fn report(dataset: &Dataset) -> feedback_pipeline::error::Result<status::Report> {
    status::report(dataset, &Settings::default())
}

fn provenance() -> Provenance {
    Provenance::new("collect-feedback", "")
}

fn dataset(folder: &TempDir) -> Dataset {
    let dataset = Dataset::at(folder.path().join("ports"));
    let problems = ["a", "b"].map(|id| Problem {
        problem_id: id.to_owned(),
        split: if id == "a" { "train" } else { "test" }.to_owned(),
        question: "Q?".to_owned(),
        choices: vec!["x".to_owned(), "y".to_owned()],
        answer_index: Some(0),
        hint: String::new(),
        caption: String::new(),
        lecture: String::new(),
        solution: String::new(),
        image: None,
        subject: None,
        topic: None,
        category: None,
        skill: None,
        grade: None,
        source: "test".to_owned(),
    });
    table::write(&dataset.problems_path(), problems, &provenance()).unwrap();
    dataset
}

fn rollout(sample: u32, sentences: usize) -> Rollout {
    Rollout {
        rollout_id: Rollout::id("a", 1, sample),
        problem_id: "a".to_owned(),
        round: 1,
        sample,
        rationale: String::new(),
        token_ids: Vec::new(),
        logprobs: Vec::new(),
        ref_logprobs: Vec::new(),
        values: Vec::new(),
        sentences: (0..sentences)
            .map(|index| Sentence { text: format!("S{index}."), token_end: 0 })
            .collect(),
        truncated: false,
        policy: "p".to_owned(),
        seed: 0,
    }
}

fn scores(sample: u32, sentences: u32) -> impl Iterator<Item = Score> {
    (0..sentences).map(move |index| Score {
        rollout_id: Rollout::id("a", 1, sample),
        problem_id: "a".to_owned(),
        round: 1,
        sample,
        sentence_index: index,
        sentence: format!("S{index}."),
        score: 0.5,
        teacher: "t".to_owned(),
        prompt_version: "v".to_owned(),
        request_key: "k".to_owned(),
        cached: false,
        scored_at: TimestampMs(0),
        reason: None,
        repeat: None,
    })
}

fn request(kind: &str, subject: &str, cost: Option<f64>, status: &str, cached: bool) -> Request {
    Request {
        repeat: None,
        request_key: "k".to_owned(),
        kind: kind.to_owned(),
        subject_id: subject.to_owned(),
        round: 1,
        provider: "anthropic".to_owned(),
        model: "small".to_owned(),
        status: status.to_owned(),
        attempts: u32::from(!cached) * 2,
        cached,
        input_tokens: if cached { 0 } else { 1000 },
        cached_input_tokens: 10,
        output_tokens: 100,
        cost_usd: cost,
        latency_ms: 5,
        started_at: TimestampMs(0),
        dialect: None,
        items: None,
    }
}

fn reject(kind: &str, subject: &str) -> Reject {
    Reject {
        teacher: None,
        repeat: None,
        kind: kind.to_owned(),
        subject_id: subject.to_owned(),
        problem_id: "a".to_owned(),
        round: 1,
        reason: "no JSON".to_owned(),
        reply: String::new(),
        attempts: 2,
        request_key: "k".to_owned(),
    }
}

fn rationale(id: &str, stage: &str, text: &str) -> Rationale {
    Rationale {
        rationale_id: id.to_owned(),
        problem_id: "a".to_owned(),
        round: 1,
        split: "train".to_owned(),
        stage: stage.to_owned(),
        rationale: text.to_owned(),
        sentences: Vec::new(),
        deduplicated: text.to_owned(),
        repeated_sentences: 0,
        truncated: false,
        policy: "p".to_owned(),
    }
}

fn correction(id: &str) -> Correction {
    Correction {
        rationale_id: id.to_owned(),
        problem_id: "a".to_owned(),
        round: 1,
        original: "x".to_owned(),
        corrected: "y".to_owned(),
        changed: true,
        teacher: "t".to_owned(),
        prompt_version: "v".to_owned(),
        request_key: "k".to_owned(),
        cached: false,
        corrected_at: TimestampMs(0),
    }
}

/// Scored, shared, rejected, waiting and empty rollouts; one corrected, one waiting, one empty rationale.
fn filled(folder: &TempDir) -> Dataset {
    let dataset = dataset(folder);
    let rollouts = [rollout(0, 2), rollout(1, 3), rollout(2, 1), rollout(3, 4), rollout(4, 0)];
    dataset.write_part(1, "00000", rollouts, &provenance()).unwrap();
    dataset.write_part(1, "00000", scores(0, 2), &provenance()).unwrap();
    dataset.write_part(1, "00001", scores(1, 3), &provenance()).unwrap();
    dataset.write_part(1, "00000", [reject("scores", "a-r1-s2")], &provenance()).unwrap();
    let rationales = [
        rationale("a-r1-rl", "rl", "Text."),
        rationale("b-r1-rl", "rl", "Text."),
        rationale("c-r1-rl", "rl", " "),
        rationale("a-r1-sft", "sft", "Text."),
    ];
    dataset.write_part(1, "rl", rationales, &provenance()).unwrap();
    dataset.write_part(1, "00000", [correction("a-r1-rl")], &provenance()).unwrap();
    let requests = [
        request("scores", "a-r1-s0", Some(0.25), "ok", false),
        request("scores", "a-r1-s1", Some(0.0), "ok", true),
        request("scores", "a-r1-s2", Some(0.5), "unreadable reply", false),
        request("corrections", "a-r1-rl", None, "ok", false),
    ];
    dataset.write_part(1, "00000", requests, &provenance()).unwrap();
    dataset
}

#[test]
fn every_item_is_accounted_for() {
    let folder = TempDir::new().unwrap();
    let report = report(&filled(&folder)).unwrap();
    let books: Vec<_> = report
        .accounts
        .iter()
        .map(|a| (a.kind, a.items, a.done, a.rejected, a.waiting, a.empty, a.sentences, a.faults.len()))
        .collect();
    assert_eq!(books, [("scores", 5, 2, 1, 1, 1, Some(5), 0), ("corrections", 3, 1, 0, 1, 1, None, 0)]);
    assert!(report.balanced);
    let spent = &report.spending[1];
    assert_eq!(
        (spent.kind.as_str(), spent.items, spent.shared, spent.failed, spent.attempts),
        ("scores", 3, 1, 1, 4)
    );
    assert_eq!((spent.input_tokens, spent.cached_input_tokens, spent.output_tokens), (2000, 30, 300));
    assert_eq!((spent.cost_usd, spent.unpriced), (0.75, 0));
    assert_eq!((report.spending[0].cost_usd, report.spending[0].unpriced), (0.0, 1));
}

/// As `collect-feedback` without `--stage`, which asks for neither.
#[test]
fn nothing_waits_for_feedback_that_is_not_asked_for() {
    let folder = TempDir::new().unwrap();
    let dataset = filled(&folder);
    let accounts = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        let report = status::report(&dataset, &settings).unwrap();
        assert!(report.balanced);
        report.accounts.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let alone = accounts(&|settings| settings.rl.answer_reward = AnswerReward::Alone);
    assert_eq!(
        alone,
        [
            "round 1, scores: 5 rollouts = 2 scored + 1 rejected + 0 waiting + 1 empty + 1 not asked for \
             (rl.answer_reward = alone); 5 sentences scored",
            "round 1, corrections: 3 rationales = 1 corrected + 0 rejected + 1 waiting + 1 empty",
        ]
    );
    let scored = accounts(&|settings| {
        settings.rl.answer_reward = AnswerReward::Alone;
        settings.sft.filter = CorrectionFilter::Scored;
    });
    assert_eq!(
        scored,
        [
            "round 1, scores: 5 rollouts = 2 scored + 1 rejected + 1 waiting + 1 empty; 5 sentences scored",
            "round 1, corrections: 3 rationales = 1 corrected + 0 rejected + 0 waiting + 1 empty + 1 not asked for \
             (sft.filter = scored)",
        ]
    );
}

#[test]
fn the_tables_as_printed() {
    let folder = TempDir::new().unwrap();
    let dataset = filled(&folder);
    let printed = report(&dataset)
        .unwrap()
        .to_string()
        .replace(&dataset.root().display().to_string(), "datasets/ports");
    let expected = "\
datasets/ports: 2 problems (train 1, test 1)

round  rollouts  scores  rationales  corrections  requests  rejects
    1         5       5           4            1         4        1

round 1, scores: 5 rollouts = 2 scored + 1 rejected + 1 waiting + 1 empty; 5 sentences scored
round 1, corrections: 3 rationales = 1 corrected + 0 rejected + 1 waiting + 1 empty

round  kind         model            items  shared  failed  requests  input tokens  from cache  output tokens   US dollars
    1  corrections  anthropic/small      1       0       0         2         1,000          10            100      unknown
    1  scores       anthropic/small      3       1       1         4         2,000          30            300       0.7500
  all                                    4       1       1         6         3,000          40            400  over 0.7500

The books balance.
";
    assert_eq!(printed, expected);
}

#[test]
fn faults_are_named() {
    let folder = TempDir::new().unwrap();
    let dataset = filled(&folder);
    dataset.write_part(1, "00002", scores(9, 1).chain(scores(3, 3)), &provenance()).unwrap();
    let report = report(&dataset).unwrap();
    assert!(!report.balanced);
    let expected =
        ["`a-r1-s3` has 3 rows of 4", "1 belong to no item", "the requests table has 3 items, not 4"];
    assert_eq!(report.accounts[0].faults, expected);
    assert!(report.to_string().ends_with("The books do not balance, see above.\n"));
}

/// The counts agree, but the problem does not exist.
#[test]
fn books_with_rollouts_of_no_problem_do_not_balance() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder);
    let lost =
        Rollout { problem_id: "gone".to_owned(), rollout_id: "gone-r1-s0".to_owned(), ..rollout(0, 0) };
    dataset.write_part(1, "0", [rollout(0, 4), lost], &provenance()).unwrap();
    dataset.write_part(1, "0", scores(0, 4), &provenance()).unwrap();
    dataset
        .write_part(1, "0", [request("scores", "a-r1-s0", Some(0.1), "ok", false)], &provenance())
        .unwrap();
    let report = report(&dataset).unwrap();
    let expected = ["rollouts of problems that problems.parquet lacks: 1"];
    assert_eq!(report.accounts[0].faults, expected);
    assert!(!report.balanced);
}

#[test]
fn books_with_rationales_of_no_problem_do_not_balance() {
    let folder = TempDir::new().unwrap();
    let dataset = filled(&folder);
    let lost = Rationale { problem_id: "gone".to_owned(), ..rationale("gone-r1-rl", "rl", "Text.") };
    dataset.write_part(1, "more", [lost], &provenance()).unwrap();
    let report = report(&dataset).unwrap();
    let expected = ["rationales of problems that problems.parquet lacks: 1"];
    assert_eq!(report.accounts[1].faults, expected);
    assert!(!report.balanced);
}

/// Whoever learns from such a score refuses it; another program may have written it.
#[test]
fn books_with_scores_that_are_none_do_not_balance() {
    for (score, found) in [(f32::NAN, "NaN"), (1.5, "1.5")] {
        let folder = TempDir::new().unwrap();
        let dataset = filled(&folder);
        let path = dataset.part_path::<Score>(1, "00001");
        let file = std::fs::File::open(&path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batch = reader.map(Result::unwrap).next().unwrap();
        let place = batch.schema().index_of("score").unwrap();
        let mut columns = batch.columns().to_vec();
        columns[place] = Arc::new(Float32Array::from(vec![0.5, score, 0.5]));
        let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
        let mut writer =
            ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();

        let report = report(&dataset).unwrap();
        let place = format!("{}: column `score`, row 1", path.display());
        let expected = format!("{place}: expected a number from 0 to 1, found {found}");
        assert_eq!(report.accounts[0].faults, [expected]);
        assert!(!report.balanced && report.to_string().contains("The books do not balance, see above.\n"));
    }
}

#[test]
fn a_dataset_without_rounds() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder);
    let printed = report(&dataset).unwrap().to_string();
    assert_eq!(
        printed,
        format!("{}: 2 problems (train 1, test 1)\nno round yet\n", dataset.root().display())
    );
}

/// Table contents are checked, and the error names the file and the column.
#[test]
fn cells_that_break_their_columns_are_named() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder);
    dataset.write_part(1, "0", [rollout(0, 2)], &provenance()).unwrap();
    let rows: Vec<Score> = scores(0, 2).collect();
    dataset
        .write_part(2, "0", rows.iter().cloned().map(|row| Score { round: 2, ..row }), &provenance())
        .unwrap();
    let (one, two) = (dataset.part_path::<Score>(1, "0"), dataset.part_path::<Score>(2, "0"));
    std::fs::create_dir_all(one.parent().unwrap()).unwrap();
    std::fs::copy(&two, &one).unwrap();
    let error = report(&dataset).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("scores/round-1/part-0.parquet: column `round`, row 0"), "{error}");
    let mut bytes = std::fs::read(&two).unwrap();
    let middle = bytes.len() / 3;
    bytes[4..middle].fill(0xee);
    std::fs::write(&one, bytes).unwrap();
    let error = report(&dataset).err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("scores/round-1/part-0.parquet"), "{error}");
}
