//! `train init`: a new student, random by seed, or a Hugging Face T5 with fusion layers added.

use crate::error::{Error, Result};
use crate::student::checkpoint::{self, Loaded};
use crate::student::{StudentConfig, Weights};
use crate::tokenizer::Tokenizer;
use std::path::Path;

/// Makes a random student of a named shape for a tokenizer.
///
/// # Errors
/// Where the tokenizer is missing or not in T5's layout, the shape is unknown, or `out` is taken.
pub fn random(
    tokenizer: &Path,
    shape: &str,
    image_feature_width: i64,
    seed: u64,
    out: &Path,
) -> Result<String> {
    refuse_taken(out)?;
    let tokens = Tokenizer::vocabulary_size(tokenizer)?;
    // T5 rounds its embedding up to a multiple of 128: 32,100 pieces, 32,128 rows.
    let rows = (tokens + 127) / 128 * 128;
    let config = StudentConfig::named(shape, rows, image_feature_width).ok_or_else(|| Error::BadInput {
        message: format!("--shape: expected tiny, small, base or large, found `{shape}`"),
        hint: None,
    })?;
    Tokenizer::read(tokenizer, &config)?;
    let weights = Weights::random(&config, (seed >> 1) as i64);
    checkpoint::write_student(out, &config, &weights, tokenizer)?;
    Ok(made(out, &weights))
}

/// Takes a Hugging Face T5 folder; fusion layers that it lacks are made from the seed.
///
/// # Errors
/// Where the folder is no T5 or lacks a tokenizer, or `out` is taken.
pub fn from_folder(
    from: &Path,
    tokenizer: Option<&Path>,
    image_feature_width: i64,
    seed: u64,
    out: &Path,
) -> Result<String> {
    refuse_taken(out)?;
    let Loaded { mut config, mut weights } = checkpoint::read_t5(from)?;
    if weights.find("encoder.image_dense.weight").is_none() {
        config.image_feature_width = image_feature_width;
        weights.add_random(&config, config.fusion_shapes(), (seed >> 1) as i64);
    }
    config.architectures = vec!["T5ForMultimodalGeneration".into()];
    let tokenizer = tokenizer.unwrap_or(from);
    Tokenizer::read(tokenizer, &config)?;
    checkpoint::write_student(out, &config, &weights, tokenizer)?;
    Ok(made(out, &weights))
}

fn refuse_taken(out: &Path) -> Result<()> {
    if out.exists() {
        let message = format!("--out: expected a folder that does not exist yet, found {}", out.display());
        return Err(Error::input(message, "choose another folder, or remove that one"));
    }
    Ok(())
}

fn made(out: &Path, weights: &Weights) -> String {
    format!("{}: a student of {:.1} million parameters", out.display(), weights.count() as f64 / 1e6)
}
