//! Modules import only from lower layers, so that each can be understood without those above it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Layers from the lowest to the highest; modules of one layer do not import each other.
const LAYERS: [&[&str]; 9] = [
    &["error"],
    &["items"],
    &["teacher"],
    &["reply", "request"],
    &["store"],
    &["send", "tables"],
    &["collect"],
    &["export", "import", "inspect"],
    &["cli"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Modules of the crate that a source file imports, except in its tests.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(list, _)| list);
        for path in list.unwrap_or(rest).split(',').take(if list.is_some() { usize::MAX } else { 1 }) {
            let name: String = path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.insert(name);
        }
    }
    names
}

#[test]
fn modules_import_only_from_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 80, "{}", files.len());
    let mut upward = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        let module = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} has no layer"));
        for name in imports(&std::fs::read_to_string(&file).unwrap()) {
            if name != module && layer(&name).is_some_and(|other| other >= own) {
                upward.push(format!("{} imports {name}", path.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "use crate::items::Item;\nuse crate::{send, store::Cache};\nlet x = crate::teacher::open();\n#[cfg(test)]\nmod tests {\nuse crate::cli;\n}";
    assert_eq!(imports(source).into_iter().collect::<Vec<_>>(), ["items", "send", "store", "teacher"]);
}
