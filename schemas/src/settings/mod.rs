//! `ares.toml`: every setting of both commands, declared once with its default and its meaning.
//!
//! Flags override the file, and the file overrides the defaults. An unknown key is an error that names the
//! nearest known one. API keys are not settings: they are read from the environment only.

mod check;
mod choice;
mod flags;
mod further;
mod kind;
mod preset;
mod resolve;
mod rl;
mod table;

pub use choice::{
    Algorithm, AnswerKeepBy, AnswerReward, BaselineKind, Combine, ContentForm, CorrectionFilter, Device,
    Disagreement, Dtype, GaeUnit, GrpoScale, ImageDetail, KeepBy, LogprobKind, PairSource, Preset,
    PromptFormat, Provider, RateSchedule, RationaleSource, ResponseFormat, RewardUnit, RlKeep, RoundStages,
    SystemRole, TokenLimitField, ValueInit, ValueTrunk, WhitenOver,
};
pub use flags::SettingFlags;
pub use kind::Kind;
pub use resolve::{Origin, Resolved};
pub use table::{
    AnswerSettings, BudgetSettings, FurtherTeacher, Key, LimitSettings, RlSettings, RolloutSettings,
    RoundSettings, Settings, SftSettings, StudentSettings, TeacherSettings,
};
