//! Tells the tests whether real data is present.

include!("../build/outside.rs");

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    tell_what_lies_outside();
}
