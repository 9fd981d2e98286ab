//! The whole set: the problems of all families, without duplicates, in three splits.

use crate::Error;
use crate::families::{Draft, FAMILIES, Family, Turn};
use crate::rng::Rng;
use schemas::Problem;
use std::collections::HashSet;

/// One in this many train solutions is omitted, as in ScienceQA.
const TRAIN_SOLUTIONS_LEFT_OUT: usize = 10;

/// Names of the splits, in the order of the counts of a family.
const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Problems and their pictures.
#[derive(Debug, Clone)]
pub struct SampleSet {
    /// Problems, train before val before test, families mixed within each.
    pub problems: Vec<Problem>,
    /// Path in the dataset folder and bytes of each picture, by path.
    pub pictures: Vec<(String, Vec<u8>)>,
}

/// Makes the set of a seed.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn generate(seed: u64) -> Result<SampleSet, Error> {
    let mut rng = Rng::new(seed);
    let mut splits: [Vec<Problem>; 3] = Default::default();
    let mut pictures = Vec::new();
    let mut turn = Turn::default();
    for family in FAMILIES {
        let drafts = distinct_drafts(family, &mut rng, &mut turn)?;
        let split_of = (0..3).flat_map(|split| std::iter::repeat_n(split, family.counts[split]));
        for ((number, (draft, png)), split) in (1..).zip(drafts).zip(split_of) {
            let problem_id = format!("{}-{number:03}", family.name);
            let image = png.map(|png| {
                let path = format!("images/{problem_id}.png");
                pictures.push((path.clone(), png));
                path
            });
            splits[split].push(problem(family, problem_id, SPLITS[split], draft, image));
        }
    }
    for split in &mut splits {
        rng.shuffle(split);
    }
    let mut train: Vec<usize> = (0..splits[0].len()).collect();
    rng.shuffle(&mut train);
    for at in train.iter().take(splits[0].len() / TRAIN_SOLUTIONS_LEFT_OUT) {
        splits[0][*at].solution.clear();
    }
    pictures.sort();
    Ok(SampleSet { problems: splits.into_iter().flatten().collect(), pictures })
}

/// A problem and its encoded picture, if it has one.
type Drawn = (Draft, Option<Vec<u8>>);

/// A family's problems with their encoded pictures. No two have the same question, picture and options,
/// regardless of the order of the options.
fn distinct_drafts(family: &Family, rng: &mut Rng, turn: &mut Turn) -> Result<Vec<Drawn>, Error> {
    let wanted = family.counts.iter().sum();
    let mut drafts = Vec::with_capacity(wanted);
    let mut seen = HashSet::with_capacity(wanted);
    let mut attempts = 0;
    while drafts.len() < wanted {
        attempts += 1;
        if attempts > 100 * wanted {
            let (name, found) = (family.name, drafts.len());
            return Err(format!("family {name}: expected {wanted} different problems, found {found}").into());
        }
        let draft = (family.draw)(rng, turn);
        let png = draft.picture.as_ref().map(|picture| picture.png()).transpose()?;
        let mut choices = draft.options.choices.clone();
        choices.sort();
        if seen.insert((draft.question.clone(), choices, png.clone())) {
            turn.advance(draft.options.choices.len());
            drafts.push((draft, png));
        }
    }
    Ok(drafts)
}

fn problem(family: &Family, problem_id: String, split: &str, draft: Draft, image: Option<String>) -> Problem {
    Problem {
        problem_id,
        split: split.into(),
        question: draft.question,
        choices: draft.options.choices,
        answer_index: u8::try_from(draft.options.answer).ok(),
        hint: family.hint.into(),
        caption: family.caption.into(),
        lecture: family.lecture.into(),
        solution: draft.solution.join(" "),
        image,
        subject: Some(family.subject.into()),
        topic: Some(family.topic.into()),
        category: Some(family.category.into()),
        skill: Some(family.skill.into()),
        grade: Some(family.grade.into()),
        source: "sample".into(),
    }
}
