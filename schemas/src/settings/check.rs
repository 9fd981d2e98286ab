//! Which values settings may have.

use super::choice::{Algorithm, AnswerKeepBy, AnswerReward, BaselineKind, GaeUnit, KeepBy, Provider};
use super::table::{FurtherTeacher, Settings};

/// Ranks that PEFT's files may have.
const MOST_RANK: u32 = 1 << 16;

/// More scorings of a rationale by one Teacher are a slip of the keyboard.
const MOST_REPEATS: u32 = 64;

/// What `api_key_env` holds. A key that was put there by mistake is not repeated.
const VARIABLE: &str = "the name of an environment variable (letters, digits and _), not the key itself";

/// Upper limit of the threads, to catch typing errors.
const MOST_THREADS: u32 = 1_024;

/// A setting with a value that it may not have.
pub(super) struct Wrong {
    /// The setting; its section comes first, except for one of a further Teacher.
    pub(super) path: String,
    /// The number of the entry of `[[teachers]]`, from 1.
    pub(super) teacher: Option<usize>,
    /// What it may be.
    pub(super) expected: String,
    /// What it is.
    pub(super) found: String,
}

fn wrong(path: &str, expected: &str, found: &str) -> Wrong {
    Wrong { path: path.to_owned(), teacher: None, expected: expected.to_owned(), found: found.to_owned() }
}

/// Whether each value is one that its setting may have, alone and with the others.
pub(super) fn check(s: &Settings) -> Result<(), Wrong> {
    let at_least_one = [
        ("teacher.max_output_tokens", u64::from(s.teacher.max_output_tokens.unwrap_or(1))),
        ("teacher.max_image_edge", u64::from(s.teacher.max_image_edge)),
        ("teacher.timeout_secs", s.teacher.timeout_secs),
        ("teacher.repeats", u64::from(s.teacher.repeats)),
        ("limits.concurrency", u64::from(s.limits.concurrency)),
        ("limits.requests_per_minute", s.limits.requests_per_minute.unwrap_or(1)),
        ("limits.input_tokens_per_minute", s.limits.input_tokens_per_minute.unwrap_or(1)),
        ("limits.output_tokens_per_minute", s.limits.output_tokens_per_minute.unwrap_or(1)),
        ("student.max_source_tokens", u64::from(s.student.max_source_tokens)),
        ("student.max_tokens_per_batch", s.student.max_tokens_per_batch.unwrap_or(1)),
        ("rollout.samples", u64::from(s.rollout.samples)),
        ("rollout.max_new_tokens", u64::from(s.rollout.max_new_tokens)),
        ("rl.minibatch", u64::from(s.rl.minibatch)),
        ("rl.accumulation", u64::from(s.rl.accumulation)),
        ("rl.value_folds", u64::from(s.rl.value_folds)),
        ("sft.epochs", u64::from(s.sft.epochs)),
        ("sft.patience", u64::from(s.sft.patience.unwrap_or(1))),
        ("sft.batch", u64::from(s.sft.batch)),
        ("sft.max_target_tokens", u64::from(s.sft.max_target_tokens)),
        ("answer.patience", u64::from(s.answer.patience.unwrap_or(1))),
        ("answer.epochs", u64::from(s.answer.epochs)),
        ("answer.batch", u64::from(s.answer.batch)),
        ("answer.lora_rank", u64::from(s.answer.lora_rank)),
        ("answer.max_new_tokens", u64::from(s.answer.max_new_tokens)),
    ];
    for (path, value) in at_least_one {
        if value == 0 {
            return Err(wrong(path, "at least 1", "0"));
        }
    }
    if s.student.lora_rank > MOST_RANK {
        let found = s.student.lora_rank.to_string();
        return Err(wrong("student.lora_rank", &format!("at most {MOST_RANK}"), &found));
    }
    if s.student.lora_targets.split(',').any(|name| name.trim().is_empty()) {
        let found = format!("`{}`", s.student.lora_targets);
        let expected = "all-linear, or layer names separated by commas";
        return Err(wrong("student.lora_targets", expected, &found));
    }
    if s.sft.patience.is_some() && s.sft.keep == KeepBy::Last {
        return Err(wrong("sft.patience", "sft.keep = val_loss or val_rouge_l with it", "last"));
    }
    if s.answer.patience.is_some() && s.answer.keep == AnswerKeepBy::Last {
        return Err(wrong("answer.patience", "answer.keep = val_loss or val_accuracy with it", "last"));
    }
    if s.rl.kl_target.is_some() && s.rl.kl_coefficient == 0.0 {
        return Err(wrong("rl.kl_target", "rl.kl_coefficient above 0 with it, to adjust", "0"));
    }
    if s.rl.baseline == BaselineKind::Model && s.rl.value_passes == 0 {
        return Err(wrong("rl.value_passes", "at least 1 with rl.baseline = model", "0"));
    }
    let compares = s.rl.algorithm == Algorithm::Ppo && s.rl.baseline == BaselineKind::LeaveOneOut;
    if compares && s.rl.gae_unit == GaeUnit::Token && s.rl.gamma < 1.0 {
        let expected = "sentence with rl.baseline = leave_one_out and rl.gamma below 1";
        return Err(wrong("rl.gae_unit", expected, "token"));
    }
    let weight = s.rl.answer_weight;
    match s.rl.answer_reward {
        AnswerReward::Sum => {}
        AnswerReward::Alone if weight == 0.0 => {
            let expected = "a number above 0 with rl.answer_reward = alone";
            return Err(wrong("rl.answer_weight", expected, "0"));
        }
        AnswerReward::Product if weight == 0.0 || weight > 1.0 => {
            let expected = "a number above 0, at most 1, with rl.answer_reward = product";
            return Err(wrong("rl.answer_weight", expected, &weight.to_string()));
        }
        AnswerReward::Alone | AnswerReward::Product => {}
    }
    if s.student.threads > MOST_THREADS {
        let found = s.student.threads.to_string();
        return Err(wrong("student.threads", &format!("at most {MOST_THREADS}"), &found));
    }
    let positive = f64::MIN_POSITIVE;
    let ranges = [
        ("teacher.temperature", s.teacher.temperature.unwrap_or(0.0), 0.0, 2.0),
        ("budget.max_usd", s.budget.max_usd.unwrap_or(0.0), 0.0, f64::MAX),
        ("rollout.top_p", s.rollout.top_p, positive, 1.0),
        ("rollout.temperature", s.rollout.temperature, positive, f64::MAX),
        ("rl.learning_rate", s.rl.learning_rate, 0.0, 1.0),
        ("rl.weight_decay", s.rl.weight_decay, 0.0, 1.0),
        ("rl.answer_weight", s.rl.answer_weight, 0.0, f64::MAX),
        ("rl.clip", s.rl.clip, positive, 1.0),
        ("rl.kl_coefficient", s.rl.kl_coefficient, 0.0, f64::MAX),
        ("rl.gamma", s.rl.gamma, 0.0, 1.0),
        ("rl.lambda", s.rl.lambda, 0.0, 1.0),
        ("rl.value_coefficient", s.rl.value_coefficient, 0.0, f64::MAX),
        ("rl.neutral_score", s.rl.neutral_score, 0.0, 1.0),
        ("rl.min_coverage", s.rl.min_coverage, 0.0, 1.0),
        ("rl.max_spread", s.rl.max_spread.unwrap_or(0.0), 0.0, 1.0),
        ("rl.max_grad_norm", s.rl.max_grad_norm.unwrap_or(1.0), 0.0, f64::MAX),
        ("rl.value_learning_rate", s.rl.value_learning_rate, 0.0, 1.0),
        ("rl.value_clip", s.rl.value_clip.unwrap_or(1.0), positive, f64::MAX),
        ("rl.kl_target", s.rl.kl_target.unwrap_or(1.0), positive, f64::MAX),
        ("rl.max_kl", s.rl.max_kl.unwrap_or(0.0), 0.0, f64::MAX),
        ("rl.kl_penalty", s.rl.kl_penalty, 0.0, f64::MAX),
        ("rl.dpo_margin", s.rl.dpo_margin, 0.0, 1.0),
        ("rl.dpo_beta", s.rl.dpo_beta, positive, f64::MAX),
        ("sft.min_score", s.sft.min_score, 0.0, 1.0),
        ("sft.corrections_share", s.sft.corrections_share, positive, 1.0),
        ("rollout.problems_share", s.rollout.problems_share, positive, 1.0),
        ("sft.warmup", s.sft.warmup, 0.0, 1.0),
        ("sft.learning_rate", s.sft.learning_rate, 0.0, 1.0),
        ("sft.weight_decay", s.sft.weight_decay, 0.0, 1.0),
        ("sft.max_grad_norm", s.sft.max_grad_norm.unwrap_or(1.0), 0.0, f64::MAX),
        ("answer.learning_rate", s.answer.learning_rate, 0.0, 1.0),
        ("answer.weight_decay", s.answer.weight_decay, 0.0, 1.0),
        ("answer.warmup", s.answer.warmup, 0.0, 1.0),
        ("answer.max_grad_norm", s.answer.max_grad_norm.unwrap_or(1.0), 0.0, f64::MAX),
        ("student.lora_alpha", s.student.lora_alpha, positive, f64::MAX),
        ("answer.lora_alpha", s.answer.lora_alpha, positive, f64::MAX),
        ("answer.lora_dropout", s.answer.lora_dropout, 0.0, 0.99),
    ];
    for (path, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            let expected = match (low == positive, high == f64::MAX) {
                (true, true) => "a number above 0".to_owned(),
                (false, true) => format!("a number of at least {low}"),
                (true, false) => format!("a number above 0, at most {high}"),
                (false, false) => format!("a number from {low} to {high}"),
            };
            return Err(wrong(path, &expected, &value.to_string()));
        }
    }
    check_teachers(s)
}

/// Each Teacher is known by its model, in the tables and in the store, and has a key of its own.
fn check_teachers(s: &Settings) -> Result<(), Wrong> {
    if s.teacher.repeats > MOST_REPEATS {
        let expected = format!("at most {MOST_REPEATS}");
        return Err(wrong("teacher.repeats", &expected, &s.teacher.repeats.to_string()));
    }
    if !is_variable(&s.teacher.api_key_env) {
        return Err(wrong("teacher.api_key_env", VARIABLE, "something else"));
    }
    let mut models = vec![s.teacher.model_name()];
    for (place, further) in s.teachers.iter().enumerate() {
        let wrong_there = |name: &str, expected: &str, found: &str| {
            Err(Wrong { teacher: Some(place + 1), ..wrong(name, expected, found) })
        };
        let FurtherTeacher { teacher, limits } = further;
        let model = teacher.model_name();
        if models.contains(&model) {
            let expected = "a model that no other Teacher has (for several scorings by one: repeats)";
            return wrong_there("model", expected, &model);
        }
        models.push(model);
        let at_least_one = [
            ("repeats", u64::from(teacher.repeats)),
            ("max_output_tokens", u64::from(teacher.max_output_tokens.unwrap_or(1))),
            ("max_image_edge", u64::from(teacher.max_image_edge)),
            ("timeout_secs", teacher.timeout_secs),
            ("concurrency", u64::from(limits.concurrency)),
            ("requests_per_minute", limits.requests_per_minute.unwrap_or(1)),
            ("input_tokens_per_minute", limits.input_tokens_per_minute.unwrap_or(1)),
            ("output_tokens_per_minute", limits.output_tokens_per_minute.unwrap_or(1)),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return wrong_there(name, "at least 1", "0");
        }
        if teacher.repeats > MOST_REPEATS {
            return wrong_there("repeats", &format!("at most {MOST_REPEATS}"), &teacher.repeats.to_string());
        }
        if let Some(temperature) = teacher.temperature.filter(|value| !(0.0..=2.0).contains(value)) {
            return wrong_there("temperature", "a number from 0 to 2", &temperature.to_string());
        }
        if !is_variable(&teacher.api_key_env) {
            return wrong_there("api_key_env", VARIABLE, "something else");
        }
        let is_reference = teacher.provider == Provider::Reference;
        if is_reference && !teacher.model.is_empty() {
            return wrong_there("model", "none with the embedded Teacher", &teacher.model);
        }
    }
    Ok(())
}

/// Whether a text is the name of an environment variable, or empty.
fn is_variable(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit()) && name.len() <= 64
}
