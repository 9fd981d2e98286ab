//! `train init`: a new student, random by seed, or a Hugging Face T5 with fusion layers added.

use crate::checkpoint::hf::{self, Loaded};
use crate::data::tokenizer::Tokenizer;
use crate::data::vision::ImageFeatures;
use crate::data::vision::features::wrong_width;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, add_random, family, random_weights};
use crate::nn::weights::Weights;
use crate::seed;
use schemas::Dataset;
use std::path::{Path, PathBuf};

/// Makes a random student of a named shape for a tokenizer.
///
/// # Errors
/// If the tokenizer is missing or not in T5's layout, the shape is unknown, or `out` exists.
pub fn random(
    tokenizer: &Path,
    shape: &str,
    width: &FeatureWidth,
    dropout: Option<f64>,
    seed: u64,
    out: &Path,
) -> Result<String> {
    refuse_taken(out)?;
    let tokens = Tokenizer::vocabulary_size(tokenizer)?;
    // T5 rounds its embedding up to a multiple of 128: 32,100 pieces, 32,128 rows.
    let rows = (tokens + 127) / 128 * 128;
    let mut config = family::named(shape, rows, width.or_usual()).ok_or_else(|| Error::BadInput {
        message: format!("--shape: expected tiny, small, base or large, found `{shape}`"),
        hint: None,
    })?;
    set_dropout(&mut *config, dropout)?;
    Tokenizer::read(tokenizer, &*config)?;
    let weights = random_weights(&*config, seed::for_torch(seed, "init", ""));
    hf::write_student(out, &*config, &weights, tokenizer)?;
    Ok(made(out, &*config, &weights))
}

/// Imports a Hugging Face T5 folder; missing fusion layers are initialized from the seed.
///
/// # Errors
/// If the folder is not a T5 or lacks a tokenizer, or `out` exists.
pub fn from_folder(
    from: &Path,
    tokenizer: Option<&Path>,
    width: &FeatureWidth,
    dropout: Option<f64>,
    seed: u64,
    out: &Path,
) -> Result<String> {
    refuse_taken(out)?;
    let Loaded { mut config, mut weights } = hf::read_text_model(from)?;
    if config.picture_shapes().iter().all(|(name, _)| weights.find(name).is_some()) {
        width.check(config.image_width(), from)?;
        config.see_pictures(config.image_width());
    } else {
        config.see_pictures(width.or_usual());
        add_random(&mut weights, &*config, config.picture_shapes(), seed::for_torch(seed, "init", ""));
    }
    set_dropout(&mut *config, dropout)?;
    let tokenizer = tokenizer.unwrap_or(from);
    Tokenizer::read(tokenizer, &*config)?;
    hf::write_student(out, &*config, &weights, tokenizer)?;
    Ok(made(out, &*config, &weights))
}

fn set_dropout(config: &mut dyn ModelConfig, dropout: Option<f64>) -> Result<()> {
    let Some(dropout) = dropout else { return Ok(()) };
    if !(0.0..1.0).contains(&dropout) {
        let message = format!("--dropout: expected at least 0 and below 1, found {dropout}");
        return Err(Error::BadInput { message, hint: None });
    }
    config.set_dropout(dropout);
    Ok(())
}

fn refuse_taken(out: &Path) -> Result<()> {
    if out.exists() {
        let message = format!("--out: expected a folder that does not exist yet, found {}", out.display());
        return Err(Error::input(message, "choose another folder, or remove that one"));
    }
    Ok(())
}

fn made(out: &Path, config: &dyn ModelConfig, weights: &Weights) -> String {
    format!(
        "{}: a student of {:.1} million parameters, for image features {} wide",
        out.display(),
        weights.count() as f64 / 1e6,
        config.image_width()
    )
}

/// Width of a new student's image features, and its origin.
#[derive(Debug)]
pub enum FeatureWidth {
    /// Given by flag.
    Asked(i64),
    /// That of the features of a dataset named by the user.
    Of(i64, PathBuf),
    /// That of the features of the only dataset, which was not requested explicitly.
    Found(i64),
    /// Unknown.
    Unknown,
}

impl FeatureWidth {
    /// The width given by flag, else that of the features `vision` of the dataset `data`, else of the only dataset.
    ///
    /// # Errors
    /// If `data` is not a dataset, its features are broken, or the flag contradicts them.
    pub fn choose(flag: Option<i64>, data: Option<&Path>, vision: &str) -> Result<Self> {
        let dataset = match data {
            Some(data) => Some(Dataset::open(data)?),
            None => Dataset::choose(None).ok(),
        };
        let path = dataset.map(|dataset| dataset.vision_path(vision)).filter(|path| path.is_file());
        Ok(match (flag, path) {
            (Some(asked), Some(path)) if data.is_some() => {
                let found = ImageFeatures::width_of(&path)?;
                if asked != found {
                    let path = path.display();
                    return Err(Error::input(
                        format!(
                            "--image-feature-width: expected {found}, the width of {path}, found {asked}"
                        ),
                        "omit the flag to use the width of the features",
                    ));
                }
                Self::Asked(asked)
            }
            (Some(asked), _) => Self::Asked(asked),
            (None, Some(path)) if data.is_some() => Self::Of(ImageFeatures::width_of(&path)?, path),
            (None, Some(path)) => ImageFeatures::width_of(&path).map_or(Self::Unknown, Self::Found),
            (None, None) => Self::Unknown,
        })
    }

    /// The width, or that of vit-large if unknown.
    fn or_usual(&self) -> i64 {
        match self {
            Self::Asked(width) | Self::Of(width, _) | Self::Found(width) => *width,
            Self::Unknown => 1024,
        }
    }

    /// Refuses a checkpoint whose fusion layers have another width than requested.
    fn check(&self, own: i64, folder: &Path) -> Result<()> {
        match self {
            Self::Of(width, path) if *width != own => Err(wrong_width(path, own, *width)),
            Self::Asked(width) if *width != own => Err(Error::input(
                format!(
                    "--image-feature-width: expected {own}, the width of the fusion layers of {}, found {width}",
                    folder.display()
                ),
                "omit the flag, or use a plain T5",
            )),
            _ => Ok(()),
        }
    }
}
