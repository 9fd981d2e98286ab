//! What a launcher tells each process: torchrun, Kubernetes' PyTorchJob, Slurm's srun, or a loop of a shell.

use crate::error::{Error, Result};
use std::ops::RangeInclusive;

/// More processes than this are a typing mistake; `train info --ranks` takes as many.
const MOST_RANKS: usize = 65535;

/// A process's place among those that were started together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its number.
    pub rank: usize,
    /// The number of processes.
    pub world: usize,
    /// Its number on its machine; 0 where nobody tells.
    pub local_rank: usize,
    /// Where the store is that all ranks meet at.
    pub host: String,
    /// The store's port.
    pub port: u16,
    /// Whether this process serves the store.
    pub serves: bool,
    /// Whether the launcher does.
    pub has_agent: bool,
    /// What tells this start from others on the same port: the launcher's name for the run, and how often it was restarted.
    pub run: String,
}

impl Launch {
    /// Of the environment; `None` for a process that was started alone.
    ///
    /// # Errors
    /// If a variable is missing, or not a number in its range.
    pub fn of_environment() -> Result<Option<Self>> {
        // A value that is not UTF-8 counts as set, and is then refused.
        Self::read(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// As [`Launch::of_environment`], of variables by name.
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variable = |name: &str| {
            let value = variable(name)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let number = |name: &str, range: RangeInclusive<usize>| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            let found = text.parse::<usize>().ok().filter(|number| range.contains(number));
            found.map(Some).ok_or_else(|| {
                let (least, most) = range.into_inner();
                wrong(format!("{name}: expected a number from {least} to {most}, found `{text}`"))
            })
        };
        let (ranks, worlds) = (0..=MOST_RANKS - 1, 1..=MOST_RANKS);
        let (rank, world, local_rank, rank_name) = if let Some(rank) = number("RANK", ranks.clone())? {
            let world = number("WORLD_SIZE", worlds)?
                .ok_or_else(|| wrong("RANK is set: expected WORLD_SIZE as well, found none".to_owned()))?;
            (rank, world, number("LOCAL_RANK", ranks)?, "RANK")
        } else if variable("MASTER_ADDR").is_none() {
            return Ok(None);
        } else if let Some(rank) = number("SLURM_PROCID", ranks.clone())? {
            // In a batch script outside srun, SLURM_NTASKS is what the job may start, and the step has one task.
            let world = match number("SLURM_STEP_NUM_TASKS", worlds.clone())? {
                Some(world) => world,
                None => number("SLURM_NTASKS", worlds)?.unwrap_or(1),
            };
            (rank, world, number("SLURM_LOCALID", ranks)?, "SLURM_PROCID")
        } else {
            return Ok(None);
        };
        if rank >= world {
            return Err(wrong(format!(
                "{rank_name}: expected a number below {world} (the number of ranks), found {rank}"
            )));
        }
        if world == 1 {
            return Ok(None);
        }
        let missing = |name: &str| {
            wrong(format!("{rank_name} is set, with {world} ranks: expected {name} as well, found none"))
        };
        let host = variable("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = variable("MASTER_PORT").ok_or_else(|| missing("MASTER_PORT"))?;
        let number = port.parse::<u16>().ok().filter(|number| *number > 0);
        let wrong_port = || wrong(format!("MASTER_PORT: expected a port from 1 to 65535, found `{port}`"));
        let port = number.ok_or_else(wrong_port)?;
        let is_true = |text: String| matches!(text.as_str(), "1" | "True" | "true");
        // torchrun's own agent serves the store.
        let is_served = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(is_true);
        let names = [
            "TORCHELASTIC_RUN_ID",
            "TORCHELASTIC_RESTART_COUNT",
            "SLURM_JOB_ID",
            "SLURM_STEP_ID",
            "SLURM_RESTART_COUNT",
        ];
        let run: Vec<String> = names.iter().map(|name| variable(name).unwrap_or_default()).collect();
        Ok(Some(Self {
            rank,
            world,
            local_rank: local_rank.unwrap_or(0),
            host,
            port,
            serves: rank == 0 && !is_served,
            has_agent: is_served,
            run: run.join("/"),
        }))
    }
}

fn wrong(message: String) -> Error {
    Error::input(
        message,
        "a process that runs alone needs none of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT: unset them; ranks that \
         belong together need all four (docs/distributed.md)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::read(&|name| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const MASTER: [(&str, &str); 2] = [("MASTER_ADDR", "node-7"), ("MASTER_PORT", "29500")];

    fn launched(variables: &[(&str, &str)]) -> Launch {
        read(&[variables, &MASTER].concat()).expect("valid").expect("several ranks")
    }

    #[test]
    fn a_process_by_itself_has_no_launch() {
        assert_eq!(read(&[]).expect("valid"), None);
        assert_eq!(read(&MASTER).expect("valid"), None);
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).expect("valid"), None);
        // srun of programs that do not know each other.
        assert_eq!(read(&[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")]).expect("valid"), None);
        // A batch script outside srun.
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_NUM_TASKS", "1")];
        assert_eq!(read(&[&batch[..], &MASTER].concat()).expect("valid"), None);
    }

    #[test]
    fn each_launcher_is_understood() {
        let shell = launched(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")]);
        assert_eq!((shell.rank, shell.world, shell.local_rank, shell.serves), (1, 2, 1, false));
        assert_eq!((shell.host.as_str(), shell.port), ("node-7", 29500));
        assert!(launched(&[("RANK", "0"), ("WORLD_SIZE", "2")]).serves, "PyTorchJob has no LOCAL_RANK");
        let slurm = launched(&[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "1")]);
        assert_eq!((slurm.rank, slurm.world, slurm.local_rank), (3, 4, 1));
        let elastic = |count| {
            launched(&[
                ("RANK", "0"),
                ("WORLD_SIZE", "2"),
                ("TORCHELASTIC_USE_AGENT_STORE", "True"),
                ("TORCHELASTIC_RUN_ID", "7"),
                ("TORCHELASTIC_RESTART_COUNT", count),
            ])
        };
        assert!(!elastic("0").serves, "the agent does");
        assert_ne!(elastic("0").run, elastic("1").run);
        // torchrun within a Slurm job.
        let both =
            launched(&[("RANK", "0"), ("WORLD_SIZE", "8"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")]);
        assert_eq!(both.world, 8);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |variables: &[(&str, &str)]| read(variables).expect_err("refused").to_string();
        assert!(refused(&[("RANK", "0")]).contains("WORLD_SIZE"));
        assert!(refused(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("found `x`"));
        assert!(refused(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("below 2"));
        assert!(refused(&[("RANK", "0"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR"));
        let port = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")];
        assert!(refused(&port).contains("MASTER_PORT: expected a port from 1 to 65535, found `70000`"));
        let slurm = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("MASTER_ADDR", "a")];
        assert!(refused(&slurm).contains("MASTER_PORT"));
        for found in ["0", "65536", "99999999999", "99999999999999999999999", "two"] {
            let said = refused(&[("RANK", "0"), ("WORLD_SIZE", found)]);
            assert_eq!(said, format!("WORLD_SIZE: expected a number from 1 to 65535, found `{found}`"));
        }
        let local = refused(&[("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "-1")]);
        assert_eq!(local, "LOCAL_RANK: expected a number from 0 to 65534, found `-1`");
        let tasks = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "many"), ("MASTER_ADDR", "a")];
        assert!(refused(&tasks).contains("SLURM_NTASKS") && refused(&tasks).contains("found `many`"));
        // As of a variable that a script sets to nothing but a space.
        let blank = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", " "), ("MASTER_PORT", "29500")];
        assert!(refused(&blank).contains("expected MASTER_ADDR as well"));
    }

    #[test]
    fn spaces_around_a_value_do_not_matter() {
        let spaced =
            [("RANK", " 1"), ("WORLD_SIZE", "2 "), ("MASTER_ADDR", " node-7 "), ("MASTER_PORT", " 29500 ")];
        assert_eq!(read(&spaced).expect("valid"), Some(launched(&[("RANK", "1"), ("WORLD_SIZE", "2")])));
    }
}
