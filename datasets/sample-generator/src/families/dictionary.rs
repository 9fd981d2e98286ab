//! Dictionary order by guide words; no picture.

use super::{Draft, Family, Options, Turn};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "dictionary",
    counts: [50, 8, 25],
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

/// The words on offer, in alphabetical order.
const OFFERED: [&str; 4] = ["door", "king", "pen", "tree"];

/// Guide words before, between and after the words on offer.
const GUIDES: [&[&str]; 5] = [
    &["apple", "bear", "cake"],
    &["egg", "fish", "game", "hat", "ice", "jam"],
    &["lamp", "moon", "nest", "oak"],
    &["queen", "rain", "snow"],
    &["van", "wall", "yard", "zoo"],
];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(OFFERED.len());
    let right = OFFERED[answer];
    let (from, to) = (rng.pick(GUIDES[answer]), rng.pick(GUIDES[answer + 1]));
    let options = Options::fixed(&OFFERED, answer);
    let question = match rng.below(2) {
        0 => format!("Which word would be on a dictionary page with the guide words {from} and {to}?"),
        _ => format!("The guide words on a dictionary page are {from} and {to}. Which word is on that page?"),
    };
    let solution = vec![
        "Guide words are the first and the last word on a page.".to_owned(),
        format!("This page goes from {} to {}.", &from[..1], &to[..1]),
        options.conclusion(&format!("{right} is on this page")),
    ];
    Draft { question, options, solution, picture: None }
}
