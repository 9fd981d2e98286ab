//! Who eats whom, by the arrows of a food web.

use super::{Draft, Family, Options, Turn, listed};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "foodweb",
    counts: [90, 15, 45],
    subject: "natural science",
    topic: "biology",
    category: "Ecosystems",
    skill: "Interpret food webs",
    grade: "grade7",
    hint: "Each arrow points from the food to the animal that eats it.",
    caption: "A food web with plants and animals.",
    lecture: "A food web shows how living things get their food. An arrow begins at the living thing that is eaten, \
        and points to the animal that eats it. Plants do not eat other living things, so no arrow points to a plant.",
    draw,
};

type Node = (&'static str, &'static str, Colour);

/// Living things from the top of the picture to the bottom: name, name of the colour, colour. Each arrow has
/// the colour of the animal that it points to.
const LEVELS: [[Node; 3]; 3] = [
    [("owl", "red", Colour::Red), ("fox", "blue", Colour::Blue), ("snake", "purple", Colour::Purple)],
    [
        ("mouse", "orange", Colour::Orange),
        ("rabbit", "teal", Colour::Teal),
        ("beetle", "brown", Colour::Brown),
    ],
    [
        ("grass", "green", Colour::Green),
        ("clover", "green", Colour::Green),
        ("berry", "green", Colour::Green),
    ],
];
/// Middle of each column, and upper edge of each level's boxes.
const COLUMNS: [i32; 3] = [20, 64, 108];
const TOPS: [i32; 3] = [0, 56, 112];
const BOX: (i32, i32) = (40, 16);
/// An arrow starts from a foot on top of the food's box.
const FOOT: (i32, i32) = (12, 10);

/// What each eater eats: for the two upper levels, by the eater's column, the column of its food a level below.
type Meals = [[usize; 3]; 2];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let phrasing = rng.below(2);
    let (meals, level, eater, food) = loop {
        let meals: Meals = [0; 2].map(|_| [0; 3].map(|_| rng.below(3)));
        let (level, eater) = (rng.below(2), rng.below(3));
        let food = meals[level][eater];
        let eaters = meals[level].iter().filter(|&&meal| meal == food).count();
        // The question for the eater needs one that has its food for itself.
        if phrasing == 0 || eaters == 1 {
            break (meals, level, eater, food);
        }
    };
    let names = |level: usize| LEVELS[level].map(|node| format!("the {}", node.0));
    let (hunter, colour, _) = LEVELS[level][eater];
    let eaten = LEVELS[level + 1][food].0;
    let finding = format!("the {hunter} eats the {eaten}");
    let (candidates, right) = if phrasing == 0 { (names(level + 1), food) } else { (names(level), eater) };
    let mut wrong: Vec<String> = candidates.to_vec();
    let right = wrong.remove(right);
    if rng.below(4) == 0 {
        let dropped = rng.below(wrong.len());
        wrong.remove(dropped);
    }
    let options = Options::arrange(rng, turn, right, wrong);
    let others: Vec<&String> = options.wrong().collect();
    let others = listed(&others, "or");

    let (question, mut solution) = if phrasing == 0 {
        (
            format!("What does the {hunter} eat in this food web?"),
            vec![
                format!("Find the {hunter} in the food web."),
                format!("The arrow to the {hunter} is {colour}."),
                format!("The {colour} arrow comes from the {eaten}."),
                format!("No {colour} arrow comes from {others}."),
            ],
        )
    } else {
        (
            format!("Look at the food web. Which animal eats the {eaten}?"),
            vec![
                format!("Find the {eaten} in the food web."),
                format!("The arrow from the {eaten} is {colour}."),
                format!("The {colour} arrow points to the {hunter}."),
                format!("No arrow goes from the {eaten} to {others}."),
            ],
        )
    };
    solution.push(options.conclusion(&finding));
    Draft { question, options, solution, picture: Some(picture(&meals)) }
}

fn picture(meals: &Meals) -> Canvas {
    let mut canvas = Canvas::new(Colour::White);
    for (level, nodes) in LEVELS.iter().enumerate() {
        for (column, &(name, _, colour)) in nodes.iter().enumerate() {
            canvas.rectangle(COLUMNS[column] - BOX.0 / 2, TOPS[level], BOX.0, BOX.1, colour);
            canvas.text_around(COLUMNS[column], TOPS[level] + BOX.1 / 2, name, Colour::White);
        }
    }
    for (level, meals) in meals.iter().enumerate() {
        for (eater, &food) in meals.iter().enumerate() {
            // Arrows from the same food start side by side.
            let foot = (COLUMNS[food] + (eater as i32 - 1) * 13, TOPS[level + 1]);
            let tip = (COLUMNS[eater], TOPS[level] + BOX.1);
            arrow(&mut canvas, foot, tip, LEVELS[level][eater].2);
        }
    }
    canvas
}

/// An arrow upwards from a foot.
fn arrow(canvas: &mut Canvas, foot: (i32, i32), tip: (i32, i32), colour: Colour) {
    canvas.rectangle(foot.0 - FOOT.0 / 2, foot.1 - FOOT.1, FOOT.0, FOOT.1, colour);
    canvas.line((foot.0, foot.1 - FOOT.1), (tip.0, tip.1 + 9), 4, colour);
    canvas.triangle([(tip.0, tip.1 + 1), (tip.0 - 8, tip.1 + 10), (tip.0 + 8, tip.1 + 10)], colour);
}
