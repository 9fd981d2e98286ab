//! Lists written as text, such as `["a", "b"]`, in JSON or as Python prints them.

/// The texts of such a list; `None` if the text is no list of texts.
pub(super) fn list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if !(text.starts_with('[') && text.ends_with(']')) {
        return None;
    }
    serde_json::from_str(text).ok().or_else(|| python(text))
}

/// Texts in single or double quotes, with the escapes of Python's `repr`.
fn python(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.chars().peekable();
    let mut items = Vec::new();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        match rest.next()? {
            ']' => break,
            quote @ ('\'' | '"') => items.push(quoted(&mut rest, quote)?),
            _ => return None,
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        match rest.next()? {
            ',' => {}
            ']' => break,
            _ => return None,
        }
    }
    rest.next().is_none().then_some(items)
}

fn quoted(rest: &mut impl Iterator<Item = char>, quote: char) -> Option<String> {
    let mut item = String::new();
    loop {
        match rest.next()? {
            c if c == quote => return Some(item),
            '\\' => item.push(match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'x' => code(rest, 2)?,
                'u' => code(rest, 4)?,
                'U' => code(rest, 8)?,
                c @ ('\\' | '\'' | '"') => c,
                _ => return None,
            }),
            c => item.push(c),
        }
    }
}

/// The character with a hexadecimal code.
fn code(rest: &mut impl Iterator<Item = char>, digits: usize) -> Option<char> {
    let digits: String = rest.take(digits).collect();
    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn lists_of_both_languages() {
        let read = |text: &str| list(text).map(|items| items.join("|"));
        for (text, expected) in [
            (r#"["a", "b\n\u00e9"]"#, "a|b\né"),
            ("['a', \"it's\", 'x\\'y', 'é\\xe9\\u2013\\\\']", "a|it's|x'y|éé–\\"),
            (" ['one' , 'two',] ", "one|two"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(list("[]"), Some(Vec::new()));
        for text in ["", "a", "[a]", "['a' 'b']", "['a", "['a'] b", "[1]", "['\\q']", "('a', 'b')"] {
            assert_eq!(list(text), None, "{text}");
        }
    }
}
