//! Counting shapes of one colour, and comparing the numbers of two colours.

use super::{COLOURS, Draft, Family, Options, Turn, listed};
use crate::canvas::{Canvas, Colour, SIZE};
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

const CELL: i32 = SIZE / 4;
/// Cells in the top half of the picture.
const TOP: usize = 8;

type Ink = (&'static str, Colour);

/// Cells of the picture, row by row; empty ones hold nothing.
type Cells = [Option<Colour>; 16];

fn count(rng: &mut Rng, turn: &Turn) -> Draft {
    let kinds = rng.between(2, 3);
    let inks = rng.sample(&COLOURS, kinds);
    let (asked, others) = (inks[0], &inks[1..]);
    // The numbers on offer come first and the right one is any of them: neither size nor rank gives it away.
    let count = rng.between(3, 4);
    let lowest = rng.between(1, 8 - count);
    let number = rng.between(lowest, lowest + count - 1);
    let mut groups = vec![(asked, number)];
    for &other in others {
        groups.push((other, rng.between(1, 4)));
    }
    let cells = scatter(rng, &groups);

    let wrong = (lowest..lowest + count).filter(|&other| other != number).map(|other| other.to_string());
    let wrong = wrong.collect();
    let options = Options::arrange(rng, turn, number.to_string(), wrong);

    let (name, colour) = asked;
    let in_cells = |cells: &[Option<Colour>]| cells.iter().filter(|&&cell| cell == Some(colour)).count();
    let phrasing = rng.below(2);
    let (question, start) = match phrasing {
        0 => {
            (format!("How many {name} shapes are in the picture?"), format!("Count only the {name} shapes."))
        }
        _ => (
            format!("Count the {name} shapes. How many are there?"),
            format!("Look at the colour of each shape, and count the {name} ones."),
        ),
    };
    let names: Vec<&str> = others.iter().map(|other| other.0).collect();
    let solution = vec![
        start,
        format!("The top half has {}.", shapes(in_cells(&cells[..TOP]), name)),
        format!("The bottom half has {}.", shapes(in_cells(&cells[TOP..]), name)),
        format!("The {} shapes do not count.", listed(&names, "and")),
        options.conclusion(&format!("there {} {}", is_or_are(number), shapes(number, name))),
    ];
    Draft { question, options, solution, picture: Some(picture(rng, &cells)) }
}

fn compare(rng: &mut Rng, turn: &Turn) -> Draft {
    let inks = rng.sample(&COLOURS, 2);
    let (one, two) = (inks[0], inks[1]);
    let low = rng.between(1, 6);
    let high = rng.between(low + 1, 7);
    let (first, second) = match rng.below(3) {
        0 => (low, high),
        1 => (high, low),
        _ => (low, low),
    };
    let cells = scatter(rng, &[(one, first), (two, second)]);
    let order = first.cmp(&second);
    let choice = |order: Ordering| match order {
        Ordering::Greater => format!("more {} shapes", one.0),
        Ordering::Less => format!("more {} shapes", two.0),
        Ordering::Equal => "the same number".to_owned(),
    };
    let wrong = [Ordering::Greater, Ordering::Less, Ordering::Equal];
    let wrong = wrong.into_iter().filter(|&other| other != order).map(choice).collect();
    let options = Options::arrange(rng, turn, choice(order), wrong);

    let (comparison, finding) = match order {
        Ordering::Greater => {
            (format!("{first} is more than {second}."), format!("there are {}", choice(order)))
        }
        Ordering::Less => (format!("{second} is more than {first}."), format!("there are {}", choice(order))),
        Ordering::Equal => {
            ("The two numbers are equal.".to_owned(), "there is the same number of both".to_owned())
        }
    };
    let (question, start) = match rng.below(2) {
        0 => (
            format!("Are there more {} shapes or more {} shapes?", one.0, two.0),
            "Count the shapes of each colour.".to_owned(),
        ),
        _ => (
            format!("Compare the {} shapes and the {} shapes. Of which are there more?", one.0, two.0),
            format!("First count the {} shapes, then the {} shapes.", one.0, two.0),
        ),
    };
    let solution = vec![
        start,
        format!("There {} {}.", is_or_are(first), shapes(first, one.0)),
        format!("There {} {}.", is_or_are(second), shapes(second, two.0)),
        comparison,
        options.conclusion(&finding),
    ];
    Draft { question, options, solution, picture: Some(picture(rng, &cells)) }
}

fn is_or_are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

fn shapes(number: usize, name: &str) -> String {
    format!("{number} {name} shape{}", if number == 1 { "" } else { "s" })
}

fn scatter(rng: &mut Rng, groups: &[(Ink, usize)]) -> Cells {
    let mut cells: Cells = [None; 16];
    let filled = groups.iter().flat_map(|&((_, colour), number)| std::iter::repeat_n(Some(colour), number));
    for (cell, colour) in cells.iter_mut().zip(filled) {
        *cell = colour;
    }
    rng.shuffle(&mut cells);
    cells
}

fn picture(rng: &mut Rng, cells: &Cells) -> Canvas {
    let mut canvas = Canvas::new(Colour::White);
    canvas.rectangle(0, SIZE / 2, SIZE, 1, Colour::Grey);
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
