//! Similarity of rationales to gold solutions: ROUGE-L and BLEU, as computed by the Python packages.

use std::collections::HashMap;

/// Longest n-gram of BLEU.
const ORDER: usize = 4;

/// Mean ROUGE-L F1 of pairs of candidate and reference, 0 to 1, as Google's `rouge_score` without a stemmer (Lin, 2004); `None`
/// without pairs.
pub fn rouge_l(pairs: &[(&str, &str)]) -> Option<f64> {
    let sum: f64 = pairs.iter().map(|(candidate, reference)| rouge_l_of(candidate, reference)).sum();
    (!pairs.is_empty()).then(|| sum / pairs.len() as f64)
}

fn rouge_l_of(candidate: &str, reference: &str) -> f64 {
    let (candidate, reference) = (words(candidate), words(reference));
    let common = longest_common_subsequence(&candidate, &reference) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / candidate.len() as f64, common / reference.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Runs of ASCII letters and digits, in lower case.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for left in a {
        let mut diagonal = 0;
        for (place, right) in b.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = if left == right { diagonal + 1 } else { above.max(row[place]) };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Corpus BLEU-4, 0 to 100, as `sacrebleu` by default: 13a tokens, exponential smoothing (Papineni et al., 2002; Post, 2018);
/// `None` without pairs.
pub fn bleu(pairs: &[(&str, &str)]) -> Option<f64> {
    if pairs.is_empty() {
        return None;
    }
    let (mut matches, mut totals) = ([0usize; ORDER], [0usize; ORDER]);
    let (mut length, mut reference_length) = (0, 0);
    for (candidate, reference) in pairs {
        let (candidate, reference) = (tokens_13a(candidate), tokens_13a(reference));
        length += candidate.len();
        reference_length += reference.len();
        for order in 1..=ORDER {
            let mut left = counts(&reference, order);
            for gram in candidate.windows(order) {
                totals[order - 1] += 1;
                if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
                    *count -= 1;
                    matches[order - 1] += 1;
                }
            }
        }
    }
    if length == 0 || matches[0] == 0 {
        return Some(0.0);
    }
    let (mut logs, mut smoothing) = (0.0, 1.0);
    for (matches, total) in matches.iter().zip(totals) {
        if total == 0 {
            return Some(0.0); // no text has an n-gram of this length
        }
        let precision = if *matches == 0 {
            smoothing *= 2.0;
            100.0 / (smoothing * total as f64)
        } else {
            100.0 * *matches as f64 / total as f64
        };
        logs += precision.ln();
    }
    let brevity =
        if length < reference_length { (1.0 - reference_length as f64 / length as f64).exp() } else { 1.0 };
    Some(brevity * (logs / ORDER as f64).exp())
}

fn counts(tokens: &[String], order: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(order) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// Tokens as split by `mteval-v13a.pl`.
fn tokens_13a(text: &str) -> Vec<String> {
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, letter) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, letter);
    }
    let mut apart = String::from(" ");
    for letter in text.chars() {
        let symbol = matches!(letter, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
        apart.extend(if symbol { vec![' ', letter, ' '] } else { vec![letter] });
    }
    apart.push(' ');
    let stop = |letter: char| matches!(letter, '.' | ',');
    let digit = |letter: char| letter.is_ascii_digit();
    let cut = cut_pairs(&apart, |a, b| (!digit(a) && stop(b)).then_some([a, ' ', b, ' ']));
    let cut = cut_pairs(&cut, |a, b| (stop(a) && !digit(b)).then_some([' ', a, ' ', b]));
    let cut = cut_pairs(&cut, |a, b| (digit(a) && b == '-').then_some([a, ' ', b, ' ']));
    cut.split_whitespace().map(str::to_owned).collect()
}

/// Replaces pairs of characters from left to right; pairs do not overlap.
fn cut_pairs(text: &str, replacement: impl Fn(char, char) -> Option<[char; 4]>) -> String {
    let mut cut = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letters.peek().and_then(|next| replacement(letter, *next)) {
            Some(pair) => {
                cut.extend(pair);
                letters.next();
            }
            None => cut.push(letter),
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        candidates: Vec<String>,
        references: Vec<String>,
        rouge_l: f64,
        bleu: f64,
    }

    #[test]
    fn agrees_with_rouge_score_and_sacrebleu() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../tests/reference/values/text_metrics.json"))
                .expect("cases");
        assert!(cases.len() >= 5);
        for (number, case) in cases.iter().enumerate() {
            let candidates = case.candidates.iter().map(String::as_str);
            let pairs: Vec<(&str, &str)> =
                candidates.zip(case.references.iter().map(String::as_str)).collect();
            let (rouge, bleu) = (rouge_l(&pairs).expect("pairs"), bleu(&pairs).expect("pairs"));
            assert!((rouge - case.rouge_l).abs() < 1e-9, "case {number}: ROUGE-L {rouge}, {}", case.rouge_l);
            assert!((bleu - case.bleu).abs() < 1e-9, "case {number}: BLEU {bleu}, {}", case.bleu);
        }
    }

    #[test]
    fn nothing_has_no_score() {
        assert_eq!((rouge_l(&[]), bleu(&[])), (None, None));
    }
}
