//! Several opinions on a rollout: which are missing, and what sentences count on which they differ.

use crate::error::Result;
use schemas::number::grouped;
use schemas::opinions::{Combined, Number, OnRollout, Opinions, weight};
use schemas::settings::{Disagreement, RlSettings};
use schemas::{Dataset, Reject, Rollout};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Opinions that the settings ask for and rollouts lack.
pub(super) struct Lacking {
    /// What was rejected of each rollout: places of seats, with repeats.
    rejected: HashMap<String, Vec<(usize, u32)>>,
    /// Names of the seats.
    teachers: Vec<String>,
    /// Opinions that are asked for on each rollout.
    asked_for: usize,
    /// Opinions on all rollouts that were counted.
    expected: usize,
    /// Those of them that are missing and may come.
    pub(super) waiting: usize,
    /// Those of them that are missing and will not come.
    lost: usize,
    /// Rollouts that wait for an opinion.
    pub(super) rollouts: usize,
    /// Those of them that have none yet.
    pub(super) without_any: usize,
    /// Rollouts with some opinions and not all.
    partly: usize,
    /// Seats that rollouts wait for.
    seats: BTreeSet<usize>,
}

impl Lacking {
    /// Reads what was rejected; nothing is counted yet.
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

    /// Counts the opinions that a rollout lacks; returns whether one of them may come.
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

    /// Share of the opinions that are there.
    pub(super) fn coverage(&self) -> f64 {
        (self.expected - self.waiting - self.lost) as f64 / self.expected.max(1) as f64
    }

    /// ` by b, c`, where rollouts wait for some of several Teachers.
    pub(super) fn by_whom(&self) -> String {
        if self.teachers.len() < 2 {
            return String::new();
        }
        let names = self.seats.iter().filter_map(|seat| self.teachers.get(*seat)).map(String::as_str);
        format!(" by {}", names.collect::<Vec<_>>().join(", "))
    }

    /// Tells how many rollouts are learned from with fewer opinions than are asked for.
    pub(super) fn say(&self, round: u32, scored: usize) {
        if self.partly > 0 {
            schemas::warn!(
                "note: round {round}: {} of {} scored rollouts have fewer than {} opinions ({} were rejected, {} are \
                 pending); those that are there are combined",
                grouped(self.partly),
                grouped(scored),
                self.asked_for,
                grouped(self.lost),
                grouped(self.waiting)
            );
        }
    }
}

/// Opinions that are not combined, because the settings do not ask for them.
#[derive(Default)]
pub(super) struct Ignored(BTreeMap<Number, usize>);

impl Ignored {
    /// Counts those on a rollout.
    pub(super) fn count(&mut self, opinions: &Opinions, on: &OnRollout) {
        for number in opinions.ignored(on) {
            *self.0.entry(number).or_default() += 1;
        }
    }

    /// Names them.
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

/// Scores that count as much as their Teachers agree: a sentence that counts nothing has the neutral score, whose reward is zero.
/// With a remark on how many there are.
pub(super) fn weighted(
    scored: Vec<(Rollout, Vec<Combined>)>,
    rl: &RlSettings,
) -> (Vec<(Rollout, Vec<f32>)>, Option<String>) {
    let mut far_apart = 0;
    let mut counted = |sentence: &Combined| {
        let weight = weight(sentence.spread, rl.max_spread, rl.disagreement);
        if weight == 1.0 {
            return sentence.score;
        }
        far_apart += 1;
        (rl.neutral_score + weight * (f64::from(sentence.score) - rl.neutral_score)) as f32
    };
    let scored = scored
        .into_iter()
        .map(|(rollout, sentences)| (rollout, sentences.iter().map(&mut counted).collect()))
        .collect();
    let how = match rl.disagreement {
        Disagreement::LeaveOut => "on which opinions differ",
        Disagreement::DownWeight => "in part, on which opinions differ",
    };
    let remark =
        (far_apart > 0).then(|| format!("{} {how}", schemas::number::counted(far_apart, "sentence")));
    (scored, remark)
}
