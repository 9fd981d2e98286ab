//! The numbers of a report: sums over sentences and rationales, nothing else.

use super::gather::{Gathered, ROLLOUT_COLUMNS, RolloutText, Scores, repeats};
use crate::error::Result;
use crate::inspect::win_rate::WinRates;
use crate::teacher::reference;
use schemas::{Answer, Correction, Dataset, Judgement, Problem, Rationale, Rollout, sentences};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A sentence below this is wrong, unsupported or repeated: 0.5 is the neutral score.
pub const WRONG_BELOW: f32 = 0.5;
/// Positions shown separately; later ones are combined.
const POSITIONS: usize = 10;

/// Scores of some rationales, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Rationales with scores.
    pub rationales: u64,
    /// Their sentences.
    pub sentences: u64,
    /// Sum of the sentences' scores.
    pub sum: f64,
    /// Rationales without a sentence below [`WRONG_BELOW`].
    pub without_wrong: u64,
}

impl Tally {
    /// Adds the scores of one rationale.
    pub fn add(&mut self, scores: &[f32]) {
        self.rationales += 1;
        self.sentences += scores.len() as u64;
        self.sum += scores.iter().copied().map(f64::from).sum::<f64>();
        self.without_wrong += u64::from(scores.iter().all(|score| *score >= WRONG_BELOW));
    }

    /// Mean over all sentences.
    pub fn mean(&self) -> Option<f64> {
        (self.sentences > 0).then(|| self.sum / self.sentences as f64)
    }

    /// Share of rationales without a wrong sentence.
    pub fn share_without_wrong(&self) -> Option<f64> {
        share(self.without_wrong, self.rationales)
    }
}

/// A fraction; `None` of nothing.
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How some rationales are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// Rationales.
    pub rationales: u64,
    /// Their sentences.
    pub sentences: u64,
    /// Repeated sentences of the same rationale.
    pub repeated: u64,
    /// Rationales that the token limit cut off.
    pub truncated: u64,
}

/// What is known of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// For instance `round 1, after RL`.
    pub label: String,
    /// The Teacher's scores of samples of this policy on train problems.
    pub teacher: Tally,
    /// The embedded Teacher's scores of its greedy rationales, train and test.
    pub embedded: [Tally; 2],
    /// How its rationales are written; of its samples where it decoded none.
    pub form: Form,
    /// Right answers of those with a known answer: val and test.
    pub answers: [(u64, u64); 2],
}

impl Stage {
    fn new(label: String) -> Self {
        Self {
            label,
            teacher: Tally::default(),
            embedded: [Tally::default(); 2],
            form: Form::default(),
            answers: [(0, 0); 2],
        }
    }
}

/// One round in the comparison of rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// ARES round.
    pub round: u32,
    /// The Teacher's scores of its samples.
    pub teacher: Tally,
    /// Who scored.
    pub teachers: BTreeSet<String>,
    /// Corrections that changed something, of all.
    pub corrected: (u64, u64),
    /// Right test answers after SFT, of those with a known answer.
    pub test: (u64, u64),
    /// Win rates by what was compared with.
    pub wins: Vec<WinRates>,
}

/// All numbers of a report.
#[derive(Debug, Clone)]
pub struct Figures {
    /// One row a policy, in the order of training.
    pub stages: Vec<Stage>,
    /// Sentences of the round by score in tenths, 0 to 10.
    pub distribution: [u64; 11],
    /// Mean score by position of the sentence and number of sentences; the last is position 10 and later.
    pub positions: Vec<Tally>,
    /// By subject.
    pub subjects: BTreeMap<String, Tally>,
    /// By skill.
    pub skills: BTreeMap<String, Tally>,
    /// All rounds up to this one.
    pub rounds: Vec<Round>,
}

impl Figures {
    /// The numbers of the gathered round, and those of the rounds before it.
    pub(super) fn of(dataset: &Dataset, gathered: &Gathered) -> Result<Self> {
        let problems: HashMap<&str, &Problem> =
            gathered.problems.iter().map(|problem| (problem.problem_id.as_str(), problem)).collect();
        let mut figures = Self {
            stages: stages(dataset, gathered.round, &problems)?,
            distribution: [0; 11],
            positions: Vec::new(),
            subjects: BTreeMap::new(),
            skills: BTreeMap::new(),
            rounds: Vec::new(),
        };
        for rollout in &gathered.rollouts {
            let Some(scores) = gathered.scores.of(rollout) else { continue };
            let problem = problems.get(rollout.problem_id.as_str());
            let named = |name: Option<&String>| name.cloned().unwrap_or_else(|| "not given".to_owned());
            figures.subjects.entry(named(problem.and_then(|p| p.subject.as_ref()))).or_default().add(&scores);
            figures.skills.entry(named(problem.and_then(|p| p.skill.as_ref()))).or_default().add(&scores);
            for (position, score) in scores.iter().enumerate() {
                figures.distribution[tenths(*score)] += 1;
                let place = position.min(POSITIONS - 1);
                if figures.positions.len() <= place {
                    figures.positions.resize(place + 1, Tally::default());
                }
                figures.positions[place].add(&[*score]);
            }
        }
        for round in 1..=gathered.round {
            figures.rounds.extend(of_round(dataset, round)?);
        }
        Ok(figures)
    }

    /// True if no rollout of the round has scores.
    pub fn is_unscored(&self) -> bool {
        self.positions.is_empty()
    }
}

/// The nearest tenth of a score, as an index.
pub(super) fn tenths(score: f32) -> usize {
    ((score * 10.0).round().clamp(0.0, 10.0)) as usize
}

fn rollouts(dataset: &Dataset, round: u32) -> Result<Vec<RolloutText>> {
    Ok(dataset.project::<Rollout, RolloutText>(round, &ROLLOUT_COLUMNS)?)
}

fn of_round(dataset: &Dataset, round: u32) -> Result<Option<Round>> {
    #[derive(Deserialize)]
    struct Changed {
        changed: bool,
    }
    let scores = Scores::read(dataset, round)?;
    let mut teacher = Tally::default();
    for rollout in rollouts(dataset, round)? {
        if let Some(scores) = scores.of(&rollout) {
            teacher.add(&scores);
        }
    }
    let corrections = dataset.project::<Correction, Changed>(round, &["changed"])?;
    let corrected = (corrections.iter().filter(|row| row.changed).count() as u64, corrections.len() as u64);
    let answers = dataset.read::<Answer>(round)?;
    let known =
        |answer: &&Answer| answer.stage == "sft" && answer.split == "test" && answer.correct.is_some();
    let (mut right, mut all) = (0, 0);
    for answer in answers.iter().filter(known) {
        all += 1;
        right += u64::from(answer.correct == Some(true));
    }
    let wins = WinRates::of(&dataset.read::<Judgement>(round)?, |_| None);
    let round = Round { round, teacher, teachers: scores.teachers, corrected, test: (right, all), wins };
    let empty = round.teacher.rationales + round.corrected.1 + round.test.1 == 0 && round.wins.is_empty();
    Ok((!empty).then_some(round))
}

/// A policy's row for each stage of each round, and for samples of a policy that decoded nothing.
fn stages(dataset: &Dataset, last: u32, problems: &HashMap<&str, &Problem>) -> Result<Vec<Stage>> {
    let mut stages: Vec<Stage> = Vec::new();
    // Samples of a round come from the policy that the round before ended with.
    let mut by_policy: HashMap<String, usize> = HashMap::new();
    for round in 0..=last {
        if round > 0 {
            add_samples(dataset, round, &mut stages, &by_policy)?;
        }
        let rationales = dataset.read::<Rationale>(round)?;
        let answers = dataset.read::<Answer>(round)?;
        for name in ["base", "rl", "sft"] {
            let of_stage = || rationales.iter().filter(|row| row.stage == name);
            let answered = || answers.iter().filter(|row| row.stage == name);
            if of_stage().next().is_none() && answered().next().is_none() {
                continue;
            }
            let mut stage = Stage::new(match name {
                "base" => "base student".to_owned(),
                "rl" => format!("round {round}, after RL"),
                _ => format!("round {round}, after SFT"),
            });
            for rationale in of_stage() {
                by_policy.insert(rationale.policy.clone(), stages.len());
                add_rationale(&mut stage, rationale, problems);
            }
            for answer in answered() {
                let place = match answer.split.as_str() {
                    "val" => 0,
                    "test" => 1,
                    _ => continue,
                };
                if let Some(correct) = answer.correct {
                    stage.answers[place].0 += u64::from(correct);
                    stage.answers[place].1 += 1;
                }
            }
            stages.push(stage);
        }
    }
    Ok(stages)
}

fn add_samples(
    dataset: &Dataset,
    round: u32,
    stages: &mut Vec<Stage>,
    by_policy: &HashMap<String, usize>,
) -> Result<()> {
    let rollouts = rollouts(dataset, round)?;
    let scores = Scores::read(dataset, round)?;
    let mut own: BTreeMap<&str, Stage> = BTreeMap::new();
    for rollout in &rollouts {
        let scored = scores.of(rollout);
        if let Some(stage) = by_policy.get(&rollout.policy).and_then(|place| stages.get_mut(*place)) {
            if let Some(scores) = &scored {
                stage.teacher.add(scores);
            }
            continue;
        }
        let stage = own.entry(&rollout.policy).or_insert_with(|| {
            Stage::new(match rollout.policy.strip_prefix("import:") {
                Some(name) => format!("round {round}, import {}", short(name)),
                None => format!("round {round}, samples"),
            })
        });
        if let Some(scores) = &scored {
            stage.teacher.add(scores);
        }
        let texts = rollout.sentences.iter().map(|sentence| sentence.text.as_str());
        stage.form.rationales += 1;
        stage.form.sentences += rollout.sentences.len() as u64;
        stage.form.repeated += repeats(texts).into_iter().filter(|repeat| *repeat).count() as u64;
        stage.form.truncated += u64::from(rollout.truncated);
    }
    stages.extend(own.into_values());
    Ok(())
}

fn add_rationale(stage: &mut Stage, rationale: &Rationale, problems: &HashMap<&str, &Problem>) {
    stage.form.rationales += 1;
    stage.form.sentences += rationale.sentences.len() as u64;
    stage.form.repeated += u64::from(rationale.repeated_sentences);
    stage.form.truncated += u64::from(rationale.truncated);
    let place = match rationale.split.as_str() {
        "train" => 0,
        "test" => 1,
        _ => return,
    };
    // Without a solution the embedded Teacher can only look for the answer.
    let Some(problem) = problems.get(rationale.problem_id.as_str()).filter(|p| !p.solution.trim().is_empty())
    else {
        return;
    };
    let said = sentences::sentences(&rationale.rationale);
    if !said.is_empty() {
        stage.embedded[place].add(&reference::score(problem, &said));
    }
}

/// The name of an imported model in a chart: the beginning where it is the hash of a file.
fn short(name: &str) -> &str {
    let is_hash = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.get(..6).filter(|_| is_hash).unwrap_or(name)
}
