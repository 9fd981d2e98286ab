//! A problem with its options in another order: the same question with other letters. It teaches a student with few training
//! problems that the letter belongs to the option's text, not to its position.

use schemas::Problem;

/// The problem with its options in `order` (the new list takes option `order[0]` first). The letters in brackets of the
/// solution, such as `(B)`, follow their options.
pub fn reordered(problem: &Problem, order: &[usize]) -> Problem {
    let mut other = problem.clone();
    other.choices = order.iter().filter_map(|&old| problem.choices.get(old).cloned()).collect();
    let place = |old: usize| order.iter().position(|&taken| taken == old);
    other.answer_index =
        problem.answer_index.and_then(|index| place(index.into()).and_then(|place| u8::try_from(place).ok()));
    let bytes = problem.solution.as_bytes();
    other.solution = problem
        .solution
        .char_indices()
        .map(|(at, character)| {
            let in_brackets = at > 0 && bytes[at - 1] == b'(' && bytes.get(at + 1) == Some(&b')');
            if !in_brackets || !character.is_ascii_uppercase() {
                return character;
            }
            let old = usize::from(character as u8 - b'A');
            place(old).map_or(character, |new| char::from(b'A' + new as u8))
        })
        .collect();
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_follow_their_options() {
        let problem = Problem {
            choices: vec!["sand".into(), "milk".into(), "air".into()],
            answer_index: Some(1),
            solution: "(A) is solid (as is B). Milk is a liquid, the answer is (B), not (C) or (D).".into(),
            ..crate::data::prompt::tests::problem()
        };
        let other = reordered(&problem, &[1, 2, 0]);
        assert_eq!(other.choices, ["milk", "air", "sand"]);
        assert_eq!(other.answer_index, Some(0));
        assert_eq!(
            other.solution,
            "(C) is solid (as is B). Milk is a liquid, the answer is (A), not (B) or (D)."
        );
        assert_eq!(reordered(&problem, &[0, 1, 2]).solution, problem.solution);
    }
}
