//! The rules for sentences: where one ends, which two count as the same, and what separates them.
//!
//! The trainer, the importers and the reference Teacher all cut rationales here, so that the third score always belongs
//! to the third sentence. The rules, all derived from real rationales:
//!
//! - A leading `Solution:` is not part of the first sentence.
//! - Separators are real newlines, the two characters `\n`, and the stray `n` that T5 reduces them to (`entity.nSing`): an `n`
//!   right after punctuation and right before a capital, a digit or an opening mark. A separator always ends the sentence, even
//!   after a colon (`It has these traits:nIt has scales.`), so no sentence contains one.
//! - `.`, `!`, `?` and `...` end a sentence if white space follows, including closing brackets and quotes
//!   after them. Lower case may follow, since many rationales begin their sentences so; but after a closing
//!   quote or bracket, lower case continues the sentence (`Choice "Jan." is incorrect.`).
//! - A period does not end a sentence in `Mr.`, `St. Louis`, `U.S. Army`, `J. M. Barrie`, `C. elegans`,
//!   `e.g.`, `1.5`, nor in the `1.` or `A.` that begins a line. It is one in `sample A. So`,
//!   `in the U.S. The`, `8 a.m. The`.
//! - Text without a letter or digit is not a sentence. An unfinished sentence at the end of the text is one.

use std::collections::HashSet;
use std::ops::Range;

/// Titles and similar abbreviations, which a name or a number follows: never an end within a line.
const BEFORE_A_NAME: &str = "Mr Mrs Ms Dr St Mt Ft Prof Rev Gen Sen Gov Capt Lt Sgt Col vs cf ca viz approx";
/// Abbreviations that only a number follows.
const BEFORE_A_NUMBER: &str = "No Nos Fig Figs fig figs Eq Vol vol p pp \
    Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec";
/// Abbreviations that end a sentence as often as not: the next word decides.
const EITHER_WAY: &str = "etc al Jr Sr Inc Ltd Co Corp Ave Blvd";
/// Words before a lone capital that make it a label (`Sample A.`) and not an initial.
const BEFORE_A_LABEL: &str = "\
    Answer Block Box Case Choice Class Column Diagram Event Example Figure Graph Group Hepatitis Image Item \
    Label Letter Magnet Map Model Object Option Organism Pair Panel Part Picture Plan Planet Plant Point Row \
    Sample Section Set Solution Species Statement Step Table Text Type Vitamin Zone";
/// Words that begin sentences and are hardly ever the last name after an initial.
const STARTERS: &str = "\
    a after all also although an and another any as at because before both but by compare does during each \
    either every for from he her here his how however i if in instead is it its like look many most my \
    neither no none not notice now of on one only or other our since so some that the their then there \
    therefore these they this those thus to today use we what when where which while who why with you your";
/// Those that begin a sentence even in lower case.
const LOWER_STARTERS: &str = "he it she so that the there these they this those we you";

/// Byte ranges of the sentences of a rationale, in order, without surrounding separators and white space.
pub fn split(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = label_length(text);
    let mut at = start;
    let mut has_word = false;
    while let Some(char) = char_at(text, at) {
        if let Some(length) = separator_at(text, at) {
            push(text, start..at, has_word, &mut found);
            at += length;
            (start, has_word) = (at, false);
            continue;
        }
        let mark = at;
        at += char.len_utf8();
        has_word |= char.is_alphanumeric();
        if start == mark && char.is_whitespace() {
            start = at;
        }
        if !has_word || !is_terminator(char) {
            continue;
        }
        at += marks_length(&text[at..]);
        if is_end(text, start, mark..at) {
            at += loose_marks_length(&text[at..]);
            push(text, start..at, has_word, &mut found);
            (start, has_word) = (at, false);
        }
    }
    push(text, start..text.len(), has_word, &mut found);
    found
}

/// The sentences of a rationale, in order.
pub fn sentences(text: &str) -> Vec<&str> {
    split(text).into_iter().map(|range| &text[range]).collect()
}

/// The form under which two sentences count as the same: ignoring case, white space and final punctuation.
pub fn repeat_key(sentence: &str) -> String {
    let mut key = String::with_capacity(sentence.len());
    for word in sentence.split_whitespace() {
        if !key.is_empty() {
            key.push(' ');
        }
        key.extend(word.chars().flat_map(char::to_lowercase));
    }
    let is_last = |c: char| is_terminator(c) || is_closer(c) || matches!(c, ',' | ':' | ';' | ' ');
    key.truncate(key.trim_end_matches(is_last).len());
    key
}

/// The first of each group of sentences that count as the same, in order.
pub fn without_repeats<'a>(sentences: &[&'a str]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    sentences.iter().copied().filter(|sentence| seen.insert(repeat_key(sentence))).collect()
}

/// A text without its repeated sentences; the separators between the others are unchanged.
pub fn cut_repeats(text: &str, sentences: &[&str]) -> String {
    let (mut kept, mut seen) = (String::new(), HashSet::new());
    let mut rest = text;
    for sentence in sentences {
        let Some((between, behind)) = rest.split_once(sentence) else { continue };
        rest = behind;
        if seen.insert(repeat_key(sentence)) {
            kept.push_str(if kept.is_empty() { "" } else { between });
            kept.push_str(sentence);
        }
    }
    kept
}

/// The text with every separator, escaped or stray, turned into a real newline.
pub fn restore_newlines(text: &str) -> String {
    let mut restored = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(char) = char_at(text, at) {
        if let Some(length) = separator_at(text, at) {
            restored.push('\n');
            at += length;
        } else {
            restored.push(char);
            at += char.len_utf8();
        }
    }
    restored
}

/// Bytes of white space, separators and `Solution:` labels that the text begins with.
fn label_length(text: &str) -> usize {
    const LABEL: &str = "Solution:";
    let mut at = 0;
    while let Some(char) = char_at(text, at) {
        let rest = &text[at..];
        if rest.get(..LABEL.len()).is_some_and(|label| label.eq_ignore_ascii_case(LABEL)) {
            at += LABEL.len();
        } else if let Some(length) = separator_at(text, at) {
            at += length;
        } else if char.is_whitespace() {
            at += char.len_utf8();
        } else {
            break;
        }
    }
    at
}

/// Bytes of the separator that begins at byte `at`.
fn separator_at(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    match rest.chars().next()? {
        newline @ ('\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}') => {
            Some(newline.len_utf8())
        }
        '\\' if rest[1..].starts_with('n') => Some(2),
        'n' => stray_separator(&text[..at], rest),
        _ => None,
    }
}

/// Bytes of a stray `n` (or a few, of empty lines) in place of a newline.
fn stray_separator(before: &str, rest: &str) -> Option<usize> {
    let mut backwards = before.chars().rev();
    let joins = match backwards.next()? {
        '.' | '!' | '?' | '…' | ':' | ';' | ',' | ')' | ']' => true,
        '"' | '”' => backwards.next().is_some_and(|c| !c.is_whitespace()),
        '\'' | '’' => backwards.next().is_some_and(is_terminator),
        _ => false,
    };
    if !joins {
        return None;
    }
    let length = rest.len() - rest.trim_start_matches('n').len();
    let mut after = rest[length..].trim_start_matches(is_blank).chars();
    let opens = match after.next() {
        None | Some('\n' | '\\' | '"' | '“' | '‘' | '(' | '[' | '.' | '•') => true,
        Some('-' | '*' | '|') => after.next().is_some_and(char::is_whitespace),
        Some(char) => char.is_numeric() || (char.is_alphabetic() && !char.is_lowercase()),
    };
    opens.then_some(length)
}

/// Whether the marks at `marks` (a terminator and what closes after it) end the sentence begun at `start`.
fn is_end(text: &str, start: usize, marks: Range<usize>) -> bool {
    let rest = &text[marks.end..];
    let run = &text[marks.clone()];
    let Some(next) = rest.chars().next() else {
        return true;
    };
    if separator_at(text, marks.end).is_some() || run.ends_with(['。', '！', '？']) {
        return true;
    }
    if !next.is_whitespace() {
        return joins_two_sentences(&text[start..marks.start], rest);
    }
    let gap = rest.len() - rest.trim_start_matches(is_blank).len();
    if gap == rest.len() || separator_at(text, marks.end + gap).is_some() {
        return true;
    }
    let following = &rest[gap..];
    let next = next_word(following);
    if run == "." {
        return !is_abbreviated(&text[start..marks.start], next);
    }
    !(run.ends_with(is_closer) && (starts_lower(next) || following.starts_with('(')))
}

/// Whether a mark without white space after it ends a sentence, as in `earthworm.There`.
fn joins_two_sentences(before: &str, rest: &str) -> bool {
    let two_lower = before.chars().rev().take(2).filter(|c| c.is_lowercase()).count() == 2;
    let mut after = rest.chars();
    two_lower
        && after.next().is_some_and(char::is_uppercase)
        && after.next().is_some_and(|c| c.is_lowercase() || c.is_whitespace() || c == ',')
}

/// Whether a single period after `sentence`, followed by `next` on the same line, only marks an abbreviation.
fn is_abbreviated(sentence: &str, next: &str) -> bool {
    let word = sentence.rsplit(char::is_whitespace).next().unwrap_or_default();
    let before = sentence[..sentence.len() - word.len()].trim_end();
    let word = word.trim_start_matches(is_opener);
    let starts_line = word.len() == sentence.len();

    if starts_line && word.len() <= 3 && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return true;
    }
    if let Some(letter) = only_char(word).filter(|c| c.is_alphabetic()) {
        return letter.is_uppercase() && (starts_line || is_initial(letter, before, next));
    }
    let is_short = |part: &str| (1..=2).contains(&part.len()) && part.chars().all(char::is_alphabetic);
    if word.contains('.') && word.split('.').all(is_short) {
        return is_dotted_abbreviation(word, next);
    }
    if lists(BEFORE_A_NAME, word) {
        return true;
    }
    if lists(BEFORE_A_NUMBER, word) {
        // `No. 5 cups is too little.` answers a question; `room No. 5` does not.
        return starts_digit(next) && !(starts_line && word == "No");
    }
    lists(EITHER_WAY, word) && starts_lower(next) && !lists(LOWER_STARTERS, next)
}

/// Whether a lone capital is the initial of a name or a genus rather than a label or a unit.
fn is_initial(letter: char, before: &str, next: &str) -> bool {
    let previous = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    let beside_initials =
        previous.strip_suffix('.').is_some_and(|p| only_char(p).is_some_and(char::is_uppercase))
            || (only_char(next).is_some_and(char::is_uppercase) && !is_starter(next));
    if beside_initials {
        return !is_starter(next);
    }
    if letter == 'I' {
        return false;
    }
    if starts_lower(next) {
        return !lists(LOWER_STARTERS, next);
    }
    let named =
        previous == "by" || (previous.starts_with(char::is_uppercase) && !lists(BEFORE_A_LABEL, previous));
    named && !starts_digit(next) && !is_starter(next)
}

/// `U.S`, `D.C`, `a.m`, `e.g`, `Ph.D`: whether the sentence continues after them.
fn is_dotted_abbreviation(word: &str, next: &str) -> bool {
    match word.to_ascii_lowercase().as_str() {
        "e.g" | "i.e" => true,
        "a.m" | "p.m" => starts_lower(next),
        _ => !is_starter(next) || starts_lower(next),
    }
}

fn push(text: &str, range: Range<usize>, has_word: bool, found: &mut Vec<Range<usize>>) {
    if has_word {
        found.push(range.start..range.start + text[range].trim_end().len());
    }
}

/// Bytes of the marks directly after a terminator: more terminators, closing brackets and quotes.
fn marks_length(rest: &str) -> usize {
    rest.len() - rest.trim_start_matches(|c| is_terminator(c) || is_closer(c)).len()
}

/// Bytes of separate marks after an end (`It is. . .`), including white space before them.
fn loose_marks_length(rest: &str) -> usize {
    let mut length = 0;
    loop {
        let blank = rest[length..].len() - rest[length..].trim_start_matches(is_blank).len();
        let marks =
            rest[length + blank..].trim_start_matches(|c| is_terminator(c) || matches!(c, ')' | ']' | '”'));
        let end = rest.len() - marks.len();
        let stands_alone = marks.is_empty() || marks.starts_with(char::is_whitespace);
        if blank == 0 || end == length + blank || !stands_alone {
            return length;
        }
        length = end;
    }
}

/// The first word of what follows, without opening marks.
fn next_word(rest: &str) -> &str {
    let rest = rest.trim_start_matches(is_opener);
    let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
    &rest[..end]
}

fn char_at(text: &str, at: usize) -> Option<char> {
    text[at..].chars().next()
}

fn only_char(word: &str) -> Option<char> {
    let mut chars = word.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Whether a list of words has this one.
fn lists(words: &str, word: &str) -> bool {
    words.split_ascii_whitespace().any(|listed| listed == word)
}

fn is_starter(word: &str) -> bool {
    lists(STARTERS, &word.to_lowercase())
}

fn starts_lower(word: &str) -> bool {
    word.starts_with(char::is_lowercase)
}

fn starts_digit(word: &str) -> bool {
    word.starts_with(char::is_numeric)
}

fn is_terminator(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | '。' | '！' | '？')
}

fn is_closer(char: char) -> bool {
    matches!(char, ')' | ']' | '}' | '"' | '\'' | '”' | '’' | '»')
}

fn is_opener(char: char) -> bool {
    matches!(char, '(' | '[' | '{' | '"' | '\'' | '“' | '‘' | '«')
}

/// White space other than a newline.
fn is_blank(char: char) -> bool {
    char.is_whitespace()
        && !matches!(char, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    #[test]
    fn repeats_are_cut_out_and_separators_stay() {
        let text = "Solution: A cat sits. A dog runs.\nA cat  sits. It barks";
        let sentences = ["A cat sits.", "A dog runs.", "A cat  sits.", "It barks"];
        assert_eq!(cut_repeats(text, &sentences), "A cat sits. A dog runs. It barks");
        assert_eq!(cut_repeats(text, &sentences[..2]), "A cat sits. A dog runs.");
        let unlike = ["A cat sits.", "A dog runs."];
        assert_eq!(cut_repeats("A cat sits.\\nA dog runs.", &unlike), "A cat sits.\\nA dog runs.");
    }

    /// The expected sentences are separated by bars.
    #[test]
    fn ends_are_found() {
        let texts = r#"
            Cats purr.| Dogs bark.
            Cats purr.| Dogs bar
            The solution: cats.
            Is it?| Yes!| Then go
            it is red.| it is not blue.
            I am happy...| I have a hat....| Now!?
            It is. . .| The end. .
            Wait…| 等等。|好！|Go
            It is (B).| It is red (or not.)| So "it."| Then.
            Choice "Jan." is wrong.| Choice "Oct." (October) is too.
            . The legend is red.
            (A) is eaten.|The owl is not.
            See example.com or node.js for 1.5 or .5 more.
            Mr. Hyde met Mr. and Mrs. Lee.| Ms. Ito left.
            St. Louis is big.| (Dr. Bo agrees.)| It is on Mt. Ida
            Washington, D.C., is old.| It is in D.C.| It is.
            The U.S. Army left the U.S.A.| They won the U.S. the right.
            By 8 a.m.| The sun is up.| At 9 p.m. it is not.
            A J. M. Barrie novel.| E. E. Cummings wrote.| George W. Bush.
            It added C. rotunda cells.| So did I.| Nobody else did.
            Is it sample A.| So, is it Pair B.| The force is 40 N.| This is it.
            It is 1.5.| Two more are (2.2).| Yes
            Look at Pair 1.| So, 2.| Is it?
            1. Wash it.| 2. Dry it.
            A. Red.| I know it.
            Big cats, e.g. lions, i.e. Leo, etc. are big.| Dogs etc.| The end etc.
            No.| 5 cups.| Take No. 5 on Oct. 3.| It is in Oct.| Yes.
            He met Mr.
            He　met Mr.　Hyde and J. K. Lee.
        "#;
        for marked in texts.lines().map(str::trim) {
            let text = marked.replace('|', "");
            let expected: Vec<_> = marked.split('|').map(str::trim).filter(|s| !s.is_empty()).collect();
            assert_eq!(sentences(&text), expected, "{text:?}");
            assert_eq!(sentences(&format!(" Solution: {text}")), expected, "{text:?}");
        }
    }

    #[test]
    fn separators_are_found() {
        let cases: &[(&str, &[&str])] = &[
            ("One.\nTwo\r\n\r\nThree\u{2028}Four", &["One.", "Two", "Three", "Four"]),
            (r"One.\nTwo.\n\nThree:\nfour", &["One.", "Two.", "Three:", "four"]),
            (
                "A god.nIs it:nIt is!n\"No.\"nAll?n5 cups.nnIt",
                &["A god.", "Is it:", "It is!", "\"No.\"", "All?", "5 cups.", "It"],
            ),
            ("Step 1.n.nUse it:n. The red.n", &["Step 1.", "Use it:", ". The red."]),
            ("Step 1:n- Go.nÉcole (B)nThen", &["Step 1:", "- Go.", "École (B)", "Then"]),
            ("He met Mr.\nThen", &["He met Mr.", "Then"]),
            ("A: nodes, .net, a.net, (n) and \"no\"", &["A: nodes, .net, a.net, (n) and \"no\""]),
            ("A non-A run-On McNamara: 'n Roll", &["A non-A run-On McNamara: 'n Roll"]),
            ("Solution:nA cat", &["A cat"]),
            ("... . !\n\"", &[]),
            ("Solution: \\n \n \\n", &[]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(sentences(text), *expected, "{text:?}");
        }
        assert_eq!(restore_newlines("It is:nA cat.\\nAn on.nnB"), "It is:\nA cat.\nAn on.\nB");
    }

    #[test]
    fn repeats_are_dropped() {
        let sentences =
            ["A cat purrs.", "a  cat purrs", "A cat\tpurrs!\"", "A cat purrs 5%.", "A cat purrs 5."];
        assert_eq!(without_repeats(&sentences), [sentences[0], sentences[3], sentences[4]]);
        assert_eq!(repeat_key(" It IS\u{a0}(so).\" "), "it is (so");
        assert_eq!(repeat_key("..."), "");
    }

    /// Pieces relevant to the rules, in random order.
    #[test]
    fn any_text_is_cut_cleanly() {
        let pieces: Vec<&str> =
            ". ... ! ? \" ” ) ( n nA \\n \\ a The it A I 5 12 Mr St U.S a.m e.g No : , ' é É 中 。 \
            Solution: … - Pair"
                .split_whitespace()
                .chain(["\n", " ", "  ", "\u{2003}"])
                .collect();
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..14 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let mut end = 0;
            for range in split(&text) {
                let sentence = &text[range.clone()];
                assert!(range.start >= end, "{text:?}");
                assert!(sentence.contains(char::is_alphanumeric) && !sentence.contains('\n'), "{text:?}");
                assert_eq!(sentence, sentence.trim(), "{text:?}");
                assert!(!sentence.contains("\\n"), "{text:?}");
                let outside = &text[end..range.start];
                assert!(is_only_between(outside), "{outside:?} of {text:?}");
                if !sentence.starts_with("Solution:") {
                    assert_eq!(sentences(sentence), [sentence], "{text:?}");
                }
                end = range.end;
            }
            assert!(is_only_between(&text[end..]), "{text:?}");
        }
    }

    #[test]
    fn time_grows_with_the_length_alone() {
        let began = Instant::now();
        for piece in
            ["a", ".", "n", " ", "(", "\"", "a. ", "A. ", "Mr. ", ".n", ".nA", "\\n", "a.b.", "U.S. ", ". "]
        {
            let text = piece.repeat(300_000 / piece.len());
            sentences(&text);
            sentences(&format!("a.{text}"));
            restore_newlines(&text);
        }
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    #[cfg_attr(not(real_data), ignore = "needs real data: ARES_REAL_DATA")]
    fn real_rationales_are_cut_into_whole_sentences() {
        let folder = real_data();
        let read = |name: &str| std::fs::read_to_string(folder.join("scienceqa").join(name)).unwrap();
        let rationales: BTreeMap<String, String> =
            serde_json::from_str(&read("mm_cot_rationales_test_half.json")).unwrap();
        let problems: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&read("problems_test_half.json")).unwrap();
        let (mut total, mut lower) = (0, 0);
        for rationale in rationales.values() {
            assert_eq!(restore_newlines(rationale).replace('\n', "n"), *rationale);
            for sentence in sentences(rationale) {
                total += 1;
                lower += usize::from(sentence.starts_with(char::is_lowercase));
                assert!(sentence.split_whitespace().count() <= 60, "{sentence}");
                assert!(sentence.ends_with(['.', '!', '?', ':', '"', ')']), "{sentence}");
            }
        }
        // Lower case begins only what follows an aside in food chains: `…->earthworm. mushroom.`
        assert!(total > 8_000 && lower < 20, "{total} sentences, {lower} in lower case");
        for problem in problems.values() {
            let gold = problem["solution"].as_str().unwrap_or_default();
            for joint in ["n", "\\n"] {
                let joined = gold.replace('\n', joint);
                let restored: Vec<_> = sentences(&joined).iter().map(|s| s.to_string()).collect();
                assert_eq!(restored, sentences(gold), "{joined:?}");
            }
        }
    }

    /// Whether a text between sentences consists of separators, labels, marks and white space only.
    fn is_only_between(text: &str) -> bool {
        let text = text.replace("Solution:", "").replace("\\n", "");
        !text.contains(|c: char| c.is_alphanumeric() && c != 'n')
    }

    /// The folder of real data, which is not part of the repository.
    fn real_data() -> PathBuf {
        let usual = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
        std::env::var_os("ARES_REAL_DATA").map_or_else(usual, PathBuf::from)
    }
}
