//! The trainer's part of a round: run the pending stages and name the next command.
//!
//! rollout → (scores) → rl → rationales → (corrections) → sft → rationales → answer. The parts in brackets come from the
//! feedback pipeline; until they exist, the trainer stops. A stage is complete once its files exist, and files are written
//! atomically, so after a kill the stage is repeated, or continued from its step checkpoint.

mod answer;
mod answer_reward;
mod comparison;
mod context;
mod decode;
mod experience;
mod learned_values;
mod opinions;
mod outcome;
mod pairs;
mod parts;
mod policy;
mod report;
mod rl;
mod rollout;
mod scored;
mod sft;
pub mod text_metrics;
mod view;

pub use answer::evaluate;
pub use context::Context;
pub use outcome::Outcome;
pub(crate) use rollout::PROBLEMS_A_PART;
pub(crate) use view::{agree_on_data, agree_on_files};

use crate::error::Result;
use clap::ValueEnum;
use schemas::settings::RoundStages;
use schemas::{Rationale, Rollout};

/// A stage of the trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Sample rationales.
    Rollout,
    /// Learn from scores, then decode the train split.
    Rl,
    /// Learn from corrections, then decode all splits.
    Sft,
    /// Train the answer model, answer val and test.
    Answer,
}

/// Warns if the previous round was repeated after this one had begun, so that this one is based on an outdated policy.
fn warn_of_redone_round(context: &Context, round: u32) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Said {
        stage: String,
        policy: String,
    }
    #[derive(serde::Deserialize)]
    struct Sampled {
        policy: String,
    }
    if round < 2 {
        return Ok(());
    }
    let mut said = context.dataset.stream_columns::<Rationale, Said>(round - 1, &["stage", "policy"])?;
    let is_sft = |row: &schemas::Result<Said>| row.as_ref().map_or(true, |row| row.stage == "sft");
    let Some(before) = said.find(is_sft).transpose()? else { return Ok(()) };
    for row in context.dataset.stream_columns::<Rollout, Sampled>(round, &["policy"])? {
        let sampled = row?;
        if sampled.policy.starts_with("import:") {
            continue;
        }
        if sampled.policy == before.policy {
            break;
        }
        schemas::warn!(
            "warning: round {round} was sampled by policy {}, but round {} ends with {}: it was repeated \
             since; to build on it, remove the files of round {round}",
            policy::short(&sampled.policy),
            round - 1,
            policy::short(&before.policy)
        );
        break;
    }
    Ok(())
}

/// Whether a stage is part of a round.
fn belongs(context: &Context, stage: Stage) -> bool {
    context.settings.round.stages == RoundStages::All || matches!(stage, Stage::Rollout | Stage::Rl)
}

/// Advances round `round` as far as feedback allows, or runs only the stage `only`. Returns the lines to print.
///
/// # Errors
/// If a stage fails; what earlier stages wrote is kept.
pub fn advance(context: &Context, round: u32, only: Option<Stage>) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    type Run = fn(&Context, u32) -> Result<Outcome>;
    let stages: [(Stage, Run); 4] = [
        (Stage::Rollout, rollout::run),
        (Stage::Rl, rl::run),
        (Stage::Sft, sft::run),
        (Stage::Answer, answer::run),
    ];
    warn_of_redone_round(context, round)?;
    for (stage, run) in stages {
        if only.is_some_and(|only| only != stage) || (only.is_none() && !belongs(context, stage)) {
            continue;
        }
        view::agree_on_files(context)?;
        match run(context, round)? {
            Outcome::Done(line) => {
                schemas::say!("{line}");
                lines.push(line);
            }
            Outcome::Already => {}
            Outcome::Waiting(line) => {
                schemas::say!("{line}");
                lines.push(line);
                return Ok(lines);
            }
        }
    }
    if lines.is_empty() {
        let what = only.and_then(|stage| stage.to_possible_value());
        let what = what.map_or_else(String::new, |stage| format!(", stage {}", stage.get_name()));
        schemas::say!("round {round}{what}: nothing to do");
    }
    if only.is_none() {
        let line =
            format!("round {round}: complete; next: train --round {}{}", round + 1, context.dataset.flag());
        schemas::say!("{line}");
        lines.push(line);
    }
    Ok(lines)
}
