//! Checkpoints read as multimodal T5s.

use std::path::Path;
use trainer::checkpoint::hf;
use trainer::error::Result;
use trainer::model::ModelConfig;
use trainer::model::mm_t5::StudentConfig;
use trainer::nn::weights::Weights;

/// A T5 read from a folder.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: StudentConfig,
    pub(crate) weights: Weights,
}

pub(crate) fn config(of: &dyn ModelConfig) -> StudentConfig {
    of.as_any().downcast_ref::<StudentConfig>().expect("a T5").clone()
}

fn loaded(loaded: hf::Loaded) -> Loaded {
    Loaded { config: config(&*loaded.config), weights: loaded.weights }
}

pub(crate) fn read_student(folder: &Path) -> Result<Loaded> {
    hf::read_student(folder).map(loaded)
}

pub(crate) fn read_t5(folder: &Path) -> Result<Loaded> {
    hf::read_text_model(folder).map(loaded)
}
