//! The correct option of every problem, derived from the decoded picture and the question's words.

use crate::picture::{Picture, middle, rgb};
use crate::{answer, family, problems};
use schemas::Problem;

#[test]
fn every_answer_is_what_the_picture_shows() {
    for problem in problems() {
        let right: Box<dyn Fn(&str) -> bool> = match family(&problem) {
            "map" => map(&problem),
            "magnets" => magnets(&problem),
            "thermometer" => thermometer(&problem),
            "count" => count(&problem),
            "foodweb" => food_web(&problem),
            "dictionary" => dictionary(&problem),
            "matter" => matter(&problem),
            other => panic!("no check for family {other}"),
        };
        let fitting: Vec<usize> =
            (0..problem.choices.len()).filter(|&at| right(&problem.choices[at])).collect();
        assert_eq!(fitting, [answer(&problem)], "{}", problem.problem_id);
    }
}

#[test]
fn pictures_are_large_enough() {
    for problem in problems().iter().filter(|problem| problem.image.is_some()) {
        let picture = Picture::of(problem);
        assert_eq!((picture.width, picture.height), (128, 128), "{}", problem.problem_id);
    }
}

type Check = Box<dyn Fn(&str) -> bool>;

/// The word of a text that is in a list.
fn named<'a>(text: &str, words: &[&'a str]) -> Vec<&'a str> {
    let split = text.split(|character: char| !character.is_alphanumeric());
    split.filter_map(|word| words.iter().find(|known| **known == word).copied()).collect()
}

const TOWNS: [&str; 4] = ["red", "blue", "green", "yellow"];

fn map(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    let direction = named(&problem.question, &["north", "south", "east", "west"])[0];
    let reach = move |choice: &str| {
        let (x, y) = middle(picture.dots(rgb(named(choice, &TOWNS)[0])));
        match direction {
            "north" => -y,
            "south" => y,
            "west" => -x,
            _ => x,
        }
    };
    let choices = problem.choices.clone();
    let farthest = choices.iter().map(|choice| reach(choice)).fold(f64::MIN, f64::max);
    // If the next town were less than half a cell behind, the answer would not be clear.
    Box::new(move |choice| reach(choice) > farthest - 16.0)
}

fn magnets(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    let pole = |dot| dot == rgb("red") || dot == rgb("blue");
    let gaps = [20, 84].map(|y| {
        let poles: Vec<usize> = (0..128).filter(|&x| pole(picture.at(x, y))).collect();
        poles.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    });
    let right = match gaps[0].cmp(&gaps[1]) {
        std::cmp::Ordering::Less => "Pair 1",
        std::cmp::Ordering::Greater => "Pair 2",
        std::cmp::Ordering::Equal => "both the same",
    };
    Box::new(move |choice| choice == right)
}

fn thermometer(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    let liquid = [rgb("red"), rgb("blue")].map(|colour| picture.dots(colour).map(|(_, y)| y).min());
    let top = liquid.into_iter().flatten().min().unwrap();
    // The marks are black lines to the right of the tube, which is in either half.
    let marks = [34, 98].map(|x| (0..128).filter(|&y| picture.at(x, y) == [30, 30, 30]).collect::<Vec<_>>());
    let marks = marks.into_iter().find(|marks| !marks.is_empty()).unwrap();
    assert_eq!(marks.len(), 4, "{}", problem.problem_id);
    let mark = marks.iter().rev().position(|&y| y.abs_diff(top) <= 1).unwrap();
    Box::new(move |choice| choice == format!("{} °C", mark * 10))
}

fn count(problem: &Problem) -> Check {
    let colour = named(&problem.question, &TOWNS)[0];
    let number = Picture::of(problem).patches(rgb(colour), 50).len();
    Box::new(move |choice| choice == number.to_string())
}

const HUNTERS: [(&str, &str); 4] = [("owl", "red"), ("fox", "blue"), ("hawk", "green"), ("snake", "orange")];
const FOODS: [&str; 4] = ["mouse", "frog", "bird", "vole"];
/// Rows of the picture just above the foods and just below the hunters.
const FOOT: usize = 96;
const TIP: usize = 29;

fn food_web(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    let column = |colour: &str, row: usize| {
        let (x, _) = middle(picture.dots(rgb(colour)).filter(|&(_, y)| y == row));
        (x / 32.0) as usize
    };
    let asked = named(&problem.question, &HUNTERS.map(|(name, _)| name))[0];
    let (at, (_, colour)) = HUNTERS.iter().enumerate().find(|(_, hunter)| hunter.0 == asked).unwrap();
    assert_eq!(column(colour, TIP), at, "{}: the arrow points to its hunter", problem.problem_id);
    let food = FOODS[column(colour, FOOT)];
    Box::new(move |choice| choice == format!("the {food}"))
}

fn dictionary(problem: &Problem) -> Check {
    let question = problem.question.replace(['?', '.', ','], "");
    let words: Vec<&str> = question.split(' ').collect();
    let and = words.iter().position(|word| *word == "and").unwrap();
    let (from, to) = (words[and - 1].to_owned(), words[and + 1].to_owned());
    assert!(from < to);
    Box::new(move |choice| from.as_str() < choice && choice < to.as_str())
}

fn matter(problem: &Problem) -> Check {
    const LIQUIDS: [&str; 10] =
        ["milk", "juice", "tea", "oil", "honey", "ink", "water", "paint", "rain", "vinegar"];
    const GASES: [&str; 10] =
        ["air", "steam", "helium", "oxygen", "neon", "hydrogen", "nitrogen", "propane", "methane", "ozone"];
    const SOLIDS: [&str; 10] =
        ["rock", "coin", "spoon", "brick", "pencil", "plate", "nail", "shell", "cup", "key"];
    let states = [("a liquid", LIQUIDS), ("a gas", GASES), ("a solid", SOLIDS)];
    let fits = |(_, things): &&(&str, [&str; 10])| !named(&problem.question, things).is_empty();
    let fitting: Vec<&str> = states.iter().filter(fits).map(|(state, _)| *state).collect();
    assert_eq!(fitting.len(), 1, "{}", problem.question);
    let state = fitting[0];
    Box::new(move |choice| choice == state)
}
