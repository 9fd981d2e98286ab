//! The files that hold a checkpoint's weights: safetensors or PyTorch's pickles, alone or in shards.

use crate::error::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use schemas::file::refuse_lfs_pointer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// File of the weights within a checkpoint.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// File of an adapter's matrices within its folder.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

const PICKLE_FILE: &str = "pytorch_model.bin";

/// Weights of a folder, with the problems found.
pub(crate) struct Found {
    /// File to name in errors.
    pub(crate) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) problems: Vec<String>,
}

/// Reads all weights of a folder as float32.
pub(crate) fn read_folder(folder: &Path) -> Result<Found> {
    let files = weight_files(folder)?;
    let path = match files.as_slice() {
        [single] => single.clone(),
        _ => folder.join(WEIGHTS_FILE),
    };
    let mut found = Found { path, tensors: BTreeMap::new(), problems: Vec::new() };
    let mut origins: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let is_pickle = file.extension().is_some_and(|extension| extension == "bin");
        let tensors = if is_pickle { read_pickle(&file)? } else { read_safetensors(&file)? };
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (name, tensor) in tensors {
            if let Some(other) = origins.insert(name.clone(), file.clone()) {
                found.problems.push(format!("{name}: expected in one file, found in {other} and {file}"));
            }
            found.tensors.insert(name, tensor);
        }
    }
    found.problems.extend(check_numbers(&mut found.tensors));
    Ok(found)
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for name in [WEIGHTS_FILE, PICKLE_FILE] {
        let (single, index) = (folder.join(name), folder.join(format!("{name}.index.json")));
        if single.is_file() {
            return Ok(vec![single]);
        }
        if index.is_file() {
            return shards(folder, index);
        }
    }
    let mut message =
        "expected a checkpoint with model.safetensors (or pytorch_model.bin, alone or in shards), found none"
            .to_owned();
    if folder.join(ADAPTER_FILE).is_file() {
        message += ", but an adapter; next: train merge writes it as a whole checkpoint";
    }
    Err(Error::Checkpoint { path: folder.to_path_buf(), message })
}

fn shards(folder: &Path, index: PathBuf) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = read_json(&index)?;
    let mut names: Vec<String> = weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        let message = format!("expected file names in this folder, found `{name}`");
        return Err(Error::Checkpoint { path: index, message });
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Bytes read at a time, so that a file and its tensors are never in memory together.
const BYTES_AT_ONCE: usize = 1 << 22;

/// Reads all tensors of a file, floats as float32 on the CPU.
///
/// # Errors
/// If the file is missing, is not a safetensors file, or holds numbers of another kind.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut file = TensorFile::open(path)?;
    let mut in_order: Vec<(String, (usize, usize))> =
        file.header.tensors().into_iter().map(|(name, info)| (name, info.data_offsets)).collect();
    in_order.sort_by_key(|(_, place)| *place);
    let mut tensors = BTreeMap::new();
    for (name, _) in in_order {
        if let Some(tensor) = file.read(&name)? {
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// An open safetensors file, whose tensors are read one by one.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the numbers begin.
    start: u64,
}

impl TensorFile {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is missing, or is not a safetensors file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        refuse_lfs_pointer(path)?;
        let file = File::open(path).map_err(Error::io("open", path))?;
        let (size, header) = SafeTensors::read_metadata(&map(&file, path)?).map_err(|e| {
            let message = format!("not a safetensors file: {e}");
            Error::Checkpoint { path: path.to_path_buf(), message }
        })?;
        let start = (size_of::<u64>() + size) as u64; // the header's length precedes it
        Ok(Self { path: path.to_path_buf(), file, header, start })
    }

    /// A line of its metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<&String> {
        self.header.metadata().as_ref().and_then(|metadata| metadata.get(key))
    }

    /// Number of elements of each floating-point tensor, by name.
    pub(crate) fn lengths(&self) -> BTreeMap<String, usize> {
        let all = self.header.tensors().into_iter();
        let floats = all.filter(|(_, info)| kind(info.dtype).is_some_and(|(kind, _)| kind != Kind::Int64));
        floats.map(|(name, info)| (name, info.shape.iter().product())).collect()
    }

    /// A tensor; floats become float32, integers are unchanged. `None` if there is none of this name.
    ///
    /// # Errors
    /// If it cannot be read, or holds numbers of another kind.
    pub(crate) fn read(&mut self, name: &str) -> Result<Option<Tensor>> {
        let Some(info) = self.header.info(name) else { return Ok(None) };
        read_tensor(&mut self.file, self.start, info).map(Some).map_err(|failed| match failed {
            Failed::Kind(found) => Error::Checkpoint {
                path: self.path.clone(),
                message: format!("tensor `{name}`: expected F32, F16, BF16, F64 or I64, found {found:?}"),
            },
            Failed::Shape(error) => Error::Checkpoint {
                path: self.path.clone(),
                message: format!("tensor `{name}` of shape {:?}: {}", info.shape, first_line(&error)),
            },
            Failed::Io(error) => Error::io("read", &self.path)(error),
        })
    }
}

/// libtorch's dtype, and its size in bytes.
fn kind(dtype: Dtype) -> Option<(Kind, usize)> {
    match dtype {
        Dtype::F32 => Some((Kind::Float, 4)),
        Dtype::F16 => Some((Kind::Half, 2)),
        Dtype::BF16 => Some((Kind::BFloat16, 2)),
        Dtype::F64 => Some((Kind::Double, 8)),
        Dtype::I64 => Some((Kind::Int64, 8)),
        _ => None,
    }
}

enum Failed {
    Kind(Dtype),
    Shape(TchError),
    Io(std::io::Error),
}

/// What libtorch says, without the stack that follows.
fn first_line(error: &TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Reads one tensor; floats become float32, integers are unchanged.
fn read_tensor(file: &mut File, start: u64, info: &TensorInfo) -> Result<Tensor, Failed> {
    let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
    let (kind, bytes) = kind(info.dtype).ok_or(Failed::Kind(info.dtype))?;
    let (first, end) = info.data_offsets;
    file.seek(SeekFrom::Start(start + first as u64)).map_err(Failed::Io)?;
    // A tensor without numbers may have any shape in the file, also one that no tensor can have.
    let options = (if kind == Kind::Int64 { kind } else { Kind::Float }, Device::Cpu);
    let whole = Tensor::f_empty(&shape, options).map_err(Failed::Shape)?;
    let flat = whole.view(-1);
    let mut buffer = vec![0; BYTES_AT_ONCE.min(end - first)];
    let mut done = 0;
    while first + done < end {
        let count = buffer.len().min(end - first - done);
        file.read_exact(&mut buffer[..count]).map_err(Failed::Io)?;
        let (place, numbers) = ((done / bytes) as i64, (count / bytes) as i64);
        let read = Tensor::from_data_size(&buffer[..count], &[numbers], kind);
        flat.narrow(0, place, numbers).copy_(&read);
        done += count;
    }
    Ok(whole)
}

/// Reads the state dict of a `torch.save` file, floats as float32 on the CPU.
///
/// Uses libtorch's own reader, which builds tensors and lists but never runs Python code.
///
/// # Errors
/// If the file is missing, or libtorch cannot read it; the message says how to convert it. If a tensor is quantized.
pub fn read_pickle(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let convert = |found: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let target = name.strip_suffix(".bin").unwrap_or(&name).replace("pytorch_model", "model");
        let message = format!(
            "expected a dict of tensors in a zip, as save_pretrained writes it, found {found}; convert it \
             once with: python -c \"import torch, safetensors.torch as s; w = torch.load('{name}', \
             map_location='cpu', weights_only=True); s.save_file({{k: v.clone().contiguous() for k, v in \
             w.items()}}, '{target}.safetensors')\""
        );
        Error::Checkpoint { path: path.to_path_buf(), message }
    };
    let bytes = map_file(path)?;
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err(convert("no zip"));
    }
    // A zip ends with its end-of-central-directory record. libtorch's reader crashes on a truncated file.
    let end = bytes.len().checked_sub(22).and_then(|start| bytes.get(start..start + 4));
    if end != Some(b"PK\x05\x06") {
        let message = "expected a complete zip, found a truncated one; copy or download it again".into();
        return Err(Error::Checkpoint { path: path.to_path_buf(), message });
    }
    let named = Tensor::loadz_multi(path)
        .map_err(|error| convert(&format!("something else (libtorch: {})", first_line(&error))))?;
    let read = |(name, tensor): (String, Tensor)| {
        let wrong = |message: String| Error::Checkpoint {
            path: path.to_path_buf(),
            message: format!("tensor `{name}`: {message}"),
        };
        // The other operations panic on these.
        let other = match tensor.f_kind() {
            Ok(Kind::QInt8 | Kind::QUInt8 | Kind::QInt32) => Some("a quantized tensor"),
            Ok(_) => None,
            Err(_) => Some("a tensor of an unknown kind, such as a quantized one"),
        };
        if let Some(found) = other {
            return Err(wrong(format!(
                "expected floating-point numbers, found {found}; use the unquantized checkpoint"
            )));
        }
        let tensor = owned(&tensor).map_err(|error| wrong(first_line(&error)))?;
        Ok((name, tensor))
    };
    named.into_iter().map(read).collect()
}

/// A tensor of its own, floats as float32: tensors that share storage become independent.
fn owned(tensor: &Tensor) -> Result<Tensor, TchError> {
    let tensor = tensor.f_detach()?;
    let tensor = if tensor.f_is_floating_point()? { tensor.f_to_kind(Kind::Float)? } else { tensor };
    let tensor = tensor.f_contiguous()?;
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(&tensor)?;
    Ok(copy)
}

/// A line of a safetensors file's metadata; `None` if there is no such line, or no file.
///
/// # Errors
/// If the file is broken.
pub(crate) fn metadata_of(path: &Path, key: &str) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let map = map_file(path)?;
    let (_, header) = SafeTensors::read_metadata(&map)
        .map_err(|e| Error::Checkpoint { path: path.to_path_buf(), message: e.to_string() })?;
    Ok(header.metadata().as_ref().and_then(|metadata| metadata.get(key)).cloned())
}

/// Reads a JSON file of a checkpoint.
///
/// # Errors
/// If it is missing or not as expected: the message names the key.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse_json(path, &read_text(path)?)
}

/// Reads a file of text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    refuse_lfs_pointer(path)?;
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Reads JSON, the contents of the file at `path`.
///
/// # Errors
/// If it is no JSON, or of other fields; the message says which.
pub fn parse_json<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut reader);
    read.map_err(|error| {
        let (key, inner) = (error.path().to_string(), error.inner());
        let message = if key == "." { inner.to_string() } else { format!("{key}: {inner}") };
        Error::Checkpoint { path: path.to_path_buf(), message }
    })
}

/// Maps a file into memory.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    refuse_lfs_pointer(path)?;
    map(&File::open(path).map_err(Error::io("open", path))?, path)
}

#[allow(unsafe_code)]
fn map(file: &File, path: &Path) -> Result<Mmap> {
    // SAFETY: checkpoints and features are replaced atomically, never changed in place.
    unsafe { Mmap::map(file) }.map_err(Error::io("map", path))
}

/// Problems with the numbers; afterwards all are float32, so that comparing them cannot fail.
pub(crate) fn check_numbers(tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, tensor) in tensors {
        if tensor.kind() != Kind::Float {
            problems.push(format!("{name}: expected floating-point numbers, found {:?}", tensor.kind()));
            *tensor = tensor.to_kind(Kind::Float);
        } else if !is_finite(tensor) {
            problems.push(format!("{name}: expected finite numbers, found NaN or infinity"));
        }
    }
    problems
}

/// Whether no number is NaN or infinite. A few numbers at a time, since libtorch sums in a copy of all.
fn is_finite(tensor: &Tensor) -> bool {
    let flat = no_grad(|| tensor.contiguous().view(-1));
    let (total, at_once) = (flat.size()[0], (BYTES_AT_ONCE / size_of::<f32>()) as i64);
    (0..total).step_by(at_once as usize).all(|start| {
        let numbers = flat.narrow(0, start, at_once.min(total - start));
        numbers.sum(Kind::Double).double_value(&[]).is_finite()
    })
}

/// Weights that are missing, unexpected or of another shape.
pub(crate) fn compare(
    expected: &BTreeMap<String, Vec<i64>>,
    found: &BTreeMap<String, Tensor>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, shape) in expected {
        match found.get(name) {
            None => problems.push(format!("{name}: expected shape {shape:?}, found no such weight")),
            Some(tensor) if &tensor.size() != shape => {
                problems.push(format!("{name}: expected shape {shape:?}, found {:?}", tensor.size()));
            }
            Some(_) => {}
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        problems.push(format!("{name}: expected no such weight, found shape {:?}", found[name].size()));
    }
    problems
}
