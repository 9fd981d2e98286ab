//! The rollouts of a round joined with their scores: RL's training data, missing scores, and checks.

use super::context::Context;
use super::opinions::{self, Ignored, Lacking, Weighted};
use super::policy::{Policy, short};
use super::rollout::sample_seed;
use crate::error::{Error, Result};
use schemas::number::counted;
use schemas::opinions::{Combined, OnRollout, Opinions};
use schemas::{Rollout, Score};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// Rollouts with the scores of their sentences; one without sentences has none.
pub(super) struct Scored {
    /// Rollouts and the scores of their sentences, in order.
    pub(super) rollouts: Vec<(Rollout, Vec<f32>)>,
    /// Sentences whose score is the neutral one because opinions on them differ, by rollout.
    pub(super) undecided: HashMap<String, Vec<usize>>,
    /// Remarks on what was left out.
    pub(super) left_out: Vec<String>,
    /// Metrics of all sampled rationales, by name.
    pub(super) form: [(&'static str, f64); 3],
}

#[derive(Deserialize)]
struct ScoreOf {
    rollout_id: String,
    sentence_index: u32,
    sentence: String,
    score: f32,
    teacher: String,
    repeat: Option<u32>,
}

/// Joins rollouts and scores; the inner error is the line that reports what is missing.
pub(super) fn ready(context: &Context, round: u32, policy: &Policy) -> Result<Result<Scored, String>> {
    let dataset = &context.dataset;
    let rollouts: Vec<Rollout> = dataset.read(round)?;
    let (own, others): (Vec<Rollout>, Vec<Rollout>) =
        rollouts.into_iter().partition(|rollout| !rollout.token_ids.is_empty());
    let imported = others.len();
    if own.is_empty() {
        return Err(Error::input(
            format!("round {round}: expected rollouts with tokens to learn from, found {imported} without"),
            format!("next: train --round {round} --stage rollout{}", dataset.flag()),
        ));
    }
    if let Some(stale) = own.iter().find(|rollout| rollout.policy != policy.fingerprint) {
        return Err(Error::input(
            format!(
                "round {round}: rollout {} was sampled by policy {}, but {} is {}",
                stale.rollout_id,
                short(&stale.policy),
                policy.folder.display(),
                short(&policy.fingerprint)
            ),
            "restore the policy that sampled them, or remove this round's rollouts and scores to sample again",
        ));
    }
    warn_of_another_seed(context, &own);
    if !context.settings.rl.needs_scores() {
        return Ok(Ok(unscored(context, round, own, imported)?));
    }
    let scores = scores_by_rollout(context, round, &own, &others)?;
    let form = form(&own);
    let places: HashMap<String, usize> =
        own.iter().enumerate().map(|(place, rollout)| (rollout.rollout_id.clone(), place)).collect();
    let lacking = Lacking::read(dataset, round, &scores.opinions)?;
    let joined = Joined::of(round, own, &scores, lacking)?;
    if let Some(waiting) = joined.waits(context, round)? {
        return Ok(Err(waiting));
    }
    let Joined { scored, empty, lost, lacking, ignored } = joined;
    ignored.say(round, &scores.opinions);
    lacking.say(round, scored.len());
    let Weighted { rollouts: mut scored, undecided, remark: far_apart } =
        opinions::weighted(scored, &context.settings.rl);
    let penalized = context.settings.rl.penalize_empty;
    let without = if penalized { 0 } else { empty.len() };
    if penalized {
        scored.extend(empty.into_iter().map(|rollout| (rollout, Vec::new())));
        // Samples of a problem stay side by side.
        scored.sort_by_key(|(rollout, _)| places.get(&rollout.rollout_id).copied());
    }
    let waiting = lacking.without_any;
    let left_out = [(without, "empty"), (lost, "rejected"), (waiting, "not scored"), (imported, "imported")];
    let mut left_out: Vec<String> = left_out
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    left_out.extend(far_apart);
    Ok(Ok(Scored { rollouts: scored, undecided, left_out, form }))
}

/// Rollouts for RL on the answer reward alone: those of problems with a known answer. Their sentences have score 0, to which
/// the answer reward is added.
///
/// # Errors
/// If there are none.
fn unscored(context: &Context, round: u32, own: Vec<Rollout>, imported: usize) -> Result<Scored> {
    let problems = context.dataset.problems()?;
    let known: HashSet<&str> = problems
        .iter()
        .filter(|problem| problem.answer_index.is_some())
        .map(|problem| problem.problem_id.as_str())
        .collect();
    let form = form(&own);
    let (known, hidden): (Vec<Rollout>, Vec<Rollout>) =
        own.into_iter().partition(|rollout| known.contains(rollout.problem_id.as_str()));
    let penalized = context.settings.rl.penalize_empty;
    let (with, empty): (Vec<Rollout>, Vec<Rollout>) =
        known.into_iter().partition(|rollout| penalized || !rollout.sentences.is_empty());
    if with.iter().all(|rollout| rollout.sentences.is_empty()) {
        return Err(Error::BadInput {
            message: format!(
                "round {round}: rl.answer_reward = alone: expected rationales with sentences, of problems whose answer is \
                 known, found none ({} are empty, {} of problems with a hidden answer)",
                with.len() + empty.len(),
                hidden.len()
            ),
            hint: None,
        });
    }
    let left_out =
        [(empty.len(), "empty"), (hidden.len(), "of problems with a hidden answer"), (imported, "imported")];
    let left_out =
        left_out.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let scored = |rollout: Rollout| {
        let scores = vec![0.0; rollout.sentences.len()];
        (rollout, scores)
    };
    Ok(Scored {
        rollouts: with.into_iter().map(scored).collect(),
        undecided: HashMap::new(),
        left_out: left_out.collect(),
        form,
    })
}

/// Rollouts with their scores, and the number of rollouts without scores, by reason.
struct Joined {
    scored: Vec<(Rollout, Vec<Combined>)>,
    empty: Vec<Rollout>,
    /// Rollouts without a score that will never have one.
    lost: usize,
    lacking: Lacking,
    ignored: Ignored,
}

impl Joined {
    fn of(round: u32, rollouts: Vec<Rollout>, scores: &Scores, lacking: Lacking) -> Result<Self> {
        let mut joined =
            Self { scored: Vec::new(), empty: Vec::new(), lost: 0, lacking, ignored: Ignored::default() };
        let none = OnRollout::default();
        for rollout in rollouts {
            let count = rollout.sentences.len();
            if count == 0 {
                joined.empty.push(rollout);
                continue;
            }
            let on = scores.by_rollout.get(&rollout.rollout_id).unwrap_or(&none);
            let combined = scores.opinions.combined(on, count).map_err(|incomplete| Error::BadInput {
                message: format!("scores, round {round}: rollout {}: {incomplete}", rollout.rollout_id),
                hint: None,
            })?;
            joined.ignored.count(&scores.opinions, on);
            let missing = scores.opinions.missing(on);
            let is_waiting = joined.lacking.count(&rollout.rollout_id, &missing, combined.is_some());
            match combined {
                Some(combined) => joined.scored.push((rollout, combined.sentences)),
                None if !is_waiting => joined.lost += 1,
                None => {}
            }
        }
        Ok(joined)
    }

    /// The line that reports what is missing, if too few rollouts are scored, or by too few Teachers.
    ///
    /// # Errors
    /// If too few are scored, and no more can be.
    fn waits(&self, context: &Context, round: u32) -> Result<Option<String>> {
        let with_sentences = self.scored.len() + self.lost + self.lacking.without_any;
        let least = context.settings.rl.min_coverage;
        if self.lacking.waiting > 0 && (self.scored.is_empty() || self.lacking.coverage() < least) {
            let wait = if self.lacking.rollouts == 1 { "waits" } else { "wait" };
            return Ok(Some(format!(
                "round {round}: {} {wait} for scores{}; next: collect-feedback --round {round}{}{}",
                counted(self.lacking.rollouts, "rationale"),
                self.lacking.by_whom(),
                schemas::teacher::flags_to_go_on(&context.dataset, round, &context.settings)?,
                context.dataset.flag()
            )));
        }
        let coverage = self.scored.len() as f64 / with_sentences.max(1) as f64;
        if with_sentences > 0 && coverage < least {
            return Err(Error::input(
                format!(
                    "round {round}: rl.min_coverage: expected {:.1} % of {} scored, found {:.1} % ({} rejected)",
                    least * 100.0,
                    counted(with_sentences, "rollout"),
                    coverage * 100.0,
                    self.lost
                ),
                "look at the rejects table; collect-feedback --retry-rejects asks about them again; or lower --min-coverage",
            ));
        }
        if self.scored.is_empty() {
            let message = format!(
                "round {round}: expected scored rollouts to learn from, found none ({} are empty)",
                self.empty.len()
            );
            return Err(Error::BadInput { message, hint: None });
        }
        Ok(None)
    }
}

/// Shares of the sampled rationales that repeat a sentence, are truncated, or are empty.
fn form(rollouts: &[Rollout]) -> [(&'static str, f64); 3] {
    let share = |counts: &dyn Fn(&Rollout) -> bool| {
        rollouts.iter().filter(|row| counts(row)).count() as f64 / rollouts.len().max(1) as f64
    };
    let repeats = |row: &Rollout| {
        let texts: Vec<&str> = row.sentences.iter().map(|sentence| sentence.text.as_str()).collect();
        schemas::sentences::without_repeats(&texts).len() < texts.len()
    };
    [
        ("repeated/rollouts", share(&repeats)),
        ("truncated/rollouts", share(&|row| row.truncated)),
        ("empty/rollouts", share(&|row| row.sentences.is_empty())),
    ]
}

/// The values stored with rollouts are those of a value head initialized from the sampling seed, and training initializes it
/// again from the same seed: warns if the seed was different.
fn warn_of_another_seed(context: &Context, rollouts: &[Rollout]) {
    let seed = context.settings.rollout.seed;
    let is_of_another =
        |row: &&Rollout| row.seed != sample_seed(seed, row.round, &row.problem_id, row.sample as usize);
    let others = rollouts.iter().filter(is_of_another).count();
    let rl = &context.settings.rl;
    if rl.takes_sampled_values() && others > 0 {
        schemas::warn!(
            "warning: {others} of {} rollouts were not sampled with rollout.seed = {seed}: their values come from \
             a different value head than the one being trained",
            rollouts.len()
        );
    }
}

/// The scores of a round, and their Teachers.
struct Scores {
    opinions: Opinions,
    by_rollout: HashMap<String, OnRollout>,
}

fn scores_by_rollout(
    context: &Context,
    round: u32,
    rollouts: &[Rollout],
    imported: &[Rollout],
) -> Result<Scores> {
    let mut known: HashMap<&str, &Rollout> = HashMap::new();
    for rollout in rollouts.iter().chain(imported) {
        if known.insert(&rollout.rollout_id, rollout).is_some() {
            return Err(Error::input(
                format!("rollouts, round {round}: {} appears twice", rollout.rollout_id),
                "remove the part that was added, and the scores of its rollouts",
            ));
        }
    }
    let opinions = Opinions::read(&context.dataset, round, &context.settings)?;
    let mut by_rollout: HashMap<String, OnRollout> = HashMap::new();
    let columns = ["rollout_id", "sentence_index", "sentence", "score", "teacher", "repeat"];
    for row in context.dataset.project::<Score, ScoreOf>(round, &columns)? {
        let wrong = |expected: String| {
            let place =
                format!("scores, round {round}: rollout {}, sentence {}", row.rollout_id, row.sentence_index);
            Error::input(
                format!("{place}: expected {expected}"),
                "remove the scores that belong to other rollouts, or restore those rollouts",
            )
        };
        let rollout = known.get(row.rollout_id.as_str());
        let rollout = rollout.ok_or_else(|| wrong("a rollout of this round, found none".into()))?;
        if rollout.token_ids.is_empty() {
            continue; // imported without tokens, cannot be trained on
        }
        let count = rollout.sentences.len();
        let sentence = rollout.sentences.get(row.sentence_index as usize);
        let sentence = sentence.ok_or_else(|| wrong(format!("a sentence below {count}")))?;
        if sentence.text != row.sentence {
            return Err(wrong(format!("`{}`, found `{}`", sentence.text, row.sentence)));
        }
        let Some(opinion) = opinions.number(&row.teacher, row.repeat) else {
            return Err(wrong("a table that does not change while it is read, found new rows".into()));
        };
        let of_rollout = by_rollout.entry(row.rollout_id.clone()).or_default();
        if !of_rollout.insert(opinion, row.sentence_index, row.score) {
            return Err(wrong("one score, found two".into()));
        }
    }
    Ok(Scores { opinions, by_rollout })
}
