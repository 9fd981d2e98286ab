//! The trainer: samples rationales from a small multimodal T5, learns from a Teacher's sentence scores (PPO) and
//! corrections (supervised fine-tuning), and answers problems with the rationales it then writes. It reads and writes
//! Parquet and never asks a Teacher itself. Start reading at `stage`.

pub mod backend;
pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod collective;
pub mod data;
pub mod error;
pub mod info;
pub mod init;
pub mod merge;
pub mod model;
pub mod nn;
pub mod objective;
pub mod pretrain;
pub mod rollout;
pub mod seed;
pub mod stage;
pub mod train;

use backend::libtorch;
use clap::ValueEnum;
use cli::{Cli, Command};
use collective::{Group, Launch, Terms};
use error::{Error, Result};
use init::FeatureWidth;
use schemas::Dataset;
use schemas::settings::Resolved;
use stage::{Context, Outcome};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;
use train::progress;

/// Runs the command line.
///
/// # Errors
/// If the input is bad, a stage fails, or the run is interrupted; what was completed before is kept.
pub fn run(cli: Cli) -> Result<()> {
    if let Some(Command::Completions { shell }) = cli.command {
        schemas::completions::print::<Cli>(shell);
        return Ok(());
    }
    let resolved = Resolved::load(cli.config.as_deref(), cli.settings.values())?;
    if cli.show_settings {
        schemas::say!("{}", resolved.show().trim_end());
        return Ok(());
    }
    let launch = Launch::of_environment()?;
    if let Some(Launch { rank, world, .. }) = launch.as_ref().filter(|launch| launch.rank > 0) {
        schemas::say::mute(format!("rank {rank} of {world}"));
    }
    libtorch::keep_memory();
    libtorch::keep_few_products();
    libtorch::keep_traces_short();
    if let Some(launch) = &launch {
        libtorch::see_one_gpu(launch.local_rank);
    }
    progress::catch_interrupts();
    let works_alone = matches!(
        &cli.command,
        Some(Command::Init { .. } | Command::Bench(_) | Command::Info(_) | Command::Merge { .. })
    );
    if works_alone && launch.as_ref().is_some_and(|launch| launch.rank > 0) {
        return Ok(()); // rank 0 does it
    }
    if let Some(Command::Init { from, tokenizer, shape, image_feature_width, dropout, out }) = &cli.command {
        let seed = resolved.settings.rollout.seed;
        let vision = &resolved.settings.student.vision;
        let width = FeatureWidth::choose(*image_feature_width, cli.data.as_deref(), vision)?;
        let line = match (from, tokenizer) {
            (Some(from), _) => init::from_folder(from, tokenizer.as_deref(), &width, *dropout, seed, out)?,
            (None, Some(tokenizer)) => init::random(tokenizer, shape, &width, *dropout, seed, out)?,
            (None, None) => {
                return Err(Error::input(
                    "expected --from or --tokenizer, found neither",
                    "train init --help",
                ));
            }
        };
        schemas::say!("{line}");
        return Ok(());
    }
    if let Some(Command::Bench(options)) = &cli.command {
        return bench::run(options, &resolved.settings);
    }
    if let Some(Command::Info(options)) = &cli.command {
        schemas::say!("{}", info::info(options, &resolved.settings)?);
        return Ok(());
    }
    if let Some(Command::Merge { folder, out }) = &cli.command {
        schemas::say!("{}", merge::merge(folder, out)?);
        return Ok(());
    }
    let dataset = Dataset::choose(cli.data)?;
    let group = match &launch {
        Some(launch) => {
            collective::join(launch, &terms(&cli.command, cli.round, cli.stage, &dataset, &resolved))?
        }
        None => Group::alone(),
    };
    let done = together(&group, dataset, &resolved, cli.command, (cli.round, cli.stage));
    if let Err(error) = &done {
        group.leave(error);
    }
    done
}

/// The work of all ranks, from taking the lock to the end.
fn together(
    group: &Group,
    dataset: Dataset,
    resolved: &Resolved,
    command: Option<Command>,
    (round, stage): (Option<u32>, Option<stage::Stage>),
) -> Result<()> {
    let _lock = group.on_first(|| Ok(dataset.lock("train")?))?;
    let context = Context::new(dataset, resolved, group.clone())?;
    stage::agree_on_files(&context)?;
    stage::agree_on_data(&context)?;
    work(&context, command, round, stage)?;
    group.finish()
}

/// The properties that all ranks of a run must share. The folder of checkpoints and the number of threads may differ by machine.
fn terms(
    command: &Option<Command>,
    round: Option<u32>,
    stage: Option<stage::Stage>,
    dataset: &Dataset,
    resolved: &Resolved,
) -> Terms {
    let settings = &resolved.settings;
    // A dataset may be in another folder on another machine; a different dataset has different problems.
    let problems = std::fs::metadata(dataset.problems_path()).map_or(0, |file| file.len());
    let version = format!("train {}", env!("CARGO_PKG_VERSION"));
    let mut lines = vec![version, command_line(command, round, stage)];
    let own = ["checkpoints", "tensorboard", "threads", "join_timeout_secs", "rank_timeout_secs"];
    let mut section = String::new();
    for line in resolved.show().lines() {
        let (setting, _origin) = line.split_once(" # ").unwrap_or((line, ""));
        let setting = setting.trim();
        if setting.starts_with('[') {
            section = setting.trim_matches(['[', ']']).to_owned();
        } else if !own.iter().any(|own| setting.starts_with(&format!("{own} ="))) && !setting.is_empty() {
            lines.push(format!("{section}.{setting}"));
        }
    }
    Terms {
        subject: format!("{}, problems.parquet of {problems} bytes", dataset.name()),
        lines,
        join_timeout: Duration::from_secs(settings.student.join_timeout_secs),
        timeout: Duration::from_secs(settings.student.rank_timeout_secs),
    }
}

/// A command as it is typed, with its own flags only: settings are compared one by one, and a dataset by what it holds.
fn command_line(command: &Option<Command>, round: Option<u32>, stage: Option<stage::Stage>) -> String {
    let flag = |name: &str, value: &dyn Display| Some(format!("--{name} {value}"));
    let path =
        |name: &str, path: &Option<PathBuf>| path.as_ref().and_then(|path| flag(name, &path.display()));
    let words = match command {
        None => {
            let stage = stage.and_then(|stage| stage.to_possible_value());
            vec![
                round.and_then(|round| flag("round", &round)),
                stage.and_then(|stage| flag("stage", &stage.get_name())),
            ]
        }
        Some(Command::Pretrain { from, out, share, epochs, option_orders }) => vec![
            Some("pretrain".to_owned()),
            flag("from", &from.display()),
            flag("out", &out.display()),
            flag("share", share),
            flag("epochs", epochs),
            flag("option-orders", option_orders),
        ],
        Some(Command::Features { vit, from_npy, name_map, replace }) => vec![
            Some("features".to_owned()),
            path("vit", vit),
            path("from-npy", from_npy),
            path("name-map", name_map),
            replace.then(|| "--replace".to_owned()),
        ],
        Some(Command::Eval { round, checkpoint }) => {
            vec![Some("eval".to_owned()), flag("round", round), flag("checkpoint", checkpoint)]
        }
        // Rank 0 alone runs these.
        Some(
            Command::Init { .. }
            | Command::Info(_)
            | Command::Merge { .. }
            | Command::Bench(_)
            | Command::Completions { .. },
        ) => Vec::new(),
    };
    let words: Vec<String> = std::iter::once("train".to_owned()).chain(words.into_iter().flatten()).collect();
    words.join(" ")
}

/// The commands that all ranks run together.
fn work(
    context: &Context,
    command: Option<Command>,
    round: Option<u32>,
    stage: Option<stage::Stage>,
) -> Result<()> {
    match command {
        None => {
            let round = round.ok_or_else(|| Error::input("expected --round, found none", "train --help"))?;
            stage::advance(context, round, stage)?;
        }
        Some(
            Command::Init { .. }
            | Command::Info(_)
            | Command::Merge { .. }
            | Command::Bench(_)
            | Command::Completions { .. },
        ) => {}
        Some(Command::Pretrain { from, out, share, epochs, option_orders }) => {
            schemas::say!("{}", pretrain::pretrain(context, &from, &out, share, epochs, option_orders)?);
        }
        Some(Command::Features { from_npy: Some(array), name_map: Some(name_map), replace, .. }) => {
            let name = data::vision::features::name_of(&context.settings.student.vision)?;
            let import = || data::vision::npy::import(&context.dataset, &array, &name_map, name, replace);
            if let Some(line) = context.group.on_first(import)? {
                schemas::say!("{line}");
            }
        }
        Some(Command::Features { vit, replace, .. }) => {
            let name = data::vision::features::name_of(&context.settings.student.vision)?;
            let vit = match vit {
                Some(folder) => data::vision::vit::Vit::read(&folder)?,
                None => {
                    data::vision::vit::Vit::seeded(seed::for_torch(context.settings.rollout.seed, "vit", ""))
                }
            };
            let line = data::vision::extract::extract(
                &context.dataset,
                &vit.to_device(context.device),
                name,
                context.device,
                context.save_interval(),
                replace,
                &context.group,
            )?;
            schemas::say!("{line}");
        }
        Some(Command::Eval { round, checkpoint }) => {
            let line = match stage::evaluate(context, round, &checkpoint)? {
                Outcome::Done(line) | Outcome::Waiting(line) => line,
                Outcome::Already => format!("round {round}: answers after {checkpoint} already exist"),
            };
            schemas::say!("{line}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn ranks_compare_commands_as_they_are_typed() {
        for line in [
            "train --round 1 --stage sft",
            "train --round 12",
            "train pretrain --from base --out new --share 0.25 --epochs 3 --option-orders 2",
            "train features",
            "train features --vit network --replace",
            "train features --from-npy vit.npy --name-map names.json",
            "train eval --round 2 --checkpoint rl",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("a command");
            assert_eq!(command_line(&cli.command, cli.round, cli.stage), line);
        }
    }
}
