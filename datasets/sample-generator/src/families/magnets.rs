//! Which of two pairs of magnets pulls harder, by the distance between the magnets of a pair.

use super::{BACKGROUNDS, CELL, Draft, Family, Options, Turn};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;
use std::cmp::Ordering;

pub(super) const FAMILY: Family = Family {
    name: "magnets",
    counts: [80, 13, 40],
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
/// Width of a magnet, half a cell, so that a distance of an odd number of centimetres puts the other magnet into the
/// same place of another cell.
const MAGNET: i32 = 16;
const DISTANCES: [usize; 3] = [1, 3, 5];

/// A pair of magnets that attract each other.
#[derive(Clone, Copy)]
struct Pair {
    distance: usize,
    north_first: bool,
}

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let answer = turn.place(3);
    let order = [Ordering::Less, Ordering::Greater, Ordering::Equal][answer];
    let (first, second) = loop {
        let (first, second) = (rng.pick(&DISTANCES), rng.pick(&DISTANCES));
        if first.cmp(&second) == order {
            break (first, second);
        }
    };
    let pairs = [first, second].map(|distance| Pair { distance, north_first: rng.below(2) == 0 });
    let background = rng.pick(&BACKGROUNDS);
    let options = Options::fixed(&["Pair 1", "Pair 2", "both the same"], answer);
    let (comparison, finding) = [
        ("The distance is smaller in Pair 1.", "Pair 1 pulls harder"),
        ("The distance is smaller in Pair 2.", "Pair 2 pulls harder"),
        ("The distances are equal.", "the force is in both the same"),
    ][answer];
    let question = match rng.below(2) {
        0 => "In which pair is the force between the magnets stronger?",
        _ => "Which pair of magnets pulls harder?",
    };
    let solution = vec![
        "Magnets that are closer together pull harder.".to_owned(),
        format!("The magnets in Pair 1 are {first} cm apart."),
        format!("The magnets in Pair 2 are {second} cm apart."),
        comparison.to_owned(),
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
        let y = top + 38;
        canvas.rectangle(left + MAGNET, y, gap, 1, Colour::Black);
        canvas.rectangle(left + MAGNET, y - 3, 1, 7, Colour::Black);
        canvas.rectangle(right - 1, y - 3, 1, 7, Colour::Black);
        canvas.text_around(left + MAGNET + gap / 2, top + 47, &format!("{}CM", pair.distance), Colour::Black);
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
