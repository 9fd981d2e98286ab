//! Which of two pairs of magnets pulls harder, by the distance between the magnets of a pair.

use super::{BACKGROUNDS, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;
use std::cmp::Ordering;

pub(super) const FAMILY: Family = Family {
    name: "magnets",
    counts: [90, 15, 45],
    subject: "natural science",
    topic: "physics",
    category: "Magnets",
    skill: "Compare strengths of magnetic forces",
    grade: "grade5",
    hint: "All the magnets are alike. Only the distance differs.",
    caption: "Two pairs of magnets.",
    lecture: "Magnets can pull on each other from a distance. When two magnets attract, they pull together. The force \
        is stronger when the magnets are closer together, and weaker when they are farther apart.",
    draw,
};

/// Dots that stand for one centimetre.
const CENTIMETRE: i32 = 16;
/// Length of half a magnet, one pole.
const POLE: i32 = 15;

/// A pair of magnets that attract each other.
#[derive(Clone, Copy)]
struct Pair {
    distance: usize,
    north_first: bool,
}

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let (first, second) = distances(rng);
    let pairs = [first, second].map(|distance| Pair { distance, north_first: rng.below(2) == 0 });
    let background = rng.pick(&BACKGROUNDS);
    let phrasing = rng.below(2);
    let statement = |order: Ordering| match (phrasing, order) {
        (0, Ordering::Less) => "The force is stronger in Pair 1.",
        (0, Ordering::Greater) => "The force is stronger in Pair 2.",
        (0, Ordering::Equal) => "The force is the same in both pairs.",
        (_, Ordering::Less) => "Pair 1",
        (_, Ordering::Greater) => "Pair 2",
        (_, Ordering::Equal) => "both pull the same",
    };
    let order = first.cmp(&second);
    let wrong = [Ordering::Less, Ordering::Equal, Ordering::Greater]
        .into_iter()
        .filter(|&other| other != order)
        .map(|other| statement(other).to_owned())
        .collect();
    let options = Options::arrange(rng, turn, statement(order).to_owned(), wrong);

    let (comparison, finding) = match (order, phrasing) {
        (Ordering::Less, 0) => ("The distance is smaller in Pair 1.", "the force is stronger in Pair 1"),
        (Ordering::Less, _) => ("The distance is smaller in Pair 1.", "Pair 1 pulls harder"),
        (Ordering::Greater, 0) => ("The distance is smaller in Pair 2.", "the force is stronger in Pair 2"),
        (Ordering::Greater, _) => ("The distance is smaller in Pair 2.", "Pair 2 pulls harder"),
        (Ordering::Equal, 0) => {
            ("The distance is the same in both pairs.", "the force is the same in both pairs")
        }
        (Ordering::Equal, _) => ("The distance is the same in both pairs.", "both pull the same"),
    };
    let start = match phrasing {
        0 => "Magnets that are closer together pull with a stronger force.",
        _ => "The closer two magnets are, the harder they pull.",
    };
    let question = match phrasing {
        0 => "Think about the force between the magnets in each pair. Which statement is true?",
        _ => "Which pair of magnets pulls harder?",
    };
    let solution = vec![
        start.to_owned(),
        format!("The magnets in Pair 1 are {first} cm apart."),
        format!("The magnets in Pair 2 are {second} cm apart."),
        comparison.to_owned(),
        options.conclusion(finding),
    ];
    Draft { question: question.to_owned(), options, solution, picture: Some(picture(&pairs, background)) }
}

/// Distances of 1 to 4 cm; first nearer, second nearer and both alike come up equally often.
fn distances(rng: &mut Rng) -> (usize, usize) {
    let (low, high) = loop {
        let (a, b) = (rng.between(1, 4), rng.between(1, 4));
        if a < b {
            break (a, b);
        }
    };
    match rng.below(3) {
        0 => (low, high),
        1 => (high, low),
        _ => {
            let both = rng.between(1, 4);
            (both, both)
        }
    }
}

fn picture(pairs: &[Pair; 2], background: Colour) -> Canvas {
    let mut canvas = Canvas::new(background);
    for (number, pair) in (1..).zip(pairs) {
        let top = (number - 1) * 64;
        let gap = pair.distance as i32 * CENTIMETRE;
        canvas.text(2, top + 4, &format!("PAIR {number}"), Colour::Black);
        magnet(&mut canvas, 2, top + 16, pair.north_first);
        magnet(&mut canvas, 2 + 2 * POLE + gap, top + 16, pair.north_first);
        let (left, right, y) = (2 + 2 * POLE, 1 + 2 * POLE + gap, top + 46);
        canvas.rectangle(left, y, gap, 1, Colour::Black);
        canvas.rectangle(left, y - 3, 1, 7, Colour::Black);
        canvas.rectangle(right, y - 3, 1, 7, Colour::Black);
        canvas.text_around(left + gap / 2, top + 55, &format!("{} CM", pair.distance), Colour::Black);
    }
    canvas
}

fn magnet(canvas: &mut Canvas, x: i32, y: i32, north_first: bool) {
    let poles = [("N", Colour::Red), ("S", Colour::Blue)];
    let poles = if north_first { poles } else { [poles[1], poles[0]] };
    for (at, (letter, colour)) in (0..).zip(poles) {
        canvas.rectangle(x + at * POLE, y, POLE, 24, colour);
        canvas.text_around(x + at * POLE + POLE / 2, y + 12, letter, Colour::White);
    }
}
