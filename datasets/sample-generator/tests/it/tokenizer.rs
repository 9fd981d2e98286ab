//! The shipped tokenizer.

use crate::{folder, problems};
use schemas::Problem;
use tokenizers::Tokenizer;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(folder().join("tokenizer/tokenizer.json")).unwrap()
}

fn length(tokenizer: &Tokenizer, text: &str) -> usize {
    tokenizer.encode(text, false).unwrap().len()
}

fn lettered(problem: &Problem) -> String {
    let options = problem.choices.iter().zip('A'..).map(|(choice, letter)| format!("({letter}) {choice}"));
    options.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_special_tokens_are_those_of_t5() {
    let tokenizer = tokenizer();
    assert_eq!(
        ["<pad>", "</s>", "<unk>"].map(|token| tokenizer.token_to_id(token)),
        [Some(0), Some(1), Some(2)]
    );
    let ids = tokenizer.encode("The answer is (B).", true).unwrap().get_ids().to_vec();
    assert_eq!(ids.last(), Some(&1));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "The answer is (B).");
}

#[test]
fn the_vocabulary_is_small() {
    let size = tokenizer().get_vocab_size(true);
    assert!((450..=1000).contains(&size), "{size} pieces");
}

#[test]
fn all_texts_survive_encoding() {
    let tokenizer = tokenizer();
    for problem in problems() {
        let texts = [&problem.question, &problem.hint, &problem.caption, &problem.lecture, &problem.solution];
        for text in texts.into_iter().chain(&problem.choices) {
            let ids = tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec();
            assert!(!ids.contains(&2), "{}: {text}", problem.problem_id);
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), *text, "{}", problem.problem_id);
        }
    }
}

#[test]
fn prompts_and_foreign_words_survive_encoding() {
    let tokenizer = tokenizer();
    for text in [
        "Question: Which? Context: N/A Options: (A) one (B) two (C) three (D) four (E) five Solution:",
        "Solution: The answer is (E). Answer:",
        "An unusual zebra's \"stripes\" aren't 1.5 cm, are they; no – 37 % of 2,048!",
        r"The first line.\nThe second line.",
    ] {
        let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    let folded = tokenizer.encode("Question: Which?\n  Context: N/A", true).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&folded, true).unwrap(), "Question: Which? Context: N/A");
}

#[test]
fn digits_letters_of_options_and_full_stops_stand_alone() {
    let tokenizer = tokenizer();
    let encoding = tokenizer.encode("(B) 25 °C is the red town.", false).unwrap();
    let pieces = ["▁(", "B", ")", "▁2", "5", "▁°", "C", "▁is", "▁the", "▁red", "▁town", "."];
    assert_eq!(encoding.get_tokens(), pieces);
}

#[test]
fn texts_are_short() {
    let tokenizer = tokenizer();
    for problem in problems() {
        let asked = length(&tokenizer, &format!("{} {}", problem.question, lettered(&problem)));
        assert!(asked < 60, "{}: question and options have {asked} tokens", problem.problem_id);
        let solution = length(&tokenizer, &problem.solution);
        assert!(solution < 75, "{}: {solution} tokens: {}", problem.problem_id, problem.solution);
    }
}
