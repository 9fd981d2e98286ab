//! Lets the trainer's binaries and tests find libtorch by rpath, so that no environment variables are needed, and compiles the
//! C functions for PyTorch's process groups.

use std::env;
use std::path::{Path, PathBuf};

include!("../build/outside.rs");

fn main() {
    tell_what_lies_outside();
    if let Err(message) = link_libtorch() {
        println!("cargo::error={message}");
    }
}

fn link_libtorch() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let (target_os, folder) =
        (variable("CARGO_CFG_TARGET_OS")?, PathBuf::from(variable("CARGO_MANIFEST_DIR")?));
    let root = folder.parent().ok_or("the trainer is outside the workspace; next: build it inside")?;

    // The path keeps the symlink, so that a later `make setup` may point it to another libtorch.
    let libtorch = root.join(".libtorch/current");
    // A file, not the folder: cargo would scan thousands of headers in it. While the file is missing, the build script runs
    // again.
    println!("cargo::rerun-if-changed={}", libtorch.join("build-version").display());
    println!("cargo::rerun-if-changed=build.rs");
    // Cargo's configuration gives it the checkout's path: checkouts that share a target folder must not share an rpath.
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_USE_PYTORCH");

    // torch-sys obeys this one before LIBTORCH, and cargo's configuration cannot unset it.
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return Err(
            "LIBTORCH_USE_PYTORCH is set; next: unset it and run make setup, which finds a Python torch"
                .into(),
        );
    }
    let suffix = if target_os == "macos" { "dylib" } else { "so" };
    for name in ["libtorch_cpu", "libc10"] {
        let library = libtorch.join("lib").join(name).with_extension(suffix);
        if !library.exists() {
            return Err(format!("{} does not exist; next: make setup", library.display()));
        }
    }

    // In addition to libtorch itself: the folder of libtorch_cuda.so, and a `lib` folder next to a relocated binary.
    let origin = if target_os == "macos" { "@loader_path" } else { "$ORIGIN" };
    for place in [libtorch.join("lib"), libtorch.join("cuda"), PathBuf::from(origin).join("lib")] {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", place.display());
    }
    if target_os == "linux" {
        // RPATH, not RUNPATH: an LD_LIBRARY_PATH with another libtorch must not take precedence.
        println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags");
    }
    compile_process_groups(&libtorch);
    Ok(())
}

/// Compiles the C functions in `shim`; what they call is in libtorch_cpu.
fn compile_process_groups(libtorch: &Path) {
    println!("cargo::rerun-if-changed=shim");
    let include = libtorch.join("include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).define("_GLIBCXX_USE_CXX11_ABI", "1").include("shim");
    for folder in [include.join("torch/csrc/api/include"), include] {
        // Warnings in PyTorch's headers are ignored.
        build.flag("-isystem").flag(folder);
    }
    build.files(["shim/process_group.cpp", "shim/overlap.cpp"]).compile("ares_process_group");
}
