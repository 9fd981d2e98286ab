//! Counting shapes of one colour.

use super::{CELL, COLOURS, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "count",
    counts: [94, 15, 47],
    subject: "natural science",
    topic: "science-and-engineering-practices",
    category: "Observing and counting",
    skill: "Count shapes of one colour",
    grade: "grade1",
    hint: "",
    caption: "Shapes of different colours.",
    lecture: "To count some of the things in a picture, look at each thing once. Count it when it has the right \
        colour. It helps to count one part of the picture first and then the other part.",
    draw,
};

/// Maximum number of shapes of the colour that is counted.
const MOST: usize = 4;

/// Cells of the picture, row by row; empty ones hold nothing.
type Cells = [Option<Colour>; 16];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let asked = rng.below(2);
    let (name, colour) = COLOURS[asked];
    let answer = turn.place(MOST);
    let number = answer + 1;
    let mut groups = vec![(colour, number)];
    // The other of the two colours that questions ask about, and one that they never ask about.
    for other in [COLOURS[1 - asked].1, rng.pick(&[Colour::Green, Colour::Yellow])] {
        groups.push((other, rng.between(0, MOST)));
    }
    let cells = scatter(rng, &groups);
    let options = Options::fixed(&[1, 2, 3, 4].map(|number: usize| number.to_string()), answer);
    let question = format!("How many {name} shapes are there?");
    let solution = vec![
        format!("Count only the {name} shapes."),
        format!("There {} {}.", is_or_are(number), shapes(number, name)),
        options.conclusion(&format!("the number is {number}")),
    ];
    Draft { question, options, solution, picture: Some(picture(rng, &cells)) }
}

fn is_or_are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

fn shapes(number: usize, name: &str) -> String {
    format!("{number} {name} shape{}", if number == 1 { "" } else { "s" })
}

fn scatter(rng: &mut Rng, groups: &[(Colour, usize)]) -> Cells {
    let mut cells: Cells = [None; 16];
    let filled = groups.iter().flat_map(|&(colour, number)| std::iter::repeat_n(Some(colour), number));
    for (cell, colour) in cells.iter_mut().zip(filled) {
        *cell = colour;
    }
    rng.shuffle(&mut cells);
    cells
}

fn picture(rng: &mut Rng, cells: &Cells) -> Canvas {
    let mut canvas = Canvas::new(Colour::White);
    for (at, colour) in (0..).zip(cells) {
        let Some(colour) = *colour else { continue };
        let (x, y) = (at % 4 * CELL + CELL / 2, at / 4 * CELL + CELL / 2);
        // All fill their cell equally, so a patch shows its colour regardless of the shape.
        match rng.below(3) {
            0 => canvas.circle(x, y, 15, colour),
            1 => canvas.rectangle(x - 14, y - 14, 28, 28, colour),
            _ => {
                canvas.rectangle(x - 15, y - 8, 30, 16, colour);
                canvas.rectangle(x - 8, y - 15, 16, 30, colour);
            }
        }
    }
    canvas
}
