// Included by build scripts: tells tests whether their reference data, which is not part of the repository,
// is present. Without it those tests are ignored, and counted as such, instead of passing without checking
// anything.

fn tell_what_lies_outside() {
    println!("cargo::rerun-if-changed=../build/outside.rs");
    for (name, variable, folder) in
        [("real_data", "ARES_REAL_DATA", "data"), ("reference_values", "ARES_REFERENCE", "reference")]
    {
        // Whether a folder exists is checked again only when this file changes: cargo rebuilds everything
        // each time if it watches a path that does not exist.
        println!("cargo::rustc-check-cfg=cfg({name})");
        println!("cargo::rerun-if-env-changed={variable}");
        let usual = || std::path::Path::new("../../shared").join(folder);
        let inside = if name == "real_data" { "scienceqa" } else { "meta.json" };
        if std::env::var_os(variable).map_or_else(usual, Into::into).join(inside).exists() {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
