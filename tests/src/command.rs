//! Runs the real binaries.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Path of a binary of this workspace, next to the test that is running.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default();
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is not built: run cargo test --workspace, or cargo build first",
        path.display()
    );
    path
}

/// `collect-feedback` on a dataset, with the environment emptied of keys.
pub fn collect_feedback(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("collect-feedback"));
    command.args(arguments).arg("--data").arg(data).stdin(Stdio::null());
    command.env_remove("ANTHROPIC_API_KEY").env_remove("OPENAI_API_KEY").env_remove("RUST_LOG");
    command.current_dir(data); // ignores the developer's ares.toml
    command
}

/// Output and exit status of a command.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be started.
pub fn run(mut command: Command) -> std::io::Result<Ran> {
    Ok(command.output()?.into())
}

/// Starts a command without output.
///
/// # Errors
/// If it cannot be started.
pub fn start(mut command: Command) -> std::io::Result<Child> {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}
