//! Writes the golden files of the present schema version: `tests/golden/v1/<table>.parquet`, and for a table that a minor
//! version changed, as 1.3 did, `tests/golden/v1.3/<table>.parquet`.
//!
//! Files of an older version are never written again: they prove that this build reads what an older build
//! wrote. Run this only after the version in `provenance.rs` was increased, or for a new table:
//!
//! ```sh
//! cargo run --release -p schemas --example write_golden
//! ```
//!
//! Existing files are not changed.

use schemas::provenance::{SCHEMA_VERSION, sha256_hex};
use schemas::{
    Answer, Correction, Judgement, Metric, Problem, Provenance, Rationale, Reject, Request, Result, Rollout,
    Score, Sentence, Table, TimestampMs, table,
};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let folder = folder(SCHEMA_VERSION.0);
    write::<Problem>(&folder)?;
    write::<Rollout>(&folder)?;
    write::<Score>(&folder)?;
    write::<Rationale>(&folder)?;
    write::<Correction>(&folder)?;
    write::<Judgement>(&folder)?;
    write::<Answer>(&folder)?;
    write::<Reject>(&folder)?;
    write::<Request>(&folder)?;
    write::<Metric>(&folder)?;
    write::<Request>(&folder_of_minor(1, 1))?;
    write::<Request>(&folder_of_minor(1, 2))?;
    write::<Score>(&folder_of_minor(1, 2))?;
    write::<Request>(&folder_of_minor(1, 3))?;
    write::<Score>(&folder_of_minor(1, 3))?;
    write::<Reject>(&folder_of_minor(1, 3))
}

fn write<T: Golden>(folder: &Path) -> Result<()> {
    let path = folder.join(format!("{}.parquet", T::NAME));
    if path.exists() {
        println!("{} stays", path.display());
        return Ok(());
    }
    let rows = table::write(&path, T::golden(), &provenance())?;
    println!("{}: {rows} rows", path.display());
    Ok(())
}

/// Folder of one major version's golden files.
pub(crate) fn folder(major: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{major}"))
}

/// Folder of the golden files of tables that a minor version changed.
pub(crate) fn folder_of_minor(major: u32, minor: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{major}.{minor}"))
}

/// The provenance recorded in the golden files.
pub(crate) fn provenance() -> Provenance {
    Provenance {
        created_by: "write_golden 0.1.0".to_owned(),
        config_sha256: sha256_hex(b"the settings of the golden files"),
    }
}

/// A table with rows for the golden file: nulls, empty cells, and the ends of each type.
pub(crate) trait Golden: Table + PartialEq + std::fmt::Debug {
    /// The rows.
    fn golden() -> Vec<Self>;
}

/// 2026-07-01T12:34:56.789Z.
const MOMENT: TimestampMs = TimestampMs(1_782_909_296_789);
/// The last millisecond before 1970.
const BEFORE_1970: TimestampMs = TimestampMs(-1);

impl Golden for Problem {
    fn golden() -> Vec<Self> {
        let full = Self {
            problem_id: "1".into(),
            split: "train".into(),
            question: "Which of these\nis colder than 0 °C?".into(),
            choices: vec!["ice ❄".into(), String::new(), "steam | \"hot\"".into()],
            answer_index: Some(0),
            hint: "Ice is frozen water.".into(),
            caption: "A block of ice.".into(),
            lecture: "Temperature says how warm a thing is.".into(),
            solution: "Ice is below 0 °C. The answer is (A).".into(),
            image: Some("images/1.png".into()),
            subject: Some("natural science".into()),
            topic: Some("physics".into()),
            category: Some("Temperature".into()),
            skill: Some("Compare temperatures".into()),
            grade: Some("grade3".into()),
            source: "scienceqa".into(),
        };
        let empty = Self {
            problem_id: "2".into(),
            split: "test".into(),
            question: String::new(),
            choices: Vec::new(),
            answer_index: None,
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
            source: String::new(),
        };
        let last_index = Self {
            problem_id: "3".into(),
            split: "val".into(),
            choices: vec!["no".into(); 256],
            answer_index: Some(u8::MAX),
            ..full.clone()
        };
        vec![full, empty, last_index]
    }
}

impl Golden for Rollout {
    fn golden() -> Vec<Self> {
        let sentence = |text: &str, token_end| Sentence { text: text.into(), token_end };
        let full = Self {
            rollout_id: Self::id("1", 1, 0),
            problem_id: "1".into(),
            round: 1,
            sample: 0,
            rationale: "Ice is cold. Steam is hot".into(),
            token_ids: vec![0, 27, i32::MAX, 5, 1],
            logprobs: vec![0.0, -0.25, f32::NEG_INFINITY, -1e-30, f32::MIN],
            ref_logprobs: vec![-0.5, -0.125, -3.0, -0.75, -2.0],
            values: vec![0.5, -1.0, f32::MAX, f32::MIN_POSITIVE, 0.0],
            sentences: vec![sentence("Ice is cold.", 2), sentence("Steam is hot", u32::MAX)],
            truncated: true,
            policy: sha256_hex(b"policy"),
            seed: u64::MAX,
        };
        let imported = Self {
            rollout_id: Self::id("2", u32::MAX, u32::MAX),
            problem_id: "2".into(),
            round: u32::MAX,
            sample: u32::MAX,
            rationale: String::new(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            ref_logprobs: Vec::new(),
            values: Vec::new(),
            sentences: Vec::new(),
            truncated: false,
            policy: "mm-cot".into(),
            seed: 0,
        };
        vec![full, imported]
    }
}

impl Golden for Score {
    fn golden() -> Vec<Self> {
        let row = |sentence_index, sentence: &str, score, cached, scored_at| Self {
            rollout_id: Rollout::id("1", 1, 0),
            problem_id: "1".into(),
            round: 1,
            sample: 0,
            sentence_index,
            sentence: sentence.into(),
            score,
            teacher: "reference".into(),
            prompt_version: "0123abcd".into(),
            request_key: sha256_hex(b"scores"),
            cached,
            scored_at,
            reason: cached.then(|| "Ice is below 0 °C.".into()),
            repeat: (sentence_index < u32::MAX).then_some(sentence_index),
        };
        vec![
            row(0, "Ice is cold.", 1.0, false, MOMENT),
            row(1, "Steam is hot", 0.0, false, BEFORE_1970),
            row(u32::MAX, "", 0.7, true, TimestampMs(0)),
        ]
    }
}

impl Golden for Rationale {
    fn golden() -> Vec<Self> {
        let full = Self {
            rationale_id: Self::id("1", 1, "rl"),
            problem_id: "1".into(),
            round: 1,
            split: "train".into(),
            stage: "rl".into(),
            rationale: "Ice is cold. Ice is cold. It is solid.".into(),
            sentences: vec!["Ice is cold.".into(), "Ice is cold.".into(), "It is solid.".into()],
            deduplicated: "Ice is cold.\nIt is solid.".into(),
            repeated_sentences: 1,
            truncated: false,
            policy: sha256_hex(b"policy"),
        };
        let empty = Self {
            rationale_id: Self::id("2", 0, "base"),
            problem_id: "2".into(),
            round: 0,
            split: "val".into(),
            stage: "base".into(),
            rationale: String::new(),
            sentences: Vec::new(),
            deduplicated: String::new(),
            repeated_sentences: u32::MAX,
            truncated: true,
            policy: String::new(),
        };
        let last = Self {
            rationale_id: Self::id("3", 1, "sft"),
            split: "test".into(),
            stage: "sft".into(),
            ..full.clone()
        };
        vec![full, empty, last]
    }
}

impl Golden for Correction {
    fn golden() -> Vec<Self> {
        let changed = Self {
            rationale_id: Rationale::id("1", 1, "rl"),
            problem_id: "1".into(),
            round: 1,
            original: "Ice is warm.".into(),
            corrected: "Ice is cold.\nThe answer is (A).".into(),
            changed: true,
            teacher: "reference".into(),
            prompt_version: "0123abcd".into(),
            request_key: sha256_hex(b"corrections"),
            cached: false,
            corrected_at: MOMENT,
        };
        let same = Self {
            rationale_id: Rationale::id("2", 1, "rl"),
            original: String::new(),
            corrected: String::new(),
            changed: false,
            cached: true,
            corrected_at: BEFORE_1970,
            ..changed.clone()
        };
        vec![changed, same]
    }
}

impl Golden for Judgement {
    fn golden() -> Vec<Self> {
        let row = |against: &str, candidate_shown_first, verdict: &str| Self {
            problem_id: "1".into(),
            round: 2,
            against: against.into(),
            candidate: "Ice is cold.".into(),
            baseline: String::new(),
            candidate_shown_first,
            verdict: verdict.into(),
            teacher: "reference".into(),
            prompt_version: "0123abcd".into(),
            request_key: sha256_hex(b"judgements"),
            judged_at: MOMENT,
        };
        vec![row("base", true, "win"), row("base", false, "tie"), row("1", true, "loss")]
    }
}

impl Golden for Answer {
    fn golden() -> Vec<Self> {
        let row =
            |round, split: &str, stage: &str, predicted_index, answer_index, correct, text: &str| Self {
                problem_id: "1".into(),
                round,
                split: split.into(),
                stage: stage.into(),
                predicted_index,
                answer_index,
                correct,
                text: text.into(),
            };
        vec![
            row(1, "train", "sft", Some(0), Some(0), Some(true), "The answer is (A)."),
            row(1, "val", "rl", Some(u8::MAX), Some(1), Some(false), "The answer is (?)."),
            row(0, "test", "base", None, None, None, ""),
        ]
    }
}

impl Golden for Reject {
    fn golden() -> Vec<Self> {
        let row = |kind: &str, subject_id: String, reply: &str, attempts| Self {
            kind: kind.into(),
            subject_id,
            problem_id: "1".into(),
            round: 1,
            reason: "4 scores for 3 sentences".into(),
            reply: reply.into(),
            attempts,
            request_key: sha256_hex(kind.as_bytes()),
            teacher: (attempts > 0).then(|| "a-model".into()),
            repeat: (kind == "scores").then_some(u32::MAX),
        };
        vec![
            row("scores", Rollout::id("1", 1, 0), "{\"scores\":[]}", 3),
            row("corrections", Rationale::id("1", 1, "rl"), "", u32::MAX),
            row("judgements", Rationale::id("1", 1, "sft"), "ü\u{0}\u{1F9CA}", 0),
        ]
    }
}

impl Golden for Request {
    fn golden() -> Vec<Self> {
        let paid = Self {
            request_key: sha256_hex(b"scores"),
            kind: "scores".into(),
            subject_id: Rollout::id("1", 1, 0),
            round: 1,
            provider: "anthropic".into(),
            model: "a-model".into(),
            status: "ok".into(),
            attempts: 2,
            cached: false,
            input_tokens: u64::MAX,
            cached_input_tokens: 1024,
            output_tokens: 80,
            cost_usd: Some(0.001_234_5),
            latency_ms: u32::MAX,
            started_at: MOMENT,
            dialect: Some("max_tokens 1024, json_schema".into()),
            items: Some(4),
            repeat: Some(1),
        };
        let shared = Self {
            kind: "corrections".into(),
            attempts: 0,
            cached: true,
            input_tokens: 0,
            cached_input_tokens: 0,
            output_tokens: 0,
            cost_usd: Some(0.0),
            latency_ms: 0,
            started_at: BEFORE_1970,
            dialect: Some(String::new()),
            items: None,
            repeat: None,
            ..paid.clone()
        };
        let unpriced = Self {
            kind: "judgements".into(),
            provider: "openai".into(),
            model: String::new(),
            status: "refused".into(),
            cost_usd: None,
            dialect: None,
            items: Some(u32::MAX),
            ..paid.clone()
        };
        vec![paid, shared, unpriced]
    }
}

impl Golden for Metric {
    fn golden() -> Vec<Self> {
        let row = |round, stage: &str, step, epoch, name: &str, value, at| Self {
            round,
            stage: stage.into(),
            step,
            epoch,
            name: name.into(),
            value,
            at,
        };
        vec![
            row(1, "rl", 12, 0.5, "policy_loss", -0.125, MOMENT),
            row(0, "eval", 0, 0.0, "accuracy", f64::MAX, BEFORE_1970),
            row(u32::MAX, "sft", u64::MAX, 20.0, "loss", f64::INFINITY, TimestampMs(0)),
        ]
    }
}
