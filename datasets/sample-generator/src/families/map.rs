//! Farthest north, south, east or west among the towns on a map with a compass rose.

use super::{COLOURS, Draft, Family, Options, Turn, listed};
use crate::canvas::{Canvas, Colour, SIZE};
use crate::rng::Rng;

pub(super) const FAMILY: Family = Family {
    name: "map",
    counts: [120, 20, 60],
    subject: "social science",
    topic: "geography",
    category: "Geography",
    skill: "Read a map: cardinal directions",
    grade: "grade2",
    hint: "Rows are counted from the top of the map, columns from the left.",
    caption: "A map with four towns and a compass rose.",
    lecture: "Maps have four main directions: north, south, east, and west. A compass rose shows where they point. \
        On most maps, north is at the top and east is on the right.",
    draw,
};

/// Towns stand in the middle of cells, four rows by four columns; the compass rose has the upper right one.
const CELL: i32 = SIZE / 4;

struct Direction {
    name: &'static str,
    side: &'static str,
    /// Rows matter for north and south, columns for east and west.
    by_row: bool,
    smallest: bool,
}

const DIRECTIONS: [Direction; 4] = [
    Direction { name: "north", side: "North is at the top of the map.", by_row: true, smallest: true },
    Direction { name: "south", side: "South is at the bottom of the map.", by_row: true, smallest: false },
    Direction { name: "west", side: "West is on the left of the map.", by_row: false, smallest: true },
    Direction { name: "east", side: "East is on the right of the map.", by_row: false, smallest: false },
];

#[derive(Clone, Copy)]
struct Town {
    name: &'static str,
    colour: Colour,
    row: usize,
    column: usize,
}

impl Town {
    fn place(&self, direction: &Direction) -> usize {
        if direction.by_row { self.row } else { self.column }
    }

    fn label(&self) -> String {
        format!("the {} town", self.name)
    }

    fn observation(&self, direction: &Direction) -> String {
        let line = if direction.by_row { "row" } else { "column" };
        format!("The {} town is in {line} {}.", self.name, self.place(direction) + 1)
    }
}

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let direction = &DIRECTIONS[rng.below(DIRECTIONS.len())];
    let (towns, asked, farthest) = loop {
        let towns = found_towns(rng);
        let count = rng.between(3, 4);
        let asked = rng.sample(&towns, count);
        let places = asked.iter().map(|town| town.place(direction));
        let best = if direction.smallest { places.min() } else { places.max() };
        let mut ahead = asked.iter().filter(|town| Some(town.place(direction)) == best);
        if let (Some(&farthest), None) = (ahead.next(), ahead.next()) {
            break (towns, asked, farthest);
        }
    };
    let wrong = asked.iter().map(Town::label).filter(|label| *label != farthest.label()).collect();
    let options = Options::arrange(rng, turn, farthest.label(), wrong);

    let phrasing = rng.below(2);
    let mut solution = vec![match phrasing {
        0 => "To find the answer, look at the compass rose.".to_owned(),
        _ => direction.side.to_owned(),
    }];
    for choice in &options.choices {
        solution.extend(
            asked.iter().filter(|town| town.label() == *choice).map(|town| town.observation(direction)),
        );
    }
    if options.choices.len() == 3 {
        let others: Vec<&String> = options.wrong().collect();
        let others = listed(&others, "and").replacen("the", "The", 1);
        solution.push(format!("{others} are not as far {}.", direction.name));
    }
    solution.push(options.conclusion(&format!("{} is farthest {}", farthest.label(), direction.name)));
    let question = match phrasing {
        0 => format!("Which of these towns is farthest {}?", direction.name),
        _ => format!("Look at the map. Which town is farthest to the {}?", direction.name),
    };
    Draft { question, options, solution, picture: Some(picture(&towns)) }
}

/// Four towns in four cells, none under the compass rose.
fn found_towns(rng: &mut Rng) -> [Town; 4] {
    let cells: Vec<usize> = (0..16).filter(|&cell| cell != 3).collect();
    let cells = rng.sample(&cells, 4);
    let mut at = 0;
    COLOURS.map(|(name, colour)| {
        let cell = cells[at];
        at += 1;
        Town { name, colour, row: cell / 4, column: cell % 4 }
    })
}

fn picture(towns: &[Town]) -> Canvas {
    let mut canvas = Canvas::new(Colour::Paper);
    for line in 1..4 {
        canvas.rectangle(line * CELL, 0, 1, SIZE, Colour::Line);
        canvas.rectangle(0, line * CELL, SIZE, 1, Colour::Line);
    }
    for town in towns {
        let (x, y) = (town.column as i32 * CELL + CELL / 2, town.row as i32 * CELL + CELL / 2);
        canvas.circle(x, y, 15, Colour::Black);
        canvas.circle(x, y, 14, town.colour);
        let ink = if town.colour == Colour::Yellow { Colour::Black } else { Colour::White };
        canvas.text_around(x, y, &town.name[..1], ink);
    }
    compass_rose(&mut canvas, SIZE - CELL / 2, CELL / 2);
    canvas
}

fn compass_rose(canvas: &mut Canvas, x: i32, y: i32) {
    canvas.triangle([(x, y - 8), (x - 2, y), (x + 2, y)], Colour::Black);
    canvas.triangle([(x, y + 8), (x - 2, y), (x + 2, y)], Colour::Grey);
    canvas.triangle([(x - 8, y), (x, y - 2), (x, y + 2)], Colour::Grey);
    canvas.triangle([(x + 8, y), (x, y - 2), (x, y + 2)], Colour::Grey);
    canvas.text_around(x, y - 12, "N", Colour::Black);
    canvas.text_around(x, y + 12, "S", Colour::Black);
    canvas.text_around(x - 12, y, "W", Colour::Black);
    canvas.text_around(x + 12, y, "E", Colour::Black);
}
