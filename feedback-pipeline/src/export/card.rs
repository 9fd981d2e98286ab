//! `README.md` of an export: the card that tells `datasets` which files belong to which split.

use super::left_out::Split;
use super::lines::Written;
use super::options::{Plan, name};
use crate::error::{Error, Result};
use schemas::Dataset;
use schemas::number::grouped;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// A configuration of the card: a name, its files, and its features in YAML.
pub(super) struct Config {
    pub(super) name: String,
    pub(super) files: Vec<Written>,
    /// Lines below `features:`, indented for a list; empty if the files describe their columns themselves.
    pub(super) features: String,
}

/// Writes the card.
pub(super) fn write(
    folder: &Path,
    dataset: &Dataset,
    plan: &Plan,
    configs: &[Config],
    about: &str,
) -> Result<()> {
    // A dataset may have no card, but an unreadable one is an error: the problems would be published without
    // their licence.
    let card = dataset.card_path().try_exists().unwrap_or(true).then(|| dataset.card()).transpose()?;
    let (title, source, licence) = card.map_or_else(
        || (dataset.name(), String::new(), String::new()),
        |card| (card.name, card.source, card.licence),
    );
    let format = name(&plan.format);
    let mut text = String::from("---\n");
    let yaml = |text: &str| serde_json::to_string(text).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "pretty_name: {}", yaml(&format!("{title}, round {}, {format}", plan.round)));
    licence_lines(&mut text, &licence);
    let _ = writeln!(text, "tags:\n- ares\n- {format}");
    let _ = writeln!(text, "configs:");
    for (place, config) in configs.iter().enumerate() {
        let _ = writeln!(text, "- config_name: {}", config.name);
        if place == 0 && configs.len() > 1 {
            let _ = writeln!(text, "  default: true");
        }
        let _ = writeln!(text, "  data_files:");
        for (split, files) in by_split(&config.files) {
            let _ = writeln!(text, "  - split: {}", split.hub_name());
            let _ = writeln!(text, "    path:");
            for file in files {
                let _ = writeln!(text, "    - {}", yaml(&file.name));
            }
        }
    }
    if configs.iter().any(|config| !config.features.is_empty()) {
        let _ = writeln!(text, "dataset_info:");
        for config in configs {
            let _ =
                writeln!(text, "- config_name: {}\n  features:\n{}", config.name, config.features.trim_end());
            let _ = writeln!(text, "  splits:");
            for (split, files) in by_split(&config.files) {
                let lines: u64 = files.iter().map(|file| file.lines).sum();
                let size = |file: &&Written| {
                    std::fs::metadata(folder.join(&file.name)).map_or(0, |about| about.len())
                };
                let bytes: u64 = files.iter().map(size).sum();
                let name = split.hub_name();
                let _ = writeln!(text, "  - name: {name}\n    num_bytes: {bytes}\n    num_examples: {lines}");
            }
        }
    }
    let _ = writeln!(text, "---\n\n# {title}, round {}\n\n{about}\n", plan.round);
    if !source.is_empty() {
        let _ = writeln!(text, "Problems: {source}. Licence: {licence}.\n");
    }
    let _ = writeln!(text, "| configuration | split | lines |\n| --- | --- | --- |");
    for config in configs {
        for (split, files) in by_split(&config.files) {
            let lines: u64 = files.iter().map(|file| file.lines).sum();
            let _ = writeln!(text, "| {} | {} | {} |", config.name, split.hub_name(), grouped(lines));
        }
    }
    let _ = writeln!(
        text,
        "\n`manifest.json` lists the settings, the table files that the lines were made from, and the rows that were left out."
    );
    let path = folder.join("README.md");
    std::fs::write(&path, text).map_err(Error::io("write", &path))
}

fn by_split(files: &[Written]) -> BTreeMap<Split, Vec<&Written>> {
    let mut splits: BTreeMap<Split, Vec<&Written>> = BTreeMap::new();
    for file in files {
        splits.entry(file.split).or_default().push(file);
    }
    splits
}

/// The Hub identifies licences by short names.
fn licence_lines(text: &mut String, licence: &str) {
    const KNOWN: [(&str, &str); 8] = [
        ("mit", "mit"),
        ("apache20", "apache-2.0"),
        ("cc010", "cc0-1.0"),
        ("ccby40", "cc-by-4.0"),
        ("ccbysa40", "cc-by-sa-4.0"),
        ("ccbync40", "cc-by-nc-4.0"),
        ("ccbyncsa40", "cc-by-nc-sa-4.0"),
        ("ccbyncnd40", "cc-by-nc-nd-4.0"),
    ];
    let bare: String = licence.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let known = KNOWN.iter().find(|(name, _)| *name == bare).map(|(_, licence)| *licence);
    let _ = match known {
        Some(known) => writeln!(text, "license: {known}"),
        None if bare.is_empty() => writeln!(text, "license: unknown"),
        None => writeln!(text, "license: other\nlicense_name: see-below"),
    };
}
