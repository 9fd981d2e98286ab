//! Completion scripts of both commands.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::process::Command;
use workspace_tests::command::{binary, run};

#[test]
fn scripts_for_every_shell_name_commands_and_flags() {
    for (name, command, flag) in
        [("collect-feedback", "estimate", "mix-teachers"), ("train", "pretrain", "checkpoint")]
    {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let mut line = Command::new(binary(name));
            line.args(["completions", shell]).current_dir(std::env::temp_dir());
            let ran = run(line).unwrap();
            assert_eq!(ran.status, Some(0), "{name} {shell}: {}", ran.stderr);
            for word in [name, command, flag] {
                assert!(ran.stdout.contains(word), "{name} {shell}: no {word}");
            }
        }
    }
}

#[test]
fn an_unknown_shell_is_bad_usage() {
    let mut line = Command::new(binary("collect-feedback"));
    line.args(["completions", "command.com"]);
    let ran = run(line).unwrap();
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("powershell"), "{}", ran.stderr);
}
