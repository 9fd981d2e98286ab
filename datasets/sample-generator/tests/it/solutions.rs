//! Gold solutions: two to six sentences, each ending in a full stop, the last naming the right option.

use crate::{answer, problems};
use schemas::sentences::{sentences, without_repeats};
use std::collections::BTreeMap;

#[test]
fn solutions_have_two_to_six_sentences_and_name_the_right_option() {
    for problem in problems().iter().filter(|problem| !problem.solution.is_empty()) {
        let id = &problem.problem_id;
        let sentences = sentences(&problem.solution);
        assert!((2..=6).contains(&sentences.len()), "{id}: {sentences:?}");
        assert!(sentences.iter().all(|sentence| sentence.ends_with('.')), "{id}: {sentences:?}");
        assert_eq!(sentences.join(" "), problem.solution, "{id}");
        assert_eq!(without_repeats(&sentences), sentences, "{id}");

        let last = sentences[sentences.len() - 1].to_lowercase();
        let letter = char::from(b'a' + problem.answer_index.unwrap());
        assert!(last.ends_with(&format!("the answer is ({letter}).")), "{id}: {last}");
        let choice = problem.choices[answer(problem)].to_lowercase();
        assert!(last.contains(choice.trim_end_matches('.')), "{id}: {last}");
        let earlier = &problem.solution[..problem.solution.len() - last.len()];
        assert!(!earlier.contains("the answer is"), "{id}: {earlier}");
    }
}

#[test]
fn captions_hints_and_lectures_do_not_tell_the_answer() {
    // Texts shared by a whole family must not reveal anything about one of its problems.
    let mut by_family = BTreeMap::new();
    for problem in problems() {
        let texts = (problem.caption.clone(), problem.hint.clone(), problem.lecture.clone());
        let first = by_family.entry(crate::family(&problem).to_owned()).or_insert_with(|| texts.clone());
        assert_eq!(*first, texts, "{}", problem.problem_id);
    }
}
