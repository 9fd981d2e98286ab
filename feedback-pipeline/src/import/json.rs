//! JSON from third parties: read completely, with the location of every error.
//!
//! Unlike `serde_json::Value`, a [`Node`] keeps the order of keys and refuses duplicate keys, and the errors
//! of a [`Record`] name the record, the field and what was expected.

use super::split::SPLITS;
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// A short description of the value for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => {
                let start: String = text.chars().take(40).collect();
                let more = if start.len() < text.len() { "…" } else { "" };
                format!("the text `{}{more}`", start.replace('\n', " "))
            }
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Node, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Node, A::Error> {
        let mut fields: Vec<(String, Node)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(serde::de::Error::custom(format_args!("key `{key}` appears twice")));
            }
            fields.push((key, entries.next_value()?));
        }
        Ok(Node::Object(fields))
    }
}

/// Reads a file of UTF-8 text, without a byte order mark.
pub(super) fn read_text(path: &Path) -> Result<String> {
    if path.is_dir() {
        return Err(Error::bad_input(path.display().to_string(), "expected a file, found a folder"));
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    if schemas::file::is_pointer(&bytes) {
        let message = format!("expected text, found {}", schemas::file::POINTER);
        return Err(Error::bad_input(path.display().to_string(), message));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
            Err(Error::bad_input(
                path.display().to_string(),
                format!("line {line}: expected UTF-8 text, found another encoding"),
            ))
        }
    }
}

/// Parses JSON text; errors have line and column.
pub(super) fn parse(text: &str, place: &str) -> Result<Node> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let at = format!(" at line {} column {}", error.line(), error.column());
        let what = message.strip_suffix(&at).unwrap_or(&message);
        Error::bad_input(place, format!("line {}, column {}: {what}", error.line(), error.column()))
    })
}

/// Parses one line of JSONL, whose location already contains the line.
pub(super) fn parse_line(line: &str, place: &str) -> Result<Node> {
    serde_json::from_str(line).map_err(|error| {
        let message = error.to_string();
        let at = format!(" at line {} column {}", error.line(), error.column());
        Error::bad_input(
            place,
            format!("column {}: {}", error.column(), message.strip_suffix(&at).unwrap_or(&message)),
        )
    })
}

/// Reads a file that holds one JSON value.
pub(super) fn read(path: &Path) -> Result<Node> {
    parse(&read_text(path)?, &path.display().to_string())
}

/// The entries of the object that a file consists of.
pub(super) fn read_object(path: &Path) -> Result<Vec<(String, Node)>> {
    match read(path)? {
        Node::Object(entries) => Ok(entries),
        other => Err(mismatch(&path.display().to_string(), "a JSON object", &other)),
    }
}

/// "expected …, found …" at a place.
pub(super) fn mismatch(place: &str, expected: &str, found: &Node) -> Error {
    Error::bad_input(place, format!("expected {expected}, found {}", found.describe()))
}

/// One object with its location.
pub(super) struct Record<'a> {
    place: String,
    fields: &'a [(String, Node)],
}

impl<'a> Record<'a> {
    /// A record at a place, for instance "problems.json, problem `17`".
    pub(super) fn new(place: String, node: &'a Node) -> Result<Self> {
        match node {
            Node::Object(fields) => Ok(Self { place, fields }),
            other => Err(mismatch(&place, "an object", other)),
        }
    }

    /// The place, for messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Names of all fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    /// The field, if present and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        self.fields.iter().find(|(key, node)| key == name && *node != Node::Null).map(|(_, node)| node)
    }

    /// An error about a field.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: impl fmt::Display) -> Error {
        Error::bad_input(self.place.clone(), format!("`{name}`: expected {expected}, found {found}"))
    }

    fn need(&self, name: &str, expected: &str) -> Result<&'a Node> {
        self.get(name).ok_or_else(|| {
            let found = if self.names().any(|key| key == name) { "null" } else { "none" };
            self.wrong(name, expected, found)
        })
    }

    /// A text that may be missing or null.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<String>> {
        match self.get(name) {
            None => Ok(None),
            Some(Node::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(name, "a text", other.describe())),
        }
    }

    /// A text; empty if it is missing or null.
    pub(super) fn text_or_empty(&self, name: &str) -> Result<String> {
        Ok(self.optional_text(name)?.unwrap_or_default())
    }

    /// A required text.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        match self.need(name, "a text")? {
            Node::Text(text) => Ok(text.clone()),
            other => Err(self.wrong(name, "a text", other.describe())),
        }
    }

    /// A required text that is not empty.
    pub(super) fn filled_text(&self, name: &str) -> Result<String> {
        let text = self.text(name)?;
        if text.trim().is_empty() { Err(self.wrong(name, "a text", "an empty one")) } else { Ok(text) }
    }

    /// A list of texts; `None` if it is missing or null.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(node) = self.get(name) else { return Ok(None) };
        let Node::List(items) = node else {
            return Err(self.wrong(name, "a list of texts", node.describe()));
        };
        let texts = items.iter().enumerate().map(|(index, item)| match item {
            Node::Text(text) => Ok(text.clone()),
            other => Err(self.wrong(&format!("{name}[{index}]"), "a text", other.describe())),
        });
        texts.collect::<Result<Vec<_>>>().map(Some)
    }

    /// The options of a problem: 1 to 26 texts, since answers are read as one letter.
    pub(super) fn choices(&self, name: &str) -> Result<Vec<String>> {
        self.need(name, "a list of texts")?;
        let choices = self.texts(name)?.unwrap_or_default();
        if choices.is_empty() || choices.len() > 26 {
            return Err(self.wrong(name, "1 to 26 choices, (A) to (Z)", choices.len()));
        }
        Ok(choices)
    }

    /// A whole number from 0 that may be missing or null.
    pub(super) fn optional_number(&self, name: &str) -> Result<Option<u64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Node::Number(number)) => match number.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, "a whole number from 0", number)),
            },
            Some(other) => Err(self.wrong(name, "a whole number from 0", other.describe())),
        }
    }

    /// The index of the correct option, which must exist; `None` if it is missing or null.
    pub(super) fn answer_index(&self, name: &str, choices: usize) -> Result<Option<u8>> {
        let Some(number) = self.optional_number(name)? else { return Ok(None) };
        match u8::try_from(number) {
            Ok(index) if usize::from(index) < choices => Ok(Some(index)),
            _ => Err(self.wrong(name, &format!("an index below {choices}, the number of choices"), number)),
        }
    }

    /// A split's name; other common names of the val split are accepted.
    pub(super) fn split(&self, name: &str) -> Result<Option<String>> {
        let split = self.optional_text(name)?.map(|split| match split.as_str() {
            "validation" | "valid" | "dev" => "val".to_owned(),
            _ => split,
        });
        match split {
            Some(split) if !SPLITS.contains(&split.as_str()) => {
                Err(self.wrong(name, "train, val or test", format_args!("`{split}`")))
            }
            split => Ok(split),
        }
    }
}
