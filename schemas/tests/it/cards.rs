//! The data cards in datasets/README.md match the declarations in the code.

use crate::data_cards::{card, fill, tables};
use std::path::Path;

#[test]
fn readme_shows_every_column() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        fill(&text).unwrap() == text,
        "run: cargo run --release -p schemas --example data_cards datasets/README.md"
    );
}

#[test]
fn types_units_ranges_and_nulls() {
    let lines = |name: &str| {
        let (_, _, columns) = tables().into_iter().find(|(table, ..)| *table == name).unwrap();
        card(&columns).lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let problems = lines("problems");
    assert_eq!(
        problems[..4],
        [
            "| name | type | meaning | unit | range | null |",
            "| --- | --- | --- | --- | --- | --- |",
            "| problem_id | `utf8` | Identifier, unique in the dataset. | | | no |",
            "| split | `utf8` | Split that the problem belongs to. | | train, val, test | no |",
        ]
    );
    let types = |name: &str| {
        lines(name)
            .iter()
            .skip(2)
            .filter_map(|line| Some(line.split(" | ").nth(1)?.trim_matches('`').to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(types("problems")[3..5], ["list<utf8>", "uint8"]);
    assert_eq!(
        types("rollouts")[5..],
        [
            "list<int32>",
            "list<float32>",
            "list<float32>",
            "list<float32>",
            "list<struct<text utf8, token_end uint32>>",
            "bool",
            "utf8",
            "uint64",
        ]
    );
    assert_eq!(
        types("metrics"),
        ["uint32", "utf8", "uint64", "float64", "utf8", "float64", "timestamp(ms, UTC)"]
    );
    assert_eq!(
        lines("scores")[8],
        "| score | `float32` | The Teacher's score: 0 wrong, 0.5 neutral, 1 correct and relevant. Not centred. | | 0 to 1 | no |"
    );
    assert_eq!(
        lines("requests")[14],
        "| cost_usd | `float64` | Cost of all attempts; null if the price is unknown. | US dollars | | yes |"
    );
}

#[test]
fn markers_must_be_right() {
    let all: String =
        tables().iter().map(|(name, ..)| format!("<!-- columns: {name} --><!-- end -->")).collect();
    let filled = fill(&all).unwrap();
    assert_eq!(fill(&filled).unwrap(), filled);

    let message = |text: &str| fill(text).unwrap_err();
    assert_eq!(message("<!-- columns: scores"), "`<!-- columns: ` without `-->`");
    assert_eq!(message("<!-- columns: scores -->"), "`<!-- columns: scores -->` without `<!-- end -->`");
    assert_eq!(message("<!-- columns: score --><!-- end -->"), "`score` is no table, or appears twice");
    assert_eq!(
        message(&all.replace("<!-- columns: scores --><!-- end -->", "")),
        "no `<!-- columns: NAME -->` for scores"
    );
}
