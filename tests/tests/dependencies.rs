//! The two commands share only `schemas`: the feedback pipeline builds without libtorch, the trainer without
//! a client for Teachers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

#[test]
fn feedback_pipeline_has_no_libtorch() {
    let crates = crates_of("feedback-pipeline");
    assert_has(&crates, &["schemas", "reqwest", "rusqlite"]);
    assert_lacks(&crates, &["tch", "torch-sys", "trainer"]);
}

#[test]
fn trainer_has_no_client_for_teachers() {
    let crates = crates_of("trainer");
    assert_has(&crates, &["schemas", "tch", "torch-sys"]);
    assert_lacks(&crates, &["reqwest", "hyper", "rusqlite", "governor", "polars", "feedback-pipeline"]);
}

#[test]
fn schemas_has_neither() {
    let crates = crates_of("schemas");
    assert_has(&crates, &["arrow", "parquet"]);
    assert_lacks(&crates, &["tch", "torch-sys", "reqwest", "hyper", "rusqlite", "governor", "polars"]);
}

#[test]
fn crates_are_found_however_deep_but_not_behind_tests() {
    let edge = |to: &str, kind: Value| serde_json::json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] });
    let node = |id: &str, deps: Vec<Value>| serde_json::json!({ "id": id, "deps": deps });
    let names = ["root", "direct", "deep", "builder", "tested", "apart"];
    let metadata = serde_json::json!({
        "packages": names.map(|name| serde_json::json!({ "id": name, "name": name })),
        "resolve": { "nodes": [
            node("root", vec![edge("direct", Value::Null), edge("builder", "build".into()), edge("tested", "dev".into())]),
            node("direct", vec![edge("deep", Value::Null), edge("root", Value::Null)]),
            node("deep", vec![]),
            node("builder", vec![]),
            node("tested", vec![edge("apart", Value::Null)]),
            node("apart", vec![]),
        ] },
    });
    let expected: BTreeSet<String> = ["builder", "deep", "direct"].map(ToOwned::to_owned).into();
    assert_eq!(reachable(&metadata, "root"), expected);
}

fn assert_has(crates: &BTreeSet<String>, wanted: &[&str]) {
    for name in wanted {
        assert!(crates.contains(*name), "{name} should be there; is the dependency tree read rightly?");
    }
}

fn assert_lacks(crates: &BTreeSet<String>, forbidden: &[&str]) {
    let found: Vec<_> = forbidden.iter().filter(|name| crates.contains(**name)).collect();
    assert!(found.is_empty(), "{found:?} came in; see who asks for it with `cargo tree --invert CRATE`");
}

/// Names of all dependencies of a workspace member on this platform, without those of its tests.
fn crates_of(member: &str) -> BTreeSet<String> {
    // Only the crates of this platform are certain to be on the machine, and the test must not fetch any.
    let version = run(&["--version", "--verbose"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let metadata = run(&["metadata", "--format-version=1", "--offline", "--filter-platform", host]);
    reachable(&serde_json::from_str(&metadata).expect("cargo metadata prints JSON"), member)
}

/// Walks the resolved graph from a package along normal and build dependencies.
fn reachable(metadata: &Value, member: &str) -> BTreeSet<String> {
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let edges: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let kept = list(&node["deps"]).into_iter().filter(|dependency| {
                list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].as_str() != Some("dev"))
            });
            (text(&node["id"]), kept.map(|dependency| text(&dependency["pkg"])).collect())
        })
        .collect();

    let start = names.iter().find(|(_, name)| *name == member).expect("the member is in the workspace").0;
    let mut seen = BTreeSet::from([start.clone()]);
    let mut waiting = vec![start.clone()];
    while let Some(id) = waiting.pop() {
        for next in &edges[&id] {
            if seen.insert(next.clone()) {
                waiting.push(next.clone());
            }
        }
    }
    seen.remove(start);
    seen.iter().map(|id| names[id].clone()).collect()
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
