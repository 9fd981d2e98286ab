//! `[[teachers]]`: Teachers that score in addition to the main one, each with its own service, key and limits.

use super::table::{FurtherTeacher, Key, LimitSettings, Settings, TeacherSettings};
use toml::{Table, Value};

/// Keys of `[teacher]` that an entry inherits unless it sets them: opinions are comparable only if all Teachers are asked the
/// same.
const INHERITED: [&str; 5] = ["repeats", "reasons", "samples_per_request", "prompts", "models"];

/// Keys of `[teacher]` that an entry cannot set: they apply to all Teachers together.
const OF_ALL: [&str; 1] = ["combine"];

/// The key with this name that an entry of `[[teachers]]` may set.
pub(super) fn key_of(name: &str) -> Option<&'static Key> {
    let keys = || Settings::keys().iter().filter(|key| key.name == name);
    keys()
        .find(|key| key.section == "teacher" && !OF_ALL.contains(&key.name))
        .or_else(|| keys().find(|key| key.section == "limits"))
}

/// Names of all keys that an entry may set.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let keys = Settings::keys().iter().filter(|key| matches!(key.section, "teacher" | "limits"));
    keys.map(|key| key.name).filter(|name| !OF_ALL.contains(name))
}

/// Completes an entry's tables with the inherited keys.
pub(super) fn inherit(entry: &mut Table, settings: &Settings) {
    let all = Table::try_from(&settings.teacher).unwrap_or_default();
    let own = entry.entry("teacher").or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(own) = own else { return };
    for name in INHERITED {
        if let Some(value) = all.get(name).filter(|_| !own.contains_key(name)) {
            own.insert(name.to_owned(), value.clone());
        }
    }
}

impl FurtherTeacher {
    /// Its keys and values that differ from the defaults, in the format of `ares.toml`, one per line.
    pub(super) fn lines(&self) -> Vec<String> {
        let tables = [
            (Table::try_from(&self.teacher), Table::try_from(TeacherSettings::default())),
            (Table::try_from(&self.limits), Table::try_from(LimitSettings::default())),
        ];
        let mut lines = Vec::new();
        for (own, usual) in tables {
            let (own, usual) = (own.unwrap_or_default(), usual.unwrap_or_default());
            for (name, value) in own.iter().filter(|(name, value)| usual.get(*name) != Some(value)) {
                lines.push(format!("{name} = {value}"));
            }
        }
        lines
    }
}
