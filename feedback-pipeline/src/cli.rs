//! The command line: clap types, and which part of the pipeline each command runs.

mod collecting;
mod estimating;

use crate::collect::{Changed, Context};
use crate::error::{Error, Result};
use crate::export;
use crate::import;
use crate::inspect::win_rate::WinRates;
use crate::inspect::{audit, report, status};
use crate::items::{Job, Kind, Order};
use crate::store::Whose;
use crate::tables::rebuild;
use clap::{Args, Parser, Subcommand};
use collecting::{collect, say_open_batches};
use estimating::show_estimate;
use schemas::number::counted;
use schemas::settings::{Resolved, SettingFlags, Settings};
use schemas::{Dataset, completions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags of `[teacher]`, `[limits]` and `[budget]`.
type Flags = SettingFlags<{ SettingFlags::<0>::FEEDBACK }>;

/// Asks a Teacher for the feedback that a round still needs: sentence scores, corrections, judgements.
///
/// Without a command, collects the missing feedback of --round and names the next command. API keys are read
/// from ANTHROPIC_API_KEY and OPENAI_API_KEY. Exit status: 0 done or nothing to do, 1 failed, 2 bad usage or
/// input, 3 stopped by the budget, 130 interrupted (all paid replies are kept).
#[derive(Debug, Parser)]
#[command(name = "collect-feedback", version, args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    /// Kind of feedback to collect [default: all that is missing].
    #[arg(long, value_enum)]
    stage: Option<Kind>,
    /// Send requests in batches: half the price, answered within a day; repeat the command to collect the
    /// replies.
    #[arg(long, global = true)]
    batch: bool,
    /// Retry rejected items, after their cause is fixed: a missing picture, a limit, a service error.
    #[arg(long, global = true)]
    retry_rejects: bool,
    /// Let this Teacher answer the rest of a round that another Teacher has partly answered.
    #[arg(long, global = true)]
    mix_teachers: bool,
    /// Request this Teacher's discarded answers again; they are paid for again.
    #[arg(long, global = true)]
    ask_discarded: bool,
    /// Give up a batch that the service no longer has, by its id or the name in the message; its requests are
    /// sent, and paid for, again.
    #[arg(long, global = true, value_name = "BATCH", requires = "batch")]
    abandon_batch: Vec<String>,
    /// Print all settings with their origin, and exit.
    #[arg(long, global = true)]
    show_settings: bool,
    /// Write logs as JSON, one object per line.
    #[arg(long, global = true)]
    pub log_json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Clone, Args)]
struct Place {
    /// ARES round, from 1.
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    round: Option<u32>,
    /// Dataset folder [default: the only one under datasets/].
    #[arg(long, global = true)]
    data: Option<PathBuf>,
    /// Settings file [default: ares.toml, if it exists].
    #[arg(long, global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Estimate requests, tokens, dollars and minutes of a round; sends nothing.
    Estimate {
        /// Kind of feedback [default: all that is missing].
        #[arg(long, value_enum)]
        stage: Option<Kind>,
    },
    /// Show rows, coverage and cost of each round.
    Status {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Create a dataset from published problems, or add rationales to one.
    #[command(subcommand)]
    Import(import::Command),
    /// Let the Teacher compare the round's test rationales with those of the base student or of another round.
    Judge {
        /// base, or the number of a round.
        #[arg(long, default_value = "base")]
        against: String,
        /// Ask about each pair in both orders: twice the requests, without position bias.
        #[arg(long)]
        both_orders: bool,
        /// Seed of the order in which the two rationales are shown.
        #[arg(long, default_value_t = 0, conflicts_with = "both_orders")]
        order_seed: u64,
    },
    /// Score a sample of rollouts again with another Teacher or model and measure agreement, or measure
    /// agreement with human labels.
    Audit {
        /// Human sentence scores to compare with instead; nothing is sent. JSONL: rollout_id, sentence_index
        /// (from 0), score (0 to 1), and optionally by (who labelled), sentence, round and problem_id.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["sample", "seed"])]
        labels: Option<PathBuf>,
        /// Number of rollouts.
        #[arg(long, default_value_t = 200)]
        sample: usize,
        /// Seed of the sample; with another seed the sentences are scored again, even by the same Teacher.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write an HTML report of a round, readable offline.
    Report {
        /// File to write [default: report-round-N.html in the dataset folder].
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Write a round's feedback in the format of another trainer: TRL, LLaMA-Factory, verl, or a dataset for the Hub.
    Export(export::Options),
    /// Recreate the feedback tables from feedback.sqlite, without sending a request.
    Rebuild,
    /// Remove a Teacher's answers from the tables of a round, so that another Teacher can be asked.
    ///
    /// They stay in feedback.sqlite and count as spent. Without --teacher and --model, all answers of the stage
    /// are removed.
    Discard {
        #[command(flatten)]
        which: Which,
    },
    /// Restore discarded answers to the tables, without sending a request.
    Undiscard {
        #[command(flatten)]
        which: Which,
    },
    /// Print a shell completion script.
    Completions {
        /// Shell that the script is for.
        shell: completions::Shell,
    },
}

/// Selects answers of a round.
#[derive(Debug, Clone, Args)]
struct Which {
    /// Kind of feedback.
    #[arg(long, value_enum)]
    stage: Kind,
    /// Only judgements against this baseline: base, or the number of a round.
    #[arg(long)]
    against: Option<String>,
}

/// Starts logging to stderr; RUST_LOG sets what is logged.
pub fn start_logging(json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.log_internal_errors(false); // it would panic if standard error is closed
    // It fails if a subscriber is set already, as in tests, which is fine.
    let _ = if json { logs.json().try_init() } else { logs.try_init() };
}

/// Runs the command line.
pub fn run(cli: Cli) -> Result<()> {
    if let Some(Command::Completions { shell }) = cli.command {
        completions::print::<Cli>(shell);
        return Ok(());
    }
    if let Some(Command::Import(command)) = cli.command {
        return import::run(command);
    }
    let config = cli.place.config;
    let resolved = Resolved::load(config.as_deref(), cli.flags.values())?;
    if cli.show_settings {
        schemas::say!("{}", resolved.show().trim_end());
        return Ok(());
    }
    let dataset = Dataset::choose(cli.place.data)?;
    if let Some(Command::Status { json }) = cli.command {
        return if json {
            status::run_json(&dataset, &resolved.settings)
        } else {
            status::run(&dataset, &resolved.settings)
        };
    }
    let mut context = Context::new(dataset, resolved);
    context.batch = cli.batch;
    context.retry_rejects = cli.retry_rejects;
    context.abandoned = cli.abandon_batch;
    context.mix_teachers = cli.mix_teachers;
    context.ask_discarded = cli.ask_discarded;
    context.teacher_flags = teacher_flags(cli.flags.values());
    context.shared_flags = given_flags(cli.flags.values(), &SHARED);
    context.config_flag =
        config.map_or_else(String::new, |path| format!(" --config {}", schemas::dataset::quoted(&path)));
    let given = |key: &str| cli.flags.values().contains_key(key);
    let whose = Whose {
        provider: given("teacher.provider").then_some(context.settings.teacher.provider),
        model: given("teacher.model").then(|| context.settings.teacher.model.clone()),
    };
    if matches!(cli.command, Some(Command::Rebuild)) {
        let rows = rebuild::all(&context.dataset, &context.provenance)?;
        let (from, rows) = (context.dataset.feedback_path(), counted(rows, "row"));
        schemas::say!("rebuilt from {}: {rows} in requests", from.display());
        return Ok(());
    }
    let Some(round) = cli.place.round else {
        return Err(Error::bad_input("--round", "expected the number of a round, found none"));
    };
    match cli.command {
        Some(Command::Report { out }) => {
            let written = report::run(&context.dataset, round, out.as_deref(), &context.settings)?;
            schemas::say!("{written}");
            Ok(())
        }
        Some(Command::Export(options)) => {
            let written = export::run(&context.dataset, round, &options, &context.settings)?;
            schemas::say!("{written}");
            Ok(())
        }
        Some(Command::Discard { which }) => {
            let changed = context.discard(round, which.stage, which.against.as_deref(), &whose)?;
            show_changed(&context, round, which.stage, "discarded", &changed);
            Ok(())
        }
        Some(Command::Undiscard { which }) => {
            let changed = context.undiscard(round, which.stage, which.against.as_deref(), &whose)?;
            show_changed(&context, round, which.stage, "restored", &changed);
            Ok(())
        }
        Some(Command::Estimate { stage }) => show_estimate(&context, &jobs(&context, round, stage)),
        Some(Command::Judge { against, both_orders, order_seed }) => {
            let orders = match both_orders {
                true => vec![Order::CandidateFirst, Order::BaselineFirst],
                false => vec![Order::Shuffled(order_seed)],
            };
            let job = |order| Job { order, ..Job::judge(round, &against) };
            let collected = collect(&context, &orders.into_iter().map(job).collect::<Vec<_>>());
            for rates in
                WinRates::read(&context.dataset, round)?.iter().filter(|rates| rates.against == against)
            {
                schemas::say!("{}", rates.to_string().trim_end());
            }
            collected
        }
        Some(Command::Audit { labels: Some(file), json, .. }) => {
            let neutral = context.settings.rl.neutral_score;
            let people = audit::people::run(&context.dataset, round, &file, neutral)?;
            match json {
                true => schemas::say!("{}", people.to_json()?),
                false => schemas::say!("{}", people.to_string().trim_end()),
            }
            Ok(())
        }
        Some(Command::Audit { .. }) if context.batch => {
            Err(Error::bad_input("--batch", "expected none with audit, which does not run in batches"))
        }
        Some(Command::Audit { sample, seed, json, .. }) => {
            let (audit, stopped) = audit::run(&context, round, audit::Choice { sample, seed })?;
            match json {
                true => schemas::say!("{}", audit.to_json()?),
                false => schemas::say!("{}", audit.to_string().trim_end()),
            }
            stopped.map_or_else(|| say_open_batches(&context), Err)
        }
        _ => collect(&context, &jobs(&context, round, cli.stage)),
    }
}

/// Settings to pass to `train` as well.
const SHARED: [&str; 4] = ["teacher.repeats", "teacher.combine", "sft.corrections_share", "rollout.seed"];

/// The flags that select the Teacher, as given by the user.
fn teacher_flags(given: &BTreeMap<String, String>) -> String {
    given_flags(
        given,
        &[
            "teacher.provider",
            "teacher.model",
            "teacher.base_url",
            "teacher.repeats",
            "sft.corrections_share",
            "rollout.seed",
        ],
    )
}

/// Those of the given flags that were set, each with a leading space.
fn given_flags(given: &BTreeMap<String, String>, names: &[&str]) -> String {
    let keys = names.iter().filter_map(|name| Settings::keys().iter().find(|key| key.path() == **name));
    let flags = keys.filter_map(|key| {
        let value = given.get(&key.path())?;
        // Another command defines `--seed` itself.
        let flag = if key.path() == "rollout.seed" { key.qualified_flag() } else { key.flag() };
        Some(format!(" --{flag} {}", schemas::dataset::quoted(Path::new(value))))
    });
    flags.collect()
}

fn show_changed(context: &Context, round: u32, kind: Kind, how: &str, changed: &Changed) {
    let kind = kind.as_str();
    for (model, rows) in &changed.unknown {
        schemas::warn!(
            "note: missing from feedback.sqlite, but kept in the table: {} of {kind} by {model} ({})",
            counted(rows, "row"),
            context.dataset.feedback_path().display()
        );
    }
    if changed.requests.is_empty() {
        schemas::say!("round {round}: no answers of {kind} to change");
    }
    for (model, requests) in &changed.requests {
        schemas::say!("round {round}: {} for {kind} by {model} {how}", counted(requests, "request"));
    }
    if !changed.undo.is_empty() {
        schemas::say!("round {round}: to undo: {}", changed.undo);
    }
}

fn jobs(context: &Context, round: u32, stage: Option<Kind>) -> Vec<Job> {
    match stage {
        None if !context.settings.needs_corrections() => {
            schemas::warn!(
                "note: sft.filter is scored, so train does not use corrections and none are bought (--stage corrections buys them)"
            );
            vec![Job::new(Kind::Scores, round)]
        }
        None if !context.settings.needs_scores() => {
            schemas::warn!(
                "note: rl.answer_reward is alone, so train does not use scores and none are bought (--stage scores buys them)"
            );
            vec![Job::new(Kind::Corrections, round)]
        }
        None => vec![Job::new(Kind::Scores, round), Job::new(Kind::Corrections, round)],
        Some(Kind::Judgements) => vec![Job::judge(round, "base")],
        Some(kind) => vec![Job::new(kind, round)],
    }
}
