//! Merging defaults, file and flags, with the origin of every value.

use super::check::{Wrong, check};
use super::choice::Preset;
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
        check(&resolved.settings).map_err(|wrong| resolved.value_error(&wrong))?;
        Ok(resolved)
    }

    /// Where a setting came from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }

    /// Those of the given settings (`section.key`) that were set by flags, as flags with their values and a leading space each:
    /// for commands suggested to the user.
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

    /// The error of a value; names where it was set.
    fn value_error(&self, wrong: &Wrong) -> Error {
        let Wrong { path, teacher, expected, found } = wrong;
        if let Some(number) = teacher {
            let message = format!("{path} of [[teachers]] {number}: expected {expected}, found {found}");
            return settings_error("ares.toml", message);
        }
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

/// If flags name a Teacher of `[[teachers]]`, it replaces the main one, with the settings of its entry.
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
