//! Several scores of a sentence: which of them count, and how they are combined.
//!
//! Each Teacher scores a rationale once or several times; an [`Opinion`] is one of these scorings, and `scores` holds all of
//! them. Every reader combines them with [`Opinions`], so that training, exports and reports agree.
//!
//! Which opinions count:
//!
//! - those of `[teacher]` and of each of `[[teachers]]`, up to its number of repeats. Others stay in the table and are not
//!   combined.
//! - the main Teacher may have been chosen by a flag, or another Teacher may have answered a part of the round in its place
//!   (`--mix-teachers`). If the main Teacher has no opinion on a rollout, one by a Teacher not in the settings replaces it, if
//!   the main Teacher has none in the whole round or the rollout has no other.

use crate::column::table;
use crate::error::Result;
use crate::settings::{Combine, Disagreement, Settings};
use crate::{Dataset, Score};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

table! {
    /// One sentence of one rollout, with the combination of all opinions on it. Not a table of a dataset: only exports contain
    /// it.
    CombinedScore, "combined_scores", by_round true {
        rollout_id: String, "Rollout that the sentence belongs to.";
        problem_id: String, "Problem of the rollout.";
        round: u32, "ARES round, from 1.";
        sentence_index: u32, "Position of the sentence in the rollout, from 0.";
        sentence: String, "The sentence.";
        score: f32, "The scores of all opinions, combined.", range 0.0 to 1.0;
        spread: f32, "Highest score minus lowest.", range 0.0 to 1.0;
        opinions: Vec<String>, "Who scored.";
    }
}

/// A scoring of a rationale by a Teacher.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opinion {
    /// Model that scored.
    pub teacher: String,
    /// Index of the scoring, from 0.
    pub repeat: u32,
}

impl std::fmt::Display for Incomplete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected a score for each of {} sentences, found {}", self.sentences, self.found)?;
        if self.is_one_of_several { write!(f, " by {}", self.opinion) } else { Ok(()) }
    }
}

impl std::fmt::Display for Opinion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.repeat {
            0 => write!(f, "{}", self.teacher),
            repeat => write!(f, "{} (scoring {})", self.teacher, repeat + 1),
        }
    }
}

/// The combination of several scores of a sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combined {
    /// The score, combined by `teacher.combine`.
    pub score: f32,
    /// Highest minus lowest; 0 for a single score.
    pub spread: f32,
}

/// Combines scores; `None` if there are none.
///
/// The trimmed mean leaves out the lowest ⌊n/4⌋ and the highest ⌊n/4⌋ of n scores, as `scipy.stats.trim_mean(scores, 0.25)`
/// does. A single score is returned unchanged.
pub fn combine(scores: &[f32], how: Combine) -> Option<Combined> {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
    let count = sorted.len();
    let cut = match how {
        Combine::Mean => 0,
        Combine::Median => (count - 1) / 2,
        Combine::TrimmedMean => count / 4,
    };
    let kept = sorted.get(cut..count - cut).unwrap_or(&sorted);
    let sum: f64 = kept.iter().map(|score| f64::from(*score)).sum();
    Some(Combined { score: (sum / kept.len() as f64) as f32, spread: highest - lowest })
}

/// Weight of a sentence's reward by the spread of its scores: 1 up to `max_spread`, then 0 or `max_spread / spread`.
pub fn weight(spread: f32, max_spread: Option<f64>, disagreement: Disagreement) -> f64 {
    // Scores are rounded to f32, so 0.7 and 0.4 may differ by slightly more than 0.3.
    let spread = f64::from(spread);
    match (max_spread, disagreement) {
        (Some(most), _) if spread <= most + 1e-6 => 1.0,
        (None, _) => 1.0,
        (Some(_), Disagreement::LeaveOut) => 0.0,
        (Some(most), Disagreement::DownWeight) => most / spread,
    }
}

/// A Teacher in the settings, and how often it scores each rationale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Its model.
    pub teacher: String,
    /// Scorings of each rationale.
    pub repeats: u32,
}

/// The Teachers in the settings, the main one first.
pub fn seats(settings: &Settings) -> Vec<Seat> {
    let all = std::iter::once(&settings.teacher).chain(settings.teachers.iter().map(|one| &one.teacher));
    all.map(|teacher| Seat { teacher: teacher.model_name(), repeats: teacher.repeats.max(1) }).collect()
}

/// Index of the main Teacher among the seats.
const MAIN: usize = 0;

/// The opinions in a round's scores, and which of them count.
#[derive(Debug, Clone)]
pub struct Opinions {
    seats: Vec<Seat>,
    how: Combine,
    /// All in the table, with the number of rationales each covers.
    found: Vec<(Opinion, u64)>,
    /// Whether the main Teacher has scored anything.
    has_main: bool,
}

/// Number of an opinion within a round, see [`Opinions::number`].
pub type Number = u16;

/// The scores of one rollout.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OnRollout(BTreeMap<(Number, u32), f32>);

/// Combined scores of a rollout's sentences.
#[derive(Debug, Clone, PartialEq)]
pub struct CombinedRollout {
    /// Score and spread of each sentence, in order.
    pub sentences: Vec<Combined>,
    /// Opinions that were combined.
    pub opinions: Vec<Number>,
}

/// An opinion that does not score every sentence of its rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Its author.
    pub opinion: Opinion,
    /// Sentences of the rollout.
    pub sentences: usize,
    /// Sentences with a score.
    pub found: usize,
    /// Whether others are in the table.
    pub is_one_of_several: bool,
}

impl OnRollout {
    /// Adds a score; returns false if the opinion already has one for this sentence.
    pub fn insert(&mut self, opinion: Number, sentence_index: u32, score: f32) -> bool {
        self.0.insert((opinion, sentence_index), score).is_none()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Scores of an opinion, with the indices of their sentences, in order.
    pub fn of(&self, opinion: Number) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.0.range((opinion, 0)..=(opinion, u32::MAX)).map(|((_, place), score)| (*place, *score))
    }

    /// Who scored.
    pub fn opinions(&self) -> BTreeSet<Number> {
        self.0.keys().map(|(opinion, _)| *opinion).collect()
    }
}

impl Opinions {
    /// The opinions in a round's scores.
    ///
    /// # Errors
    /// If the table cannot be read, or holds more than 65,535 opinions.
    pub fn read(dataset: &Dataset, round: u32, settings: &Settings) -> Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            sentence_index: u32,
            teacher: String,
            repeat: Option<u32>,
        }
        let mut found: BTreeMap<Opinion, u64> = BTreeMap::new();
        for row in dataset.stream_columns::<Score, Row>(round, &["sentence_index", "teacher", "repeat"])? {
            let Row { sentence_index, teacher, repeat } = row?;
            let opinion = Opinion { teacher, repeat: repeat.unwrap_or(0) };
            *found.entry(opinion).or_default() += u64::from(sentence_index == 0);
        }
        Ok(Self::of(found, settings))
    }

    /// Opinions with the number of rationales each covers.
    pub fn of(found: BTreeMap<Opinion, u64>, settings: &Settings) -> Self {
        let seats = seats(settings);
        let main = seats.first().map(|seat| seat.teacher.clone()).unwrap_or_default();
        let has_main = found.keys().any(|opinion| opinion.teacher == main);
        Self { seats, how: settings.teacher.combine, found: found.into_iter().collect(), has_main }
    }

    /// The number of an opinion; `None` if the round has none by this Teacher.
    pub fn number(&self, teacher: &str, repeat: Option<u32>) -> Option<Number> {
        let repeat = repeat.unwrap_or(0);
        let place = self.found.binary_search_by(|(opinion, _)| {
            opinion.teacher.as_str().cmp(teacher).then(opinion.repeat.cmp(&repeat))
        });
        Number::try_from(place.ok()?).ok()
    }

    /// The opinion with a number.
    pub fn get(&self, number: Number) -> Option<&Opinion> {
        self.found.get(usize::from(number)).map(|(opinion, _)| opinion)
    }

    /// The opinions required by the settings: seat index and repeat.
    pub fn expected(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let of = |(place, seat): (usize, &Seat)| (0..seat.repeats).map(move |repeat| (place, repeat));
        self.seats.iter().enumerate().flat_map(of)
    }

    /// Whether the settings require more than one opinion on a rationale.
    pub fn are_several(&self) -> bool {
        self.expected().nth(1).is_some()
    }

    /// Name of the Teacher in a seat, if the round reveals it.
    pub fn teacher_of(&self, seat: usize) -> &str {
        let stands_in = || self.found.iter().find(|(opinion, _)| self.seat_of(&opinion.teacher).is_none());
        match stands_in() {
            Some((opinion, _)) if seat == MAIN && !self.has_main => &opinion.teacher,
            _ => self.seats.get(seat).map_or("", |seat| seat.teacher.as_str()),
        }
    }

    /// The seat that a reject of a Teacher belongs to; older files do not name the Teacher.
    pub fn seat_of_reject(&self, teacher: Option<&str>) -> Option<usize> {
        match teacher.map(|teacher| self.seat_of(teacher)) {
            None => Some(MAIN),
            Some(None) if !self.has_main || self.seats.len() == 1 => Some(MAIN),
            Some(seat) => seat,
        }
    }

    fn seat_of(&self, teacher: &str) -> Option<usize> {
        self.seats.iter().position(|seat| seat.teacher == teacher)
    }

    /// The opinions on a rollout that count, each with its seat.
    fn counted(&self, on: &BTreeSet<Number>) -> Vec<(Number, usize, u32)> {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (number, opinion) in on.iter().filter_map(|number| Some((*number, self.get(*number)?))) {
            let seat = self.seat_of(&opinion.teacher);
            let repeats = self.seats.get(seat.unwrap_or(MAIN)).map_or(0, |seat| seat.repeats);
            if opinion.repeat < repeats {
                match seat {
                    Some(seat) => own.push((number, seat, opinion.repeat)),
                    None => others.push((number, MAIN, opinion.repeat)),
                }
            }
        }
        let has_main = own.iter().any(|(_, seat, _)| *seat == MAIN);
        if !has_main && (!self.has_main || own.is_empty()) {
            own.append(&mut others);
        }
        own
    }

    /// The required opinions that a rollout lacks: seat index and repeat.
    pub fn missing(&self, on: &OnRollout) -> Vec<(usize, u32)> {
        let counted = self.counted(&on.opinions());
        let is_there =
            |wanted: &(usize, u32)| counted.iter().any(|(_, seat, repeat)| (*seat, *repeat) == *wanted);
        self.expected().filter(|wanted| !is_there(wanted)).collect()
    }

    /// The combined scores of a rollout with this many sentences; `None` if no opinion counts.
    ///
    /// # Errors
    /// If an opinion that counts does not score every sentence exactly once.
    pub fn combined(&self, on: &OnRollout, sentences: usize) -> Result<Option<CombinedRollout>, Incomplete> {
        let counted = self.counted(&on.opinions());
        let mut scores: Vec<Vec<f32>> = vec![Vec::with_capacity(counted.len()); sentences];
        for (number, ..) in &counted {
            let (mut found, mut outside) = (0, false);
            for (place, score) in on.of(*number) {
                found += 1;
                match scores.get_mut(place as usize) {
                    Some(of_sentence) => of_sentence.push(score),
                    None => outside = true,
                }
            }
            if found != sentences || outside {
                let opinion = self.get(*number).cloned();
                let opinion = opinion.unwrap_or_else(|| Opinion { teacher: String::new(), repeat: 0 });
                return Err(Incomplete {
                    opinion,
                    sentences,
                    found,
                    is_one_of_several: self.found.len() > 1,
                });
            }
        }
        if counted.is_empty() {
            return Ok(None);
        }
        let sentences = scores.iter().filter_map(|of_sentence| combine(of_sentence, self.how)).collect();
        Ok(Some(CombinedRollout {
            sentences,
            opinions: counted.into_iter().map(|(number, ..)| number).collect(),
        }))
    }

    /// Combined scores of a rollout's scored sentences, with their indices, in order.
    pub fn by_sentence(&self, on: &OnRollout) -> Vec<(u32, Combined)> {
        let mut scores: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
        for (number, ..) in self.counted(&on.opinions()) {
            for (place, score) in on.of(number) {
                scores.entry(place).or_default().push(score);
            }
        }
        let combined = scores.into_iter().filter_map(|(place, all)| Some((place, combine(&all, self.how)?)));
        combined.collect()
    }

    /// Number of opinions in the table, whether they count or not.
    pub fn in_table(&self) -> usize {
        self.found.len()
    }

    /// Opinions on a rollout that do not count because the settings do not include them.
    pub fn ignored(&self, on: &OnRollout) -> Vec<Number> {
        let mut all = on.opinions();
        for (number, ..) in self.counted(&all) {
            all.remove(&number);
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Resolved;
    use std::path::Path;

    /// As numpy and scipy compute them (`tests/reference/make_opinion_values.py`).
    #[test]
    fn scores_are_combined_as_scipy_does() {
        let table: [(&[f32], [f64; 3], f64); 6] = [
            (&[0.7], [0.7, 0.7, 0.7], 0.0),
            (&[0.2, 0.9], [0.55, 0.55, 0.55], 0.7),
            (&[0.9, 0.2, 0.4], [0.5, 0.4, 0.5], 0.7),
            (&[1.0, 0.0, 0.9, 0.8], [0.675, 0.85, 0.85], 1.0),
            (&[0.1, 0.9, 0.8, 0.7, 1.0], [0.7, 0.8, 0.8], 0.9),
            (&[0.0, 0.1, 0.5, 0.6, 0.7, 0.75, 0.95, 1.0], [0.575, 0.65, 0.6375], 1.0),
        ];
        for (scores, expected, spread) in table {
            for (how, expected) in
                [Combine::Mean, Combine::Median, Combine::TrimmedMean].into_iter().zip(expected)
            {
                let found = combine(scores, how).unwrap();
                assert!((f64::from(found.score) - expected).abs() < 1e-6, "{scores:?} {how}: {found:?}");
                assert!((f64::from(found.spread) - spread).abs() < 1e-6, "{scores:?}: {found:?}");
            }
        }
        assert_eq!(combine(&[], Combine::Mean), None);
        assert_eq!(combine(&[0.1], Combine::Median).unwrap().score.to_bits(), 0.1_f32.to_bits());
    }

    #[test]
    fn far_apart_scores_count_less_or_nothing() {
        use Disagreement::{DownWeight, LeaveOut};
        let at = |spread, most, how| weight(spread, most, how);
        assert_eq!((at(0.9, None, LeaveOut), at(0.3, Some(0.3), LeaveOut)), (1.0, 1.0));
        assert_eq!((at(0.7 - 0.4, Some(0.3), DownWeight), at(0.5, Some(0.3), LeaveOut)), (1.0, 0.0));
        assert_eq!(at(0.5, Some(0.25), DownWeight), 0.5);
        assert_eq!((at(0.0, Some(0.0), LeaveOut), at(0.1, Some(0.0), DownWeight)), (1.0, 0.0));
    }

    fn settings(text: &str) -> Settings {
        Resolved::from_parts(Some((Path::new("ares.toml"), text)), &BTreeMap::new()).unwrap().settings
    }

    fn opinions(text: &str, found: &[(&str, u32)]) -> Opinions {
        let found = found
            .iter()
            .map(|(teacher, repeat)| (Opinion { teacher: (*teacher).into(), repeat: *repeat }, 1));
        Opinions::of(found.collect(), &settings(text))
    }

    /// Scores of one sentence.
    fn on(opinions: &Opinions, scores: &[(&str, u32, f32)]) -> OnRollout {
        let mut on = OnRollout::default();
        for (teacher, repeat, score) in scores {
            assert!(on.insert(opinions.number(teacher, Some(*repeat)).unwrap(), 0, *score));
        }
        on
    }

    fn score(opinions: &Opinions, scores: &[(&str, u32, f32)]) -> Option<f32> {
        let combined = opinions.combined(&on(opinions, scores), 1).unwrap();
        combined.map(|combined| combined.sentences[0].score)
    }

    const TWO: &str = "[teacher]\nprovider = \"openai\"\nmodel = \"a\"\nrepeats = 2\n\n\
                       [[teachers]]\nprovider = \"anthropic\"\nmodel = \"b\"\nrepeats = 1\n";

    #[test]
    fn what_the_settings_ask_for_counts_and_the_rest_is_left_out() {
        let all = opinions(TWO, &[("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("c", 0)]);
        let scores =
            [("a", 0, 0.1), ("a", 1, 0.2), ("a", 2, 1.0), ("b", 0, 0.6), ("b", 1, 1.0), ("c", 0, 1.0)];
        assert_eq!(score(&all, &scores), Some(0.3));
        assert_eq!(all.missing(&on(&all, &scores)), []);
        let ignored = all.ignored(&on(&all, &scores));
        let ignored: Vec<String> =
            ignored.into_iter().map(|number| all.get(number).unwrap().to_string()).collect();
        assert_eq!(ignored, ["a (scoring 3)", "b (scoring 2)", "c"]);
        // The available ones are combined, and the others are reported missing.
        let some = [("a", 1, 0.2), ("c", 0, 1.0)];
        assert_eq!((score(&all, &some), all.missing(&on(&all, &some))), (Some(0.2), vec![(0, 0), (1, 0)]));
        assert_eq!(score(&all, &[]), None);
        // A rollout with no other opinion.
        assert_eq!(score(&all, &[("c", 0, 1.0)]), Some(1.0));
    }

    #[test]
    fn a_main_teacher_that_a_flag_chose_counts() {
        let by_flag = opinions("[[teachers]]\nprovider = \"openai\"\nmodel = \"b\"\n", &[("b", 0), ("c", 0)]);
        assert_eq!(score(&by_flag, &[("b", 0, 0.5), ("c", 0, 1.0)]), Some(0.75));
        assert_eq!((by_flag.teacher_of(0), by_flag.teacher_of(1)), ("c", "b"));
        assert_eq!(by_flag.missing(&on(&by_flag, &[("b", 0, 0.5)])), [(0, 0)]);
        // Two Teachers that shared a round, with one opinion on each rationale.
        let mixed = opinions("[teacher]\nprovider = \"openai\"\nmodel = \"a\"\n", &[("a", 0), ("c", 0)]);
        assert_eq!(
            (score(&mixed, &[("a", 0, 0.5)]), score(&mixed, &[("c", 0, 1.0)])),
            (Some(0.5), Some(1.0))
        );
        assert_eq!(mixed.missing(&on(&mixed, &[("c", 0, 1.0)])), []);
        assert_eq!(mixed.ignored(&on(&mixed, &[("a", 0, 0.5), ("c", 0, 1.0)])), [1]);
        assert_eq!((mixed.seat_of_reject(None), mixed.seat_of_reject(Some("c"))), (Some(0), Some(0)));
    }

    #[test]
    fn an_opinion_scores_each_sentence_once() {
        let one = opinions("[teacher]\nprovider = \"openai\"\nmodel = \"a\"\n", &[("a", 0)]);
        let mut on = on(&one, &[("a", 0, 0.5)]);
        let opinion = Opinion { teacher: "a".into(), repeat: 0 };
        let incomplete = |found| {
            Err(Incomplete { opinion: opinion.clone(), sentences: 2, found, is_one_of_several: false })
        };
        assert_eq!(one.combined(&on, 2), incomplete(1));
        assert!(on.insert(0, 2, 0.5) && !on.insert(0, 2, 0.5));
        assert_eq!(one.combined(&on, 2), incomplete(2));
    }
}
