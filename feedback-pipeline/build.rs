//! Links the command at a fixed address. A position-independent one starts by patching 15 MB of addresses in its data
//! (polars brings most of them), which makes a quarter of its memory.

include!("../build/outside.rs");

fn main() {
    tell_what_lies_outside();
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
