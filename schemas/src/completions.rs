//! Shell completion scripts, generated from a command's clap definition.

use clap::CommandFactory;
pub use clap_complete::Shell;

/// Prints the completion script of a command for a shell.
pub fn print<C: CommandFactory>(shell: Shell) {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new(); // clap_complete would panic if standard output is closed
    clap_complete::generate(shell, &mut command, name, &mut script);
    crate::say!("{}", String::from_utf8_lossy(&script).trim_end());
}
