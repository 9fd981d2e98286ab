//! Features from other programs: NumPy's `.npy` with a `name_map.json` (problem id → row), as MM-CoT publishes them.

use super::features::{FeatureWriter, refuse_others};
use crate::checkpoint::weight_files::map_file;
use crate::error::{Error, Result};
use crate::train::progress::{Progress, check_interrupt};
use memmap2::Mmap;
use schemas::Dataset;
use schemas::number::counted;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tch::{Kind, Tensor};

/// A memory-mapped array of features, rows × patches × width.
#[derive(Debug)]
pub struct NpyFeatures {
    map: Mmap,
    /// Where the numbers begin.
    offset: usize,
    kind: Kind,
    rows: usize,
    patches: usize,
    width: usize,
}

impl NpyFeatures {
    /// Opens an array of two or three dimensions; with two, each row is the only patch of its picture. (MM-CoT repeats such a
    /// row 512 times, which is equivalent to one for its attention.)
    ///
    /// # Errors
    /// If the file is missing, is not an array of floats, or is shorter than its shape requires.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let wrong = |message: String| Error::Features { path: path.to_path_buf(), message };
        let (header, offset) = header(&map).map_err(wrong)?;
        let descr = quoted(header, "descr").unwrap_or_default();
        let kind = match descr {
            "<f4" => Kind::Float,
            "<f2" => Kind::Half,
            "<f8" => Kind::Double,
            found => {
                return Err(wrong(format!(
                    "descr: expected little-endian floats (<f2, <f4, <f8), found `{found}`"
                )));
            }
        };
        if value(header, "fortran_order").is_none_or(|order| !order.starts_with("False")) {
            return Err(wrong("fortran_order: expected False; save it with numpy.ascontiguousarray".into()));
        }
        let shape =
            shape(header).ok_or_else(|| wrong(format!("shape: expected numbers, found header {header}")))?;
        let (rows, patches, width) = match shape[..] {
            [rows, width] => (rows, 1, width),
            [rows, patches, width] => (rows, patches, width),
            _ => return Err(wrong(format!("shape: expected [pictures, patches, width], found {shape:?}"))),
        };
        let bytes = [patches, width, kind.elt_size_in_bytes()]
            .iter()
            .try_fold(rows, |product, &size| product.checked_mul(size))
            .filter(|&bytes| bytes > 0)
            .ok_or_else(|| wrong(format!("shape: expected sizes above 0, found {shape:?}")))?;
        let found = map.len() - offset;
        if found != bytes {
            return Err(wrong(format!(
                "expected {shape:?} numbers of {descr}, {bytes} bytes, found {found} bytes"
            )));
        }
        Ok(Self { map, offset, kind, rows, patches, width })
    }

    /// Features of a row: float16 [patches, width].
    fn row(&self, row: usize) -> Tensor {
        let length = self.patches * self.width * self.kind.elt_size_in_bytes();
        let start = self.offset + row * length;
        let shape = [self.patches as i64, self.width as i64];
        Tensor::from_data_size(&self.map[start..start + length], &shape, self.kind).to_kind(Kind::Half)
    }
}

/// Writes `vision/<name>.safetensors` from an array and its name map, row by row: the problems of the dataset that the map
/// names, whether or not they have a picture. Existing features other than the trial network's are replaced only if `replace`
/// is set.
///
/// # Errors
/// If a file is broken, the map names rows that do not exist or no problem of the dataset, or the write fails.
pub fn import(dataset: &Dataset, array: &Path, name_map: &Path, name: &str, replace: bool) -> Result<String> {
    let features = NpyFeatures::open(array)?;
    let rows = read_name_map(name_map)?;
    let problems = dataset.problems()?;
    let known: HashSet<&str> = problems.iter().map(|problem| problem.problem_id.as_str()).collect();
    let all = rows.len();
    let rows: BTreeMap<String, usize> =
        rows.into_iter().filter(|(id, _)| known.contains(id.as_str())).collect();
    let wrong = |path: &Path, message: String| Error::Features { path: path.to_path_buf(), message };
    if rows.is_empty() {
        let message = format!("expected problems of {}, found none among {all}", dataset.root().display());
        return Err(wrong(name_map, message));
    }
    if let Some((id, row)) = rows.iter().find(|(_, row)| **row >= features.rows) {
        let message = format!("problem `{id}`: expected a row below {}, found {row}", features.rows);
        return Err(wrong(name_map, message));
    }
    let path = dataset.vision_path(name);
    let encoder = array.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    // An array does not record its network; the same one may be imported again.
    let network = format!("{encoder}, {} bytes", features.map.len());
    if !replace {
        refuse_others(&path, &network)?;
    }
    let ids = rows.keys().map(String::as_str);
    let mut writer =
        FeatureWriter::create(&path, ids, features.patches, features.width, (&encoder, &network))?;
    let mut progress = Progress::new("features", rows.len() as u64);
    for (done, (id, &row)) in rows.iter().enumerate() {
        check_interrupt()?;
        let row = features.row(row);
        if !row.sum(Kind::Double).double_value(&[]).is_finite() {
            let message = format!("problem `{id}`: expected finite numbers within float16, found others");
            return Err(wrong(array, message));
        }
        writer.push(&row)?;
        progress.set(done as u64 + 1, "pictures");
    }
    writer.finish()?;
    let bare = problems.iter().filter(|p| p.image.is_some() && !rows.contains_key(&p.problem_id)).count();
    let bare = match bare {
        0 => String::new(),
        bare => format!("; without {} that have a picture", counted(bare, "problem")),
    };
    Ok(format!(
        "{}: features of {}, {} patches, {} wide{bare}",
        path.display(),
        counted(rows.len(), "picture"),
        features.patches,
        features.width
    ))
}

/// Row of each problem; numbers may be given as text.
fn read_name_map(path: &Path) -> Result<BTreeMap<String, usize>> {
    let wrong = |message: String| Error::Features { path: path.to_path_buf(), message };
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let map: BTreeMap<String, Value> = serde_json::from_str(&text)
        .map_err(|e| wrong(format!("expected a JSON object, problem id to row: {e}")))?;
    map.into_iter()
        .map(|(id, row)| {
            let number = row.as_u64().or_else(|| row.as_str()?.parse().ok());
            let number = number.and_then(|number| usize::try_from(number).ok());
            number
                .ok_or_else(|| wrong(format!("problem `{id}`: expected the number of a row, found {row}")))
                .map(|number| (id, number))
        })
        .collect()
}

/// The header, a Python dict, and where the numbers begin.
fn header(bytes: &[u8]) -> Result<(&str, usize), String> {
    let other = || {
        "expected a NumPy array (.npy), found something else; convert a .pth once with: python -c \"import \
         torch, numpy; numpy.save('features.npy', torch.load('features.pth', map_location='cpu').float().numpy())\""
            .to_owned()
    };
    if !bytes.starts_with(b"\x93NUMPY") || bytes.len() < 12 {
        return Err(other());
    }
    let (length, start) = match bytes[6] {
        1 => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
        2 | 3 => (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12),
        version => return Err(format!("expected version 1 to 3 of the .npy format, found {version}")),
    };
    let header = bytes
        .get(start..start + length)
        .ok_or_else(|| "expected a complete header, found a truncated one".to_owned())?;
    let header = std::str::from_utf8(header).map_err(|_| other())?;
    Ok((header.trim(), start + length))
}

/// The value of a key of the header.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}':"))?;
    Some(rest.trim_start())
}

fn quoted<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    value(header, key)?.strip_prefix('\'')?.split('\'').next()
}

fn shape(header: &str) -> Option<Vec<usize>> {
    let (inner, _) = value(header, "shape")?.strip_prefix('(')?.split_once(')')?;
    inner.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
}
