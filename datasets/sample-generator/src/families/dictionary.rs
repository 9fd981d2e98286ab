//! Dictionary order by guide words; no picture.

use super::{Draft, Family, Options, Turn};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "dictionary",
    counts: [36, 6, 18],
    subject: "language science",
    topic: "reference-skills",
    category: "Reference skills",
    skill: "Use guide words",
    grade: "grade3",
    hint: "",
    caption: "",
    lecture: "The guide words on a dictionary page are the first and the last word on that page. All other words on the \
        page come between them in alphabetical order. To order words, compare their first letters.",
    draw,
};

/// The words that can be options, in alphabetical order.
const OFFERED: [&str; 4] = ["door", "king", "pen", "tree"];

/// Guide words before, between and after these words.
const GUIDES: [[&str; 4]; 5] = [
    ["apple", "bear", "cake", "cow"],
    ["egg", "fish", "hat", "jam"],
    ["lamp", "moon", "nest", "oak"],
    ["queen", "rain", "snow", "star"],
    ["van", "wall", "yard", "zoo"],
];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(OFFERED.len());
    let right = OFFERED[answer];
    let (from, to) = (rng.pick(&GUIDES[answer]), rng.pick(&GUIDES[answer + 1]));
    let options = Options::fixed(&OFFERED, answer);
    let question = format!("Which word stands between {from} and {to}?");
    let solution = vec![
        "Put the words in alphabetical order.".to_owned(),
        format!("The word {right} starts with {}.", &right[..1]),
        options.conclusion(&format!("{right} is between them")),
    ];
    Draft { question, options, solution, picture: None }
}
