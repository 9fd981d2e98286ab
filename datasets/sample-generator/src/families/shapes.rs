//! Counting shapes of one colour, and comparing the numbers of two colours.

use super::{CELL, COLOURS, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;
use std::cmp::Ordering;

pub(super) const COUNTING: Family = Family {
    name: "count",
    counts: [80, 14, 40],
    subject: "natural science",
    topic: "science-and-engineering-practices",
    category: "Observing and counting",
    skill: "Count shapes of one colour",
    grade: "grade1",
    hint: "",
    caption: "Shapes of different colours.",
    lecture: "To count some of the things in a picture, look at each thing once. Count it when it has the right \
        colour. It helps to count one part of the picture first and then the other part.",
    draw: count,
};

pub(super) const COMPARING: Family = Family {
    name: "compare",
    counts: [60, 10, 30],
    skill: "Compare numbers of shapes",
    lecture: "To compare two groups, count the things in each group. The group with the greater number has more. When \
        the numbers are equal, the groups are the same size.",
    draw: compare,
    ..COUNTING
};

/// Most shapes of a colour that a question is about.
const MOST: usize = 4;

/// Cells of the picture, row by row; empty ones hold nothing.
type Cells = [Option<Colour>; 16];

fn count(rng: &mut Rng, turn: &Turn) -> Draft {
    let inks = rng.sample(&COLOURS, 3);
    let (name, colour) = inks[0];
    let answer = turn.place(MOST);
    let number = answer + 1;
    let mut groups = vec![(colour, number)];
    for &(_, other) in &inks[1..] {
        groups.push((other, rng.between(0, MOST)));
    }
    let cells = scatter(rng, &groups);
    let options = Options::fixed(&[1, 2, 3, 4].map(|number: usize| number.to_string()), answer);
    let question = match rng.below(2) {
        0 => format!("How many {name} shapes are in the picture?"),
        _ => format!("Count the {name} shapes. How many are there?"),
    };
    let solution = vec![
        format!("Count only the {name} shapes."),
        format!("There {} {} in the picture.", is_or_are(number), shapes(number, name)),
        options.conclusion(&format!("the number is {number}")),
    ];
    Draft { question, options, solution, picture: Some(picture(rng, &cells)) }
}

fn compare(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(3);
    let order = [Ordering::Greater, Ordering::Less, Ordering::Equal][answer];
    let (first, second) = loop {
        let (first, second) = (rng.between(1, MOST), rng.between(1, MOST));
        if first.cmp(&second) == order {
            break (first, second);
        }
    };
    let others = rng.between(0, MOST);
    let other = rng.pick(&[Colour::Green, Colour::Yellow]);
    let cells = scatter(rng, &[(Colour::Red, first), (Colour::Blue, second), (other, others)]);
    let choices = ["more red shapes", "more blue shapes", "the same number"];
    let options = Options::fixed(&choices, answer);
    let (comparison, finding) = match order {
        Ordering::Greater => (format!("{first} is more than {second}."), "there are more red shapes"),
        Ordering::Less => (format!("{second} is more than {first}."), "there are more blue shapes"),
        Ordering::Equal => ("The two numbers are equal.".to_owned(), "there is the same number of both"),
    };
    let question = match rng.below(2) {
        0 => "Are there more red shapes or more blue shapes?",
        _ => "Compare the red shapes and the blue shapes. Of which are there more?",
    };
    let solution = vec![
        "Count the shapes of each colour.".to_owned(),
        format!("There {} {}.", is_or_are(first), shapes(first, "red")),
        format!("There {} {}.", is_or_are(second), shapes(second, "blue")),
        comparison,
        options.conclusion(finding),
    ];
    Draft { question: question.to_owned(), options, solution, picture: Some(picture(rng, &cells)) }
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
        // All fill their cell alike: a patch tells its colour whatever the form.
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
