//! Image features by problem: one float16 tensor [patches, width] for each problem with a picture.

use crate::error::{Error, Result};
use crate::student::checkpoint::map_file;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
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
}

impl ImageFeatures {
    /// Features of a student that sees no pictures: one zero row, which the attention cannot tell from many.
    pub fn none(width: i64) -> Self {
        Self { map: None, index: BTreeMap::new(), patches: 1, width }
    }

    /// Opens a features file for a student that expects `width` numbers a patch.
    ///
    /// # Errors
    /// Where the file is missing or broken, or its tensors are not float16 [patches, width], all alike.
    pub fn open(path: &Path, width: i64) -> Result<Self> {
        let map = map_file(path)?;
        let wrong = |message: String| Error::Features { path: path.to_path_buf(), message };
        let mut index = BTreeMap::new();
        let mut patches = None;
        {
            let file =
                SafeTensors::deserialize(&map).map_err(|e| wrong(format!("no safetensors file: {e}")))?;
            for (id, view) in file.tensors() {
                let expected = patches.unwrap_or_else(|| view.shape().first().copied().unwrap_or_default());
                let fits =
                    view.dtype() == Dtype::F16 && view.shape() == [expected, width as usize] && expected > 0;
                if !fits {
                    let found = format!("{:?} {:?}", view.dtype(), view.shape());
                    return Err(wrong(format!(
                        "problem `{id}`: expected F16 [{expected}, {width}], found {found}"
                    )));
                }
                patches = Some(expected);
                let offset = view.data().as_ptr() as usize - map.as_ptr() as usize;
                index.insert(id, (offset, view.data().len()));
            }
        }
        let patches =
            patches.ok_or_else(|| wrong("expected features of at least one problem, found none".into()))?;
        Ok(Self { map: Some(map), index, patches: patches as i64, width })
    }

    /// Whether the problem's picture is there.
    pub fn has(&self, problem_id: &str) -> bool {
        self.index.contains_key(problem_id)
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True where no picture is there.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Features of these problems, float32 [problems, patches, width]; zeros where there is no picture.
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

/// Writes a features file: problem id → [patches, width].
///
/// # Errors
/// Where the disk refuses.
pub fn write(path: &Path, features: &BTreeMap<String, Tensor>, encoder: &str) -> Result<()> {
    let data: Vec<(&str, Vec<usize>, Vec<u8>)> = features
        .iter()
        .map(|(id, tensor)| {
            let half = tensor.to_device(Device::Cpu).to_kind(Kind::Half).contiguous();
            let mut bytes = vec![0u8; half.numel() * 2];
            half.copy_data_u8(&mut bytes, half.numel());
            (id.as_str(), half.size().iter().map(|&size| size as usize).collect(), bytes)
        })
        .collect();
    let wrong = |e: safetensors::SafeTensorError| Error::Features {
        path: PathBuf::from(path),
        message: e.to_string(),
    };
    let views: Vec<(&str, TensorView<'_>)> = data
        .iter()
        .map(|(id, shape, bytes)| TensorView::new(Dtype::F16, shape.clone(), bytes).map(|view| (*id, view)))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    let metadata = [("ares.encoder".to_owned(), encoder.to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    Ok(schemas::table::write_bytes(path, &bytes)?)
}
