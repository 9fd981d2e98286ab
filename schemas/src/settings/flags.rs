//! Every setting as a command-line flag.

use super::table::{Key, Settings};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;

/// The settings given as flags: `section.key` → text. Flatten it into a clap parser.
#[derive(Debug, Clone, Default)]
pub struct SettingFlags<const SECTIONS: u8> {
    values: BTreeMap<String, String>,
}

/// Sections whose flags the feedback command shows.
const FEEDBACK: [&str; 3] = ["teacher", "limits", "budget"];

/// Keys that both commands accept: one requests the opinions that the other combines, and both select the same problems.
const BOTH: [(&str, &str); 4] =
    [("teacher", "repeats"), ("teacher", "combine"), ("sft", "corrections_share"), ("rollout", "seed")];

/// A flag that `collect-feedback audit` defines itself.
const OF_AUDIT: &str = "seed";

impl<const SECTIONS: u8> SettingFlags<SECTIONS> {
    /// `section.key` → text as typed.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    fn keys() -> impl Iterator<Item = &'static Key> {
        let feedback = SECTIONS == Self::FEEDBACK;
        Settings::keys().iter().filter(move |key| {
            FEEDBACK.contains(&key.section) == feedback || BOTH.contains(&(key.section, key.name))
        })
    }

    /// Marks the flags of `[teacher]`, `[limits]` and `[budget]`.
    pub const FEEDBACK: u8 = 0;
    /// Marks the flags of the trainer's sections.
    pub const TRAINER: u8 = 1;
}

impl<const SECTIONS: u8> Args for SettingFlags<SECTIONS> {
    fn augment_args(mut command: Command) -> Command {
        for key in Self::keys() {
            let is_taken = SECTIONS == Self::FEEDBACK && key.flag() == OF_AUDIT;
            let flag = if is_taken { key.qualified_flag() } else { key.flag() };
            let mut arg = Arg::new(key.path())
                .long(flag.clone())
                .help(key.meaning)
                .help_heading(format!("Settings of [{}]", key.section))
                .value_name("VALUE")
                .allow_hyphen_values(true)
                .action(ArgAction::Set)
                .global(true);
            if key.qualified_flag() != flag {
                arg = arg.alias(key.qualified_flag());
            }
            if let Some(former) = key.former_flag() {
                arg = arg.alias(former);
            }
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const SECTIONS: u8> FromArgMatches for SettingFlags<SECTIONS> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in Self::keys() {
            if let Some(text) = matches.get_one::<String>(&key.path()) {
                self.values.insert(key.path(), text.clone());
            }
        }
        Ok(())
    }
}
