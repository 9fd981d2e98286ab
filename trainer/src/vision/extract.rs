//! `train features`: every picture of a dataset through the vision transformer, once.

use super::features::FeatureWriter;
use super::vit::Vit;
use crate::error::{Error, Result};
use crate::progress::{Progress, check_interrupt};
use schemas::Dataset;
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
    let (mut there, missing): (Vec<_>, Vec<_>) =
        pictures.iter().partition(|(_, path)| dataset.root().join(path).is_file());
    there.sort_unstable();
    if there.is_empty() {
        let message = format!("{}: expected pictures, found none", dataset.images_dir().display());
        return Err(Error::BadInput { message, hint: None });
    }
    let mut progress = Progress::new("features", there.len() as u64);
    let path = dataset.vision_path(name);
    let ids = there.iter().map(|(id, _)| *id);
    let mut writer = FeatureWriter::create(&path, ids, vit.rows(), vit.width() as usize, name)?;
    let mut done = 0;
    for chunk in there.chunks(BATCH) {
        check_interrupt()?;
        let pixels: Vec<Tensor> = chunk
            .iter()
            .map(|(_, path)| vit.read_image(&dataset.root().join(path)))
            .collect::<Result<_>>()?;
        let hidden = no_grad(|| vit.forward(&Tensor::stack(&pixels, 0).to_device(device)));
        (0..chunk.len() as i64).try_for_each(|row| writer.push(&hidden.get(row)))?;
        done += chunk.len();
        progress.set(done as u64, "pictures");
    }
    writer.finish()?;
    let missing = match missing.len() {
        0 => String::new(),
        count => format!("; {count} pictures are missing and have none"),
    };
    Ok(format!("{}: features of {} pictures, {} wide{missing}", path.display(), there.len(), vit.width()))
}
