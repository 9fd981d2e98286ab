//! Merging defaults, file and flags, with the origin of every value.

use super::choice::{AnswerKeepBy, AnswerReward, BaselineKind, KeepBy, Preset, Provider};
use super::kind::Kind;
use super::table::{FurtherTeacher, Key, Settings};
use super::{further, preset};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where a setting's value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// `round.preset`.
    Preset(Preset),
    /// The settings file.
    File(PathBuf),
    /// A flag.
    Flag(String),
}

/// The settings, and where each came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
}

/// Ranks that PEFT's files may have.
const MOST_RANK: u32 = 1 << 16;

/// More scorings of a rationale by one Teacher are a slip of the keyboard.
const MOST_REPEATS: u32 = 64;

/// What `api_key_env` holds. A key that was put there by mistake is not repeated.
const VARIABLE: &str = "the name of an environment variable (letters, digits and _), not the key itself";

/// Upper limit of the threads, to catch typing errors.
const MOST_THREADS: u32 = 1_024;

impl Resolved {
    /// Reads `file` if given, else `ares.toml` in the working directory if it exists, and overrides it with
    /// `flags` (`section.key` → text).
    ///
    /// # Errors
    /// If the file is unreadable, a key is unknown, or a value has the wrong type or is out of range.
    pub fn load(file: Option<&Path>, flags: &BTreeMap<String, String>) -> Result<Self> {
        let usual = Path::new("ares.toml");
        let file = file.or_else(|| usual.is_file().then_some(usual));
        let text = match file {
            Some(path) => Some((path, std::fs::read_to_string(path).map_err(Error::io("read", path))?)),
            None => None,
        };
        Self::from_parts(text.as_ref().map(|(path, text)| (*path, text.as_str())), flags)
    }

    /// Like [`Resolved::load`], from the text of a file.
    ///
    /// # Errors
    /// As [`Resolved::load`].
    pub fn from_parts(file: Option<(&Path, &str)>, flags: &BTreeMap<String, String>) -> Result<Self> {
        let mut given = Vec::new();
        let mut further = Vec::new();
        if let Some((path, text)) = file {
            let origin = path.display().to_string();
            let table: Table = text
                .parse()
                .map_err(|e: toml::de::Error| settings_error(&origin, e.to_string().trim_end().to_owned()))?;
            for (section, value) in table {
                if section == "teachers" {
                    further = entries(value, &origin)?;
                    continue;
                }
                let Value::Table(keys) = value else {
                    let message = format!("`{section}` is outside a section{}", nearest_key(&section));
                    return Err(settings_error(&origin, message));
                };
                for (name, value) in keys {
                    let key = find(&section, &name).map_err(|message| settings_error(&origin, message))?;
                    given.push((key, value, origin.clone(), Origin::File(path.to_path_buf())));
                }
            }
        }
        for (path, text) in flags {
            let (section, name) = path.split_once('.').unwrap_or(("", path));
            let key = find(section, name).map_err(|message| settings_error("flags", message))?;
            let flag = format!("--{}", key.flag());
            given.push((key, parse(key, text, &flag)?, flag.clone(), Origin::Flag(flag)));
        }
        let mut merged = Table::new();
        let mut origins = BTreeMap::new();
        for (key, value, name, origin) in given {
            insert(&mut merged, key, value, &name)?;
            origins.insert(key.path(), origin);
        }
        add_preset(&mut merged, &mut origins)?;
        let mut settings: Settings = Value::Table(merged)
            .try_into()
            .map_err(|e: toml::de::Error| settings_error("settings", e.message().to_owned()))?;
        for mut entry in further {
            further::inherit(&mut entry, &settings);
            let teacher: FurtherTeacher = Value::Table(entry)
                .try_into()
                .map_err(|e: toml::de::Error| settings_error("[[teachers]]", e.message().to_owned()))?;
            settings.teachers.push(teacher);
        }
        if flags.contains_key("teacher.model") || flags.contains_key("teacher.provider") {
            take_main_place(&mut settings, flags)?;
        }
        let resolved = Self { settings, origins };
        resolved.check()?;
        Ok(resolved)
    }

    /// Where a setting came from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }

    /// Flags of some settings (`section.key`) that were given as flags, with their values and a space before each: for commands that
    /// are suggested to the user.
    pub fn given_flags(&self, paths: &[&str]) -> String {
        let table = Table::try_from(&self.settings).unwrap_or_default();
        let given = Settings::keys().iter().filter(|key| {
            let path = key.path();
            paths.contains(&path.as_str()) && matches!(self.origin(&path), Origin::Flag(_))
        });
        let flag = |key: &Key| {
            let value = table.get(key.section)?.get(key.name)?;
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(format!(" --{} {}", key.qualified_flag(), crate::dataset::quoted(Path::new(&value))))
        };
        given.filter_map(flag).collect()
    }

    /// All settings as `ares.toml` text, each line with its origin. Stable, so that it can be hashed and compared.
    pub fn show(&self) -> String {
        let table = Table::try_from(&self.settings).unwrap_or_default();
        let mut text = String::new();
        let mut section = "";
        for key in Settings::keys() {
            if key.section != section {
                section = key.section;
                let _ = writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" });
            }
            let value = table.get(key.section).and_then(|section| section.get(key.name));
            let value = value.map_or_else(|| "(unset)".to_owned(), ToString::to_string);
            let origin = match self.origin(&key.path()) {
                Origin::Default => "default".to_owned(),
                Origin::Preset(preset) => format!("preset {preset}"),
                Origin::File(path) => path.display().to_string(),
                Origin::Flag(flag) => flag.clone(),
            };
            let line = format!("{} = {value}", key.name);
            let _ = writeln!(text, "{line:<44} # {origin}");
        }
        for teacher in &self.settings.teachers {
            let _ = writeln!(text, "\n[[teachers]]");
            for line in teacher.lines() {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }

    fn check(&self) -> Result<()> {
        let s = &self.settings;
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
                return Err(self.value_error(path, "at least 1", "0"));
            }
        }
        if s.student.lora_rank > MOST_RANK {
            let found = s.student.lora_rank.to_string();
            return Err(self.value_error("student.lora_rank", &format!("at most {MOST_RANK}"), &found));
        }
        if s.student.lora_targets.split(',').any(|name| name.trim().is_empty()) {
            let found = format!("`{}`", s.student.lora_targets);
            let expected = "all-linear, or layer names separated by commas";
            return Err(self.value_error("student.lora_targets", expected, &found));
        }
        if s.sft.patience.is_some() && s.sft.keep == KeepBy::Last {
            return Err(self.value_error(
                "sft.patience",
                "sft.keep = val_loss or val_rouge_l with it",
                "last",
            ));
        }
        if s.answer.patience.is_some() && s.answer.keep == AnswerKeepBy::Last {
            return Err(self.value_error(
                "answer.patience",
                "answer.keep = val_loss or val_accuracy with it",
                "last",
            ));
        }
        if s.rl.kl_target.is_some() && s.rl.kl_coefficient == 0.0 {
            return Err(self.value_error(
                "rl.kl_target",
                "rl.kl_coefficient above 0 with it, to adjust",
                "0",
            ));
        }
        if s.rl.baseline == BaselineKind::Model && s.rl.value_passes == 0 {
            return Err(self.value_error("rl.value_passes", "at least 1 with rl.baseline = model", "0"));
        }
        let weight = s.rl.answer_weight;
        match s.rl.answer_reward {
            AnswerReward::Sum => {}
            AnswerReward::Alone if weight == 0.0 => {
                let expected = "a number above 0 with rl.answer_reward = alone";
                return Err(self.value_error("rl.answer_weight", expected, "0"));
            }
            AnswerReward::Product if weight == 0.0 || weight > 1.0 => {
                let expected = "a number above 0, at most 1, with rl.answer_reward = product";
                return Err(self.value_error("rl.answer_weight", expected, &weight.to_string()));
            }
            AnswerReward::Alone | AnswerReward::Product => {}
        }
        if s.student.threads > MOST_THREADS {
            let found = s.student.threads.to_string();
            return Err(self.value_error("student.threads", &format!("at most {MOST_THREADS}"), &found));
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
                return Err(self.value_error(path, &expected, &value.to_string()));
            }
        }
        self.check_teachers()
    }

    /// Each Teacher is known by its model, in the tables and in the store, and has a key of its own.
    fn check_teachers(&self) -> Result<()> {
        let s = &self.settings;
        if s.teacher.repeats > MOST_REPEATS {
            let expected = format!("at most {MOST_REPEATS}");
            return Err(self.value_error("teacher.repeats", &expected, &s.teacher.repeats.to_string()));
        }
        if !is_variable(&s.teacher.api_key_env) {
            return Err(self.value_error("teacher.api_key_env", VARIABLE, "something else"));
        }
        let mut models = vec![s.teacher.model_name()];
        for (place, further) in s.teachers.iter().enumerate() {
            let wrong = |name: &str, expected: &str, found: &str| {
                let number = place + 1;
                let message = format!("{name} of [[teachers]] {number}: expected {expected}, found {found}");
                Err(settings_error("ares.toml", message))
            };
            let FurtherTeacher { teacher, limits } = further;
            let model = teacher.model_name();
            if models.contains(&model) {
                let expected = "a model that no other Teacher has (for several scorings by one: repeats)";
                return wrong("model", expected, &model);
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
                return wrong(name, "at least 1", "0");
            }
            if teacher.repeats > MOST_REPEATS {
                return wrong("repeats", &format!("at most {MOST_REPEATS}"), &teacher.repeats.to_string());
            }
            if let Some(temperature) = teacher.temperature.filter(|value| !(0.0..=2.0).contains(value)) {
                return wrong("temperature", "a number from 0 to 2", &temperature.to_string());
            }
            if !is_variable(&teacher.api_key_env) {
                return wrong("api_key_env", VARIABLE, "something else");
            }
            let is_reference = teacher.provider == Provider::Reference;
            if is_reference && !teacher.model.is_empty() {
                return wrong("model", "none with the embedded Teacher", &teacher.model);
            }
        }
        Ok(())
    }

    fn value_error(&self, path: &str, expected: &str, found: &str) -> Error {
        let origin = match self.origin(path) {
            Origin::Default => "defaults".to_owned(),
            Origin::Preset(preset) => format!("preset {preset}"),
            Origin::File(file) => file.display().to_string(),
            Origin::Flag(flag) => flag.clone(),
        };
        settings_error(&origin, format!("{path}: expected {expected}, found {found}"))
    }
}

/// Values of the preset that `merged` names, where neither the file nor a flag gives one.
fn add_preset(merged: &mut Table, origins: &mut BTreeMap<String, Origin>) -> Result<()> {
    let Some(value) = merged.get("round").and_then(|section| section.get("preset")) else { return Ok(()) };
    let preset: Preset =
        value.clone().try_into().map_err(|e: toml::de::Error| settings_error("settings", e.to_string()))?;
    let name = format!("preset {preset}");
    let table: Table = preset::text(preset)
        .parse()
        .map_err(|e: toml::de::Error| settings_error(&name, e.to_string().trim_end().to_owned()))?;
    for (section, value) in table {
        let Value::Table(keys) = value else { continue };
        for (key, value) in keys {
            let key = find(&section, &key).map_err(|message| settings_error(&name, message))?;
            if let Entry::Vacant(origin) = origins.entry(key.path()) {
                insert(merged, key, value, &name)?;
                origin.insert(Origin::Preset(preset));
            }
        }
    }
    Ok(())
}

fn settings_error(origin: &str, message: String) -> Error {
    Error::Settings { origin: origin.to_owned(), message }
}

/// A Teacher of `[[teachers]]` that flags name takes the place of the main one, with the settings of its entry.
fn take_main_place(settings: &mut Settings, flags: &BTreeMap<String, String>) -> Result<()> {
    let main = settings.teacher.model_name();
    let Some(place) = settings.teachers.iter().position(|one| one.teacher.model_name() == main) else {
        return Ok(());
    };
    let mut entry = Table::try_from(settings.teachers.remove(place)).unwrap_or_default();
    for (path, text) in flags {
        let Some((section @ ("teacher" | "limits"), name)) = path.split_once('.') else { continue };
        let key = find(section, name).map_err(|message| settings_error("flags", message))?;
        let flag = format!("--{}", key.flag());
        insert(&mut entry, key, parse(key, text, &flag)?, &flag)?;
    }
    let combine = settings.teacher.combine;
    let FurtherTeacher { teacher, limits } = Value::Table(entry)
        .try_into()
        .map_err(|e: toml::de::Error| settings_error("[[teachers]]", e.message().to_owned()))?;
    (settings.teacher, settings.limits) = (teacher, limits);
    settings.teacher.combine = combine;
    Ok(())
}

/// Whether a text is the name of an environment variable, or empty.
fn is_variable(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit()) && name.len() <= 64
}

/// The entries of `[[teachers]]`, each as tables of the sections that its keys belong to.
fn entries(value: Value, origin: &str) -> Result<Vec<Table>> {
    let expected =
        || settings_error(origin, "teachers: expected [[teachers]], a list of sections".to_owned());
    let Value::Array(list) = value else { return Err(expected()) };
    let mut entries = Vec::new();
    for entry in list {
        let Value::Table(keys) = entry else { return Err(expected()) };
        let mut merged = Table::new();
        for (name, value) in keys {
            let key = further::key_of(&name).ok_or_else(|| {
                let hint = match name.as_str() {
                    "combine" => "; it belongs to `[teacher]`, for all Teachers".to_owned(),
                    _ => nearest(&name, further::names(), ToOwned::to_owned),
                };
                settings_error(origin, format!("unknown key `{name}` of [[teachers]]{hint}"))
            })?;
            insert(&mut merged, key, value, &format!("{origin}, [[teachers]] {}", entries.len() + 1))?;
        }
        entries.push(merged);
    }
    Ok(entries)
}

fn find(section: &str, name: &str) -> Result<&'static Key, String> {
    let keys = Settings::keys();
    if let Some(key) = keys.iter().find(|key| key.section == section && key.name == name) {
        return Ok(key);
    }
    if !keys.iter().any(|key| key.section == section) {
        let sections = keys.iter().map(|key| key.section);
        return Err(format!(
            "unknown section `[{section}]`{}",
            nearest(section, sections, |s| format!("[{s}]"))
        ));
    }
    // If the key exists in another section, that is the most likely mistake.
    let hint = match keys.iter().find(|key| key.name == name) {
        Some(key) => format!("; it belongs to `[{}]`", key.section),
        None => {
            let names = keys.iter().filter(|key| key.section == section).map(|key| key.name);
            nearest(name, names, ToOwned::to_owned)
        }
    };
    Err(format!("unknown key `{section}.{name}`{hint}"))
}

fn nearest_key(name: &str) -> String {
    match Settings::keys().iter().find(|key| key.name == name) {
        Some(key) => format!("; it belongs to `[{}]`", key.section),
        None => String::new(),
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, show: impl Fn(&str) -> String) -> String {
    known
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)))
        .map_or_else(String::new, |best| format!("; did you mean `{}`?", show(best)))
}

fn insert(merged: &mut Table, key: &Key, value: Value, origin: &str) -> Result<()> {
    let value = match (key.kind, value) {
        (Kind::Float, Value::Integer(number)) => Value::Float(number as f64),
        (_, value) => value,
    };
    let fits = matches!(
        (key.kind, &value),
        (Kind::Text, Value::String(_))
            | (Kind::Integer, Value::Integer(0..))
            | (Kind::Float, Value::Float(_))
            | (Kind::Bool, Value::Boolean(_))
    );
    if !fits {
        let expected = expected(key.kind);
        return Err(settings_error(origin, format!("{}: expected {expected}, found {value}", key.path())));
    }
    let section = merged.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key.name.to_owned(), value);
    }
    // Each value is first read individually, so that errors name its key and origin.
    let mut alone = Table::new();
    alone.insert(
        key.section.to_owned(),
        merged.get(key.section).cloned().unwrap_or(Value::Table(Table::new())),
    );
    Value::Table(alone)
        .try_into::<Settings>()
        .map(|_| ())
        .map_err(|e| settings_error(origin, format!("{}: {}", key.path(), e.message())))
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Integer => "a whole number of at least 0",
        Kind::Float => "a number",
        Kind::Bool => "true or false",
    }
}

fn parse(key: &Key, text: &str, flag: &str) -> Result<Value> {
    let value = match key.kind {
        Kind::Text => Some(Value::String(text.to_owned())),
        Kind::Integer => text.replace('_', "").parse().ok().map(Value::Integer),
        Kind::Float => text.parse().ok().map(Value::Float),
        Kind::Bool => text.parse().ok().map(Value::Boolean),
    };
    value.ok_or_else(|| {
        settings_error(flag, format!("{}: expected {}, found `{text}`", key.path(), expected(key.kind)))
    })
}
