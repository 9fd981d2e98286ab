//! The reference Teacher: every rule of its grades on hand-written examples, and properties of corrections
//! and judgements.

use crate::import::real_data;
use feedback_pipeline::teacher::reference::{Preference, correct, judge, score};
use proptest::prelude::*;
use schemas::{Problem, sentences};

fn problem(question: &str, choices: &[&str], answer: u8, solution: &str) -> Problem {
    Problem {
        problem_id: "1".to_owned(),
        split: "train".to_owned(),
        question: question.to_owned(),
        choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
        answer_index: Some(answer),
        hint: String::new(),
        caption: String::new(),
        lecture: String::new(),
        solution: solution.to_owned(),
        image: None,
        subject: None,
        topic: None,
        category: None,
        skill: None,
        grade: None,
        source: "test".to_owned(),
    }
}

fn ports() -> Problem {
    let mut problem = problem(
        "Which of these ports is farthest south?",
        &["Hull", "Aberdeen", "Plymouth", "Dover"],
        2,
        "To find the answer, look at the compass rose. Look at which way the south arrow is pointing. Plymouth is farthest south.",
    );
    problem.lecture = "A compass rose shows the directions north, south, east and west.".to_owned();
    problem
}

fn magnets() -> Problem {
    problem(
        "Will these magnets attract or repel each other?",
        &["attract", "repel"],
        1,
        "Look at the poles that are closest to each other.\nThe north pole of one magnet is closest to the north pole of the \
         other. Like poles repel. So, these magnets will repel each other.",
    )
}

fn pairs() -> Problem {
    problem(
        "Where is the force stronger?",
        &["The force is stronger in Pair 1.", "The force is stronger in Pair 2."],
        0,
        "There is a shorter distance between the magnets in Pair 1 than in Pair 2.\nSo, the force is stronger in Pair 1 than in \
         Pair 2. It is 4.5 newtons.",
    )
}

fn one(problem: &Problem, sentence: &str) -> f32 {
    score(problem, &[sentence])[0]
}

#[test]
fn the_solutions_own_sentences_are_right() {
    for problem in [ports(), magnets(), pairs()] {
        let gold = sentences::sentences(&problem.solution);
        assert_eq!(score(&problem, &gold), vec![1.0; gold.len()], "{}", problem.question);
    }
    assert_eq!(one(&ports(), "plymouth is farthest south"), 1.0);
}

#[test]
fn a_paraphrase_is_right_but_not_fully() {
    let said = one(&ports(), "To find the answer, you look at the compass rose on the map.");
    assert!((0.6..1.0).contains(&said), "{said}");
    let said = one(&magnets(), "So, the magnets will repel each other.");
    assert!((0.8..1.0).contains(&said), "{said}");
}

#[test]
fn contradictions_are_wrong() {
    let cases = [
        (ports(), "Dover is farthest south.", "another option"),
        (ports(), "Plymouth is farthest north.", "the opposite direction"),
        (ports(), "Plymouth is not farthest south.", "a negation"),
        (magnets(), "So, these magnets will attract each other.", "the opposite option"),
        (magnets(), "So, these magnets will not repel each other.", "a negation"),
        (
            magnets(),
            "The north pole of one magnet is closest to the south pole of the other.",
            "the opposite pole",
        ),
        (pairs(), "So, the force is stronger in Pair 2 than in Pair 1.", "numbers exchanged"),
        (
            pairs(),
            "There is a longer distance between the magnets in Pair 1 than in Pair 2.",
            "a comparative",
        ),
        (pairs(), "It is 5.5 newtons.", "another number"),
    ];
    for (problem, sentence, what) in cases {
        let said = one(&problem, sentence);
        assert!(said <= 0.2, "{what}: {said} for {sentence}");
    }
}

#[test]
fn letters_and_options_stated_as_the_answer() {
    assert!(one(&ports(), "The answer is (C).") >= 0.7);
    assert_eq!(one(&ports(), "The answer is (A)."), 0.0);
    assert_eq!(one(&ports(), "So, the correct answer is Aberdeen."), 0.0);
    assert!(one(&ports(), "So, the correct answer is Plymouth.") >= 0.3);
}

#[test]
fn another_identity_and_another_label_are_wrong() {
    let animal = problem(
        "Which is a reptile?",
        &["chameleon", "trout"],
        0,
        "A chameleon is a reptile. It has scaly skin.",
    );
    assert!(one(&animal, "A chameleon is an amphibian.") <= 0.2);
    let samples = problem(
        "Which sample is hotter?",
        &["sample A", "sample B"],
        0,
        "The particles in sample A have a higher average speed than the particles in sample B.",
    );
    assert!(
        one(
            &samples,
            "The particles in sample B have a higher average speed than the particles in sample A."
        ) <= 0.2
    );
}

#[test]
fn another_colour_is_wrong() {
    let towns = problem(
        "Which town is farthest to the north?",
        &["the green town", "the blue town", "the red town"],
        2,
        "North is at the top of the map. The green town is in row 4. The blue town is in row 2. The red town is in row 1. So the \
         red town is farthest north, and the answer is (C).",
    );
    assert!(one(&towns, "The blue town is in row 4.") <= 0.2, "another town's row");
    assert!(one(&towns, "So the blue town is farthest north, and the answer is (C).") <= 0.2, "another town");
    assert!(one(&towns, "So the purple town is farthest north.") <= 0.2, "a town that is not there");
    assert!(one(&towns, "There is something pink here.") <= 0.2, "a colour that is not there");
    assert_eq!(one(&towns, "The answer is (C)."), 0.8);
    let liquid = problem(
        "What temperature does this thermometer show?",
        &["10 °C", "25 °C"],
        0,
        "Find the top of the blue liquid. The top of the liquid is at the mark for 10. So the temperature is 10 °C, and the answer is (A).",
    );
    assert!(one(&liquid, "Find the top of the red liquid.") <= 0.2, "a colour of no option");
    assert_eq!(one(&liquid, "Find the top of the blue liquid."), 1.0);
    let corrected =
        correct(&liquid, "Find the top of the red liquid. The top of the liquid is at the mark for 10.");
    assert_eq!(corrected, liquid.solution);
}

#[test]
fn what_is_true_but_no_step_is_neutral() {
    assert_eq!(one(&ports(), "A compass rose shows the directions north, south, east and west."), 0.5);
    assert_eq!(one(&ports(), "Which of these ports is farthest south?"), 0.5);
    assert_eq!(one(&magnets(), "To find out, look at the poles."), 0.5);
}

#[test]
fn what_was_said_before_earns_nothing() {
    let said = score(
        &magnets(),
        &["Like poles repel.", "Like poles repel.", "LIKE POLES REPEL!", "Like poles repel"],
    );
    assert_eq!(said, [1.0, 0.0, 0.0, 0.0]);
    let again = score(
        &magnets(),
        &["So, these magnets will repel each other.", "These magnets will repel each other."],
    );
    assert_eq!(again[0], 1.0);
    assert!(again[1] <= 0.3, "{again:?}");
}

#[test]
fn garbage_earns_little() {
    let cases = [
        "The of magnet banana pole so which.",
        "repel magnets other closest the pole north like to is.",
        "the the the the the the",
        "pole pole pole pole pole pole pole.",
        "xqzt vrrp lmno.",
        "Yesterday the king of Spain bought a red bicycle.",
        "The north pole of one magnet is closest",
    ];
    for sentence in cases {
        let said = one(&magnets(), sentence);
        assert!(said <= 0.4, "{said} for {sentence}");
    }
    assert!(one(&magnets(), "The of magnet banana pole so which.") <= 0.2);
    assert_eq!(one(&magnets(), "xqzt vrrp lmno."), 0.0);
}

#[test]
fn filler_never_earns_a_reward() {
    let filler = [
        "Look at the magnets.",
        "Think about the poles.",
        "Consider the magnets first.",
        "This is a question.",
        "Magnets are interesting.",
        "To find the answer, look at the magnets.",
        "We need to compare the poles of the magnets.",
    ];
    for (sentence, said) in filler.iter().zip(score(&magnets(), &filler)) {
        assert!(said <= 0.5, "{said} for {sentence}");
    }
}

#[test]
fn without_a_solution_the_answer_decides() {
    let facts = problem(
        "Which is true?",
        &["Charge can be positive or negative.", "Every particle has a charge."],
        0,
        "",
    );
    assert_eq!(one(&facts, "Charge can be positive or negative."), 1.0);
    assert!(one(&facts, "Every particle has a charge.") <= 0.2);
    assert_eq!(
        correct(&facts, "Every particle has a charge."),
        "Charge can be positive or negative. So the answer is (A)."
    );
    let short = problem("What is it for?", &["police", "air traffic"], 1, "");
    let corrected = correct(&short, "");
    assert_eq!(corrected, "So the right choice is air traffic, and the answer is (B).");
    assert_eq!(score(&short, &[corrected.as_str()]), [1.0]);
    assert!(one(&short, "So the right choice is police, and the answer is (B).") <= 0.2);
    assert!(one(&short, "The answer is (B).") >= 0.7);
    assert_eq!(one(&short, "So the right choice is air traffic, and the answer is (A)."), 0.0);
    let hidden = Problem { answer_index: None, ..short };
    assert_eq!(correct(&hidden, "Solution: It is big. It is big."), "It is big.");
}

#[test]
fn corrections_keep_what_is_right() {
    let ports = ports();
    assert_eq!(correct(&ports, &format!("Solution: {}", ports.solution)), ports.solution);
    let magnets = magnets();
    assert_eq!(
        correct(&magnets, &format!("Solution: {}", magnets.solution.replace('\n', "n"))),
        magnets.solution
    );
}

#[test]
fn corrections_replace_complete_and_drop() {
    let ports = ports();
    let wrong = "Solution: To find the answer, look at the compass rose. Look at which way the south arrow is pointing. Dover is \
                 farthest south.";
    assert_eq!(correct(&ports, wrong), ports.solution, "a wrong sentence");
    assert_eq!(
        correct(
            &ports,
            "Look at which way the south arrow is pointing. Look at which way the south arrow is pointing."
        ),
        "Look at which way the south arrow is pointing. Plymouth is farthest south.",
        "a repeat and a missing conclusion"
    );
    let cut = "To find the answer, look at the compass rose. Look at which way the south arrow is pointing. Plymouth is far";
    assert_eq!(correct(&ports, cut), ports.solution, "a truncated end");
    assert_eq!(correct(&ports, "banana of the of. xqzt!"), ports.solution, "garbage");
    assert_eq!(correct(&ports, ""), ports.solution, "nothing");
    assert_eq!(
        correct(&magnets(), "To find out, look at the poles. Bananas fly."),
        format!("To find out, look at the poles.\n{}", magnets().solution).replacen('\n', " ", 1),
        "a fair start before garbage"
    );
}

#[test]
fn judgements_prefer_the_better_rationale() {
    let ports = ports();
    let wrong = "To find the answer, look at the compass rose. Dover is farthest south.";
    assert_eq!(judge(&ports, &ports.solution, wrong), Preference::A);
    assert_eq!(judge(&ports, wrong, &ports.solution), Preference::B);
    assert_eq!(judge(&ports, &ports.solution, &ports.solution), Preference::Tie);
    let part = "Plymouth is farthest south.";
    assert_eq!(judge(&ports, part, wrong), Preference::A);
    assert_eq!(judge(&ports, "", "banana"), Preference::Tie);
    let repeats = format!("{0} {0} {0}", ports.solution);
    assert_eq!(judge(&ports, &ports.solution, &repeats), Preference::A);
}

#[test]
fn gold_beats_its_own_sentences_in_another_order_and_mixed_ones() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../datasets/sample");
    let problems = schemas::Dataset::open(sample).unwrap().problems().unwrap();
    let solved: Vec<&Problem> = problems.iter().filter(|problem| !problem.solution.is_empty()).collect();
    let (mut shuffled, mut mixed) = ([0; 3], [0; 3]);
    for (at, problem) in solved.iter().enumerate() {
        let gold = sentences::sentences(&problem.solution);
        // By hash, so that the order differs by problem but is reproducible.
        let mut other: Vec<&str> = gold.clone();
        other.sort_by_key(|text| {
            schemas::provenance::sha256_hex(format!("{} {text}", problem.problem_id).as_bytes())
        });
        if other != gold {
            shuffled[judge(problem, &problem.solution, &other.join(" ")) as usize] += 1;
        }
        // Every second sentence comes from another problem.
        let foreign = sentences::sentences(&solved[(at + 400) % solved.len()].solution);
        let halves: Vec<&str> = gold
            .iter()
            .enumerate()
            .map(|(at, text)| if at % 2 == 1 { foreign[at % foreign.len()] } else { text })
            .collect();
        mixed[judge(problem, &halves.join(" "), &problem.solution) as usize] += 1;
    }
    let [wins, losses, _] = shuffled;
    assert!(wins > 500 && wins * 10 > (wins + losses) * 9, "shuffled {shuffled:?}");
    let [losses, wins, _] = mixed;
    assert!(wins > 500 && wins * 10 > (wins + losses) * 9, "mixed {mixed:?}");
}

/// Rationales made of gold sentences, wrong sentences, fillers, stray words and separators.
fn rationale() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("Plymouth is farthest south.".to_owned()),
        Just("Dover is farthest south.".to_owned()),
        Just("To find the answer, look at the compass rose.".to_owned()),
        Just("Like poles repel.".to_owned()),
        Just("So, these magnets will attract each other.".to_owned()),
        Just("The north pole of one magnet is closest".to_owned()),
        Just("A compass rose shows the directions".to_owned()),
        Just("It is in the U.S. The end".to_owned()),
        Just("\n".to_owned()),
        Just("n".to_owned()),
        Just("(A).".to_owned()),
        "[a-zA-Z0-9 .,:!?\\-]{0,30}",
        "\\PC{0,12}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.join(" "))
}

fn any_problem() -> impl Strategy<Value = Problem> {
    prop_oneof![
        Just(ports()),
        Just(magnets()),
        Just(pairs()),
        Just(problem("Is it so?", &["yes", "no"], 1, "")),
        Just(Problem { answer_index: None, ..problem("Is it so?", &["yes", "no"], 1, "") }),
        rationale().prop_map(|solution| problem("Which?", &["Plymouth", "Dover", "repel"], 0, &solution)),
    ]
}

proptest! {
    #[test]
    fn scores_are_tenths(problem in any_problem(), text in rationale()) {
        let sentences = sentences::sentences(&text);
        let scores = score(&problem, &sentences);
        prop_assert_eq!(scores.len(), sentences.len());
        for score in scores {
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert!((score * 10.0 - (score * 10.0).round()).abs() < 1e-4);
        }
    }

    #[test]
    fn correcting_again_changes_nothing(problem in any_problem(), text in rationale()) {
        let corrected = correct(&problem, &text);
        prop_assert_eq!(correct(&problem, &corrected), corrected.clone());
        let of_answer = problem.answer_index.is_some() || !sentences::sentences(&problem.solution).is_empty();
        if of_answer {
            let sentences = sentences::sentences(&corrected);
            for (sentence, score) in sentences.iter().zip(score(&problem, &sentences)) {
                prop_assert!(score >= 0.5, "{} for {}", score, sentence);
            }
        }
    }

    #[test]
    fn judgements_do_not_depend_on_the_order(problem in any_problem(), a in rationale(), b in rationale()) {
        let mirrored = match judge(&problem, &b, &a) {
            Preference::A => Preference::B,
            Preference::B => Preference::A,
            Preference::Tie => Preference::Tie,
        };
        prop_assert_eq!(judge(&problem, &a, &b), mirrored);
    }
}

/// What the released MM-CoT base model wrote for 2,121 test problems, ordered by the Teacher.
#[test]
#[cfg_attr(not(real_data), ignore = "needs real data: ARES_REAL_DATA")]
fn real_rationales_are_ordered() {
    let real = real_data();
    let read = |name: &str| -> serde_json::Map<String, serde_json::Value> {
        let text = std::fs::read_to_string(real.join("scienceqa").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (problems, rationales) = (read("problems_test_half.json"), read("mm_cot_rationales_test_half.json"));
    let (mut equal, mut states_right, mut states_wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (id, entry) in &problems {
        let choices: Vec<&str> =
            entry["choices"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        let answer = u8::try_from(entry["answer"].as_u64().unwrap()).unwrap();
        let mut problem = problem(
            entry["question"].as_str().unwrap(),
            &choices,
            answer,
            entry["solution"].as_str().unwrap(),
        );
        problem.hint = entry["hint"].as_str().unwrap_or_default().to_owned();
        problem.lecture = entry.get("lecture").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
        let rationale = rationales[id].as_str().unwrap();
        let corrected = correct(&problem, rationale);
        assert_eq!(correct(&problem, &corrected), corrected, "problem {id}");
        let said = sentences::sentences(rationale);
        if said.is_empty() || problem.solution.is_empty() {
            continue;
        }
        let scores = score(&problem, &said);
        let mean = scores.iter().sum::<f32>() / scores.len() as f32;
        let keys = |text: &str| {
            sentences::sentences(text).into_iter().map(sentences::repeat_key).collect::<Vec<_>>()
        };
        if keys(rationale) == keys(&problem.solution) {
            equal.push(mean);
            continue;
        }
        // The only option that the last two sentences name.
        let tail = said[said.len().saturating_sub(2)..].join(" ").to_lowercase();
        let named: Vec<usize> = (0..choices.len())
            .filter(|&i| tail.contains(choices[i].to_lowercase().trim_end_matches('.')))
            .collect();
        if let [only] = named[..] {
            if only == usize::from(answer) { states_right.push(mean) } else { states_wrong.push(mean) }
        }
    }
    let mean = |scores: &[f32]| scores.iter().sum::<f32>() / scores.len() as f32;
    let (same, right, wrong) = (mean(&equal), mean(&states_right), mean(&states_wrong));
    println!(
        "mean score: {} equal to the solution {same:.3}; other {} that name the right option {right:.3}, {} a wrong one {wrong:.3}",
        equal.len(),
        states_right.len(),
        states_wrong.len()
    );
    assert!(equal.len() > 1000 && same > 0.95);
    assert!(right > wrong + 0.1 && wrong < 0.65);
}
