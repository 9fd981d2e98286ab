//! Which of two pairs of magnets attracts more strongly, by the distance between the magnets of a pair.

use super::{BACKGROUNDS, CELL, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour, SIZE};
use crate::rng::Rng;
use std::cmp::Ordering;

pub(super) const FAMILY: Family = Family {
    name: "magnets",
    counts: [110, 18, 55],
    subject: "natural science",
    topic: "physics",
    category: "Magnets",
    skill: "Compare strengths of magnetic forces",
    grade: "grade5",
    hint: "",
    caption: "Two pairs of magnets.",
    lecture: "Magnets can pull on each other from a distance. When two magnets attract, they pull together. The force \
        is stronger when the magnets are closer together, and weaker when they are farther apart.",
    draw,
};

/// Pixels per centimetre.
const CENTIMETRE: i32 = 16;
/// Width of a magnet, half a cell, so that a distance of an odd number of centimetres puts the other magnet into the
/// same place of another cell.
const MAGNET: i32 = 16;
const DISTANCES: [usize; 2] = [1, 5];

/// A pair of magnets that attract each other.
#[derive(Clone, Copy)]
struct Pair {
    distance: usize,
    north_first: bool,
    /// Colour of the shelf under the magnets.
    shelf: Colour,
}

const SHELVES: [Colour; 4] = [Colour::Green, Colour::Yellow, Colour::Purple, Colour::Brown];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(3);
    let order = [Ordering::Less, Ordering::Greater, Ordering::Equal][answer];
    let (first, second) = loop {
        let (first, second) = (rng.pick(&DISTANCES), rng.pick(&DISTANCES));
        if first.cmp(&second) == order {
            break (first, second);
        }
    };
    let pairs = [first, second].map(|distance| Pair {
        distance,
        north_first: rng.below(2) == 0,
        shelf: rng.pick(&SHELVES),
    });
    let background = rng.pick(&BACKGROUNDS);
    let options = Options::fixed(&["Pair 1", "Pair 2", "both the same"], answer);
    let finding = ["Pair 1 pulls harder", "Pair 2 pulls harder", "they pull both the same"][answer];
    let question = "Which pair of alike magnets pulls harder?";
    let solution = vec![
        "The closer magnets pull harder.".to_owned(),
        format!("Pair 1 is {first} cm apart."),
        format!("Pair 2 is {second} cm apart."),
        options.conclusion(finding),
    ];
    Draft { question: question.to_owned(), options, solution, picture: Some(picture(&pairs, background)) }
}

fn picture(pairs: &[Pair; 2], background: Colour) -> Canvas {
    let mut canvas = Canvas::new(background);
    for (number, pair) in (0..).zip(pairs) {
        let top = number * 2 * CELL;
        let gap = pair.distance as i32 * CENTIMETRE;
        let (left, right) = (CELL / 2 - 2, CELL / 2 - 2 + MAGNET + gap);
        magnet(&mut canvas, left, top + 2, pair.north_first);
        magnet(&mut canvas, right, top + 2, pair.north_first);
        canvas.rectangle(0, top + 30, SIZE, 4, pair.shelf);
        let y = top + 40;
        canvas.rectangle(left + MAGNET, y, gap, 1, Colour::Black);
        canvas.rectangle(left + MAGNET, y - 3, 1, 7, Colour::Black);
        canvas.rectangle(right - 1, y - 3, 1, 7, Colour::Black);
        canvas.text_around(left + MAGNET + gap / 2, top + 49, &format!("{}CM", pair.distance), Colour::Black);
        canvas.text(2, top + 55, &format!("PAIR {}", number + 1), Colour::Black);
    }
    canvas
}

fn magnet(canvas: &mut Canvas, x: i32, y: i32, north_first: bool) {
    let poles = [("N", Colour::Red), ("S", Colour::Blue)];
    let poles = if north_first { poles } else { [poles[1], poles[0]] };
    for (at, (letter, colour)) in (0..).zip(poles) {
        canvas.rectangle(x + at * MAGNET / 2, y, MAGNET / 2, 28, colour);
        canvas.text_around(x + at * MAGNET / 2 + MAGNET / 4, y + 14, letter, Colour::White);
    }
}
