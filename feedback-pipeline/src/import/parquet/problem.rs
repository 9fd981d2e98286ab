//! Reads a row as a problem.

use super::columns::{Row, Table};
use crate::error::{Error, Result};
use crate::import::ids::derived_id;
use crate::import::json::{Node, Record};
use crate::import::literal;
use crate::import::solution::as_sentences;
use schemas::Problem;

/// Fields that can be mapped to a column.
pub(super) const FIELDS: [&str; 16] = [
    "problem_id",
    "split",
    "question",
    "choices",
    "answer_index",
    "hint",
    "caption",
    "lecture",
    "solution",
    "image",
    "subject",
    "topic",
    "category",
    "skill",
    "grade",
    "source",
];

/// A problem, still without the path of its picture.
pub(super) struct Checked {
    pub(super) problem: Problem,
    /// Its row, for messages.
    pub(super) place: String,
    /// Whether the id was derived from the row's contents.
    pub(super) is_derived: bool,
    /// Extension of the picture.
    pub(super) extension: String,
}

/// Reads a row. `of_file` is the split of its file, and `picture` the hash of its picture.
///
/// # Errors
/// What is wrong, with the row and the column.
pub(super) fn read(
    table: &Table,
    row: &Row<'_>,
    place: &str,
    of_file: Option<&str>,
    source: &str,
    picture: &[u8; 32],
) -> Result<Checked> {
    let mut fields = Vec::with_capacity(FIELDS.len());
    for name in FIELDS.into_iter().filter(|name| *name != "image" && table.has(name)) {
        let node = row.node(name).map_err(|found| {
            let message =
                format!("`{}`: expected text, numbers or lists of them, found {found}", table.shown(name));
            Error::bad_input(place, message)
        })?;
        let node = match name {
            "choices" => choices(node),
            "solution" => solution(node),
            "answer_index" | "split" => node,
            _ => as_text(node),
        };
        fields.push((table.shown(name).to_owned(), node));
    }
    let shown = |name: &'static str| table.shown(name);
    let node = Node::Object(fields);
    let record = Record::new(place.to_owned(), &node)?;
    let Some(split) =
        of_file.map(|split| Ok(Some(split.to_owned()))).unwrap_or_else(|| record.split(shown("split")))?
    else {
        let message = "cannot tell the split: expected files named train-*.parquet, validation-*.parquet or \
                       test-*.parquet, a column `split`, or `import parquet --split`";
        return Err(Error::bad_input(place, message));
    };
    let choices = record.choices(shown("choices"))?;
    let answer_index = answer(&record, shown("answer_index"), &choices, &split)?;
    if answer_index.is_none() && split != "test" {
        return Err(record.wrong(shown("answer_index"), "the index of the correct choice", "none"));
    }
    let (question, hint) = (record.filled_text(shown("question"))?, record.text_or_empty(shown("hint"))?);
    let given = record.optional_text(shown("problem_id"))?;
    let is_derived = given.is_none();
    let problem_id = given.unwrap_or_else(|| derived_id(&split, &question, &choices, &hint, picture));
    let problem = Problem {
        problem_id,
        answer_index,
        question,
        choices,
        hint,
        caption: record.text_or_empty(shown("caption"))?,
        lecture: record.text_or_empty(shown("lecture"))?,
        solution: record.text_or_empty(shown("solution"))?,
        image: None,
        subject: record.optional_text(shown("subject"))?,
        topic: record.optional_text(shown("topic"))?,
        category: record.optional_text(shown("category"))?,
        skill: record.optional_text(shown("skill"))?,
        grade: record.optional_text(shown("grade"))?,
        source: record.optional_text(shown("source"))?.unwrap_or_else(|| source.to_owned()),
        split,
    };
    Ok(Checked { problem, place: place.to_owned(), is_derived, extension: String::new() })
}

/// Numbers in text columns are read as they would be printed.
fn as_text(node: Node) -> Node {
    match node {
        Node::Number(number) => Node::Text(number.to_string()),
        other => other,
    }
}

/// Also accepted as lists of texts: lists written as text, structs with a list `text` (and labels beside it),
/// structs of options, and lists with trailing nulls.
fn choices(node: Node) -> Node {
    match node {
        Node::Text(text) => match literal::list(&text) {
            Some(items) => Node::List(items.into_iter().map(Node::Text).collect()),
            None => Node::Text(text),
        },
        Node::List(mut items) => {
            while items.last().is_some_and(|item| *item == Node::Null) {
                items.pop();
            }
            Node::List(items.into_iter().map(as_text).collect())
        }
        Node::Object(fields) => {
            let are_letters =
                fields.iter().zip('A'..='Z').all(|((name, _), letter)| *name == letter.to_string());
            if are_letters {
                return choices(Node::List(fields.into_iter().map(|(_, node)| node).collect()));
            }
            match fields.iter().find(|(name, node)| name == "text" && matches!(node, Node::List(_))) {
                Some((_, list)) => choices(list.clone()),
                None => Node::Object(fields),
            }
        }
        other => other,
    }
}

/// A list of rationales is joined to one text.
fn solution(node: Node) -> Node {
    let Node::List(items) = &node else { return as_text(node) };
    let texts = items.iter().map(|item| if let Node::Text(text) = item { Some(text.clone()) } else { None });
    match texts.collect::<Option<Vec<String>>>() {
        Some(texts) => Node::Text(as_sentences(&texts)),
        None => node,
    }
}

/// The correct option: its index, its letter, or its text. Publishers hide the answers of a test split as null, −1 or an
/// empty text.
fn answer(record: &Record<'_>, name: &str, choices: &[String], split: &str) -> Result<Option<u8>> {
    let text = match record.get(name) {
        Some(Node::Number(number)) if split == "test" && number.as_i64() == Some(-1) => return Ok(None),
        Some(Node::Text(text)) => text.trim(),
        _ => return record.answer_index(name, choices.len()),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let mut same =
        choices.iter().enumerate().filter(|(_, choice)| choice.trim() == text).map(|(index, _)| index);
    let by_text = same.next().filter(|_| same.next().is_none());
    let letter = text.trim_matches(['(', ')', '.', ' ']);
    let by_letter = ('A'..='Z').take(choices.len()).position(|option| letter == option.to_string());
    let by_number = text.parse::<usize>().ok().filter(|index| *index < choices.len());
    let index = match (by_text, by_letter.or(by_number)) {
        (Some(one), Some(other)) if one != other => {
            let found =
                format!("`{text}`, which names option {} and is the text of option {}", other + 1, one + 1);
            return Err(record.wrong(name, "one of the options", found));
        }
        (Some(index), _) | (None, Some(index)) => index,
        (None, None) => {
            let expected = "the index, the letter or the text of an option";
            return Err(record.wrong(name, expected, Node::Text(text.to_owned()).describe()));
        }
    };
    Ok(u8::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_every_form() {
        let options = ["cat", "dog", "B"].map(str::to_owned);
        let read = |node: Node, split: &str| {
            let node = Node::Object(vec![("answer".to_owned(), node)]);
            let record = Record::new("row".to_owned(), &node).unwrap();
            answer(&record, "answer", &options, split).map_err(|error| error.to_string())
        };
        let text = |text: &str| Node::Text(text.to_owned());
        for (node, expected) in [
            (Node::Number(1.into()), Some(1)),
            (text("A"), Some(0)),
            (text("(C)"), Some(2)),
            (text(" dog "), Some(1)),
            (text("2"), Some(2)),
            (text(""), None),
            (Node::Null, None),
        ] {
            assert_eq!(read(node, "train"), Ok(expected));
        }
        assert_eq!(read(Node::Number((-1).into()), "test"), Ok(None));
        for (node, found) in [
            (Node::Number((-1).into()), "expected a whole number from 0, found -1"),
            (Node::Number(3.into()), "expected an index below 3, the number of choices, found 3"),
            (
                text("B"),
                "expected one of the options, found `B`, which names option 2 and is the text of option 3",
            ),
            (text("bird"), "expected the index, the letter or the text of an option, found the text `bird`"),
        ] {
            assert_eq!(read(node, "train"), Err(format!("row: `answer`: {found}")));
        }
    }

    #[test]
    fn options_in_every_form() {
        let text = |text: &str| Node::Text(text.to_owned());
        let two = Node::List(vec![text("1"), text("b")]);
        let list = Node::List(vec![Node::Number(1.into()), text("b"), Node::Null]);
        for node in [
            list.clone(),
            text("['1', 'b']"),
            Node::Object(vec![("label".to_owned(), text("A")), ("text".to_owned(), list.clone())]),
            Node::Object(vec![
                ("A".to_owned(), text("1")),
                ("B".to_owned(), text("b")),
                ("C".to_owned(), Node::Null),
            ]),
        ] {
            assert_eq!(choices(node), two);
        }
        assert_eq!(choices(text("1, b")), text("1, b"));
    }
}
