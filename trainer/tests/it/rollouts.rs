//! The per-token columns of stage rollout, through the real `train`, against the models they come from.

use crate::small::{Place, tokenizer_folder};
use crate::t5::read_student;
use schemas::Rollout;
use schemas::settings::Resolved;
use std::collections::BTreeMap;
use tch::Device;
use trainer::checkpoint::hf;
use trainer::data::batch;
use trainer::data::corpus::{Corpus, rationale_source};
use trainer::data::tokenizer::Tokenizer;
use trainer::model::Student;
use trainer::model::mm_t5::StudentConfig;
use trainer::model::random_weights;
use trainer::nn::mode::Mode;
use trainer::nn::value_head;
use trainer::nn::value_head::ValueHead;
use trainer::nn::weights::Weights;
use trainer::rollout::score::teacher_forced;
use trainer::seed;

/// More train problems than one part holds, so that the models take turns.
const PROBLEMS: usize = 300;

fn close(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < tolerance)
}

#[test]
fn a_later_round_keeps_the_numbers_of_policy_reference_and_value_model() {
    let start = Place::new(PROBLEMS);
    let folder = start.checkpoint("base");
    let base = read_student(&folder).expect("base");
    let config: StudentConfig = base.config;
    // The policy of round 2, which differs from the base student.
    let weights = random_weights(&config, 8);
    let after = start.checkpoint("round-1/sft");
    hf::write_student(&after, &config, &weights, &tokenizer_folder()).expect("written");

    let file = start.path().join("ares.toml");
    let settings = Resolved::load(Some(&file), &BTreeMap::new()).expect("settings").settings;
    let tokenizer = Tokenizer::read(&folder, &config).expect("tokenizer");
    let corpus = Corpus::open(&start.dataset(), &settings.student, &config).expect("corpus");
    let (policy, reference) = (Student::new(&weights, &config), Student::new(&base.weights, &config));
    let mut head = Weights::default();
    let head_seed = (seed::derive(settings.rollout.seed, "value head", "2") >> 1) as i64;
    head.extend(value_head::random(config.d_model, head_seed));
    let head = ValueHead::new(&head);

    let sampled = ["--baseline", "sampled", "--value-init", "random"];
    let in_bfloat16 = [&sampled[..], &["--sampling-dtype", "bfloat16"]].concat();
    for flags in [&sampled[..], &in_bfloat16, &[]] {
        let place = start.copy();
        let train = place.train(&["--round", "2", "--stage", "rollout"]).args(flags).output().expect("train");
        assert!(train.status.success(), "{}", String::from_utf8_lossy(&train.stderr));
        let rollouts: Vec<Rollout> = place.dataset().read(2).expect("rollouts");
        assert_eq!(rollouts.len(), 288 * 2);
        assert!(rollouts.iter().any(|row| row.logprobs != row.ref_logprobs));
        for row in &rollouts {
            let problem = corpus.get(&row.problem_id, "rollouts").expect("problem");
            let source = rationale_source(&tokenizer, problem, &settings.student).expect("source");
            let source = [(source.as_slice(), row.problem_id.as_str())];
            let source = batch::source(&source, &corpus.features, config.pad_token_id, Device::Cpu);
            let tokens: Vec<i64> = row.token_ids.iter().map(|&id| i64::from(id)).collect();
            let of = |student, head| teacher_forced(student, head, &source, &[&tokens], Mode::EVAL);
            let (own, other) = (of(&policy, Some(&head)), of(&reference, None));
            assert!(close(&row.logprobs, &own.logprobs[0], 1e-4), "{}: {flags:?}", row.rollout_id);
            assert!(close(&row.ref_logprobs, &other.logprobs[0], 1e-4), "{}: {flags:?}", row.rollout_id);
            match flags {
                [] => assert!(row.values.is_empty(), "nothing reads them"),
                _ => assert!(
                    close(&row.values, &own.values.expect("asked")[0], 1e-4),
                    "{}: {flags:?}",
                    row.rollout_id
                ),
            }
        }
    }
}
