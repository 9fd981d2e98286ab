//! Solids, liquids and gases; no picture.

use super::{Draft, Family, Options, Turn};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "matter",
    counts: [40, 7, 20],
    subject: "natural science",
    topic: "chemistry",
    category: "States of matter",
    skill: "Identify solids, liquids and gases",
    grade: "grade2",
    hint: "",
    caption: "",
    lecture: "Matter can be a solid, a liquid, or a gas. A solid has a shape of its own. A liquid takes the shape of the \
        lower part of its container. A gas spreads out and fills its container.",
    draw,
};

/// A state, its explanation, and things in that state at room temperature.
const STATES: [(&str, &str, &[&str]); 3] = [
    (
        "a solid",
        "It keeps its own shape.",
        &[
            "a rock", "a coin", "a spoon", "a brick", "a pencil", "a plate", "a nail", "a shell", "a cup",
            "a key",
        ],
    ),
    (
        "a liquid",
        "It flows and can be poured.",
        &["milk", "juice", "tea", "oil", "honey", "ink", "water", "paint", "rain", "vinegar"],
    ),
    (
        "a gas",
        "It spreads out and fills its container.",
        &["air", "steam", "helium", "oxygen", "neon", "hydrogen", "nitrogen", "propane", "methane", "ozone"],
    ),
];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(STATES.len());
    let (state, sign, things) = STATES[answer];
    let thing = rng.pick(things);
    let options = Options::fixed(&STATES.map(|state| state.0), answer);
    let question = match rng.below(3) {
        0 => format!("What is {thing}?"),
        1 => format!("Which state has {thing}?"),
        _ => format!("Select the state of {thing}."),
    };
    let solution = vec![sign.to_owned(), options.conclusion(&format!("it is {state}"))];
    Draft { question, options, solution, picture: None }
}
