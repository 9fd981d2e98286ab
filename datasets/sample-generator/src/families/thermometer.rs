//! Reading a thermometer.

use super::{BACKGROUNDS, Draft, Family, Options, Turn, listed};
use crate::canvas::{Canvas, Colour};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "thermometer",
    counts: [90, 15, 45],
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

/// Marks from 0 to 35 °C, a mark each 5 °C.
const MARKS: usize = 8;

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let mark = rng.below(MARKS);
    let (name, liquid) = rng.pick(&[("red", Colour::Red), ("blue", Colour::Blue)]);
    let background = rng.pick(&BACKGROUNDS);
    let others: Vec<usize> = (0..MARKS).filter(|&other| other != mark).collect();
    let count = rng.between(2, 3);
    let others = rng.sample(&others, count);
    let options =
        Options::arrange(rng, turn, label(mark), others.iter().map(|&other| label(other)).collect());

    let misses: Vec<String> = options
        .wrong()
        .map(|choice| {
            let low = others.iter().any(|&other| other < mark && label(other) == *choice);
            format!("{choice} is too {}", if low { "low" } else { "high" })
        })
        .collect();
    let phrasing = rng.below(2);
    let start = match phrasing {
        0 => format!("Find the top of the {name} liquid."),
        _ => format!("Look at how high the {name} liquid stands."),
    };
    let question = match phrasing {
        0 => "What temperature does this thermometer show?",
        _ => "Select the temperature shown by this thermometer.",
    };
    let solution = vec![
        start,
        format!("The top of the liquid is at the mark for {}.", mark * 5),
        format!("Of the others, {}.", listed(&misses, "and")),
        options.conclusion(&format!("the temperature is {}", label(mark))),
    ];
    Draft {
        question: question.to_owned(),
        options,
        solution,
        picture: Some(picture(mark, liquid, background)),
    }
}

fn label(mark: usize) -> String {
    format!("{} °C", mark * 5)
}

fn picture(mark: usize, liquid: Colour, background: Colour) -> Canvas {
    let height = |mark: usize| 94 - 12 * mark as i32;
    let mut canvas = Canvas::new(background);
    canvas.rectangle(42, 5, 28, 100, Colour::Grey);
    canvas.circle(56, 110, 17, Colour::Grey);
    canvas.rectangle(44, 7, 24, 98, Colour::White);
    canvas.circle(56, 110, 15, liquid);
    canvas.rectangle(44, height(mark), 24, 105 - height(mark), liquid);
    for at in 0..MARKS {
        let long = at % 2 == 0;
        canvas.rectangle(72, height(at), if long { 10 } else { 6 }, 1, Colour::Black);
        if long {
            canvas.text(87, height(at) - 3, &format!("{}", at * 5), Colour::Black);
        }
    }
    canvas.text(108, 4, "°C", Colour::Black);
    canvas
}
