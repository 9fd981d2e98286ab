//! Who eats whom, by the arrows of a food web.

use super::{BACKGROUNDS, CELL, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "foodweb",
    counts: [80, 13, 40],
    subject: "natural science",
    topic: "biology",
    category: "Ecosystems",
    skill: "Interpret food webs",
    grade: "grade7",
    hint: "Each arrow points from the food to the animal that eats it.",
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
    let asks_food = rng.below(2) == 0;
    let hunter = if asks_food { meals.iter().position(|&meal| meal == answer).unwrap_or(0) } else { answer };
    let (name, colour, _) = HUNTERS[hunter];
    let food = FOODS[meals[hunter]];
    let with_the = |name: &str| format!("the {name}");
    let options = if asks_food {
        Options::fixed(&FOODS.map(with_the), answer)
    } else {
        Options::fixed(&HUNTERS.map(|hunter| with_the(hunter.0)), answer)
    };
    let finding = options.conclusion(&format!("the {name} eats the {food}"));
    let (question, solution) = if asks_food {
        (
            format!("What does the {name} eat in this food web?"),
            vec![
                format!("The arrow to the {name} is {colour}."),
                format!("The {colour} arrow comes from the {food}."),
                finding,
            ],
        )
    } else {
        (
            format!("Look at the food web. Which animal eats the {food}?"),
            vec![
                format!("The arrow from the {food} is {colour}."),
                format!("The {colour} arrow points to the {name}."),
                finding,
            ],
        )
    };
    let background = rng.pick(&BACKGROUNDS);
    Draft { question, options, solution, picture: Some(picture(&meals, background)) }
}

fn picture(meals: &[usize; 4], background: Colour) -> Canvas {
    let mut canvas = Canvas::new(background);
    let middle = |column: usize| column as i32 * CELL + CELL / 2;
    for (column, &(name, _, colour)) in HUNTERS.iter().enumerate() {
        canvas.rectangle(middle(column) - 15, 2, 30, 18, colour);
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
        canvas.line((foot, 68), (tip, 30), 4, colour);
        canvas.triangle([(tip, 21), (tip - 8, 31), (tip + 8, 31)], colour);
    }
    canvas
}
