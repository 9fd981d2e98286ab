//! Words of a sentence, in the form in which the reference Teacher compares them.

/// One word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Word {
    /// Lower case, without a plural or third-person s; labels (`sample A`) stay upper case.
    pub(super) text: String,
    /// What the word does in a sentence.
    pub(super) kind: WordKind,
    /// Written with a capital other than at the sentence's beginning.
    pub(super) name: bool,
}

/// What a word does in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum WordKind {
    /// Function words: articles, pronouns, prepositions, auxiliaries.
    Function,
    /// Negates the sentence.
    Negation,
    /// Numbers, ordinals, labels such as the A in `sample A`.
    Number,
    /// Everything else.
    Content,
}

const FUNCTION: &str = "\
    a an the of to in on at by for from with as is are was were be been being am it its this that these \
    those and or but so then than which who whom whose what when where while there here has have had having \
    do does did doing done can could will would may might must should shall also each other some any i you \
    he she we they them him her his their our your my me us if because since though although however \
    therefore thus very too just such into onto about over through during between against one ones own \
    itself themselves himself herself how why s t let up out off again once like called";

const NEGATIONS: &str = "not no never cannot none nothing nobody neither nor without hardly";

const NUMBERS: &str = "\
    zero two three four five six seven eight nine ten eleven twelve hundred thousand million billion first \
    second third fourth fifth sixth seventh eighth ninth tenth half double triple";

/// The words of a sentence, in order.
pub(super) fn words(sentence: &str) -> Vec<Word> {
    let mut raw = Vec::new();
    let mut start = None;
    for (at, char) in sentence.char_indices() {
        let inside = match (start, char) {
            (_, c) if c.is_alphanumeric() || c == '°' => true,
            // 1.5, 10,000, don't, well-known: a mark between two letters or digits belongs to the word.
            (Some(_), '.' | ',') => neighbours(sentence, at, char, |c| c.is_ascii_digit()),
            (Some(_), '\'' | '’' | '-') => neighbours(sentence, at, char, char::is_alphanumeric),
            _ => false,
        };
        match (inside, start) {
            (true, None) => start = Some(at),
            (false, Some(begin)) => {
                raw.push(&sentence[begin..at]);
                start = None;
            }
            _ => {}
        }
    }
    if let Some(begin) = start {
        raw.push(&sentence[begin..]);
    }
    let mut words = Vec::with_capacity(raw.len());
    for (index, text) in raw.iter().enumerate() {
        words.push(word(text, index == 0, raw.get(index + 1).copied()));
    }
    sort_pairs(&mut words);
    words
}

fn neighbours(sentence: &str, at: usize, mark: char, fits: impl Fn(char) -> bool) -> bool {
    let before = sentence[..at].chars().next_back();
    let after = sentence[at + mark.len_utf8()..].chars().next();
    before.is_some_and(&fits) && after.is_some_and(&fits)
}

fn word(raw: &str, first: bool, next: Option<&str>) -> Word {
    let lower = raw.to_lowercase().replace('’', "'");
    let mut chars = raw.chars();
    let capital = chars.next().is_some_and(char::is_uppercase);
    let single = chars.next().is_none();
    let article = raw == "A" && first && next.is_some_and(|next| next.starts_with(char::is_lowercase));
    if capital && single && raw != "I" && !article {
        return Word { text: raw.to_owned(), kind: WordKind::Number, name: false };
    }
    let kind = if is_listed(NEGATIONS, &lower) || lower.ends_with("n't") {
        WordKind::Negation
    } else if lower.contains(|c: char| c.is_ascii_digit()) || is_listed(NUMBERS, &lower) {
        WordKind::Number
    } else if is_listed(FUNCTION, &lower) {
        WordKind::Function
    } else {
        WordKind::Content
    };
    let text = if kind == WordKind::Content { stem(&lower) } else { lower };
    Word { text, kind, name: capital && !first }
}

/// The word without possessive and plural or third-person s.
pub(super) fn stem(lower: &str) -> String {
    let word = lower.strip_suffix("'s").unwrap_or(lower);
    if word.len() > 4 && word.ends_with("ies") {
        return format!("{}y", &word[..word.len() - 3]);
    }
    if word.len() > 4
        && (word.ends_with("ches")
            || word.ends_with("shes")
            || word.ends_with("sses")
            || word.ends_with("xes"))
    {
        return word[..word.len() - 2].to_owned();
    }
    let keeps = ["ss", "us", "is", "os"].iter().any(|end| word.ends_with(end));
    if word.len() > 3 && word.ends_with('s') && !keeps {
        word[..word.len() - 1].to_owned()
    } else {
        word.to_owned()
    }
}

/// `swirl and twirl` says the same as `twirl and swirl`.
fn sort_pairs(words: &mut [Word]) {
    for middle in 1..words.len().saturating_sub(1) {
        let joins = matches!(words[middle].text.as_str(), "and" | "or");
        let alone =
            words[middle - 1].kind == WordKind::Content && words[middle + 1].kind == WordKind::Content;
        if joins && alone && words[middle - 1].text > words[middle + 1].text {
            words.swap(middle - 1, middle + 1);
        }
    }
}

pub(super) fn is_listed(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|listed| listed == word)
}

/// How much a word counts when sentences are compared.
pub(super) fn weight(word: &Word) -> f32 {
    if word.kind == WordKind::Function { 0.25 } else { 1.0 }
}

/// A stretch where two sentences differ: words of the one, words of the other.
pub(super) type Difference<'a> = (&'a [Word], &'a [Word]);

/// How similar two sentences are, and where they differ.
#[derive(Debug, Clone)]
pub(super) struct Alignment<'a> {
    /// 0 nothing in common, 1 the same words.
    pub(super) similarity: f32,
    /// Where they differ, in order.
    pub(super) differences: Vec<Difference<'a>>,
}

/// Aligns two sentences by their longest common run of words in order, heavier words first.
pub(super) fn align<'a>(a: &'a [Word], b: &'a [Word]) -> Alignment<'a> {
    let mut best = vec![0f32; (a.len() + 1) * (b.len() + 1)];
    let at = |i: usize, j: usize| i * (b.len() + 1) + j;
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            let skip = best[at(i + 1, j)].max(best[at(i, j + 1)]);
            best[at(i, j)] =
                if a[i].text == b[j].text { skip.max(best[at(i + 1, j + 1)] + weight(&a[i])) } else { skip };
        }
    }
    let (mut i, mut j) = (0, 0);
    let (mut start_a, mut start_b) = (0, 0);
    let (mut matches, mut chunks) = (0usize, 0usize);
    let mut joined = false;
    let mut differences = Vec::new();
    while i < a.len() && j < b.len() {
        if a[i].text == b[j].text && best[at(i, j)] == best[at(i + 1, j + 1)] + weight(&a[i]) {
            if i > start_a || j > start_b {
                differences.push((&a[start_a..i], &b[start_b..j]));
                joined = false;
            }
            chunks += usize::from(!joined);
            joined = true;
            matches += 1;
            (i, j) = (i + 1, j + 1);
            (start_a, start_b) = (i, j);
        } else if best[at(i + 1, j)] >= best[at(i, j + 1)] {
            i += 1;
        } else {
            j += 1;
        }
    }
    if start_a < a.len() || start_b < b.len() {
        differences.push((&a[start_a..], &b[start_b..]));
    }
    let total: f32 = a.iter().chain(b).map(weight).sum();
    let shared = best.first().copied().unwrap_or_default();
    // Scattered common words are less similar than the same words in one piece.
    let scattered = if matches == 0 { 0.0 } else { (chunks - 1) as f32 / matches as f32 };
    let similarity = if total > 0.0 { 2.0 * shared / total * (1.0 - 0.5 * scattered.powi(2)) } else { 0.0 };
    Alignment { similarity, differences }
}
