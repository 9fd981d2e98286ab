//! `train features`: every picture of a dataset through the vision transformer, once.

use super::features;
use super::vit::Vit;
use crate::error::{Error, Result};
use crate::progress::{Progress, check_interrupt};
use schemas::Dataset;
use std::collections::BTreeMap;
use tch::{Device, Tensor, no_grad};

/// Pictures in one pass.
const BATCH: usize = 16;

/// Writes `vision/<name>.safetensors`; pictures whose file is missing are counted in the line that comes back.
///
/// # Errors
/// Where a picture is broken, no picture is there at all, or the disk refuses.
pub fn extract(dataset: &Dataset, vit: &Vit, name: &str, device: Device) -> Result<String> {
    let problems = dataset.problems()?;
    let pictures: Vec<(&str, &str)> = problems
        .iter()
        .filter_map(|problem| Some((problem.problem_id.as_str(), problem.image.as_deref()?)))
        .collect();
    let (there, missing): (Vec<_>, Vec<_>) =
        pictures.iter().partition(|(_, path)| dataset.root().join(path).is_file());
    if there.is_empty() {
        let message = format!("{}: expected pictures, found none", dataset.images_dir().display());
        return Err(Error::BadInput { message, hint: None });
    }
    let mut progress = Progress::new("features", there.len() as u64);
    let mut features: BTreeMap<String, Tensor> = BTreeMap::new();
    for chunk in there.chunks(BATCH) {
        check_interrupt()?;
        let pixels: Vec<Tensor> = chunk
            .iter()
            .map(|(_, path)| vit.read_image(&dataset.root().join(path)))
            .collect::<Result<_>>()?;
        let hidden = no_grad(|| vit.forward(&Tensor::stack(&pixels, 0).to_device(device)));
        for ((id, _), row) in chunk.iter().zip(0i64..) {
            // float16, so that memory holds the pictures of a whole dataset at half the size.
            let row = hidden.get(row).to_device(Device::Cpu).to_kind(tch::Kind::Half);
            features.insert((*id).to_owned(), row);
        }
        progress.set(features.len() as u64, "pictures");
    }
    let path = dataset.vision_path(name);
    features::write(&path, &features, name)?;
    let missing = match missing.len() {
        0 => String::new(),
        count => format!("; {count} pictures are missing and have none"),
    };
    Ok(format!("{}: features of {} pictures, {} wide{missing}", path.display(), features.len(), vit.width()))
}
