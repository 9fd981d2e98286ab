//! Links the command at a fixed address. A position-independent binary relocates 15 MB of data at startup
//! (most of it polars's), a quarter of the memory it uses.

include!("../build/outside.rs");

fn main() {
    tell_what_lies_outside();
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
