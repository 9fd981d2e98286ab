//! Image features by problem: one float16 tensor [patches, width] for each problem with a picture.

use crate::checkpoint::weight_files::{map_file, metadata_of};
use crate::error::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use schemas::file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// A memory-mapped features file; the safetensors header is the index by problem id.
#[derive(Debug)]
pub struct ImageFeatures {
    map: Option<Mmap>,
    /// problem id → byte range.
    index: BTreeMap<String, (usize, usize)>,
    patches: i64,
    width: i64,
    identity: String,
}

impl ImageFeatures {
    /// Features of a student without pictures: one zero row, equivalent to many for the attention.
    pub fn none(width: i64) -> Self {
        Self { map: None, index: BTreeMap::new(), patches: 1, width, identity: "none".into() }
    }

    /// Opens a features file for a student that expects `width` numbers per patch.
    ///
    /// # Errors
    /// If the file is missing or broken, its tensors are not float16 [patches, width], of equal shape, or they are of
    /// another width.
    pub fn open(path: &Path, width: i64) -> Result<Self> {
        let map = map_file(path)?;
        let wrong = |message: String| Error::Features { path: path.to_path_buf(), message };
        let mut index = BTreeMap::new();
        let mut shape: Option<[usize; 2]> = None;
        {
            let file =
                SafeTensors::deserialize(&map).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
            for (id, view) in file.tensors() {
                let found = || format!("{:?} {:?}", view.dtype(), view.shape());
                let (Dtype::F16, &[patches, found_width]) = (view.dtype(), view.shape()) else {
                    return Err(wrong(format!(
                        "problem `{id}`: expected F16 [patches, width], found {}",
                        found()
                    )));
                };
                let expected = *shape.get_or_insert([patches, found_width]);
                if expected != [patches, found_width] || patches == 0 {
                    return Err(wrong(format!(
                        "problem `{id}`: expected F16 {expected:?}, found {}",
                        found()
                    )));
                }
                let offset = view.data().as_ptr() as usize - map.as_ptr() as usize;
                index.insert(id, (offset, view.data().len()));
            }
        }
        let [patches, found] =
            shape.ok_or_else(|| wrong("expected features of at least one problem, found none".into()))?;
        if found as i64 != width {
            return Err(wrong_width(path, width, found as i64));
        }
        let identity = identity_of(&map, path);
        Ok(Self { map: Some(map), index, patches: patches as i64, width, identity })
    }

    /// Identifies these features: the file's recorded identity, else its size and time.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Width of a features file, from its header alone.
    ///
    /// # Errors
    /// If the file is missing or broken.
    pub fn width_of(path: &Path) -> Result<i64> {
        let map = map_file(path)?;
        let wrong = |message: String| Error::Features { path: path.to_path_buf(), message };
        let (_, header) =
            SafeTensors::read_metadata(&map).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
        let width = header.tensors().values().next().and_then(|tensor| tensor.shape.last().copied());
        width
            .map(|width| width as i64)
            .ok_or_else(|| wrong("expected features of at least one problem, found none".into()))
    }

    /// Whether there are features of the problem's picture.
    pub fn has(&self, problem_id: &str) -> bool {
        self.index.contains_key(problem_id)
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True if there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Features of these problems, float32 [problems, patches, width]; zeros if there is no picture.
    pub fn batch(&self, problem_ids: &[&str], device: Device) -> Tensor {
        let rows: Vec<Tensor> = problem_ids
            .iter()
            .map(|id| match (self.index.get(*id), &self.map) {
                (Some(&(offset, length)), Some(map)) => Tensor::from_data_size(
                    &map[offset..offset + length],
                    &[self.patches, self.width],
                    Kind::Half,
                ),
                _ => Tensor::zeros([self.patches, self.width], (Kind::Half, Device::Cpu)),
            })
            .collect();
        Tensor::stack(&rows, 0).to_device(device).to_kind(Kind::Float)
    }
}

/// Value of `student.vision` for a student without pictures.
pub(crate) const NO_PICTURES: &str = "none";

/// The name under which features are written, from `student.vision`.
///
/// # Errors
/// If that says that there are none.
pub(crate) fn name_of(vision: &str) -> Result<&str> {
    if vision == NO_PICTURES {
        return Err(Error::input(
            "student.vision: expected a name for the features, found `none`, which means a student without pictures",
            "leave out --vision none, or give the features another name",
        ));
    }
    Ok(vision)
}

/// Features of another width than the student's.
pub(crate) fn wrong_width(path: &Path, expected: i64, found: i64) -> Error {
    Error::input(
        format!(
            "{}: expected features {expected} wide, as the student takes them, found {found}",
            path.display()
        ),
        format!(
            "make a student for these features (train init --image-feature-width {found}), or other features"
        ),
    )
}

/// Writes a features file: problem id → [patches, width], of equal shape.
///
/// # Errors
/// If the write fails.
pub fn write(path: &Path, features: &BTreeMap<String, Tensor>, encoder: &str) -> Result<()> {
    let Some([patches, width]) = features.values().next().map(|first| first.size()).as_deref().map(sizes)
    else {
        let message = "expected features of at least one problem, found none".into();
        return Err(Error::Features { path: path.to_path_buf(), message });
    };
    let ids = features.keys().map(String::as_str);
    let mut writer = FeatureWriter::create(path, ids, patches, width, (encoder, encoder))?;
    features.values().try_for_each(|row| writer.push(row))?;
    writer.finish()
}

fn sizes(shape: &[i64]) -> [usize; 2] {
    match shape {
        [patches, width] => [*patches as usize, *width as usize],
        _ => [0, 0],
    }
}

/// Key of the metadata for a file's identity: a hash of everything its numbers depend on.
const IDENTITY: &str = "ares.identity";

/// Writes a features file picture by picture, under a temporary name until it is complete.
#[derive(Debug)]
pub struct FeatureWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
    shape: [i64; 2],
    waiting: usize,
    written: usize,
    /// Records how much of an interrupted file is on disk, and its identity.
    kept: Option<(PathBuf, String)>,
}

/// The sidecar of an incomplete file.
#[derive(Serialize, Deserialize)]
struct Kept {
    identity: String,
    /// Problems whose features were on disk.
    written: usize,
}

/// Name of the trial network in a features file.
pub const TRIAL: &str = "trial network (random weights)";

/// Key of the metadata for the name of the network.
const ENCODER: &str = "ares.encoder";

/// Key of the metadata for a hash of the network alone.
const NETWORK: &str = "ares.network";

/// Refuses to replace features of another network, or of an unknown one; those of the trial network may be replaced.
///
/// # Errors
/// If there are such features.
pub(crate) fn refuse_others(path: &Path, network: &str) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let (made_by, found) = (metadata_of(path, ENCODER)?, metadata_of(path, NETWORK)?);
    if found.as_deref() == Some(network) || made_by.as_deref() == Some(TRIAL) {
        return Ok(());
    }
    let made_by = found.and(made_by).unwrap_or_else(|| "an unknown network".into());
    Err(Error::input(
        format!(
            "{}: features of {made_by} already exist, and another network would replace them",
            path.display()
        ),
        "to replace them: the same command with --replace; to keep both, give these another name (--vision NAME)",
    ))
}

/// Whether a complete features file has this identity.
pub(crate) fn is_of(path: &Path, identity: &str) -> bool {
    map_file(path).is_ok_and(|map| told_identity(&map).is_some_and(|found| found == identity))
}

/// Identifies the features in a file, as [`ImageFeatures::identity`].
///
/// # Errors
/// If it cannot be read.
pub(crate) fn identity_at(path: &Path) -> Result<String> {
    Ok(identity_of(&map_file(path)?, path))
}

fn told_identity(bytes: &[u8]) -> Option<String> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    header.metadata().as_ref()?.get(IDENTITY).cloned()
}

fn identity_of(bytes: &[u8], path: &Path) -> String {
    told_identity(bytes).unwrap_or_else(|| {
        let time = std::fs::metadata(path).and_then(|file| file.modified()).ok();
        format!("{} bytes of {time:?}", bytes.len())
    })
}

impl FeatureWriter {
    /// Starts a file for these problems, whose features must come in the same order.
    ///
    /// # Errors
    /// If the write fails.
    pub fn create<'a>(
        path: &Path,
        ids: impl IntoIterator<Item = &'a str>,
        patches: usize,
        width: usize,
        (encoder, network): (&str, &str),
    ) -> Result<Self> {
        let metadata = serde_json::json!({ ENCODER: encoder, NETWORK: network });
        let (header, waiting) = header(ids, [patches, width], metadata);
        let temporary = file::beside(path)?;
        forget(&temporary.with_extension("json"))?;
        let file = start(&temporary, &header)?;
        let shape = [patches as i64, width as i64];
        let path = path.to_path_buf();
        Ok(Self { path, temporary, file: Some(file), shape, waiting, written: 0, kept: None })
    }

    /// As [`FeatureWriter::create`], but continues an interrupted file of the same `identity` from the last
    /// [`FeatureWriter::keep`]: see [`FeatureWriter::written`].
    ///
    /// # Errors
    /// If the write fails.
    pub fn resume<'a>(
        path: &Path,
        ids: impl IntoIterator<Item = &'a str>,
        [patches, width]: [usize; 2],
        (encoder, network): (&str, &str),
        identity: &str,
    ) -> Result<Self> {
        let metadata = serde_json::json!({ ENCODER: encoder, NETWORK: network, IDENTITY: identity });
        let (header, total) = header(ids, [patches, width], metadata);
        let temporary = file::beside(path)?;
        let kept = temporary.with_extension("json");
        let found: Option<Kept> =
            std::fs::read(&kept).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let written = found.filter(|found| found.identity == identity).map_or(0, |found| found.written);
        let end = 8 + header.len() as u64 + (written * patches * width * 2) as u64;
        let whole = std::fs::metadata(&temporary).is_ok_and(|file| file.len() >= end);
        // The network's folder may have another name now, which is part of the header.
        let whole = whole && begins_with(&temporary, &header);
        let written = if whole && written <= total { written } else { 0 };
        let file = if written == 0 {
            forget(&kept)?; // the file it described no longer exists
            start(&temporary, &header)?
        } else {
            let mut file =
                File::options().write(true).open(&temporary).map_err(Error::io("open", &temporary))?;
            let placed = file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0)));
            placed.map_err(Error::io("write", &temporary))?;
            BufWriter::new(file)
        };
        let (shape, waiting) = ([patches as i64, width as i64], total - written);
        let path = path.to_path_buf();
        Ok(Self {
            path,
            temporary,
            file: Some(file),
            shape,
            waiting,
            written,
            kept: Some((kept, identity.to_owned())),
        })
    }

    /// Problems whose features have been written.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Flushes everything so far, for [`FeatureWriter::resume`].
    ///
    /// # Errors
    /// If the write fails.
    pub fn keep(&mut self) -> Result<()> {
        let (Some(file), Some((kept, identity))) = (&mut self.file, &self.kept) else { return Ok(()) };
        let synced = file.flush().and_then(|()| file.get_ref().sync_data());
        synced.map_err(Error::io("write", &self.temporary))?;
        let text = serde_json::json!(Kept { identity: identity.clone(), written: self.written });
        file::write_bytes(kept, text.to_string().as_bytes())?;
        Ok(())
    }

    /// Adds the next problem's features [patches, width].
    ///
    /// # Errors
    /// If they have another shape, or the write fails.
    pub fn push(&mut self, features: &Tensor) -> Result<()> {
        let wrong = |message: String| Error::Features { path: self.path.clone(), message };
        if features.size() != self.shape || self.waiting == 0 {
            let (expected, found) = (self.shape, features.size());
            let waiting = self.waiting;
            return Err(wrong(format!(
                "expected {waiting} more of shape {expected:?}, found one of {found:?}"
            )));
        }
        let half = features.to_device(Device::Cpu).to_kind(Kind::Half).contiguous();
        if half.isfinite().all().int64_value(&[]) == 0 {
            let place = self.written;
            return Err(wrong(format!(
                "problem {place} of the file: expected numbers within float16's range, found others"
            )));
        }
        let mut bytes = vec![0u8; half.numel() * 2];
        half.copy_data_u8(&mut bytes, half.numel());
        (self.waiting, self.written) = (self.waiting - 1, self.written + 1);
        match &mut self.file {
            Some(file) => file.write_all(&bytes).map_err(Error::io("write", &self.temporary)),
            None => Ok(()),
        }
    }

    /// Publishes the file, synced to disk.
    ///
    /// # Errors
    /// If features are missing, or the write fails; then nothing appears.
    pub fn finish(mut self) -> Result<()> {
        if self.waiting > 0 {
            let message = format!("expected features of {} more problems, found none", self.waiting);
            return Err(Error::Features { path: self.path.clone(), message });
        }
        if let Some(file) = &mut self.file {
            let written = file.flush().and_then(|()| file.get_ref().sync_all());
            written.map_err(Error::io("write", &self.temporary))?;
        }
        file::put(&self.temporary, &self.path)?;
        self.file = None;
        self.kept.as_ref().map_or(Ok(()), |(kept, _)| forget(kept))
    }
}

/// The header of a features file, and the number of features.
fn header<'a>(
    ids: impl IntoIterator<Item = &'a str>,
    shape: [usize; 2],
    metadata: serde_json::Value,
) -> (String, usize) {
    let bytes = shape[0] * shape[1] * 2;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), metadata);
    let mut count = 0;
    for id in ids {
        let offsets = [count * bytes, (count + 1) * bytes];
        header.insert(
            id.to_owned(),
            serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": offsets }),
        );
        count += 1;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // The format requires the numbers to begin at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    (header, count)
}

/// Whether a file has this header.
fn begins_with(path: &Path, header: &str) -> bool {
    let mut found = vec![0; 8 + header.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut found));
    read.is_ok() && found[..8] == (header.len() as u64).to_le_bytes() && &found[8..] == header.as_bytes()
}

/// Removes a file that may not exist.
fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A new file with its header.
fn start(temporary: &Path, header: &str) -> Result<BufWriter<File>> {
    let file = File::create(temporary).map_err(Error::io("create", temporary))?;
    let mut file = BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(header.as_bytes()))
        .map_err(Error::io("write", temporary))?;
    Ok(file)
}

impl Drop for FeatureWriter {
    fn drop(&mut self) {
        let goes_on = self.kept.as_ref().is_some_and(|(kept, _)| kept.exists());
        if self.file.take().is_some() && !goes_on {
            let _ = std::fs::remove_file(&self.temporary); // the error that led here matters more
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of another name has another length: rows after it would be shifted.
    #[test]
    fn an_unfinished_file_with_another_header_is_started_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("vit.safetensors");
        let resume = |encoder: &str| {
            FeatureWriter::resume(&path, ["a", "b"], [2, 3], (encoder, "network"), "the same").expect("begun")
        };
        let row = || Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        let mut writer = resume("with a longer name");
        writer.push(&row()).expect("written");
        writer.keep().expect("kept");
        std::mem::forget(writer); // killed
        assert_eq!(resume("with a longer name").written(), 1);
        let mut writer = resume("renamed");
        assert_eq!(writer.written(), 0);
        (0..2).for_each(|_| writer.push(&row()).expect("written"));
        writer.finish().expect("published");
        assert_eq!(ImageFeatures::open(&path, 3).expect("whole").len(), 2);
    }
}
