//! Scores: `{"scores":[{"sentence":1,"score":0.7}, …]}`, every sentence once.

use serde_json::{Map, Value};

/// The example in the instructions, which some models repeat before they answer.
pub(super) const EXAMPLE: [f32; 2] = [0.7, 0.0];

pub(super) fn read(object: &Map<String, Value>, count: usize) -> Result<Vec<f32>, String> {
    let list = object.get("scores").ok_or("`scores` is missing")?.as_array().ok_or("`scores` is no list")?;
    let mut scores: Vec<Option<f32>> = vec![None; count];
    for entry in list {
        let entry = entry.as_object().ok_or("an entry of `scores` is no object")?;
        let number = entry.get("sentence").ok_or("an entry has no `sentence`")?;
        let index = index(number).ok_or_else(|| format!("{number} is no sentence number"))?;
        let place = index.checked_sub(1).and_then(|place| scores.get_mut(place));
        let place = place.ok_or_else(|| format!("there is no sentence {index}, only 1 to {count}"))?;
        let score = entry.get("score").ok_or_else(|| format!("sentence {index} has no `score`"))?;
        let Some(value) = number_of(score) else {
            return Err(format!("the score of sentence {index} is {score}, not a number"));
        };
        if !(0.0..=1.0).contains(&value) {
            return Err(format!("the score of sentence {index} is {score}, not within 0.0 and 1.0"));
        }
        if place.replace(value as f32).is_some() {
            return Err(format!("sentence {index} is scored twice"));
        }
    }
    let scores =
        scores.iter().zip(1..).map(|(score, number)| score.ok_or(format!("sentence {number} has no score")));
    scores.collect()
}

/// A number, or a text that is one.
pub(super) fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        other => other.as_f64(),
    }
}

/// A sentence's number: `1`, `1.0` or `"1"`.
pub(super) fn index(value: &Value) -> Option<usize> {
    let number = number_of(value).filter(|number| number.fract() == 0.0)?;
    (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as usize)
}
