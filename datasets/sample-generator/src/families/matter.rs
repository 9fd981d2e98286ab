//! Solids, liquids and gases; no picture.

use super::{Draft, Family, Options, Turn};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "matter",
    counts: [30, 5, 15],
    subject: "natural science",
    topic: "chemistry",
    category: "Matter",
    skill: "Solids, liquids, and gases",
    grade: "grade4",
    hint: "",
    caption: "",
    lecture: "Solid, liquid, and gas are states of matter. A solid keeps its shape. A liquid flows and takes the shape \
        of the thing that holds it. A gas spreads out to fill all the space there is.",
    draw,
};

const STATES: [(&str, &[&str]); 3] = [
    ("solid", &["a rock", "a coin", "a book", "a chair", "a spoon", "a brick", "a pencil", "a plate"]),
    ("liquid", &["milk", "juice", "tea", "oil", "honey", "ink", "water", "paint"]),
    ("gas", &["air", "steam", "helium", "oxygen", "neon", "hydrogen"]),
];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let at = rng.below(STATES.len());
    let (asked, things) = STATES[at];
    let right = rng.pick(things);
    let strangers: Vec<(&str, &str)> = STATES
        .iter()
        .filter(|state| state.0 != asked)
        .flat_map(|&(state, things)| things.iter().map(move |&thing| (state, thing)))
        .collect();
    let wrong = rng.sample(&strangers, 2);
    let state_of =
        |choice: &str| wrong.iter().find(|(_, thing)| *thing == choice).map_or(asked, |(state, _)| *state);
    let options = Options::arrange(
        rng,
        turn,
        right.to_owned(),
        wrong.iter().map(|(_, thing)| (*thing).to_owned()).collect(),
    );

    let (question, start) = match rng.below(2) {
        0 => (
            format!("Which of these is a {asked}?"),
            "Solids keep their shape, liquids flow, and gases spread out.",
        ),
        _ => (format!("Select the {asked}."), "Think about the state of each thing."),
    };
    let mut solution = vec![start.to_owned()];
    for choice in &options.choices {
        solution.push(format!("The state of {choice} is {}.", state_of(choice)));
    }
    solution.push(options.conclusion(&format!("{right} is a {asked}")));
    Draft { question, options, solution, picture: None }
}
