//! Corrected rationales: what is right stays, what is wrong becomes the gold sentence that fits, the
//! conclusion is there.

use super::grade::{Grade, grades};
use super::key::Key;
use super::words::{align, words};
use schemas::{Problem, sentences};

/// Repairs are repeated until nothing changes; where that takes longer, the solution itself is the answer.
const MOST_PASSES: usize = 4;

/// The repaired rationale. Repairing it again changes nothing.
pub(super) fn repair(problem: &Problem, rationale: &str) -> String {
    let key = Key::new(problem);
    let again = |text: &str| join(&key, &pass(&key, &sentences::sentences(text)));
    let resolve = |text: &str| {
        let mut text = again(text);
        for _ in 0..MOST_PASSES {
            let repaired = again(&text);
            if repaired == text {
                return Ok(text);
            }
            text = repaired;
        }
        Err(text)
    };
    resolve(rationale).or_else(|_| resolve(&problem.solution)).unwrap_or_else(|text| text)
}

/// A sentence of the repaired rationale and the gold sentence it corresponds to.
struct Line {
    text: String,
    gold: Option<usize>,
    inserted: bool,
}

/// One repair of all sentences.
fn pass(key: &Key, texts: &[&str]) -> Vec<String> {
    let grades = grades(key, texts);
    if key.gold.is_empty() {
        // Nothing is known, so nothing can be wrong.
        let new = texts.iter().zip(&grades).filter(|(_, grade)| !grade.repeated);
        return new.map(|(text, _)| (*text).to_owned()).collect();
    }
    let right = grades.iter().filter(|grade| grade.tenths >= 6).count();
    if right == 0 {
        return from_gold(key, texts, &grades);
    }
    let mut present = vec![false; key.gold.len()];
    for grade in &grades {
        if grade.keeps()
            && let Some(gold) = grade.gold
        {
            present[gold] = true;
        }
    }
    let mut repaired: Vec<Line> = Vec::with_capacity(texts.len() + 1);
    for (text, grade) in texts.iter().zip(&grades) {
        if grade.keeps() {
            repaired.push(Line { text: (*text).to_owned(), gold: grade.gold, inserted: false });
        } else if !grade.repeated
            && let Some(gold) = replacement(key, text, *grade, &present)
        {
            present[gold] = true;
            repaired.push(Line { text: key.gold[gold].text.clone(), gold: Some(gold), inserted: true });
        }
    }
    in_solution_order(key, &mut repaired);
    if let Some(conclusion) = key.conclusion
        && !present[conclusion]
    {
        // In the solution's order: before the first sentence that comes later there.
        let place = repaired.iter().position(|line| line.gold.is_some_and(|gold| gold > conclusion));
        let line = Line { text: key.gold[conclusion].text.clone(), gold: Some(conclusion), inserted: true };
        repaired.insert(place.unwrap_or(repaired.len()), line);
    }
    repaired.into_iter().map(|line| line.text).collect()
}

/// Puts the inserted sentences, among themselves, into the solution's order.
fn in_solution_order(key: &Key, lines: &mut [Line]) {
    let mut inserted: Vec<usize> =
        lines.iter().filter(|line| line.inserted).filter_map(|line| line.gold).collect();
    inserted.sort_unstable();
    for (line, gold) in lines.iter_mut().filter(|line| line.inserted).zip(inserted) {
        line.text.clone_from(&key.gold[gold].text);
        line.gold = Some(gold);
    }
}

/// Nothing right was said: the solution, after the starting point if that was fair.
fn from_gold(key: &Key, texts: &[&str], grades: &[Grade]) -> Vec<String> {
    let start = texts
        .first()
        .zip(grades.first())
        .filter(|(_, grade)| grade.keeps())
        .map(|(text, _)| (*text).to_owned());
    start.into_iter().chain(key.gold.iter().map(|gold| gold.text.clone())).collect()
}

/// The gold sentence that was meant, or else the most similar one, among those not said yet.
fn replacement(key: &Key, text: &str, grade: Grade, present: &[bool]) -> Option<usize> {
    let free = |index: &usize| !present[*index];
    if let Some(gold) = grade.gold.filter(|gold| free(gold)) {
        return Some(gold);
    }
    let said = words(text);
    let similarity = |index: usize| align(&said, &key.gold[index].words).similarity;
    // The first of the most similar, so that gold sentences come in their order.
    (0..key.gold.len())
        .filter(free)
        .map(|index| (similarity(index), index))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, index)| index)
}

/// The sentences with the solution's own line breaks, or one per line if they would run together.
fn join(key: &Key, lines: &[String]) -> String {
    let in_lines = key.gold.iter().any(|gold| gold.new_line);
    let mut text = String::new();
    for line in lines {
        let gold = key.gold.iter().find(|gold| gold.text == *line);
        if !text.is_empty() {
            text.push(if gold.map_or(in_lines, |gold| gold.new_line) { '\n' } else { ' ' });
        }
        text.push_str(line);
    }
    if sentences::sentences(&text) == lines { text } else { lines.join("\n") }
}
