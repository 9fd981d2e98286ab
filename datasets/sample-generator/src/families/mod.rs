//! The kinds of problems, one file each, and what they share.

mod count;
mod dictionary;
mod food_web;
mod magnets;
mod map;
mod matter;
mod thermometer;

use crate::canvas::{Canvas, Colour, SIZE};
use crate::rng::Rng;

/// A kind of problem: how many there are, what they have in common, and how one is made.
pub(crate) struct Family {
    /// Prefix of its problems' identifiers.
    pub(crate) name: &'static str,
    /// Problems in train, val and test.
    pub(crate) counts: [usize; 3],
    pub(crate) subject: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) category: &'static str,
    pub(crate) skill: &'static str,
    pub(crate) grade: &'static str,
    pub(crate) hint: &'static str,
    /// Names the kind of picture, never what it shows in detail.
    pub(crate) caption: &'static str,
    pub(crate) lecture: &'static str,
    pub(crate) draw: fn(&mut Rng, &Turn) -> Draft,
}

/// One problem of a family.
pub(crate) struct Draft {
    pub(crate) question: String,
    pub(crate) options: Options,
    /// Sentences from the starting point to the conclusion.
    pub(crate) solution: Vec<String>,
    pub(crate) picture: Option<Canvas>,
}

/// All families, in the order in which their problems are numbered.
pub(crate) const FAMILIES: [&Family; 7] = [
    &map::FAMILY,
    &magnets::FAMILY,
    &thermometer::FAMILY,
    &count::FAMILY,
    &food_web::FAMILY,
    &dictionary::FAMILY,
    &matter::FAMILY,
];

/// Chooses the position of the correct option, so that each position is used equally often.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    /// Problems so far, by number of options.
    given: [usize; 5],
}

impl Turn {
    /// Position of the correct option of the next problem with this many options.
    fn place(&self, options: usize) -> usize {
        self.given[options] % options
    }

    /// Counts a problem that was added to the set.
    pub(crate) fn advance(&mut self, options: usize) {
        self.given[options] += 1;
    }
}

/// Options in the order in which they are shown.
pub(crate) struct Options {
    pub(crate) choices: Vec<String>,
    pub(crate) answer: usize,
}

impl Options {
    /// Options in a fixed order, the same in all problems of a kind, as in most of ScienceQA.
    fn fixed<T: AsRef<str>>(choices: &[T], answer: usize) -> Self {
        Self { choices: choices.iter().map(|choice| choice.as_ref().to_owned()).collect(), answer }
    }

    /// The last sentence of a solution: `So {finding}, and the answer is (B).`
    fn conclusion(&self, finding: &str) -> String {
        format!("So {finding}, and the answer is ({}).", char::from(b'A' + self.answer as u8))
    }
}

/// The four colours of towns and shapes: few, so that the student sees each of them often.
const COLOURS: [(&str, Colour); 4] =
    [("red", Colour::Red), ("blue", Colour::Blue), ("green", Colour::Green), ("yellow", Colour::Yellow)];

/// Side of a cell in the grid of four by four; one patch of a small vision model shows one cell.
const CELL: i32 = SIZE / 4;

/// Pale background colours.
const BACKGROUNDS: [Colour; 4] = [Colour::White, Colour::Paper, Colour::Meadow, Colour::Water];
