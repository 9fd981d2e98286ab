//! The JSON objects in a text.

use crate::teacher::lenient;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Maximum number of opening braces, more than in any real reply; limits the work for a malicious one.
const MOST_TRIES: usize = 200;

/// Maximum depth of the answer inside other objects: `{"result": {"scores": …}}`.
const DEEPEST: u32 = 3;

/// An object in a text.
#[derive(Debug)]
pub(super) struct Object {
    /// Its contents.
    pub(super) fields: Map<String, Value>,
    /// Keys that occur twice, with different values.
    pub(super) contradictions: Vec<String>,
}

/// The objects found in a text.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Objects from left to right, without those inside others.
    pub(super) whole: Vec<Object>,
    /// The text after the last of them.
    pub(super) rest: String,
    /// The last broken object: the number of objects before it, its text, and the error.
    pub(super) broken: Option<(usize, String, String)>,
}

impl Objects {
    /// Finds the objects. Objects inside a broken one are ignored, since their context is unknown.
    pub(super) fn of(text: &str) -> Self {
        let text = lenient::with_whole_escapes(text);
        let mut found = Self::default();
        let mut from = 0;
        let mut end = 0;
        for _ in 0..MOST_TRIES {
            let Some(at) = text.get(from..).and_then(|rest| rest.find('{')) else { break };
            let start = from + at;
            let rest = text.get(start..).unwrap_or_default();
            match lenient::prefix::<Object>(rest) {
                Ok((object, length)) => {
                    found.whole.push(object);
                    from = start + length;
                    end = from;
                }
                // Not JSON: braces in prose or in a template.
                Err(_) if !rest.get(1..).is_some_and(|inside| inside.trim_start().starts_with('"')) => {
                    from = start + 1;
                }
                Err(why) => {
                    let length = extent(rest);
                    let broken = rest.get(..length).unwrap_or(rest).to_owned();
                    found.broken = Some((found.whole.len(), broken, why));
                    from = start + length;
                }
            }
        }
        text.get(end..).unwrap_or_default().clone_into(&mut found.rest);
        found
    }
}

impl Object {
    /// The object, then objects among its values, down to a maximum depth. Lists are skipped: they contain
    /// parts of an answer, not answers.
    pub(super) fn with_inner(&self) -> Vec<&Map<String, Value>> {
        fn collect<'a>(fields: &'a Map<String, Value>, depth: u32, all: &mut Vec<&'a Map<String, Value>>) {
            all.push(fields);
            if depth > 0 {
                for inner in fields.values().filter_map(Value::as_object) {
                    collect(inner, depth - 1, all);
                }
            }
        }
        let mut all = Vec::new();
        collect(&self.fields, DEEPEST, &mut all);
        all
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object { fields: Map::new(), contradictions: Vec::new() };
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let again = object.fields.get(&name).is_some_and(|before| *before != value);
                    if again {
                        object.contradictions.push(name.clone());
                    }
                    object.fields.insert(name, value);
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Length of a text that begins with a brace, up to the matching one; the whole text if there is none.
fn extent(text: &str) -> usize {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{') => depth += 1,
            (false, b'}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<Vec<String>> {
        Objects::of(text).whole.iter().map(|object| object.fields.keys().cloned().collect()).collect()
    }

    #[test]
    fn objects_are_found_in_chatter() {
        assert_eq!(
            names("Sure {not json}! ```json\n{\"a\":1}\n{\"b\":2,}``` {\"c\":\"x\ny\"}"),
            [["a"], ["b"], ["c"]]
        );
        assert_eq!(names("{{\"a\":1}}"), [["a"]], "braces of a template");
        assert_eq!(Objects::of("{\"a\":1}\n```").rest, "\n```");
    }

    #[test]
    fn objects_inside_broken_ones_are_none() {
        assert!(names("{\"before\":{\"a\":1},\"a\":2").is_empty());
        let found = Objects::of("{\"x\":1} {\"before\":{\"a\":1}, …} {\"b\":2}");
        assert_eq!(found.whole.len(), 2);
        let (before, text, _) = found.broken.unwrap();
        assert_eq!((before, text.as_str()), (1, "{\"before\":{\"a\":1}, …}"));
    }

    #[test]
    fn contradictions_are_noticed() {
        let object = |text: &str| Objects::of(text).whole.remove(0).contradictions;
        assert_eq!(object("{\"a\":1,\"b\":1,\"a\":2}"), ["a"]);
        assert!(object("{\"a\":1,\"a\":1}").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\{|\\}|\"|a|:|,|\\[|\\]|\\\\|é|1| ){0,40}") {
            let found = Objects::of(&text);
            proptest::prop_assert!(found.whole.len() <= MOST_TRIES);
        }
    }
}
