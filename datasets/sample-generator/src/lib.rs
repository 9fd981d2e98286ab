//! Generates the sample problem set in `datasets/sample`: multiple-choice problems in the format of
//! ScienceQA, with drawn pictures, gold solutions and a tokenizer.
//!
//! ```text
//! seed ─► families (map, magnets, …): question, options, solution, picture ─► set: splits, identifiers
//!                                                                              ├─► problems.parquet, images/*.png
//!                                                                              └─► tokenizer/
//! ```
//!
//! The same seed gives the same problems and pixels on every machine. To regenerate the set: `cargo run
//! --release -p sample-generator -- --out datasets/sample`.

mod canvas;
mod families;
mod font;
mod rng;
mod set;
mod tokenizer;

pub use set::{SampleSet, generate};

use schemas::{Dataset, DatasetCard, Provenance};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Seed of the shipped set.
pub const SEED: u64 = 240_700_087;

/// An error while the set is generated or written.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Generates the set of a seed and writes it as a dataset folder: `problems.parquet`, `images/`,
/// `dataset.toml` and `tokenizer/`. Pictures of an older set in that folder are removed; other files are
/// kept.
///
/// # Errors
/// If the write fails.
pub fn write(out: &Path, seed: u64) -> Result<SampleSet, Error> {
    let set = generate(seed)?;
    let dataset = Dataset::at(out);
    remove_other_pictures(&dataset, &set)?;
    for (name, bytes) in &set.pictures {
        schemas::file::write_bytes(&out.join(name), bytes)?;
    }
    // No git revision: the file's bytes depend only on the seed.
    let maker = "sample-generator".to_owned();
    let config_sha256 = schemas::provenance::sha256_hex(format!("seed = {seed}").as_bytes());
    let provenance = Provenance { created_by: maker.clone(), config_sha256 };
    schemas::table::write(&dataset.problems_path(), set.problems.iter().cloned(), &provenance)?;
    dataset.write_card(&DatasetCard {
        name: "sample".into(),
        source: format!("drawn by datasets/sample-generator with seed {seed}"),
        licence: env!("CARGO_PKG_LICENSE").into(),
        created_by: maker,
    })?;
    tokenizer::write(&out.join("tokenizer"), &set.problems)?;
    Ok(set)
}

fn remove_other_pictures(dataset: &Dataset, set: &SampleSet) -> Result<(), Error> {
    let folder = dataset.images_dir();
    fs::create_dir_all(&folder)?;
    let wanted: HashSet<_> = set.pictures.iter().map(|(name, _)| dataset.root().join(name)).collect();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "png") && !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
