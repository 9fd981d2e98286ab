//! What a launcher tells each process: torchrun, Kubernetes' PyTorchJob, Slurm's srun, or a loop of a shell.

use crate::error::{Error, Result};

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
    /// If a variable is missing or no number.
    pub fn of_environment() -> Result<Option<Self>> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`Launch::of_environment`], of variables by name.
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            let wrong = |_| wrong(format!("{name}: expected a number from 0, found `{text}`"));
            text.trim().parse().map(Some).map_err(wrong)
        };
        let (rank, world, local_rank, rank_name) = if let Some(rank) = number("RANK")? {
            let world = number("WORLD_SIZE")?
                .ok_or_else(|| wrong("RANK is set: expected WORLD_SIZE as well, found none".to_owned()))?;
            (rank, world, number("LOCAL_RANK")?, "RANK")
        } else if let Some(rank) = number("SLURM_PROCID")?.filter(|_| variable("MASTER_ADDR").is_some()) {
            // In a batch script outside srun, SLURM_NTASKS is what the job may start, and the step has one task.
            let world = number("SLURM_STEP_NUM_TASKS")?.or(number("SLURM_NTASKS")?).unwrap_or(1);
            (rank, world, number("SLURM_LOCALID")?, "SLURM_PROCID")
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
        let needed = |name: &str| {
            variable(name).ok_or_else(|| {
                wrong(format!("{rank_name} is set, with {world} ranks: expected {name} as well, found none"))
            })
        };
        let (host, port) = (needed("MASTER_ADDR")?, needed("MASTER_PORT")?);
        let port = port.trim().parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| wrong("MASTER_PORT: expected a port from 1 to 65535".to_owned()))?;
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
        assert!(refused(&port).contains("MASTER_PORT"));
        let slurm = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("MASTER_ADDR", "a")];
        assert!(refused(&slurm).contains("MASTER_PORT"));
    }
}
