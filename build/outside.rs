// Included by build scripts: tells tests whether what they compare with is there, which is no part of the repository. Tests
// without it are ignored, and counted as such, instead of passing without having looked at anything.

fn tell_what_lies_outside() {
    println!("cargo::rerun-if-changed=../build/outside.rs");
    for (name, variable, folder) in
        [("real_data", "ARES_REAL_DATA", "data"), ("reference_values", "ARES_REFERENCE", "reference")]
    {
        // A folder that appears or goes away is seen when this file is touched; looking at one that is not there would build
        // everything anew each time.
        println!("cargo::rustc-check-cfg=cfg({name})");
        println!("cargo::rerun-if-env-changed={variable}");
        let usual = || std::path::Path::new("../../shared").join(folder);
        let inside = if name == "real_data" { "scienceqa" } else { "meta.json" };
        if std::env::var_os(variable).map_or_else(usual, Into::into).join(inside).exists() {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
