//! The numbers of a report: sums over sentences and rationales.

pub use super::effect::{Effect, Scores};
use super::gather::{Gathered, ROLLOUT_COLUMNS, RolloutText, repeats};
use super::tally::Scored;
pub use super::tally::{Tally, share};
use crate::error::{Error, Result};
use crate::inspect::frame::{Collected, frame};
use crate::inspect::win_rate::WinRates;
use crate::teacher::reference;
use polars::prelude::*;
use schemas::{Answer, Correction, Dataset, Metric, Problem, Rationale, Rollout, Score, Settings, sentences};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Splits in the order of training.
pub const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Splits that are answered.
const ANSWERED: [&str; 2] = ["val", "test"];

/// Length, repetition and truncation of some rationales.
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

/// The figures of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// For instance `round 1, after RL`.
    pub label: String,
    /// The Teacher's scores of samples of this policy on train problems.
    pub teacher: Scores,
    /// The embedded Teacher's scores of its greedy rationales, by split as in [`SPLITS`].
    pub embedded: [Scores; 3],
    /// Form of its greedy rationales, or of its samples if it decoded none.
    pub form: Form,
    /// Correct answers among those with a known answer: val and test.
    pub answers: [(u64, u64); 2],
    /// The same by problem, correct answers as a score of 1.
    answered: [Scores; 2],
}

impl Stage {
    fn new(label: String) -> Self {
        Self {
            label,
            teacher: Scores::default(),
            embedded: Default::default(),
            form: Form::default(),
            answers: [(0, 0); 2],
            answered: Default::default(),
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
    /// Teachers that scored.
    pub teachers: BTreeSet<String>,
    /// Share of corrections that changed something.
    pub corrected: (u64, u64),
    /// Correct test answers after SFT, among those with a known answer.
    pub test: (u64, u64),
    /// Win rates by baseline.
    pub wins: Vec<WinRates>,
}

/// All numbers of a report.
#[derive(Debug, Clone)]
pub struct Figures {
    /// One row per policy, in the order of training.
    pub stages: Vec<Stage>,
    /// The effect of RL in each round, by measurement.
    pub effects: Vec<Effect>,
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
    /// The numbers of the gathered round and of the rounds before it.
    pub(super) fn of(dataset: &Dataset, gathered: &Gathered, settings: &Settings) -> Result<Self> {
        let problems: HashMap<&str, &Problem> =
            gathered.problems.iter().map(|problem| (problem.problem_id.as_str(), problem)).collect();
        let scored = Scored::of(dataset, gathered.round, settings)?;
        let kinds = kinds(&gathered.problems)?;
        let (stages, effects) = stages(dataset, gathered.round, &problems, settings)?;
        let mut figures = Self {
            stages,
            effects,
            distribution: scored.distribution()?,
            positions: scored.positions()?,
            subjects: scored.by_problems(&kinds, "subject")?.into_iter().collect(),
            skills: scored.by_problems(&kinds, "skill")?.into_iter().collect(),
            rounds: Vec::new(),
        };
        for round in 1..=gathered.round {
            figures.rounds.extend(of_round(dataset, round, settings)?);
        }
        Ok(figures)
    }

    /// True if no rollout of the round has scores.
    pub fn is_unscored(&self) -> bool {
        self.positions.is_empty()
    }
}

/// Subject and skill by problem.
fn kinds(problems: &[Problem]) -> Result<LazyFrame> {
    let column = |name: &str, text: fn(&Problem) -> Option<&str>| {
        StringChunked::from_iter_options(name.into(), problems.iter().map(text)).into_column()
    };
    let columns = vec![
        column("problem_id", |problem| Some(&problem.problem_id)),
        column("subject", |problem| problem.subject.as_deref()),
        column("skill", |problem| problem.skill.as_deref()),
    ];
    let frame = DataFrame::new_infer_height(columns);
    frame.map(IntoLazy::lazy).map_err(|error| Error::Failed(format!("problems: {error}")))
}

fn of_round(dataset: &Dataset, round: u32, settings: &Settings) -> Result<Option<Round>> {
    let teachers =
        frame::<Score>(dataset, round, &["teacher"])?.group_by([col("teacher")]).agg([len().alias("scores")]);
    let teachers = Collected::of::<Score>(teachers)?.texts("teacher")?.into_iter().collect();
    let corrections = frame::<Correction>(dataset, round, &["changed"])?
        .select([col("changed").sum().alias("changed"), len().alias("all")]);
    let corrections = Collected::of::<Correction>(corrections)?;
    let wins = WinRates::of(&WinRates::judgements(dataset, round)?, None)?;
    let known = answers(dataset, round)?;
    let test = known.get(&("sft".to_owned(), "test".to_owned())).copied().unwrap_or_default();
    let corrected = (one(&corrections, "changed")?, one(&corrections, "all")?);
    let teacher = Scored::of(dataset, round, settings)?.all()?;
    let round = Round { round, teacher, teachers, corrected, test, wins };
    let empty = round.teacher.rationales + round.corrected.1 + round.test.1 == 0 && round.wins.is_empty();
    Ok((!empty).then_some(round))
}

fn one(rows: &Collected, name: &str) -> Result<u64> {
    Ok(rows.counts(name)?.iter().sum())
}

/// Correct answers among those with a known answer, by stage and split.
fn answers(dataset: &Dataset, round: u32) -> Result<BTreeMap<(String, String), (u64, u64)>> {
    let query = frame::<Answer>(dataset, round, &["stage", "split", "correct"])?
        .group_by([col("stage"), col("split")])
        .agg([col("correct").sum().alias("right"), col("correct").count().alias("known")]);
    let rows = Collected::of::<Answer>(query)?;
    let (stages, splits) = (rows.texts("stage")?, rows.texts("split")?);
    let numbers = rows.counts("right")?.into_iter().zip(rows.counts("known")?);
    Ok(stages.into_iter().zip(splits).zip(numbers).collect())
}

/// One row for each stage of each round, and for the samples of policies that decoded nothing; and what RL changed.
fn stages(
    dataset: &Dataset,
    last: u32,
    problems: &HashMap<&str, &Problem>,
    settings: &Settings,
) -> Result<(Vec<Stage>, Vec<Effect>)> {
    let mut stages: Vec<Stage> = Vec::new();
    // Round, and the rows of the policies before and after its RL.
    let mut trained: Vec<(u32, usize, usize)> = Vec::new();
    // Samples of a round come from the final policy of the previous round.
    let mut by_policy: HashMap<String, usize> = HashMap::new();
    let mut start = None;
    for round in 0..=last {
        let known = stages.len();
        let before = start;
        start = match round {
            0 => None,
            _ => add_samples(dataset, round, &mut stages, &by_policy, settings)?,
        };
        // A round that ended with RL may have decoded nothing: its policy is then known by its samples.
        if let (Some(before), Some(after)) = (before, start)
            && after >= known
            && ended_with_rl(dataset, round - 1)?
        {
            stages[after].label = format!("round {}, after RL", round - 1);
            trained.push((round - 1, before, after));
        }
        let rationales = dataset.read::<Rationale>(round)?;
        let answers = answers(dataset, round)?;
        for name in ["base", "rl", "sft"] {
            let of_stage = || rationales.iter().filter(|row| row.stage == name);
            let is_answered = answers.keys().any(|(stage, _)| stage == name);
            if of_stage().next().is_none() && !is_answered {
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
            for (place, split) in ANSWERED.into_iter().enumerate() {
                let key = (name.to_owned(), split.to_owned());
                stage.answers[place] = answers.get(&key).copied().unwrap_or_default();
            }
            if is_answered {
                add_answers(dataset, round, name, &mut stage)?;
            }
            if let Some(start) = start.filter(|_| name == "rl") {
                trained.push((round, start, stages.len()));
            }
            stages.push(stage);
        }
    }
    let effects = trained.into_iter().flat_map(|(round, before, after)| {
        let (before, after) = (&stages[before], &stages[after]);
        let samples = Effect::of(format!("round {round}, samples"), &before.teacher, &after.teacher);
        let greedy = SPLITS.into_iter().zip(before.embedded.iter().zip(&after.embedded));
        let greedy = greedy.filter_map(|(split, (before, after))| {
            Effect::of(format!("round {round}, {split}"), before, after)
        });
        let answered = ANSWERED.into_iter().zip(before.answered.iter().zip(&after.answered));
        let answered = answered.filter_map(|(split, (before, after))| {
            Effect::of(format!("round {round}, {split} answers"), before, after)
        });
        samples.into_iter().chain(greedy).chain(answered).collect::<Vec<_>>()
    });
    let effects = effects.collect();
    Ok((stages, effects))
}

/// Adds a stage's answers by problem; those to hidden ones are left out.
fn add_answers(dataset: &Dataset, round: u32, name: &str, stage: &mut Stage) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct AnswerOf {
        problem_id: String,
        split: String,
        stage: String,
        correct: Option<bool>,
    }
    let names = ["problem_id", "split", "stage", "correct"];
    for row in dataset.project::<Answer, AnswerOf>(round, &names)? {
        let place = ANSWERED.iter().position(|split| *split == row.split);
        let (Some(place), Some(correct)) = (place.filter(|_| row.stage == name), row.correct) else {
            continue;
        };
        let mut tally = Tally::default();
        tally.add(&[if correct { 1.0 } else { 0.0 }]);
        stage.answered[place].add(&row.problem_id, &tally);
    }
    Ok(())
}

/// Whether a round ended with RL, which the trainer marks with a metric of this name.
fn ended_with_rl(dataset: &Dataset, round: u32) -> Result<bool> {
    let ends = frame::<Metric>(dataset, round, &["name"])?.filter(col("name").eq(lit("ends_round")));
    Ok(Collected::of::<Metric>(ends)?.len() > 0)
}

/// Adds a round's samples to the policies that sampled them; returns the row of the policy that RL starts from.
fn add_samples(
    dataset: &Dataset,
    round: u32,
    stages: &mut Vec<Stage>,
    by_policy: &HashMap<String, usize>,
    settings: &Settings,
) -> Result<Option<usize>> {
    let mut own: BTreeMap<String, Stage> = BTreeMap::new();
    let mut start = None;
    let new = |policy: &str| {
        Stage::new(match policy.strip_prefix("import:") {
            Some(name) => format!("round {round}, import {}", short(name)),
            None => format!("round {round}, samples"),
        })
    };
    for rollout in dataset.project::<Rollout, RolloutText>(round, &ROLLOUT_COLUMNS)? {
        if !rollout.policy.starts_with("import:") {
            start = Some(rollout.policy.clone());
        }
        if by_policy.contains_key(&rollout.policy) {
            continue;
        }
        let texts = rollout.sentences.iter().map(|sentence| sentence.text.as_str());
        let repeated = repeats(texts).into_iter().filter(|repeat| *repeat).count() as u64;
        let form = &mut own.entry(rollout.policy.clone()).or_insert_with(|| new(&rollout.policy)).form;
        form.rationales += 1;
        form.sentences += rollout.sentences.len() as u64;
        form.repeated += repeated;
        form.truncated += u64::from(rollout.truncated);
    }
    for ([policy, problem], tally) in Scored::of(dataset, round, settings)?.by_policy()? {
        let known = by_policy.get(&policy).and_then(|place| stages.get_mut(*place));
        if let Some(stage) = known.or_else(|| own.get_mut(&policy)) {
            stage.teacher.add(&problem, &tally);
        }
    }
    let own_place = |policy: &String| Some(stages.len() + own.keys().position(|of| of == policy)?);
    let start = start.and_then(|policy| by_policy.get(&policy).copied().or_else(|| own_place(&policy)));
    stages.extend(own.into_values());
    Ok(start)
}

fn add_rationale(stage: &mut Stage, rationale: &Rationale, problems: &HashMap<&str, &Problem>) {
    stage.form.rationales += 1;
    stage.form.sentences += rationale.sentences.len() as u64;
    stage.form.repeated += u64::from(rationale.repeated_sentences);
    stage.form.truncated += u64::from(rationale.truncated);
    let Some(place) = SPLITS.iter().position(|split| *split == rationale.split) else { return };
    // Without a solution, the embedded Teacher can only check the answer.
    let Some(problem) = problems.get(rationale.problem_id.as_str()).filter(|p| !p.solution.trim().is_empty())
    else {
        return;
    };
    let said = sentences::sentences(&rationale.rationale);
    if !said.is_empty() {
        let mut tally = Tally::default();
        tally.add(&reference::score(problem, &said));
        stage.embedded[place].add(&rationale.problem_id, &tally);
    }
}

/// The name of an imported model in a chart; shortened if it is the hash of a file.
fn short(name: &str) -> &str {
    let is_hash = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.get(..6).filter(|_| is_hash).unwrap_or(name)
}
