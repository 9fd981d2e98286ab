//! The right option of every problem, worked out from the decoded picture and the question's words.

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
            "compare" => compare(&problem),
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

/// The word of a text that stands in a list.
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
    // A town less than half a cell behind would be no clear loser.
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
        std::cmp::Ordering::Less => ["The force is stronger in Pair 1.", "Pair 1"],
        std::cmp::Ordering::Greater => ["The force is stronger in Pair 2.", "Pair 2"],
        std::cmp::Ordering::Equal => ["The force is the same in both pairs.", "both pull the same"],
    };
    Box::new(move |choice| right.contains(&choice))
}

fn thermometer(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    let liquid = [rgb("red"), rgb("blue")].map(|colour| picture.dots(colour).map(|(_, y)| y).min());
    let top = liquid.into_iter().flatten().min().unwrap();
    let marks: Vec<usize> = (0..128).filter(|&y| picture.at(76, y) == [30, 30, 30]).collect();
    assert_eq!(marks.len(), 8, "{}", problem.problem_id);
    let mark = marks.iter().rev().position(|&y| y.abs_diff(top) <= 1).unwrap();
    Box::new(move |choice| choice == format!("{} °C", mark * 5))
}

fn count(problem: &Problem) -> Check {
    let colour = named(&problem.question, &TOWNS)[0];
    let number = Picture::of(problem).patches(rgb(colour), 50).len();
    Box::new(move |choice| choice == number.to_string())
}

fn compare(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    let colours = named(&problem.question, &TOWNS);
    let [one, two] = [0, 1].map(|at| picture.patches(rgb(colours[at]), 50).len());
    let right = match one.cmp(&two) {
        std::cmp::Ordering::Greater => format!("more {} shapes", colours[0]),
        std::cmp::Ordering::Less => format!("more {} shapes", colours[1]),
        std::cmp::Ordering::Equal => "the same number".to_owned(),
    };
    Box::new(move |choice| choice == right)
}

/// Eaters with their colours, and foods, by level and column.
const EATERS: [[(&str, &str); 3]; 2] = [
    [("owl", "red"), ("fox", "blue"), ("snake", "purple")],
    [("mouse", "orange"), ("rabbit", "teal"), ("beetle", "brown")],
];
const FOODS: [[&str; 3]; 2] = [["mouse", "rabbit", "beetle"], ["grass", "clover", "berry"]];
/// Rows of the picture just above the boxes of each level of food.
const FEET: [usize; 2] = [51, 107];

fn food_web(problem: &Problem) -> Check {
    let picture = Picture::of(problem);
    // What the eater of this level eats: the column above which its arrow has its foot.
    let meal = |level: usize, colour: &str| {
        let foot = picture.dots(rgb(colour)).filter(|&(_, y)| y == FEET[level]);
        let (x, _) = middle(foot);
        FOODS[level][(x / 128.0 * 3.0) as usize]
    };
    let meals: Vec<(&str, &str)> = (0..2)
        .flat_map(|level| EATERS[level].map(|(name, colour)| (level, name, colour)))
        .map(|(level, name, colour)| (name, meal(level, colour)))
        .collect();
    let living = ["owl", "fox", "snake", "mouse", "rabbit", "beetle", "grass", "clover", "berry"];
    let asked = named(&problem.question, &living)[0];
    let eater_asked = problem.question.starts_with("Look");
    Box::new(move |choice| {
        let offered = choice.trim_start_matches("the ");
        let pair = if eater_asked { (offered, asked) } else { (asked, offered) };
        meals.contains(&pair)
    })
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
    let asked = named(&problem.question, &["solid", "liquid", "gas"])[0];
    Box::new(move |choice| {
        let state = match choice {
            "air" | "steam" | "helium" | "oxygen" | "neon" | "hydrogen" => "gas",
            "milk" | "juice" | "tea" | "oil" | "honey" | "ink" | "water" | "paint" => "liquid",
            thing if thing.starts_with("a ") => "solid",
            other => panic!("no state known for {other}"),
        };
        state == asked
    })
}
