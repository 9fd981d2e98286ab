//! Farthest north, south, east or west among the towns on a map with a compass rose.

use super::{CELL, COLOURS, Draft, Family, Options, Turn};
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
    hint: "",
    caption: "A map with four towns and a compass rose.",
    lecture: "Maps have four main directions: north, south, east, and west. A compass rose shows where they point. \
        On most maps, north is at the top and east is on the right.",
    draw,
};

struct Direction {
    name: &'static str,
    edge: &'static str,
    line: &'static str,
    /// Rows matter for north and south, columns for east and west.
    by_row: bool,
    /// The row or column at that edge of the map.
    at: usize,
}

const DIRECTIONS: [Direction; 4] = [
    Direction { name: "north", edge: "at the top", line: "top row", by_row: true, at: 0 },
    Direction { name: "south", edge: "at the bottom", line: "bottom row", by_row: true, at: 3 },
    Direction { name: "west", edge: "on the left", line: "left column", by_row: false, at: 0 },
    Direction { name: "east", edge: "on the right", line: "right column", by_row: false, at: 3 },
];

/// Row and column of each town, in the order of [`COLOURS`]: no two in one row or one column.
type Towns = [(usize, usize); 4];

fn draw(rng: &mut Rng, turn: &Turn) -> Draft {
    let direction = &DIRECTIONS[rng.below(DIRECTIONS.len())];
    let answer = turn.place(COLOURS.len());
    let towns = loop {
        let towns = place_towns(rng);
        let (row, column) = towns[answer];
        let place = if direction.by_row { row } else { column };
        if place == direction.at {
            break towns;
        }
    };
    let (name, side) = (direction.name, direction.edge);
    let label = format!("the {} town", COLOURS[answer].0);
    let options = Options::fixed(&COLOURS.map(|(colour, _)| format!("the {colour} town")), answer);
    let question = format!("Which town is farthest {name}?");
    let solution = vec![
        format!("On this map, {name} is {side}."),
        format!("The town in the {} is {}.", direction.line, COLOURS[answer].0),
        options.conclusion(&format!("{label} is farthest {name}")),
    ];
    Draft { question, options, solution, picture: Some(picture(&towns)) }
}

/// Four towns in four rows and four columns, none under the compass rose.
fn place_towns(rng: &mut Rng) -> Towns {
    loop {
        let (rows, columns) = (rng.sample(&[0, 1, 2, 3], 4), rng.sample(&[0, 1, 2, 3], 4));
        let towns = [0, 1, 2, 3].map(|town| (rows[town], columns[town]));
        if !towns.contains(&(0, 3)) {
            return towns;
        }
    }
}

fn picture(towns: &Towns) -> Canvas {
    let mut canvas = Canvas::new(Colour::Paper);
    for line in 1..4 {
        canvas.rectangle(line * CELL, 0, 1, SIZE, Colour::Line);
        canvas.rectangle(0, line * CELL, SIZE, 1, Colour::Line);
    }
    for (&(row, column), (name, colour)) in towns.iter().zip(COLOURS) {
        let (x, y) = (column as i32 * CELL + CELL / 2, row as i32 * CELL + CELL / 2);
        canvas.rectangle(x - 15, y - 15, 30, 30, Colour::Black);
        canvas.rectangle(x - 14, y - 14, 28, 28, colour);
        let ink = if colour == Colour::Yellow { Colour::Black } else { Colour::White };
        canvas.text_around(x, y, &name[..1], ink);
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
