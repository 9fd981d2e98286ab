//! Which animal eats which, by the arrows of a food web.

use super::{BACKGROUNDS, CELL, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "foodweb",
    counts: [100, 17, 50],
    subject: "natural science",
    topic: "biology",
    category: "Ecosystems",
    skill: "Interpret food webs",
    grade: "grade7",
    hint: "",
    caption: "A food web with eight animals.",
    lecture: "A food web shows how living things get their food. An arrow begins at the living thing that is eaten, \
        and points to the animal that eats it.",
    draw,
};

/// Hunters in the top row: name, name of the colour, colour. Each arrow has the colour of the hunter it points to.
const HUNTERS: [(&str, &str, Colour); 4] = [
    ("owl", "red", Colour::Red),
    ("fox", "blue", Colour::Blue),
    ("hawk", "green", Colour::Green),
    ("snake", "orange", Colour::Orange),
];
/// Their food in the bottom row.
const FOODS: [&str; 4] = ["mouse", "frog", "bird", "vole"];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(4);
    // What each hunter eats, by column; no two eat the same.
    let mut meals = [0, 1, 2, 3];
    rng.shuffle(&mut meals);
    let hunter = meals.iter().position(|&meal| meal == answer).unwrap_or(0);
    let (name, colour, _) = HUNTERS[hunter];
    let food = FOODS[answer];
    let options = Options::fixed(&FOODS.map(|food| format!("the {food}")), answer);
    let question = format!("What does the {name} eat?");
    let solution = vec![
        format!("The arrow to the {name} is {colour}."),
        format!("The {colour} arrow comes from the {food}."),
        options.conclusion(&format!("the {name} eats the {food}")),
    ];
    let background = rng.pick(&BACKGROUNDS);
    Draft { question, options, solution, picture: Some(picture(&meals, background)) }
}

fn picture(meals: &[usize; 4], background: Colour) -> Canvas {
    let mut canvas = Canvas::new(background);
    let middle = |column: usize| column as i32 * CELL + CELL / 2;
    for (column, &(name, _, _)) in HUNTERS.iter().enumerate() {
        canvas.rectangle(middle(column) - 15, 2, 30, 18, Colour::Grey);
        canvas.text_around(middle(column), 11, name, Colour::White);
    }
    for (column, name) in FOODS.iter().enumerate() {
        canvas.rectangle(middle(column) - 15, 100, 30, 26, Colour::Grey);
        canvas.text_around(middle(column), 113, name, Colour::White);
    }
    for (hunter, &food) in meals.iter().enumerate() {
        let colour = HUNTERS[hunter].2;
        let (foot, tip) = (middle(food), middle(hunter));
        // The foot of an arrow is broad and fills the cell above the food.
        canvas.rectangle(foot - 13, 68, 26, 30, colour);
        canvas.line((foot, 68), (tip, 30), 3, colour);
        canvas.triangle([(tip, 21), (tip - 8, 31), (tip + 8, 31)], colour);
    }
    canvas
}
