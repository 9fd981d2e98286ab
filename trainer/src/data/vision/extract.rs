//! `train features`: every picture of a dataset through the vision transformer, once.

use super::features::{FeatureWriter, TRIAL, is_of, refuse_others};
use super::vit::Vit;
use crate::backend::memory::in_batches;
use crate::collective::Group;
use crate::error::{Error, Result};
use crate::train::progress::{Progress, check_interrupt, interrupted};
use schemas::Dataset;
use schemas::number::counted;
use schemas::provenance::{hex, sha256_hex};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use tch::{Device, Tensor, no_grad};

/// Pictures in one pass.
const BATCH: usize = 16;

/// Writes `vision/<name>.safetensors`; pictures whose file is missing are counted in the returned line. Results are flushed
/// every `keep_every`, and an interrupted run is continued; if features of the same network and pictures exist, nothing is
/// done. Features of another network are replaced only if `replace` says so. Several ranks share the pictures, and rank 0
/// writes.
///
/// # Errors
/// If there are features of another network, a picture is broken, there are no pictures at all, the write fails, or a rank has
/// ended.
pub fn extract(
    dataset: &Dataset,
    vit: &Vit,
    name: &str,
    device: Device,
    keep_every: Duration,
    replace: bool,
    group: &Group,
) -> Result<String> {
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
    let path = dataset.vision_path(name);
    let identity = group.agree(identity(dataset, vit, &there))?;
    if let Some(other) = group.gather(identity.clone())?.iter().position(|found| *found != identity) {
        return Err(Error::input(
            format!(
                "ranks differ: rank {other} has another network or other pictures than rank {}",
                group.rank()
            ),
            "all ranks must read the same --vit and the same pictures, for instance from a shared disk",
        ));
    }
    let made_by = if vit.is_trial() {
        format!(", by the {TRIAL}; for real pictures, name a trained one with --vit")
    } else {
        String::new()
    };
    let described = format!(
        "{}: features of {}, {} wide{made_by}",
        path.display(),
        counted(there.len(), "picture"),
        vit.width()
    );
    let missing = match missing.len() {
        0 => String::new(),
        1 => "; 1 picture is missing and has none".to_owned(),
        count => format!("; {} are missing and have none", counted(count, "picture")),
    };
    if is_of(&path, &identity) {
        return Ok(format!("{described}, already exist: nothing to do{missing}"));
    }
    let network = sha256_hex(vit.fingerprint().as_bytes());
    if !replace {
        refuse_others(&path, &network)?;
    }
    let mut progress = Progress::new("features", there.len() as u64);
    let encoder = if vit.is_trial() { TRIAL } else { vit.name() };
    let ids = there.iter().map(|(id, _)| *id);
    let shape = [vit.rows(), vit.width() as usize];
    let mut writer =
        group.on_first(|| FeatureWriter::resume(&path, ids, shape, (encoder, &network), &identity))?;
    let mut kept = Instant::now();
    let written = group.of_first(writer.as_ref().map_or(0, FeatureWriter::written))?;
    progress.set(written as u64, "pictures");
    let due: Vec<&str> = there.iter().skip(written).map(|(_, picture)| *picture).collect();
    // Pictures that all ranks process before they synchronize; a single process takes all at once.
    let together = if group.is_alone() { due.len().max(1) } else { BATCH * group.world() };
    for pictures in due.chunks(together) {
        let mut own = Vec::new();
        let done = in_batches("features", &group.share(pictures, BATCH), BATCH, |pictures| {
            if let Some(writer) = writer.as_mut().filter(|_| interrupted() || kept.elapsed() >= keep_every) {
                writer.keep()?;
                kept = Instant::now();
            }
            check_interrupt()?;
            let pixels: Vec<Tensor> = pictures
                .iter()
                .map(|picture| vit.read_image(&dataset.root().join(picture)))
                .collect::<Result<_>>()?;
            let hidden = no_grad(|| vit.forward(&Tensor::stack(&pixels, 0).to_device(device)));
            let hidden = hidden.to_device(Device::Cpu);
            let rows = (0..pictures.len() as i64).map(|row| hidden.get(row));
            if let Some(writer) = writer.as_mut().filter(|_| group.is_alone()) {
                rows.into_iter().try_for_each(|row| writer.push(&row))?;
                progress.set(writer.written() as u64, "pictures");
            } else {
                own.extend(rows);
            }
            Ok(())
        });
        group.agree(done)?;
        if group.is_alone() {
            continue;
        }
        let rows = group.gather_rows(&own, &[vit.rows() as i64, vit.width()])?;
        let pushed =
            writer.as_mut().map_or(Ok(()), |writer| rows.iter().try_for_each(|row| writer.push(row)));
        group.agree(pushed)?;
        if let Some(writer) = &writer {
            progress.set(writer.written() as u64, "pictures");
        }
    }
    group.agree(writer.map_or(Ok(()), FeatureWriter::finish))?;
    Ok(described + &missing)
}

/// Hash of the network, and of the pictures by id.
fn identity(dataset: &Dataset, vit: &Vit, pictures: &[(&str, &str)]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(vit.fingerprint());
    for (id, picture) in pictures {
        check_interrupt()?;
        let path = dataset.root().join(picture);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        hash.update(format!("\n{} {id}", sha256_hex(&bytes)));
    }
    Ok(hex(&hash.finalize()))
}
