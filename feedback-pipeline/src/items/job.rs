//! The unit of work of a run: a kind of feedback for a round.

use super::order::Order;
use schemas::number::counted;
use schemas::opinions::Opinion;

/// The three things a Teacher is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// A score for each sentence of a rollout.
    Scores,
    /// A corrected rationale.
    Corrections,
    /// The better of two rationales.
    Judgements,
}

impl Kind {
    /// All kinds, in the order of a round.
    pub const ALL: [Self; 3] = [Self::Scores, Self::Corrections, Self::Judgements];

    /// Name in tables, file names and templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Corrections => "corrections",
            Self::Judgements => "judgements",
        }
    }

    /// Index for arrays with one entry per kind.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One kind of feedback for one round: the unit that a run works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What is asked for.
    pub kind: Kind,
    /// ARES round.
    pub round: u32,
    /// What candidates are compared with, `base` or a round; judgements only.
    pub against: String,
    /// How pairs are shown; judgements only.
    pub order: Order,
    /// Seed of an audit: scores that are requested again and do not go into the table.
    pub audit: Option<u64>,
    /// The Teacher and the repeat of the scores; `None` for the first scoring by the round's first Teacher, and for other kinds.
    pub opinion: Option<Opinion>,
}

impl Job {
    /// Scores or corrections of a round.
    pub fn new(kind: Kind, round: u32) -> Self {
        Self { kind, round, against: String::new(), order: Order::Shuffled(0), audit: None, opinion: None }
    }

    /// Scores of a round by a Teacher, in addition to the round's first scoring.
    pub fn opinion(round: u32, opinion: Opinion) -> Self {
        Self { opinion: Some(opinion), ..Self::new(Kind::Scores, round) }
    }

    /// Which of a Teacher's scorings of the same rationales, from 0.
    pub fn repeat(&self) -> u32 {
        self.opinion.as_ref().map_or(0, |opinion| opinion.repeat)
    }

    /// Judgements of a round's rationales against `base` or a round.
    pub fn judge(round: u32, against: &str) -> Self {
        Self { against: against.to_owned(), ..Self::new(Kind::Judgements, round) }
    }

    /// Scores of a round, requested again.
    pub fn audit(round: u32, seed: u64) -> Self {
        Self { audit: Some(seed), ..Self::new(Kind::Scores, round) }
    }

    /// The job of a scope that has tables; none for audits and unknown scopes.
    pub fn of_scope(scope: &str, round: u32) -> Option<Self> {
        if let Some((repeat, teacher)) =
            scope.strip_prefix("scores/").and_then(|opinion| opinion.split_once('/'))
        {
            let (repeat, teacher) = (repeat.parse().ok()?, teacher.to_owned());
            return Some(Self::opinion(round, Opinion { teacher, repeat }));
        }
        match scope.split('/').collect::<Vec<_>>()[..] {
            ["scores"] => Some(Self::new(Kind::Scores, round)),
            ["corrections"] => Some(Self::new(Kind::Corrections, round)),
            ["judgements", against] => Some(Self::judge(round, against)),
            ["judgements", against, order] => {
                Some(Self { order: Order::from_name(order)?, ..Self::judge(round, against) })
            }
            _ => None,
        }
    }

    /// Kind in the ledger.
    pub fn ledger_kind(&self) -> &'static str {
        if self.audit.is_some() { "audit" } else { self.kind.as_str() }
    }

    /// Name under which the cache remembers which request an item has: judgements against different baselines are
    /// different items of the same rationale.
    pub fn scope(&self) -> String {
        if let (Kind::Scores, Some(Opinion { teacher, repeat })) = (self.kind, &self.opinion) {
            return format!("scores/{repeat}/{teacher}");
        }
        match (self.kind, self.order.name(), self.audit) {
            (_, _, Some(seed)) => format!("audit/{seed}"),
            (Kind::Judgements, None, None) => format!("judgements/{}", self.against),
            (Kind::Judgements, Some(order), None) => format!("judgements/{}/{order}", self.against),
            (kind, ..) => kind.as_str().to_owned(),
        }
    }

    /// The command that does this job.
    pub fn command(&self) -> String {
        let round = self.round;
        match self.kind {
            Kind::Judgements => format!("collect-feedback judge --round {round} --against {}", self.against),
            kind => format!("collect-feedback --round {round} --stage {}", kind.as_str()),
        }
    }

    /// A number of its items in messages: `1 rollout`, `12 pairs of rationales`.
    pub fn counted(&self, number: impl std::fmt::Display) -> String {
        match self.kind {
            Kind::Scores => counted(number, "rollout"),
            Kind::Corrections => counted(number, "rationale"),
            Kind::Judgements => counted(number, "pair") + " of rationales",
        }
    }

    /// What its items are called in messages.
    pub fn items(&self) -> &'static str {
        match self.kind {
            Kind::Scores => "rollouts",
            Kind::Corrections => "rationales",
            Kind::Judgements => "pairs of rationales",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_item_is_no_plural() {
        let told = |number: usize| Kind::ALL.map(|kind| Job::new(kind, 1).counted(number));
        assert_eq!(told(1), ["1 rollout", "1 rationale", "1 pair of rationales"]);
        assert_eq!(told(1_200), ["1,200 rollouts", "1,200 rationales", "1,200 pairs of rationales"]);
    }

    #[test]
    fn scopes_name_their_jobs() {
        let swapped = Job { order: Order::BaselineFirst, ..Job::judge(2, "base") };
        let again = Opinion { teacher: "org/model/3".into(), repeat: 2 };
        let seeded = Job { order: Order::Shuffled(7), ..Job::judge(2, "1") };
        for job in [
            Job::new(Kind::Scores, 2),
            Job::new(Kind::Corrections, 2),
            Job::judge(2, "base"),
            swapped,
            seeded,
            Job::opinion(2, again),
        ] {
            assert_eq!(Job::of_scope(&job.scope(), 2), Some(job));
        }
        assert_eq!((Job::audit(2, 3).scope(), Job::of_scope("audit/3", 2)), ("audit/3".to_owned(), None));
    }
}
