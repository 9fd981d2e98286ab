//! Puts the git revision into the build, for `ares.created_by` in every Parquet file.

use std::process::Command;

include!("../build/outside.rs");

fn main() {
    tell_what_lies_outside();
    // Setting this variable during development avoids rebuilding every crate after each commit.
    println!("cargo::rerun-if-env-changed=ARES_GIT_REVISION");
    let revision = std::env::var("ARES_GIT_REVISION").ok().or_else(|| {
        println!("cargo::rerun-if-changed=../.git/logs/HEAD");
        let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    println!("cargo::rustc-env=ARES_GIT_REVISION={}", revision.unwrap_or_else(|| "unknown".to_owned()));
}
