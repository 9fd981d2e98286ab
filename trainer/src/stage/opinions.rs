//! Several opinions on a rollout: missing opinions, and the weight of sentences on which opinions disagree.

use crate::error::Result;
use schemas::number::grouped;
use schemas::opinions::{Combined, Number, OnRollout, Opinions, weight};
use schemas::settings::{Disagreement, RlSettings};
use schemas::{Dataset, Reject, Rollout};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Opinions required by the settings that rollouts lack.
pub(super) struct Lacking {
    /// Rejected opinions of each rollout: seat indices, with repeats.
    rejected: HashMap<String, Vec<(usize, u32)>>,
    /// Names of the seats.
    teachers: Vec<String>,
    /// Opinions required on each rollout.
    asked_for: usize,
    /// Opinions required on all counted rollouts.
    expected: usize,
    /// Of these, missing and still possible.
    pub(super) waiting: usize,
    /// Of these, missing and rejected.
    lost: usize,
    /// Rollouts that wait for an opinion.
    pub(super) rollouts: usize,
    /// Of these, rollouts without any opinion yet.
    pub(super) without_any: usize,
    /// Rollouts with some opinions and not all.
    partly: usize,
    /// Seats of pending opinions.
    seats: BTreeSet<usize>,
}

impl Lacking {
    /// Reads the rejects; no rollout is counted yet.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(super) fn read(dataset: &Dataset, round: u32, opinions: &Opinions) -> Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            kind: String,
            subject_id: String,
            teacher: Option<String>,
            repeat: Option<u32>,
        }
        let mut rejected: HashMap<String, Vec<(usize, u32)>> = HashMap::new();
        for row in dataset.project::<Reject, Row>(round, &["kind", "subject_id", "teacher", "repeat"])? {
            if row.kind == "scores"
                && let Some(seat) = opinions.seat_of_reject(row.teacher.as_deref())
            {
                rejected.entry(row.subject_id).or_default().push((seat, row.repeat.unwrap_or(0)));
            }
        }
        let last_seat = opinions.expected().map(|(seat, _)| seat).max().unwrap_or(0);
        Ok(Self {
            rejected,
            teachers: (0..=last_seat).map(|seat| opinions.teacher_of(seat).to_owned()).collect(),
            asked_for: opinions.expected().count(),
            expected: 0,
            waiting: 0,
            lost: 0,
            rollouts: 0,
            without_any: 0,
            partly: 0,
            seats: BTreeSet::new(),
        })
    }

    /// Counts the opinions that a rollout lacks; returns whether any of them is still possible.
    pub(super) fn count(&mut self, rollout_id: &str, missing: &[(usize, u32)], has_any: bool) -> bool {
        let rejected = self.rejected.get(rollout_id).map_or(&[][..], Vec::as_slice);
        let waits_for: Vec<usize> =
            missing.iter().filter(|one| !rejected.contains(one)).map(|(seat, _)| *seat).collect();
        self.expected += self.asked_for;
        self.waiting += waits_for.len();
        self.lost += missing.len() - waits_for.len();
        self.partly += usize::from(has_any && !missing.is_empty());
        let is_waiting = !waits_for.is_empty();
        self.rollouts += usize::from(is_waiting);
        self.without_any += usize::from(is_waiting && !has_any);
        self.seats.extend(waits_for);
        is_waiting
    }

    /// Share of the required opinions that are present.
    pub(super) fn coverage(&self) -> f64 {
        (self.expected - self.waiting - self.lost) as f64 / self.expected.max(1) as f64
    }

    /// ` by b, c`, if rollouts wait for some of several Teachers.
    pub(super) fn by_whom(&self) -> String {
        if self.teachers.len() < 2 {
            return String::new();
        }
        let names = self.seats.iter().filter_map(|seat| self.teachers.get(*seat)).map(String::as_str);
        format!(" by {}", names.collect::<Vec<_>>().join(", "))
    }

    /// Reports how many rollouts are used with fewer opinions than required.
    pub(super) fn say(&self, round: u32, scored: usize) {
        if self.partly > 0 {
            schemas::warn!(
                "note: round {round}: {} of {} scored rollouts have fewer than {} opinions ({} were rejected, {} are \
                 pending); the available ones are combined",
                grouped(self.partly),
                grouped(scored),
                self.asked_for,
                grouped(self.lost),
                grouped(self.waiting)
            );
        }
    }
}

/// Opinions that are not combined because the settings do not include them.
#[derive(Default)]
pub(super) struct Ignored(BTreeMap<Number, usize>);

impl Ignored {
    /// Counts those on a rollout.
    pub(super) fn count(&mut self, opinions: &Opinions, on: &OnRollout) {
        for number in opinions.ignored(on) {
            *self.0.entry(number).or_default() += 1;
        }
    }

    /// Reports them.
    pub(super) fn say(&self, round: u32, opinions: &Opinions) {
        for (opinion, rollouts) in
            self.0.iter().filter_map(|(one, count)| Some((opinions.get(*one)?, *count)))
        {
            schemas::warn!(
                "note: round {round}: scores by {opinion} on {} are not combined: the settings do not ask for \
                 them (teacher.repeats, [[teachers]])",
                schemas::number::counted(rollouts, "rollout")
            );
        }
    }
}

/// Scores weighted by the agreement of their Teachers.
pub(super) struct Weighted {
    /// Rollouts with their scores: a sentence with weight 0 has the neutral score, whose reward is zero.
    pub(super) rollouts: Vec<(Rollout, Vec<f32>)>,
    /// Sentences with weight 0, by rollout.
    pub(super) undecided: HashMap<String, Vec<usize>>,
    /// A remark with the number of affected sentences.
    pub(super) remark: Option<String>,
}

/// Weights the scores.
pub(super) fn weighted(scored: Vec<(Rollout, Vec<Combined>)>, rl: &RlSettings) -> Weighted {
    let mut far_apart = 0;
    let mut undecided: HashMap<String, Vec<usize>> = HashMap::new();
    let mut rollouts = Vec::with_capacity(scored.len());
    for (rollout, sentences) in scored {
        let mut scores = Vec::with_capacity(sentences.len());
        for (place, sentence) in sentences.iter().enumerate() {
            let weight = weight(sentence.spread, rl.max_spread, rl.disagreement);
            if weight == 1.0 {
                scores.push(sentence.score);
                continue;
            }
            far_apart += 1;
            if weight == 0.0 {
                undecided.entry(rollout.rollout_id.clone()).or_default().push(place);
            }
            scores.push((rl.neutral_score + weight * (f64::from(sentence.score) - rl.neutral_score)) as f32);
        }
        rollouts.push((rollout, scores));
    }
    let how = match rl.disagreement {
        Disagreement::LeaveOut => "on which opinions differ",
        Disagreement::DownWeight => "in part, on which opinions differ",
    };
    let remark =
        (far_apart > 0).then(|| format!("{} {how}", schemas::number::counted(far_apart, "sentence")));
    Weighted { rollouts, undecided, remark }
}
