//! Dictionary order by guide words; no picture.

use super::{Draft, Family, Options, Turn};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "dictionary",
    counts: [40, 6, 20],
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

/// Words in alphabetical order, no two with the same first letter.
const WORDS: [&str; 22] = [
    "apple", "bear", "cake", "door", "egg", "fish", "game", "hat", "ice", "jam", "king", "lamp", "moon",
    "nest", "oak", "pen", "queen", "rain", "snow", "tree", "van", "wall",
];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let width = rng.between(4, 9);
    let first = rng.below(WORDS.len() - width);
    let last = first + width;
    let right = rng.between(first + 1, last - 1);
    let outside: Vec<usize> = (0..WORDS.len()).filter(|at| !(first..=last).contains(at)).collect();
    let count = rng.between(1, 2);
    let wrong = rng.sample(&outside, count);
    let wrong = wrong.into_iter().map(|at| WORDS[at].to_owned()).collect();
    let options = Options::arrange(rng, turn, WORDS[right].to_owned(), wrong);

    let (from, to) = (WORDS[first], WORDS[last]);
    let (question, start) = match rng.below(2) {
        0 => (
            format!("Which word would be on a dictionary page with the guide words {from} and {to}?"),
            "Guide words are the first and the last word on a page.",
        ),
        _ => (
            format!("The guide words on a dictionary page are {from} and {to}. Which word is on that page?"),
            "Put the words in alphabetical order.",
        ),
    };
    let mut solution = vec![start.to_owned(), format!("This page goes from {} to {}.", &from[..1], &to[..1])];
    for choice in options.wrong() {
        let place = if choice.as_str() < from { format!("before {from}") } else { format!("after {to}") };
        solution.push(format!("The word {choice} starts with {}, so it comes {place}.", &choice[..1]));
    }
    solution.push(options.conclusion(&format!("{} is between {from} and {to}", WORDS[right])));
    Draft { question, options, solution, picture: None }
}
