//! Reading a thermometer.

use super::{BACKGROUNDS, CELL, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "thermometer",
    counts: [100, 17, 50],
    subject: "natural science",
    topic: "science-and-engineering-practices",
    category: "Units and measurement",
    skill: "Read a thermometer",
    grade: "grade3",
    hint: "",
    caption: "A thermometer with marks in degrees.",
    lecture: "A thermometer shows how warm something is. The liquid in it rises when it gets warmer. To read the \
        temperature, find the mark at the top of the liquid. Degrees Celsius are written as °C.",
    draw,
};

/// Marks from 0 to 30 °C, one every 10 °C, one cell apart.
const MARKS: usize = 4;

/// What else is in the picture: a square flag in a cell next to the thermometer.
const FLAGS: [Colour; 5] = [Colour::Green, Colour::Yellow, Colour::Purple, Colour::Teal, Colour::Brown];

/// How pictures of the same temperature differ.
struct Look {
    liquid: Colour,
    background: Colour,
    /// Stands in the left half of the picture, else in the right half.
    left: bool,
    flag: Colour,
    flag_cell: (i32, i32),
}

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let mark = turn.place(MARKS);
    let (name, liquid) = rng.pick(&[("red", Colour::Red), ("blue", Colour::Blue)]);
    let look = Look {
        liquid,
        background: rng.pick(&BACKGROUNDS),
        left: rng.below(2) == 0,
        flag: rng.pick(&FLAGS),
        flag_cell: (rng.below(2) as i32, rng.below(4) as i32),
    };
    let options = Options::fixed(&[0, 1, 2, 3].map(|mark| format!("{} °C", mark * 10)), mark);
    let question = "Which temperature is shown?";
    let degrees = mark * 10;
    let solution = vec![
        format!("Find the top of the {name} liquid."),
        format!("It is at the mark for {degrees}."),
        options.conclusion(&format!("it is {degrees} °C")),
    ];
    Draft { question: question.to_owned(), options, solution, picture: Some(picture(mark, &look)) }
}

fn picture(mark: usize, look: &Look) -> Canvas {
    let height = |mark: usize| 98 - CELL * mark as i32;
    let mut canvas = Canvas::new(look.background);
    let x = if look.left { 2 } else { 2 + 2 * CELL };
    canvas.rectangle(x, 0, 28, 104, Colour::Grey);
    canvas.circle(x + 14, 112, 15, Colour::Grey);
    canvas.rectangle(x + 2, 0, 24, 100, Colour::White);
    canvas.circle(x + 14, 112, 13, look.liquid);
    canvas.rectangle(x + 2, height(mark), 24, 112 - height(mark), look.liquid);
    for at in 0..MARKS {
        canvas.rectangle(x + 30, height(at), 8, 1, Colour::Black);
        canvas.text(x + 41, height(at) - 2, &format!("{}", at * 10), Colour::Black);
    }
    let (column, row) = look.flag_cell;
    let beside = if look.left { 2 * CELL } else { 0 };
    canvas.rectangle(beside + column * CELL + 4, row * CELL + 4, 24, 24, look.flag);
    canvas
}
