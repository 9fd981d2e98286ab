//! Small datasets with rows of every table, for tests of what reads them.

use schemas::{
    Answer, Correction, Dataset, Judgement, Metric, Problem, Provenance, Rationale, Reject, Rollout, Score,
    Sentence, TimestampMs, sentences, table,
};
use tempfile::TempDir;

pub(crate) fn provenance() -> Provenance {
    Provenance::new("collect-feedback", "")
}

pub(crate) fn problem(id: &str, split: &str, subject: &str, solution: &str) -> Problem {
    Problem {
        problem_id: id.to_owned(),
        split: split.to_owned(),
        question: "Which port is farthest south?".to_owned(),
        choices: vec!["Hull".to_owned(), "Dover".to_owned()],
        answer_index: Some(1),
        hint: String::new(),
        caption: String::new(),
        lecture: String::new(),
        solution: solution.to_owned(),
        image: None,
        subject: Some(subject.to_owned()),
        topic: None,
        category: None,
        skill: Some(format!("{subject} skill")),
        grade: None,
        source: "test".to_owned(),
    }
}

pub(crate) fn dataset(folder: &TempDir, problems: Vec<Problem>) -> Dataset {
    let dataset = Dataset::at(folder.path().join("ports"));
    table::write(&dataset.problems_path(), problems, &provenance()).unwrap();
    dataset
}

pub(crate) fn rollout(problem_id: &str, round: u32, sample: u32, text: &str) -> Rollout {
    Rollout {
        rollout_id: Rollout::id(problem_id, round, sample),
        problem_id: problem_id.to_owned(),
        round,
        sample,
        rationale: text.to_owned(),
        token_ids: Vec::new(),
        logprobs: Vec::new(),
        ref_logprobs: Vec::new(),
        values: Vec::new(),
        sentences: sentences::sentences(text)
            .into_iter()
            .map(|text| Sentence { text: text.to_owned(), token_end: 0 })
            .collect(),
        truncated: false,
        policy: "p".to_owned(),
        seed: 0,
    }
}

pub(crate) fn scores(rollout: &Rollout, scores: &[f32]) -> Vec<Score> {
    assert_eq!(scores.len(), rollout.sentences.len());
    let row = |(index, score): (u32, &f32)| Score {
        rollout_id: rollout.rollout_id.clone(),
        problem_id: rollout.problem_id.clone(),
        round: rollout.round,
        sample: rollout.sample,
        sentence_index: index,
        sentence: rollout.sentences[index as usize].text.clone(),
        score: *score,
        teacher: "t".to_owned(),
        prompt_version: "v".to_owned(),
        request_key: "k".to_owned(),
        cached: false,
        scored_at: TimestampMs(0),
        reason: None,
        repeat: None,
    };
    (0..).zip(scores).map(row).collect()
}

pub(crate) fn rationale(problem_id: &str, round: u32, stage: &str, split: &str, text: &str) -> Rationale {
    let said = sentences::sentences(text);
    let unique = sentences::without_repeats(&said);
    Rationale {
        rationale_id: Rationale::id(problem_id, round, stage),
        problem_id: problem_id.to_owned(),
        round,
        split: split.to_owned(),
        stage: stage.to_owned(),
        rationale: text.to_owned(),
        sentences: said.iter().map(|text| (*text).to_owned()).collect(),
        deduplicated: unique.join("\n"),
        repeated_sentences: (said.len() - unique.len()) as u32,
        truncated: false,
        policy: format!("{stage}{round}"),
    }
}

pub(crate) fn correction(rationale: &Rationale, corrected: &str) -> Correction {
    Correction {
        rationale_id: rationale.rationale_id.clone(),
        problem_id: rationale.problem_id.clone(),
        round: rationale.round,
        original: rationale.deduplicated.clone(),
        corrected: corrected.to_owned(),
        changed: rationale.deduplicated != corrected,
        teacher: "t".to_owned(),
        prompt_version: "v".to_owned(),
        request_key: "k".to_owned(),
        cached: false,
        corrected_at: TimestampMs(0),
    }
}

pub(crate) fn judgement(problem_id: &str, against: &str, first: bool, verdict: &str) -> Judgement {
    Judgement {
        problem_id: problem_id.to_owned(),
        round: 1,
        against: against.to_owned(),
        candidate: "c".to_owned(),
        baseline: "b".to_owned(),
        candidate_shown_first: first,
        verdict: verdict.to_owned(),
        teacher: "t".to_owned(),
        prompt_version: "v".to_owned(),
        request_key: "k".to_owned(),
        judged_at: TimestampMs(0),
    }
}

pub(crate) fn answer(problem_id: &str, round: u32, stage: &str, split: &str, correct: bool) -> Answer {
    Answer {
        problem_id: problem_id.to_owned(),
        round,
        split: split.to_owned(),
        stage: stage.to_owned(),
        predicted_index: Some(u8::from(correct)),
        answer_index: Some(1),
        correct: Some(correct),
        text: String::new(),
    }
}

pub(crate) fn metric(step: u64, value: f64) -> Metric {
    let (round, stage, name) = (1, "rl".to_owned(), "loss".to_owned());
    Metric { round, stage, step, epoch: 0.0, name, value, at: TimestampMs(0) }
}

pub(crate) fn reject(problem_id: &str, reason: &str, reply: &str) -> Reject {
    Reject {
        teacher: None,
        repeat: None,
        kind: "scores".to_owned(),
        subject_id: Rollout::id(problem_id, 1, 0),
        problem_id: problem_id.to_owned(),
        round: 1,
        reason: reason.to_owned(),
        reply: reply.to_owned(),
        attempts: 3,
        request_key: "k".to_owned(),
    }
}
