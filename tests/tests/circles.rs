//! No file of a crate imports, through others, a file that imports it: each can be read without those above it.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The crates, each with its minimum number of files.
const CRATES: [(&str, usize); 3] = [("schemas", 25), ("feedback-pipeline", 150), ("trainer", 60)];

/// A module's path in the crate: empty for `lib.rs`.
type Module = Vec<String>;

/// Sources by module, without their comments and tests.
fn sources(root: &Path, folder: &Path, found: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(root, &path, found);
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "rs")
            || name.ends_with("tests")
            || name == "main"
        {
            continue;
        }
        let within: PathBuf = path.strip_prefix(root).unwrap().with_extension("");
        let mut module: Module = within.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if name == "mod" || module == ["lib"] {
            module.pop();
        }
        found.insert(module, code(&std::fs::read_to_string(&path).unwrap()));
    }
}

/// A source without comments and unit tests, which are at its end.
fn code(source: &str) -> String {
    let tests = ["mod tests", "pub(super) mod tests", "pub(crate) mod tests"];
    let begin = |tests: &&str| source.find(&format!("#[cfg(test)]\n{tests}"));
    let end = tests.iter().filter_map(begin).min().unwrap_or(source.len());
    let source = &source[..end];
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Paths of a use tree such as `a::{b, c::{self, d as e}}`, each with the name that it gets.
fn expand(tree: &str, before: &[String], into: &mut Vec<(Module, String)>) {
    let tree = tree.trim();
    if let Some((head, rest)) = tree.split_once('{') {
        let mut before = before.to_vec();
        before.extend(head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(ToOwned::to_owned));
        let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
        let (mut depth, mut start) = (0, 0);
        for (place, letter) in inner.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&inner[start..place], &before, into);
                    start = place + 1;
                }
                _ => {}
            }
        }
        expand(&inner[start..], &before, into);
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
        let mut whole = before.to_vec();
        whole.extend(path.split("::").map(|part| part.trim().to_owned()).filter(|part| part != "self"));
        let name = alias.map(|alias| alias.trim().to_owned()).or_else(|| whole.last().cloned());
        into.push((whole, name.unwrap_or_default()));
    }
}

/// The first words of paths that begin with `start` outside `use` lines: `crate::a::b(…)` gives a, b.
fn inline(code: &str, start: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    for (place, _) in code.match_indices(start) {
        let before = &code[..place];
        let is_inside = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        if is_inside || before.ends_with("pub(in ") {
            continue;
        }
        let rest = code[place..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'));
        let path: String = rest.collect();
        // Macros are at the root, wherever they are defined.
        if code[place + path.len()..].starts_with('!') {
            continue;
        }
        let parts: Module = path.split("::").filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect();
        // `crate::a::{…}` is a use tree.
        if !path.ends_with("::") {
            paths.push(parts);
        }
    }
    paths
}

/// The graph of a crate's files.
struct Graph {
    sources: BTreeMap<Module, String>,
    /// What each file imports, by the name it gets there.
    uses: BTreeMap<Module, Vec<(Module, String)>>,
}

impl Graph {
    fn new(sources: BTreeMap<Module, String>) -> Self {
        let mut graph = Self { sources, uses: BTreeMap::new() };
        for (module, code) in &graph.sources {
            let mut uses = Vec::new();
            for (place, _) in code.match_indices("use ") {
                let begins_word = code[..place].chars().next_back().is_none_or(char::is_whitespace);
                if begins_word && let Some((tree, _)) = code[place + 4..].split_once(';') {
                    expand(tree, &[], &mut uses);
                }
            }
            let uses =
                uses.into_iter().filter_map(|(path, name)| Some((graph.absolute(module, &path)?, name)));
            graph.uses.insert(module.clone(), uses.collect());
        }
        graph
    }

    /// A path as written in `module`, from the crate's root; `None` where it leads out of the crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let (mut base, mut rest) = (module.clone(), path);
        match path.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                base.push(first.to_owned());
                if !self.sources.contains_key(&base) {
                    return None;
                }
                rest = &path[1..];
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The file that holds what an absolute path names; names that a file only imports are followed.
    fn file(&self, path: &[String], depth: usize) -> Module {
        let length = (0..=path.len()).rev().find(|&length| self.sources.contains_key(&path[..length]));
        let module = path[..length.unwrap_or(0)].to_vec();
        let imported = path.get(module.len()).and_then(|next| {
            let mut uses = self.uses.get(&module)?.iter();
            uses.find(|(_, name)| name == next).map(|(target, _)| target.clone())
        });
        match imported {
            Some(target) if depth < 8 => self.file(&target, depth + 1),
            _ => module,
        }
    }

    fn edges(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |(module, code): (&Module, &String)| {
            let mut paths: Vec<Module> = self.uses[module].iter().map(|(path, _)| path.clone()).collect();
            let children = self
                .sources
                .keys()
                .filter(|other| other.len() == module.len() + 1 && other.starts_with(module));
            let children: Vec<String> =
                children.filter_map(|child| Some(format!("{}::", child.last()?))).collect();
            for start in ["crate::", "super::"].into_iter().chain(children.iter().map(String::as_str)) {
                paths.extend(inline(code, start).iter().filter_map(|path| self.absolute(module, path)));
            }
            let files = paths.iter().map(|path| self.file(path, 0)).filter(|file| file != module);
            (module.clone(), files.collect())
        };
        self.sources.iter().map(of).collect()
    }

    /// Sets of files that all reach each other.
    fn circles(&self) -> BTreeSet<Vec<String>> {
        let edges = self.edges();
        let reached = |from: &Module| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(module) = open.pop() {
                for next in &edges[&module] {
                    if seen.insert(next.clone()) {
                        open.push(next.clone());
                    }
                }
            }
            seen
        };
        let all: BTreeMap<&Module, BTreeSet<Module>> =
            edges.keys().map(|module| (module, reached(module))).collect();
        let circle = |module: &Module| -> Vec<String> {
            let within = all[module].iter().filter(|other| all[other].contains(module));
            within.map(|module| module.join("::")).collect()
        };
        edges.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
    }
}

#[test]
fn no_file_imports_itself_through_others() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut circles = Vec::new();
    for (name, at_least) in CRATES {
        let root = workspace.join(name).join("src");
        let mut found = BTreeMap::new();
        sources(&root, &root, &mut found);
        assert!(found.len() >= at_least, "{name}: {} files", found.len());
        circles.extend(
            Graph::new(found).circles().into_iter().map(|circle| format!("{name}: {}", circle.join(", "))),
        );
    }
    assert!(circles.is_empty(), "files that import each other: {circles:#?}");
}

#[test]
fn circles_are_found_in_every_form() {
    let graph = |files: &[(&str, &str)]| {
        let of = |&(module, source): &(&str, &str)| {
            (
                module.split("::").filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect(),
                code(source),
            )
        };
        Graph::new(files.iter().map(of).collect()).circles().into_iter().collect::<Vec<_>>()
    };
    let root = ("", "pub mod a;\npub mod b;\nmod c;\nmod d;");
    let circle = vec![vec!["a".to_owned(), "b".to_owned()]];
    for (a, b) in [
        ("use crate::b::Thing;", "use crate::{a, c::Other};"),
        ("fn f() { crate::b::g() }", "use super::a::{self, X as Y};"),
        ("use crate::d::Told;", "use crate::a::f;"), // through a name that d only imports
    ] {
        assert_eq!(
            graph(&[root, ("a", a), ("b", b), ("c", ""), ("d", "pub use crate::b::Told;")]),
            circle,
            "{a} {b}"
        );
    }
    let test = "use crate::b::Thing;\n#[cfg(test)]\nmod tests {\nuse crate::c::Other;\n}";
    assert!(graph(&[root, ("a", test), ("b", ""), ("c", "// crate::b\nuse crate::a;")]).is_empty());
    let parent = [("", "mod a;"), ("a", "pub mod b;\nfn f() { b::g() }"), ("a::b", "use super::f;")];
    assert_eq!(graph(&parent), [["a", "a::b"]]);
}
